// SPDX-License-Identifier: GPL-2.0
/*
 * posix_ops - each file system operation, its results and its errors.
 *
 * Nothing here is particular to wfs: every test passes on a local file system (WFS_TEST_DIR).  As root;
 * on wfs the export must not squash root.
 */
#include "wfs_test.h"

#include <grp.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <linux/fs.h>

#define USER 12345
#define GROUP 23456
#define EXTRA 34567		/* a supplementary group */

static int touch(const char *path, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, mode);

	return fd < 0 ? -1 : close(fd);
}

static ino_t ino_of(const char *path)
{
	struct stat st;

	return lstat(path, &st) ? 0 : st.st_ino;
}

/* ---- lookup, attributes ---- */

TEST_F(dir, lookup)
{
	struct stat st;

	FAILS(ENOENT, stat("none", &st));
	FAILS(ENOENT, stat("none/below", &st));
	OK(touch("none", 0644));
	OK(stat("none", &st));		/* the negative entry is gone */
	FAILS(ENOTDIR, stat("none/below", &st));
	OK(mkdir("d", 0755));
	OK(mkdir("d/e", 0755));
	OK(touch("d/e/f", 0600));
	OK(stat("d/e/f", &st));
	OK(stat("d/e/../e/./f", &st));
	OK(stat("d/e/..", &st));
	ASSERT_EQ(ino_of("d"), st.st_ino);
	OK(unlink("none"));
	FAILS(ENOENT, stat("none", &st));
	FAILS(ENOENT, open("none", O_RDONLY));
	FAILS(ENOENT, stat("", &st));
}

TEST_F(dir, lookup_sees_the_server)
{
	char path[PATH_MAX + 16];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/made", self->server);
	fd = open(path, O_WRONLY | O_CREAT, 0640);
	OK(fd);
	ASSERT_EQ(5, write(fd, "hello", 5));
	OK(close(fd));
	OK(stat("made", &st));
	ASSERT_EQ(5, st.st_size);
	ASSERT_EQ(0640, st.st_mode & 07777);
}

/* Every attribute is the one that the server's file system has. */
TEST_F(dir, statx_is_the_servers)
{
	const char *names[] = { "file", "dir", "link", "fifo", "hole" };
	char path[PATH_MAX + 16];
	struct statx a, b;
	int fd;

	OK(make_file("file", 123456, 1));
	OK(mkdir("dir", 0751));
	OK(symlink("file", "link"));
	OK(mkfifo("fifo", 0604));
	fd = open("hole", O_WRONLY | O_CREAT, 0400);
	OK(fd);
	OK(ftruncate(fd, 1 << 30));
	OK(close(fd));
	OK(link("file", "other"));
	OK(chown("file", USER, GROUP));
	fd = open("file", O_RDONLY);
	OK(fd);
	OK(fsync(fd));
	OK(close(fd));

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		TH_LOG("%s", names[i]);
		snprintf(path, sizeof(path), "%s/%s", self->server, names[i]);
		OK(statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &b));
		OK(statx(AT_FDCWD, names[i], AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC,
			 STATX_BASIC_STATS, &a));
		ASSERT_EQ(STATX_BASIC_STATS, a.stx_mask & STATX_BASIC_STATS);
		ASSERT_EQ(b.stx_ino, a.stx_ino);
		ASSERT_EQ(b.stx_mode, a.stx_mode);
		ASSERT_EQ(b.stx_nlink, a.stx_nlink);
		ASSERT_EQ(b.stx_uid, a.stx_uid);
		ASSERT_EQ(b.stx_gid, a.stx_gid);
		ASSERT_EQ(b.stx_size, a.stx_size);
		ASSERT_EQ(b.stx_blocks, a.stx_blocks);
		ASSERT_EQ(b.stx_mtime.tv_sec, a.stx_mtime.tv_sec);
		ASSERT_EQ(b.stx_mtime.tv_nsec, a.stx_mtime.tv_nsec);
		ASSERT_EQ(b.stx_ctime.tv_sec, a.stx_ctime.tv_sec);
		ASSERT_EQ(b.stx_ctime.tv_nsec, a.stx_ctime.tv_nsec);
		ASSERT_EQ(b.stx_atime.tv_sec, a.stx_atime.tv_sec);
		ASSERT_EQ(b.stx_atime.tv_nsec, a.stx_atime.tv_nsec);
	}
}

TEST_F(dir, fstat_of_open_file)
{
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0600);

	OK(fd);
	OK(fstat(fd, &st));
	ASSERT_EQ(0, st.st_size);
	ASSERT_EQ(6, pwrite(fd, "123456", 6, 10));
	OK(fstat(fd, &st));
	ASSERT_EQ(16, st.st_size);	/* before anything was written back */
	ASSERT_EQ(16, lseek(fd, 0, SEEK_END));
	OK(close(fd));
	OK(stat("f", &st));
	ASSERT_EQ(16, st.st_size);
}

TEST_F(dir, chmod)
{
	struct stat st;
	int fd;

	OK(touch("f", 0644));
	OK(chmod("f", 0));
	OK(stat("f", &st));
	ASSERT_EQ(S_IFREG | 0, st.st_mode);
	OK(chmod("f", 07755));
	OK(stat("f", &st));
	ASSERT_EQ(S_IFREG | 07755, st.st_mode);
	fd = open("f", O_RDONLY);
	OK(fd);
	OK(fchmod(fd, 0604));
	OK(fstat(fd, &st));
	ASSERT_EQ(S_IFREG | 0604, st.st_mode);
	OK(close(fd));
	OK(mkdir("d", 0700));
	OK(chmod("d", 01777));
	OK(stat("d", &st));
	ASSERT_EQ(S_IFDIR | 01777, st.st_mode);
	FAILS(ENOENT, chmod("none", 0600));
}

TEST_F(dir, chown)
{
	struct stat st;

	OK(touch("f", 0644));
	OK(chown("f", USER, -1));
	OK(stat("f", &st));
	ASSERT_EQ(USER, st.st_uid);
	ASSERT_EQ(0, st.st_gid);
	OK(chown("f", -1, GROUP));
	OK(stat("f", &st));
	ASSERT_EQ(USER, st.st_uid);
	ASSERT_EQ(GROUP, st.st_gid);
	OK(chown("f", 0xfffffffe, 0xfffffffe));	/* the largest ids there are */
	OK(stat("f", &st));
	ASSERT_EQ(0xfffffffe, st.st_uid);
	ASSERT_EQ(0xfffffffe, st.st_gid);
	OK(symlink("f", "l"));
	OK(lchown("l", USER, GROUP));
	OK(lstat("l", &st));
	ASSERT_EQ(USER, st.st_uid);
	OK(stat("l", &st));
	ASSERT_EQ(0xfffffffe, st.st_uid);
}

TEST_F(dir, utimens)
{
	/* odd nanoseconds, before 1970, after 2^32 */
	const time_t secs[] = { 1000000000, -1000, 4294967296 + 5 };
	struct timespec t[2];
	struct stat st;
	int fd;

	OK(touch("f", 0644));
	for (size_t i = 0; i < ARRAY_SIZE(secs); i++) {
		t[0] = (struct timespec){ secs[i], 123456789 };
		t[1] = (struct timespec){ secs[i] + 1, 987654321 };
		OK(utimensat(AT_FDCWD, "f", t, 0));
		OK(remount(self->path));
		OK(stat("f", &st));
		ASSERT_EQ(secs[i], st.st_atim.tv_sec);
		ASSERT_EQ(123456789, st.st_atim.tv_nsec);
		ASSERT_EQ(secs[i] + 1, st.st_mtim.tv_sec);
		ASSERT_EQ(987654321, st.st_mtim.tv_nsec);
	}

	t[0] = (struct timespec){ .tv_nsec = UTIME_OMIT };
	t[1] = (struct timespec){ 77, 7 };
	OK(utimensat(AT_FDCWD, "f", t, 0));
	OK(stat("f", &st));
	ASSERT_EQ(4294967296 + 5, st.st_atim.tv_sec);
	ASSERT_EQ(77, st.st_mtim.tv_sec);

	t[0] = (struct timespec){ .tv_nsec = UTIME_NOW };
	t[1] = (struct timespec){ .tv_nsec = UTIME_OMIT };
	OK(utimensat(AT_FDCWD, "f", t, 0));
	OK(stat("f", &st));
	ASSERT_LE(labs(time(NULL) - st.st_atim.tv_sec), 5);
	ASSERT_EQ(77, st.st_mtim.tv_sec);
	ASSERT_EQ(7, st.st_mtim.tv_nsec);

	fd = open("f", O_RDWR);
	OK(fd);
	OK(futimens(fd, NULL));
	OK(fstat(fd, &st));
	ASSERT_LE(labs(time(NULL) - st.st_mtim.tv_sec), 5);

	/* a time that is set after a write stays, also when the data is written back later */
	ASSERT_EQ(3, write(fd, "abc", 3));
	t[0] = (struct timespec){ 88, 8 };
	t[1] = (struct timespec){ 99, 9 };
	OK(futimens(fd, t));
	OK(fsync(fd));
	OK(close(fd));
	OK(stat("f", &st));
	ASSERT_EQ(99, st.st_mtim.tv_sec);
	ASSERT_EQ(9, st.st_mtim.tv_nsec);
	ASSERT_EQ(3, st.st_size);

	OK(symlink("none", "l"));
	OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
	OK(lstat("l", &st));
	ASSERT_EQ(99, st.st_mtim.tv_sec);
}

