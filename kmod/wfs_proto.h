/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * wfs_proto.h - the wfs wire protocol, shared by the module, the server and the tests.
 *
 * Documentation/protocol.rst specifies it; this file is its C form.  Everything on the wire is
 * little-endian and naturally aligned inside its structure, so that the structures below have no
 * implicit padding.  Lengths are in bytes.
 *
 *	request:  struct wfs_req_hdr | __le32 groups[ngroups] | body[body_len] | data[data_len]
 *	reply:    struct wfs_rep_hdr | body[body_len] | data[data_len]
 *
 * A body is one of the structures below, followed by the names that it announces.  Data is raw: what
 * a READ returned, what a WRITE brings, the entries of a READDIR.  The receiver knows from the header
 * (and from the slot) where the data goes before its first byte arrives.
 */
#ifndef _WFS_PROTO_H
#define _WFS_PROTO_H

#include <linux/types.h>

#define WFS_MAGIC		0x31534657u	/* "WFS1" in the order of the bytes */
#define WFS_VERSION		1		/* the only version so far */
#define WFS_PORT		9749		/* default TCP port */

/* Limits.  A peer that exceeds one of them has broken the protocol. */
#define WFS_NAME_MAX		255		/* bytes of a directory entry's name */
#define WFS_TARGET_MAX		4095		/* bytes of a symbolic link's target */
#define WFS_GROUPS_MAX		1024		/* supplementary groups of a request */
#define WFS_BODY_MAX		8192		/* bytes of a body, either way */
#define WFS_XATTR_MAX		65536		/* bytes of an xattr's value or of the list of names */
#define WFS_IO_MIN		4096		/* least max_read and max_write that can be agreed on */
#define WFS_IO_MAX		(4u << 20)	/* most of it */
#define WFS_READDIR_MAX		(1u << 20)	/* bytes of entries in one READDIR reply */
#define WFS_SLOTS_MAX		1024		/* slots of a connection */
#define WFS_CONNS_MAX		64		/* connections of a session */
#define WFS_FH_LEN		64		/* bytes of a file handle on the wire */
#define WFS_LEASE_MAX		3600		/* seconds of a session's lease */
#define WFS_SESSION_LEN		16		/* bytes of a session's id */

/*
 * enum wfs_op - operations.  The numbers are the protocol; do not reuse one.
 *
 * M marks the operations whose second run, after a lost reply, can answer otherwise than the first did.
 * The server keeps a record for each slot and answers them from it, and OPEN and CLOSE because of the holds.
 */
enum wfs_op {
	WFS_OP_HELLO		= 1,	/* first request of each connection */
	WFS_OP_ROOT		= 2,	/* the export's root */
	WFS_OP_LOOKUP		= 3,	/* one name in a directory */
	WFS_OP_GETATTR		= 4,
	WFS_OP_SETATTR		= 5,	/* M */
	WFS_OP_ACCESS		= 6,	/* what may this user do with it */
	WFS_OP_OPEN		= 7,	/* get an I/O handle */
	WFS_OP_CREATE		= 8,	/* M: create and open in one step */
	WFS_OP_CLOSE		= 9,	/* drop an I/O handle */
	WFS_OP_READ		= 10,
	WFS_OP_WRITE		= 11,
	WFS_OP_COMMIT		= 12,	/* fsync, fdatasync */
	WFS_OP_MKDIR		= 13,	/* M */
	WFS_OP_MKNOD		= 14,	/* M */
	WFS_OP_SYMLINK		= 15,	/* M */
	WFS_OP_LINK		= 16,	/* M */
	WFS_OP_UNLINK		= 17,	/* M */
	WFS_OP_RMDIR		= 18,	/* M */
	WFS_OP_RENAME		= 19,	/* M */
	WFS_OP_READLINK		= 20,
	WFS_OP_READDIR		= 21,
	WFS_OP_STATFS		= 22,
	WFS_OP_GETXATTR		= 23,
	WFS_OP_SETXATTR		= 24,	/* M */
	WFS_OP_LISTXATTR	= 25,
	WFS_OP_REMOVEXATTR	= 26,	/* M */
	WFS_OP_LOCK		= 27,	/* M: flock, POSIX and OFD locks */
	WFS_OP_SESSION		= 28,	/* M: claim holds again after a restart; end the session */
	WFS_OP_ALLOCATE		= 29,	/* M: fallocate */
	WFS_OP_SEEK		= 30,	/* SEEK_DATA, SEEK_HOLE */
	WFS_OP_COPY		= 31,	/* M: copy_file_range */
	WFS_OP__COUNT
};

