// SPDX-License-Identifier: GPL-2.0
/*
 * direct.c - O_DIRECT: data moves between the socket and the caller's own pages
 *
 * An I/O is cut into requests of rsize or wsize that are all sent at once.  The last one that ends completes
 * the kiocb.  The requests pin the pages; so a caller that is killed leaves at once, and the pages stay until
 * the replies have come.  What a process submitted with io_submit(2) is cancelled when it ends, for it waits for that.
 */
#include <linux/aio.h>
#include <linux/mm_types.h>
#include <linux/sched/signal.h>

#include "internal.h"

/**
 * enum wfs_dio_pages - what keeps the pages of a direct I/O
 * @WFS_DIO_BORROWED: the caller, who therefore has to wait: memory of the kernel's own
 * @WFS_DIO_PINNED: a pin: a user's memory
 * @WFS_DIO_REFERENCED: a reference: pages that the kernel gathered, as splice(2) does
 */
enum wfs_dio_pages {
	WFS_DIO_BORROWED,
	WFS_DIO_PINNED,
	WFS_DIO_REFERENCED,
};

/**
 * struct wfs_dio - one direct read or write
 * @lock: protects @end, @error, @unpin
 * @inode: the file; kept by the caller or @iocb, else by each WRITE
 * @iocb: asynchronous only: what to complete, for who has set @claimed
 * @claimed: bit 0: somebody completes @iocb, or has; or the caller was killed and waits no more
 * @file: asynchronous and synchronized (O_DSYNC) only: for the COMMIT; keeps the inode even when it is cancelled
 * @ref: one for the requests, one for a caller that waits
 * @pending: requests on their way, plus one while more are submitted
 * @pos: offset in the file
 * @submitted: bytes from @pos on that requests were sent for
 * @end: bytes from @pos on that were moved without a gap
 * @error: what stopped it at @end, negative errno or 0
 * @write: a write
 * @datasync: with @file: the COMMIT may leave the times out
 * @pages: how the pages are kept
 * @unpin: requests whose pages have to be marked dirty where that may sleep
 * @done: all requests have ended
 * @work: finishes an asynchronous one where that may sleep
 * @cancel: completes a cancelled one
 * @mm: for @cancel: whose memory it is; there as long as @iocb is not complete
 * @uncancelled: on wfs_session.uncancelled, protected by its lock
 */
struct wfs_dio {
	spinlock_t		lock;	/* see above */
	struct inode		*inode;
	struct kiocb		*iocb;
	unsigned long		claimed;
	struct file		*file;
	refcount_t		ref;
	atomic_t		pending;
	loff_t			pos;
	size_t			submitted;
	size_t			end;
	int			error;
	bool			write;
	bool			datasync;
	enum wfs_dio_pages	pages;
	struct list_head	unpin;
	struct completion	done;
	struct work_struct	work;
	struct work_struct	cancel;
	struct mm_struct	*mm;
	struct list_head	uncancelled;
};

/* Let the pages of a request go. */
static void wfs_dio_unpin(struct wfs_dio *dio, struct wfs_req *req, bool dirty)
{
	unsigned int i;

	for (i = 0; i < req->nr_bvec; i++) {
		const struct bio_vec *bv = &req->bvec[i];
		unsigned int n = DIV_ROUND_UP(bv->bv_offset + bv->bv_len, PAGE_SIZE);

		if (dio->pages == WFS_DIO_PINNED)
			unpin_user_page_range_dirty_lock(bv->bv_page, n, dirty);
		else if (dio->pages == WFS_DIO_REFERENCED)
			folio_put_refs(page_folio(bv->bv_page), n);
	}
}

/* Pages that were read into and that writeback cleaned meanwhile have to be made dirty again. */
static void wfs_dio_unpin_rest(struct wfs_dio *dio)
{
	struct wfs_req *req, *next;

	list_for_each_entry_safe(req, next, &dio->unpin, link) {
		list_del_init(&req->link);
		wfs_dio_unpin(dio, req, true);
		wfs_req_put(req);
	}
}

