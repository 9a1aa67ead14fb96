// SPDX-License-Identifier: GPL-2.0-only
/*
 * range.c - parts of files: ALLOCATE, SEEK, COPY.
 *
 * What ALLOCATE and COPY leave is as good as written: it is done as the caller, so that the kernel
 * clears setuid and setgid, and may be lost until a COMMIT, which the verifier tells.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "wfsd.h"

#define COPY_MAX	(64u << 20)	/* bytes in one request, so that it ends in good time */

int op_allocate(struct op_ctx *op)
{
	struct wfs_write_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct change ch;
	struct file *file;
	int err, err2;

	_Static_assert(WFS_ALLOC_KEEP_SIZE == FALLOC_FL_KEEP_SIZE &&
		       WFS_ALLOC_PUNCH_HOLE == FALLOC_FL_PUNCH_HOLE &&
		       WFS_ALLOC_ZERO_RANGE == FALLOC_FL_ZERO_RANGE, "modes differ");
	err = file_get_write(op->cred, &rq->fh, &file);
	if (err)
		return err;
	/* First, so that what is lost from here on shows in the next verifier. */
	rep->verifier = htole64(verifier_get());
	err = cred_assume(op->cred, rq);
	change_begin(&ch, file->fd, op->session);
	if (!err && fallocate(file->fd, rq->mode, rq->offset, rq->len))
		err = -errno;
	file_wrote(file);
	err2 = reply_change(&ch, file->fd, &rep->attr);
	if (!err)
		err = err2;
	op->rep->body_len = sizeof(*rep);
	file_put(file);
	return err;
}

/* Any I/O handle does.  The descriptor's position means nothing to anybody. */
int op_seek(struct op_ctx *op)
{
	struct wfs_seek_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct file *file;
	off_t pos;
	int err;

	_Static_assert(WFS_SEEK_DATA == SEEK_DATA && WFS_SEEK_HOLE == SEEK_HOLE, "whence differs");
	err = file_get(op->cred, &rq->fh, &file);
	if (err)
		return err;
	pos = handle_rights(&rq->fh) ? lseek(file->fd, rq->offset, rq->count) : (errno = EBADF, -1);
	if (pos < 0)
		err = -errno;
	rep->offset = htole64(pos);
	op->rep->body_len = sizeof(*rep);
	file_put(file);
	return err;
}

int op_copy(struct op_ctx *op)
{
	struct wfs_copy_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	off_t in = rq->offset, out = rq->to_offset;
	struct file *from, *to;
	struct change ch;
	ssize_t n = 0;
	int err, err2;

	err = file_get(op->cred, &rq->fh, &from);
	if (err)
		return err;
	if (!(handle_rights(&rq->fh) & FH_READ))
		err = -EBADF;
	else
		err = file_get_write(op->cred, &rq->fh2, &to);
	if (err)
		goto out_from;
	rep->wrote.verifier = htole64(verifier_get());
	err = cred_assume(op->cred, rq);
	if (err)
		goto out_to;
	change_begin(&ch, to->fd, op->session);
	n = copy_file_range(from->fd, &in, to->fd, &out, MIN(rq->len, COPY_MAX), 0);
	if (n < 0)
		err = -errno;
	file_wrote(to);
	err2 = reply_change(&ch, to->fd, &rep->wrote.attr);
	if (!err)
		err = err2;
	rep->copied = htole64(n);
	op->rep->body_len = sizeof(*rep);
out_to:
	file_put(to);
out_from:
	file_put(from);
	return err;
}