/**
 * struct wfs_req_hdr - header of a request
 * @magic: WFS_MAGIC
 * @op: enum wfs_op
 * @flags: 0
 * @slot: which of the connection's slots this request occupies, below the agreed max_inflight; the
 *	slot is free again when its reply has arrived
 * @seq: counts the requests of the slot, from 1; a request that is sent again keeps slot and seq
 * @body_len: bytes of body, at most WFS_BODY_MAX
 * @data_len: bytes of data after the body; 0 but for WRITE (at most max_write) and SETXATTR
 * @uid: file system uid of the caller
 * @gid: file system gid of the caller
 * @ngroups: supplementary groups that follow the header, at most WFS_GROUPS_MAX
 * @reserved: 0
 */
struct wfs_req_hdr {
	__le32	magic;
	__u8	op;
	__u8	flags;
	__le16	slot;
	__le32	seq;
	__le32	body_len;
	__le32	data_len;
	__le32	uid;
	__le32	gid;
	__le16	ngroups;
	__le16	reserved;
};

/**
 * struct wfs_rep_hdr - header of a reply
 * @magic: WFS_MAGIC
 * @op: the request's
 * @flags: WFS_REP_*
 * @slot: the request's
 * @seq: the request's
 * @body_len: bytes of body; 0 when @status is not
 * @data_len: bytes of data; 0 when @status is not
 * @status: 0 or an error, numbered as asm-generic/errno.h numbers them (protocol.rst lists them)
 * @info: 0, but when a HELLO is refused with EPROTONOSUPPORT: the oldest version that the server speaks in
 *	the low 32 bits, the newest in the high
 */
struct wfs_rep_hdr {
	__le32	magic;
	__u8	op;
	__u8	flags;
	__le16	slot;
	__le32	seq;
	__le32	body_len;
	__le32	data_len;
	__le32	status;
	__le64	info;
};

/**
 * struct wfs_fh - a file handle: opaque to the client
 * @len: bytes of @data in use, 1 to 63; the rest is zero
 * @data: the server's
 *
 * The handle of LOOKUP and its like names an inode and carries no rights.  The I/O handle of OPEN and
 * CREATE names the inode and the rights (read, write) that the kernel granted when it was opened; a
 * server signs both, so neither can be made up.  Both stay valid across a restart of the server.
 */
struct wfs_fh {
	__u8	len;
	__u8	data[WFS_FH_LEN - 1];
};

/* wfs_attr.flags */
#define WFS_ATTR_BTIME		0x1	/* btime is valid */
#define WFS_ATTR_RACY		0x2	/* change is too fresh to tell the next change from this one */

/**
 * struct wfs_attr - attributes of an inode
 * @ino: inode number in the export's file system
 * @size: bytes
 * @blocks: units of 512 bytes
 * @change: differs when data or attributes differ; only equality has a meaning
 * @atime_sec, @mtime_sec, @ctime_sec, @btime_sec: seconds since 1970, signed
 * @atime_nsec, @mtime_nsec, @ctime_nsec, @btime_nsec: 0 to 999999999
 * @mode: type and permissions, as st_mode
 * @nlink: links
 * @uid, @gid: owner
 * @rdev_major, @rdev_minor: of a device node
 * @blksize: preferred I/O size in bytes
 * @flags: WFS_ATTR_*
 * @run: names a run of changes that one session made with nobody else's in between; 0 for none.  Only the
 *	session whose run it is is told its number, others see 0.
 * @run_base: the change value just before the run, valid when @run is not 0
 */
struct wfs_attr {
	__le64	ino;
	__le64	size;
	__le64	blocks;
	__le64	change;
	__le64	atime_sec;
	__le64	mtime_sec;
	__le64	ctime_sec;
	__le64	btime_sec;
	__le32	atime_nsec;
	__le32	mtime_nsec;
	__le32	ctime_nsec;
	__le32	btime_nsec;
	__le32	mode;
	__le32	nlink;
	__le32	uid;
	__le32	gid;
	__le32	rdev_major;
	__le32	rdev_minor;
	__le32	blksize;
	__le32	flags;
	__le64	run;
	__le64	run_base;
};