TEST_F(dir, times_change)
{
	const struct timespec old[2] = { { 1000, 0 }, { 1000, 0 } };
	struct stat st;
	int fd;

	OK(mkdir("d", 0755));
	OK(utimensat(AT_FDCWD, "d", old, 0));
	OK(touch("d/f", 0644));
	OK(stat("d", &st));
	ASSERT_LT(1000, st.st_mtim.tv_sec);	/* create changes the directory */
	OK(utimensat(AT_FDCWD, "d", old, 0));
	OK(unlink("d/f"));
	OK(stat("d", &st));
	ASSERT_LT(1000, st.st_mtim.tv_sec);	/* and so does unlink */

	fd = open("f", O_RDWR | O_CREAT, 0644);
	OK(fd);
	OK(futimens(fd, old));
	ASSERT_EQ(1, write(fd, "x", 1));
	OK(fsync(fd));
	OK(fstat(fd, &st));
	ASSERT_LT(1000, st.st_mtim.tv_sec);	/* write changes the file */
	OK(futimens(fd, old));
	OK(ftruncate(fd, 10));
	OK(fstat(fd, &st));
	ASSERT_LT(1000, st.st_mtim.tv_sec);	/* truncate too */
	OK(close(fd));
}

TEST_F(dir, truncate)
{
	char buf[8192];
	struct stat st;
	int fd;

	OK(make_file("f", 100000, 2));
	OK(truncate("f", 5000));
	OK(stat("f", &st));
	ASSERT_EQ(5000, st.st_size);
	OK(check_file("f", 5000, 2));
	OK(truncate("f", 8192));		/* up again: zeros, not what was there */
	fd = open("f", O_RDWR);
	OK(fd);
	ASSERT_EQ(8192, pread_all(fd, buf, sizeof(buf), 0));
	ASSERT_EQ(-1, mismatch(buf, 5000, 0, 2));
	for (int i = 5000; i < 8192; i++)
		ASSERT_EQ(0, buf[i]);
	OK(ftruncate(fd, 1ll << 40));
	OK(fstat(fd, &st));
	ASSERT_EQ(1ll << 40, st.st_size);
	ASSERT_EQ(1, pread(fd, buf, 2, (1ll << 40) - 1));
	ASSERT_EQ(0, buf[0]);
	OK(ftruncate(fd, 0));
	ASSERT_EQ(0, pread(fd, buf, 1, 0));
	FAILS(EINVAL, ftruncate(fd, -1));
	OK(close(fd));
	OK(remount(self->path));
	OK(stat("f", &st));
	ASSERT_EQ(0, st.st_size);
	OK(mkdir("d", 0755));
	FAILS(EISDIR, truncate("d", 0));
	FAILS(ENOENT, truncate("none", 0));
}

/* A descriptor may set the size whatever the mode says now. */
TEST_F(dir, ftruncate_after_chmod)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	struct stat st;

	OK(fd);
	OK(fchmod(fd, 0));
	OK(fchown(fd, USER, GROUP));
	ASSERT_EQ(4, write(fd, "data", 4));
	OK(ftruncate(fd, 2));
	OK(fsync(fd));
	OK(fstat(fd, &st));
	ASSERT_EQ(2, st.st_size);
	OK(close(fd));
}

TEST_F(dir, statfs)
{
	struct statvfs a, b;
	int64_t diff;

	OK(statvfs(".", &a));
	OK(statvfs(self->server, &b));
	ASSERT_EQ(b.f_frsize * b.f_blocks, a.f_frsize * a.f_blocks);
	ASSERT_EQ(b.f_files, a.f_files);
	ASSERT_EQ(255, a.f_namemax);
	diff = (int64_t)(b.f_frsize * b.f_bavail) - (int64_t)(a.f_frsize * a.f_bavail);
	ASSERT_LE(llabs(diff), 64 * MIB);
	ASSERT_LE(a.f_bavail, a.f_bfree);
}

/* ---- creation ---- */

TEST_F(dir, create_excl)
{
	struct stat st;

	int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0640);

	OK(fd);
	OK(fstat(fd, &st));
	ASSERT_EQ(S_IFREG | 0640, st.st_mode);
	OK(close(fd));
	FAILS(EEXIST, open("f", O_RDWR | O_CREAT | O_EXCL, 0640));
	OK(symlink("nowhere", "l"));
	FAILS(EEXIST, open("l", O_RDWR | O_CREAT | O_EXCL, 0640));
	OK(mkdir("d", 0755));
	FAILS(EEXIST, open("d", O_RDONLY | O_CREAT | O_EXCL, 0640));
	FAILS(EISDIR, open("d", O_RDONLY | O_CREAT, 0640));
	FAILS(ENOENT, open("none/f", O_RDWR | O_CREAT, 0640));
	FAILS(ENOTDIR, open("f/f", O_RDWR | O_CREAT, 0640));
	fd = open("f", O_RDWR | O_CREAT, 0777);	/* there already: as it was */
	OK(fd);
	OK(fstat(fd, &st));
	ASSERT_EQ(S_IFREG | 0640, st.st_mode);
	OK(close(fd));
}

/* The same through a name that another client (here the server itself) has just made or removed. */
TEST_F(dir, create_excl_against_server)
{
	char path[PATH_MAX + 16];
	struct stat st;

	snprintf(path, sizeof(path), "%s/f", self->server);
	FAILS(ENOENT, stat("f", &st));		/* cached as absent */
	OK(touch(path, 0644));
	FAILS(EEXIST, open("f", O_RDWR | O_CREAT | O_EXCL, 0640));
	OK(stat("f", &st));
	OK(unlink(path));
	OK(touch("f", 0600));			/* cached as present */
}

