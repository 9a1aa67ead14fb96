// SPDX-License-Identifier: GPL-2.0
/*
 * proto.c - what comes off the wire is hostile until it has passed here
 *
 * Each field of a reply is checked once, here, before anyone uses it: the header by wfs_check_reply() when it is
 * complete, the body by wfs_check_body() when that is, both in the receiver, and data with a form of its own by
 * wfs_check_data(), in wfs_req_call().  Whoever made the request gets values that are in range, or an error.
 *
 * The file takes bytes and gives back values; it knows no locks, no sockets and no inodes, and so compiles for
 * userspace too, where it is fuzzed (selftests/fuzz).
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
 * @hdr: the header; the caller knows the slot
 * @op: the request's operation
 * @seq: its sequence number
 * @data_max: bytes of data that the request has room for
 *
 * Return: 0 or -EPROTO, after which the stream can't be trusted.
 */
int wfs_check_reply(const struct wfs_rep_hdr *hdr, u8 op, u32 seq, u32 data_max)
{
	u32 body_len = le32_to_cpu(hdr->body_len);
	u32 data_len = le32_to_cpu(hdr->data_len);

	if (le32_to_cpu(hdr->magic) != WFS_MAGIC || op >= WFS_OP__COUNT || hdr->op != op || hdr->flags ||
	    le32_to_cpu(hdr->seq) != seq)
		return -EPROTO;
	if (hdr->info && !(op == WFS_OP_HELLO && hdr->status))
		return -EPROTO;
	if (hdr->status)
		return body_len || data_len ? -EPROTO : 0;
	if (body_len != wfs_ops[op].body)
		return -EPROTO;
	if (data_len > (wfs_ops[op].data ? data_max : 0))
		return -EPROTO;
	return 0;
}

/* Only one that is asked for can be known, and what is not known can't have anything to claim. */
static bool wfs_hello_session_ok(const struct wfs_hello_req *asked, const struct wfs_hello_rep *rep)
{
	static const u8 none[WFS_SESSION_LEN];
	u32 flags = le32_to_cpu(rep->session_flags);

	if (!memcmp(rep->session, none, WFS_SESSION_LEN))
		return false;
	if (!memcmp(asked->session, none, WFS_SESSION_LEN))
		return !flags;
	return !memcmp(asked->session, rep->session, WFS_SESSION_LEN) && flags & WFS_SESSION_KNOWN &&
	       !(flags & ~(WFS_SESSION_KNOWN | WFS_SESSION_RECLAIM));
}

/**
 * wfs_check_hello - check what a server agrees to
 * @asked: what it was asked for
 * @rep: its answer
 *
 * Return: 0 or -EPROTO.
 */
int wfs_check_hello(const struct wfs_hello_req *asked, const struct wfs_hello_rep *rep)
{
	u32 r = le32_to_cpu(rep->max_read);
	u32 w = le32_to_cpu(rep->max_write);
	u32 n = le32_to_cpu(rep->max_inflight);
	u32 c = le32_to_cpu(rep->max_conns);
	u32 lease = le32_to_cpu(rep->lease);

	if (le32_to_cpu(rep->version) != WFS_VERSION || !wfs_hello_session_ok(asked, rep))
		return -EPROTO;
	if (le32_to_cpu(rep->export_flags) &
	    ~(WFS_EXPORT_RDONLY | WFS_EXPORT_ROOT_SQUASH | WFS_EXPORT_ACL))
		return -EPROTO;
	if (r < WFS_IO_MIN || r > le32_to_cpu(asked->max_read) || r % WFS_IO_MIN)
		return -EPROTO;
	if (w < WFS_IO_MIN || w > le32_to_cpu(asked->max_write) || w % WFS_IO_MIN)
		return -EPROTO;
	if (!n || n > le32_to_cpu(asked->max_inflight) || !c || c > WFS_CONNS_MAX)
		return -EPROTO;
	if (!rep->life || !lease || lease > WFS_LEASE_MAX)
		return -EPROTO;
	return 0;
}

/* ---- parts of bodies ---- */

static bool wfs_fh_ok(const struct wfs_fh *fh)
{
	unsigned int i;

	if (!fh->len || fh->len > sizeof(fh->data))
		return false;
	for (i = fh->len; i < sizeof(fh->data); i++)
		if (fh->data[i])
			return false;
	return true;
}