/**
 * struct wfs_dir_change - what an operation did to a directory
 * @pre_change: its change value just before
 * @attr: its attributes just after
 *
 * A client whose cached change value equals @pre_change knows that nobody else changed the directory.
 */
struct wfs_dir_change {
	__le64		pre_change;
	struct wfs_attr	attr;
};

/* A file and its attributes: the reply of ROOT, LOOKUP, and part of others. */
struct wfs_entry {
	struct wfs_fh	fh;
	struct wfs_attr	attr;
};

/* ---- HELLO ---- */

/* features, both ways; unknown bits are ignored and not echoed */
#define WFS_FEAT_NONE		0

/* wfs_hello_rep.export_flags */
#define WFS_EXPORT_RDONLY	0x1
#define WFS_EXPORT_ROOT_SQUASH	0x2
#define WFS_EXPORT_ACL		0x4	/* its file system has POSIX ACLs */

/* wfs_hello_rep.session_flags */
#define WFS_SESSION_KNOWN	0x1	/* it is the session that was asked for: what it has done is remembered */
#define WFS_SESSION_RECLAIM	0x2	/* the server restarted: holds and locks have to be claimed again now */

/**
 * struct wfs_hello_req - opens a connection (slot 0, seq 0)
 * @version_min, @version_max: versions that the client speaks
 * @features: WFS_FEAT_* that the client would use
 * @session: all zero asks for a new session; else the session to join
 * @conn: index of the connection in the session, 0 to WFS_CONNS_MAX - 1; a connection that is made
 *	again has the index that it had
 * @reserved: 0
 * @max_read, @max_write: most data that the client would move in one request
 * @max_inflight: slots that the client would use on this connection
 *
 * Errors: EPROTONOSUPPORT no common version (wfs_rep_hdr.info then tells the server's), ESTALE the session is not known (any more), EINVAL a field is out of range, ENFILE too many sessions or
 * connections, EBUSY the old connection of the index is not done yet, ENOSPC and its like no new session can be kept.
 */
struct wfs_hello_req {
	__le32	version_min;
	__le32	version_max;
	__le64	features;
	__u8	session[WFS_SESSION_LEN];
	__le16	conn;
	__le16	reserved;
	__le32	max_read;
	__le32	max_write;
	__le32	max_inflight;
};

/**
 * struct wfs_hello_rep - the agreement
 * @version: spoken from here on
 * @export_flags: WFS_EXPORT_*
 * @features: both sides have these
 * @session: the session's id, a secret of this client's
 * @verifier: identifies this life of the server's page cache (its machine's boot): data written but not
 *	committed under another verifier may be lost
 * @max_read, @max_write: agreed most, WFS_IO_MIN to what was asked
 * @max_inflight: agreed slots of each connection, 1 to what was asked
 * @max_conns: connections that the session may have, 1 to WFS_CONNS_MAX
 * @anon_uid, @anon_gid: whom root is squashed to
 * @life: differs whenever the server process was started anew; 0 is no value
 * @lease: seconds that a session lives without a connection; holds and locks of one that was not back for
 *	as long are gone.  After a restart the server grants others' locks only when those who had some had
 *	as much time to claim them again.  1 to 3600.
 * @session_flags: WFS_SESSION_*
 */
struct wfs_hello_rep {
	__le32	version;
	__le32	export_flags;
	__le64	features;
	__u8	session[WFS_SESSION_LEN];
	__le64	verifier;
	__le32	max_read;
	__le32	max_write;
	__le32	max_inflight;
	__le32	max_conns;
	__le32	anon_uid;
	__le32	anon_gid;
	__le64	life;
	__le32	lease;
	__le32	session_flags;
};

/* ---- names and attributes ---- */

/* ROOT: no body; reply struct wfs_entry. */

/* LOOKUP, UNLINK, RMDIR: a name in a directory. */
struct wfs_name_req {
	struct wfs_fh	dir;
	__le16		name_len;	/* 1 to WFS_NAME_MAX; no '/', no NUL, not "." or ".." */
	__le16		reserved[3];
	/* name */
};
/* LOOKUP: reply struct wfs_entry. */

/* UNLINK, RMDIR, LINK and RENAME answer with what happened to the directories. */
struct wfs_unlink_rep {
	struct wfs_dir_change dir;
};

