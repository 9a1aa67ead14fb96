// SPDX-License-Identifier: GPL-2.0-only
/*
 * ops.c - the operations.
 *
 * Each runs in a worker without a lock of the loop's.  The pattern is: get the files that the
 * handles name (as root), become the caller, do the system call, tell what it left.  Files are
 * named to the kernel by descriptor; where it wants a path, "N" relative to the working directory
 * does, which is /proc/self/fd in every worker.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "wfsd.h"

#define READ_COPY	(16u << 10)	/* bytes that READ copies, and does not have sent from the file */

struct fd_path {
	char s[16];
};

static struct fd_path fd_path(int fd)
{
	struct fd_path p;

	snprintf(p.s, sizeof(p.s), "%d", fd);
	return p;
}

static bool out_of_files(int fd)
{
	return fd < 0 && (errno == EMFILE || errno == ENFILE) && file_evict(true);
}

int open_file_of(int fd, int flags)
{
	struct fd_path path = fd_path(fd);
	int n;

	do
		n = openat(cfg.proc_fd, path.s, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	while (out_of_files(n));
	return n < 0 ? -errno : n;
}

static int open_how(int dirfd, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = flags | O_NOFOLLOW | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS |
			   RESOLVE_NO_SYMLINKS,
	};
	int n;

	do
		n = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	while (out_of_files(n));
	return n < 0 ? -errno : n;
}

/* An entry of a directory and nothing beyond: not another mount, not where a symlink leads. */
int open_in(int dirfd, const char *name, int flags)
{
	return open_how(dirfd, name, flags, 0);
}

int stat_fd(int fd, struct statx *stx)
{
	return statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, stx) ? -errno : 0;
}

/* As access(2) with the ids of the thread.  glibc's would compare modes itself on some kernels. */
int access_fd(int fd, int mask)
{
	return syscall(SYS_faccessat2, fd, "", mask, AT_EACCESS | AT_EMPTY_PATH);
}

/* All but what change.c says; with that flags are there. */
static void fill_rest(const struct statx *stx, struct wfs_attr *a)
{
	bool btime = stx->stx_mask & STATX_BTIME;

	a->ino = htole64(stx->stx_ino);
	a->size = htole64(stx->stx_size);
	a->blocks = htole64(stx->stx_blocks);
	a->atime_sec = htole64(stx->stx_atime.tv_sec);
	a->mtime_sec = htole64(stx->stx_mtime.tv_sec);
	a->ctime_sec = htole64(stx->stx_ctime.tv_sec);
	a->btime_sec = htole64(btime ? stx->stx_btime.tv_sec : 0);
	a->atime_nsec = htole32(stx->stx_atime.tv_nsec);
	a->mtime_nsec = htole32(stx->stx_mtime.tv_nsec);
	a->ctime_nsec = htole32(stx->stx_ctime.tv_nsec);
	a->btime_nsec = htole32(btime ? stx->stx_btime.tv_nsec : 0);
	a->mode = htole32(stx->stx_mode);
	a->nlink = htole32(orphan_nlink(stx));
	a->uid = htole32(stx->stx_uid);
	a->gid = htole32(stx->stx_gid);
	a->rdev_major = htole32(stx->stx_rdev_major);
	a->rdev_minor = htole32(stx->stx_rdev_minor);
	a->blksize = htole32(stx->stx_blksize);
	a->flags |= htole32(btime ? WFS_ATTR_BTIME : 0);
}

/* @seen, @s: as change_fill() has them */
void attr_fill(const struct statx *stx, uint64_t seen, const struct session *s, struct wfs_attr *a)
{
	change_fill(stx, seen, s, a);
	fill_rest(stx, a);
}

/* The attributes as they are; or as an operation of ours has just left them. */
int reply_attr(struct op_ctx *op, int fd, struct wfs_attr *attr)
{
	uint64_t seen = change_seen();
	struct statx stx;
	int err = stat_fd(fd, &stx);

	if (!err)
		attr_fill(&stx, seen, op->session, attr);
	return err;
}

int reply_changed(struct op_ctx *op, int fd, struct wfs_attr *attr)
{
	uint64_t stamp = change_number();
	struct statx stx;
	int err = stat_fd(fd, &stx);

	if (err)
		return err;
	change_stamp(&stx, stamp);
	attr_fill(&stx, stamp, op->session, attr);
	return 0;
}

/* The same of a change that change_begin() announced. */
int reply_change(struct change *ch, int fd, struct wfs_attr *attr)
{
	struct statx stx;
	int err = change_end(ch, fd, &stx);

	if (err)
		return err;
	change_fill_own(&stx, ch, attr);
	fill_rest(&stx, attr);
	return 0;
}

static int reply_pre(int dirfd, struct wfs_dir_change *dc)
{
	uint64_t seen = change_seen();
	struct wfs_attr attr;
	struct statx stx;
	int err = stat_fd(dirfd, &stx);

	if (err)
		return err;
	change_fill(&stx, seen, NULL, &attr);
	dc->pre_change = attr.change;
	return 0;
}

/* A handle and attributes; @stx: what the attributes were made of. */
int setup_entry(int fd, const struct session *s, struct wfs_entry *entry, struct statx *stx)
{
	uint64_t seen = change_seen();
	int err = stat_fd(fd, stx);

	if (!err)
		err = handle_from_fd(fd, 0, &entry->fh);
	if (!err)
		attr_fill(stx, seen, s, &entry->attr);
	return err;
}

