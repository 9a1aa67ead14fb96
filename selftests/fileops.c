// SPDX-License-Identifier: GPL-2.0
/*
 * fileops - parts of files (fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range), what changing a file does
 * to its mode and times, and what statx(2) tells.  On an export that has extents and holes.
 */
#include "wfs_test.h"

#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PUNCH	(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO	FALLOC_FL_ZERO_RANGE
#define KEEP	FALLOC_FL_KEEP_SIZE

static long long size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? -1 : st.st_size;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : st.st_mode & 07777;
}

/* 0 when the bytes from @off to @end are all zero. */
static int zeros(int fd, off_t off, off_t end)
{
	char buf[4096];

	while (off < end) {
		size_t want = end - off < (off_t)sizeof(buf) ? (size_t)(end - off) : sizeof(buf);
		ssize_t n = pread(fd, buf, want, off);

		if (n <= 0)
			return -1;
		for (ssize_t i = 0; i < n; i++)
			if (buf[i])
				return -1;
		off += n;
	}
	return 0;
}

/* 0 when the bytes from @off to @end are the pattern. */
static int same(int fd, off_t off, off_t end, uint64_t seed)
{
	char buf[4096];

	while (off < end) {
		size_t want = end - off < (off_t)sizeof(buf) ? (size_t)(end - off) : sizeof(buf);
		ssize_t n = pread(fd, buf, want, off);

		if (n <= 0 || mismatch(buf, n, off, seed) >= 0)
			return -1;
		off += n;
	}
	return 0;
}

TEST_F(dir, allocate)
{
	struct stat st;
	int fd;

	OK(fd = open("f", O_RDWR | O_CREAT, 0644));
	OK(fallocate(fd, 0, 0, MIB));
	OK(fstat(fd, &st));
	EXPECT_EQ(MIB, st.st_size);
	EXPECT_GE(st.st_blocks * 512, MIB);
	OK(fallocate(fd, KEEP, 0, 3 * MIB));
	OK(fstat(fd, &st));
	EXPECT_EQ(MIB, st.st_size);
	EXPECT_GE(st.st_blocks * 512, 3 * MIB);
	EXPECT_EQ(0, zeros(fd, 0, MIB));
	/* data that is dirty stays, and what is behind the old end is zero */
	OK(pwrite(fd, "abc", 3, MIB - 3));
	OK(fallocate(fd, 0, MIB, 5000));
	EXPECT_EQ(MIB + 5000, size_of("f"));
	EXPECT_EQ(0, zeros(fd, MIB, MIB + 5000));
	OK(fsync(fd));
	if (strcmp(export_dir(), test_dir())) {
		FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
		FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096));
	}
	FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
	FAILS(EINVAL, fallocate(fd, 0, 0, 0));
	FAILS(EINVAL, fallocate(fd, 0, -1, 5));
	FAILS(EFBIG, fallocate(fd, 0, LLONG_MAX - 1, 5));
	FAILS(ENOSPC, fallocate(fd, 0, 0, 1ll << 40));
	OK(ftruncate(fd, 10));
	OK(close(fd));
	OK(fd = open("f", O_RDONLY));
	FAILS(EBADF, fallocate(fd, 0, 0, 1));
	OK(close(fd));
}