/* GETATTR, READLINK, STATFS, CLOSE: just a handle. */
struct wfs_fh_req {
	struct wfs_fh	fh;
};

/* GETATTR, SETATTR: reply struct wfs_attr. */

/* wfs_setattr_req.valid */
#define WFS_SET_MODE		0x001
#define WFS_SET_UID		0x002
#define WFS_SET_GID		0x004
#define WFS_SET_SIZE		0x008
#define WFS_SET_ATIME		0x010	/* to the given time */
#define WFS_SET_MTIME		0x020
#define WFS_SET_ATIME_NOW	0x040	/* to the server's clock */
#define WFS_SET_MTIME_NOW	0x080
#define WFS_SET__ALL		0x0ff

struct wfs_setattr_req {
	struct wfs_fh	fh;		/* an I/O handle with the right to write may set the size whatever the mode */
	__le32		valid;		/* WFS_SET_* */
	__le32		mode;
	__le32		uid;
	__le32		gid;
	__le64		size;
	__le64		atime_sec;
	__le64		mtime_sec;
	__le32		atime_nsec;
	__le32		mtime_nsec;
};

/* ACCESS: R_OK, W_OK, X_OK as access(2) numbers them. */
struct wfs_access_req {
	struct wfs_fh	fh;
	__le32		mask;		/* asked */
	__le32		reserved;
};

struct wfs_access_rep {
	__le32		mask;		/* granted, of those asked */
	__le32		reserved;
	struct wfs_attr	attr;
};

/* CREATE, MKDIR, MKNOD, SYMLINK: a new name. */

/* wfs_create_req.flags, wfs_open_req.flags */
#define WFS_OPEN_READ		0x1
#define WFS_OPEN_WRITE		0x2
#define WFS_OPEN_TRUNC		0x4
#define WFS_OPEN_EXCL		0x8	/* CREATE only */
#define WFS_OPEN_EXEC		0x10	/* OPEN only, without WRITE: who may execute it may read it, as execve(2) does */
#define WFS_OPEN__ALL		0x1f

struct wfs_create_req {
	struct wfs_fh	dir;
	__le32		mode;		/* permissions; with the type for MKNOD */
	__le32		umask;		/* the caller's; the server applies it unless a default ACL does */
	__le32		flags;		/* CREATE: WFS_OPEN_*; else 0 */
	__le32		rdev_major;	/* MKNOD */
	__le32		rdev_minor;	/* MKNOD */
	__le16		name_len;
	__le16		target_len;	/* SYMLINK: 1 to WFS_TARGET_MAX; else 0 */
	/* name, target */
};

/* MKDIR, MKNOD, SYMLINK: reply */
struct wfs_make_rep {
	struct wfs_entry	entry;
	struct wfs_dir_change	dir;
};

/* CREATE: reply */
struct wfs_create_rep {
	struct wfs_entry	entry;
	struct wfs_fh		io;	/* I/O handle with the rights asked for */
	__le32			created; /* 1: this request made the file; 0: it was there */
	__le32			reserved;
	struct wfs_dir_change	dir;
};

/* LINK */
struct wfs_link_req {
	struct wfs_fh	fh;
	struct wfs_fh	dir;
	__le16		name_len;
	__le16		reserved[3];
	/* name */
};

struct wfs_link_rep {
	struct wfs_attr		attr;	/* of the file */
	struct wfs_dir_change	dir;
};

/* wfs_rename_req.flags: as renameat2(2) numbers them */
#define WFS_RENAME_NOREPLACE	0x1
#define WFS_RENAME_EXCHANGE	0x2

struct wfs_rename_req {
	struct wfs_fh	old_dir;
	struct wfs_fh	new_dir;
	__le32		flags;
	__le16		old_len;
	__le16		new_len;
	/* old name, new name */
};

struct wfs_rename_rep {
	struct wfs_dir_change old_dir;
	struct wfs_dir_change new_dir;	/* the same again when there is one directory */
};

/* READLINK: no reply body, data is the target without a NUL, 1 to WFS_TARGET_MAX bytes. */

/* ---- files ---- */

struct wfs_open_req {
	struct wfs_fh	fh;
	__le32		flags;		/* WFS_OPEN_* but EXCL */
	__le32		reserved;
};

struct wfs_open_rep {
	struct wfs_fh	io;
	struct wfs_attr	attr;
};

