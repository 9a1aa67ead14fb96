// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz_reply.c - libFuzzer target: what a server may send, through kmod/proto.c as the module calls it
 *
 * Input: struct input, then a reply (header, body, data).  Each part is checked in a buffer of exactly its length.
 */
#include <stdlib.h>

#include "userspace.h"

/* What the module knows about the request.  Its body is the module's own, but may have any value here. */
struct input {
	u8	op;
	u8	pad[3];
	__le32	data_max;		/* bytes that the request has room for */
	u8	asked[192];		/* no body but for its names is longer */
};

#define WANT(c)		do { if (!(c)) __builtin_trap(); } while (0)

static void *copy(const u8 *from, size_t len)
{
	void *p = malloc(len ? len : 1);

	return len ? memcpy(p, from, len) : p;
}

static void want_attr(const struct wfs_attr *wire)
{
	struct wfs_iattr a;

	wfs_decode_attr(wire, &a);
	WANT(a.size <= INT64_MAX && a.blocks <= INT64_MAX);
	WANT(!(a.mode & ~(S_IFMT | 07777)) && a.mode & S_IFMT);
	WANT(a.uid != (u32)-1 && a.gid != (u32)-1);
	WANT(a.rdev_major < 4096 && a.rdev_minor < 1 << 20);
	WANT(a.atime.tv_nsec >= 0 && a.atime.tv_nsec < 1000000000);
	WANT(a.mtime.tv_nsec >= 0 && a.mtime.tv_nsec < 1000000000);
	WANT(a.ctime.tv_nsec >= 0 && a.ctime.tv_nsec < 1000000000);
	WANT(a.btime.tv_nsec >= 0 && a.btime.tv_nsec < 1000000000);
}

static void want_fh(const struct wfs_fh *fh)
{
	WANT(fh->len && fh->len <= sizeof(fh->data));
}

static void want_dir(const struct wfs_dir_change *dc)
{
	want_attr(&dc->attr);
	WANT(S_ISDIR(le32toh(dc->attr.mode)));
}

static void want_entry(const struct wfs_entry *e)
{
	want_fh(&e->fh);
	want_attr(&e->attr);
}

/* wfs_test_lock() makes a struct file_lock of it. */
static void want_lock(const struct wfs_lock_req *asked, const struct wfs_lock_rep *rep)
{
	u32 type = le32toh(rep->type);

	if (!(le32toh(asked->flags) & WFS_LOCK_TEST))
		WANT(type == le32toh(asked->type));
	else if (type != WFS_LOCK_UNLOCK)
		WANT(type <= WFS_LOCK_WRITE && le64toh(rep->start) <= le64toh(rep->end) &&
		     le64toh(rep->end) <= INT64_MAX && le64toh(rep->start) <= le64toh(asked->end) &&
		     le64toh(rep->end) >= le64toh(asked->start) && le32toh(rep->pid) <= INT32_MAX);
}

static void want_hello(const struct wfs_hello_req *asked, const struct wfs_hello_rep *rep)
{
	static const u8 none[WFS_SESSION_LEN];
	u32 flags = le32toh(rep->session_flags);

	WANT(le32toh(rep->max_read) <= le32toh(asked->max_read) && le32toh(rep->max_write) <= le32toh(asked->max_write));
	WANT(rep->max_inflight && le32toh(rep->max_inflight) <= le32toh(asked->max_inflight));
	WANT(rep->max_conns && le32toh(rep->max_conns) <= WFS_CONNS_MAX && rep->life);
	WANT(memcmp(rep->session, none, sizeof(none)));
	if (memcmp(asked->session, none, sizeof(none)))
		WANT(flags & WFS_SESSION_KNOWN && !memcmp(asked->session, rep->session, sizeof(none)));
	else
		WANT(!flags);
}