TEST_F(dir, punch_and_zero)
{
	static const int modes[] = { PUNCH, ZERO | KEEP, ZERO };
	const off_t len = 3 * MIB;

	for (unsigned int i = 0; i < 3; i++) {
		char path[PATH_MAX + 8], buf[8192];
		int fd, server;
		char *map;

		OK(make_file("f", len, i));
		OK(fd = open("f", O_RDWR));
		map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(-1, mismatch(map, len, 0, i));
		/* dirty on both sides and inside, in the page cache and through the mapping */
		fill(buf, sizeof(buf), 4096, i);
		OK(pwrite(fd, buf, 8192, 4096));
		map[MIB] = map[MIB];
		OK(fallocate(fd, modes[i], 5000, 2 * MIB));
		EXPECT_EQ(len, size_of("f"));
		EXPECT_EQ(0, same(fd, 0, 5000, i));
		EXPECT_EQ(0, zeros(fd, 5000, 5000 + 2 * MIB));
		EXPECT_EQ(0, same(fd, 5000 + 2 * MIB, len, i));
		EXPECT_EQ(-1, mismatch(map, 5000, 0, i));
		EXPECT_EQ(0, map[5000]);
		EXPECT_EQ(0, map[MIB]);
		EXPECT_EQ(0, map[5000 + 2 * MIB - 1]);
		EXPECT_EQ(-1, mismatch(map + 5000 + 2 * MIB, len - 5000 - 2 * MIB, 5000 + 2 * MIB, i));
		map[MIB] = 'x';
		OK(fsync(fd));
		snprintf(path, sizeof(path), "%s/f", self->server);
		OK(server = open(path, O_RDONLY));
		EXPECT_EQ(0, same(server, 0, 5000, i));
		EXPECT_EQ(0, zeros(server, 5000, MIB));
		OK(pread(server, buf, 1, MIB));
		EXPECT_EQ('x', buf[0]);
		EXPECT_EQ(0, same(server, 5000 + 2 * MIB, len, i));
		OK(close(server));
		/* over the end */
		OK(fallocate(fd, modes[i], len - 10, 20));
		EXPECT_EQ(modes[i] == ZERO ? len + 10 : len, size_of("f"));
		EXPECT_EQ(0, zeros(fd, len - 10, size_of("f")));
		OK(munmap(map, len));
		OK(close(fd));
		OK(unlink("f"));
	}
}

/* A direct and a buffered reader beside it see zeros afterwards, and a mapping's writer loses nothing outside. */
struct beside {
	int fd;
	char *map;
	atomic_bool stop;
};

static void *read_beside(void *arg)
{
	struct beside *b = arg;
	char buf[16384];

	while (!atomic_load(&b->stop))
		if (pread(b->fd, buf, sizeof(buf), 0) < 0)
			return (void *)1;
	return NULL;
}

static void *write_beside(void *arg)
{
	struct beside *b = arg;

	/* the pages before and behind the hole */
	for (unsigned int i = 0; !atomic_load(&b->stop); i++) {
		b->map[i % 4096] = 1 + i % 100;
		b->map[12288 + i % 4096] = 1 + i % 100;
	}
	return NULL;
}

TEST_F(dir, punch_under_load)
{
	struct beside b = {};
	pthread_t threads[3];
	char buf[8192];
	void *ret;

	OK(make_file("f", 16384, 1));
	OK(b.fd = open("f", O_RDWR));
	b.map = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd, 0);
	ASSERT_NE(MAP_FAILED, b.map);
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, i ? read_beside : write_beside, &b));
	for (int i = 0; i < 20; i++) {
		fill(buf, sizeof(buf), 4096, i);
		OK(pwrite(b.fd, buf, sizeof(buf), 4096));
		EXPECT_EQ(-1, mismatch(b.map + 4096, 8192, 4096, i));
		OK(fallocate(b.fd, i % 2 ? PUNCH : ZERO | KEEP, 4096, 8192));
		ASSERT_EQ(0, zeros(b.fd, 4096, 12288));
		for (int j = 4096; j < 12288; j++)
			ASSERT_EQ(0, b.map[j]);
	}
	atomic_store(&b.stop, true);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &ret);
		EXPECT_EQ(NULL, ret);
	}
	/* all that the writer wrote is there, and on the server after fsync */
	OK(fsync(b.fd));
	memcpy(buf, b.map, 4096);
	memcpy(buf + 4096, b.map + 12288, 4096);
	OK(munmap(b.map, 16384));
	OK(close(b.fd));
	OK(drop_caches());
	OK(b.fd = open("f", O_RDONLY));
	{
		char got[16384];

		ASSERT_EQ(16384, pread_all(b.fd, got, sizeof(got), 0));
		EXPECT_EQ(0, memcmp(got, buf, 4096));
		EXPECT_EQ(0, memcmp(got + 12288, buf + 4096, 4096));
	}
	OK(close(b.fd));
}

