// SPDX-License-Identifier: GPL-2.0-only
/*
 * request.c - the request parser: the one place that checks what a client sent.
 *
 * No I/O and no state: bytes in, struct request out.  There are two kinds of wrong.  What breaks
 * the framing or a limit of the protocol gives -EPROTO, and the connection is closed: nothing that
 * follows can be trusted.  A request whose frame is right but which asks for something impossible
 * gives another errno, which is its reply.
 */
#include <errno.h>
#include <string.h>

#include "wfsd.h"

/**
 * struct shape - what the body of an operation looks like
 * @len: bytes of the fixed part
 * @names: names follow it, by the lengths that it announces
 */
struct shape {
	uint16_t	len;
	bool		names;
};

static const struct shape shapes[WFS_OP__COUNT] = {
	[WFS_OP_HELLO]		= { sizeof(struct wfs_hello_req), false },
	[WFS_OP_ROOT]		= { 0, false },
	[WFS_OP_LOOKUP]		= { sizeof(struct wfs_name_req), true },
	[WFS_OP_GETATTR]	= { sizeof(struct wfs_fh_req), false },
	[WFS_OP_SETATTR]	= { sizeof(struct wfs_setattr_req), false },
	[WFS_OP_ACCESS]		= { sizeof(struct wfs_access_req), false },
	[WFS_OP_OPEN]		= { sizeof(struct wfs_open_req), false },
	[WFS_OP_CREATE]		= { sizeof(struct wfs_create_req), true },
	[WFS_OP_CLOSE]		= { sizeof(struct wfs_fh_req), false },
	[WFS_OP_READ]		= { sizeof(struct wfs_read_req), false },
	[WFS_OP_WRITE]		= { sizeof(struct wfs_write_req), false },
	[WFS_OP_COMMIT]		= { sizeof(struct wfs_commit_req), false },
	[WFS_OP_MKDIR]		= { sizeof(struct wfs_create_req), true },
	[WFS_OP_MKNOD]		= { sizeof(struct wfs_create_req), true },
	[WFS_OP_SYMLINK]	= { sizeof(struct wfs_create_req), true },
	[WFS_OP_LINK]		= { sizeof(struct wfs_link_req), true },
	[WFS_OP_UNLINK]		= { sizeof(struct wfs_name_req), true },
	[WFS_OP_RMDIR]		= { sizeof(struct wfs_name_req), true },
	[WFS_OP_RENAME]		= { sizeof(struct wfs_rename_req), true },
	[WFS_OP_READLINK]	= { sizeof(struct wfs_fh_req), false },
	[WFS_OP_READDIR]	= { sizeof(struct wfs_readdir_req), false },
	[WFS_OP_STATFS]		= { sizeof(struct wfs_fh_req), false },
	[WFS_OP_GETXATTR]	= { sizeof(struct wfs_xattr_req), true },
	[WFS_OP_SETXATTR]	= { sizeof(struct wfs_xattr_req), true },
	[WFS_OP_LISTXATTR]	= { sizeof(struct wfs_xattr_req), true },
	[WFS_OP_REMOVEXATTR]	= { sizeof(struct wfs_xattr_req), true },
	[WFS_OP_LOCK]		= { sizeof(struct wfs_lock_req), false },
	[WFS_OP_SESSION]	= { sizeof(struct wfs_session_req), false },
	[WFS_OP_ALLOCATE]	= { sizeof(struct wfs_allocate_req), false },
	[WFS_OP_SEEK]		= { sizeof(struct wfs_seek_req), false },
	[WFS_OP_COPY]		= { sizeof(struct wfs_copy_req), false },
};

/**
 * request_head - check a request's header
 * @hdr: sizeof(struct wfs_req_hdr) bytes
 * @lim: what the connection agreed on
 * @rq: gets what the header says
 *
 * Return: 0 or -EPROTO.
 */
