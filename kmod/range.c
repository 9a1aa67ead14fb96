// SPDX-License-Identifier: GPL-2.0
/*
 * range.c - parts of files: fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range
 *
 * The server does them.  So it needs to have all data before, not only that of the range: where a file ends
 * there depends on unwritten data anywhere behind.  And what was cached of a range that it changed goes.
 */
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/splice.h>

#include "internal.h"

/**
 * wfs_range_begin - have a file for oneself, and all of it on the server
 * @inode: a regular file
 *
 * Until wfs_range_end() nobody writes to it, through a mapping neither, so that its pages stay clean.
 *
 * Return: 0, -EINTR when killed, -ENOMEM.
 */
static int wfs_range_begin(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);
	int err;

	err = inode_lock_killable(inode);
	if (err)
		return err;
	/* before range_sem: a direct read may be faulting in a page of this file to read into */
	err = wfs_dio_wait(inode) ?: down_write_killable(&wi->range_sem);
	if (!err) {
		err = wfs_flush(inode);
		if (err)
			up_write(&wi->range_sem);
	}
	if (err) {
		inode_unlock(inode);
		return err;
	}
	wfs_begin_write(inode);
	return 0;
}

static void wfs_range_end(struct inode *inode)
{
	wfs_end_write(inode);
	up_write(&WFS_I(inode)->range_sem);
	inode_unlock(inode);
}

/* Forget what is cached of @len bytes from @pos on, at once or before the next use. */
static void wfs_range_drop(struct inode *inode, loff_t pos, loff_t len)
{
	pgoff_t first = pos >> PAGE_SHIFT, last = (pos + len - 1) >> PAGE_SHIFT;

	if (wfs_drop_range(inode, first, last, true))
		set_bit(WFS_INO_STALE_DATA, &WFS_I(inode)->flags);
}

/* The file reaches to @end at least. */
static void wfs_range_grow(struct inode *inode, loff_t end)
{
	loff_t size = i_size_read(inode);

	if (end <= size)
		return;
	if (wfs_zero_tail(inode, size))
		set_bit(WFS_INO_STALE_DATA, &WFS_I(inode)->flags);
	i_size_write(inode, end);
}

/* The server has done it, and its reply tells what there is after it: nothing else is on its way. */
static void wfs_range_done(struct inode *inode, const struct wfs_write_rep *rep, u64 start)
{
	wfs_wrote(inode, rep, start);
	clear_bit(WFS_INO_UNSETTLED, &WFS_I(inode)->flags);
}

/* Nobody knows what the server has done, or will do yet. */
static void wfs_range_failed(struct inode *inode)
{
	/* not UNSETTLED: who was killed would ask the server once more when he closes the file */
	wfs_changed_unseen(inode, NULL);
}

/**
 * wfs_fallocate - fallocate(2)
 * @file: open for writing
 * @mode: FALLOC_FL_*
 * @offset: where the range starts
 * @len: bytes
 *
 * Return: 0 or a negative errno.
 */
long wfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	const struct wfs_file *wf = file->private_data;
	struct inode *inode = file_inode(file);
	struct wfs_allocate_req *body;
	struct wfs_req *req;
	int err;

	BUILD_BUG_ON(WFS_ALLOC_KEEP_SIZE != FALLOC_FL_KEEP_SIZE || WFS_ALLOC_PUNCH_HOLE != FALLOC_FL_PUNCH_HOLE ||
		     WFS_ALLOC_ZERO_RANGE != FALLOC_FL_ZERO_RANGE);
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	err = wfs_check_lock(file);
	if (err)
		return err;
	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_ALLOCATE, wf->cred, sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->io = wf->io;
	body->offset = cpu_to_le64(offset);
	body->len = cpu_to_le64(len);
	body->mode = cpu_to_le32(mode);

	err = wfs_range_begin(inode);
	if (err)
		goto out;
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		err = inode_newsize_ok(inode, offset + len);
	if (err)
		goto out_end;
	err = wfs_req_call_change(req, inode);
	if (err) {
		if (err != -EOPNOTSUPP)
			wfs_range_failed(inode);
		goto out_end;
	}
	wfs_range_done(inode, (const struct wfs_write_rep *)req->rep, req->start);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		wfs_range_drop(inode, offset, len);
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		wfs_range_grow(inode, offset + len);
out_end:
	wfs_range_end(inode);
out:
	wfs_req_put(req);
	return err;
}