TEST_F(dir, seek)
{
	int fd;

	OK(fd = open("f", O_RDWR | O_CREAT, 0644));
	FAILS(ENXIO, lseek(fd, 0, SEEK_DATA));
	FAILS(ENXIO, lseek(fd, 0, SEEK_HOLE));
	OK(ftruncate(fd, 4 * MIB));
	FAILS(ENXIO, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));
	/* data that only the page cache has */
	OK(pwrite(fd, "data", 4, MIB));
	EXPECT_EQ(MIB, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(MIB, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(MIB + 2, lseek(fd, MIB + 2, SEEK_DATA));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));
	EXPECT_EQ(MIB + 4096, lseek(fd, MIB, SEEK_HOLE));
	FAILS(ENXIO, lseek(fd, MIB + 4096, SEEK_DATA));
	FAILS(ENXIO, lseek(fd, 4 * MIB, SEEK_HOLE));
	FAILS(ENXIO, lseek(fd, -1, SEEK_DATA));
	FAILS(ENXIO, lseek(fd, -1, SEEK_HOLE));
	EXPECT_EQ(4 * MIB - 1, lseek(fd, 4 * MIB - 1, SEEK_HOLE));
	/* and that makes the file longer */
	OK(pwrite(fd, "data", 4, 8 * MIB));
	EXPECT_EQ(8 * MIB, lseek(fd, 2 * MIB, SEEK_DATA));
	EXPECT_EQ(8 * MIB + 4, lseek(fd, 8 * MIB, SEEK_HOLE));
	EXPECT_EQ(8 * MIB + 4, lseek(fd, 0, SEEK_END));
	EXPECT_EQ(8 * MIB + 3, lseek(fd, -1, SEEK_END));
	FAILS(EINVAL, lseek(fd, 0, 77));
	OK(close(fd));
	/* who may only write seeks as well */
	OK(fd = open("f", O_WRONLY));
	EXPECT_EQ(MIB, lseek(fd, 0, SEEK_DATA));
	OK(close(fd));
}

TEST_F(dir, copy_range)
{
	loff_t in, out;
	int from, to;

	OK(make_file("from", 3 * MIB, 1));
	OK(from = open("from", O_RDWR));
	OK(to = open("to", O_RDWR | O_CREAT, 0644));
	in = out = 0;
	EXPECT_EQ(3 * MIB, copy_file_range(from, &in, to, &out, 100 * MIB, 0));
	EXPECT_EQ(3 * MIB, in);
	EXPECT_EQ(3 * MIB, out);
	EXPECT_EQ(0, copy_file_range(from, &in, to, &out, 1, 0));
	EXPECT_EQ(0, check_file("to", 3 * MIB, 1));
	if (op_requests("COPY") >= 0)
		EXPECT_LT(0, op_requests("COPY"));
	/* what is dirty in the source, and what is cached and dirty of the destination */
	{
		char *map = mmap(NULL, 3 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);

		ASSERT_NE(MAP_FAILED, map);
		OK(pwrite(from, "DIRTY", 5, 10000));
		OK(pwrite(to, "before", 6, 4096 + 1));
		map[9000] = 'y';
		map[4090] = 'z';
		in = 9998, out = 5000;
		EXPECT_EQ(5000, copy_file_range(from, &in, to, &out, 5000, 0));
		EXPECT_EQ(0, memcmp(map + 5002, "DIRTY", 5));
		EXPECT_EQ(-1, mismatch(map + 5000 + 7, 4993, 10005, 1));
		EXPECT_EQ(0, memcmp(map + 4097, "before", 6));
		EXPECT_EQ('z', map[4090]);
		OK(munmap(map, 3 * MIB));
	}
	/* a hole before data that the server does not have yet */
	OK(ftruncate(from, 0));
	OK(ftruncate(to, 0));
	OK(pwrite(to, "xxxx", 4, 0));
	OK(pwrite(from, "end", 3, MIB));
	in = out = 0;
	EXPECT_EQ(MIB, copy_file_range(from, &in, to, &out, MIB, 0));
	EXPECT_EQ(MIB, size_of("to"));
	EXPECT_EQ(0, zeros(to, 0, MIB));
	/* behind the end: the gap is zero, though the last page was read before */
	OK(ftruncate(to, 100));
	EXPECT_EQ(0, zeros(to, 0, 100));
	in = MIB, out = 300;
	EXPECT_EQ(3, copy_file_range(from, &in, to, &out, 77, 0));
	EXPECT_EQ(303, size_of("to"));
	EXPECT_EQ(0, zeros(to, 0, 300));
	{
		char buf[4] = "";

		EXPECT_EQ(3, pread(to, buf, 4, 300));
		EXPECT_STREQ("end", buf);
	}
	/* within a file */
	OK(ftruncate(from, 0));
	OK(make_file("from", MIB, 2));
	in = 0, out = MIB;
	EXPECT_EQ(MIB, copy_file_range(from, &in, from, &out, MIB, 0));
	EXPECT_EQ(0, same(from, 0, MIB, 2));
	in = MIB, out = 0;
	EXPECT_EQ(2 * MIB, size_of("from"));
	in = 0, out = 100;
	FAILS(EINVAL, copy_file_range(from, &in, from, &out, 1000, 0));
	OK(fsync(to));
	OK(close(to));
	OK(close(from));
	OK(drop_caches());
	OK(from = open("from", O_RDONLY));
	EXPECT_EQ(0, same(from, 0, MIB, 2));
	FAILS(EBADF, copy_file_range(from, NULL, from, NULL, 10, 0));
	OK(close(from));
}