int request_head(const void *hdr, const struct limits *lim, struct request *rq)
{
	struct wfs_req_hdr h;
	uint32_t body_len;

	memcpy(&h, hdr, sizeof(h));
	if (le32toh(h.magic) != WFS_MAGIC || h.flags || h.reserved)
		return -EPROTO;
	if (h.op >= WFS_OP__COUNT || (!shapes[h.op].len && h.op != WFS_OP_ROOT))
		return -EPROTO;
	if ((h.op == WFS_OP_HELLO) == lim->hello)
		return -EPROTO;

	rq->op = h.op;
	rq->slot = le16toh(h.slot);
	rq->seq = le32toh(h.seq);
	rq->data_len = le32toh(h.data_len);
	rq->uid = le32toh(h.uid);
	rq->gid = le32toh(h.gid);
	rq->ngroups = le16toh(h.ngroups);
	body_len = le32toh(h.body_len);

	if (rq->ngroups > WFS_GROUPS_MAX || body_len > WFS_BODY_MAX)
		return -EPROTO;
	if (body_len < shapes[h.op].len || (!shapes[h.op].names && body_len != shapes[h.op].len))
		return -EPROTO;
	rq->frame_len = sizeof(h) + rq->ngroups * sizeof(__le32) + body_len;

	if (h.op == WFS_OP_HELLO)
		return rq->slot || rq->seq || rq->data_len ? -EPROTO : 0;
	if (rq->slot >= lim->max_inflight || !rq->seq)
		return -EPROTO;
	switch (h.op) {
	case WFS_OP_WRITE:
		return rq->data_len && rq->data_len <= lim->max_write ? 0 : -EPROTO;
	case WFS_OP_SETXATTR:
		return rq->data_len <= WFS_XATTR_MAX ? 0 : -EPROTO;
	default:
		return rq->data_len ? -EPROTO : 0;
	}
}

static int parse_hello(const void *body, struct request *rq)
{
	const struct wfs_hello_req *b = &rq->hello;

	memcpy(&rq->hello, body, sizeof(rq->hello));
	/* Another version may mean something else by the rest. */
	if (le32toh(b->version_min) > WFS_VERSION || le32toh(b->version_max) < WFS_VERSION)
		return -EPROTONOSUPPORT;
	if (le16toh(b->conn) >= WFS_CONNS_MAX || b->reserved || !b->max_inflight ||
	    le32toh(b->max_read) < WFS_IO_MIN || le32toh(b->max_write) < WFS_IO_MIN)
		return -EINVAL;
	return 0;
}

/* A name of a directory entry, at @from; its length is in range. */
static int parse_name(char *to, const void *from, unsigned int len)
{
	memcpy(to, from, len);
	to[len] = 0;
	if (strnlen(to, len) != len || strchr(to, '/') || !strcmp(to, ".") || !strcmp(to, ".."))
		return -EINVAL;
	return 0;
}

/* Length fields that do not match the body leave us unable to tell what the peer means. */
static bool name_len_ok(unsigned int len, unsigned int max)
{
	return len >= 1 && len <= max;
}

static bool any_set(const void *p, size_t len)
{
	const uint8_t *b = p;

	while (len--)
		if (*b++)
			return true;
	return false;
}

/* The one name of a body, behind its @fixed bytes. */
static int parse_only_name(const void *body, size_t len, size_t fixed, __le16 name_len,
			   const __le16 reserved[3], struct request *rq)
{
	unsigned int n = le16toh(name_len);

	if (!name_len_ok(n, WFS_NAME_MAX) || len != fixed + n)
		return -EPROTO;
	if (reserved[0] || reserved[1] || reserved[2])
		return -EINVAL;
	return parse_name(rq->name, (const char *)body + fixed, n);
}

static int parse_name_req(const void *body, size_t len, struct request *rq)
{
	struct wfs_name_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.dir;
	return parse_only_name(body, len, sizeof(b), b.name_len, b.reserved, rq);
}

