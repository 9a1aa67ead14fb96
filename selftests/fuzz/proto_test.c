// SPDX-License-Identifier: GPL-2.0
/*
 * proto_test.c - kmod/proto.c takes every honest reply of the corpus, and none with a field that lies
 *
 * proto_test CORPUS/reply; prints TAP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "userspace.h"

#define HEAD		(8 + 192)	/* struct input of fuzz_reply.c */
#define BODY		(HEAD + sizeof(struct wfs_rep_hdr))

static unsigned int points, failed;
static unsigned char frame[1 << 16];
static size_t frame_len;

static void point(int ok, const char *name, const char *what)
{
	printf("%sok %u %s: %s\n", ok ? "" : "not ", ++points, name, what);
	failed += !ok;
}

static int load(const char *dir, const char *name)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	if (!f)
		return -errno;
	frame_len = fread(frame, 1, sizeof(frame), f);
	fclose(f);
	return frame_len < BODY ? -EINVAL : 0;
}

/* All the checks in the module's order: 0 or -EPROTO. */
static int check(void)
{
	const void *asked = frame + 8;
	struct wfs_rep_hdr hdr;
	u32 body_len, data_len;
	__le32 room;
	void *body, *data;
	u8 op = *frame;
	int err;

	memcpy(&room, frame + 4, sizeof(room));
	memcpy(&hdr, frame + HEAD, sizeof(hdr));
	err = wfs_check_reply(&hdr, op, op == WFS_OP_HELLO ? 0 : 5, le32_to_cpu(room));
	if (err || hdr.status)
		return err;
	body_len = le32_to_cpu(hdr.body_len);
	data_len = le32_to_cpu(hdr.data_len);
	if (BODY + body_len + data_len != frame_len)
		return -EINVAL;
	body = malloc(body_len + 1);
	data = malloc(data_len + 1);
	memcpy(body, frame + BODY, body_len);
	memcpy(data, frame + BODY + body_len, data_len);
	if (op == WFS_OP_HELLO)
		err = wfs_check_hello(asked, body);
	else
		err = wfs_check_body(op, asked, body, data_len) ?: wfs_check_data(op, asked, data, data_len);
	free(body);
	free(data);
	return err;
}

#define HDR(f)		HEAD + offsetof(struct wfs_rep_hdr, f), sizeof(((struct wfs_rep_hdr *)0)->f)
#define REP(s, f)	BODY + offsetof(struct s, f), sizeof(((struct s *)0)->f)
#define TIMES(name, s, a) \
	{ name, REP(s, a atime_nsec), 1000000000 }, { name, REP(s, a mtime_nsec), ~0ull }, \
	{ name, REP(s, a ctime_nsec), 1000000000 }, { name, REP(s, a btime_nsec), 1000000000 }
#define ATTR(name, s, a) \
	TIMES(name, s, a), { name, REP(s, a size), 1ull << 63 }, { name, REP(s, a size), ~0ull }, \
	{ name, REP(s, a blocks), 1ull << 63 }, { name, REP(s, a mode), 0 }, { name, REP(s, a mode), 0170644 }, \
	{ name, REP(s, a mode), 0x10000 | 0100644 }, { name, REP(s, a uid), ~0ull }, { name, REP(s, a gid), ~0ull }, \
	{ name, REP(s, a rdev_major), 4096 }, { name, REP(s, a rdev_minor), 1 << 20 }, \
	{ name, REP(s, a flags), 1u << 31 }
/* Attributes of something of a type, and of a directory; @not: another type. */
#define ATTR_IS(name, s, a, not)	ATTR(name, s, a), { name, REP(s, a mode), not | 0644 }
#define FH_(name, s, h) \
	{ name, REP(s, h.len), 0 }, { name, REP(s, h.len), 64 }, { name, REP(s, h.data[62]), 1 }

