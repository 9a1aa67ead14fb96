// SPDX-License-Identifier: GPL-2.0
/*
 * write.c - buffered writes and writeback
 *
 * A folio remembers which of its bytes are dirty, and only those go to the server: clients that
 * write to different parts of a file do not undo each other's writes.
 */
#include <linux/writeback.h>

#include "internal.h"

/**
 * struct wfs_dirty - folio->private: which bytes of a folio are dirty
 * @writes: WRITEs of the folio that are under way, and one more while they are made
 * @max: room in @range: enough for pages of the folio in any order
 * @nr: ranges; 0 in a dirty folio: who made it dirty has not said where (it had a page pinned), so all of it is
 * @range: bytes of the folio, ascending, with gaps between them
 *
 * The folio's lock protects all but @writes.  It is there as long as the folio is dirty or under writeback.
 */
struct wfs_dirty {
	atomic_t	writes;
	unsigned int	max;
	unsigned int	nr;
	struct {
		u32	from, to;
	} range[] __counted_by(max);
};

#define WFS_FOLIO_TRIES	16	/* to have memory for a folio before others have to do without */
#define WFS_DIRTY_MIN	6u	/* ranges of a page: with them it has 64 bytes */

static int wfs_writeback_folio(struct folio *folio, struct wfs_req **reqp, unsigned int want);
static void wfs_writeback_submit(struct wfs_req *req);

/* ---- what is dirty ---- */

/* That of a locked folio, made when there is none; NULL without memory. */
static struct wfs_dirty *wfs_dirty_get(struct folio *folio, gfp_t gfp)
{
	unsigned int max = max(folio_nr_pages(folio) / 2 + 1, (size_t)WFS_DIRTY_MIN);
	struct wfs_dirty *d = folio_get_private(folio);

	if (d)
		return d;
	d = kzalloc(struct_size(d, range, max), gfp);
	if (d) {
		d->max = max;
		folio_attach_private(folio, d);
	}
	return d;
}

/* There is room for one more range. */
static void wfs_dirty_add(struct wfs_dirty *d, u32 from, u32 to)
{
	unsigned int i, n;

	for (i = 0; i < d->nr && d->range[i].to < from; i++)
		;
	/* those that it touches become one with it */
	for (n = 0; i + n < d->nr && d->range[i + n].from <= to; n++) {
		from = min(from, d->range[i + n].from);
		to = max(to, d->range[i + n].to);
	}
	memmove(d->range + i + 1, d->range + i + n, (d->nr - i - n) * sizeof(d->range[0]));
	d->nr += 1 - n;
	d->range[i].from = from;
	d->range[i].to = to;
}

/*
 * Prepare that bytes of a locked folio become dirty.  A folio that has all the ranges that there is room for is
 * written first.  Return 0 or, with the folio unlocked, -EAGAIN when it has to be looked at again, -ENOMEM, -EINTR
 * when killed, or why it could not be written.
 */
static int wfs_dirty_prepare(struct folio *folio)
{
	struct wfs_dirty *d = wfs_dirty_get(folio, GFP_NOFS);
	struct wfs_req *req = NULL;
	int err;

	if (d && d->nr < d->max)
		return 0;
	if (!d) {
		folio_unlock(folio);
		return -ENOMEM;
	}
	if (folio_test_writeback(folio)) {
		folio_unlock(folio);
		err = folio_wait_writeback_killable(folio);
	} else {
		folio_clear_dirty_for_io(folio);
		err = wfs_writeback_folio(folio, &req, 1);
		wfs_writeback_submit(req);
	}
	return err ?: -EAGAIN;
}

/* After wfs_dirty_prepare(), under the same lock. */
static void wfs_set_dirty(struct folio *folio, size_t from, size_t to)
{
	struct wfs_dirty *d = folio_get_private(folio);

	if (folio_test_dirty(folio) && !d->nr)
		wfs_dirty_add(d, 0, folio_size(folio));
	wfs_dirty_add(d, from, to);
	wfs_unread_used(folio);
	folio_mark_dirty(folio);
}

static void wfs_invalidate_folio(struct folio *folio, size_t offset, size_t length)
{
	if (offset || length != folio_size(folio))
		return;
	wfs_unread_wasted(folio);
	kfree(folio_detach_private(folio));
}

static bool wfs_release_folio(struct folio *folio, gfp_t gfp)
{
	if (folio_test_dirty(folio) || folio_test_writeback(folio))
		return false;
	wfs_unread_wasted(folio);
	kfree(folio_detach_private(folio));
	return true;
}

/* ---- into the page cache ---- */

