// SPDX-License-Identifier: GPL-2.0
/* file.c - regular files: open and close, and what read, write, mmap and fsync do before the data path */
#include "internal.h"

#define WFS_WRITE_BEHIND	4	/* WRITEs that are sent at once; see wfs_write_behind() */

#define WFS_READ_STEP	(2ul * WFS_IO_MAX)	/* of a buffered read(2) */

/* WFS_OPEN_* for an open with @f_flags.  Who writes wants to read too, to fill up what a write leaves of a folio. */
u32 wfs_open_flags(unsigned int f_flags)
{
	u32 flags = WFS_OPEN_READ;

	if ((f_flags & O_ACCMODE) != O_RDONLY)
		flags |= WFS_OPEN_WRITE;
	else if (f_flags & __FMODE_EXEC)
		flags |= WFS_OPEN_EXEC;
	return flags;
}

static int wfs_send_open(struct inode *inode, u32 flags, struct wfs_fh *io, struct wfs_hold **hold)
{
	const struct wfs_open_rep *rep;
	struct wfs_open_req *body;
	struct wfs_req *req;
	int err;

	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_OPEN, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->fh = WFS_I(inode)->fh;
	body->flags = cpu_to_le32(flags);
	err = wfs_hold_prepare(req) ?: wfs_req_call(req);
	if (!err) {
		rep = (const void *)req->rep;
		*io = rep->io;
		*hold = req->private;
		err = wfs_update_attr_wire(inode, &rep->attr, req->start, WFS_ATTR_OPENED);
		if (err)
			wfs_send_close(req->sess, *hold, current_cred());
	}
	wfs_req_put(req);
	return err;
}

/**
 * wfs_file_attach - make an open file of an I/O handle
 * @inode: the file's inode
 * @file: the file
 * @io: the handle
 * @hold: what came with it; given back on failure
 * @can_read: it has the right to read
 *
 * Return: 0 or -ENOMEM.
 */
int wfs_file_attach(struct inode *inode, struct file *file, const struct wfs_fh *io, struct wfs_hold *hold,
		    bool can_read)
{
	struct wfs_file *wf = kzalloc(sizeof(*wf), GFP_KERNEL);
	struct wfs_inode *wi = WFS_I(inode);
	const struct cred *old;

	if (!wf) {
		wfs_send_close(wfs_sess(inode->i_sb), hold, file->f_cred);
		return -ENOMEM;
	}
	wf->io = *io;
	wf->hold = hold;
	wf->cred = get_cred(file->f_cred);
	wf->can_read = can_read;
	wfs_ra_init(&wf->ra, file);
	file->private_data = wf;
	atomic_inc(&wi->opens);
	if (file->f_mode & FMODE_WRITE) {
		/* the right outlives the open file, so writeback may use it later */
		spin_lock(&wi->lock);
		old = wi->write_cred;
		wi->write_io = *io;
		wi->write_cred = get_cred(file->f_cred);
		spin_unlock(&wi->lock);
		if (old)
			put_cred(old);
	}
	return 0;
}

static int wfs_release(struct inode *inode, struct file *file)
{
	struct wfs_file *wf = file->private_data;

	/* there is none when wfs_atomic_open() failed late */
	if (!wf)
		return 0;
	wfs_ra_end(&wf->ra);
	atomic_dec(&WFS_I(inode)->opens);
	wfs_send_close(wfs_sess(inode->i_sb), wf->hold, wf->cred);
	put_cred(wf->cred);
	kfree(wf);
	return 0;
}

static int wfs_open(struct inode *inode, struct file *file)
{
	u32 flags = wfs_open_flags(file->f_flags);
	struct dentry *dentry = file_dentry(file);
	struct wfs_hold *hold;
	struct wfs_fh io;
	int err;

	err = wfs_send_open(inode, flags, &io, &hold);
	if (err == -EACCES && (flags & WFS_OPEN_WRITE) && !(file->f_mode & FMODE_READ)) {
		flags &= ~WFS_OPEN_READ;
		err = wfs_send_open(inode, flags, &io, &hold);
	}
	if (err)
		return err;
	/* close-to-open: somebody else's rename may have put another file here.  The VFS looks again for ESTALE. */
	if (!inode->i_nlink && !d_unhashed(dentry) && !d_mountpoint(dentry)) {
		d_drop(dentry);
		wfs_send_close(wfs_sess(inode->i_sb), hold, file->f_cred);
		return -ESTALE;
	}
	file->f_mode |= FMODE_CAN_ODIRECT | FMODE_NOWAIT;
	err = wfs_file_attach(inode, file, &io, hold, flags & WFS_OPEN_READ);
	if (err)
		return err;
	/* close-to-open: see what was closed before */
	err = wfs_revalidate_mapping(inode);
	if (err)
		wfs_release(inode, file);
	return err;
}