static void wfs_dio_put(struct wfs_dio *dio)
{
	struct wfs_req *req, *next;

	if (!refcount_dec_and_test(&dio->ref))
		return;
	/* there are some only when the caller was killed: then nobody looks at what was read */
	list_for_each_entry_safe(req, next, &dio->unpin, link) {
		list_del_init(&req->link);
		wfs_dio_unpin(dio, req, false);
		wfs_req_put(req);
	}
	kfree(dio);
}

static bool wfs_dio_all_dirty(const struct wfs_req *req)
{
	unsigned int i;

	for (i = 0; i < req->nr_bvec; i++)
		if (!folio_test_dirty(page_folio(req->bvec[i].bv_page)))
			return false;
	return true;
}

/* The end of it for the inode.  Return what the caller gets. */
static ssize_t wfs_dio_finish(struct wfs_dio *dio, struct inode *inode)
{
	ssize_t ret = dio->end ?: dio->error;
	struct address_space *mapping = inode->i_mapping;

	if (dio->write) {
		set_bit(WFS_INO_UNSETTLED, &WFS_I(inode)->flags);
		/* what was read into the page cache meanwhile may be old, also behind what failed */
		if (dio->submitted && mapping->nrpages &&
		    wfs_drop_range(inode, dio->pos >> PAGE_SHIFT, (dio->pos + dio->submitted - 1) >> PAGE_SHIFT,
				   false))
			set_bit(WFS_INO_STALE_DATA, &WFS_I(inode)->flags);
		wfs_end_write(inode);
	}
	inode_dio_end(inode);
	return ret;
}

/* Who gets true completes @dio->iocb. */
static bool wfs_dio_claim(struct wfs_dio *dio)
{
	struct wfs_session *sess;
	unsigned long flags;

	if (test_and_set_bit(0, &dio->claimed))
		return false;
	/* either the entry is seen here, or wfs_dio_cancel() sees the claim */
	if (!list_empty(&dio->uncancelled)) {
		sess = wfs_sess(dio->inode->i_sb);
		spin_lock_irqsave(&sess->uncancelled_lock, flags);
		list_del_init(&dio->uncancelled);
		spin_unlock_irqrestore(&sess->uncancelled_lock, flags);
	}
	return true;
}

/* After wfs_dio_claim(): the requests live on, and nobody looks at how they end but wfs_dio_req_done(). */
static void wfs_dio_give_up(struct wfs_dio *dio)
{
	struct inode *inode = dio->inode;

	if (dio->write) {
		wfs_changed_unseen(inode, NULL);
		wfs_end_write(inode);
	}
	inode_dio_end(inode);
}

/* The requests have ended.  With @dio->file the iocb is not claimed yet. */
static void wfs_dio_complete_async(struct wfs_dio *dio)
{
	struct kiocb *iocb = dio->iocb;
	ssize_t ret;
	int err;

	wfs_dio_unpin_rest(dio);
	ret = wfs_dio_finish(dio, dio->inode);
	if (dio->file) {
		err = ret > 0 ? vfs_fsync_range(dio->file, dio->pos, dio->pos + ret - 1, dio->datasync) : 0;
		fput(dio->file);
		if (!wfs_dio_claim(dio))
			goto out;
		if (err)
			ret = err;
	}
	if (ret > 0)
		iocb->ki_pos += ret;
	/* the cancelling of it is over when this returns */
	iocb->ki_complete(iocb, ret);
out:
	wfs_dio_put(dio);
}

static void wfs_dio_work(struct work_struct *work)
{
	wfs_dio_complete_async(container_of(work, struct wfs_dio, work));
}

static void wfs_dio_cancel_work(struct work_struct *work)
{
	struct wfs_dio *dio = container_of(work, struct wfs_dio, cancel);

	if (wfs_dio_claim(dio)) {
		if (!dio->file)
			wfs_dio_give_up(dio);
		dio->iocb->ki_complete(dio->iocb, -EINTR);
	}
	wfs_dio_put(dio);
}