/* Whoever is told of a file will ask for it again: its descriptor goes into the cache. */
static int reply_entry(struct op_ctx *op, int fd, struct wfs_entry *entry)
{
	struct statx stx;
	int err = setup_entry(fd, op->session, entry, &stx);

	if (err) {
		close(fd);
		return err;
	}
	file_put(file_insert(&entry->fh, fd));
	return 0;
}

/* What most operations begin with. */
int get_file(struct op_ctx *op, const struct wfs_fh *fh, struct file **file)
{
	int err = file_get(op->cred, fh, file);

	if (err)
		return err;
	err = cred_assume(op->cred, op->rq);
	if (err)
		file_put(*file);
	return err;
}

/* Room for data of the reply; at least a byte, so that it is there. */
static char *reply_data(struct op_ctx *op, size_t len)
{
	op->rep->data = malloc(len ? len : 1);
	return op->rep->data;
}

static int op_root(struct op_ctx *op)
{
	struct wfs_entry *rep = (void *)op->rep->body;

	op->rep->body_len = sizeof(*rep);
	rep->fh = cfg.root_fh;
	return reply_attr(op, cfg.root_fd, &rep->attr);
}

static int op_lookup(struct op_ctx *op)
{
	struct wfs_entry *rep = (void *)op->rep->body;
	struct file *dir;
	int fd, err;

	err = get_file(op, &op->rq->fh, &dir);
	if (err)
		return err;
	fd = open_in(dir->fd, op->rq->name, O_PATH);
	file_put(dir);
	if (fd < 0)
		return fd;
	op->rep->body_len = sizeof(*rep);
	return reply_entry(op, fd, rep);
}

static int op_getattr(struct op_ctx *op)
{
	struct wfs_attr *rep = (void *)op->rep->body;
	struct file *file;
	int err;

	err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	op->rep->body_len = sizeof(*rep);
	err = reply_attr(op, file->fd, rep);
	file_put(file);
	return err;
}

static int set_attributes(struct file *file, const struct request *rq)
{
	struct fd_path path = fd_path(file->fd);
	struct timespec ts[2] = { rq->set_times[0], rq->set_times[1] };
	uint32_t valid = rq->flags;
	struct statx stx;

	if (valid & WFS_SET_SIZE) {
		/* The right to write was granted at open; the mode may have changed since. */
		if (handle_rights(&rq->fh) & FH_WRITE) {
			if (ftruncate(file->fd, rq->set_size))
				return -errno;
		} else if (truncate(path.s, rq->set_size)) {
			return -errno;
		}
	}
	if (valid & (WFS_SET_UID | WFS_SET_GID)) {
		if (fchownat(file->fd, "", valid & WFS_SET_UID ? rq->set_uid : (uid_t)-1,
			     valid & WFS_SET_GID ? rq->set_gid : (gid_t)-1, AT_EMPTY_PATH))
			return -errno;
	}
	if (valid & WFS_SET_MODE) {
		if (statx(file->fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx))
			return -errno;
		if (S_ISLNK(stx.stx_mode))
			return -EOPNOTSUPP;
		if (fchmodat(cfg.proc_fd, path.s, rq->mode, 0))
			return -errno;
	}
	if (valid & (WFS_SET_ATIME | WFS_SET_ATIME_NOW | WFS_SET_MTIME | WFS_SET_MTIME_NOW)) {
		if (!(valid & WFS_SET_ATIME))
			ts[0].tv_nsec = valid & WFS_SET_ATIME_NOW ? UTIME_NOW : UTIME_OMIT;
		if (!(valid & WFS_SET_MTIME))
			ts[1].tv_nsec = valid & WFS_SET_MTIME_NOW ? UTIME_NOW : UTIME_OMIT;
		if (utimensat(file->fd, "", ts, AT_EMPTY_PATH))
			return -errno;
	}
	return 0;
}

static int op_setattr(struct op_ctx *op)
{
	struct wfs_attr *rep = (void *)op->rep->body;
	struct change ch;
	struct file *file;
	int err, err2;

	if ((op->rq->flags & WFS_SET_SIZE) && (handle_rights(&op->rq->fh) & FH_WRITE))
		err = file_get_write(op->cred, &op->rq->fh, &file);
	else
		err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	change_begin(&ch, file->fd, op->session);
	err = cred_assume(op->cred, op->rq) ?: set_attributes(file, op->rq);
	/* Some of it may have been done before the error. */
	err2 = reply_change(&ch, file->fd, rep);
	op->rep->body_len = sizeof(*rep);
	file_put(file);
	return err ? err : err2;
}

static int op_access(struct op_ctx *op)
{
	struct wfs_access_rep *rep = (void *)op->rep->body;
	uint32_t granted = 0;
	struct file *file;
	int err;

	err = get_file(op, &op->rq->fh, &file);
	if (err)
		return err;
	for (uint32_t bit = 1; bit <= 4; bit <<= 1) {
		if (!(op->rq->count & bit) || (cfg.read_only && bit == W_OK))
			continue;
		if (!access_fd(file->fd, bit))
			granted |= bit;
	}
	rep->mask = htole32(granted);
	rep->reserved = 0;
	op->rep->body_len = sizeof(*rep);
	err = reply_attr(op, file->fd, &rep->attr);
	file_put(file);
	return err;
}