/* To and from another file system the kernel copies by itself. */
TEST_F(dir, copy_range_elsewhere)
{
	char name[] = "/tmp/fileops.XXXXXX";
	int local, fd;
	loff_t in, out;
	ssize_t n;

	OK(local = mkstemp(name));
	OK(unlink(name));
	OK(make_file("f", 100000, 3));
	OK(fd = open("f", O_RDWR));
	in = out = 0;
	n = copy_file_range(fd, &in, local, &out, 100000, 0);
	ASSERT_TRUE(n == 100000 || (n < 0 && errno == EXDEV));
	OK(close(fd));
	OK(close(local));
}

/* ---- mode and times ---- */

enum how { WRITE, PWRITEV, DIRECT, TRUNCATE, FTRUNCATE, OPEN_TRUNC, FALLOCATE, PUNCH_HOLE, COPY, HOWS };

static int change_file(enum how how)
{
	char *buf = aligned_alloc(4096, 4096);
	struct iovec iov = { buf, 100 };
	int ret = 0, fd, from;
	loff_t in = 0;

	memset(buf, 'x', 4096);
	fd = open("f", O_WRONLY | (how == OPEN_TRUNC ? O_TRUNC : 0) | (how == DIRECT ? O_DIRECT : 0));
	if (fd < 0)
		return -1;
	switch (how) {
	case WRITE: ret = write(fd, buf, 10); break;
	case PWRITEV: ret = pwritev(fd, &iov, 1, 50); break;
	case DIRECT: ret = pwrite(fd, buf, 4096, 0); break;
	case TRUNCATE: ret = truncate("f", 10); break;
	case FTRUNCATE: ret = ftruncate(fd, 10); break;
	case FALLOCATE: ret = fallocate(fd, 0, 0, 100000); break;
	case PUNCH_HOLE: ret = fallocate(fd, PUNCH, 0, 4096); break;
	case COPY:
		from = open("source", O_RDONLY);
		ret = copy_file_range(from, &in, fd, NULL, 100, 0);
		close(from);
		break;
	default: break;
	}
	/* still open: the mode is seen after write(2), not only after close(2) */
	if (ret >= 0 && (mode_of("f") & 07000) && geteuid())
		ret = -2;
	close(fd);
	free(buf);
	return ret < 0 ? ret : 0;
}

TEST_F(dir, setid_bits_are_cleared)
{
	int status, fd;
	pid_t pid;

	OK(chmod(".", 0777));
	OK(make_file("source", 8192, 1));
	for (int how = 0; how < HOWS; how++) {
		OK(make_file("f", 8192, how));
		OK(chown("f", 0, 4000));
		OK(chmod("f", 06777));
		EXPECT_EQ(06777, mode_of("f"));
		OK(pid = fork());
		if (!pid) {
			if (setgid(4242) || setuid(4242))
				_exit(100);
			_exit(-change_file(how));
		}
		OK(waitpid(pid, &status, 0));
		EXPECT_EQ(0, status) {
			TH_LOG("way %d: status %#x", how, status);
		}
		EXPECT_EQ(0777, mode_of("f")) {
			TH_LOG("way %d", how);
		}
		/* root keeps them */
		OK(chmod("f", 04755));
		EXPECT_EQ(0, change_file(how));
		EXPECT_EQ(04755, mode_of("f")) {
			TH_LOG("way %d", how);
		}
		OK(unlink("f"));
	}
	/* a mode without group-execute: setgid stays then, for its group's members and root */
	OK(fd = open("f", O_RDWR | O_CREAT, 0644));
	OK(fchmod(fd, 04711));
	OK(fchown(fd, 4242, 4242));
	EXPECT_EQ(0711, mode_of("f"));
	OK(close(fd));
}