static const struct lie {
	const char	*name;		/* of the honest reply */
	size_t		off, len;	/* of the field in the file */
	u64		value;
} lies[] = {
	{ "GETATTR", HDR(magic), WFS_MAGIC + 1 }, { "GETATTR", HDR(seq), 4 }, { "GETATTR", HDR(seq), 0 },
	{ "HELLO", HDR(seq), 1 }, { "GETATTR", HDR(op), WFS_OP_SETATTR }, { "GETATTR", HDR(flags), 1 }, { "GETATTR", HDR(info), 1 },
	{ "GETATTR", HDR(body_len), 0 }, { "GETATTR", HDR(body_len), sizeof(struct wfs_attr) - 1 },
	{ "GETATTR", HDR(body_len), ~0ull }, { "GETATTR", HDR(data_len), 1 }, { "GETATTR", HDR(status), 5 },
	{ "READ", HDR(body_len), 1 }, { "READ", HDR(data_len), 65 }, { "READ", HDR(data_len), ~0ull },
	{ "CLOSE", HDR(body_len), 1 }, { "LOOKUP-error", HDR(body_len), 1 }, { "LOOKUP-error", HDR(data_len), 1 },
	{ "LOOKUP-error", HDR(info), 1 },

	{ "HELLO", REP(wfs_hello_rep, version), 0 }, { "HELLO", REP(wfs_hello_rep, version), 2 },
	{ "HELLO", REP(wfs_hello_rep, export_flags), 1u << 31 }, { "HELLO", REP(wfs_hello_rep, session), 0 },
	{ "HELLO", REP(wfs_hello_rep, max_read), 0 }, { "HELLO", REP(wfs_hello_rep, max_read), 4097 },
	{ "HELLO", REP(wfs_hello_rep, max_read), 2 << 20 }, { "HELLO", REP(wfs_hello_rep, max_write), 2048 },
	{ "HELLO", REP(wfs_hello_rep, max_write), ~0ull }, { "HELLO", REP(wfs_hello_rep, max_inflight), 0 },
	{ "HELLO", REP(wfs_hello_rep, max_inflight), 65 }, { "HELLO", REP(wfs_hello_rep, max_conns), 0 },
	{ "HELLO", REP(wfs_hello_rep, max_conns), 65 }, { "HELLO", REP(wfs_hello_rep, life), 0 },
	{ "HELLO", REP(wfs_hello_rep, lease), 0 }, { "HELLO", REP(wfs_hello_rep, lease), 3601 },
	{ "HELLO", REP(wfs_hello_rep, session_flags), 4 }, { "HELLO", REP(wfs_hello_rep, session_flags), 1 },
	{ "HELLO", REP(wfs_hello_rep, session_flags), 2 }, { "HELLO", REP(wfs_hello_rep, session_flags), 3 },
	{ "HELLO-again", REP(wfs_hello_rep, session), 1 }, { "HELLO-again", REP(wfs_hello_rep, session), 0 },
	{ "HELLO-again", REP(wfs_hello_rep, session_flags), 0 }, { "HELLO-again", REP(wfs_hello_rep, session_flags), 2 },
	{ "HELLO-again", REP(wfs_hello_rep, session_flags), 5 }, { "HELLO-restart", REP(wfs_hello_rep, session_flags), 2 },
	{ "HELLO-restart", REP(wfs_hello_rep, session), 2 }, { "HELLO-restart", REP(wfs_hello_rep, life), 0 },
	{ "HELLO-restart", REP(wfs_hello_rep, max_inflight), 65 },

	FH_("ROOT", wfs_entry, fh), ATTR_IS("ROOT", wfs_entry, attr., S_IFREG),
	FH_("LOOKUP", wfs_entry, fh), ATTR("LOOKUP", wfs_entry, attr.),
	ATTR("GETATTR", wfs_attr, ), ATTR("SETATTR", wfs_attr, ),
	ATTR("SETXATTR", wfs_attr, ), ATTR("REMOVEXATTR", wfs_attr, ),
	{ "ACCESS", REP(wfs_access_rep, mask), 8 }, { "ACCESS", REP(wfs_access_rep, reserved), 1 },
	ATTR("ACCESS", wfs_access_rep, attr.),
	FH_("OPEN", wfs_open_rep, io), ATTR_IS("OPEN", wfs_open_rep, attr., S_IFDIR),
	FH_("CREATE", wfs_create_rep, entry.fh), FH_("CREATE", wfs_create_rep, io),
	ATTR_IS("CREATE", wfs_create_rep, entry.attr., S_IFLNK), { "CREATE", REP(wfs_create_rep, created), 2 },
	{ "CREATE", REP(wfs_create_rep, reserved), 1 }, ATTR_IS("CREATE", wfs_create_rep, dir.attr., S_IFREG),
	ATTR_IS("WRITE", wfs_write_rep, attr., S_IFDIR), ATTR("COMMIT", wfs_commit_rep, attr.),
	FH_("MKDIR", wfs_make_rep, entry.fh), ATTR_IS("MKDIR", wfs_make_rep, entry.attr., S_IFREG),
	ATTR_IS("MKDIR", wfs_make_rep, dir.attr., S_IFREG), ATTR_IS("MKNOD", wfs_make_rep, entry.attr., S_IFCHR),
	ATTR_IS("SYMLINK", wfs_make_rep, entry.attr., S_IFDIR),
	ATTR("LINK", wfs_link_rep, attr.), ATTR_IS("LINK", wfs_link_rep, dir.attr., S_IFREG),
	ATTR_IS("UNLINK", wfs_unlink_rep, dir.attr., S_IFREG), ATTR_IS("RMDIR", wfs_unlink_rep, dir.attr., S_IFREG),
	ATTR_IS("RENAME", wfs_rename_rep, old_dir.attr., S_IFREG),
	ATTR_IS("RENAME", wfs_rename_rep, new_dir.attr., S_IFREG),
	{ "READDIR", REP(wfs_readdir_rep, eof), 2 }, { "READDIR", REP(wfs_readdir_rep, reserved), 1 },
	{ "STATFS", REP(wfs_statfs_rep, bsize), 0 }, { "STATFS", REP(wfs_statfs_rep, bsize), ~0ull },
	{ "STATFS", REP(wfs_statfs_rep, name_max), 0 }, { "STATFS", REP(wfs_statfs_rep, name_max), 256 },
	{ "GETXATTR", REP(wfs_xattr_rep, size), 4 }, { "GETXATTR", REP(wfs_xattr_rep, size), ~0ull },
	{ "GETXATTR", REP(wfs_xattr_rep, reserved), 1 }, { "GETXATTR-size", REP(wfs_xattr_rep, size), 65537 },
	{ "LISTXATTR", REP(wfs_xattr_rep, size), 65537 },
	ATTR_IS("ALLOCATE", wfs_write_rep, attr., S_IFDIR), ATTR_IS("COPY", wfs_copy_rep, wrote.attr., S_IFDIR),
	{ "COPY", REP(wfs_copy_rep, copied), 101 }, { "COPY", REP(wfs_copy_rep, copied), 1ull << 63 },
	{ "COPY", REP(wfs_copy_rep, copied), ~0ull },
	{ "SEEK", REP(wfs_seek_rep, offset), 0 }, { "SEEK", REP(wfs_seek_rep, offset), 1 },
	{ "SEEK", REP(wfs_seek_rep, offset), 1ull << 63 }, { "SEEK", REP(wfs_seek_rep, offset), ~0ull },
	{ "SESSION", HDR(body_len), 1 }, { "SESSION", HDR(data_len), 1 }, { "SESSION-hold", HDR(op), WFS_OP_LOCK },
	{ "LOCK", REP(wfs_lock_rep, type), WFS_LOCK_READ }, { "LOCK", REP(wfs_lock_rep, type), WFS_LOCK_UNLOCK },
	{ "LOCK", HDR(body_len), 0 }, { "LOCK-reclaim", REP(wfs_lock_rep, type), WFS_LOCK_READ },
	{ "LOCK-unlock", REP(wfs_lock_rep, type), WFS_LOCK_WRITE },
	{ "LOCK-test", REP(wfs_lock_rep, type), 3 }, { "LOCK-test", REP(wfs_lock_rep, type), ~0ull },
	/* somebody writes to bytes 10 to 19, which are asked for to read 5 to 14 */
	{ "LOCK-conflict", REP(wfs_lock_rep, type), WFS_LOCK_READ }, { "LOCK-conflict", REP(wfs_lock_rep, type), 3 },
	{ "LOCK-conflict", REP(wfs_lock_rep, start), 15 }, { "LOCK-conflict", REP(wfs_lock_rep, start), ~0ull },
	{ "LOCK-conflict", REP(wfs_lock_rep, end), 9 }, { "LOCK-conflict", REP(wfs_lock_rep, end), 1ull << 63 },
	{ "LOCK-conflict", REP(wfs_lock_rep, pid), 1u << 31 }, { "LOCK-conflict", REP(wfs_lock_rep, pid), ~0ull },
	/* data: behind the body; "user.a\0user.b\0" */
	{ "LISTXATTR", BODY + 8 + 13, 1, 'x' }, { "LISTXATTR", BODY + 8, 1, 0 },
	{ "READLINK", BODY, 1, 0 }, { "READLINK", BODY + 9, 1, 0 },
	/* the first entry */
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, cookie), 8, 0 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, cookie), 8, 1ull << 63 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, name_len), 2, 0 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, name_len), 2, 256 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, name_len), 2, 65535 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, type), 1, 3 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, type), 1, 255 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, plus), 1, 1 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, plus), 1, 2 },
	{ "READDIR-names", BODY + 8 + offsetof(struct wfs_dirent, reserved), 4, 1 },
	{ "READDIR-names", BODY + 8 + sizeof(struct wfs_dirent), 1, '/' },
	{ "READDIR-names", BODY + 8 + sizeof(struct wfs_dirent), 1, 0 },
	{ "READDIR-names", BODY + 8 + sizeof(struct wfs_dirent) + 7, 1, 1 },
};