static int open_mode(uint32_t flags)
{
	int mode = flags & WFS_OPEN_TRUNC ? O_TRUNC : 0;

	if ((flags & WFS_OPEN_READ) && (flags & WFS_OPEN_WRITE))
		return mode | O_RDWR;
	return mode | (flags & WFS_OPEN_WRITE ? O_WRONLY : O_RDONLY);
}

unsigned int open_rights(uint32_t flags)
{
	return (flags & WFS_OPEN_READ ? FH_READ : 0) | (flags & WFS_OPEN_WRITE ? FH_WRITE : 0);
}

/*
 * Opens for I/O what an O_PATH fd stands for: files only, a FIFO would wait and a device act.  A
 * client's kernel has to read a program that its caller may execute and not read.
 */
static int open_regular(struct cred *cred, int path_fd, uint32_t flags)
{
	struct statx stx;

	if (statx(path_fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx))
		return -errno;
	switch (stx.stx_mode & S_IFMT) {
	case S_IFREG:
		if (flags & WFS_OPEN_EXEC) {
			if (access_fd(path_fd, X_OK))
				return -errno;
			cred_root(cred);
		}
		return open_file_of(path_fd, open_mode(flags));
	case S_IFDIR:
		return -EISDIR;
	case S_IFLNK:
		return -ELOOP;
	default:
		return -EINVAL;
	}
}

/*
 * A file was opened, and there is a hold on it: make its I/O handle.  Takes over fd.  If the last
 * link went between the open and the hold, whoever removed it did not see the hold; so look again.
 */
static int finish_open(struct op_ctx *op, const struct wfs_fh *fh, int fd, struct wfs_fh *io,
		       struct wfs_attr *attr, bool changed)
{
	uint64_t seen = changed ? change_number() : change_seen();
	struct file *file;
	struct statx stx;
	int err;

	err = stat_fd(fd, &stx);
	if (err) {
		close(fd);
		return err;
	}
	if (changed)
		change_stamp(&stx, seen);
	attr_fill(&stx, seen, op->session, attr);
	handle_with_rights(fh, open_rights(op->rq->flags), io);
	file = file_insert(io, fd);
	if (!file)
		return -ENOMEM;
	if (!stx.stx_nlink) {
		cred_root(op->cred);
		hold_pin(fh, file->fd);
	}
	file_put(file);
	return 0;
}

static void drop_hold(struct op_ctx *op, const struct wfs_fh *fh)
{
	cred_root(op->cred);
	hold_drop(op->session, fh);
}

static int op_open(struct op_ctx *op)
{
	struct wfs_open_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct file *file;
	int fd, err;

	err = get_file(op, &rq->fh, &file);
	if (err)
		return err;
	err = hold_add(op->session, &rq->fh);
	if (err)
		goto out;
	fd = open_regular(op->cred, file->fd, rq->flags);
	if (fd < 0)
		err = fd;
	else
		err = finish_open(op, &rq->fh, fd, &rep->io, &rep->attr,
				  rq->flags & WFS_OPEN_TRUNC);
	if (err)
		drop_hold(op, &rq->fh);
	op->rep->body_len = sizeof(*rep);
out:
	file_put(file);
	return err;
}

/* What a name stands for, in the eyes of the caller; *@err is why it can't be said. */
static bool stat_name(int dirfd, const char *name, struct statx *stx, int *err)
{
	*err = statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, stx) ?
	       -errno : 0;
	return !*err;
}

/* A name is about to be made, if it is free; else there is nothing to be remembered. */
static void intend_name(struct op_ctx *op, int dirfd, __le64 pre)
{
	struct statx stx;
	int err;

	if (!stat_name(dirfd, op->rq->name, &stx, &err) && err == -ENOENT)
		replay_intent(op, (__le64[2]){ pre }, NULL);
}

/*
 * Opens for CREATE; O_EXCL first, since only that tells whether we made it.  Someone may remove or
 * make the file in between, so try again, but not forever.
 */
static int create_or_open(struct op_ctx *op, int dirfd, bool *created)
{
	const struct request *rq = op->rq;
	int fd, path_fd;

	for (int i = 0; i < 100; i++) {
		fd = open_how(dirfd, rq->name, O_CREAT | O_EXCL | O_NONBLOCK | O_NOCTTY |
			      (open_mode(rq->flags) & ~O_TRUNC), rq->mode);
		*created = fd >= 0;
		if (fd != -EEXIST || (rq->flags & WFS_OPEN_EXCL))
			return fd;
		path_fd = open_in(dirfd, rq->name, O_PATH);
		if (path_fd == -ENOENT)
			continue;
		if (path_fd < 0)
			return path_fd;
		fd = open_regular(op->cred, path_fd, rq->flags);
		close(path_fd);
		return fd;
	}
	return -EAGAIN;
}