/* SEEK_DATA, SEEK_HOLE: where the server has data and holes. */
static loff_t wfs_seek(struct file *file, loff_t offset, int whence)
{
	const struct wfs_file *wf = file->private_data;
	struct inode *inode = file_inode(file);
	struct wfs_seek_req *body;
	struct wfs_req *req;
	loff_t ret;

	BUILD_BUG_ON(WFS_SEEK_DATA != SEEK_DATA || WFS_SEEK_HOLE != SEEK_HOLE);
	if (offset < 0)
		return -ENXIO;
	ret = wfs_check_lock(file) ?: wfs_flush(inode);
	if (ret)
		return ret;
	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_SEEK, wf->cred, sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->io = wf->io;
	body->offset = cpu_to_le64(offset);
	body->whence = cpu_to_le32(whence);
	ret = wfs_req_call(req);
	if (!ret)
		ret = vfs_setpos(file, le64_to_cpu(((struct wfs_seek_rep *)req->rep)->offset),
				 inode->i_sb->s_maxbytes);
	wfs_req_put(req);
	return ret;
}

/**
 * wfs_llseek - lseek(2) on a regular file
 * @file: the file
 * @offset: as lseek(2)
 * @whence: SEEK_*
 *
 * Return: the new position or a negative errno.
 */
loff_t wfs_llseek(struct file *file, loff_t offset, int whence)
{
	struct inode *inode = file_inode(file);
	loff_t ret;

	switch (whence) {
	case SEEK_SET:
	case SEEK_CUR:
		break;
	case SEEK_DATA:
	case SEEK_HOLE:
		ret = wfs_seek(file, offset, whence);
		if (ret != -EOPNOTSUPP)
			return ret;
		fallthrough;	/* all is data, but for a hole at the end */
	default:
		ret = wfs_revalidate(inode, 0);
		if (ret)
			return ret;
	}
	return generic_file_llseek(file, offset, whence);
}

/* One COPY within wfs_range_begin().  Return bytes, 0 at the end of the source, or a negative errno. */
static ssize_t wfs_copy_piece(const struct wfs_file *from, loff_t pos, const struct wfs_file *to,
			      struct inode *inode, loff_t to_pos, size_t len)
{
	const struct wfs_copy_rep *rep;
	struct wfs_copy_req *body;
	struct wfs_req *req;
	ssize_t ret;

	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_COPY, to->cred, sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->from = from->io;
	body->to = to->io;
	body->from_offset = cpu_to_le64(pos);
	body->to_offset = cpu_to_le64(to_pos);
	body->len = cpu_to_le64(len);
	ret = wfs_req_call_change(req, inode);
	if (!ret) {
		rep = (const void *)req->rep;
		ret = le64_to_cpu(rep->copied);
		wfs_range_done(inode, &rep->wrote, req->start);
	} else if (ret != -EOPNOTSUPP && ret != -EXDEV) {
		wfs_range_failed(inode);
	}
	if (ret > 0) {
		wfs_range_drop(inode, to_pos, ret);
		wfs_range_grow(inode, to_pos + ret);
	}
	wfs_req_put(req);
	return ret;
}

static ssize_t wfs_copy(struct file *from, loff_t pos, struct file *to, loff_t to_pos, size_t len)
{
	struct inode *inode = file_inode(to);
	ssize_t ret, done = 0;

	ret = wfs_check_lock(from) ?: wfs_check_lock(to) ?: wfs_flush(file_inode(from));
	if (!ret)
		ret = wfs_range_begin(inode);
	if (ret)
		return ret;
	while (len) {
		ret = wfs_copy_piece(from->private_data, pos + done, to->private_data, inode, to_pos + done, len);
		if (ret <= 0)
			break;
		done += ret;
		len -= ret;
	}
	wfs_range_end(inode);
	return done ?: ret;
}

/**
 * wfs_copy_file_range - copy_file_range(2)
 * @from: open for reading
 * @pos: where in it
 * @to: open for writing
 * @to_pos: where in it
 * @len: bytes
 * @flags: 0
 *
 * Return: bytes copied, fewer at the end of @from, or a negative errno.
 */
ssize_t wfs_copy_file_range(struct file *from, loff_t pos, struct file *to, loff_t to_pos, size_t len,
			    unsigned int flags)
{
	ssize_t ret = -EXDEV;

	if (file_inode(from)->i_sb == file_inode(to)->i_sb)
		ret = wfs_copy(from, pos, to, to_pos, min_t(size_t, len, MAX_RW_COUNT));
	if (ret == -EXDEV || ret == -EOPNOTSUPP)
		ret = splice_copy_file_range(from, pos, to, to_pos, len);
	return ret;
}
