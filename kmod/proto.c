// SPDX-License-Identifier: GPL-2.0
/*
 * proto.c - what comes off the wire is hostile until it has passed here
 *
 * Each field of a reply is checked once, here, before anyone uses it.  The file takes bytes and
 * gives back values; it knows no locks, no sockets and no inodes, and so compiles for
 * userspace too, where it is fuzzed.
 */
#ifdef __KERNEL__
#include "internal.h"
#else
#include "userspace.h"
#endif

/* Bytes of body that a successful reply has, and whether it may bring data. */
static const struct {
	const char	*name;
	u16		body;
	bool		data;
} wfs_ops[WFS_OP__COUNT] = {
	[WFS_OP_HELLO]		= { "HELLO", sizeof(struct wfs_hello_rep) },
	[WFS_OP_ROOT]		= { "ROOT", sizeof(struct wfs_entry) },
	[WFS_OP_LOOKUP]		= { "LOOKUP", sizeof(struct wfs_entry) },
	[WFS_OP_GETATTR]	= { "GETATTR", sizeof(struct wfs_attr) },
	[WFS_OP_SETATTR]	= { "SETATTR", sizeof(struct wfs_attr) },
	[WFS_OP_ACCESS]		= { "ACCESS", sizeof(struct wfs_access_rep) },
	[WFS_OP_OPEN]		= { "OPEN", sizeof(struct wfs_open_rep) },
	[WFS_OP_CREATE]		= { "CREATE", sizeof(struct wfs_create_rep) },
	[WFS_OP_CLOSE]		= { "CLOSE", 0 },
	[WFS_OP_READ]		= { "READ", 0, true },
	[WFS_OP_WRITE]		= { "WRITE", sizeof(struct wfs_write_rep) },
	[WFS_OP_COMMIT]		= { "COMMIT", sizeof(struct wfs_commit_rep) },
	[WFS_OP_MKDIR]		= { "MKDIR", sizeof(struct wfs_make_rep) },
	[WFS_OP_MKNOD]		= { "MKNOD", sizeof(struct wfs_make_rep) },
	[WFS_OP_SYMLINK]	= { "SYMLINK", sizeof(struct wfs_make_rep) },
	[WFS_OP_LINK]		= { "LINK", sizeof(struct wfs_link_rep) },
	[WFS_OP_UNLINK]		= { "UNLINK", sizeof(struct wfs_unlink_rep) },
	[WFS_OP_RMDIR]		= { "RMDIR", sizeof(struct wfs_unlink_rep) },
	[WFS_OP_RENAME]		= { "RENAME", sizeof(struct wfs_rename_rep) },
	[WFS_OP_READLINK]	= { "READLINK", 0, true },
	[WFS_OP_READDIR]	= { "READDIR", sizeof(struct wfs_readdir_rep), true },
	[WFS_OP_STATFS]		= { "STATFS", sizeof(struct wfs_statfs_rep) },
	[WFS_OP_GETXATTR]	= { "GETXATTR", sizeof(struct wfs_xattr_rep), true },
	[WFS_OP_SETXATTR]	= { "SETXATTR", sizeof(struct wfs_attr) },
	[WFS_OP_LISTXATTR]	= { "LISTXATTR", sizeof(struct wfs_xattr_rep), true },
	[WFS_OP_REMOVEXATTR]	= { "REMOVEXATTR", sizeof(struct wfs_attr) },
	[WFS_OP_LOCK]		= { "LOCK", sizeof(struct wfs_lock_rep) },
	[WFS_OP_SESSION]	= { "SESSION", 0 },
	[WFS_OP_ALLOCATE]	= { "ALLOCATE", sizeof(struct wfs_write_rep) },
	[WFS_OP_SEEK]		= { "SEEK", sizeof(struct wfs_seek_rep) },
	[WFS_OP_COPY]		= { "COPY", sizeof(struct wfs_copy_rep) },
};