static bool wfs_no_writes(struct wfs_session *sess, unsigned int phase)
{
	bool none;

	spin_lock(&sess->wb_lock);
	none = !sess->wb_count[phase];
	spin_unlock(&sess->wb_lock);
	return none;
}

/*
 * The folio to write to, with a reference.  Where memory is short because of what has to go to the server first, that is
 * sent and waited for: reclaim does not wait, and would rather have somebody killed, in a small memory cgroup for example.
 */
static struct folio *wfs_write_folio(struct address_space *mapping, pgoff_t index, unsigned int len)
{
	struct wfs_session *sess = wfs_sess(mapping->host->i_sb);
	const fgf_t fgp = FGP_CREAT | FGP_WRITE | FGP_STABLE | FGP_FOR_MMAP | fgf_set_order(len);
	gfp_t gfp = mapping_gfp_mask(mapping);
	struct folio *folio;
	unsigned int i;
	int err;

	for (i = 0; i < WFS_FOLIO_TRIES; i++) {
		folio = __filemap_get_folio(mapping, index, fgp, gfp | __GFP_NORETRY | __GFP_NOWARN);
		if (folio != ERR_PTR(-ENOMEM))
			return folio;
		filemap_flush(mapping);
		if (wfs_no_writes(sess, 0) && wfs_no_writes(sess, 1))
			break;
		err = wfs_wait_writes(sess);
		if (err)
			return ERR_PTR(err);
	}
	return __filemap_get_folio(mapping, index, fgp, gfp);
}

static int wfs_write_begin(struct file *file, struct address_space *mapping, loff_t pos, unsigned int len,
			   struct folio **foliop, void **fsdata)
{
	struct inode *inode = mapping->host;
	loff_t size = i_size_read(inode);
	struct folio *folio;
	size_t from, to;
	int err;

again:
	folio = wfs_write_folio(mapping, pos >> PAGE_SHIFT, len);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	/* its lock may belong to a READ that waits for the server */
	err = folio_lock_killable(folio);
	if (err) {
		folio_put(folio);
		return err;
	}
	if (folio->mapping != mapping) {
		folio_unlock(folio);
		folio_put(folio);
		goto again;
	}
	from = offset_in_folio(folio, pos);
	to = min_t(size_t, from + len, folio_size(folio));
	if (folio_test_uptodate(folio) || (!from && to == folio_size(folio)))
		goto ready;
	/* nothing of the file is in the rest of the folio */
	if (folio_pos(folio) >= size || (!from && folio_pos(folio) + to >= size)) {
		folio_zero_segments(folio, 0, from, to, folio_size(folio));
		goto ready;
	}
	/* the request owns the folio's lock until the data is there */
	err = wfs_read_folio(file, folio);
	if (!err)
		err = folio_lock_killable(folio);
	if (!err) {
		if (folio->mapping != mapping) {
			folio_unlock(folio);
			folio_put(folio);
			goto again;
		}
		if (folio_test_uptodate(folio))
			goto ready;
		folio_unlock(folio);
		err = -EIO;
	}
	folio_put(folio);
	return err;
ready:
	err = wfs_dirty_prepare(folio);
	if (!err) {
		*foliop = folio;
		return 0;
	}
	folio_put(folio);
	if (err == -EAGAIN)
		goto again;
	return err;
}

static int wfs_write_end(struct file *file, struct address_space *mapping, loff_t pos, unsigned int len,
			 unsigned int copied, struct folio *folio, void *fsdata)
{
	struct inode *inode = mapping->host;
	size_t from = offset_in_folio(folio, pos);

	if (!folio_test_uptodate(folio)) {
		/* a short copy leaves a gap that nobody filled */
		if (copied < len)
			copied = 0;
		else
			folio_mark_uptodate(folio);
	}
	if (copied) {
		if (pos + copied > i_size_read(inode))
			i_size_write(inode, pos + copied);
		wfs_set_dirty(folio, from, from + copied);
	}
	folio_unlock(folio);
	folio_put(folio);
	return copied;
}