/* Will nobody look at this memory any more, since whoever has it is gone, or was killed and waits in the kernel? */
static bool wfs_mm_dead(struct mm_struct *mm)
{
	struct task_struct *process, *thread;
	bool dead = true;

	if (!atomic_read(&mm->mm_users))
		return true;
	rcu_read_lock();
	for_each_process_thread(process, thread)
		if (READ_ONCE(thread->mm) == mm && !(thread->flags & PF_KTHREAD) &&
		    !(READ_ONCE(thread->signal->flags) & SIGNAL_GROUP_EXIT))
			dead = false;
	rcu_read_unlock();
	return dead;
}

/* Not where others may wait for the server. */
static void wfs_dio_queue_cancel(struct wfs_dio *dio)
{
	refcount_inc(&dio->ref);
	queue_work(wfs_io_wq, &dio->cancel);
}

/*
 * The process that submitted @iocb by io_submit(2) ends, or does not want it any more: io_cancel(2), io_destroy(2).  In
 * the second case it may use the memory again, while the reply still goes there: so that has to wait.  But the kernel
 * asks only once, and waits for the end of @iocb when the process ends, or at once and also when it is killed.  So it is
 * looked after.  Atomic context.
 */
static int wfs_dio_cancel(struct kiocb *iocb)
{
	struct wfs_dio *dio = iocb->private;
	struct wfs_session *sess = wfs_sess(dio->inode->i_sb);
	unsigned long flags;

	if (!atomic_read(&dio->mm->mm_users)) {
		wfs_dio_queue_cancel(dio);
		return 0;
	}
	spin_lock_irqsave(&sess->uncancelled_lock, flags);
	list_add_tail(&dio->uncancelled, &sess->uncancelled);
	smp_mb();	/* pairs with wfs_dio_claim() */
	if (test_bit(0, &dio->claimed))
		list_del_init(&dio->uncancelled);
	spin_unlock_irqrestore(&sess->uncancelled_lock, flags);
	return -EBUSY;
}

/**
 * wfs_dio_check_uncancelled - cancel what could not be cancelled before, where the process is gone by now
 * @sess: the session
 */
void wfs_dio_check_uncancelled(struct wfs_session *sess)
{
	struct mm_struct *mm = NULL;
	struct wfs_dio *dio, *next;
	bool dead = false;

	spin_lock_irq(&sess->uncancelled_lock);
	list_for_each_entry_safe(dio, next, &sess->uncancelled, uncancelled) {
		if (dio->mm != mm)
			dead = wfs_mm_dead(dio->mm);
		mm = dio->mm;
		if (!dead)
			continue;
		list_del_init(&dio->uncancelled);
		wfs_dio_queue_cancel(dio);
	}
	spin_unlock_irq(&sess->uncancelled_lock);
}

void wfs_dio_init(struct wfs_session *sess)
{
	spin_lock_init(&sess->uncancelled_lock);
	INIT_LIST_HEAD(&sess->uncancelled);
}

/* One of @pending is over. */
static void wfs_dio_dec(struct wfs_dio *dio)
{
	if (!atomic_dec_and_test(&dio->pending))
		return;
	if (!dio->iocb) {
		complete(&dio->done);
		wfs_dio_put(dio);
		return;
	}
	if (!dio->file && !wfs_dio_claim(dio)) {
		wfs_dio_put(dio);
		return;
	}
	/* io_work must not wait for folios or for COMMIT */
	if (dio->file || !list_empty(&dio->unpin) || (dio->write && dio->inode->i_mapping->nrpages)) {
		INIT_WORK(&dio->work, wfs_dio_work);
		queue_work(wfs_dio_wq, &dio->work);
	} else {
		wfs_dio_complete_async(dio);
	}
}

