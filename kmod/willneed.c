// SPDX-License-Identifier: GPL-2.0
/*
 * willneed.c - POSIX_FADV_WILLNEED, MADV_WILLNEED and readahead(2): what somebody says that he will need
 *
 * The kernel's way ends after read_ahead_kb.  Here all of it is read, as far as readahead may hold it in memory.  What is long
 * is read by a work item, as much as fills the link and no queue, so that whoever waits for something else does not wait for
 * all of this.  It goes on when the file is closed: it needs no more than the inode and the I/O handle.
 */
#include <linux/fadvise.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>

#include "internal.h"

#define WFS_WILLNEED_MAX	1024	/* ranges that wait; it is only advice */

/**
 * struct wfs_willneed - a range that is to be read
 * @link: on wfs_session.willneed
 * @inode: the file; a reference
 * @io: a handle with the right to read it
 * @cred: of who opened it
 * @memcg: whose memory it takes
 * @index: first page that was not asked for yet; @willneed_work alone changes it
 * @end: page behind the last one; written under willneed_lock, and read also without
 */
struct wfs_willneed {
	struct list_head	link;
	struct inode		*inode;
	struct wfs_fh		io;
	const struct cred	*cred;
	struct mem_cgroup	*memcg;
	pgoff_t			index, end;
};

static void wfs_willneed_free(struct wfs_willneed *w)
{
	mem_cgroup_put(w->memcg);
	put_cred(w->cred);
	iput(w->inode);
	kfree(w);
}

/* Pages that advice may have of what readahead may hold: a quarter is for streams. */
static u64 wfs_willneed_room(struct wfs_session *sess)
{
	long room = wfs_unread_limit(sess) / 4 * 3 - atomic_long_read(&sess->unread);

	return room > 0 ? room >> PAGE_SHIFT : 0;
}

/* Ask for the next piece, of so many READs at most.  Return whether there was any. */
static bool wfs_willneed_piece(struct wfs_session *sess, struct wfs_willneed *w, unsigned int reads)
{
	u64 pages = min3((u64)reads * (sess->opt.rsize >> PAGE_SHIFT), (u64)READ_ONCE(w->end) - w->index,
			 wfs_willneed_room(sess));
	pgoff_t from = w->index;
	struct mem_cgroup *memcg;

	if (!pages || test_bit(WFS_INO_GONE, &WFS_I(w->inode)->flags))
		return false;
	WRITE_ONCE(WFS_I(w->inode)->ra_time, jiffies);
	memcg = set_active_memcg(w->memcg);
	w->index = wfs_fill(w->inode->i_mapping, &w->io, w->cred, from, pages, 0);
	set_active_memcg(memcg);
	return w->index > from;
}

static u64 wfs_willneed_load(struct wfs_session *sess)
{
	struct wfs_tally t;

	wfs_session_tally(sess, &t);
	return wfs_account_load(&t);
}

/* Runs when there is something new, and whenever a READ has ended. */
static void wfs_willneed_work(struct work_struct *work)
{
	struct wfs_session *sess = container_of(work, struct wfs_session, willneed_work);
	u64 link = max(READ_ONCE(sess->account.link), (u64)WFS_RA_FLOOR);
	u64 budget = max(READ_ONCE(sess->account.budget), link);
	u64 load = wfs_willneed_load(sess);
	/* it makes no queue, who opens the file would wait behind that; but in one of streams a READ follows another */
	unsigned int reads = load > link / 2 ? 1 : 2;
	struct wfs_willneed *w;
	bool more;

	if (load > budget / 2)
		return;
	do {
		spin_lock(&sess->willneed_lock);
		w = list_first_entry_or_null(&sess->willneed, struct wfs_willneed, link);
		spin_unlock(&sess->willneed_lock);
		if (!w)
			return;
		more = wfs_willneed_piece(sess, w, reads);
		spin_lock(&sess->willneed_lock);
		/* without memory for more it ends here: it is only advice */
		more = more && w->index < w->end;
		if (!more) {
			list_del(&w->link);
			WRITE_ONCE(sess->nr_willneed, sess->nr_willneed - 1);
		}
		spin_unlock(&sess->willneed_lock);
		if (!more)
			wfs_willneed_free(w);
		cond_resched();
	} while (wfs_willneed_load(sess) <= link);
}

/* Have @willneed_work read [@index, @end). */
static void wfs_willneed_add(struct file *file, pgoff_t index, pgoff_t end)
{
	struct inode *inode = file_inode(file);
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	const struct wfs_file *wf = file->private_data;
	struct wfs_willneed *w, *last;

	if (READ_ONCE(sess->nr_willneed) >= WFS_WILLNEED_MAX)
		return;
	w = kmalloc(sizeof(*w), GFP_KERNEL);
	if (!w)
		return;
	ihold(inode);
	w->inode = inode;
	w->io = wf->io;
	w->cred = get_cred(wf->cred);
	w->memcg = get_mem_cgroup_from_mm(current->mm);
	w->index = index;
	w->end = end;
	spin_lock(&sess->willneed_lock);
	last = list_empty(&sess->willneed) ? NULL : list_last_entry(&sess->willneed, struct wfs_willneed, link);
	/* who asks for one tensor after the other asks for one range */
	if (last && last->inode == inode && last->memcg == w->memcg && last->end == index) {
		WRITE_ONCE(last->end, end);
	} else {
		list_add_tail(&w->link, &sess->willneed);
		WRITE_ONCE(sess->nr_willneed, sess->nr_willneed + 1);
		w = NULL;
	}
	spin_unlock(&sess->willneed_lock);
	if (w)
		wfs_willneed_free(w);
	queue_work(wfs_dio_wq, &sess->willneed_work);
}

/**
 * wfs_fadvise - somebody says how he will use a file
 * @file: the file
 * @offset: from where on
 * @len: how much, 0 for all
 * @advice: POSIX_FADV_*
 *
 * Return: 0 or -EINVAL.
 */
int wfs_fadvise(struct file *file, loff_t offset, loff_t len, int advice)
{
	struct inode *inode = file_inode(file);
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	const struct wfs_file *wf = file->private_data;
	loff_t size = i_size_read(inode);
	pgoff_t index, end;

	if (advice != POSIX_FADV_WILLNEED)
		return generic_fadvise(file, offset, len, advice);
	if (len < 0)
		return -EINVAL;
	if (offset < 0 || offset >= size || !wf->can_read)
		return 0;
	if (!len || len > size - offset)
		len = size - offset;
	index = offset >> PAGE_SHIFT;
	end = DIV_ROUND_UP_ULL(offset + len, PAGE_SIZE);
	WRITE_ONCE(WFS_I(inode)->ra_time, jiffies);
	if (end - index > sess->opt.rsize >> PAGE_SHIFT)
		wfs_willneed_add(file, index, end);
	else if (end - index <= wfs_willneed_room(sess))
		wfs_fill(file->f_mapping, &wf->io, wf->cred, index, end - index, 0);
	return 0;
}

void wfs_willneed_init(struct wfs_session *sess)
{
	spin_lock_init(&sess->willneed_lock);
	INIT_LIST_HEAD(&sess->willneed);
	INIT_WORK(&sess->willneed_work, wfs_willneed_work);
}

/* The inodes are going to be evicted. */
void wfs_willneed_end(struct wfs_session *sess)
{
	struct wfs_willneed *w, *next;

	disable_work_sync(&sess->willneed_work);
	list_for_each_entry_safe(w, next, &sess->willneed, link)
		wfs_willneed_free(w);
	INIT_LIST_HEAD(&sess->willneed);
	sess->nr_willneed = 0;
}