static int op_create(struct op_ctx *op)
{
	struct wfs_create_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct file *dir;
	bool created;
	int fd, err;

	err = get_file(op, &rq->fh, &dir);
	if (err)
		return err;
	cred_umask(op->cred, rq->umask);
	session_claims(op->session);	/* hold_add() does too, but then the directory would wait as well */
	change_lock_dirs(&rq->fh, NULL);
	err = reply_pre(dir->fd, &rep->dir);
	if (err)
		goto out;
	intend_name(op, dir->fd, rep->dir.pre_change);
	fd = create_or_open(op, dir->fd, &created);
	if (fd < 0) {
		err = fd;
		goto out;
	}
	err = created ? reply_changed(op, dir->fd, &rep->dir.attr) :
			reply_attr(op, dir->fd, &rep->dir.attr);
	if (!err)
		err = handle_from_fd(fd, 0, &rep->entry.fh);
	if (!err)
		err = hold_add(op->session, &rep->entry.fh);
	if (err) {
		close(fd);
		goto out;
	}
	err = finish_open(op, &rep->entry.fh, fd, &rep->io, &rep->entry.attr,
			  created || (rq->flags & WFS_OPEN_TRUNC));
	if (err)
		drop_hold(op, &rep->entry.fh);
	rep->created = htole32(created);
	rep->reserved = 0;
	op->rep->body_len = sizeof(*rep);
out:
	replay_done(op, err);
	change_unlock_dirs(&rq->fh, NULL);
	file_put(dir);
	return err;
}

static int op_close(struct op_ctx *op)
{
	int err = handle_check(&op->rq->fh);

	if (err)
		return err;
	if (!handle_rights(&op->rq->fh))
		return -EBADF;
	drop_hold(op, &op->rq->fh);
	return 0;
}

/* After a restart: @count OPENs of the inode are not closed yet. */
static int claim_hold(struct op_ctx *op)
{
	struct wfs_fh fh;
	struct file *file;
	int err;

	err = handle_check(&op->rq->fh);
	if (err)
		return err;
	if (!handle_rights(&op->rq->fh))
		return -EBADF;
	handle_with_rights(&op->rq->fh, 0, &fh);
	cred_root(op->cred);
	/* Before the look, so that an unlink after that sees it. */
	err = hold_set(op->session, &fh, op->rq->count);
	if (err)
		return err;
	err = file_get(op->cred, &fh, &file);
	if (!err)
		file_put(file);
	else if (err == -ESTALE)
		hold_set(op->session, &fh, 0);
	/* Otherwise it may well be there, and open: what we lack to look is no reason to let it go. */
	return err;
}

static int op_session(struct op_ctx *op)
{
	switch (op->rq->flags) {
	case WFS_SESSION_HOLD:
		return claim_hold(op);
	case WFS_SESSION_RECLAIMED:
		session_reclaimed(op->session);
		return 0;
	default:
		cred_root(op->cred);
		session_end(op->session);
		return 0;
	}
}

/*
 * Read now instead of when the reply is sent.  When the disk has errors this is how to answer with one of them; and
 * of little data a copy costs less than a system call for each reply, since many then leave in one.  -EAGAIN when
 * it is not in the page cache.
 */
static int read_data(struct op_ctx *op, struct file *file)
{
	uint32_t done = 0, len = op->rep->data_len;

	if (!reply_data(op, len))
		return -ENOMEM;
	while (done < len) {
		ssize_t n = cold_pread(op->cred, file->fd, op->rep->data + done, len - done, op->rq->offset + done);

		if (n < 0)
			return n;
		if (!n)
			break;
		done += n;
	}
	op->rep->data_len = done;
	return 0;
}

/* What there is of the data, into the reply's data_len; 0, -errno, or -EAGAIN when it is known to be on the disk only. */
static int read_size(struct op_ctx *op, struct file *file)
{
	const struct request *rq = op->rq;
	uint32_t len = rq->count;
	struct stat st;
	bool there;

	/* It is read at once, and that tells how much there is. */
	if (len <= READ_COPY) {
		op->rep->data_len = len;
		return 0;
	}
	there = cold_has(op->cred, file->fd, rq->offset, len);
	if (!there) {
		if (fstat(file->fd, &st))
			return -errno;
		if ((uint64_t)st.st_size <= rq->offset)
			return 0;
		len = MIN((uint64_t)st.st_size - rq->offset, len);
		there = len <= READ_COPY || (len < rq->count && cold_has(op->cred, file->fd, rq->offset, len));
	}
	op->rep->data_len = len;
	return there ? 0 : -EAGAIN;
}

static int op_read(struct op_ctx *op)
{
	const struct request *rq = op->rq;
	struct reply *rep = op->rep;
	struct file *file;
	int err;

	err = file_get(op->cred, &rq->fh, &file);
	if (err)
		return err;
	err = handle_rights(&rq->fh) & FH_READ ? read_size(op, file) : -EBADF;
	if (!err && rep->data_len) {
		if (rep->data_len <= READ_COPY || atomic_load_explicit(&file->suspect, memory_order_relaxed)) {
			err = read_data(op, file);
		} else {
			rep->offset = rq->offset;
			rep->file = file_ref(file);
		}
	}
	if (!err)
		stat_add(&stats.bytes_read, rep->data_len);
	if (err == -EAGAIN)
		err = cold_read(op, file);
	cold_stream(file, rq->offset, rep->data_len);
	file_put(file);
	return err;
}

/*
 * WRITE is done in pieces, as its payload arrives: write_open(), write_chunk() for each,
 * write_done().  Each piece is written with the caller's credentials, so that the kernel clears
 * setuid and setgid.
 */
int write_open(struct op_ctx *op, struct file **file)
{
	int err;

	if (cfg.read_only)
		return -EROFS;
	err = file_get_write(op->cred, &op->rq->fh, file);
	if (err)
		*file = NULL;
	return err;
}