static void wfs_dio_req_done(struct wfs_req *req)
{
	struct wfs_dio *dio = req->private;
	size_t moved = dio->write ? req->len : req->data_len;
	size_t off = req->pos - dio->pos;

	if (!req->error && dio->write)
		wfs_wrote(req->inode, (const struct wfs_write_rep *)req->rep, req->start);
	/* who gives up sets @claimed first, then does the same */
	if (dio->write && (test_bit(0, &dio->claimed) || test_bit(WFS_REQ_LOST, &req->flags)))
		wfs_changed_unseen(req->inode, req);
	spin_lock_bh(&dio->lock);
	if (req->error && off < dio->end) {
		dio->end = off;
		dio->error = req->error;
	} else if (!req->error && off + moved < dio->end && moved < req->len) {
		dio->end = off + moved;
		dio->error = 0;
	}
	if (dio->pages == WFS_DIO_PINNED && !dio->write && !wfs_dio_all_dirty(req)) {
		refcount_inc(&req->ref);
		list_add_tail(&req->link, &dio->unpin);
		spin_unlock_bh(&dio->lock);
	} else {
		spin_unlock_bh(&dio->lock);
		wfs_dio_unpin(dio, req, false);
	}
	wfs_dio_dec(dio);
}

/* Take up to @max bytes of @iter's pages into @req.  Return 0 or a negative errno. */
static int wfs_dio_fill(struct wfs_dio *dio, struct wfs_req *req, struct iov_iter *iter, size_t max)
{
	struct page *stack[WFS_REQ_BVECS];

	wfs_req_bvecs(req, iov_iter_npages(iter, DIV_ROUND_UP(max, PAGE_SIZE) + 1), GFP_KERNEL);
	while (req->len < max && req->nr_bvec < req->max_bvec && iov_iter_count(iter)) {
		unsigned int room = min_t(unsigned int, req->max_bvec - req->nr_bvec, ARRAY_SIZE(stack));
		struct page **pages = stack;
		size_t offset, left;
		ssize_t got;
		unsigned int i;

		got = iov_iter_extract_pages(iter, &pages, max - req->len, room, 0, &offset);
		if (got <= 0)
			return req->len ? 0 : got ?: -EFAULT;
		for (i = 0, left = got; left; i++) {
			size_t len = min_t(size_t, left, PAGE_SIZE - offset);
			struct bio_vec *last = req->nr_bvec ? &req->bvec[req->nr_bvec - 1] : NULL;

			if (last && page_folio(last->bv_page) == page_folio(pages[i]) && !offset &&
			    last->bv_page + (last->bv_offset + last->bv_len) / PAGE_SIZE == pages[i] &&
			    !offset_in_page(last->bv_offset + last->bv_len))
				last->bv_len += len;
			else
				bvec_set_page(&req->bvec[req->nr_bvec++], pages[i], len, offset);
			/* all pages of a folio at once */
			if (dio->pages == WFS_DIO_PINNED && !dio->write && !PageDirty(compound_head(pages[i])))
				set_page_dirty_lock(pages[i]);
			if (dio->pages == WFS_DIO_REFERENCED)
				get_page(pages[i]);
			if (!sendpage_ok(pages[i]))
				req->splice = false;
			left -= len;
			offset = 0;
		}
		req->len += got;
	}
	return 0;
}