/* A program with a setuid bit that its killed writer left must not have it with the new content. */
TEST_F(dir, setid_write_is_not_cached)
{
	struct statx stx;
	int status, fd;
	pid_t pid;

	OK(make_file("f", 8192, 1));
	OK(chmod(".", 0777));
	OK(chmod("f", 04777));
	OK(pid = fork());
	if (!pid) {
		if (setgid(4242) || setuid(4242))
			_exit(1);
		fd = open("f", O_RDWR);
		if (fd < 0 || pwrite(fd, "new", 3, 0) != 3)
			_exit(2);
		/* without looking at the times, for which dirty data would be written */
		if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MODE, &stx) || stx.stx_mode & 07000)
			_exit(3);
		_exit(0);
	}
	OK(waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0777, mode_of("f"));
}

static int unlink_as(uid_t uid, const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (setgid(uid) || setuid(uid))
			_exit(255);
		_exit(unlink(path) ? errno : 0);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(dir, sticky_directory)
{
	int status, fd;
	pid_t pid;

	OK(mkdir("d", 0777));
	OK(chmod("d", 01777));
	OK(chown("d", 5000, 5000));
	for (int i = 0; i < 4; i++) {
		char name[16];

		snprintf(name, sizeof(name), "d/%d", i);
		OK(fd = open(name, O_RDWR | O_CREAT, 0666));
		OK(fchmod(fd, 0666));
		OK(fchown(fd, 4242, 4242));
		OK(close(fd));
	}
	EXPECT_EQ(EPERM, unlink_as(4343, "d/0"));	/* anybody */
	EXPECT_EQ(0, unlink_as(4242, "d/0"));		/* the file's owner */
	EXPECT_EQ(0, unlink_as(5000, "d/1"));		/* the directory's owner */
	EXPECT_EQ(0, unlink_as(0, "d/2"));
	OK(pid = fork());
	if (!pid) {
		if (setgid(4343) || setuid(4343))
			_exit(100);
		if (!rename("d/3", "d/4") || errno != EPERM)
			_exit(1);
		fd = open("d/mine", O_RDWR | O_CREAT, 0644);
		if (fd < 0 || !rename("d/mine", "d/3") || errno != EPERM)
			_exit(2);
		_exit(rename("d/mine", "d/also") ? 3 : 0);
	}
	OK(waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

static bool equal(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Which times move: bits 1 atime, 2 mtime, 4 ctime.  @before is long ago. */
static int moved(const char *path, struct stat *before)
{
	struct stat st;
	int m = 0;

	if (lstat(path, &st))
		return -1;
	m |= later(st.st_atim, before->st_atim) ? 1 : 0;
	m |= later(st.st_mtim, before->st_mtim) ? 2 : 0;
	m |= later(st.st_ctim, before->st_ctim) ? 4 : 0;
	return m;
}

/* Puts atime and mtime into the past; ctime is now, and a tick is waited for. */
static int back(const char *path, struct stat *st)
{
	struct timespec ts[2] = { { 1000, 1 }, { 2000, 2 } };

	if (utimensat(AT_FDCWD, path, ts, AT_SYMLINK_NOFOLLOW) || lstat(path, st))
		return -1;
	usleep(20000);
	return 0;
}

#define MOVES(want, path, call) do {			\
	struct stat __st;				\
	OK(back(path, &__st));				\
	OK(call);					\
	EXPECT_EQ(want, moved(path, &__st)) {		\
		TH_LOG("%s", #call);			\
	}						\
} while (0)

TEST_F(dir, times)
{
	const struct timespec set[2] = { { 5, 6 }, { 7, 8 } };
	const struct timespec omit[2] = { { 5, UTIME_OMIT }, { 7, UTIME_OMIT } };
	const struct timespec anow[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };
	const struct timespec mnow[2] = { { 0, UTIME_OMIT }, { 0, UTIME_NOW } };
	struct stat st;
	char buf[16];
	int fd;

	OK(make_file("f", 8192, 1));
	OK(fd = open("f", O_RDWR));
	MOVES(6, "f", pwrite(fd, "x", 1, 0));
	MOVES(6, "f", ftruncate(fd, 100));
	MOVES(6, "f", ftruncate(fd, 100));		/* the same size */
	MOVES(6, "f", truncate("f", 50));
	MOVES(0, "f", pwrite(fd, "", 0, 0));
	MOVES(0, "f", fsync(fd));
	MOVES(4, "f", chmod("f", 0600));
	MOVES(4, "f", chown("f", 0, 0));
	MOVES(4, "f", link("f", "g"));
	MOVES(4, "f", unlink("g"));
	MOVES(4, "f", rename("f", "h") ?: rename("h", "f"));
	MOVES(6, "f", fallocate(fd, 0, 0, 10000));
	MOVES(6, "f", fallocate(fd, PUNCH, 0, 4096));
	MOVES(5, "f", utimensat(AT_FDCWD, "f", anow, 0));
	MOVES(6, "f", utimensat(AT_FDCWD, "f", mnow, 0));
	MOVES(7, "f", utimensat(AT_FDCWD, "f", NULL, 0));
	MOVES(0, "f", utimensat(AT_FDCWD, "f", omit, 0));
	MOVES(0, "f", stat("f", &st));
	OK(close(fd));
	MOVES(6, "f", close(open("f", O_WRONLY | O_TRUNC)));
	MOVES(6, "f", close(open("f", O_WRONLY | O_TRUNC)));	/* empty already */
	OK(utimensat(AT_FDCWD, "f", set, 0));
	OK(stat("f", &st));
	EXPECT_EQ(true, equal(st.st_atim, set[0]) && equal(st.st_mtim, set[1]));

	/* the directory's, by what happens to names in it */
	OK(mkdir("d", 0755));
	MOVES(6, "d", close(open("d/f", O_WRONLY | O_CREAT, 0644)));
	MOVES(0, "d", close(open("d/f", O_WRONLY | O_CREAT, 0644)));
	MOVES(6, "d", symlink("x", "d/l"));
	MOVES(6, "d", rename("d/f", "d/g"));
	MOVES(6, "d", unlink("d/g"));
	MOVES(6, "d", mkdir("d/d", 0755));
	MOVES(6, "d", rmdir("d/d"));

	/* written through a mapping, by the next msync at the latest */
	{
		struct stat before;
		char *map;

		OK(fd = open("f", O_RDWR));
		OK(ftruncate(fd, 4096));
		map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		OK(back("f", &before));
		map[0] = 1;
		OK(msync(map, 4096, MS_SYNC));
		/* the page may have been read before, which moves the atime */
		EXPECT_EQ(6, moved("f", &before) & 6);
		OK(munmap(map, 4096));
		OK(close(fd));
	}

	/* a read moves an atime that is older than the mtime, as the server's mount has it (relatime) */
	OK(make_file("r", 8192, 1));
	OK(fd = open("r", O_RDONLY));
	OK(back("r", &st));
	OK(drop_caches());
	OK(pread(fd, buf, sizeof(buf), 0));
	OK(drop_caches());
	OK(fstat(fd, &st));
	if (st.st_atime == 1000) {
		/* the attributes are cached */
		OK(statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_ATIME, &(struct statx){}));
		OK(fstat(fd, &st));
	}
	EXPECT_LT(1000, st.st_atime);
	OK(close(fd));
}

/* O_APPEND and O_TRUNC, with the size that there really is. */
TEST_F(dir, append_and_truncate)
{
	char path[PATH_MAX + 8], buf[32] = "";
	int a, b, server;

	OK(a = open("f", O_WRONLY | O_CREAT | O_APPEND, 0644));
	OK(b = open("f", O_RDWR | O_APPEND));
	OK(write(a, "one ", 4));
	OK(write(b, "two ", 4));
	OK(fsync(a));
	/* somebody else's */
	snprintf(path, sizeof(path), "%s/f", self->server);
	OK(server = open(path, O_WRONLY | O_APPEND));
	OK(write(server, "three ", 6));
	OK(write(a, "four", 4));
	OK(lseek(b, 0, SEEK_SET));
	EXPECT_EQ(18, read(b, buf, sizeof(buf)));
	EXPECT_STREQ("one two three four", buf);
	OK(close(open("f", O_WRONLY | O_TRUNC)));
	EXPECT_EQ(0, size_of("f"));
	OK(write(a, "x", 1));
	EXPECT_EQ(1, size_of("f"));
	OK(close(a));
	OK(close(b));
	OK(close(server));
}

static sigjmp_buf behind_the_end;

static void caught(int sig)
{
	(void)sig;
	siglongjmp(behind_the_end, 1);
}

/* Until it is killed: what it stores goes to the server at once, and is behind the end of the file most of the time. */
static void store_and_sync(char *map)
{
	struct sigaction sa = { .sa_handler = caught };

	sigaction(SIGBUS, &sa, NULL);
	for (;;) {
		if (sigsetjmp(behind_the_end, 1))
			continue;
		memset(map + 8192, 'x', 16);
		msync(map + 8192, 4096, MS_SYNC);
	}
}

/* What a mapping has written while the file got shorter does not make it longer again. */
TEST_F(dir, truncate_beside_a_mapping)
{
	struct statx stx;
	int fd, grew = 0;
	double end;
	pid_t pid;
	char *map;

	OK(fd = open("f", O_RDWR | O_CREAT, 0644));
	map = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	OK(pid = fork());
	if (!pid)
		store_and_sync(map);
	end = now() + 5;
	while (now() < end) {
		OK(ftruncate(fd, MIB));
		OK(ftruncate(fd, 0));
		OK(statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx));
		grew += stx.stx_size != 0;
	}
	EXPECT_EQ(0, grew);
	OK(kill(pid, SIGKILL));
	OK(waitpid(pid, NULL, 0));
	OK(munmap(map, MIB));
	OK(close(fd));
}

/* Two changes in one moment have one time, but not one size. */
TEST_F(dir, somebody_else_appends_at_once)
{
	char path[PATH_MAX + 32], name[32], buf[16];
	struct statx stx;
	int fd, server;

	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "at-once.%d", i);
		snprintf(path, sizeof(path), "%s/%s", self->server, name);
		OK(fd = open(name, O_RDWR | O_CREAT, 0666));
		OK(write(fd, "one ", 4));
		OK(fsync(fd));
		OK(server = open(path, O_WRONLY | O_APPEND));
		OK(write(server, "two", 3));
		OK(close(server));
		OK(statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &stx));
		ASSERT_EQ(7, stx.stx_size);
		memset(buf, 0, sizeof(buf));
		EXPECT_EQ(7, pread(fd, buf, sizeof(buf), 0));
		EXPECT_STREQ("one two", buf);
		OK(close(fd));
	}
}

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000U
#endif