/* @piped: the data is in the worker's pipe, and what of it can't be written stays there; else in its scratch */
int write_chunk(struct op_ctx *op, struct file *file, struct worker *w, bool piped, size_t len, uint64_t pos)
{
	struct wfs_write_rep *rep = (void *)op->rep->body;
	int err = cred_assume(op->cred, op->rq), err2;
	const char *buf = w->scratch;
	struct change ch;

	if (err)
		return err;
	change_begin(&ch, file->fd, op->session);
	while (len) {
		ssize_t n = piped ? intake_write(w, file->fd, len, pos) : pwrite(file->fd, buf, len, pos);

		if (n <= 0) {
			err = n ? -errno : -EIO;
			break;
		}
		buf += n;
		len -= n;
		pos += n;
		stat_add(&stats.bytes_written, n);
		file_wrote(file);
	}
	err2 = reply_change(&ch, file->fd, &rep->attr);
	return err ? err : err2;
}

/*
 * @verifier: from before the first piece, so that what was lost since shows in the next one.  Only what syncing says
 * is about data that was accepted; that there was no room for this one harms nobody.
 */
int write_done(struct op_ctx *op, struct file *file, bool stable, uint64_t verifier)
{
	struct wfs_write_rep *rep = (void *)op->rep->body;

	rep->verifier = htole64(verifier);
	op->rep->body_len = sizeof(*rep);
	return stable ? sync_file(op->cred, file, SYNC_DATA) : 0;
}

/* Through a descriptor that was opened for reading, or is for now. */
static int commit_read(struct op_ctx *op, struct file *file, enum sync_how how)
{
	struct statx stx;
	int fd, err;

	if (handle_rights(&file->fh))
		return sync_file(op->cred, file, how);
	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx))
		return -errno;
	if (!S_ISREG(stx.stx_mode) && !S_ISDIR(stx.stx_mode))
		return -EINVAL;
	fd = open_file_of(file->fd, O_RDONLY);
	if (fd < 0)
		return fd;
	err = sync_file_by(op->cred, file, fd, how);
	close(fd);
	return err;
}

/* Lost data is told of where it was written, and need not be told where the file was opened after that. */
static int commit_file(struct op_ctx *op, struct file *file)
{
	enum sync_how how = op->rq->flags & WFS_COMMIT_DATASYNC ? SYNC_DATA : SYNC_FILE;
	int err = commit_read(op, file, how);

	for (unsigned int rights = FH_WRITE; rights <= (FH_READ | FH_WRITE) && !err; rights++) {
		struct file *other = file_cached_as(&file->fh, rights);

		if (other && other != file)
			err = sync_file(op->cred, other, how);
		file_put(other);
	}
	return err;
}

static int op_commit(struct op_ctx *op)
{
	struct wfs_commit_rep *rep = (void *)op->rep->body;
	struct file *file;
	int err;

	err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	cred_root(op->cred);
	err = op->rq->flags & WFS_COMMIT_ALL ? sync_all(op->cred) : commit_file(op, file);
	/* Afterwards: somebody else may have been told what we were not. */
	rep->verifier = htole64(verifier_get());
	if (!err)
		err = reply_attr(op, file->fd, &rep->attr);
	op->rep->body_len = sizeof(*rep);
	file_put(file);
	return err;
}

static int make_node(int dirfd, const struct request *rq)
{
	int err;

	switch (rq->op) {
	case WFS_OP_MKDIR:
		err = mkdirat(dirfd, rq->name, rq->mode);
		break;
	case WFS_OP_MKNOD:
		err = mknodat(dirfd, rq->name, rq->mode, makedev(rq->rdev_major, rq->rdev_minor));
		break;
	default:
		err = symlinkat(rq->name2, dirfd, rq->name);
	}
	return err ? -errno : 0;
}

/* MKDIR, MKNOD, SYMLINK */
static int op_make(struct op_ctx *op)
{
	struct wfs_make_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct file *dir;
	int fd, err;

	err = get_file(op, &rq->fh, &dir);
	if (err)
		return err;
	cred_umask(op->cred, rq->umask);
	change_lock_dirs(&rq->fh, NULL);
	err = reply_pre(dir->fd, &rep->dir);
	if (err)
		goto out;
	intend_name(op, dir->fd, rep->dir.pre_change);
	err = make_node(dir->fd, rq);
	if (err)
		goto out;
	err = reply_changed(op, dir->fd, &rep->dir.attr);
	fd = open_in(dir->fd, rq->name, O_PATH);
	if (fd < 0)
		err = fd;
	else
		err = reply_entry(op, fd, &rep->entry) ?: err;
	op->rep->body_len = sizeof(*rep);
out:
	replay_done(op, err);
	change_unlock_dirs(&rq->fh, NULL);
	file_put(dir);
	return err;
}

