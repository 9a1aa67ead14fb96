// SPDX-License-Identifier: GPL-2.0
/*
 * pagecache.c - waiting for folios, so that who waits can be killed
 *
 * A folio is locked while a READ fills it and under writeback while a WRITE takes it to the server, which may
 * be for as long as the server is away.  The kernel's own invalidate, truncate and fdatawait wait for that
 * without regard to signals; these don't.
 */
#include <linux/pagevec.h>

#include "internal.h"

/**
 * wfs_wait_writeback - wait for what is being written back
 * @mapping: a file's
 * @first: index of the first page
 * @last: index of the last page
 *
 * Return: 0 or -EINTR when killed.
 */
int wfs_wait_writeback(struct address_space *mapping, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	unsigned int i, n;
	int err = 0;

	folio_batch_init(&batch);
	while (!err && (n = filemap_get_folios_tag(mapping, &first, last, PAGECACHE_TAG_WRITEBACK, &batch))) {
		for (i = 0; i < n && !err; i++)
			err = folio_wait_writeback_killable(batch.folios[i]);
		folio_batch_release(&batch);
		cond_resched();
	}
	return err;
}

/*
 * Lock @folio when no READ or WRITE has it.  Return 0, -EINTR when killed, -EAGAIN when it would have to
 * @wait, -ESTALE (unlocked) when it is not of @mapping any more.
 */
static int wfs_lock_idle(struct address_space *mapping, struct folio *folio, bool wait)
{
	int err;

	for (;;) {
		if (!folio_trylock(folio)) {
			err = wait ? folio_lock_killable(folio) : -EAGAIN;
			if (err)
				return err;
		}
		if (folio->mapping != mapping) {
			folio_unlock(folio);
			return -ESTALE;
		}
		if (!folio_test_writeback(folio))
			return 0;
		/* not under the lock, which others wait for in ways that can't be killed */
		folio_unlock(folio);
		err = wait ? folio_wait_writeback_killable(folio) : -EAGAIN;
		if (err)
			return err;
	}
}

/**
 * wfs_drop_range - take clean folios out of the page cache
 * @inode: a regular file
 * @first: index of the first page
 * @last: index of the last page
 * @wait: for folios that a READ or WRITE has
 *
 * Return: 0, -EINTR when killed, -EAGAIN when there was something to wait for, -EBUSY when something is dirty.
 */
int wfs_drop_range(struct inode *inode, pgoff_t first, pgoff_t last, bool wait)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio_batch batch;
	unsigned int i, n;
	int err = 0, ret = 0;

	folio_batch_init(&batch);
	while (err != -EINTR && (n = filemap_get_folios(mapping, &first, last, &batch))) {
		for (i = 0; i < n && err != -EINTR; i++) {
			struct folio *folio = batch.folios[i];

			err = wfs_lock_idle(mapping, folio, wait);
			if (!err) {
				if (folio_mapped(folio))
					unmap_mapping_pages(mapping, folio->index, folio_nr_pages(folio), false);
				err = folio_test_dirty(folio) ? -EBUSY : generic_error_remove_folio(mapping, folio);
				folio_unlock(folio);
			}
			if (err && err != -ESTALE)
				ret = err;
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	return ret;
}

/**
 * wfs_zero_range - a range of a file has become a hole, or is behind its end: let the page cache follow
 * @inode: a regular file; nobody may add to the range meanwhile
 * @start: first byte
 * @end: byte after the last one, LLONG_MAX for all
 *
 * Also what is dirty there goes.  Waits for what READs and WRITEs have of it.
 *
 * Return: 0, or -EINTR when killed: then the cache has to be dropped before its next use, which has been seen to.
 */
int wfs_zero_range(struct inode *inode, loff_t start, loff_t end)
{
	struct address_space *mapping = inode->i_mapping;
	pgoff_t first = start >> PAGE_SHIFT, last = (end - 1) >> PAGE_SHIFT;
	struct folio_batch batch;
	unsigned int i, n;
	int err = 0;

	if (end <= start)
		return 0;
	folio_batch_init(&batch);
	while (!err && (n = filemap_get_folios(mapping, &first, last, &batch))) {
		for (i = 0; i < n && !err; i++) {
			struct folio *folio = batch.folios[i];
			loff_t pos = folio_pos(folio), to = pos + folio_size(folio);

			err = wfs_lock_idle(mapping, folio, true);
			if (err == -ESTALE) {
				err = 0;
				continue;
			}
			if (err)
				break;
			if (start <= pos && to <= end)
				generic_error_remove_folio(mapping, folio);
			else if (folio_test_uptodate(folio))
				folio_zero_segment(folio, max(start, pos) - pos, min(end, to) - pos);
			folio_unlock(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	if (err)
		set_bit(WFS_INO_STALE_DATA, &WFS_I(inode)->flags);
	return err;
}

/**
 * wfs_truncate_pages - what is behind the end of a file leaves the page cache and all mappings
 * @inode: a regular file that got shorter: i_size is the new one; i_rwsem held
 *
 * Return: as wfs_zero_range().
 */
int wfs_truncate_pages(struct inode *inode)
{
	loff_t size = i_size_read(inode);
	int err;

	unmap_mapping_range(inode->i_mapping, round_up(size, PAGE_SIZE), 0, 1);
	err = wfs_zero_range(inode, size, LLONG_MAX);
	/* what was copied for a private mapping meanwhile */
	unmap_mapping_range(inode->i_mapping, round_up(size, PAGE_SIZE), 0, 1);
	return err;
}

/**
 * wfs_zero_tail - make what a folio holds behind the end of the file zero, before the file grows over it
 * @inode: the file
 * @size: its size until now
 *
 * A mapping may have written there.
 *
 * Return: 0 or -EINTR when killed.
 */
int wfs_zero_tail(struct inode *inode, loff_t size)
{
	struct folio *folio;
	int err;

	if (!offset_in_page(size))
		return 0;
	folio = filemap_get_folio(inode->i_mapping, size >> PAGE_SHIFT);
	if (IS_ERR(folio))
		return 0;
	err = folio_lock_killable(folio);
	if (!err) {
		if (folio->mapping == inode->i_mapping && folio_test_uptodate(folio))
			folio_zero_segment(folio, offset_in_folio(folio, size), folio_size(folio));
		folio_unlock(folio);
	}
	folio_put(folio);
	return err;
}

/**
 * wfs_dio_wait - wait for direct I/O on a file to end
 * @inode: the file, i_rwsem held
 *
 * Return: 0 or -EINTR when killed.
 */
int wfs_dio_wait(struct inode *inode)
{
	return wait_var_event_killable(&inode->i_dio_count, !atomic_read(&inode->i_dio_count)) ? -EINTR : 0;
}
