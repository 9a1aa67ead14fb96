// SPDX-License-Identifier: GPL-2.0
/*
 * unread.c - what was read ahead and nobody has read yet: how much it is, how much it may be, what became of it
 *
 * A folio that is read ahead is marked from before it is in the page cache until somebody reads, maps or writes to it, or
 * until it leaves the page cache, or until nobody has come to its file for long.  The sum of marked folios is what
 * readahead holds of memory.  Clearing the mark is atomic, so each folio is counted once, whoever comes first.
 */
#include "internal.h"

#define WFS_UNREAD_AGE		(10 * HZ)	/* of no access to a file, after which nobody is taken to come for it */
#define WFS_UNREAD_CHUNK	4096		/* pages looked at without a break */

/* The mark is PG_owner_2, which is the file system's.  Return whether it was set. */
static bool wfs_unread_clear(struct folio *folio)
{
	return folio_test_owner_2(folio) && test_and_clear_bit(PG_owner_2, folio_flags(folio, 0));
}

static void wfs_unread_give(struct inode *inode, size_t len)
{
	atomic_long_sub(len, &WFS_I(inode)->unread);
	atomic_long_sub(len, &wfs_sess(inode->i_sb)->unread);
}

/**
 * wfs_unread_mark - mark a folio that is to be read ahead, unless readahead holds as much memory as it may already
 * @inode: the file
 * @folio: the folio, not in the page cache yet
 *
 * Return: whether it may be read.
 */
bool wfs_unread_mark(struct inode *inode, struct folio *folio)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	long len = folio_size(folio), now, max;

	now = atomic_long_add_return(len, &sess->unread);
	if (now > wfs_unread_limit(sess)) {
		atomic_long_sub(len, &sess->unread);
		return false;
	}
	max = atomic_long_read(&sess->unread_max);
	while (now > max && !atomic_long_try_cmpxchg(&sess->unread_max, &max, now))
		;
	atomic_long_add(len, &WFS_I(inode)->unread);
	folio_set_owner_2(folio);
	return true;
}

/**
 * wfs_unread_undo - a marked folio does not come into the page cache
 * @inode: the file
 * @folio: the folio
 */
void wfs_unread_undo(struct inode *inode, struct folio *folio)
{
	if (wfs_unread_clear(folio))
		wfs_unread_give(inode, folio_size(folio));
}

/**
 * wfs_unread_used - somebody has come for a folio
 * @folio: the folio, with a reference, in the page cache
 */
void wfs_unread_used(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;

	if (mapping && wfs_unread_clear(folio))
		wfs_unread_give(mapping->host, folio_size(folio));
}

/**
 * wfs_unread_wasted - a folio leaves the page cache
 * @folio: the folio, locked
 */
void wfs_unread_wasted(struct folio *folio)
{
	struct inode *inode = folio->mapping->host;

	if (!wfs_unread_clear(folio))
		return;
	wfs_unread_give(inode, folio_size(folio));
	this_cpu_add(wfs_sess(inode->i_sb)->stats->load.wasted, folio_size(folio));
}

/**
 * wfs_unread_come - somebody comes for pages of a file
 * @mapping: the file's
 * @first: first page
 * @last: last page; not many behind the first
 * @there: only for those that are there already, not for those on their way
 */
void wfs_unread_come(struct address_space *mapping, pgoff_t first, pgoff_t last, bool there)
{
	XA_STATE(xas, &mapping->i_pages, first);
	struct folio *folio;

	if (!atomic_long_read(&WFS_I(mapping->host)->unread))
		return;
	rcu_read_lock();
	xas_for_each(&xas, folio, last) {
		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;
		if (!folio_test_owner_2(folio) || (there && !folio_test_uptodate(folio)) || !folio_try_get(folio))
			continue;
		if (folio == xas_reload(&xas))
			wfs_unread_used(folio);
		folio_put(folio);
	}
	rcu_read_unlock();
}

/**
 * wfs_unread_come_all - somebody comes for a range of any length, there or on its way
 * @mapping: the file's
 * @first: first page
 * @end: page behind the last one
 */
void wfs_unread_come_all(struct address_space *mapping, pgoff_t first, pgoff_t end)
{
	for (; first < end && atomic_long_read(&WFS_I(mapping->host)->unread); first += WFS_UNREAD_CHUNK) {
		wfs_unread_come(mapping, first, min(end, first + WFS_UNREAD_CHUNK) - 1, false);
		cond_resched();
	}
}

/* Nobody comes for what was read ahead of @inode: it is as any other page of the page cache from now on. */
static void wfs_unread_forget(struct inode *inode)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	long before = atomic_long_read(&WFS_I(inode)->unread);

	wfs_unread_come_all(inode->i_mapping, 0, DIV_ROUND_UP_ULL(i_size_read(inode), PAGE_SIZE));
	this_cpu_add(sess->stats->load.wasted, max(before - atomic_long_read(&WFS_I(inode)->unread), 0l));
}

static void wfs_unread_work(struct work_struct *work)
{
	struct wfs_session *sess = container_of(work, struct wfs_session, unread_work);
	struct super_block *sb = sess->sb;
	struct inode *inode, *last = NULL;

	spin_lock(&sb->s_inode_list_lock);
	list_for_each_entry(inode, &sb->s_inodes, i_sb_list) {
		struct wfs_inode *wi = WFS_I(inode);

		if (!atomic_long_read(&wi->unread) ||
		    time_before(jiffies, READ_ONCE(wi->ra_time) + WFS_UNREAD_AGE) || !igrab(inode))
			continue;
		spin_unlock(&sb->s_inode_list_lock);
		wfs_unread_forget(inode);
		/* it keeps our place in the list */
		iput(last);
		last = inode;
		spin_lock(&sb->s_inode_list_lock);
	}
	spin_unlock(&sb->s_inode_list_lock);
	iput(last);
}

/**
 * wfs_unread_short - memory for readahead runs short: look for what nobody will come for
 * @sess: the session
 */
void wfs_unread_short(struct wfs_session *sess)
{
	unsigned long last = READ_ONCE(sess->unread_looked);

	if (time_before(jiffies, last + WFS_UNREAD_AGE / 4) || cmpxchg(&sess->unread_looked, last, jiffies) != last)
		return;
	queue_work(wfs_dio_wq, &sess->unread_work);
}

void wfs_unread_init(struct wfs_session *sess)
{
	INIT_WORK(&sess->unread_work, wfs_unread_work);
	sess->unread_looked = jiffies;
}

/* The inodes are going to be evicted. */
void wfs_unread_end(struct wfs_session *sess)
{
	disable_work_sync(&sess->unread_work);
}
