// SPDX-License-Identifier: GPL-2.0-only
/*
 * readdir.c - READDIR.
 *
 * A descriptor's position is its state, so a request has a descriptor of its own.  Going to a
 * position is what some file systems do slowly; so a descriptor is kept for a while under the
 * position that it has reached, where the next request of a client that reads on will find it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wfsd.h"

#define STREAMS		64

struct stream {
	struct wfs_fh	dir;
	uint64_t	cookie;
	int		fd;	/* 0: unused */
	time_t		used;
};

static pthread_mutex_t streams_lock = PTHREAD_MUTEX_INITIALIZER;	/* streams */
static struct stream streams[STREAMS];

static int stream_take(const struct wfs_fh *dir, uint64_t cookie)
{
	int fd = -1;

	pthread_mutex_lock(&streams_lock);
	for (unsigned int i = 0; i < STREAMS; i++) {
		struct stream *s = &streams[i];

		if (s->fd && s->cookie == cookie && !memcmp(&s->dir, dir, sizeof(*dir))) {
			fd = s->fd;
			s->fd = 0;
			break;
		}
	}
	pthread_mutex_unlock(&streams_lock);
	return fd;
}

static void stream_keep(const struct wfs_fh *dir, uint64_t cookie, int fd)
{
	struct stream *s = &streams[0];
	int old;

	pthread_mutex_lock(&streams_lock);
	for (unsigned int i = 0; i < STREAMS && s->fd; i++)
		if (!streams[i].fd || streams[i].used < s->used)
			s = &streams[i];
	old = s->fd;
	*s = (struct stream){ *dir, cookie, fd, now_seconds() };
	pthread_mutex_unlock(&streams_lock);
	if (old)
		close(old);
}

void readdir_expire(time_t before)
{
	for (unsigned int i = 0; i < STREAMS; i++) {
		int fd = 0;

		pthread_mutex_lock(&streams_lock);
		if (streams[i].fd && streams[i].used < before) {
			fd = streams[i].fd;
			streams[i].fd = 0;
		}
		pthread_mutex_unlock(&streams_lock);
		if (fd)
			close(fd);
	}
}

static int stream_open(struct op_ctx *op, struct file *dir)
{
	const struct request *rq = op->rq;
	int fd;

	if (rq->offset) {
		fd = stream_take(&rq->fh, rq->offset);
		if (fd >= 0) {
			/* It may be somebody else's: may this caller read the directory? */
			if (!access_fd(fd, R_OK))
				return fd;
			stream_keep(&rq->fh, rq->offset, fd);
		}
	}
	fd = open_file_of(dir->fd, O_RDONLY | O_DIRECTORY);
	if (fd >= 0 && rq->offset && lseek(fd, rq->offset, SEEK_SET) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static bool is_dot(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

/* Best effort: an entry may be gone, or a mount, or not ours to look up. */
static bool fill_plus(struct op_ctx *op, int dirfd, const char *name, struct wfs_entry *entry)
{
	int fd = open_in(dirfd, name, O_PATH);
	struct statx stx;
	int err;

	if (fd < 0)
		return false;
	err = setup_entry(fd, op->session, entry, &stx);
	close(fd);
	return !err;
}

/* One entry, at @to; returns its end. */
static char *put_entry(struct op_ctx *op, int dirfd, const struct dirent64 *d, bool plus, char *to)
{
	struct wfs_dirent e = {
		.cookie = htole64(d->d_off),
		.ino = htole64(d->d_ino),
		.type = d->d_type,
	};
	size_t len = strlen(d->d_name), padded = (len + 7) & ~(size_t)7;
	char *p = to + sizeof(e);

	e.name_len = htole16(len);
	if (plus && !is_dot(d->d_name) && fill_plus(op, dirfd, d->d_name, (void *)p)) {
		e.plus = 1;
		p += sizeof(struct wfs_entry);
	}
	memcpy(to, &e, sizeof(e));
	memset(p, 0, padded);
	memcpy(p, d->d_name, len);
	return p + padded;
}

/*
 * How much to take from the kernel so that it fits into @room for sure, for what it returned can't
 * be given back: an entry has at least 24 bytes there and grows by less than that on the wire, or
 * by a wfs_entry more.  LARGEST is what the kernel may need for one entry.
 */
#define LARGEST		(offsetof(struct dirent64, d_name) + WFS_NAME_MAX + 1 + 8)

static size_t take_size(size_t room, bool plus)
{
	size_t grown = 24 + 8 + (plus ? sizeof(struct wfs_entry) : 0);

	return room / grown * 24;
}

static int fill_entries(struct op_ctx *op, int fd, uint64_t *cookie, bool *eof)
{
	bool plus = op->rq->flags & WFS_READDIR_PLUS;
	bool root = !memcmp(&op->rq->fh, &cfg.root_fh, sizeof(cfg.root_fh));
	_Alignas(8) char buf[32768];
	char *to = op->rep->data, *end = to + op->rq->count;

	for (;;) {
		size_t size = MIN(take_size(end - to, plus), sizeof(buf));
		ssize_t n;

		if (size < LARGEST)
			break;
		n = getdents64(fd, buf, size);
		if (n < 0)
			return -errno;
		if (!n) {
			*eof = true;
			break;
		}
		for (char *p = buf; p < buf + n;) {
			const struct dirent64 *d = (void *)p;

			if (d->d_off <= 0)	/* the protocol can't say it */
				return -EOVERFLOW;
			if (!root || strcmp(d->d_name, ORPHAN_DIR))
				to = put_entry(op, fd, d, plus, to);
			*cookie = d->d_off;
			p += d->d_reclen;
		}
	}
	op->rep->data_len = to - op->rep->data;
	return 0;
}

int op_readdir(struct op_ctx *op)
{
	struct wfs_readdir_rep *rep = (void *)op->rep->body;
	uint64_t cookie = op->rq->offset;
	struct file *dir;
	bool eof = false;
	int fd, err;

	err = file_get(op->cred, &op->rq->fh, &dir);
	if (err)
		return err;
	err = cred_assume(op->cred, op->rq);
	if (err)
		goto out;
	op->rep->data = malloc(op->rq->count);
	if (!op->rep->data) {
		err = -ENOMEM;
		goto out;
	}
	fd = stream_open(op, dir);
	if (fd < 0) {
		err = fd;
		goto out;
	}
	err = fill_entries(op, fd, &cookie, &eof);
	if (!err && op->rep->data_len < op->rq->count / 2) {
		char *less = realloc(op->rep->data, MAX(op->rep->data_len, 1u));

		op->rep->data = less ? less : op->rep->data;
	}
	if (!err && !eof)
		stream_keep(&op->rq->fh, cookie, fd);
	else
		close(fd);
	rep->eof = htole32(eof);
	rep->reserved = 0;
	op->rep->body_len = sizeof(*rep);
out:
	file_put(dir);
	return err;
}