TEST_F(dir, create_excl_race)
{
	enum { PROCS = 8, ROUNDS = 40 };
	struct { struct barrier b; atomic_int won[ROUNDS]; atomic_int odd; } *s = shared_alloc(sizeof(*s));

	for (int p = 0; p < PROCS; p++) {
		if (fork())
			continue;
		for (int r = 0; r < ROUNDS; r++) {
			char name[32];
			int fd;

			snprintf(name, sizeof(name), "f%d", r);
			barrier(&s->b, PROCS);
			fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
			if (fd >= 0) {
				atomic_fetch_add(&s->won[r], 1);
				if (write(fd, "w", 1) != 1 || close(fd))
					atomic_fetch_add(&s->odd, 1);
			} else if (errno != EEXIST) {
				printf("# create: %s\n", strerror(errno));
				atomic_fetch_add(&s->odd, 1);
			}
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	for (int r = 0; r < ROUNDS; r++)
		ASSERT_EQ(1, atomic_load(&s->won[r]));
}

/* Without O_EXCL everybody gets the one file. */
TEST_F(dir, create_race)
{
	enum { PROCS = 8, ROUNDS = 20 };
	struct { struct barrier b; atomic_int odd; atomic_ulong ino[PROCS][ROUNDS]; } *s =
		shared_alloc(sizeof(*s));

	for (int p = 0; p < PROCS; p++) {
		if (fork())
			continue;
		for (int r = 0; r < ROUNDS; r++) {
			struct stat st;
			char name[32];
			int fd;

			snprintf(name, sizeof(name), "f%d", r);
			barrier(&s->b, PROCS);
			fd = open(name, O_RDWR | O_CREAT, 0644);
			if (fd < 0 || fstat(fd, &st) || close(fd))
				atomic_fetch_add(&s->odd, 1);
			else
				s->ino[p][r] = st.st_ino;
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	for (int r = 0; r < ROUNDS; r++)
		for (int p = 1; p < PROCS; p++)
			ASSERT_EQ(s->ino[0][r], s->ino[p][r]);
}

TEST_F(dir, umask)
{
	struct stat st;

	umask(027);
	OK(touch("f", 0777));
	OK(stat("f", &st));
	ASSERT_EQ(S_IFREG | 0750, st.st_mode);
	OK(mkdir("d", 0777));
	OK(stat("d", &st));
	ASSERT_EQ(S_IFDIR | 0750, st.st_mode);
	OK(mkfifo("p", 0666));
	OK(stat("p", &st));
	ASSERT_EQ(S_IFIFO | 0640, st.st_mode);
	umask(0);
	OK(touch("g", 0666));
	OK(stat("g", &st));
	ASSERT_EQ(S_IFREG | 0666, st.st_mode);
}

TEST_F(dir, open_flags)
{
	char buf[16];
	struct stat st;
	int fd, fd2;

	OK(make_file("f", 100, 3));
	OK(symlink("f", "l"));
	OK(mkdir("d", 0755));
	FAILS(ELOOP, open("l", O_RDONLY | O_NOFOLLOW));
	FAILS(ENOTDIR, open("f", O_RDONLY | O_DIRECTORY));
	FAILS(EISDIR, open("d", O_WRONLY));
	FAILS(EISDIR, open("d", O_RDWR));

	fd = open("f", O_RDONLY);
	OK(fd);
	FAILS(EBADF, write(fd, "x", 1));
	fd2 = open("f", O_WRONLY);
	OK(fd2);
	FAILS(EBADF, read(fd2, buf, 1));
	OK(close(fd2));

	fd2 = open("f", O_RDWR | O_TRUNC);
	OK(fd2);
	OK(fstat(fd, &st));
	ASSERT_EQ(0, st.st_size);
	ASSERT_EQ(0, read(fd, buf, sizeof(buf)));
	ASSERT_EQ(5, write(fd2, "fresh", 5));
	OK(close(fd2));
	ASSERT_EQ(5, read(fd, buf, sizeof(buf)));
	ASSERT_EQ(0, memcmp(buf, "fresh", 5));
	OK(close(fd));
	fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
	OK(fd);
	OK(fstat(fd, &st));
	ASSERT_EQ(0, st.st_size);
	OK(close(fd));

	fd = open("f", O_PATH);
	OK(fd);
	OK(fstat(fd, &st));
	OK(close(fd));
}

/* ---- directories ---- */

TEST_F(dir, mkdir_rmdir)
{
	struct stat st;

	OK(stat(".", &st));
	ASSERT_EQ(S_IFDIR | 0755, st.st_mode);
	OK(mkdir("d", 0700));
	FAILS(EEXIST, mkdir("d", 0700));
	OK(mkdir("d/e", 0700));
	FAILS(ENOTEMPTY, rmdir("d"));
	FAILS(EISDIR, unlink("d"));
	FAILS(EINVAL, rmdir("d/."));
	FAILS(ENOTEMPTY, rmdir("d/.."));
	OK(rmdir("d/e"));
	FAILS(ENOENT, rmdir("d/e"));
	OK(touch("d/f", 0600));
	FAILS(ENOTEMPTY, rmdir("d"));
	FAILS(ENOTDIR, rmdir("d/f"));
	FAILS(EEXIST, mkdir("d/f", 0700));
	FAILS(ENOTDIR, mkdir("d/f/g", 0700));
	FAILS(ENOENT, mkdir("none/g", 0700));
	OK(unlink("d/f"));
	OK(rmdir("d"));
	FAILS(ENOENT, stat("d", &st));
	FAILS(ENOENT, unlink("d"));
}

TEST_F(dir, directory_links)
{
	struct stat st;

	OK(mkdir("d", 0755));
	OK(stat("d", &st));
	if (st.st_nlink == 1) {		/* a file system that does not count them, as btrfs */
		OK(mkdir("d/a", 0755));
		OK(stat("d", &st));
		ASSERT_EQ(1, st.st_nlink);
		OK(rmdir("d/a"));
		return;
	}
	ASSERT_EQ(2, st.st_nlink);
	OK(mkdir("d/a", 0755));
	OK(mkdir("d/b", 0755));
	OK(stat("d", &st));
	ASSERT_EQ(4, st.st_nlink);
	OK(rename("d/a", "a"));
	OK(stat("d", &st));
	ASSERT_EQ(3, st.st_nlink);
	OK(rmdir("d/b"));
	OK(stat("d", &st));
	ASSERT_EQ(2, st.st_nlink);
}

/* A directory that is removed while it is somebody's current directory. */
TEST_F(dir, removed_directory)
{
	struct stat st;
	int fd;

	OK(mkdir("d", 0755));
	fd = open("d", O_RDONLY | O_DIRECTORY);
	OK(fd);
	OK(rmdir("d"));
	FAILS(ENOENT, openat(fd, "f", O_WRONLY | O_CREAT, 0644));
	FAILS(ENOENT, mkdirat(fd, "f", 0755));
	FAILS(ENOENT, fstatat(fd, "f", &st, 0));
	OK(close(fd));
}

TEST_F(dir, names)
{
	char name[300], utf8[256], odd[255];
	struct dirent *de;
	int seen = 0;
	struct stat st;
	DIR *d;

	memset(name, 'n', sizeof(name));
	name[256] = 0;
	FAILS(ENAMETOOLONG, touch(name, 0644));
	FAILS(ENAMETOOLONG, mkdir(name, 0755));
	FAILS(ENAMETOOLONG, symlink("x", name));
	FAILS(ENAMETOOLONG, stat(name, &st));
	FAILS(ENAMETOOLONG, unlink(name));
	name[255] = 0;
	OK(touch(name, 0644));
	OK(stat(name, &st));
	for (int i = 0; i < 255; i += 3)
		memcpy(utf8 + i, "\xe2\x82\xac", 3);
	utf8[255] = 0;
	OK(mkdir(utf8, 0755));
	for (int i = 0; i < 254; i++)		/* every byte but NUL and '/' */
		odd[i] = i + 1 < '/' ? i + 1 : i + 2;
	odd[254] = 0;
	OK(symlink("x", odd));
	FAILS(ENOTDIR, rename(utf8, name));
	OK(remount(self->path));
	d = opendir(".");
	ASSERT_NE(NULL, d);
	while ((de = readdir(d))) {
		if (!strcmp(de->d_name, name))
			seen |= 1;
		if (!strcmp(de->d_name, utf8))
			seen |= 2;
		if (!strcmp(de->d_name, odd))
			seen |= 4;
	}
	OK(closedir(d));
	ASSERT_EQ(7, seen);
	OK(lstat(odd, &st));
	name[254] = 0;
	OK(rename(odd, name));
	name[254] = 'n';
	OK(unlink(name));
	OK(rmdir(utf8));
}

TEST_F(dir, deep_path)
{
	int depth;

	for (depth = 0; depth < 60; depth++) {
		OK(mkdir("some_directory_name", 0755));
		OK(chdir("some_directory_name"));
	}
	OK(touch("leaf", 0644));
	OK(chdir(self->path));
	OK(remount(self->path));
	for (depth = 0; depth < 60; depth++)
		OK(chdir("some_directory_name"));
	OK(unlink("leaf"));
}

/* ---- links ---- */

TEST_F(dir, symlink)
{
	char target[PATH_MAX], buf[PATH_MAX + 1];
	struct stat st;

	OK(symlink("some/where", "l"));
	FAILS(EEXIST, symlink("x", "l"));
	ASSERT_EQ(10, readlink("l", buf, sizeof(buf)));
	ASSERT_EQ(0, memcmp(buf, "some/where", 10));
	ASSERT_EQ(4, readlink("l", buf, 4));
	OK(lstat("l", &st));
	ASSERT_EQ(S_IFLNK | 0777, st.st_mode);
	ASSERT_EQ(10, st.st_size);
	FAILS(ENOENT, stat("l", &st));
	OK(touch("f", 0644));
	FAILS(EINVAL, readlink("f", buf, sizeof(buf)));
	OK(symlink("f", "m"));
	OK(stat("m", &st));
	ASSERT_EQ(ino_of("f"), st.st_ino);
	OK(symlink("loop", "loop"));
	FAILS(ELOOP, stat("loop", &st));
	OK(unlink("m"));
	OK(stat("f", &st));

	for (int i = 0; i < PATH_MAX; i++)
		target[i] = "/abcdefghijklmnopqrstuvwxyz"[i % 27];
	target[4095] = 0;
	OK(symlink(target, "long"));
	OK(remount(self->path));
	ASSERT_EQ(4095, readlink("long", buf, sizeof(buf)));
	ASSERT_EQ(0, memcmp(buf, target, 4095));
	OK(lstat("long", &st));
	ASSERT_EQ(4095, st.st_size);
	FAILS(ENOENT, symlink("", "empty"));
}

TEST_F(dir, link)
{
	char buf[16] = "";
	struct stat st;
	int fd;

	OK(make_file("f", 1000, 4));
	OK(mkdir("d", 0755));
	OK(link("f", "d/g"));
	OK(stat("f", &st));
	ASSERT_EQ(2, st.st_nlink);
	ASSERT_EQ(st.st_ino, ino_of("d/g"));
	FAILS(EEXIST, link("f", "d/g"));
	FAILS(EEXIST, link("f", "d"));
	FAILS(EPERM, link("d", "dd"));
	FAILS(ENOENT, link("none", "n"));
	FAILS(ENOENT, link("f", "none/n"));
	OK(check_file("d/g", 1000, 4));
	fd = open("f", O_RDWR);
	OK(fd);
	ASSERT_EQ(5, write(fd, "other", 5));
	OK(close(fd));
	fd = open("d/g", O_RDONLY);
	OK(fd);
	ASSERT_EQ(5, read(fd, buf, 5));
	ASSERT_STREQ("other", buf);
	OK(unlink("f"));
	OK(fstat(fd, &st));
	ASSERT_EQ(1, st.st_nlink);
	OK(close(fd));
	OK(stat("d/g", &st));
	ASSERT_EQ(1, st.st_nlink);

	OK(symlink("d/g", "s"));
	OK(link("s", "t"));			/* the symbolic link itself */
	OK(lstat("t", &st));
	ASSERT_EQ(S_IFLNK, st.st_mode & S_IFMT);
	ASSERT_EQ(2, st.st_nlink);
	OK(linkat(AT_FDCWD, "s", AT_FDCWD, "h", AT_SYMLINK_FOLLOW));
	ASSERT_EQ(ino_of("d/g"), ino_of("h"));
}

/* ---- rename ---- */

TEST_F(dir, rename_file)
{
	ino_t ino;
	struct stat st;

	OK(make_file("a", 100, 5));
	OK(make_file("b", 200, 6));
	ino = ino_of("a");
	OK(rename("a", "c"));
	FAILS(ENOENT, stat("a", &st));
	ASSERT_EQ(ino, ino_of("c"));
	OK(rename("c", "b"));		/* over one that is there */
	FAILS(ENOENT, stat("c", &st));
	ASSERT_EQ(ino, ino_of("b"));
	OK(check_file("b", 100, 5));
	OK(mkdir("d", 0755));
	OK(mkdir("e", 0755));
	OK(rename("b", "d/b"));
	OK(rename("d/b", "e/x"));
	ASSERT_EQ(ino, ino_of("e/x"));
	FAILS(ENOENT, rename("d/b", "z"));
	FAILS(ENOENT, rename("e/x", "none/z"));
	FAILS(EISDIR, rename("e/x", "d"));
	FAILS(ENOTDIR, rename("d", "e/x"));
	OK(link("e/x", "e/y"));
	OK(rename("e/x", "e/y"));	/* two names of one file: nothing happens */
	OK(stat("e/x", &st));
	ASSERT_EQ(2, st.st_nlink);
	OK(remount(self->path));
	ASSERT_EQ(ino, ino_of("e/x"));
	OK(check_file("e/y", 100, 5));
}

TEST_F(dir, rename_dir)
{
	struct stat st;
	ino_t ino;

	OK(mkdir("a", 0755));
	OK(mkdir("a/sub", 0755));
	OK(touch("a/sub/f", 0644));
	ino = ino_of("a/sub");
	OK(mkdir("b", 0755));
	FAILS(EINVAL, rename("a", "a/sub/c"));	/* into itself */
	FAILS(EINVAL, rename("a", "a/c"));
	OK(rename("a/sub", "b/sub"));
	ASSERT_EQ(ino, ino_of("b/sub"));
	OK(stat("b/sub/f", &st));
	OK(stat("b/sub/..", &st));
	ASSERT_EQ(ino_of("b"), st.st_ino);	/* .. has moved along */
	OK(rename("b/sub", "a"));		/* over an empty one */
	ASSERT_EQ(ino, ino_of("a"));
	FAILS(ENOTEMPTY, rename("b", "a"));
	FAILS(EBUSY, rename("a/..", "b"));
	OK(remount(self->path));
	OK(stat("a/f", &st));
}

TEST_F(dir, rename_flags)
{
	struct stat st;
	ino_t a, b;

	OK(make_file("a", 10, 7));
	OK(make_file("b", 20, 8));
	OK(mkdir("d", 0755));
	OK(mkdir("d/e", 0755));
	a = ino_of("a");
	b = ino_of("b");
	FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE));
	FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_NOREPLACE));
	OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
	ASSERT_EQ(a, ino_of("c"));
	FAILS(ENOENT, stat("a", &st));

	OK(renameat2(AT_FDCWD, "c", AT_FDCWD, "b", RENAME_EXCHANGE));
	ASSERT_EQ(b, ino_of("c"));
	ASSERT_EQ(a, ino_of("b"));
	OK(check_file("c", 20, 8));
	OK(check_file("b", 10, 7));
	FAILS(ENOENT, renameat2(AT_FDCWD, "c", AT_FDCWD, "none", RENAME_EXCHANGE));
	OK(renameat2(AT_FDCWD, "c", AT_FDCWD, "d/e", RENAME_EXCHANGE));	/* a file and a directory */
	OK(check_file("d/e", 20, 8));
	OK(stat("c", &st));
	ASSERT_EQ(S_IFDIR, st.st_mode & S_IFMT);
	FAILS(EINVAL, renameat2(AT_FDCWD, "d", AT_FDCWD, "d/e", RENAME_EXCHANGE));
	FAILS(EINVAL, renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE));
	FAILS(EINVAL, renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 0x40000000));
	OK(remount(self->path));
	OK(check_file("d/e", 20, 8));
	OK(check_file("b", 10, 7));
	OK(rmdir("c"));
}