static int op_link(struct op_ctx *op)
{
	struct wfs_link_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct statx was, there;
	struct file *file, *dir;
	struct change ch;
	int err, err2, none;

	err = file_get(op->cred, &rq->fh, &file);
	if (err)
		return err;
	err = get_file(op, &rq->fh2, &dir);
	if (err)
		goto out_file;
	change_lock_dirs(&rq->fh2, NULL);
	change_begin(&ch, file->fd, op->session);
	err = reply_pre(dir->fd, &rep->dir) ?: stat_fd(file->fd, &was);
	if (!err && !orphan_nlink(&was))
		err = -ENOENT;		/* as link(2) has it: what is deleted gets no name again */
	if (!err && !stat_name(dir->fd, rq->name, &there, &none) && none == -ENOENT)
		replay_intent(op, (__le64[2]){ rep->dir.pre_change }, &was);
	if (!err && linkat(cfg.proc_fd, fd_path(file->fd).s, dir->fd, rq->name, AT_SYMLINK_FOLLOW))
		err = -errno;
	if (!err)
		err = reply_changed(op, dir->fd, &rep->dir.attr);
	err2 = reply_change(&ch, file->fd, &rep->attr);
	if (!err)
		err = err2;
	op->rep->body_len = sizeof(*rep);
	replay_done(op, err);
	change_unlock_dirs(&rq->fh2, NULL);
	file_put(dir);
out_file:
	file_put(file);
	return err;
}

/**
 * struct victim - what a name that is to go stands for
 * @fd: -1 when there is nothing that could be kept
 * @was: valid with @fd
 * @fh: the inode, locked; valid when @file
 * @file: it is a file, which somebody may have open
 * @kept: it has a link besides its last one
 * @forget: its descriptors in the cache are of no use any more
 */
struct victim {
	int		fd;
	struct statx	was;
	struct wfs_fh	fh;
	bool		file, kept, forget;
};

/*
 * A link of a file is to go.  If it is the last one, and the file is held, it gets another one.  A
 * user that can't remove names here must not bring us to do even that.
 */
static int keep_victim(struct op_ctx *op, int dirfd, struct victim *v)
{
	int err = handle_from_fd(v->fd, 0, &v->fh);

	if (err)
		return 0;
	orphan_lock_inode(&v->fh);
	v->file = true;
	if (orphan_nlink(&v->was) > 1 || (!hold_held(&v->fh) && !session_settling()) ||
	    access_fd(dirfd, W_OK | X_OK))
		return 0;
	cred_root(op->cred);
	cred_umask(op->cred, 077);
	v->kept = orphan_keep(&v->fh, v->fd, &v->was);
	return cred_assume(op->cred, op->rq);
}

/*
 * Opens what a name that is to go stands for, so that it can be kept for those who have it open.
 * Without descriptors or memory the name may not go.  victim_done() has to follow.
 */
static int open_victim(struct op_ctx *op, int dirfd, const char *name, struct victim *v)
{
	v->fd = open_in(dirfd, name, O_PATH);
	if (v->fd == -EMFILE || v->fd == -ENFILE || v->fd == -ENOMEM)
		return v->fd;
	if (v->fd >= 0 && stat_fd(v->fd, &v->was)) {
		close(v->fd);
		v->fd = -1;
	}
	return v->fd >= 0 && S_ISREG(v->was.stx_mode) ? keep_victim(op, dirfd, v) : 0;
}

static void victim_gone(struct victim *v, const struct statx *stx, uint64_t stamp)
{
	change_stamp(stx, stamp);
	if (stx->stx_nlink && !S_ISDIR(stx->stx_mode))
		return;
	if (v->file)
		hold_pin(&v->fh, v->fd);
	v->forget = v->file || !handle_from_fd(v->fd, 0, &v->fh);
}

/* It was kept; is that no longer of use?  Who closed it since may have seen nothing that he had to release. */
static bool kept_in_vain(const struct victim *v, const struct statx *stx)
{
	return orphan_nlink(stx) || (!session_settling() && !hold_held(&v->fh));
}

/*
 * Under the locks of the directories.  @gone: the name is.  If it was the last one, what could not be
 * given a link is kept by a descriptor.
 */
static void victim_done(struct op_ctx *op, struct victim *v, bool gone)
{
	struct statx stx;

	if (v->fd >= 0 && (gone || v->kept)) {
		uint64_t stamp = change_number();

		cred_root(op->cred);
		if (!stat_fd(v->fd, &stx)) {
			if (v->kept && kept_in_vain(v, &stx)) {
				orphan_drop(&v->fh, &stx);
				stamp = change_number();
				stat_fd(v->fd, &stx);
			}
			if (gone)
				victim_gone(v, &stx, stamp);
		}
	}
	if (v->file)
		orphan_unlock_inode(&v->fh);
}

/* Without the locks, as the space of what is gone is freed here. */
static void victim_close(const struct victim *v)
{
	if (v->forget)
		file_forget(&v->fh);
	if (v->fd >= 0)
		close(v->fd);
}

/* UNLINK, RMDIR */
static int op_unlink(struct op_ctx *op)
{
	struct wfs_unlink_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct victim victim = { .fd = -1 };
	struct file *dir;
	int err;

	err = get_file(op, &rq->fh, &dir);
	if (err)
		return err;
	change_lock_dirs(&rq->fh, NULL);
	err = reply_pre(dir->fd, &rep->dir) ?: open_victim(op, dir->fd, rq->name, &victim);
	if (err)
		goto out;
	if (victim.fd >= 0)
		replay_intent(op, (__le64[2]){ rep->dir.pre_change }, &victim.was);
	if (unlinkat(dir->fd, rq->name, rq->op == WFS_OP_RMDIR ? AT_REMOVEDIR : 0))
		err = -errno;
	else
		err = reply_changed(op, dir->fd, &rep->dir.attr);
	op->rep->body_len = sizeof(*rep);
out:
	victim_done(op, &victim, !err);
	replay_done(op, err);
	change_unlock_dirs(&rq->fh, NULL);
	victim_close(&victim);
	file_put(dir);
	return err;
}

