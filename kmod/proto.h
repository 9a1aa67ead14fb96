/* SPDX-License-Identifier: GPL-2.0 */
/*
 * proto.h - the checks of what comes off the wire, and what they make of it (proto.c)
 *
 * Includes nothing of the kernel: who compiles it for userspace includes selftests/fuzz/userspace.h before.
 */
#ifndef _WFS_KPROTO_H
#define _WFS_KPROTO_H

#include "wfs_proto.h"

/**
 * struct wfs_iattr - struct wfs_attr in the CPU's byte order
 * @ino: inode number, any
 * @size: bytes, at most MAX_LFS_FILESIZE
 * @blocks: units of 512 bytes, at most MAX_LFS_FILESIZE
 * @change: differs when the file does; see @flags
 * @run, @run_base: whose doing the last changes are, see struct wfs_attr
 * @atime, @mtime, @ctime, @btime: times; any seconds, 0 to 999999999 nanoseconds
 * @mode: type (one of the seven) and permissions
 * @nlink: links, any
 * @uid, @gid: owner in the initial user namespace, not (uid_t)-1
 * @rdev_major, @rdev_minor: of a device node, 12 and 20 bits
 * @flags: WFS_ATTR_*
 */
struct wfs_iattr {
	u64			ino;
	u64			size;
	u64			blocks;
	u64			change;
	u64			run, run_base;
	struct timespec64	atime, mtime, ctime, btime;
	umode_t			mode;
	u32			nlink;
	u32			uid, gid;
	u32			rdev_major, rdev_minor;
	u32			flags;
};

/**
 * struct wfs_dentry - struct wfs_dirent in the CPU's byte order
 * @cookie: where to go on after it, 1 to 2^63 - 1
 * @ino: inode number
 * @name: the name: 1 to WFS_NAME_MAX bytes, no '/', no NUL, not terminated; may be "." and ".." without @plus
 * @name_len: its length in bytes
 * @type: DT_*
 * @plus: its handle and attributes, checked, or NULL
 */
struct wfs_dentry {
	u64			cookie;
	u64			ino;
	const char		*name;
	unsigned int		name_len;
	unsigned int		type;
	const struct wfs_entry	*plus;
};

/* The checks.  Each is called once for each reply, by the one who received it. */
int wfs_check_reply(const struct wfs_rep_hdr *hdr, u8 op, u32 seq, u32 data_max);
int wfs_check_hello(const struct wfs_hello_req *asked, const struct wfs_hello_rep *rep);
int wfs_check_body(u8 op, const void *asked, const void *body, u32 data_len);
int wfs_check_data(u8 op, const void *asked, const void *data, size_t len);
bool wfs_name_ok(const char *name, size_t len);

/* What takes checked values apart; nothing here can fail. */
int wfs_errno_from_wire(u32 status);
void wfs_decode_attr(const struct wfs_attr *wire, struct wfs_iattr *attr);
size_t wfs_decode_dirent(const void *data, struct wfs_dentry *de);
const char *wfs_op_name(u8 op);

/**
 * wfs_seq_next - the sequence number of a slot's next request
 * @seq: that of its last one, or 0
 *
 * Return: 1 to 2^32 - 1; 0 is HELLO's.
 */
static inline u32 wfs_seq_next(u32 seq)
{
	return seq + 1 ?: 1;
}

#endif /* _WFS_KPROTO_H */