/* What the rest of the module relies on when a body was found good. */
static void want_body(u8 op, const void *asked, const void *body, u32 data_len)
{
	const struct wfs_create_rep *create = body;
	const struct wfs_rename_rep *rename = body;
	const struct wfs_make_rep *make = body;
	const struct wfs_open_rep *open = body;
	const struct wfs_link_rep *link = body;
	const struct wfs_xattr_rep *xattr = body;

	switch (op) {
	case WFS_OP_ROOT:
		WANT(S_ISDIR(le32toh(((const struct wfs_entry *)body)->attr.mode)));
		/* fall through */
	case WFS_OP_LOOKUP:
		want_entry(body);
		break;
	case WFS_OP_GETATTR:
	case WFS_OP_SETATTR:
	case WFS_OP_SETXATTR:
	case WFS_OP_REMOVEXATTR:
		want_attr(body);
		break;
	case WFS_OP_OPEN:
		want_fh(&open->io);
		want_attr(&open->attr);
		break;
	case WFS_OP_CREATE:
		want_entry(&create->entry);
		want_fh(&create->io);
		want_dir(&create->dir);
		WANT(S_ISREG(le32toh(create->entry.attr.mode)));
		break;
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		want_entry(&make->entry);
		want_dir(&make->dir);
		break;
	case WFS_OP_LINK:
		want_attr(&link->attr);
		want_dir(&link->dir);
		break;
	case WFS_OP_RENAME:
		want_dir(&rename->old_dir);
		want_dir(&rename->new_dir);
		break;
	case WFS_OP_GETXATTR:
	case WFS_OP_LISTXATTR:
		WANT(le32toh(xattr->size) <= WFS_XATTR_MAX);
		WANT(data_len == (((const struct wfs_xattr_req *)asked)->size ? le32toh(xattr->size) : 0));
		break;
	case WFS_OP_ACCESS:
		WANT(!(le32toh(((const struct wfs_access_rep *)body)->mask) &
		       ~le32toh(((const struct wfs_access_req *)asked)->mask)));
		want_attr(&((const struct wfs_access_rep *)body)->attr);
		break;
	case WFS_OP_WRITE:
	case WFS_OP_ALLOCATE:
		want_attr(&((const struct wfs_write_rep *)body)->attr);
		WANT(S_ISREG(le32toh(((const struct wfs_write_rep *)body)->attr.mode)));
		break;
	case WFS_OP_COMMIT:
		want_attr(&((const struct wfs_commit_rep *)body)->attr);
		break;
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		want_dir(&((const struct wfs_unlink_rep *)body)->dir);
		break;
	case WFS_OP_COPY:
		WANT(le64toh(((const struct wfs_copy_rep *)body)->copied) <=
		     le64toh(((const struct wfs_copy_req *)asked)->len));
		want_attr(&((const struct wfs_copy_rep *)body)->wrote.attr);
		break;
	case WFS_OP_SEEK:
		WANT(le64toh(((const struct wfs_seek_rep *)body)->offset) <= INT64_MAX &&
		     le64toh(((const struct wfs_seek_rep *)body)->offset) >=
		     le64toh(((const struct wfs_seek_req *)asked)->offset));
		break;
	case WFS_OP_LOCK:
		want_lock(asked, body);
		break;
	}
}

/* Walk through data as readdir.c, symlink.c and xattr.c do. */
static void want_data(u8 op, const void *data, size_t len)
{
	struct wfs_dentry de;
	size_t off, n;

	if (op == WFS_OP_READLINK)
		WANT(len && len <= WFS_TARGET_MAX && strnlen(data, len) == len);
	if (op == WFS_OP_LISTXATTR)
		WANT(!len || !((const char *)data)[len - 1]);
	if (op != WFS_OP_READDIR)
		return;
	for (off = 0; off < len; off += n) {
		n = wfs_decode_dirent(data + off, &de);
		WANT(n && n <= len - off && n % 8 == 0);
		WANT(de.cookie && de.cookie <= INT64_MAX);
		WANT(de.name_len && de.name_len <= WFS_NAME_MAX && !memchr(de.name, '/', de.name_len) &&
		     !memchr(de.name, 0, de.name_len));
		if (de.plus)
			want_entry(de.plus);
	}
	WANT(off == len);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct wfs_rep_hdr hdr;
	struct input in;
	u32 body_len, data_len;
	void *body, *raw;

	if (size < sizeof(in) + sizeof(hdr))
		return 0;
	memcpy(&in, data, sizeof(in));
	memcpy(&hdr, data + sizeof(in), sizeof(hdr));
	data += sizeof(in) + sizeof(hdr);
	size -= sizeof(in) + sizeof(hdr);

	WANT(wfs_op_name(in.op));
	WANT(wfs_errno_from_wire(le32toh(hdr.status)) <= 0);
	if (wfs_check_reply(&hdr, in.op, in.op == WFS_OP_HELLO ? 0 : 5, le32toh(in.data_max)) || hdr.status)
		return 0;
	body_len = le32toh(hdr.body_len);
	data_len = le32toh(hdr.data_len);
	WANT(body_len <= WFS_BODY_MAX && data_len <= le32toh(in.data_max));
	if (size < body_len || size - body_len < data_len)
		return 0;

	body = copy(data, body_len);
	if (in.op == WFS_OP_HELLO) {
		if (!wfs_check_hello((const void *)in.asked, body))
			want_hello((const void *)in.asked, body);
	} else if (!wfs_check_body(in.op, in.asked, body, data_len)) {
		want_body(in.op, in.asked, body, data_len);
		raw = copy(data + body_len, data_len);
		if (!wfs_check_data(in.op, in.asked, raw, data_len))
			want_data(in.op, raw, data_len);
		free(raw);
	}
	free(body);
	return 0;
}