/* Cut @iter into requests and submit them. */
static int wfs_dio_submit(struct wfs_dio *dio, struct wfs_file *wf, struct iov_iter *iter)
{
	struct wfs_session *sess = wfs_sess(dio->inode->i_sb);
	u32 max = dio->write ? sess->opt.wsize : sess->opt.rsize;
	bool spread = dio->end > max;
	loff_t pos = dio->pos;
	int err = 0;

	while (iov_iter_count(iter)) {
		struct wfs_req *req;

		req = dio->write ? wfs_write_req(sess, &wf->io, wf->cred, pos, GFP_KERNEL) :
				   wfs_read_req(sess, &wf->io, wf->cred, pos, WFS_LOAD_DIRECT);
		if (!req) {
			err = -ENOMEM;
			break;
		}
		err = wfs_dio_fill(dio, req, iter, max);
		if (err) {
			wfs_req_put(req);
			break;
		}
		if (dio->write) {
			wfs_req_hold(req, dio->inode);
			iov_iter_bvec(&req->src, ITER_SOURCE, req->bvec, req->nr_bvec, req->len);
		} else {
			((struct wfs_read_req *)req->body)->count = cpu_to_le32(req->len);
			iov_iter_bvec(&req->dst, ITER_DEST, req->bvec, req->nr_bvec, req->len);
		}
		pos += req->len;
		req->private = dio;
		req->spread = spread;
		req->complete = wfs_dio_req_done;
		/* the end of a write takes locks of the inode */
		req->any_context = !dio->write;
		req->batch = dio->iocb;
		atomic_inc(&dio->pending);
		wfs_submit(req);
		wfs_req_put(req);
	}
	dio->submitted = pos - dio->pos;
	/* what was not submitted is not moved */
	spin_lock_bh(&dio->lock);
	if (pos - dio->pos < dio->end) {
		dio->end = pos - dio->pos;
		dio->error = err;
	}
	spin_unlock_bh(&dio->lock);
	return err;
}

/* Does @iter consist of pages that a reference keeps?  Memory of slab and the like is not. */
static bool wfs_dio_has_pages(const struct iov_iter *iter)
{
	unsigned long i;

	if (!iov_iter_is_bvec(iter))
		return false;
	for (i = 0; i < iter->nr_segs; i++)
		if (!sendpage_ok(iter->bvec[i].bv_page))
			return false;
	return true;
}

/**
 * wfs_dio_run - move @iter's data
 * @iocb: the caller's
 * @iter: its pages
 * @write: direction
 * @sync: wait for the end even if @iocb does not
 *
 * The caller has counted itself with inode_dio_begin() and, for a write, wfs_begin_write(); that is
 * given back here.
 *
 * Return: bytes, -EIOCBQUEUED, or a negative errno.
 */
static ssize_t wfs_dio_run(struct kiocb *iocb, struct iov_iter *iter, bool write, bool sync)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct wfs_dio *dio = kzalloc(sizeof(*dio), GFP_KERNEL);
	int killed = 0;
	ssize_t ret;

	sync |= is_sync_kiocb(iocb);
	if (!dio) {
		if (write)
			wfs_end_write(inode);
		inode_dio_end(inode);
		return -ENOMEM;
	}
	spin_lock_init(&dio->lock);
	dio->inode = inode;
	dio->iocb = sync ? NULL : iocb;
	refcount_set(&dio->ref, sync ? 2 : 1);
	atomic_set(&dio->pending, 1);
	dio->pos = iocb->ki_pos;
	dio->end = iov_iter_count(iter);
	dio->write = write;
	if (iov_iter_extract_will_pin(iter))
		dio->pages = WFS_DIO_PINNED;
	else if (wfs_dio_has_pages(iter))
		dio->pages = WFS_DIO_REFERENCED;
	INIT_LIST_HEAD(&dio->unpin);
	INIT_LIST_HEAD(&dio->uncancelled);
	init_completion(&dio->done);
	if (!sync) {
		if (write && iocb_is_dsync(iocb)) {
			dio->file = get_file(iocb->ki_filp);
			dio->datasync = !(iocb->ki_flags & IOCB_SYNC);
		}
		INIT_WORK(&dio->cancel, wfs_dio_cancel_work);
		dio->mm = current->mm;
		iocb->private = dio;
		kiocb_set_cancel_fn(iocb, wfs_dio_cancel);
	}

	wfs_dio_submit(dio, iocb->ki_filp->private_data, iter);
	wfs_dio_dec(dio);
	if (!sync)
		return -EIOCBQUEUED;

	if (dio->pages == WFS_DIO_BORROWED)
		wait_for_completion(&dio->done);
	else
		killed = wfs_wait(wfs_sess(inode->i_sb), &dio->done);
	if (killed) {
		wfs_dio_claim(dio);
		wfs_dio_give_up(dio);
		ret = -EINTR;
	} else {
		wfs_dio_unpin_rest(dio);
		ret = wfs_dio_finish(dio, inode);
		if (ret > 0)
			iocb->ki_pos += ret;
	}
	wfs_dio_put(dio);
	return ret;
}