/* What was replaced stays readable for those who have it open, and what replaced it is what others get. */
TEST_F(dir, rename_over_open)
{
	char buf[100];
	struct stat st;
	int fd;

	OK(make_file("a", 100, 9));
	OK(make_file("b", 100, 10));
	fd = open("b", O_RDWR);
	OK(fd);
	OK(rename("a", "b"));
	OK(check_file("b", 100, 9));
	ASSERT_EQ(100, pread(fd, buf, 100, 0));
	ASSERT_EQ(-1, mismatch(buf, 100, 0, 10));
	OK(fstat(fd, &st));
	ASSERT_EQ(100, st.st_size);
	OK(close(fd));
}

/* ---- special files ---- */

TEST_F(dir, fifo)
{
	char buf[16] = "";
	struct stat st;
	int fd;

	OK(mkfifo("p", 0640));
	FAILS(EEXIST, mkfifo("p", 0640));
	OK(stat("p", &st));
	ASSERT_EQ(S_IFIFO | 0640, st.st_mode);
	if (!fork()) {
		fd = open("p", O_WRONLY);
		_exit(fd < 0 || write(fd, "through", 7) != 7);
	}
	fd = open("p", O_RDONLY);
	OK(fd);
	ASSERT_EQ(7, read(fd, buf, sizeof(buf)));
	ASSERT_STREQ("through", buf);
	ASSERT_EQ(0, read(fd, buf, sizeof(buf)));
	OK(close(fd));
	ASSERT_EQ(0, wait_children(1));
	FAILS(ENXIO, open("p", O_WRONLY | O_NONBLOCK));
	OK(unlink("p"));
}