static int op_rename(struct op_ctx *op)
{
	struct wfs_rename_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct victim victim = { .fd = -1 };
	struct file *from, *to;
	struct statx was;
	int err, none;

	err = file_get(op->cred, &rq->fh, &from);
	if (err)
		return err;
	err = get_file(op, &rq->fh2, &to);
	if (err)
		goto out_from;

	change_lock_dirs(&rq->fh, &rq->fh2);
	err = reply_pre(from->fd, &rep->old_dir) ?: reply_pre(to->fd, &rep->new_dir);
	if (!err && !rq->flags)
		err = open_victim(op, to->fd, rq->name2, &victim);
	if (err)
		goto out;
	if (stat_name(from->fd, rq->name, &was, &none))
		replay_intent(op, (__le64[2]){ rep->old_dir.pre_change, rep->new_dir.pre_change }, &was);
	if (renameat2(from->fd, rq->name, to->fd, rq->name2, rq->flags))
		err = -errno;
	else
		err = reply_changed(op, from->fd, &rep->old_dir.attr) ?:
		      reply_changed(op, to->fd, &rep->new_dir.attr);
	/* There may be one directory: then the second look is the valid one for both. */
	if (!err && !memcmp(&rq->fh, &rq->fh2, sizeof(rq->fh)))
		rep->old_dir = rep->new_dir;
	op->rep->body_len = sizeof(*rep);
out:
	victim_done(op, &victim, !err);
	replay_done(op, err);
	change_unlock_dirs(&rq->fh, &rq->fh2);
	victim_close(&victim);
	file_put(to);
out_from:
	file_put(from);
	return err;
}

static int op_readlink(struct op_ctx *op)
{
	struct file *file;
	struct statx stx;
	ssize_t n;
	int err;

	err = get_file(op, &op->rq->fh, &file);
	if (err)
		return err;
	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx))
		err = -errno;
	else if (!S_ISLNK(stx.stx_mode))
		err = -EINVAL;
	else if (!reply_data(op, WFS_TARGET_MAX + 1))
		err = -ENOMEM;
	if (err)
		goto out;
	n = readlinkat(file->fd, "", op->rep->data, WFS_TARGET_MAX + 1);
	if (n < 0)
		err = -errno;
	else if (n == 0 || n > WFS_TARGET_MAX)
		err = -EIO;
	else
		op->rep->data_len = n;
out:
	file_put(file);
	return err;
}

static int op_statfs(struct op_ctx *op)
{
	struct wfs_statfs_rep *rep = (void *)op->rep->body;
	struct file *file;
	struct statfs sfs;
	int err;

	err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	err = fstatfs(file->fd, &sfs) ? -errno : 0;
	file_put(file);
	if (err)
		return err;
	rep->blocks = htole64(sfs.f_blocks);
	rep->bfree = htole64(sfs.f_bfree);
	rep->bavail = htole64(sfs.f_bavail);
	rep->files = htole64(sfs.f_files);
	rep->ffree = htole64(sfs.f_ffree);
	rep->bsize = htole32(sfs.f_bsize);
	rep->name_max = htole32(MIN((unsigned long)sfs.f_namelen, (unsigned long)WFS_NAME_MAX));
	op->rep->body_len = sizeof(*rep);
	return 0;
}

#define USER_PREFIX	"user."

/* What clients may see and set: their own, and ACLs, which the kernel checks and interprets. */
static bool xattr_allowed(const char *name)
{
	if (!strncmp(name, USER_PREFIX, strlen(USER_PREFIX)))
		return name[strlen(USER_PREFIX)];
	return !strcmp(name, XATTR_ACL_ACCESS) || !strcmp(name, XATTR_ACL_DEFAULT);
}

static ssize_t get_xattr(struct op_ctx *op, const char *path)
{
	const struct request *rq = op->rq;
	ssize_t n;

	if (rq->count && !reply_data(op, rq->count))
		return -ENOMEM;
	n = getxattr(path, rq->name, op->rep->data, rq->count);
	return n < 0 ? -errno : n;
}

static ssize_t list_xattrs(struct op_ctx *op, const char *path)
{
	size_t used = 0;
	ssize_t n;
	char *p;

	if (!reply_data(op, WFS_XATTR_MAX))
		return -ENOMEM;
	n = listxattr(path, op->rep->data, WFS_XATTR_MAX);
	if (n < 0)
		return -errno;
	for (p = op->rep->data; p < op->rep->data + n; p += strlen(p) + 1) {
		size_t len = strlen(p) + 1;

		if (!xattr_allowed(p))
			continue;
		memmove(op->rep->data + used, p, len);
		used += len;
	}
	return op->rq->count && used > op->rq->count ? -ERANGE : (ssize_t)used;
}

/* GETXATTR, LISTXATTR */
static int op_getxattr(struct op_ctx *op)
{
	struct wfs_xattr_rep *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct file *file;
	ssize_t n;
	int err;

	if (rq->op == WFS_OP_GETXATTR && !xattr_allowed(rq->name))
		return -EOPNOTSUPP;
	err = get_file(op, &rq->fh, &file);
	if (err)
		return err;
	n = rq->op == WFS_OP_GETXATTR ? get_xattr(op, fd_path(file->fd).s) :
					list_xattrs(op, fd_path(file->fd).s);
	file_put(file);
	if (n < 0)
		return n;
	rep->size = htole32(n);
	rep->reserved = 0;
	op->rep->body_len = sizeof(*rep);
	op->rep->data_len = rq->count ? n : 0;
	return 0;
}