/* Have no unwritten data before direct I/O; killable. */
static int wfs_dio_flush(struct kiocb *iocb, struct inode *inode)
{
	if (!wfs_is_dirty(inode))
		return 0;
	return iocb->ki_flags & IOCB_NOWAIT ? -EAGAIN : wfs_flush(inode);
}

/**
 * wfs_direct_read - read into the caller's pages
 * @iocb: the caller's
 * @iter: its memory, of any alignment
 */
ssize_t wfs_direct_read(struct kiocb *iocb, struct iov_iter *iter)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret;

	if (!iov_iter_count(iter))
		return 0;
	if (iocb->ki_pos >= inode->i_sb->s_maxbytes)
		return 0;
	iov_iter_truncate(iter, inode->i_sb->s_maxbytes - iocb->ki_pos);
	/* all of it: where the file ends on the server depends on unwritten data anywhere behind */
	ret = wfs_dio_flush(iocb, inode);
	if (ret)
		return ret;
	inode_dio_begin(inode);
	return wfs_dio_run(iocb, iter, false, false);
}

/**
 * wfs_direct_write - write from the caller's pages
 * @iocb: the caller's
 * @iter: its memory, of any alignment
 *
 * Writes inside the file run side by side; one that makes it longer has it for itself until it is over.
 */
ssize_t wfs_direct_write(struct kiocb *iocb, struct iov_iter *iter)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	bool nowait = iocb->ki_flags & IOCB_NOWAIT;
	bool excl = false;
	ssize_t ret;

again:
	excl |= (iocb->ki_flags & IOCB_APPEND) ||
		iocb->ki_pos + iov_iter_count(iter) > i_size_read(inode);
	if (nowait) {
		if (excl || !inode_trylock_shared(inode))
			return -EAGAIN;
	} else {
		ret = excl ? down_write_killable(&inode->i_rwsem) : down_read_killable(&inode->i_rwsem);
		if (ret)
			return ret;
	}
	ret = 0;
	if (excl && (iocb->ki_flags & IOCB_APPEND))
		ret = wfs_revalidate_end(inode);
	if (!ret)
		ret = generic_write_checks(iocb, iter);
	if (ret <= 0)
		goto out;
	if (!excl && iocb->ki_pos + iov_iter_count(iter) > i_size_read(inode)) {
		inode_unlock_shared(inode);
		excl = true;
		goto again;
	}
	if (inode->i_mapping->nrpages) {
		ret = wfs_dio_flush(iocb, inode) ?:
		      wfs_drop_range(inode, iocb->ki_pos >> PAGE_SHIFT,
				     (iocb->ki_pos + iov_iter_count(iter) - 1) >> PAGE_SHIFT, !nowait);
		if (ret == -EBUSY)
			ret = 0;
		if (ret)
			goto out;
	}
	if (excl && iocb->ki_pos > i_size_read(inode)) {
		ret = wfs_zero_tail(inode, i_size_read(inode));
		if (ret)
			goto out;
	}
	inode_dio_begin(inode);
	wfs_begin_write(inode);
	ret = wfs_dio_run(iocb, iter, true, excl);
	if (excl && ret > 0 && iocb->ki_pos > i_size_read(inode))
		i_size_write(inode, iocb->ki_pos);
out:
	if (excl)
		inode_unlock(inode);
	else
		inode_unlock_shared(inode);
	return ret > 0 ? generic_write_sync(iocb, ret) : ret;
}