/* CLOSE: struct wfs_fh_req with an I/O handle, once for each OPEN and CREATE; no reply body. */

/* READ: no reply body; data is what was read, short only at the end of the file. */
struct wfs_read_req {
	struct wfs_fh	io;
	__le64		offset;
	__le32		count;		/* 1 to max_read */
	__le32		reserved;
};

#define WFS_WRITE_STABLE	0x1	/* on stable storage before the reply */

/* WRITE: data_len of the header is the count, 1 to max_write. */
struct wfs_write_req {
	struct wfs_fh	io;
	__le64		offset;
	__le32		flags;		/* WFS_WRITE_* */
	__le32		reserved;
};

struct wfs_write_rep {
	__le64		verifier;	/* as wfs_hello_rep's, when the data was taken */
	struct wfs_attr	attr;
};

#define WFS_COMMIT_DATASYNC	0x1
#define WFS_COMMIT_ALL		0x2	/* the whole export, as syncfs(2); @fh is the root's or any other */

struct wfs_commit_req {
	struct wfs_fh	fh;		/* a file's I/O handle, or the handle of a file or directory */
	__le32		flags;
	__le32		reserved;
};

struct wfs_commit_rep {
	__le64		verifier;
	struct wfs_attr	attr;
};

/* ---- directories ---- */

#define WFS_READDIR_PLUS	0x1	/* entries with handle and attributes */

struct wfs_readdir_req {
	struct wfs_fh	dir;
	__le64		cookie;		/* 0 at the start, else that of the last entry seen */
	__le32		count;		/* most bytes of data, WFS_IO_MIN to WFS_READDIR_MAX */
	__le32		flags;
};

struct wfs_readdir_rep {
	__le32		eof;		/* 1: there are no more entries after these */
	__le32		reserved;
};

/**
 * struct wfs_dirent - one entry in a READDIR reply's data
 * @cookie: where to go on after this entry; below 2^63 and not 0
 * @ino: inode number
 * @name_len: bytes of name
 * @type: DT_* as getdents64(2)
 * @plus: 1 when a struct wfs_entry follows the structure, 0 when not (not asked for, or not to be had)
 * @reserved: 0
 *
 * Then the name, then zeros up to a multiple of 8.  "." and ".." are there, never with @plus.
 */
struct wfs_dirent {
	__le64	cookie;
	__le64	ino;
	__le16	name_len;
	__u8	type;
	__u8	plus;
	__le32	reserved;
	/* struct wfs_entry when plus, name, padding */
};

/* ---- the rest ---- */

struct wfs_statfs_rep {
	__le64	blocks;			/* as statfs(2), units of bsize */
	__le64	bfree;
	__le64	bavail;
	__le64	files;
	__le64	ffree;
	__le32	bsize;
	__le32	name_max;		/* 1 to WFS_NAME_MAX */
};

/* GETXATTR, SETXATTR, LISTXATTR (name_len 0), REMOVEXATTR */
struct wfs_xattr_req {
	struct wfs_fh	fh;
	__le32		size;		/* GETXATTR, LISTXATTR: most data; 0 asks only for the size */
	__le32		flags;		/* SETXATTR: XATTR_CREATE 1, XATTR_REPLACE 2 */
	__le16		name_len;	/* whole name with its prefix, 1 to 255 */
	__le16		reserved[3];
	/* name */
};

/* GETXATTR, LISTXATTR: reply; the data is the value or the NUL-terminated names */
struct wfs_xattr_rep {
	__le32		size;		/* bytes of the value or list, also when size 0 was asked */
	__le32		reserved;
};
/* SETXATTR, REMOVEXATTR: reply struct wfs_attr */

/* ---- locks ---- */

/* wfs_lock_req.type, as fcntl(2) has them */
#define WFS_LOCK_READ		0
#define WFS_LOCK_WRITE		1
#define WFS_LOCK_UNLOCK		2

/* wfs_lock_req.flags */
#define WFS_LOCK_FLOCK		0x1	/* flock(2), of the whole file; else a lock of bytes (POSIX, OFD) */
#define WFS_LOCK_TEST		0x2	/* F_GETLK: change nothing, tell who is in the way */
#define WFS_LOCK_RECLAIM	0x4	/* it was held before the server restarted */
#define WFS_LOCK_CANCEL		0x8	/* UNLOCK: free nothing, end the wait of the owner's LOCK of exactly these bytes */
#define WFS_LOCK__ALL		0xf