/* What writing has failed with since this file was last told.  Lost data may be forgotten then. */
static int wfs_report_error(struct file *file)
{
	int err = file_check_and_advance_wb_err(file);

	if (err)
		clear_bit(WFS_INO_LOST_DATA, &WFS_I(file_inode(file))->flags);
	return err;
}

/* close(2): what was written is on the server, or that it is not is told here. */
static int wfs_file_flush(struct file *file, fl_owner_t id)
{
	struct inode *inode = file_inode(file);
	int err;

	if (!(file->f_mode & FMODE_WRITE))
		return 0;
	err = wfs_flush(inode);
	/* attributes that can't be asked for now are asked for later: the data is there */
	if (!err)
		wfs_settle(inode);
	/* a child that closes what it inherited must not take away what its parent's fsync has to report */
	if (file_count(file) > 1)
		return filemap_check_wb_err(inode->i_mapping, READ_ONCE(file->f_wb_err)) ?: err;
	return wfs_report_error(file) ?: err;
}

static int wfs_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct inode *inode = file_inode(file);
	int err, wb_err;

	err = wfs_flush(inode);
	if (!err)
		err = wfs_commit(inode, datasync);
	wb_err = wfs_report_error(file);
	return wb_err ?: err;
}

/**
 * wfs_check_lock - may data go through a file, or has a lock been lost that was taken through it?
 * @file: an open regular file
 *
 * Others may write, or have written, what the lock was to protect.  So each operation on data asks here first: those
 * that find it in the page cache as well.
 *
 * Return: 0, or -EIO until it is unlocked.
 */
int wfs_check_lock(const struct file *file)
{
	const struct wfs_file *wf = file->private_data;

	return unlikely(READ_ONCE(wf->lost_lock)) ? -EIO : 0;
}

/*
 * Read through the page cache, step by step: what a step asks for is locked until it comes, and nobody can reclaim it,
 * so it must not be as much as read(2) may want.
 */
static ssize_t wfs_buffered_read(struct kiocb *iocb, struct iov_iter *to)
{
	size_t left = iov_iter_count(to), step;
	ssize_t ret, done = 0;

	do {
		step = min_t(size_t, left, WFS_READ_STEP);
		iov_iter_truncate(to, step);
		wfs_ra_read(iocb->ki_filp, iocb->ki_pos, step);
		ret = generic_file_read_iter(iocb, to);
		left -= step;
		if (ret > 0)
			done += ret;
		/* what has been read is told now: no wakeup may come any more, as filemap_read() has it too */
		if (done && (iocb->ki_flags & IOCB_WAITQ))
			iocb->ki_flags |= IOCB_NOWAIT;
		iov_iter_reexpand(to, left + iov_iter_count(to));
	} while (left && ret == step);
	return done ?: ret;
}

static ssize_t wfs_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret;
	int err;

	err = wfs_check_lock(iocb->ki_filp);
	if (err)
		return err;
	if (iocb->ki_flags & IOCB_DIRECT)
		return wfs_direct_read(iocb, to);
	if (iocb->ki_flags & IOCB_NOWAIT) {
		if (wfs_data_stale(inode) || !wfs_attr_fresh(inode))
			return -EAGAIN;
	} else {
		err = wfs_revalidate_mapping(inode);
		if (err)
			return err;
	}
	ret = wfs_buffered_read(iocb, to);
	return ret == -EIO && test_bit(WFS_INO_GONE, &WFS_I(inode)->flags) ? -ESTALE : ret;
}

/*
 * Writing back has failed.  From then on a write waits for its data to be on the server and tells why it is not, until
 * one succeeds.  Of what was lost before, fsync(2) and close(2) tell all the same.
 */
static int wfs_write_through(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	WRITE_ONCE(wi->write_error, 0);
	return wfs_flush(inode) ?: READ_ONCE(wi->write_error);
}

/*
 * Who writes one piece after the other, a checkpoint for example, writes for long: so full WRITEs go on their way while he
 * goes on, and do not wait for the flusher or for fsync.  As Lustre does it.  @ret: bytes up to @end that were just written.
 *
 * Return: how many from *@from on are to be sent.
 */
static loff_t wfs_write_behind(struct wfs_file *wf, unsigned int wsize, loff_t end, ssize_t ret, loff_t *from)
{
	loff_t full = end - end % wsize;

	if (end - ret != wf->written)
		wf->sent = end - ret;
	wf->written = end;
	*from = wf->sent;
	if (full - wf->sent < WFS_WRITE_BEHIND * (loff_t)wsize)
		return 0;
	wf->sent = full;
	return full - *from;
}