int main(int argc, char **argv)
{
	static const char * const honest[] = {
		"HELLO", "ROOT", "LOOKUP", "LOOKUP-error", "GETATTR", "SETATTR", "ACCESS", "OPEN", "CREATE", "CLOSE",
		"READ", "WRITE", "COMMIT", "MKDIR", "MKNOD", "SYMLINK", "LINK", "UNLINK", "RMDIR", "RENAME", "READLINK",
		"READDIR", "READDIR-names", "STATFS", "GETXATTR", "GETXATTR-size", "SETXATTR", "LISTXATTR",
		"REMOVEXATTR", "LOCK", "LOCK-test", "LOCK-conflict", "LOCK-unlock", "LOCK-reclaim", "SESSION",
		"SESSION-hold", "SESSION-reclaimed", "ALLOCATE", "SEEK", "COPY", "HELLO-again", "HELLO-restart",
	};
	unsigned int i, accepted = 0;

	if (argc != 2)
		return 2;
	for (i = 0; i < ARRAY_SIZE(honest); i++)
		point(!load(argv[1], honest[i]) && !check(), honest[i], "an honest reply is taken");
	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		const struct lie *lie = &lies[i];
		u64 value = htole64(lie->value);

		if (load(argv[1], lie->name) || check()) {
			accepted++;
			continue;
		}
		memset(frame + lie->off, 0, lie->len);
		memcpy(frame + lie->off, &value, lie->len < sizeof(value) ? lie->len : sizeof(value));
		if (check() == -EPROTO)
			continue;
		printf("# %s: %llu taken at %zu, %zu bytes\n", lie->name, (unsigned long long)lie->value, lie->off,
		       lie->len);
		accepted++;
	}
	printf("# %zu lies\n", ARRAY_SIZE(lies));
	point(!accepted, "lies", "no reply with a field out of range is taken");
	point(wfs_seq_next(0) == 1 && wfs_seq_next(1) == 2 && wfs_seq_next(0xfffffffe) == 0xffffffff &&
	      wfs_seq_next(0xffffffff) == 1, "seq", "1 follows 2^32 - 1, as 0 is HELLO's");
	printf("1..%u\n", points);
	return failed ? 1 : 0;
}