/* Wire errors that this architecture may number otherwise, or that must not reach an application. */
static const struct {
	u16	wire;
	u16	here;
} wfs_errnos[] = {
	{ 1, EPERM }, { 2, ENOENT }, { 5, EIO }, { 6, ENXIO }, { 7, E2BIG }, { 9, EBADF }, { 11, EAGAIN },
	{ 12, ENOMEM }, { 13, EACCES }, { 14, EFAULT }, { 16, EBUSY }, { 17, EEXIST }, { 18, EXDEV },
	{ 19, ENODEV }, { 20, ENOTDIR }, { 21, EISDIR }, { 22, EINVAL }, { 23, ENFILE }, { 24, EMFILE },
	{ 26, ETXTBSY }, { 27, EFBIG }, { 28, ENOSPC }, { 29, ESPIPE }, { 30, EROFS }, { 31, EMLINK },
	{ 34, ERANGE }, { 35, EDEADLK }, { 36, ENAMETOOLONG }, { 37, ENOLCK }, { 38, ENOSYS },
	{ 39, ENOTEMPTY }, { 40, ELOOP }, { 61, ENODATA }, { 71, EPROTO }, { 75, EOVERFLOW },
	{ 93, EPROTONOSUPPORT }, { 95, EOPNOTSUPP }, { 110, ETIMEDOUT }, { 116, ESTALE }, { 122, EDQUOT },
};

/**
 * wfs_errno_from_wire - turn a reply's status into a negative errno of this kernel
 * @status: wfs_rep_hdr.status
 *
 * Return: 0 for 0; a number that protocol.rst does not list becomes -EIO.
 */
int wfs_errno_from_wire(u32 status)
{
	unsigned int i;

	if (!status)
		return 0;
	for (i = 0; i < ARRAY_SIZE(wfs_errnos); i++)
		if (wfs_errnos[i].wire == status)
			return -wfs_errnos[i].here;
	return -EIO;
}

/**
 * wfs_check_reply - check a reply's header against the request in its slot
 * @hdr: the header; magic, slot and sequence number have been matched already
 * @op: the request's operation
 * @data_max: bytes of data that the request has room for
 *
 * Return: 0 or -EPROTO, after which the stream can't be trusted.
 */
int wfs_check_reply(const struct wfs_rep_hdr *hdr, u8 op, u32 data_max)
{
	u32 body_len = le32_to_cpu(hdr->body_len);
	u32 data_len = le32_to_cpu(hdr->data_len);

	if (op >= WFS_OP__COUNT || hdr->op != op || hdr->flags)
		return -EPROTO;
	if (hdr->status)
		return body_len || data_len ? -EPROTO : 0;
	if (body_len != wfs_ops[op].body)
		return -EPROTO;
	if (data_len > (wfs_ops[op].data ? data_max : 0))
		return -EPROTO;
	return 0;
}

/**
 * wfs_check_hello - check what a server agrees to
 * @rep: its answer
 * @max_read: asked for, bytes
 * @max_write: asked for, bytes
 * @max_inflight: asked for, slots
 *
 * Return: 0 or -EPROTO.
 */
int wfs_check_hello(const struct wfs_hello_rep *rep, u32 max_read, u32 max_write, u32 max_inflight)
{
	u32 r = le32_to_cpu(rep->max_read);
	u32 w = le32_to_cpu(rep->max_write);
	u32 n = le32_to_cpu(rep->max_inflight);
	u32 c = le32_to_cpu(rep->max_conns);
	unsigned int i;
	u8 id = 0;

	for (i = 0; i < WFS_SESSION_LEN; i++)
		id |= rep->session[i];
	if (le32_to_cpu(rep->version) != WFS_VERSION || !id)
		return -EPROTO;
	if (r < WFS_IO_MIN || r > max_read || r % WFS_IO_MIN)
		return -EPROTO;
	if (w < WFS_IO_MIN || w > max_write || w % WFS_IO_MIN)
		return -EPROTO;
	if (!n || n > max_inflight || !c || c > WFS_CONNS_MAX)
		return -EPROTO;
	if (!rep->life || !rep->lease || le32_to_cpu(rep->lease) > WFS_LEASE_MAX ||
	    le32_to_cpu(rep->session_flags) & ~(WFS_SESSION_KNOWN | WFS_SESSION_RECLAIM))
		return -EPROTO;
	return 0;
}

/**
 * wfs_check_fh - check a file handle's form
 * @fh: the handle
 *
 * Return: 0 or -EPROTO.
 */
int wfs_check_fh(const struct wfs_fh *fh)
{
	unsigned int i;

	if (!fh->len || fh->len > sizeof(fh->data))
		return -EPROTO;
	for (i = fh->len; i < sizeof(fh->data); i++)
		if (fh->data[i])
			return -EPROTO;
	return 0;
}