static ssize_t wfs_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct file *file = iocb->ki_filp;
	struct wfs_file *wf = file->private_data;
	struct inode *inode = file_inode(file);
	loff_t behind = 0, start;
	ssize_t ret;

	ret = wfs_check_lock(file);
	if (ret)
		return ret;
	/*
	 * What can't be read can't be cached: a folio that is written in part could not be filled up.  Nor what takes
	 * setuid and setgid bits away: the server does that, and no program may be run with them and what it doesn't
	 * have yet.
	 */
	if ((iocb->ki_flags & IOCB_DIRECT) || !wf->can_read || (inode->i_mode & (S_ISUID | S_ISGID)))
		return wfs_direct_write(iocb, from);
	if (iocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;

	ret = wfs_revalidate_mapping(inode);
	if (ret)
		return ret;
	ret = down_write_killable(&inode->i_rwsem);
	if (ret)
		return ret;
	if (iocb->ki_flags & IOCB_APPEND) {
		ret = wfs_revalidate_end(inode);
		if (ret)
			goto out;
	}
	ret = generic_write_checks(iocb, from);
	if (ret <= 0)
		goto out;
	wfs_begin_write(inode);
	ret = iocb->ki_pos > i_size_read(inode) ? wfs_zero_tail(inode, i_size_read(inode)) : 0;
	if (!ret)
		ret = generic_perform_write(iocb, from);
	wfs_end_write(inode);
	if (ret > 0)
		behind = wfs_write_behind(wf, wfs_sess(inode->i_sb)->opt.wsize, iocb->ki_pos, ret, &start);
out:
	inode_unlock(inode);
	/* with no server it would only use up memory that WRITEs have in reserve */
	if (behind && atomic_read(&wfs_sess(inode->i_sb)->ready))
		wfs_writeback_begin(inode->i_mapping, start, start + behind - 1);
	if (ret > 0 && unlikely(READ_ONCE(WFS_I(inode)->write_error)))
		ret = wfs_write_through(inode) ?: ret;
	return ret > 0 ? generic_write_sync(iocb, ret) : ret;
}

static ssize_t wfs_splice_read(struct file *in, loff_t *ppos, struct pipe_inode_info *pipe, size_t len,
			       unsigned int flags)
{
	int err = wfs_check_lock(in) ?: wfs_revalidate_mapping(file_inode(in));

	if (err)
		return err;
	wfs_ra_read(in, *ppos, min_t(size_t, len, WFS_READ_STEP));
	return filemap_splice_read(in, ppos, pipe, len, flags);
}

static vm_fault_t wfs_fault(struct vm_fault *vmf)
{
	return wfs_check_lock(vmf->vma->vm_file) ? VM_FAULT_SIGBUS : wfs_ra_fault(vmf);
}

static vm_fault_t wfs_map_pages(struct vm_fault *vmf, pgoff_t first, pgoff_t last)
{
	return wfs_check_lock(vmf->vma->vm_file) ? 0 : wfs_ra_map_pages(vmf, first, last);
}

static const struct vm_operations_struct wfs_vm_ops = {
	.fault		= wfs_fault,
	.map_pages	= wfs_map_pages,
	.page_mkwrite	= wfs_page_mkwrite,
};

static int wfs_mmap(struct file *file, struct vm_area_struct *vma)
{
	int err = wfs_check_lock(file) ?: wfs_revalidate_mapping(file_inode(file));

	if (err)
		return err;
	vma->vm_ops = &wfs_vm_ops;
	return 0;
}

const struct file_operations wfs_file_operations = {
	.open		= wfs_open,
	.release	= wfs_release,
	.flush		= wfs_file_flush,
	.fsync		= wfs_fsync,
	.read_iter	= wfs_read_iter,
	.write_iter	= wfs_write_iter,
	.splice_read	= wfs_splice_read,
	.splice_write	= iter_file_splice_write,
	.mmap		= wfs_mmap,
	.llseek		= wfs_llseek,
	.fallocate	= wfs_fallocate,
	.copy_file_range = wfs_copy_file_range,
	.fadvise	= wfs_fadvise,
	.setlease	= simple_nosetlease,
	.lock		= wfs_lock,
	.flock		= wfs_flock,
	.fop_flags	= FOP_BUFFER_RASYNC | FOP_DIO_PARALLEL_WRITE,
};

const struct inode_operations wfs_file_inode_operations = {
	.getattr	= wfs_getattr,
	.setattr	= wfs_setattr,
	.permission	= wfs_permission,
	.listxattr	= wfs_listxattr,
	.get_inode_acl	= wfs_get_acl,
	.set_acl	= wfs_set_acl,
};