TEST_F(dir, socket)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "sock" };
	int srv = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), conn;
	char buf[8] = "";
	struct stat st;

	OK(srv);
	OK(c);
	OK(bind(srv, (struct sockaddr *)&addr, sizeof(addr)));
	OK(stat("sock", &st));
	ASSERT_EQ(S_IFSOCK, st.st_mode & S_IFMT);
	FAILS(EADDRINUSE, bind(c, (struct sockaddr *)&addr, sizeof(addr)));
	OK(listen(srv, 1));
	OK(connect(c, (struct sockaddr *)&addr, sizeof(addr)));
	conn = accept(srv, NULL, NULL);
	OK(conn);
	ASSERT_EQ(4, write(c, "ping", 4));
	ASSERT_EQ(4, read(conn, buf, sizeof(buf)));
	ASSERT_STREQ("ping", buf);
	FAILS(ENXIO, open("sock", O_RDWR));
	OK(mknod("sock2", S_IFSOCK | 0600, 0));
	OK(close(srv));
	OK(close(c));
	OK(close(conn));
	OK(unlink("sock"));
}

TEST_F(dir, device_nodes)
{
	const dev_t big = makedev(4095, 1048575);
	struct stat st;
	char c = 1;
	int fd;

	OK(mknod("zero", S_IFCHR | 0600, makedev(1, 5)));
	OK(mknod("blk", S_IFBLK | 0600, big));
	FAILS(EEXIST, mknod("zero", S_IFCHR | 0600, makedev(1, 5)));
	OK(remount(self->path));
	OK(stat("blk", &st));
	ASSERT_EQ(S_IFBLK | 0600, st.st_mode);
	ASSERT_EQ(big, st.st_rdev);
	OK(stat("zero", &st));
	ASSERT_EQ(S_IFCHR | 0600, st.st_mode);
	ASSERT_EQ(makedev(1, 5), st.st_rdev);
	fd = open("zero", O_RDONLY);
	OK(fd);
	ASSERT_EQ(1, read(fd, &c, 1));
	ASSERT_EQ(0, c);
	OK(close(fd));
	OK(mknod("plain", S_IFREG | 0640, 0));
	OK(stat("plain", &st));
	ASSERT_EQ(S_IFREG | 0640, st.st_mode);
}

/* ---- xattrs ---- */

TEST_F(dir, xattr)
{
	char buf[256], *p;
	int seen = 0;
	ssize_t n;

	OK(touch("f", 0644));
	ASSERT_EQ(0, listxattr("f", NULL, 0));
	FAILS(ENODATA, getxattr("f", "user.a", buf, sizeof(buf)));
	FAILS(ENODATA, removexattr("f", "user.a"));
	FAILS(ENODATA, setxattr("f", "user.a", "1", 1, XATTR_REPLACE));
	OK(setxattr("f", "user.a", "value", 5, XATTR_CREATE));
	FAILS(EEXIST, setxattr("f", "user.a", "1", 1, XATTR_CREATE));
	ASSERT_EQ(5, getxattr("f", "user.a", NULL, 0));
	ASSERT_EQ(5, getxattr("f", "user.a", buf, sizeof(buf)));
	ASSERT_EQ(0, memcmp(buf, "value", 5));
	FAILS(ERANGE, getxattr("f", "user.a", buf, 4));
	OK(setxattr("f", "user.a", "other!", 6, XATTR_REPLACE));
	ASSERT_EQ(6, getxattr("f", "user.a", buf, 6));
	ASSERT_EQ(0, memcmp(buf, "other!", 6));
	OK(setxattr("f", "user.b", "a\0b", 3, 0));
	ASSERT_EQ(3, getxattr("f", "user.b", buf, 3));
	ASSERT_EQ(0, memcmp(buf, "a\0b", 3));
	OK(setxattr("f", "user.empty", "", 0, 0));
	ASSERT_EQ(0, getxattr("f", "user.empty", buf, sizeof(buf)));

	OK(remount(self->path));
	n = listxattr("f", NULL, 0);
	ASSERT_EQ(sizeof("user.a") + sizeof("user.b") + sizeof("user.empty"), n);
	FAILS(ERANGE, listxattr("f", buf, n - 1));
	ASSERT_EQ(n, listxattr("f", buf, n));
	for (p = buf; p < buf + n; p += strlen(p) + 1)
		seen |= !strcmp(p, "user.a") ? 1 : !strcmp(p, "user.b") ? 2 :
			!strcmp(p, "user.empty") ? 4 : 8;
	ASSERT_EQ(7, seen);
	OK(removexattr("f", "user.a"));
	FAILS(ENODATA, getxattr("f", "user.a", buf, sizeof(buf)));
	ASSERT_EQ(3, getxattr("f", "user.b", buf, sizeof(buf)));

	OK(mkdir("d", 0755));
	OK(setxattr("d", "user.dir", "yes", 3, 0));
	ASSERT_EQ(3, getxattr("d", "user.dir", buf, sizeof(buf)));
	OK(symlink("f", "l"));
	FAILS(EPERM, lsetxattr("l", "user.l", "1", 1, 0));
	FAILS(EOPNOTSUPP, setxattr("f", "nonsense.x", "1", 1, 0));
}

TEST_F(dir, xattr_large)
{
	size_t max = getenv("WFS_XATTR_MAX") ? atoi(getenv("WFS_XATTR_MAX")) : 2000;
	char *val = malloc(65537), *got = malloc(65537), name[257] = "user.";

	TH_LOG("values of %zu bytes", max);
	OK(touch("f", 0644));
	fill(val, 65537, 0, 11);
	OK(setxattr("f", "user.big", val, max, 0));
	OK(remount(self->path));
	ASSERT_EQ(max, getxattr("f", "user.big", NULL, 0));
	ASSERT_EQ(max, getxattr("f", "user.big", got, 65536));
	ASSERT_EQ(-1, mismatch(got, max, 0, 11));
	FAILS(ERANGE, getxattr("f", "user.big", got, max - 1));
	FAILS(E2BIG, setxattr("f", "user.big", val, 65537, 0));
	OK(removexattr("f", "user.big"));
	memset(name + 5, 'x', 250);
	OK(setxattr("f", name, "1", 1, 0));	/* a name of 255 bytes */
	ASSERT_EQ(1, getxattr("f", name, got, 16));
	OK(removexattr("f", name));
	name[255] = 'x';
	FAILS(ERANGE, setxattr("f", name, "1", 1, 0));
	free(val);
	free(got);
}

/* ---- data ---- */

/* Reads and writes of every size around the page, at odd offsets. */
TEST_F(dir, read_write_sizes)
{
	const size_t sizes[] = { 1, 2, 511, 512, 513, 4095, 4096, 4097, 8191, 65536, 65537, 300001 };
	char *buf = malloc(MIB);
	off_t off = 7;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(fd);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(buf, sizes[i], off, 12);
		ASSERT_EQ(sizes[i], pwrite(fd, buf, sizes[i], off));
		memset(buf, 0, sizes[i]);
		ASSERT_EQ(sizes[i], pread(fd, buf, sizes[i], off));
		ASSERT_EQ(-1, mismatch(buf, sizes[i], off, 12));
		off += sizes[i];
	}
	OK(close(fd));
	OK(remount(self->path));
	fd = open("f", O_RDONLY);
	OK(fd);
	for (off_t pos = 7; pos < off; pos += 70001) {
		size_t n = off - pos < 70001 ? off - pos : 70001;

		ASSERT_EQ(n, pread(fd, buf, 70001, pos));
		ASSERT_EQ(-1, mismatch(buf, n, pos, 12));
	}
	ASSERT_EQ(7, pread(fd, buf, 7, 0));
	ASSERT_EQ(0, memcmp(buf, "\0\0\0\0\0\0\0", 7));
	OK(close(fd));
	free(buf);
}

