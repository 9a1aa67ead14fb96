/* SPDX-License-Identifier: GPL-2.0 */
/*
 * wfs_test.h - what the C tests share: assertions on system calls, a directory for each test, and what
 * they know about the mount that they run on.
 *
 * Environment (lib.sh sets it; only the first is needed to run a test on some local directory):
 *	WFS_TEST_DIR	directory to test in
 *	WFS_EXPORT_DIR	the same directory as the server sees it; default WFS_TEST_DIR
 *	WFS_REMOUNT	shell command that unmounts and mounts again; default: drop the caches
 *	WFS_SERVER_PID	process of the server
 *	WFS_STATS	the module's directory in debugfs, with MOUNT/ops for the only mount
 *	WFS_SLOW	what time limits are multiplied by; default 1
 *	WFS_SHORT	1: long loads are to be shortened, see reps()
 *	WFS_XATTR_MAX	largest xattr value that the export takes; default 2000
 */
#ifndef _WFS_TEST_H
#define _WFS_TEST_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* On a slow kernel everything has more time, the harness's limits for each test among it. */
static inline unsigned int slow(unsigned int seconds)
{
	const char *factor = getenv("WFS_SLOW");

	return factor && atoi(factor) > 0 ? seconds * atoi(factor) : seconds;
}
#define alarm(seconds) alarm(slow(seconds))

#include <kselftest_harness.h>

/* How often to repeat something: all @n times, or a tenth where loads are to be short. */
static inline int reps(int n)
{
	const char *is_short = getenv("WFS_SHORT");

	return is_short && !strcmp(is_short, "1") && n >= 10 ? n / 10 : n;
}

/* A system call that has to succeed; evaluates once, says why it failed. */
#define OK(call) do {							\
	errno = 0;							\
	long __ret = (long)(call);					\
	ASSERT_NE(-1, __ret) {						\
		TH_LOG("%s: %s", #call, strerror(errno));		\
	}								\
} while (0)

/* A system call that has to fail with @err. */
#define FAILS(err, call) do {						\
	errno = 0;							\
	long __ret = (long)(call);					\
	int __errno = errno;						\
	ASSERT_EQ(-1, __ret) {						\
		TH_LOG("%s succeeded instead of %s", #call, strerror(err)); \
	}								\
	ASSERT_EQ(err, __errno) {					\
		TH_LOG("%s: %s instead of %s", #call, strerror(__errno), strerror(err)); \
	}								\
} while (0)

/* The same where two errors are right. */
#define FAILS2(err1, err2, call) do {					\
	errno = 0;							\
	long __ret = (long)(call);					\
	int __errno = errno;						\
	ASSERT_EQ(-1, __ret) {						\
		TH_LOG("%s succeeded", #call);				\
	}								\
	ASSERT_TRUE(__errno == (err1) || __errno == (err2)) {		\
		TH_LOG("%s: %s", #call, strerror(__errno));		\
	}								\
} while (0)

#define MIB (1 << 20)

static inline const char *test_dir(void)
{
	const char *dir = getenv("WFS_TEST_DIR");

	return dir ? dir : "/tmp";
}

static inline const char *export_dir(void)
{
	const char *dir = getenv("WFS_EXPORT_DIR");

	return dir ? dir : test_dir();
}

static inline int rm_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Every test runs in an empty directory of its own, as its current directory. */
FIXTURE(dir)
{
	char name[64];		/* below test_dir() */
	char path[PATH_MAX];
	char server[PATH_MAX];	/* the same directory without wfs between */
	double started;
};

FIXTURE_SETUP(dir)
{
	umask(022);
	self->started = now();
	snprintf(self->name, sizeof(self->name), "%s.%d", _metadata->name, getpid());
	snprintf(self->path, sizeof(self->path), "%s/%s", test_dir(), self->name);
	snprintf(self->server, sizeof(self->server), "%s/%s", export_dir(), self->name);
	OK(mkdir(self->path, 0755));
	OK(chdir(self->path));
}

FIXTURE_TEARDOWN(dir)
{
	if (chdir("/"))
		perror("chdir");
	if (nftw(self->path, rm_one, 64, FTW_DEPTH | FTW_PHYS)) {
		TH_LOG("cannot remove %s: %s", self->path, strerror(errno));
		_metadata->exit_code = KSFT_FAIL;
	}
	if (now() - self->started > 2)
		TH_LOG("took %.1f s", now() - self->started);
}

/* Bytes that depend on their offset and on @seed, and do not repeat at any page size. */
static inline unsigned char pattern(uint64_t off, uint64_t seed)
{
	uint64_t x = (off >> 3) * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull;

	x ^= x >> 29;
	x *= 0x94d049bb133111ebull;
	return x >> (8 + (off & 7) * 7);
}

static inline void fill(void *buf, size_t len, uint64_t off, uint64_t seed)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern(off + i, seed);
}

/* Offset in @buf of the first byte that is not the pattern, or -1. */
static inline long mismatch(const void *buf, size_t len, uint64_t off, uint64_t seed)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern(off + i, seed))
			return i;
	return -1;
}