vm_fault_t wfs_page_mkwrite(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	struct inode *inode = file_inode(vmf->vma->vm_file);
	loff_t pos = (loff_t)vmf->pgoff << PAGE_SHIFT;
	/* for who is killed: a fault that is tried again would be so for ever in the kernel's copy_to_user() */
	vm_fault_t ret = VM_FAULT_SIGBUS;
	size_t from;
	int err;

	if (wfs_check_lock(vmf->vma->vm_file))
		return VM_FAULT_SIGBUS;
	sb_start_pagefault(inode->i_sb);
	/* not while the server changes a part of the file; see range.c */
	if (down_read_killable(&WFS_I(inode)->range_sem))
		goto out;
	if (folio_lock_killable(folio))
		goto out_range;
	if (folio->mapping != inode->i_mapping || pos >= i_size_read(inode)) {
		folio_unlock(folio);
		ret = VM_FAULT_NOPAGE;
		goto out_range;
	}
	err = wfs_dirty_prepare(folio);
	if (err) {
		ret = err == -EAGAIN ? VM_FAULT_NOPAGE : vmf_error(err);
		goto out_range;
	}
	from = offset_in_folio(folio, pos);
	/* a folio of this size is mapped, and made writable, as a whole */
	if (folio_test_pmd_mappable(folio))
		wfs_set_dirty(folio, 0, folio_size(folio));
	else
		wfs_set_dirty(folio, from, from + PAGE_SIZE);
	ret = VM_FAULT_LOCKED;
out_range:
	up_read(&WFS_I(inode)->range_sem);
out:
	sb_end_pagefault(inode->i_sb);
	return ret;
}

/* ---- to the server ---- */

/**
 * wfs_write_req - make a WRITE; the caller sets where the data is, and @len
 * @sess: the session
 * @io: I/O handle with the right to write
 * @cred: who writes
 * @pos: offset in the file
 * @gfp: for the allocation
 */
struct wfs_req *wfs_write_req(struct wfs_session *sess, const struct wfs_fh *io, const struct cred *cred,
			      u64 pos, gfp_t gfp)
{
	struct wfs_write_req *body;
	struct wfs_req *req;

	req = wfs_req_alloc(sess, WFS_OP_WRITE, cred, sizeof(*body), gfp);
	if (!req)
		return NULL;
	body = req->body;
	body->io = *io;
	body->offset = cpu_to_le64(pos);
	req->pos = pos;
	req->splice = true;
	return req;
}

/**
 * wfs_wrote - take over what the reply of a WRITE, or of what is as good as one, says
 * @inode: the file
 * @rep: the reply, without error
 * @start: wfs_req.start
 */
void wfs_wrote(struct inode *inode, const struct wfs_write_rep *rep, u64 start)
{
	wfs_uncommitted(inode, le64_to_cpu(rep->verifier));
	wfs_update_attr_wire(inode, &rep->attr, start, WFS_ATTR_WROTE);
}

/* One of wfs_dirty.writes is over. */
static void wfs_folio_written(struct folio *folio)
{
	struct wfs_dirty *d = folio_get_private(folio);

	if (atomic_dec_and_test(&d->writes))
		folio_end_writeback(folio);
}

/* What was to be written is lost; the file is not what is cached of it, nor as long.  @req: what failed, or NULL. */
static void wfs_write_failed(struct inode *inode, const struct wfs_req *req, int err)
{
	WRITE_ONCE(WFS_I(inode)->write_error, err);
	mapping_set_error(inode->i_mapping, err);
	wfs_changed_unseen(inode, req);
}

/*
 * A WRITE may come to the server behind the CLOSE of who was killed before he could wait for it.  When that was the last one of a
 * deleted file, what the WRITE brings is not missed.
 */
static bool wfs_nobody_reads(struct inode *inode, int err)
{
	return err == -ESTALE && !inode->i_nlink && !atomic_read(&WFS_I(inode)->opens);
}

static void wfs_writeback_done(struct wfs_req *req)
{
	struct address_space *mapping = req->private;
	struct wfs_inode *wi = WFS_I(mapping->host);
	struct wfs_session *sess = req->sess;
	unsigned int i;

	if (req->error && !wfs_nobody_reads(mapping->host, req->error))
		wfs_write_failed(mapping->host, req, req->error);
	else if (!req->error)
		wfs_wrote(mapping->host, (const struct wfs_write_rep *)req->rep, req->start);
	spin_lock(&wi->lock);
	/* of WRITEs that ran side by side nobody knows whose reply tells the last change */
	if (wi->wb_overlap)
		set_bit(WFS_INO_UNSETTLED, &wi->flags);
	if (!--wi->wb_inflight) {
		wi->wb_overlap = false;
		smp_mb();	/* the count is seen by who goes to sleep, or it is seen here that he does */
		wake_up_var(&wi->wb_inflight);
	}
	spin_unlock(&wi->lock);
	/* the last folio lets the inode go, unless the request holds it */
	for (i = 0; i < req->nr_bvec; i++)
		wfs_folio_written(page_folio(req->bvec[i].bv_page));

	spin_lock(&sess->wb_lock);
	if (!--sess->wb_count[req->wb_phase])
		wake_up_all(&sess->wait);
	spin_unlock(&sess->wb_lock);
}