/* SETXATTR, REMOVEXATTR */
static int op_setxattr(struct op_ctx *op)
{
	struct wfs_attr *rep = (void *)op->rep->body;
	const struct request *rq = op->rq;
	struct fd_path path;
	struct change ch;
	struct file *file;
	int err, err2;

	if (!xattr_allowed(rq->name))
		return -EOPNOTSUPP;
	err = get_file(op, &rq->fh, &file);
	if (err)
		return err;
	path = fd_path(file->fd);
	/* Only these two can see that they were done already. */
	if ((rq->op == WFS_OP_REMOVEXATTR || rq->flags == XATTR_CREATE) &&
	    (getxattr(path.s, rq->name, NULL, 0) < 0) == (rq->op == WFS_OP_SETXATTR))
		replay_intent(op, NULL, NULL);
	change_begin(&ch, file->fd, op->session);
	if (rq->op == WFS_OP_SETXATTR)
		err = setxattr(path.s, rq->name, op->data, rq->data_len, rq->flags);
	else
		err = removexattr(path.s, rq->name);
	if (err)
		err = -errno;
	err2 = reply_change(&ch, file->fd, rep);
	if (!err)
		err = err2;
	op->rep->body_len = sizeof(*rep);
	file_put(file);
	return err;
}

/* What an operation does; @changes: and that it would change something. */
static const struct {
	int	(*run)(struct op_ctx *op);
	bool	changes;
} ops[WFS_OP__COUNT] = {
	[WFS_OP_ROOT]		= { op_root, false },
	[WFS_OP_LOOKUP]		= { op_lookup, false },
	[WFS_OP_GETATTR]	= { op_getattr, false },
	[WFS_OP_SETATTR]	= { op_setattr, true },
	[WFS_OP_ACCESS]		= { op_access, false },
	[WFS_OP_OPEN]		= { op_open, false },
	[WFS_OP_CREATE]		= { op_create, true },
	[WFS_OP_CLOSE]		= { op_close, false },
	[WFS_OP_READ]		= { op_read, false },
	[WFS_OP_COMMIT]		= { op_commit, false },
	[WFS_OP_MKDIR]		= { op_make, true },
	[WFS_OP_MKNOD]		= { op_make, true },
	[WFS_OP_SYMLINK]	= { op_make, true },
	[WFS_OP_LINK]		= { op_link, true },
	[WFS_OP_UNLINK]		= { op_unlink, true },
	[WFS_OP_RMDIR]		= { op_unlink, true },
	[WFS_OP_RENAME]		= { op_rename, true },
	[WFS_OP_READLINK]	= { op_readlink, false },
	[WFS_OP_READDIR]	= { op_readdir, false },
	[WFS_OP_STATFS]		= { op_statfs, false },
	[WFS_OP_GETXATTR]	= { op_getxattr, false },
	[WFS_OP_SETXATTR]	= { op_setxattr, true },
	[WFS_OP_LISTXATTR]	= { op_getxattr, false },
	[WFS_OP_REMOVEXATTR]	= { op_setxattr, true },
	[WFS_OP_LOCK]		= { op_lock, false },
	[WFS_OP_SESSION]	= { op_session, false },
	[WFS_OP_ALLOCATE]	= { op_allocate, true },
	[WFS_OP_SEEK]		= { op_seek, false },
	[WFS_OP_COPY]		= { op_copy, true },
};

/* The directory of what has no name is not there for clients. */
static int check_hidden(const struct request *rq)
{
	const struct wfs_fh *dir = &rq->fh;
	const char *name = rq->name;
	int err = -EACCES;

	switch (rq->op) {
	case WFS_OP_LOOKUP:
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		err = -ENOENT;
		break;
	case WFS_OP_CREATE:
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		break;
	case WFS_OP_RENAME:
		if (!strcmp(name, ORPHAN_DIR) && !memcmp(dir, &cfg.root_fh, sizeof(*dir)))
			return rq->flags & WFS_RENAME_EXCHANGE ? -EACCES : -ENOENT;
		dir = &rq->fh2;
		name = rq->name2;
		break;
	case WFS_OP_LINK:
		dir = &rq->fh2;
		break;
	default:
		return 0;
	}
	return !strcmp(name, ORPHAN_DIR) && !memcmp(dir, &cfg.root_fh, sizeof(*dir)) ? err : 0;
}

/**
 * op_run - carry out any operation but HELLO and WRITE
 *
 * Return: 0, -errno, or OP_PARKED.  After an error nothing in the reply counts, but its data and file are the
 * caller's to release all the same.
 */
int op_run(struct op_ctx *op)
{
	const struct request *rq = op->rq;
	int err;

	if (cfg.read_only &&
	    (ops[rq->op].changes ||
	     (rq->op == WFS_OP_OPEN && rq->flags & (WFS_OPEN_WRITE | WFS_OPEN_TRUNC))))
		return -EROFS;
	err = check_hidden(rq);
	if (err)
		return err;
	return ops[rq->op].run ? ops[rq->op].run(op) : -EOPNOTSUPP;
}

bool op_slow(const struct request *rq)
{
	return rq->op == WFS_OP_COMMIT || rq->op == WFS_OP_ALLOCATE || rq->op == WFS_OP_COPY;
}
