// SPDX-License-Identifier: GPL-2.0
/*
 * readahead.c - reads ahead of what reads a file, through read(2), splice(2) and mappings alike
 *
 * The kernel's own readahead has one window of a constant size for each open file, and knows nothing of mappings but
 * the single fault.  Here stream.c says what an access is part of and what that wants, before the VFS looks for the
 * folios; so it finds them in the page cache, and all that is left to it is to wait for them.  Where there was no
 * memory, the kernel's way remains: ->readahead() and ->read_folio().
 *
 * Of a mapping, accesses that find their pages in the page table are not seen.  So all pages that are there are mapped
 * at once, for as far as one page table goes, and what was mapped counts as accessed.
 */
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>

#include "internal.h"

#define WFS_RA_MIN	(SZ_128K >> PAGE_SHIFT)	/* a stream begins with so many pages */
#define WFS_RA_ORDER	6			/* of folios: the later ones of 256 KiB need not wait for longer ones */
#define WFS_RA_AROUND	(SZ_64K >> PAGE_SHIFT)	/* what a fault reads with the page that it wants */
#define WFS_RA_LOOK	NSEC_PER_MSEC		/* the account is brought up to date so often */
#define WFS_RA_PIECE	(SZ_2M >> PAGE_SHIFT)	/* after which who reads ahead sees that the file is closed */

static bool wfs_has_page(struct address_space *mapping, pgoff_t index, bool uptodate)
{
	struct folio *folio = filemap_get_folio(mapping, index);
	bool has;

	if (IS_ERR(folio))
		return false;
	has = !uptodate || folio_test_uptodate(folio);
	folio_put(folio);
	return has;
}

/**
 * wfs_account_look - bring a mount's account up to date, if it is old
 * @sess: the session
 *
 * Called when something is about to be asked for: so it costs nothing where all is in the page cache.
 */
void wfs_account_look(struct wfs_session *sess)
{
	u64 now = ktime_get_ns();
	struct wfs_tally t;
	int cpu;

	if (now - READ_ONCE(sess->account_time) < WFS_RA_LOOK || !spin_trylock(&sess->account_lock))
		return;
	WRITE_ONCE(sess->account_time, now);
	wfs_session_tally(sess, &t);
	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu_ptr(sess->stats, cpu)->load.delay, 0);
	sess->account.floor = max((u32)WFS_RA_FLOOR, 8 * sess->opt.rsize);
	wfs_account_update(&sess->account, &t, now);
	spin_unlock(&sess->account_lock);
}

/*
 * Put a new folio at @index, no longer than up to @end; @ahead: nobody wants it yet.  NULL when there is no memory, or one
 * there already.
 */
static struct folio *wfs_new_folio(struct address_space *mapping, pgoff_t index, pgoff_t end, bool ahead, gfp_t gfp)
{
	unsigned int order = min_t(unsigned int, mapping_max_folio_order(mapping), WFS_RA_ORDER);
	struct folio *folio;

	if (index)
		order = min_t(unsigned int, order, __ffs(index));
	order = min_t(unsigned int, order, ilog2(end - index));
	do {
		folio = filemap_alloc_folio(gfp, order);
		if (folio && ahead && !wfs_unread_mark(mapping->host, folio)) {
			folio_put(folio);
			return NULL;
		}
		if (folio && !filemap_add_folio(mapping, folio, index, gfp))
			return folio;
		/* no memory of that length, or a folio somewhere in the middle */
		if (folio) {
			wfs_unread_undo(mapping->host, folio);
			folio_put(folio);
		}
	} while (order--);
	return NULL;
}

/**
 * wfs_fill - read what the page cache does not have of a range
 * @mapping: the file's
 * @io: I/O handle with the right to read
 * @cred: who reads
 * @index: first page
 * @pages: how many
 * @ahead: first page that nobody wants yet
 *
 * Waits for nothing.
 *
 * Return: the page behind the last one that is there or was asked for: at least the end of the range or of the file
 * unless there was no memory.
 */