/**
 * wfs_wait_writes - wait for all WRITEs of writeback that are on their way now, but not for later ones
 * @sess: the session
 *
 * Return: 0 or -EINTR when killed.
 */
int wfs_wait_writes(struct wfs_session *sess)
{
	unsigned int old;
	int err;

	if (mutex_lock_killable(&sess->wb_mutex))
		return -EINTR;
	/* none, unless who waited last was killed */
	err = wait_event_killable(sess->wait, wfs_no_writes(sess, !sess->wb_phase));
	if (!err) {
		spin_lock(&sess->wb_lock);
		old = sess->wb_phase;
		sess->wb_phase = !old;
		spin_unlock(&sess->wb_lock);
		err = wait_event_killable(sess->wait, wfs_no_writes(sess, old));
	}
	mutex_unlock(&sess->wb_mutex);
	return err ? -EINTR : 0;
}

static void wfs_writeback_submit(struct wfs_req *req)
{
	struct address_space *mapping;
	struct wfs_inode *wi;

	if (!req)
		return;
	mapping = req->private;
	wi = WFS_I(mapping->host);
	spin_lock(&wi->lock);
	if (wi->wb_inflight++)
		wi->wb_overlap = true;
	spin_unlock(&wi->lock);
	spin_lock(&req->sess->wb_lock);
	req->wb_phase = req->sess->wb_phase;
	req->sess->wb_count[req->wb_phase]++;
	spin_unlock(&req->sess->wb_lock);
	wfs_req_hold(req, mapping->host);
	iov_iter_bvec(&req->src, ITER_SOURCE, req->bvec, req->nr_bvec, req->len);
	req->spread = req->len > WFS_SPREAD_MIN;
	req->complete = wfs_writeback_done;
	wfs_submit(req);
	wfs_req_put(req);
}

/* A request for writeback of @inode from @pos on, or an ERR_PTR. */
static struct wfs_req *wfs_writeback_req(struct inode *inode, u64 pos, unsigned int want)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_inode *wi = WFS_I(inode);
	const struct cred *cred = NULL;
	struct wfs_req *req;
	struct wfs_fh io;

	spin_lock(&wi->lock);
	io = wi->write_io;
	if (wi->write_cred)
		cred = get_cred(wi->write_cred);
	spin_unlock(&wi->lock);
	if (!cred)
		return ERR_PTR(-EBADF);
	req = wfs_write_req(sess, &io, cred, pos, GFP_NOFS);
	put_cred(cred);
	if (!req)
		return ERR_PTR(-ENOMEM);
	wfs_req_bvecs(req, min_t(unsigned int, want, sess->opt.wsize >> PAGE_SHIFT), GFP_NOFS);
	req->private = inode->i_mapping;
	return req;
}

/* Add bytes of a folio that is under writeback to *@reqp.  Return 0 or a negative errno. */
static int wfs_writeback_range(struct folio *folio, u32 from, u32 to, struct wfs_req **reqp, unsigned int want)
{
	struct wfs_dirty *d = folio_get_private(folio);
	struct inode *inode = folio->mapping->host;
	u32 wsize = wfs_sess(inode->i_sb)->opt.wsize;
	loff_t pos = folio_pos(folio) + from;
	struct wfs_req *req = *reqp;

	if (req && (req->nr_bvec == req->max_bvec || req->len + (to - from) > wsize || req->pos + req->len != pos)) {
		wfs_writeback_submit(req);
		req = NULL;
	}
	if (!req) {
		req = wfs_writeback_req(inode, pos, want);
		*reqp = NULL;
		if (IS_ERR(req)) {
			wfs_write_failed(inode, NULL, PTR_ERR(req));
			return PTR_ERR(req);
		}
		*reqp = req;
	}
	atomic_inc(&d->writes);
	bvec_set_folio(&req->bvec[req->nr_bvec++], folio, to - from, from);
	req->len += to - from;
	return 0;
}

/**
 * wfs_writeback_folio - add a folio's dirty bytes to a request
 * @folio: locked, its dirty flag cleared, not under writeback; unlocked on return
 * @reqp: the request that is being filled, or NULL; submitted when what follows does not go on where it ends
 * @want: folios that may follow
 *
 * Return: 0 or a negative errno.
 */