static int parse_setattr(const void *body, struct request *rq)
{
	struct wfs_setattr_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.fh;
	rq->flags = le32toh(b.valid);
	rq->mode = le32toh(b.mode);
	rq->set_uid = le32toh(b.uid);
	rq->set_gid = le32toh(b.gid);
	rq->set_size = le64toh(b.size);
	rq->set_times[0].tv_sec = le64toh(b.atime_sec);
	rq->set_times[0].tv_nsec = le32toh(b.atime_nsec);
	rq->set_times[1].tv_sec = le64toh(b.mtime_sec);
	rq->set_times[1].tv_nsec = le32toh(b.mtime_nsec);

	if (rq->flags & ~WFS_SET__ALL)
		return -EINVAL;
	if ((rq->flags & WFS_SET_MODE) && (rq->mode & ~07777))
		return -EINVAL;
	if ((rq->flags & WFS_SET_UID) && rq->set_uid == (uid_t)-1)
		return -EINVAL;
	if ((rq->flags & WFS_SET_GID) && rq->set_gid == (gid_t)-1)
		return -EINVAL;
	if ((rq->flags & WFS_SET_SIZE) && rq->set_size > INT64_MAX)
		return -EFBIG;
	if ((rq->flags & WFS_SET_ATIME) && (rq->flags & WFS_SET_ATIME_NOW))
		return -EINVAL;
	if ((rq->flags & WFS_SET_MTIME) && (rq->flags & WFS_SET_MTIME_NOW))
		return -EINVAL;
	if (((rq->flags & WFS_SET_ATIME) && le32toh(b.atime_nsec) > 999999999) ||
	    ((rq->flags & WFS_SET_MTIME) && le32toh(b.mtime_nsec) > 999999999))
		return -EINVAL;
	return 0;
}