pgoff_t wfs_fill(struct address_space *mapping, const struct wfs_fh *io, const struct cred *cred, pgoff_t index,
		 u64 pages, pgoff_t ahead)
{
	struct wfs_reads reads = { .sess = wfs_sess(mapping->host->i_sb), .io = io, .cred = cred };
	pgoff_t end = DIV_ROUND_UP_ULL(i_size_read(mapping->host), PAGE_SIZE);
	gfp_t gfp = readahead_gfp_mask(mapping);
	unsigned int nofs = memalloc_nofs_save();
	struct folio *folio;

	wfs_account_look(reads.sess);
	end = min_t(u64, end, index + pages);
	reads.spread = end - index > WFS_SPREAD_MIN >> PAGE_SHIFT;
	filemap_invalidate_lock_shared(mapping);
	while (index < end) {
		folio = filemap_get_folio(mapping, index);
		if (!IS_ERR(folio)) {
			index = folio_next_index(folio);
			folio_put(folio);
			wfs_reads_send(&reads);
			continue;
		}
		folio = wfs_new_folio(mapping, index, end, index >= ahead, gfp);
		if (!folio)
			break;
		if (!wfs_reads_add(&reads, folio, end - index, index >= ahead ? WFS_LOAD_AHEAD : WFS_LOAD_DEMAND)) {
			folio_unlock(folio);
			folio_put(folio);
			break;
		}
		index = folio_next_index(folio);
		/* it is locked: the page cache keeps it */
		folio_put(folio);
		cond_resched();
	}
	wfs_reads_send(&reads);
	filemap_invalidate_unlock_shared(mapping);
	memalloc_nofs_restore(nofs);
	return index;
}

/*
 * All of that is wanted now.  @asked: page up to which it was asked for: if it is not there all the same, ra.work is on its way,
 * or it has left memory.  Then a whole READ, lest whoever waits makes many small ones until it is back.
 */
static void wfs_fill_wanted(struct file *file, pgoff_t index, u64 pages, pgoff_t asked)
{
	u64 whole = wfs_sess(file_inode(file)->i_sb)->opt.rsize >> PAGE_SHIFT;
	const struct wfs_file *wf = file->private_data;
	pgoff_t end = index + pages;

	if (asked > end)
		pages = max(pages, min(whole, (u64)asked - index));
	wfs_fill(file->f_mapping, &wf->io, wf->cred, index, pages, end);
}

/* @wanted: the page behind what somebody wants now of it, 0 for nothing. */
static void wfs_fill_ahead(struct file *file, const struct wfs_ahead *ahead, pgoff_t wanted)
{
	const struct wfs_file *wf = file->private_data;
	s64 start = ahead->start;
	u32 i, done, pages;

	for (i = 0; i < ahead->count && start >= 0; i++, start += ahead->stride) {
		for (done = 0; done < ahead->pages && !READ_ONCE(wf->ra.closed); done += pages) {
			pages = min(ahead->pages - done, (u32)WFS_RA_PIECE);
			if (wfs_fill(file->f_mapping, &wf->io, wf->cred, start + done, pages,
				     start + done < wanted ? wanted : 0) < start + done + pages)
				break;
		}
	}
}

/* Pages that a stream of a file may be read ahead, as its user has it. */
static u32 wfs_ra_max(const struct file *file)
{
	if (READ_ONCE(wfs_sess(file_inode(file)->i_sb)->opt.readahead) == WFS_READAHEAD_OFF ||
	    (file->f_mode & FMODE_RANDOM))
		return 0;
	/* read_ahead_kb, see POSIX_FADV_SEQUENTIAL and POSIX_FADV_NORMAL too */
	return file->f_ra.ra_pages;
}

/* Somebody reads @inode: see wfs_inode.ra_time. */
static void wfs_ra_touch(struct inode *inode)
{
	if (READ_ONCE(WFS_I(inode)->ra_time) / HZ != jiffies / HZ)
		WRITE_ONCE(WFS_I(inode)->ra_time, jiffies);
}

/*
 * Who reads little at a time finds most of it in the folio that he has read before: that is all there is to it, until the
 * stream wants to read on.
 */
static bool wfs_ra_quiet(struct file *file, pgoff_t first, pgoff_t last)
{
	const struct wfs_file *wf = file->private_data;
	struct folio *folio;
	bool there;

	if (first < READ_ONCE(wf->ra.heard) || last + 1 >= READ_ONCE(wf->ra.quiet))
		return false;
	folio = filemap_get_folio(file->f_mapping, last);
	if (IS_ERR(folio))
		return false;
	there = folio->index <= first && folio_test_uptodate(folio);
	if (there)
		wfs_unread_used(folio);
	folio_put(folio);
	return there;
}

/* As wfs_stream_access(), of an open file. */
static bool wfs_ra_access(struct file *file, pgoff_t index, u32 pages, enum wfs_access how, bool waits,
			  struct wfs_ahead *ahead)
{
	struct wfs_file *wf = file->private_data;
	struct inode *inode = file_inode(file);
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_ra_limits lim = {
		.min = WFS_RA_MIN,
		.max = wfs_ra_max(file),
		.pages = DIV_ROUND_UP_ULL(i_size_read(inode), PAGE_SIZE),
	};
	bool wants;
	u32 share;