static int wfs_writeback_folio(struct folio *folio, struct wfs_req **reqp, unsigned int want)
{
	/* there is one, unless a page was pinned until after the folio was written and its wfs_dirty freed */
	struct wfs_dirty *d = wfs_dirty_get(folio, GFP_NOFS | __GFP_NOFAIL);
	loff_t left = i_size_read(folio->mapping->host) - folio_pos(folio);
	unsigned int i;
	int err = 0;

	if (!d->nr)
		wfs_dirty_add(d, 0, folio_size(folio));
	/* behind the end of the file there is nothing to write, and nothing that may be seen later */
	if (left < (loff_t)folio_size(folio))
		folio_zero_segment(folio, max(left, 0ll), folio_size(folio));
	/* while we make WRITEs those that have a reply already don't end it */
	atomic_set(&d->writes, 1);
	folio_start_writeback(folio);
	for (i = 0; i < d->nr && d->range[i].from < left && !err; i++)
		err = wfs_writeback_range(folio, d->range[i].from, min_t(loff_t, d->range[i].to, left), reqp, want);
	d->nr = 0;
	/* who has pinned a page may write to it at any time, and make the folio dirty after that */
	if (folio_maybe_dma_pinned(folio))
		wfs_dirty_add(d, 0, folio_size(folio));
	folio_unlock(folio);
	wfs_folio_written(folio);
	return err;
}

static int wfs_writepages(struct address_space *mapping, struct writeback_control *wbc)
{
	struct wfs_req *req = NULL;
	struct folio *folio = NULL;
	int error = 0;

	while ((folio = writeback_iter(mapping, wbc, folio, &error)))
		error = wfs_writeback_folio(folio, &req, clamp(wbc->nr_to_write, 1l, 1024l));
	wfs_writeback_submit(req);
	return error;
}

/**
 * wfs_writeback_begin - have dirty data written, without waiting for that
 * @mapping: the file's
 * @start: first byte
 * @end: last byte
 */
void wfs_writeback_begin(struct address_space *mapping, loff_t start, loff_t end)
{
	struct writeback_control wbc = {
		.sync_mode	= WB_SYNC_NONE,
		.nr_to_write	= LONG_MAX,
		.range_start	= start,
		.range_end	= end,
	};

	filemap_fdatawrite_wbc(mapping, &wbc);
}

/*
 * The same for a task that exits, and that nobody can kill any more: it waits no longer than timeo, and not at all when
 * it was killed.  The data goes on its way by itself.
 */
static int wfs_flush_exiting(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);
	unsigned int round;

	for (round = 0; round < 2; round++) {
		filemap_flush(inode->i_mapping);
		if (wfs_killed())
			return -EINTR;
		if (!wait_var_event_timeout(&wi->wb_inflight, !READ_ONCE(wi->wb_inflight),
					    wfs_timeo(wfs_sess(inode->i_sb))))
			return -ETIMEDOUT;
	}
	return 0;
}

/**
 * wfs_flush - bring all dirty data to the server and wait until it is there
 * @inode: a regular file
 *
 * What could not be written is in the mapping's error, not in what this returns.
 *
 * Return: 0, -EINTR when killed, -ENOMEM, -ETIMEDOUT when the caller exits and could not be killed.
 */
int wfs_flush(struct inode *inode)
{
	struct address_space *mapping = inode->i_mapping;
	unsigned int round;
	int err;

	if (!mapping->nrpages)
		return 0;
	if (current->flags & PF_EXITING)
		return wfs_flush_exiting(inode);
	/*
	 * A folio that is dirty again while its last WRITE is on its way is left out, because the VM would wait
	 * for that one without regard to signals.  When it is over, the folio's turn comes in the second round; if it
	 * is left out of that too, somebody else has started to write it meanwhile.
	 */
	for (round = 0; round < 2 && mapping_tagged(mapping, PAGECACHE_TAG_DIRTY); round++) {
		struct writeback_control wbc = {
			.sync_mode		= WB_SYNC_NONE,
			.tagged_writepages	= 1,
			.nr_to_write		= LONG_MAX,
			.range_end		= LLONG_MAX,
		};

		err = filemap_fdatawrite_wbc(mapping, &wbc);
		if (err == -EINTR || err == -ENOMEM)
			return err;
		err = wfs_wait_writeback(mapping, 0, ULONG_MAX);
		if (err)
			return err;
	}
	return wfs_wait_writeback(mapping, 0, ULONG_MAX);
}

const struct address_space_operations wfs_aops = {
	.read_folio		= wfs_read_folio,
	.readahead		= wfs_readahead,
	.dirty_folio		= filemap_dirty_folio,
	.write_begin		= wfs_write_begin,
	.write_end		= wfs_write_end,
	.writepages		= wfs_writepages,
	.invalidate_folio	= wfs_invalidate_folio,
	.release_folio		= wfs_release_folio,
	.migrate_folio		= filemap_migrate_folio,
};