static int check_mknod(const struct request *rq)
{
	if (rq->mode & ~(S_IFMT | 07777))
		return -EINVAL;
	switch (rq->mode & S_IFMT) {
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		return rq->rdev_major || rq->rdev_minor ? -EINVAL : 0;
	case S_IFCHR:
	case S_IFBLK:
		/* What dev_t of the kernel holds. */
		return rq->rdev_major >> 12 || rq->rdev_minor >> 20 ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

static int parse_create(const void *body, size_t len, struct request *rq)
{
	const char *names = (const char *)body + sizeof(struct wfs_create_req);
	struct wfs_create_req b;
	unsigned int n, t;
	int err;

	memcpy(&b, body, sizeof(b));
	n = le16toh(b.name_len);
	t = le16toh(b.target_len);
	if (!name_len_ok(n, WFS_NAME_MAX) || len != sizeof(b) + n + t)
		return -EPROTO;
	if (rq->op == WFS_OP_SYMLINK ? !name_len_ok(t, WFS_TARGET_MAX) : t)
		return -EPROTO;

	rq->fh = b.dir;
	rq->mode = le32toh(b.mode);
	rq->umask = le32toh(b.umask);
	rq->flags = le32toh(b.flags);
	rq->rdev_major = le32toh(b.rdev_major);
	rq->rdev_minor = le32toh(b.rdev_minor);
	memcpy(rq->name2, names + n, t);
	rq->name2[t] = 0;

	err = parse_name(rq->name, names, n);
	if (err)
		return err;
	if (strlen(rq->name2) != t || rq->umask & ~0777)
		return -EINVAL;
	if (rq->op == WFS_OP_MKNOD) {
		err = check_mknod(rq);
		if (err)
			return err;
	} else if (rq->mode & ~07777 || rq->rdev_major || rq->rdev_minor) {
		return -EINVAL;
	}
	if (rq->op != WFS_OP_CREATE)
		return rq->flags ? -EINVAL : 0;
	if (rq->flags & ~(WFS_OPEN__ALL & ~WFS_OPEN_EXEC) ||
	    !(rq->flags & (WFS_OPEN_READ | WFS_OPEN_WRITE)))
		return -EINVAL;
	return 0;
}

static int parse_link(const void *body, size_t len, struct request *rq)
{
	struct wfs_link_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.fh;
	rq->fh2 = b.dir;
	return parse_only_name(body, len, sizeof(b), b.name_len, b.reserved, rq);
}

static int parse_rename(const void *body, size_t len, struct request *rq)
{
	const char *names = (const char *)body + sizeof(struct wfs_rename_req);
	struct wfs_rename_req b;
	unsigned int o, n;
	int err;

	memcpy(&b, body, sizeof(b));
	o = le16toh(b.old_len);
	n = le16toh(b.new_len);
	if (!name_len_ok(o, WFS_NAME_MAX) || !name_len_ok(n, WFS_NAME_MAX) ||
	    len != sizeof(b) + o + n)
		return -EPROTO;
	rq->fh = b.old_dir;
	rq->fh2 = b.new_dir;
	rq->flags = le32toh(b.flags);
	err = parse_name(rq->name, names, o);
	if (!err)
		err = parse_name(rq->name2, names + o, n);
	if (err)
		return err;
	if (rq->flags & ~(WFS_RENAME_NOREPLACE | WFS_RENAME_EXCHANGE) ||
	    rq->flags == (WFS_RENAME_NOREPLACE | WFS_RENAME_EXCHANGE))
		return -EINVAL;
	return 0;
}

static int parse_read(const void *body, const struct limits *lim, struct request *rq)
{
	struct wfs_read_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->offset = le64toh(b.offset);
	rq->count = le32toh(b.count);
	if (!rq->count || rq->count > lim->max_read)
		return -EPROTO;
	if (b.reserved || rq->offset > (uint64_t)INT64_MAX - rq->count)
		return -EINVAL;
	return 0;
}

static int parse_write(const void *body, struct request *rq)
{
	struct wfs_write_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->offset = le64toh(b.offset);
	rq->flags = le32toh(b.flags);
	if (b.reserved || rq->flags & ~WFS_WRITE_STABLE)
		return -EINVAL;
	if (rq->offset > (uint64_t)INT64_MAX - rq->data_len)
		return -EFBIG;
	return 0;
}

/* No byte of a file lies behind INT64_MAX. */
static bool range_ok(uint64_t offset, uint64_t len)
{
	return offset <= INT64_MAX && len <= (uint64_t)INT64_MAX - offset;
}

static int parse_allocate(const void *body, struct request *rq)
{
	struct wfs_allocate_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->offset = le64toh(b.offset);
	rq->len = le64toh(b.len);
	rq->mode = le32toh(b.mode);
	switch (rq->mode) {
	case 0:
	case WFS_ALLOC_KEEP_SIZE:
	case WFS_ALLOC_KEEP_SIZE | WFS_ALLOC_PUNCH_HOLE:
	case WFS_ALLOC_ZERO_RANGE:
	case WFS_ALLOC_KEEP_SIZE | WFS_ALLOC_ZERO_RANGE:
		break;
	default:
		return -EINVAL;
	}
	if (b.reserved || !rq->len)
		return -EINVAL;
	return range_ok(rq->offset, rq->len) ? 0 : -EFBIG;
}

static int parse_seek(const void *body, struct request *rq)
{
	struct wfs_seek_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->offset = le64toh(b.offset);
	rq->count = le32toh(b.whence);
	if (b.reserved || (rq->count != WFS_SEEK_DATA && rq->count != WFS_SEEK_HOLE))
		return -EINVAL;
	return rq->offset <= INT64_MAX ? 0 : -EINVAL;
}

static int parse_copy(const void *body, struct request *rq)
{
	struct wfs_copy_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.from;
	rq->fh2 = b.to;
	rq->offset = le64toh(b.from_offset);
	rq->to_offset = le64toh(b.to_offset);
	rq->len = le64toh(b.len);
	if (!rq->len || !range_ok(rq->offset, rq->len))
		return -EINVAL;
	return range_ok(rq->to_offset, rq->len) ? 0 : -EFBIG;
}

static int parse_readdir(const void *body, struct request *rq)
{
	struct wfs_readdir_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.dir;
	rq->offset = le64toh(b.cookie);
	rq->count = le32toh(b.count);
	rq->flags = le32toh(b.flags);
	if (rq->count < WFS_IO_MIN || rq->count > WFS_READDIR_MAX)
		return -EPROTO;
	if (rq->flags & ~WFS_READDIR_PLUS || rq->offset > INT64_MAX)
		return -EINVAL;
	return 0;
}

static int parse_xattr(const void *body, size_t len, struct request *rq)
{
	struct wfs_xattr_req b;
	unsigned int n;

	memcpy(&b, body, sizeof(b));
	n = le16toh(b.name_len);
	if (len != sizeof(b) + n || n > WFS_NAME_MAX || !n != (rq->op == WFS_OP_LISTXATTR))
		return -EPROTO;
	rq->fh = b.fh;
	rq->count = le32toh(b.size);
	rq->flags = le32toh(b.flags);
	if (rq->count > WFS_XATTR_MAX)
		return -EPROTO;
	memcpy(rq->name, (const char *)body + sizeof(b), n);
	rq->name[n] = 0;
	if (strlen(rq->name) != n || any_set(b.reserved, sizeof(b.reserved)))
		return -EINVAL;
	if (rq->op == WFS_OP_SETXATTR)
		return rq->count || rq->flags > 2 ? -EINVAL : 0;
	return rq->flags || (rq->op == WFS_OP_REMOVEXATTR && rq->count) ? -EINVAL : 0;
}

static int parse_lock(const void *body, struct request *rq)
{
	struct wfs_lock_req b;
	bool unlock, flock;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->owner = le64toh(b.owner);
	rq->start = le64toh(b.start);
	rq->end = le64toh(b.end);
	rq->type = le32toh(b.type);
	rq->flags = le32toh(b.flags);
	rq->wait = le32toh(b.wait);
	rq->pid = le32toh(b.pid);
	unlock = rq->type == WFS_LOCK_UNLOCK;
	flock = rq->flags & WFS_LOCK_FLOCK;

	if (rq->type > WFS_LOCK_UNLOCK || rq->flags & ~WFS_LOCK__ALL || rq->wait > WFS_LOCK_WAIT_MAX)
		return -EINVAL;
	if (rq->start > rq->end || rq->end > INT64_MAX)
		return -EINVAL;
	if (flock && (rq->start || rq->end != INT64_MAX))
		return -EINVAL;
	switch (rq->flags & ~WFS_LOCK_FLOCK) {
	case 0:
		return unlock && rq->wait ? -EINVAL : 0;
	case WFS_LOCK_TEST:
		return flock || unlock || rq->wait ? -EINVAL : 0;
	case WFS_LOCK_RECLAIM:
		return unlock || rq->wait ? -EINVAL : 0;
	case WFS_LOCK_CANCEL:
		return !unlock || rq->wait ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

static int parse_session(const void *body, struct request *rq)
{
	struct wfs_session_req b;

	memcpy(&b, body, sizeof(b));
	rq->fh = b.io;
	rq->flags = le32toh(b.what);
	rq->count = le32toh(b.count);
	switch (rq->flags) {
	case WFS_SESSION_HOLD:
		return rq->count && rq->count <= WFS_HOLD_COUNT_MAX ? 0 : -EINVAL;
	case WFS_SESSION_RECLAIMED:
	case WFS_SESSION_END:
		return rq->count || any_set(&b.io, sizeof(b.io)) ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

/* The bodies of a handle, and of a handle with one word of flags and one that is reserved. */
static void parse_fh(const void *body, struct request *rq)
{
	memcpy(&rq->fh, body, sizeof(rq->fh));
}

static int parse_fh_flags(const void *body, uint32_t mask, uint32_t *flags, struct request *rq)
{
	struct wfs_open_req b;

	_Static_assert(sizeof(b) == sizeof(struct wfs_access_req) &&
		       sizeof(b) == sizeof(struct wfs_commit_req), "bodies differ");
	memcpy(&b, body, sizeof(b));
	rq->fh = b.fh;
	*flags = le32toh(b.flags);
	return b.reserved || *flags & ~mask ? -EINVAL : 0;
}

/**
 * request_body - take a request apart
 * @frame: rq->frame_len bytes: header, groups and body
 * @lim: what the connection agreed on
 * @rq: filled by request_head()
 *
 * Return: 0, -EPROTO, or the error to answer with.
 */
int request_body(const void *frame, const struct limits *lim, struct request *rq)
{
	const char *p = (const char *)frame + sizeof(struct wfs_req_hdr);
	size_t len = rq->frame_len - sizeof(struct wfs_req_hdr) - rq->ngroups * sizeof(__le32);
	bool bad_id = rq->uid == (uid_t)-1 || rq->gid == (gid_t)-1;
	int err = 0;

	if (rq->op != WFS_OP_READ && rq->op != WFS_OP_WRITE)
		rq->hash = handle_keyed_hash(frame, rq->frame_len);

	for (uint32_t i = 0; i < rq->ngroups; i++, p += sizeof(__le32)) {
		__le32 g;

		memcpy(&g, p, sizeof(g));
		rq->groups[i] = le32toh(g);
		bad_id |= rq->groups[i] == (gid_t)-1;
	}

	switch (rq->op) {
	case WFS_OP_HELLO:
		return parse_hello(p, rq);	/* the caller's ids mean nothing here */
	case WFS_OP_ROOT:
		break;
	case WFS_OP_LOOKUP:
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		err = parse_name_req(p, len, rq);
		break;
	case WFS_OP_GETATTR:
	case WFS_OP_READLINK:
	case WFS_OP_STATFS:
	case WFS_OP_CLOSE:
		parse_fh(p, rq);
		break;
	case WFS_OP_SETATTR:
		err = parse_setattr(p, rq);
		break;
	case WFS_OP_ACCESS:
		err = parse_fh_flags(p, 7, &rq->count, rq);
		break;
	case WFS_OP_OPEN:
		err = parse_fh_flags(p, WFS_OPEN__ALL & ~WFS_OPEN_EXCL, &rq->flags, rq);
		if (!err && !(rq->flags & (WFS_OPEN_READ | WFS_OPEN_WRITE)))
			err = -EINVAL;
		if (!err && (rq->flags & WFS_OPEN_EXEC) &&
		    rq->flags != (WFS_OPEN_READ | WFS_OPEN_EXEC))
			err = -EINVAL;
		break;
	case WFS_OP_COMMIT:
		err = parse_fh_flags(p, WFS_COMMIT_DATASYNC | WFS_COMMIT_ALL, &rq->flags, rq);
		break;
	case WFS_OP_CREATE:
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		err = parse_create(p, len, rq);
		break;
	case WFS_OP_READ:
		err = parse_read(p, lim, rq);
		break;
	case WFS_OP_WRITE:
		err = parse_write(p, rq);
		break;
	case WFS_OP_LINK:
		err = parse_link(p, len, rq);
		break;
	case WFS_OP_RENAME:
		err = parse_rename(p, len, rq);
		break;
	case WFS_OP_READDIR:
		err = parse_readdir(p, rq);
		break;
	case WFS_OP_GETXATTR:
	case WFS_OP_SETXATTR:
	case WFS_OP_LISTXATTR:
	case WFS_OP_REMOVEXATTR:
		err = parse_xattr(p, len, rq);
		break;
	case WFS_OP_LOCK:
		err = parse_lock(p, rq);
		break;
	case WFS_OP_SESSION:
		err = parse_session(p, rq);
		break;
	case WFS_OP_ALLOCATE:
		err = parse_allocate(p, rq);
		break;
	case WFS_OP_SEEK:
		err = parse_seek(p, rq);
		break;
	case WFS_OP_COPY:
		err = parse_copy(p, rq);
		break;
	}
	return err ? err : bad_id ? -EINVAL : 0;
}