static int wfs_decode_time(struct timespec64 *ts, __le64 sec, __le32 nsec)
{
	ts->tv_sec = (s64)le64_to_cpu(sec);
	ts->tv_nsec = le32_to_cpu(nsec);
	return ts->tv_nsec < 1000000000 ? 0 : -EPROTO;
}

/**
 * wfs_decode_attr - check attributes
 * @wire: as received
 * @attr: the result
 *
 * Return: 0 or -EPROTO.
 */
int wfs_decode_attr(const struct wfs_attr *wire, struct wfs_iattr *attr)
{
	u32 mode = le32_to_cpu(wire->mode);

	attr->ino = le64_to_cpu(wire->ino);
	attr->size = le64_to_cpu(wire->size);
	attr->blocks = le64_to_cpu(wire->blocks);
	attr->change = le64_to_cpu(wire->change);
	attr->mode = mode;
	attr->nlink = le32_to_cpu(wire->nlink);
	attr->uid = le32_to_cpu(wire->uid);
	attr->gid = le32_to_cpu(wire->gid);
	attr->rdev_major = le32_to_cpu(wire->rdev_major);
	attr->rdev_minor = le32_to_cpu(wire->rdev_minor);
	attr->flags = le32_to_cpu(wire->flags);

	if (mode & ~(S_IFMT | 07777))
		return -EPROTO;
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	default:
		return -EPROTO;
	}
	if (attr->size > MAX_LFS_FILESIZE || attr->blocks > MAX_LFS_FILESIZE)
		return -EPROTO;
	/* (uid_t)-1 is nobody's: setuid(2) and friends take it for "leave alone" */
	if (attr->uid == (u32)-1 || attr->gid == (u32)-1)
		return -EPROTO;
	if (attr->rdev_major >= 1u << 12 || attr->rdev_minor >= 1u << 20)
		return -EPROTO;
	if (wfs_decode_time(&attr->atime, wire->atime_sec, wire->atime_nsec) ||
	    wfs_decode_time(&attr->mtime, wire->mtime_sec, wire->mtime_nsec) ||
	    wfs_decode_time(&attr->ctime, wire->ctime_sec, wire->ctime_nsec) ||
	    wfs_decode_time(&attr->btime, wire->btime_sec, wire->btime_nsec))
		return -EPROTO;
	return 0;
}

/**
 * wfs_name_ok - may this be the name of a directory entry
 * @name: the name
 * @len: its length in bytes
 */
bool wfs_name_ok(const char *name, size_t len)
{
	if (!len || len > WFS_NAME_MAX)
		return false;
	return !memchr(name, '/', len) && !memchr(name, 0, len);
}

static bool wfs_is_dot(const char *name, unsigned int len)
{
	return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'));
}

/**
 * wfs_decode_dirent - check the next entry of a READDIR reply
 * @data: where it starts, 8-byte aligned
 * @len: bytes that are left of the reply's data
 * @de: the result, which points into @data
 *
 * Return: the entry's length in bytes or -EPROTO.
 */
int wfs_decode_dirent(const void *data, size_t len, struct wfs_dentry *de)
{
	const struct wfs_dirent *wire = data;
	size_t need = sizeof(*wire);

	if (len < need)
		return -EPROTO;
	de->cookie = le64_to_cpu(wire->cookie);
	de->ino = le64_to_cpu(wire->ino);
	de->name_len = le16_to_cpu(wire->name_len);
	de->type = wire->type;
	de->plus = NULL;
	if (wire->plus > 1 || wire->type > 15)
		return -EPROTO;
	if (!de->cookie || de->cookie > LLONG_MAX)
		return -EPROTO;
	if (wire->plus) {
		de->plus = data + need;
		need += sizeof(*de->plus);
	}
	de->name = data + need;
	need += de->name_len;
	need = (need + 7) & ~(size_t)7;
	if (need > len)
		return -EPROTO;
	if (!wfs_name_ok(de->name, de->name_len))
		return -EPROTO;
	if (de->plus && (wfs_is_dot(de->name, de->name_len) || wfs_check_fh(&de->plus->fh)))
		return -EPROTO;
	return need;
}

/**
 * wfs_op_name - an operation's name for people
 * @op: enum wfs_op
 */
const char *wfs_op_name(u8 op)
{
	return op < WFS_OP__COUNT && wfs_ops[op].name ? wfs_ops[op].name : "?";
}