TEST_F(dir, statx_tells)
{
	char path[PATH_MAX + 8];
	struct statx stx, server;

	OK(make_file("f", 8192, 1));
	OK(mkdir("d", 0755));
	snprintf(path, sizeof(path), "%s/f", self->server);
	OK(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &server));
	OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME | STATX_DIOALIGN, &stx));
	EXPECT_EQ(server.stx_mask & STATX_BTIME, stx.stx_mask & STATX_BTIME);
	EXPECT_TRUE(stx.stx_mask & STATX_BTIME);
	EXPECT_EQ(server.stx_btime.tv_sec, stx.stx_btime.tv_sec);
	EXPECT_EQ(server.stx_btime.tv_nsec, stx.stx_btime.tv_nsec);
	EXPECT_EQ(server.stx_ino, stx.stx_ino);
	if (strcmp(export_dir(), test_dir())) {
		/* direct I/O needs no alignment: selftests/dio.c */
		EXPECT_TRUE(stx.stx_mask & STATX_DIOALIGN);
		EXPECT_EQ(1, stx.stx_dio_mem_align);
		EXPECT_EQ(1, stx.stx_dio_offset_align);
	}
	OK(statx(AT_FDCWD, "d", 0, STATX_BASIC_STATS | STATX_DIOALIGN, &stx));
	EXPECT_FALSE(stx.stx_mask & STATX_DIOALIGN);
	/* the birth time stays */
	OK(chmod("f", 0600));
	OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME, &stx));
	EXPECT_EQ(server.stx_btime.tv_nsec, stx.stx_btime.tv_nsec);
}

TEST_HARNESS_MAIN