static bool wfs_attr_ok(const struct wfs_attr *attr)
{
	u32 mode = le32_to_cpu(attr->mode);

	if (mode & ~(S_IFMT | 07777))
		return false;
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
		return false;
	}
	if (le64_to_cpu(attr->size) > MAX_LFS_FILESIZE || le64_to_cpu(attr->blocks) > MAX_LFS_FILESIZE)
		return false;
	/* (uid_t)-1 is nobody's: setuid(2) and friends take it for "leave alone" */
	if (le32_to_cpu(attr->uid) == (u32)-1 || le32_to_cpu(attr->gid) == (u32)-1)
		return false;
	if (le32_to_cpu(attr->rdev_major) >= 1u << 12 || le32_to_cpu(attr->rdev_minor) >= 1u << 20)
		return false;
	return le32_to_cpu(attr->atime_nsec) < 1000000000 && le32_to_cpu(attr->mtime_nsec) < 1000000000 &&
	       le32_to_cpu(attr->ctime_nsec) < 1000000000 && le32_to_cpu(attr->btime_nsec) < 1000000000 &&
	       !(le32_to_cpu(attr->flags) & ~(WFS_ATTR_BTIME | WFS_ATTR_RACY));
}

/* Attributes of an inode whose type is known. */
static bool wfs_attr_is(const struct wfs_attr *attr, u32 type)
{
	return wfs_attr_ok(attr) && (le32_to_cpu(attr->mode) & S_IFMT) == type;
}

static bool wfs_entry_ok(const struct wfs_entry *entry)
{
	return wfs_fh_ok(&entry->fh) && wfs_attr_ok(&entry->attr);
}

static bool wfs_entry_is(const struct wfs_entry *entry, u32 type)
{
	return wfs_fh_ok(&entry->fh) && wfs_attr_is(&entry->attr, type);
}

static bool wfs_dir_ok(const struct wfs_dir_change *dc)
{
	return wfs_attr_is(&dc->attr, S_IFDIR);
}

/* ---- bodies ---- */

/* MKDIR, MKNOD, SYMLINK */
static bool wfs_make_ok(u8 op, const struct wfs_create_req *asked, const struct wfs_make_rep *rep)
{
	u32 type = op == WFS_OP_MKDIR ? S_IFDIR :
		   op == WFS_OP_SYMLINK ? S_IFLNK : le32_to_cpu(asked->mode) & S_IFMT;

	return wfs_entry_is(&rep->entry, type) && wfs_dir_ok(&rep->dir);
}

static bool wfs_create_ok(const struct wfs_create_rep *rep)
{
	return wfs_entry_is(&rep->entry, S_IFREG) && wfs_fh_ok(&rep->io) && le32_to_cpu(rep->created) <= 1 &&
	       !rep->reserved && wfs_dir_ok(&rep->dir);
}

static bool wfs_access_ok(const struct wfs_access_req *asked, const struct wfs_access_rep *rep)
{
	return !(rep->mask & ~asked->mask) && !rep->reserved && wfs_attr_ok(&rep->attr);
}

static bool wfs_xattr_ok(const struct wfs_xattr_req *asked, const struct wfs_xattr_rep *rep, u32 data_len)
{
	u32 size = le32_to_cpu(rep->size);
	u32 most = le32_to_cpu(asked->size);

	if (rep->reserved || size > WFS_XATTR_MAX)
		return false;
	return most ? size <= most && size == data_len : !data_len;
}

static bool wfs_readdir_ok(const struct wfs_readdir_rep *rep, u32 data_len)
{
	u32 eof = le32_to_cpu(rep->eof);

	return eof <= 1 && !rep->reserved && (eof || data_len);
}

/* The numbers of blocks and files are shown and not used: they may be any. */
static bool wfs_statfs_ok(const struct wfs_statfs_rep *rep)
{
	u32 bsize = le32_to_cpu(rep->bsize);

	return bsize && bsize <= 1u << 30 && rep->name_max && le32_to_cpu(rep->name_max) <= WFS_NAME_MAX;
}

/* What is in the way of a lock overlaps it, and one of the two is for writing. */
static bool wfs_lock_ok(const struct wfs_lock_req *asked, const struct wfs_lock_rep *rep)
{
	u32 type = le32_to_cpu(rep->type), wanted = le32_to_cpu(asked->type);
	u64 start = le64_to_cpu(rep->start), end = le64_to_cpu(rep->end);

	if (!(le32_to_cpu(asked->flags) & WFS_LOCK_TEST))
		return type == wanted;
	if (type == WFS_LOCK_UNLOCK)
		return true;
	if (type != WFS_LOCK_WRITE && !(type == WFS_LOCK_READ && wanted == WFS_LOCK_WRITE))
		return false;
	return start <= end && end <= S64_MAX && start <= le64_to_cpu(asked->end) &&
	       end >= le64_to_cpu(asked->start) && le32_to_cpu(rep->pid) <= S32_MAX;
}