/* What is on the server is what was written, once fsync has returned. */
TEST_F(dir, fsync)
{
	char path[PATH_MAX + 16], buf[5000];
	int fd = open("f", O_RDWR | O_CREAT, 0644), sfd, dfd;

	OK(fd);
	snprintf(path, sizeof(path), "%s/f", self->server);
	for (int i = 0; i < 4; i++) {
		fill(buf, sizeof(buf), i * 5000, 13);
		ASSERT_EQ(5000, pwrite(fd, buf, sizeof(buf), i * 5000));
		if (i & 1)
			OK(fdatasync(fd));
		else
			OK(fsync(fd));
		sfd = open(path, O_RDONLY);
		OK(sfd);
		ASSERT_EQ(5000, pread(sfd, buf, sizeof(buf), i * 5000));
		ASSERT_EQ(-1, mismatch(buf, sizeof(buf), i * 5000, 13));
		OK(close(sfd));
	}
	dfd = open(".", O_RDONLY | O_DIRECTORY);
	OK(dfd);
	OK(fsync(dfd));
	OK(fdatasync(dfd));
	OK(syncfs(fd));
	OK(close(dfd));
	OK(close(fd));
	fd = open("sync", O_RDWR | O_CREAT | O_SYNC, 0644);
	OK(fd);
	ASSERT_EQ(6, write(fd, "stable", 6));
	snprintf(path, sizeof(path), "%s/sync", self->server);
	sfd = open(path, O_RDONLY);
	OK(sfd);
	ASSERT_EQ(6, read(sfd, buf, 10));
	ASSERT_EQ(0, memcmp(buf, "stable", 6));
	OK(close(sfd));
	OK(close(fd));
}

/* close() leaves the data where another client (here the server) can read it. */
TEST_F(dir, close_makes_visible)
{
	char path[PATH_MAX + 16];

	OK(make_file("f", 1234567, 14));
	snprintf(path, sizeof(path), "%s/f", self->server);
	OK(check_file(path, 1234567, 14));
}

TEST_F(dir, append)
{
	enum { PROCS = 4, RECORDS = 250, LEN = 61 };
	struct record { uint32_t proc, seq; char body[LEN - 8]; } rec, *all;
	struct barrier *b = shared_alloc(sizeof(*b));
	uint32_t next[PROCS] = {};
	struct stat st;
	int fd;

	_Static_assert(sizeof(struct record) >= LEN, "record");
	for (uint32_t p = 0; p < PROCS; p++) {
		if (fork())
			continue;
		fd = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
		barrier(b, PROCS);
		for (uint32_t i = 0; fd >= 0 && i < RECORDS; i++) {
			rec.proc = p;
			rec.seq = i;
			memset(rec.body, 'a' + p, sizeof(rec.body));
			if (write(fd, &rec, sizeof(rec)) != sizeof(rec))
				_exit(1);
		}
		_exit(fd < 0 || close(fd));
	}
	ASSERT_EQ(0, wait_children(PROCS));
	OK(stat("log", &st));
	ASSERT_EQ(PROCS * RECORDS * sizeof(rec), st.st_size);
	OK(remount(self->path));
	all = malloc(st.st_size);
	fd = open("log", O_RDONLY);
	OK(fd);
	ASSERT_EQ(st.st_size, pread_all(fd, all, st.st_size, 0));
	for (int i = 0; i < PROCS * RECORDS; i++) {
		ASSERT_LT(all[i].proc, PROCS);
		ASSERT_EQ(next[all[i].proc]++, all[i].seq);
		for (size_t k = 0; k < sizeof(rec.body); k++)
			ASSERT_EQ('a' + (char)all[i].proc, all[i].body[k]);
	}
	OK(close(fd));
	free(all);
}

/* O_APPEND writes at the end whatever the offset, also after the file shrank or grew. */
TEST_F(dir, append_position)
{
	int fd = open("f", O_RDWR | O_CREAT | O_APPEND, 0644);
	char buf[16] = "";

	OK(fd);
	ASSERT_EQ(3, write(fd, "abc", 3));
	OK(lseek(fd, 0, SEEK_SET));
	ASSERT_EQ(3, write(fd, "def", 3));
	OK(ftruncate(fd, 4));
	ASSERT_EQ(2, write(fd, "gh", 2));
	ASSERT_EQ(6, pread(fd, buf, sizeof(buf), 0));
	ASSERT_STREQ("abcdgh", buf);
	OK(close(fd));
}

TEST_F(dir, beyond_4tib)
{
	const off_t offs[] = { (4ll << 40) - 3, (4ll << 40) + 4096, 5ll << 40, (5ll << 40) + 12345 };
	char buf[8192];
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(fd);
	for (size_t i = 0; i < ARRAY_SIZE(offs); i++) {
		fill(buf, 4000, offs[i], 15);
		ASSERT_EQ(4000, pwrite(fd, buf, 4000, offs[i]));
	}
	OK(close(fd));
	OK(remount(self->path));
	OK(stat("f", &st));
	ASSERT_EQ((5ll << 40) + 12345 + 4000, st.st_size);
	ASSERT_LT(st.st_blocks, 1000);
	fd = open("f", O_RDWR);
	OK(fd);
	for (size_t i = 0; i < ARRAY_SIZE(offs); i++) {
		ASSERT_EQ(4000, pread(fd, buf, 4000, offs[i]));
		ASSERT_EQ(-1, mismatch(buf, 4000, offs[i], 15));
	}
	ASSERT_EQ(4096, pread(fd, buf, 4096, 3ll << 40));	/* the hole */
	for (int i = 0; i < 4096; i++)
		ASSERT_EQ(0, buf[i]);
	OK(ftruncate(fd, (4ll << 40) + 100));
	OK(fstat(fd, &st));
	ASSERT_EQ((4ll << 40) + 100, st.st_size);
	ASSERT_EQ(103, pread(fd, buf, 8192, (4ll << 40) - 3));
	ASSERT_EQ(-1, mismatch(buf, 103, (4ll << 40) - 3, 15));
	OK(close(fd));
}

TEST_F(dir, readv_writev)
{
	char a[100], b[5000], c[1];
	struct iovec iov[] = { { a, sizeof(a) }, { b, sizeof(b) }, { c, sizeof(c) } };
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(fd);
	fill(a, 100, 0, 16);
	fill(b, 5000, 100, 16);
	fill(c, 1, 5100, 16);
	ASSERT_EQ(5101, writev(fd, iov, 3));
	memset(a, 0, sizeof(a));
	memset(b, 0, sizeof(b));
	memset(c, 0, sizeof(c));
	ASSERT_EQ(5101, preadv(fd, iov, 3, 0));
	ASSERT_EQ(-1, mismatch(a, 100, 0, 16));
	ASSERT_EQ(-1, mismatch(b, 5000, 100, 16));
	ASSERT_EQ(-1, mismatch(c, 1, 5100, 16));
	OK(close(fd));
}

TEST_F(dir, splice)
{
	const size_t len = 3 * MIB + 777;
	char buf[65536];
	size_t off = 0;
	loff_t in = 0;
	int fd, out, p[2];

	OK(make_file("f", len, 17));
	OK(remount(self->path));
	OK(pipe(p));
	fd = open("f", O_RDONLY);
	OK(fd);
	for (;;) {		/* from the mount */
		ssize_t n = splice(fd, &in, p[1], NULL, sizeof(buf), 0), got = 0;

		OK(n);
		if (!n)
			break;
		while (got < n) {
			ssize_t r = read(p[0], buf, n - got);

			OK(r);
			ASSERT_EQ(-1, mismatch(buf, r, off + got, 17));
			got += r;
		}
		off += n;
	}
	ASSERT_EQ(len, off);

	out = open("copy", O_WRONLY | O_CREAT, 0644);
	OK(out);
	in = 0;
	off = 0;
	while (off < len) {	/* through a pipe and to the mount */
		ssize_t n = splice(fd, &in, p[1], NULL, sizeof(buf), 0);

		OK(n);
		ASSERT_NE(0, n);
		off += n;
		while (n) {
			ssize_t r = splice(p[0], NULL, out, NULL, n, 0);

			OK(r);
			ASSERT_NE(0, r);
			n -= r;
		}
	}
	OK(close(out));
	OK(close(fd));
	OK(remount(self->path));
	OK(check_file("copy", len, 17));
}