	if (READ_ONCE(sess->opt.readahead) == WFS_READAHEAD_ADAPTIVE) {
		lim.busy = READ_ONCE(sess->account.state) == WFS_AHEAD_BUSY;
		lim.max >>= READ_ONCE(sess->account.shift);
	}
	share = wfs_account_share(wfs_unread_limit(sess) >> PAGE_SHIFT,
				  max(atomic_long_read(&sess->unread), 0l) >> PAGE_SHIFT, lim.max);
	if (share < lim.max) {
		lim.max = share;
		this_cpu_inc(sess->stats->limited);
		wfs_unread_short(sess);
	}
	lim.min = min(lim.min, lim.max);
	lim.full = min(2 * (sess->opt.rsize >> PAGE_SHIFT), lim.max);
	spin_lock(&wf->ra.lock);
	wants = wfs_stream_access(&wf->ra.streams, index, pages, how, waits, &lim, ahead);
	WRITE_ONCE(wf->ra.heard, index);
	WRITE_ONCE(wf->ra.quiet, ahead->quiet);
	spin_unlock(&wf->ra.lock);
	return wants;
}

/* Read what is to be read ahead: @ra->work does, or who finds that it has not come to it yet. */
static void wfs_ra_run(struct wfs_ra *ra)
{
	struct wfs_ra_todo todo[WFS_RA_TODO];
	struct mem_cgroup *memcg;
	unsigned int i, nr;

	spin_lock(&ra->lock);
	nr = ra->nr_todo;
	memcpy(todo, ra->todo, sizeof(todo));
	WRITE_ONCE(ra->nr_todo, 0);
	spin_unlock(&ra->lock);
	for (i = 0; i < nr; i++) {
		memcg = set_active_memcg(todo[i].memcg);
		wfs_fill_ahead(ra->file, &todo[i].ahead, 0);
		set_active_memcg(memcg);
		mem_cgroup_put(todo[i].memcg);
	}
}

static void wfs_ra_work(struct work_struct *work)
{
	wfs_ra_run(container_of(work, struct wfs_ra, work));
}

/*
 * Have @ra->work read that ahead, while who has what he wants goes on: to make new folios takes a quarter of a reader's
 * time.  Any context.
 *
 * Return: false if it has too much to do already.
 */
static bool wfs_ra_later(struct wfs_ra *ra, const struct wfs_ahead *ahead)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(current->mm);
	bool room;

	spin_lock(&ra->lock);
	room = ra->nr_todo < WFS_RA_TODO;
	if (room) {
		ra->todo[ra->nr_todo] = (struct wfs_ra_todo){ *ahead, memcg };
		WRITE_ONCE(ra->nr_todo, ra->nr_todo + 1);
	}
	spin_unlock(&ra->lock);
	if (room)
		queue_work(wfs_dio_wq, &ra->work);
	else
		mem_cgroup_put(memcg);
	return room;
}

/**
 * wfs_ra_read - a file is about to be read
 * @file: the file
 * @pos: from where on
 * @len: how much
 *
 * Asks for what is not there of it and for what comes next.
 */
void wfs_ra_read(struct file *file, loff_t pos, size_t len)
{
	struct address_space *mapping = file->f_mapping;
	struct wfs_ra *ra = &((struct wfs_file *)file->private_data)->ra;
	loff_t size = i_size_read(mapping->host);
	struct wfs_ahead ahead;
	pgoff_t first, last, asked;
	bool there, wants, later;

	if (!len || pos < 0 || pos >= size)
		return;
	len = min_t(u64, len, size - pos);
	first = pos >> PAGE_SHIFT;
	last = (pos + len - 1) >> PAGE_SHIFT;
	wfs_ra_touch(mapping->host);
	if (wfs_ra_quiet(file, first, last))
		return;
	there = wfs_has_page(mapping, last, true);
	wfs_unread_come_all(mapping, first, last + 1);
	wants = wfs_ra_access(file, first, last - first + 1, WFS_ACCESS_READ, !there, &ahead);
	asked = there ? 0 : ahead.asked;
	if (asked > first && READ_ONCE(ra->nr_todo))
		wfs_ra_run(ra);
	/* what is read ahead may begin with what is wanted */
	later = wants && there && (ahead.start > last || ahead.start < first) && wfs_ra_later(ra, &ahead);
	if (wants && !later) {
		/* what is wanted goes first, unless it is the beginning of what is read ahead */
		if (ahead.start > first)
			wfs_fill_wanted(file, first, min(last + 1, (pgoff_t)ahead.start) - first,
					min(asked, (pgoff_t)ahead.start));
		else if (ahead.start < first)
			wfs_fill_wanted(file, first, last - first + 1, 0);
		wfs_fill_ahead(file, &ahead, ahead.start >= first ? last + 1 : 0);
	} else if (!there || (first != last && !wfs_has_page(mapping, first, false))) {
		wfs_fill_wanted(file, first, last - first + 1, asked);
	}
	/* what the work item has put there meanwhile */
	if (!there)
		wfs_unread_come_all(mapping, first, last + 1);
}