static inline ssize_t pread_all(int fd, void *buf, size_t len, off_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, off + done);

		if (n < 0)
			return -1;
		if (!n)
			break;
		done += n;
	}
	return done;
}

static inline ssize_t pwrite_all(int fd, const void *buf, size_t len, off_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)buf + done, len - done, off + done);

		if (n < 0)
			return -1;
		done += n;
	}
	return done;
}

/* A file with @len bytes of pattern; -1 with errno when it cannot be made. */
static inline int make_file(const char *path, size_t len, uint64_t seed)
{
	size_t chunk = 256 * 1024;
	char *buf = malloc(chunk);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	int ret = 0;

	for (size_t off = 0; fd >= 0 && !ret && off < len; off += chunk) {
		size_t n = len - off < chunk ? len - off : chunk;

		fill(buf, n, off, seed);
		if (pwrite_all(fd, buf, n, off) < 0)
			ret = -1;
	}
	free(buf);
	if (fd < 0)
		return -1;
	if (close(fd))
		ret = -1;
	return ret;
}

/* 0 when the file is exactly @len bytes of pattern; else -1, and a message. */
static inline int check_file(const char *path, size_t len, uint64_t seed)
{
	size_t chunk = 256 * 1024, off = 0;
	char *buf = malloc(chunk);
	int fd = open(path, O_RDONLY);
	int ret = -1;

	if (fd < 0) {
		printf("# %s: %s\n", path, strerror(errno));
		goto out;
	}
	for (;;) {
		ssize_t n = pread_all(fd, buf, chunk, off);
		long bad;

		if (n < 0) {
			printf("# %s: read at %zu: %s\n", path, off, strerror(errno));
			goto out;
		}
		if (!n)
			break;
		bad = mismatch(buf, n, off, seed);
		if (bad >= 0) {
			printf("# %s: wrong byte at %zu: %#x instead of %#x\n", path, off + bad,
			       (unsigned char)buf[bad], pattern(off + bad, seed));
			goto out;
		}
		off += n;
	}
	if (off == len)
		ret = 0;
	else
		printf("# %s: %zu bytes instead of %zu\n", path, off, len);
out:
	if (fd >= 0)
		close(fd);
	free(buf);
	return ret;
}

/* Pages, dentries and inodes that are clean leave the caches; needs root. */
static inline int drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	int ret;

	sync();
	if (fd < 0)
		return -1;
	ret = write(fd, "3", 1) == 1 ? 0 : -1;
	close(fd);
	return ret;
}

/* Unmount and mount again; nothing on the mount may be open. */
static inline int remount(const char *path)
{
	const char *cmd = getenv("WFS_REMOUNT");
	int ret;

	if (!cmd)
		return drop_caches();
	ret = chdir("/") ?: system(cmd);
	return ret ?: chdir(path);
}

/* The number behind a name in a file of the mount's directory in debugfs; -1 when it is not there. */
static inline long mount_stat(const char *file, const char *name)
{
	const char *dir = getenv("WFS_STATS");
	char pattern[PATH_MAX], word[64];
	long number, found = -1;
	glob_t g;
	FILE *f;

	if (!dir)
		return -1;
	snprintf(pattern, sizeof(pattern), "%s/*/%s", dir, file);
	if (glob(pattern, 0, NULL, &g))
		return -1;
	f = fopen(g.gl_pathv[g.gl_pathc - 1], "r");
	globfree(&g);
	if (!f)
		return -1;
	while (fscanf(f, "%63s", word) == 1) {
		if (fscanf(f, "%ld", &number) == 1 && !strcmp(word, name))
			found = number;
		while (!feof(f) && fgetc(f) != '\n')
			;
	}
	fclose(f);
	return found;
}

/* Requests of @op that the mount has sent so far; -1 when it is not known. */
static inline long op_requests(const char *op)
{
	return mount_stat("ops", op);
}

/* Of @fd, pages in the page cache; -1 when the kernel does not say. */
static inline long cached(int fd)
{
	struct { uint64_t off, len; } range = { 0, 0 };
	struct { uint64_t cache, dirty, writeback, evicted, recently_evicted; } stat;

	return syscall(451 /* cachestat */, fd, &range, &stat, 0) ? -1 : (long)stat.cache;
}

/* Processes that start at the same moment: each calls barrier(b, N). */
struct barrier {
	atomic_uint arrived;
};

static inline void *shared_alloc(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static inline void barrier(struct barrier *b, unsigned int n)
{
	unsigned int round = atomic_fetch_add(&b->arrived, 1) / n;

	while (atomic_load(&b->arrived) / n == round)
		sched_yield();
}

/* Waits for @n children; the number that did not exit with 0. */
static inline int wait_children(int n)
{
	int bad = 0, status;

	while (n-- > 0)
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
			bad++;
	return bad;
}

#endif /* _WFS_TEST_H */