static bool wfs_seek_ok(const struct wfs_seek_req *asked, const struct wfs_seek_rep *rep)
{
	u64 offset = le64_to_cpu(rep->offset);

	return offset >= le64_to_cpu(asked->offset) && offset <= S64_MAX;
}

static bool wfs_copy_ok(const struct wfs_copy_req *asked, const struct wfs_copy_rep *rep)
{
	return le64_to_cpu(rep->copied) <= le64_to_cpu(asked->len) && wfs_attr_is(&rep->wrote.attr, S_IFREG);
}

/**
 * wfs_check_body - check the body of a reply without error
 * @op: the request's operation, not HELLO
 * @asked: the request's body as it went out
 * @body: the reply's; wfs_check_reply() found that it has the right length
 * @data_len: bytes of data that the reply announces
 *
 * Return: 0 or -EPROTO.
 */
int wfs_check_body(u8 op, const void *asked, const void *body, u32 data_len)
{
	bool ok = false;

	switch (op) {
	case WFS_OP_CLOSE:
	case WFS_OP_READ:
	case WFS_OP_READLINK:
	case WFS_OP_SESSION:
		ok = true;
		break;
	case WFS_OP_ROOT:
		ok = wfs_entry_is(body, S_IFDIR);
		break;
	case WFS_OP_LOOKUP:
		ok = wfs_entry_ok(body);
		break;
	case WFS_OP_GETATTR:
	case WFS_OP_SETATTR:
	case WFS_OP_SETXATTR:
	case WFS_OP_REMOVEXATTR:
		ok = wfs_attr_ok(body);
		break;
	case WFS_OP_ACCESS:
		ok = wfs_access_ok(asked, body);
		break;
	case WFS_OP_OPEN:
		ok = wfs_fh_ok(&((const struct wfs_open_rep *)body)->io) &&
		     wfs_attr_is(&((const struct wfs_open_rep *)body)->attr, S_IFREG);
		break;
	case WFS_OP_CREATE:
		ok = wfs_create_ok(body);
		break;
	case WFS_OP_WRITE:
	case WFS_OP_ALLOCATE:
		ok = wfs_attr_is(&((const struct wfs_write_rep *)body)->attr, S_IFREG);
		break;
	case WFS_OP_COMMIT:
		ok = wfs_attr_ok(&((const struct wfs_commit_rep *)body)->attr);
		break;
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		ok = wfs_make_ok(op, asked, body);
		break;
	case WFS_OP_LINK:
		ok = wfs_attr_ok(&((const struct wfs_link_rep *)body)->attr) &&
		     wfs_dir_ok(&((const struct wfs_link_rep *)body)->dir);
		break;
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		ok = wfs_dir_ok(&((const struct wfs_unlink_rep *)body)->dir);
		break;
	case WFS_OP_RENAME:
		ok = wfs_dir_ok(&((const struct wfs_rename_rep *)body)->old_dir) &&
		     wfs_dir_ok(&((const struct wfs_rename_rep *)body)->new_dir);
		break;
	case WFS_OP_READDIR:
		ok = wfs_readdir_ok(body, data_len);
		break;
	case WFS_OP_STATFS:
		ok = wfs_statfs_ok(body);
		break;
	case WFS_OP_GETXATTR:
	case WFS_OP_LISTXATTR:
		ok = wfs_xattr_ok(asked, body, data_len);
		break;
	case WFS_OP_LOCK:
		ok = wfs_lock_ok(asked, body);
		break;
	case WFS_OP_SEEK:
		ok = wfs_seek_ok(asked, body);
		break;
	case WFS_OP_COPY:
		ok = wfs_copy_ok(asked, body);
		break;
	}
	return ok ? 0 : -EPROTO;
}

/* ---- data ---- */

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

/* The length of the next entry of a READDIR reply, of which @len bytes are left; 0 if there is something wrong. */
static size_t wfs_dirent_ok(const struct wfs_dirent *wire, size_t len, bool plus)
{
	const unsigned int types = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 14;
	const struct wfs_entry *entry = (const void *)(wire + 1);
	size_t need = sizeof(*wire), padded;
	unsigned int name_len;
	const char *name;

	if (len < need)
		return 0;
	name_len = le16_to_cpu(wire->name_len);
	if (wire->plus > plus || wire->type > 15 || !(types & 1u << wire->type) || wire->reserved)
		return 0;
	if (!wire->cookie || le64_to_cpu(wire->cookie) > S64_MAX)
		return 0;
	if (wire->plus)
		need += sizeof(*entry);
	name = (const char *)wire + need;
	need += name_len;
	padded = (need + 7) & ~(size_t)7;
	if (padded > len || !wfs_name_ok(name, name_len))
		return 0;
	if (wire->plus && (wfs_is_dot(name, name_len) || !wfs_entry_ok(entry)))
		return 0;
	for (; need < padded; need++)
		if (((const char *)wire)[need])
			return 0;
	return padded;
}