TEST_F(dir, sendfile)
{
	const size_t len = 3 * MIB + 55;
	char buf[65536];
	size_t got = 0;
	int fd, out, s[2];

	OK(make_file("f", len, 18));
	OK(remount(self->path));
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	if (!fork()) {
		off_t off = 0;

		close(s[0]);
		fd = open("f", O_RDONLY);
		while (fd >= 0 && off < (off_t)len)
			if (sendfile(s[1], fd, &off, len - off) <= 0)
				_exit(1);
		_exit(fd < 0);
	}
	OK(close(s[1]));
	for (;;) {
		ssize_t n = read(s[0], buf, sizeof(buf));

		OK(n);
		if (!n)
			break;
		ASSERT_EQ(-1, mismatch(buf, n, got, 18));
		got += n;
	}
	ASSERT_EQ(len, got);
	ASSERT_EQ(0, wait_children(1));

	fd = open("f", O_RDONLY);
	out = open("copy", O_WRONLY | O_CREAT, 0644);
	OK(fd);
	OK(out);
	for (got = 0; got < len; ) {
		ssize_t n = sendfile(out, fd, NULL, len);

		OK(n);
		ASSERT_NE(0, n);
		got += n;
	}
	OK(close(out));
	OK(close(fd));
	OK(check_file("copy", len, 18));
}

/* ---- mmap ---- */

TEST_F(dir, mmap_shared)
{
	const size_t len = 300000;
	char path[PATH_MAX + 16], buf[4096], *map;
	int fd, sfd;

	OK(make_file("f", len, 19));
	OK(remount(self->path));
	fd = open("f", O_RDWR);
	OK(fd);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(-1, mismatch(map, len, 0, 19));
	fill(map + 100000, 100000, 100000, 20);
	ASSERT_EQ(4096, pread(fd, buf, 4096, 150000));	/* read() sees the store */
	ASSERT_EQ(-1, mismatch(buf, 4096, 150000, 20));
	memset(buf, 0x5a, sizeof(buf));
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 50001));	/* the mapping sees write() */
	ASSERT_EQ(0, memcmp(map + 50001, buf, 4096));
	OK(msync(map, len, MS_SYNC));
	snprintf(path, sizeof(path), "%s/f", self->server);
	sfd = open(path, O_RDONLY);
	OK(sfd);
	ASSERT_EQ(4096, pread(sfd, buf, 4096, 150000));	/* msync has it on the server */
	ASSERT_EQ(-1, mismatch(buf, 4096, 150000, 20));
	OK(close(sfd));
	map[len - 1] = 0x77;				/* not synced by anybody */
	OK(munmap(map, len));
	OK(close(fd));
	OK(remount(self->path));
	fd = open("f", O_RDONLY);
	OK(fd);
	ASSERT_EQ(1, pread(fd, buf, 2, len - 1));
	ASSERT_EQ(0x77, buf[0]);
	ASSERT_EQ(4096, pread(fd, buf, 4096, 195904));
	ASSERT_EQ(-1, mismatch(buf, 4096, 195904, 20));
	OK(close(fd));
}

TEST_F(dir, mmap_private)
{
	const size_t len = 100000;
	char *map, *map2;
	int fd;

	OK(make_file("f", len, 21));
	OK(remount(self->path));
	fd = open("f", O_RDONLY);
	OK(fd);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	fill(map, len, 0, 22);
	ASSERT_EQ(-1, mismatch(map, len, 0, 22));
	map2 = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map2);
	ASSERT_EQ(-1, mismatch(map2, len, 0, 21));
	FAILS(EACCES, mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	OK(munmap(map, len));
	OK(munmap(map2, len));
	OK(close(fd));
	OK(check_file("f", len, 21));
}

/* A copy from mapping to mapping, and two processes on one mapping. */
TEST_F(dir, mmap_copy)
{
	const size_t len = 2 * MIB + 333;
	char *src, *dst;
	int in, out;

	OK(make_file("src", len, 23));
	OK(remount(self->path));
	in = open("src", O_RDONLY);
	out = open("dst", O_RDWR | O_CREAT, 0644);
	OK(in);
	OK(out);
	OK(ftruncate(out, len));
	src = mmap(NULL, len, PROT_READ, MAP_PRIVATE, in, 0);
	dst = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
	ASSERT_NE(MAP_FAILED, src);
	ASSERT_NE(MAP_FAILED, dst);
	OK(close(in));
	OK(close(out));
	if (!fork()) {
		memcpy(dst + len / 2, src + len / 2, len - len / 2);
		_exit(0);
	}
	memcpy(dst, src, len / 2);
	ASSERT_EQ(0, wait_children(1));
	ASSERT_EQ(-1, mismatch(dst, len, 0, 23));
	OK(munmap(src, len));
	OK(munmap(dst, len));
	OK(check_file("dst", len, 23));
	OK(remount(self->path));
	OK(check_file("dst", len, 23));
}

static sigjmp_buf bus_env;

static void on_bus(int sig)
{
	siglongjmp(bus_env, sig);
}

TEST_F(dir, mmap_truncate)
{
	struct sigaction sa = { .sa_handler = on_bus };
	volatile char *map;
	char buf[4096];
	int fd;

	OK(sigaction(SIGBUS, &sa, NULL));
	OK(make_file("f", 40000, 24));
	fd = open("f", O_RDWR);
	OK(fd);
	map = mmap(NULL, 40000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(pattern(30000, 24), (unsigned char)map[30000]);
	OK(ftruncate(fd, 5000));
	ASSERT_EQ(0, map[6000]);	/* the tail of the last page */
	if (!sigsetjmp(bus_env, 1)) {
		buf[0] = map[30000];
		ASSERT_TRUE(false) TH_LOG("no SIGBUS beyond the end");
	}
	OK(ftruncate(fd, 40000));
	ASSERT_EQ(0, map[30000]);
	map[30000] = 'z';
	OK(munmap((void *)map, 40000));
	ASSERT_EQ(4096, pread(fd, buf, 4096, 5000));
	for (int i = 0; i < 4096; i++)
		ASSERT_EQ(0, buf[i]);
	ASSERT_EQ(1, pread(fd, buf, 1, 30000));
	ASSERT_EQ('z', buf[0]);
	OK(close(fd));
}

TEST_F(dir, execute)
{
	int in[2], out[2];
	char c;

	OK(system("cp /bin/true ./prog") == 0 ? 0 : -1);
	OK(chmod("prog", 0755));
	OK(remount(self->path));
	ASSERT_EQ(0, system("./prog"));
	/* while it runs, nobody may write to it */
	OK(system("cp /bin/cat ./cat") == 0 ? 0 : -1);
	OK(pipe(in));
	OK(pipe(out));
	if (!fork()) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		execl("./cat", "cat", NULL);
		_exit(1);
	}
	ASSERT_EQ(1, write(in[1], "x", 1));
	ASSERT_EQ(1, read(out[0], &c, 1));
	FAILS(ETXTBSY, open("cat", O_WRONLY));
	OK(close(in[0]));
	OK(close(in[1]));
	ASSERT_EQ(0, wait_children(1));
	OK(open("cat", O_WRONLY));
	OK(chmod("prog", 0644));
	ASSERT_EQ(126 << 8, system("./prog 2>/dev/null"));
}

TEST_F(dir, unlink_open)
{
	char buf[5000];
	struct stat st;
	int fd, fd2;

	OK(make_file("f", 100000, 25));
	OK(remount(self->path));
	fd = open("f", O_RDWR);
	OK(fd);
	fd2 = open("f", O_RDONLY);
	OK(fd2);
	OK(unlink("f"));
	FAILS(ENOENT, stat("f", &st));
	ASSERT_EQ(5000, pread(fd, buf, 5000, 20000));	/* not read before */
	ASSERT_EQ(-1, mismatch(buf, 5000, 20000, 25));
	fill(buf, 5000, 0, 26);
	ASSERT_EQ(5000, pwrite(fd, buf, 5000, 0));
	OK(fsync(fd));
	ASSERT_EQ(5000, pread(fd2, buf, 5000, 0));
	ASSERT_EQ(-1, mismatch(buf, 5000, 0, 26));
	OK(ftruncate(fd, 150000));
	OK(fstat(fd, &st));
	ASSERT_EQ(150000, st.st_size);
	ASSERT_EQ(S_IFREG | 0644, st.st_mode);
	OK(close(fd));
	ASSERT_EQ(5000, pread(fd2, buf, 5000, 90000));
	ASSERT_EQ(-1, mismatch(buf, 5000, 90000, 25));
	OK(close(fd2));
	OK(touch("f", 0644));		/* the name is free */
	OK(stat("f", &st));
	ASSERT_EQ(0, st.st_size);
}

/* ---- permissions: the server's kernel decides, for the user who asks ---- */