/**
 * wfs_ra_map_pages - map what is there around a fault
 * @vmf: the fault
 * @start: first page to map
 * @end: last page
 *
 * Maps more than it was asked to: the fault costs more than the mapping.
 *
 * Context: atomic.
 */
vm_fault_t wfs_ra_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end)
{
	struct vm_area_struct *vma = vmf->vma;
	struct wfs_file *wf = vma->vm_file->private_data;
	struct wfs_ra *ra = &wf->ra;
	struct wfs_ahead ahead;
	vm_fault_t ret;
	bool full;

	if (!(vma->vm_flags & VM_RAND_READ)) {
		pgoff_t off = vmf->pgoff - vma->vm_pgoff, table = pte_index(vmf->address);

		start = vmf->pgoff - min(off, table);
		end = vmf->pgoff + min(vma_pages(vma) - off, PTRS_PER_PTE - table) - 1;
	}
	ret = filemap_map_pages(vmf, start, end);
	wfs_unread_come(vma->vm_file->f_mapping, start, end, true);
	wfs_ra_touch(file_inode(vma->vm_file));
	if (!(ret & VM_FAULT_NOPAGE) || (vma->vm_flags & VM_RAND_READ))
		return ret;

	full = READ_ONCE(ra->nr_todo) == WFS_RA_TODO;
	if (!full && wfs_ra_access(vma->vm_file, vmf->pgoff, end - vmf->pgoff + 1, WFS_ACCESS_FAULT, false, &ahead))
		wfs_ra_later(ra, &ahead);
	return ret;
}

/**
 * wfs_ra_fault - a mapping's page has to be read or waited for
 * @vmf: the fault
 */
vm_fault_t wfs_ra_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct file *file = vma->vm_file;
	struct wfs_ra *ra = &((struct wfs_file *)file->private_data)->ra;
	struct wfs_ahead ahead;
	pgoff_t first = vmf->pgoff;
	bool wants;

	wfs_ra_touch(file_inode(file));
	if (vmf->flags & FAULT_FLAG_TRIED)
		goto out;
	if (wfs_has_page(file->f_mapping, first, true))
		goto out;
	if (vma->vm_flags & VM_RAND_READ) {
		wfs_fill_wanted(file, first, 1, 0);
		goto out;
	}
	wants = wfs_ra_access(file, first, 1, WFS_ACCESS_FAULT, true, &ahead);
	if (ahead.asked > first && READ_ONCE(ra->nr_todo))
		wfs_ra_run(ra);
	if (wants)
		wfs_fill_ahead(file, &ahead, ahead.start == first ? first + 1 : 0);
	/* what lies before it too: a table of contents, the end of the last tensor */
	first = max(round_down(first, WFS_RA_AROUND), vma->vm_pgoff);
	if (!wfs_has_page(file->f_mapping, vmf->pgoff, false) || !wfs_has_page(file->f_mapping, first, false))
		wfs_fill_wanted(file, first, WFS_RA_AROUND, ahead.asked);
out:
	wfs_unread_come(file->f_mapping, vmf->pgoff, vmf->pgoff, false);
	return filemap_fault(vmf);
}

void wfs_ra_init(struct wfs_ra *ra, struct file *file)
{
	memset(ra, 0, sizeof(*ra));
	spin_lock_init(&ra->lock);
	INIT_WORK(&ra->work, wfs_ra_work);
	ra->file = file;
}

/* The file is released. */
void wfs_ra_end(struct wfs_ra *ra)
{
	unsigned int i;

	WRITE_ONCE(ra->closed, true);
	cancel_work_sync(&ra->work);
	for (i = 0; i < ra->nr_todo; i++)
		mem_cgroup_put(ra->todo[i].memcg);
}