static bool wfs_dirents_ok(const struct wfs_readdir_req *asked, const void *data, size_t len)
{
	bool plus = le32_to_cpu(asked->flags) & WFS_READDIR_PLUS;
	__le64 last = 0;
	size_t off, n;

	for (off = 0; off < len; off += n) {
		n = wfs_dirent_ok(data + off, len - off, plus);
		if (!n)
			return false;
		last = ((const struct wfs_dirent *)(data + off))->cookie;
	}
	/* a listing that goes on where it was never ends */
	return !len || last != asked->cookie;
}

/* Names, each with its NUL. */
static bool wfs_xattr_names_ok(const char *list, size_t len)
{
	size_t off, n;

	for (off = 0; off < len; off += n + 1) {
		n = strnlen(list + off, len - off);
		if (!n || n > WFS_NAME_MAX || n == len - off)
			return false;
	}
	return true;
}

/**
 * wfs_check_data - check data that is more than bytes
 * @op: the request's operation
 * @asked: the request's body as it went out
 * @data: READDIR, READLINK, LISTXATTR: the reply's data, 8-byte aligned; else ignored
 * @len: its length in bytes
 *
 * Context: for whom it may take a while: a READDIR reply can be long.
 *
 * Return: 0 or -EPROTO.
 */
int wfs_check_data(u8 op, const void *asked, const void *data, size_t len)
{
	bool ok = true;

	switch (op) {
	case WFS_OP_READLINK:
		ok = len && len <= WFS_TARGET_MAX && !memchr(data, 0, len);
		break;
	case WFS_OP_READDIR:
		ok = wfs_dirents_ok(asked, data, len);
		break;
	case WFS_OP_LISTXATTR:
		ok = wfs_xattr_names_ok(data, len);
		break;
	}
	return ok ? 0 : -EPROTO;
}

/* ---- what was checked, in the CPU's byte order ---- */

static struct timespec64 wfs_decode_time(__le64 sec, __le32 nsec)
{
	return (struct timespec64){ .tv_sec = (s64)le64_to_cpu(sec), .tv_nsec = le32_to_cpu(nsec) };
}

/**
 * wfs_decode_attr - read attributes
 * @wire: of a reply that was checked
 * @attr: the result
 */
void wfs_decode_attr(const struct wfs_attr *wire, struct wfs_iattr *attr)
{
	attr->ino = le64_to_cpu(wire->ino);
	attr->size = le64_to_cpu(wire->size);
	attr->blocks = le64_to_cpu(wire->blocks);
	attr->change = le64_to_cpu(wire->change);
	attr->run = le64_to_cpu(wire->run);
	attr->run_base = le64_to_cpu(wire->run_base);
	attr->atime = wfs_decode_time(wire->atime_sec, wire->atime_nsec);
	attr->mtime = wfs_decode_time(wire->mtime_sec, wire->mtime_nsec);
	attr->ctime = wfs_decode_time(wire->ctime_sec, wire->ctime_nsec);
	attr->btime = wfs_decode_time(wire->btime_sec, wire->btime_nsec);
	attr->mode = le32_to_cpu(wire->mode);
	attr->nlink = le32_to_cpu(wire->nlink);
	attr->uid = le32_to_cpu(wire->uid);
	attr->gid = le32_to_cpu(wire->gid);
	attr->rdev_major = le32_to_cpu(wire->rdev_major);
	attr->rdev_minor = le32_to_cpu(wire->rdev_minor);
	attr->flags = le32_to_cpu(wire->flags);
}

/**
 * wfs_decode_dirent - read an entry of a READDIR reply
 * @data: where it starts, in data that was checked
 * @de: the result, which points into @data
 *
 * Return: the entry's length in bytes.
 */
size_t wfs_decode_dirent(const void *data, struct wfs_dentry *de)
{
	const struct wfs_dirent *wire = data;
	size_t len = sizeof(*wire);

	de->cookie = le64_to_cpu(wire->cookie);
	de->ino = le64_to_cpu(wire->ino);
	de->name_len = le16_to_cpu(wire->name_len);
	de->type = wire->type;
	de->plus = wire->plus ? data + len : NULL;
	if (wire->plus)
		len += sizeof(*de->plus);
	de->name = data + len;
	return (len + de->name_len + 7) & ~(size_t)7;
}

/**
 * wfs_op_name - an operation's name for people
 * @op: enum wfs_op
 */
const char *wfs_op_name(u8 op)
{
	return op < WFS_OP__COUNT && wfs_ops[op].name ? wfs_ops[op].name : "?";
}