static pid_t user_begin(struct __test_metadata *_metadata, uid_t uid, gid_t gid, int n, const gid_t *groups)
{
	pid_t pid = fork();

	OK(pid);
	if (!pid) {
		OK(setgroups(n, groups));
		OK(setresgid(gid, gid, gid));
		OK(setresuid(uid, uid, uid));
	}
	return pid;
}

static void user_end(struct __test_metadata *_metadata, pid_t pid)
{
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, wait_children(1));
}

/* Runs the statement that follows as that user in a child; its assertions count. */
#define AS_USER(uid, gid, ngroups, groups)						\
	for (pid_t __pid = user_begin(_metadata, uid, gid, ngroups, groups), __once = 1; \
	     __once; __once = 0, user_end(_metadata, __pid))				\
		if (!__pid)

TEST_F(dir, permission_modes)
{
	char buf[8];

	OK(make_file("mine", 10, 0));
	OK(chmod("mine", 0600));
	OK(make_file("readable", 10, 0));
	OK(chmod("readable", 0644));
	OK(make_file("owned", 10, 0));
	OK(chown("owned", USER, GROUP));
	OK(chmod("owned", 0060));		/* the owner has less than the group */
	OK(make_file("group", 10, 0));
	OK(chown("group", 0, GROUP));
	OK(chmod("group", 0660));
	OK(mkdir("closed", 0700));
	OK(make_file("closed/f", 10, 0));
	OK(chmod("closed/f", 0666));
	OK(mkdir("listable", 0744));
	OK(make_file("listable/f", 10, 0));

	AS_USER(USER, GROUP, 0, NULL) {
		int fd;

		FAILS(EACCES, open("mine", O_RDONLY));
		FAILS(EACCES, open("mine", O_WRONLY));
		FAILS(EACCES, truncate("mine", 0));
		fd = open("readable", O_RDONLY);
		OK(fd);
		ASSERT_EQ(1, read(fd, buf, 1));
		FAILS(EACCES, open("readable", O_WRONLY));
		FAILS(EACCES, open("readable", O_RDONLY | O_TRUNC));
		FAILS(EACCES, open("owned", O_RDONLY));
		fd = open("group", O_RDWR);
		OK(fd);
		ASSERT_EQ(1, write(fd, "x", 1));
		OK(fsync(fd));
		FAILS(EACCES, open("closed/f", O_RDONLY));
		FAILS(EACCES, open("listable/f", O_RDONLY));
		FAILS(EACCES, open("closed", O_RDONLY));
		OK(open("listable", O_RDONLY));
		FAILS(EACCES, open("new", O_WRONLY | O_CREAT, 0644));
		FAILS(EACCES, mkdir("newdir", 0755));
		FAILS(EACCES, symlink("x", "newlink"));
		FAILS(EACCES, mkfifo("newfifo", 0644));
		FAILS(EACCES, unlink("readable"));
		FAILS(EACCES, rmdir("closed"));
		FAILS(EACCES, rename("readable", "other"));
		FAILS(EACCES, access("mine", R_OK));
		FAILS(EACCES, access("readable", W_OK));
		FAILS(EACCES, access("readable", X_OK));
		OK(access("readable", R_OK));
		OK(access("group", R_OK | W_OK));
		FAILS(EPERM, chmod("readable", 0777));
		FAILS(EPERM, chown("readable", USER, -1));
		FAILS(EPERM, utimensat(AT_FDCWD, "readable", (struct timespec[2]){ { 1, 1 }, { 1, 1 } }, 0));
		FAILS(EACCES, utimensat(AT_FDCWD, "readable", NULL, 0));
		FAILS(EACCES, setxattr("readable", "user.x", "1", 1, 0));
		FAILS(EACCES, getxattr("mine", "user.x", buf, 8));
		OK(chmod("owned", 0600));
		OK(open("owned", O_RDWR));
		FAILS(EPERM, chown("owned", 0, -1));
		FAILS2(EPERM, EACCES, mknod("dev", S_IFCHR | 0600, makedev(1, 3)));
	}
	/* root's view was not poisoned by what the user was denied, nor the other way round */
	OK(open("mine", O_RDWR));
	OK(check_file("closed/f", 10, 0));
	AS_USER(USER, GROUP, 0, NULL)
		FAILS(EACCES, open("mine", O_RDONLY));
}

TEST_F(dir, supplementary_groups)
{
	gid_t groups[100];
	struct stat st;

	OK(make_file("f", 10, 0));
	OK(chown("f", 0, EXTRA));
	OK(chmod("f", 0660));
	OK(mkdir("d", 0770));
	OK(chmod("d", 0770));
	OK(chown("d", 0, EXTRA));
	for (int i = 0; i < 100; i++)
		groups[i] = 50000 + i;

	AS_USER(USER, GROUP, 0, NULL) {
		FAILS(EACCES, open("f", O_RDONLY));
		FAILS(EACCES, open("d/x", O_WRONLY | O_CREAT, 0644));
	}
	AS_USER(USER, GROUP, 100, groups)
		FAILS(EACCES, open("f", O_RDONLY));
	groups[99] = EXTRA;			/* the last of a hundred counts too */
	AS_USER(USER, GROUP, 100, groups) {
		OK(open("f", O_RDWR));
		OK(open("d/x", O_WRONLY | O_CREAT, 0644));
		OK(chmod("d/x", 0600));
		OK(chown("d/x", -1, EXTRA));	/* one's own file to one's own group */
		FAILS(EPERM, chown("d/x", -1, 40000));
	}
	OK(stat("d/x", &st));
	ASSERT_EQ(USER, st.st_uid);
	ASSERT_EQ(EXTRA, st.st_gid);
	AS_USER(USER + 1, GROUP, 0, NULL)
		FAILS(EACCES, open("f", O_RDONLY));
}

TEST_F(dir, new_files_belong_to_their_maker)
{
	const char *names[] = { "f", "d", "l", "p" };
	struct stat st;

	OK(mkdir("any", 0777));
	OK(chmod("any", 0777));
	AS_USER(USER, GROUP, 0, NULL) {
		OK(touch("any/f", 0600));
		OK(mkdir("any/d", 0700));
		OK(symlink("x", "any/l"));
		OK(mkfifo("any/p", 0600));
	}
	OK(chdir("any"));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		OK(lstat(names[i], &st));
		ASSERT_EQ(USER, st.st_uid);
		ASSERT_EQ(GROUP, st.st_gid);
	}
	OK(mkdir("setgid", 0777));
	OK(chown("setgid", 0, EXTRA));
	OK(chmod("setgid", 02777));
	AS_USER(USER, GROUP, 0, NULL) {
		OK(touch("setgid/f", 0600));
		OK(mkdir("setgid/d", 0700));
	}
	OK(stat("setgid/f", &st));
	ASSERT_EQ(EXTRA, st.st_gid);
	OK(stat("setgid/d", &st));
	ASSERT_EQ(EXTRA, st.st_gid);
	ASSERT_EQ(S_ISGID, st.st_mode & S_ISGID);
}

/* What open() granted holds, whatever the mode or the caller's ids become. */
TEST_F(dir, rights_of_an_open_file)
{
	char buf[8];

	OK(chmod(".", 0777));
	AS_USER(USER, GROUP, 0, NULL) {
		int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0444);

		OK(fd);
		ASSERT_EQ(4, write(fd, "data", 4));	/* a file made read-only */
		OK(fsync(fd));
		OK(fchmod(fd, 0));
		ASSERT_EQ(4, pwrite(fd, "more", 4, 4));
		OK(fsync(fd));
		OK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
		ASSERT_EQ(8, pread(fd, buf, 8, 0));
		ASSERT_EQ(0, memcmp(buf, "datamore", 8));
		OK(ftruncate(fd, 6));
		OK(close(fd));
		FAILS(EACCES, open("f", O_RDONLY));
	}
	OK(chmod("f", 0600));
	OK(chown("f", 0, 0));
	int fd = open("f", O_RDWR);

	OK(fd);
	AS_USER(USER, GROUP, 0, NULL) {			/* inherited by somebody who could not open it */
		ASSERT_EQ(6, pread(fd, buf, 8, 0));
		ASSERT_EQ(2, pwrite(fd, "!!", 2, 0));
		OK(fsync(fd));
	}
	ASSERT_EQ(2, pread(fd, buf, 2, 0));
	ASSERT_EQ(0, memcmp(buf, "!!", 2));
	OK(close(fd));
}

TEST_HARNESS_MAIN