#define WFS_LOCK_WAIT_MAX	60000	/* ms */
#define WFS_LOCK_PID_OFD	0xffffffffu

/**
 * struct wfs_lock_req - LOCK
 * @io: an I/O handle: with the right to read for READ, to write for WRITE (any for flock and UNLOCK)
 * @owner: a number that the client chose for who locks; unique in the session
 * @start, @end: first and last byte, 0 to 2^63 - 1; the latter is the end of any file.  flock: 0 and that
 * @type: WFS_LOCK_*
 * @flags: WFS_LOCK_*: FLOCK, and at most one of the others; TEST is for bytes only
 * @wait: milliseconds that the server may wait for the lock before it answers EAGAIN, 0 to WFS_LOCK_WAIT_MAX; the
 *	client asks again.  0 with UNLOCK and with flags other than FLOCK
 * @pid: the process's number on the client, for people; WFS_LOCK_PID_OFD for a lock that belongs to an open file:
 *	its waiting is never a deadlock, as one thread may free what another one has taken
 *
 * Errors: EAGAIN somebody else has it, EBADF, EINVAL, EDEADLK, ENOLCK too many; with RECLAIM also ENOLCK:
 * the time for it is over, or somebody else has it.
 */
struct wfs_lock_req {
	struct wfs_fh	io;
	__le64		owner;
	__le64		start;
	__le64		end;
	__le32		type;
	__le32		flags;
	__le32		wait;
	__le32		pid;
};

/**
 * struct wfs_lock_rep - reply to LOCK
 * @type: TEST: that of the lock in the way, or UNLOCK when there is none; else as asked
 * @pid: TEST: its owner's number where it is one of this session's owners, else 0
 * @start, @end: TEST: its bytes
 */
struct wfs_lock_rep {
	__le64		start;
	__le64		end;
	__le32		type;
	__le32		pid;
};

/* ---- sessions ---- */

/* wfs_session_req.what */
#define WFS_SESSION_HOLD	1	/* @count OPENs of @io are not closed yet */
#define WFS_SESSION_RECLAIMED	2	/* all holds and locks have been claimed again */
#define WFS_SESSION_END		3	/* umount: all that the session has goes; no request follows */

#define WFS_HOLD_COUNT_MAX	0x7fffffffu

struct wfs_session_req {
	struct wfs_fh	io;		/* HOLD: I/O handle; else zero */
	__le32		what;
	__le32		count;		/* HOLD: 1 to WFS_HOLD_COUNT_MAX; else 0 */
};
/* SESSION: no reply body. */

/* ---- parts of files ---- */

/* wfs_allocate_req.mode: as fallocate(2) numbers them */
#define WFS_ALLOC_KEEP_SIZE	0x01
#define WFS_ALLOC_PUNCH_HOLE	0x02	/* only with KEEP_SIZE */
#define WFS_ALLOC_ZERO_RANGE	0x10

/* ALLOCATE: reply struct wfs_write_rep. */
struct wfs_allocate_req {
	struct wfs_fh	io;		/* with the right to write */
	__le64		offset;
	__le64		len;		/* 1 and more; offset + len at most 2^63 - 1 */
	__le32		mode;		/* WFS_ALLOC_* */
	__le32		reserved;
};

/* wfs_seek_req.whence: as lseek(2) numbers them */
#define WFS_SEEK_DATA		3
#define WFS_SEEK_HOLE		4

/* SEEK: ENXIO when there is nothing from @offset on. */
struct wfs_seek_req {
	struct wfs_fh	io;
	__le64		offset;		/* at most 2^63 - 1 */
	__le32		whence;		/* WFS_SEEK_* */
	__le32		reserved;
};

struct wfs_seek_rep {
	__le64		offset;
};

/* COPY: may copy less than asked for; 0 bytes at the end of the source. */
struct wfs_copy_req {
	struct wfs_fh	from;		/* I/O handle with the right to read */
	struct wfs_fh	to;		/* I/O handle with the right to write */
	__le64		from_offset;
	__le64		to_offset;
	__le64		len;		/* 1 and more; each offset + len at most 2^63 - 1 */
};

struct wfs_copy_rep {
	__le64			copied;	/* bytes */
	struct wfs_write_rep	wrote;	/* as if that had been written to the file copied to */
};

#endif /* _WFS_PROTO_H */
