// SPDX-License-Identifier: GPL-2.0
/*
 * ra_load - what readahead does when there is much to do: its bound of memory, its account, advice, its three ways
 *
 * readahead.test mounts with readahead_mem=8 and read_ahead_kb of 4 MiB.
 */
#include "wfs_test.h"

#include <pthread.h>
#include <sys/mman.h>

#define STREAMS	64
#define LEN	MIB
#define BUSY	(4 * MIB)	/* STREAMS of these are more than comes within 100 ms: see kmod/account.c */
#define BIG	(32 * MIB)
#define CHUNK	(256 * 1024)	/* repeats itself in the big file */
#define BOUND	(8l * MIB)

/* A value of the mount's file readahead in debugfs; -1 when it is not there. */
static long value(const char *name)
{
	return mount_stat("readahead", name);
}

static bool becomes(const char *name, long low, long high)
{
	for (int i = 0; i < 3000; i++) {
		if (value(name) >= low && value(name) <= high)
			return true;
		usleep(10000);
	}
	printf("# %s is %ld\n", name, value(name));
	return false;
}

static bool comes_to(int fd, long pages)
{
	for (int i = 0; i < 3000; i++) {
		if (cached(fd) >= pages)
			return true;
		usleep(10000);
	}
	printf("# %ld pages are there\n", cached(fd));
	return false;
}

static int options(const char *opts)
{
	char cmd[PATH_MAX + 100];

	snprintf(cmd, sizeof(cmd), "mount -o remount,%s %s", opts, getenv("WFS_TEST_DIR"));
	return system(cmd);
}

/* A file of which nothing is in the page cache. */
static int big_file(const char *server)
{
	static unsigned char chunk[CHUNK];
	char path[2 * PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/big", server);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	fill(chunk, CHUNK, 0, 1);
	for (off_t pos = 0; pos < BIG; pos += CHUNK)
		if (fd < 0 || pwrite_all(fd, chunk, CHUNK, pos) < 0)
			return -1;
	close(fd);
	if (drop_caches())
		return -1;
	usleep(20000);		/* who opens again what was written less than a tick ago drops what is cached of it */
	return open("big", O_RDONLY);
}

struct stream {
	pthread_t thread;
	int n;
	size_t size, len;	/* of the file, of a read */
	long bad;
};

static void *stream(void *arg)
{
	struct stream *st = arg;
	unsigned char *buf = malloc(st->len);
	char name[16];
	int fd;

	snprintf(name, sizeof(name), "s%d", st->n);
	fd = open(name, O_RDONLY);
	st->bad = fd < 0;
	for (off_t pos = 0; pos < (off_t)st->size && !st->bad; pos += st->len)
		if (pread_all(fd, buf, st->len, pos) != (ssize_t)st->len || mismatch(buf, st->len, pos, st->n) >= 0)
			st->bad = 1 + pos;
	close(fd);
	free(buf);
	return NULL;
}

static void *watch(void *arg)
{
	atomic_long *most = arg;

	while (*most >= 0) {
		long now = value("unread");

		if (now > *most && *most >= 0)
			*most = now;
		usleep(1000);
	}
	return NULL;
}

/* STREAMS files of @size at the same time, each from its beginning to its end, @len at a time. */
static long read_streams(const char *server, size_t size, size_t len, bool make)
{
	static struct stream st[STREAMS];
	char path[2 * PATH_MAX];
	long bad = 0;

	for (int i = 0; i < STREAMS && make; i++) {
		snprintf(path, sizeof(path), "%s/s%d", server, i);
		if (make_file(path, size, i))
			return -1;
	}
	if (drop_caches())
		return -1;
	for (int i = 0; i < STREAMS; i++) {
		st[i] = (struct stream){ .n = i, .size = size, .len = len };
		if (pthread_create(&st[i].thread, NULL, stream, &st[i]))
			return -1;
	}
	for (int i = 0; i < STREAMS; i++) {
		pthread_join(st[i].thread, NULL);
		bad += st[i].bad;
	}
	return bad;
}

TEST_F_TIMEOUT(dir, many_streams_hold_no_more_than_the_bound, 60)
{
	atomic_long most = 0;
	pthread_t watcher;
	long seen;

	ASSERT_EQ(BOUND, value("unread_limit"));
	ASSERT_EQ(0, pthread_create(&watcher, NULL, watch, &most));
	EXPECT_EQ(0, read_streams(self->server, LEN, 65536, true));
	seen = most;
	most = -1;
	pthread_join(watcher, NULL);
	/* both what was looked at and what the module says that it was at most; and that is made use of */
	EXPECT_LE(seen, BOUND);
	EXPECT_LE(value("unread_max"), BOUND);
	EXPECT_GE(value("unread_max"), BOUND / 4);
	EXPECT_GE(value("limited"), 1);
	EXPECT_GE(value("ahead"), BOUND);
	/* all of it was read */
	EXPECT_EQ(0, value("unread"));
	EXPECT_EQ(0, value("wasted"));
	EXPECT_EQ(0, value("ahead_in_flight") + value("demand_in_flight") + value("direct_in_flight"));
}

TEST_F(dir, what_leaves_memory_unread_is_wasted)
{
	unsigned char buf[65536], *map;
	long wasted = value("wasted"), unread;
	int fd;

	OK(options("readahead_mem=512"));
	OK(fd = big_file(self->server));
	for (int i = 0; i < 16; i++)
		ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), i * sizeof(buf)));
	ASSERT_TRUE(becomes("ahead_in_flight", 0, 0));
	unread = value("unread");
	EXPECT_GE(unread, 128 * 1024);
	/* reading it, mapping it and writing to it are all the same */
	ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), 16 * sizeof(buf)));
	EXPECT_LT(value("unread"), unread + 4096);
	OK(drop_caches());
	EXPECT_EQ(0, value("unread"));
	EXPECT_GE(value("wasted") - wasted, 65536);
	wasted = value("wasted");
	map = mmap(NULL, BIG, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	for (long pos = 0; pos < BIG; pos += 4096)
		ASSERT_EQ(pattern(pos % CHUNK, 1), map[pos]);
	EXPECT_EQ(0, value("unread"));
	EXPECT_EQ(wasted, value("wasted"));
	munmap(map, BIG);
	close(fd);
}

/* What is read and is not there in the middle is wanted: it is nothing for later. */
TEST_F(dir, a_hole_in_what_is_read_is_not_read_ahead)
{
	static unsigned char buf[MIB];
	int fd;

	OK(options("readahead_mem=512"));
	OK(options("readahead=off"));
	OK(fd = big_file(self->server));
	ASSERT_EQ(44 * 1024, pread_all(fd, buf, 44 * 1024, 0));
	ASSERT_EQ(224 * 1024, pread_all(fd, buf, 224 * 1024, 800 * 1024));
	EXPECT_EQ(67, cached(fd));
	EXPECT_EQ(0, value("unread"));
	close(fd);
	OK(options("readahead=adaptive"));
	OK(fd = open("big", O_RDONLY));
	ASSERT_EQ(MIB, pread_all(fd, buf, MIB, 0));
	for (int i = 0; i < MIB; i += CHUNK)
		ASSERT_EQ(-1, mismatch(buf + i, CHUNK, 0, 1));
	ASSERT_TRUE(becomes("ahead_in_flight", 0, 0));
	EXPECT_GT(value("unread"), 0);
	EXPECT_EQ((cached(fd) - 256) * 4096, value("unread"));
	close(fd);
}

TEST_F_TIMEOUT(dir, advice_reads_all_of_a_range_and_goes_on_when_the_file_is_closed, 60)
{
	long before;
	int fd;

	OK(options("readahead_mem=512"));
	for (int way = 0; way < 3; way++) {
		OK(fd = big_file(self->server));
		before = value("ahead");
		switch (way) {
		case 0:
			OK(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED));
			break;
		case 1: {
			unsigned char *map = mmap(NULL, BIG, PROT_READ, MAP_SHARED, fd, 0);

			ASSERT_NE(MAP_FAILED, map);
			OK(madvise(map, BIG, MADV_WILLNEED));
			munmap(map, BIG);
			break;
		}
		case 2:		/* in pieces, most of them small, without the last bytes */
			OK(options("readahead=off"));
			for (long pos = 0; pos < BIG - 65536; pos += pos % (4 * MIB) ? 65536 : 2 * MIB)
				OK(posix_fadvise(fd, pos, pos % (4 * MIB) ? 65536 : 2 * MIB, POSIX_FADV_WILLNEED));
			break;
		}
		close(fd);
		OK(fd = open("big", O_RDONLY));
		if (!comes_to(fd, (BIG - 65536) / 4096))
			printf("# way %d: %ld read ahead, %ld unread, %ld wasted\n", way, value("ahead") - before,
			       value("unread"), value("wasted"));
		EXPECT_LE((BIG - 65536) / 4096, cached(fd));
		EXPECT_LE(value("ahead") - before, BIG);
		EXPECT_TRUE(becomes("ahead_in_flight", 0, 0));
		EXPECT_EQ(cached(fd) * 4096, value("unread"));
		close(fd);
	}
	OK(options("readahead=adaptive"));
}

TEST_F(dir, advice_keeps_to_the_bound)
{
	int fd;

	OK(fd = big_file(self->server));
	OK(options("readahead_mem=16"));
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED));
	ASSERT_TRUE(comes_to(fd, 8 * MIB / 4096));
	ASSERT_TRUE(becomes("ahead_in_flight", 0, 0));
	/* a quarter is left for streams */
	EXPECT_LE(value("unread"), 12l * MIB);
	EXPECT_LE(cached(fd), 12l * MIB / 4096);
	EXPECT_EQ(EINVAL, posix_fadvise(fd, 0, -1, POSIX_FADV_WILLNEED));
	EXPECT_EQ(EINVAL, posix_fadvise(fd, 0, 0, 77));
	EXPECT_EQ(0, posix_fadvise(fd, 2 * (off_t)BIG, 0, POSIX_FADV_WILLNEED));
	close(fd);
	/* nothing of it is left when the file is gone */
	OK(drop_caches());
	EXPECT_EQ(0, value("unread"));
}

/* Who says that he needs something and does not come for it does not keep others from reading ahead for long. */
TEST_F_TIMEOUT(dir, what_nobody_comes_for_is_forgotten, 100)
{
	unsigned char buf[65536];
	long wasted;
	int fd, i;

	OK(drop_caches());
	OK(options("readahead_mem=8"));
	OK(fd = big_file(self->server));
	wasted = value("wasted");
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED));
	close(fd);
	ASSERT_TRUE(becomes("unread", BOUND / 2, BOUND));
	for (i = 0; i < 64; i++) {
		char path[2 * PATH_MAX];

		snprintf(path, sizeof(path), "%s/s%d", self->server, i);
		OK(make_file(path, sizeof(buf), i));
	}
	/* others read, and ask for more room */
	for (i = 0; i < 6400 && value("unread") >= BOUND / 2; i++) {
		char name[16];

		snprintf(name, sizeof(name), "s%d", i % 64);
		OK(fd = open(name, O_RDONLY));
		ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), 0));
		ASSERT_EQ(-1, mismatch(buf, sizeof(buf), 0, i % 64));
		close(fd);
		usleep(10000);
	}
	EXPECT_LT(value("unread"), BOUND / 2);
	EXPECT_GE(value("wasted") - wasted, BOUND / 2);
}

TEST_F(dir, off_reads_nothing_ahead_and_always_does)
{
	unsigned char buf[16384];
	long before;
	int fd;

	OK(options("readahead_mem=512,readahead=off"));
	OK(fd = big_file(self->server));
	before = value("ahead");
	for (int i = 0; i < 64; i++)
		ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), i * sizeof(buf)));
	EXPECT_EQ(before, value("ahead"));
	EXPECT_EQ(64l * (long)sizeof(buf) / 4096, cached(fd));
	OK(options("readahead=always"));
	for (int i = 64; i < 128; i++)
		ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), i * sizeof(buf)));
	EXPECT_GE(cached(fd), 128l * (long)sizeof(buf) / 4096 + 16);
	OK(options("readahead=adaptive"));
	close(fd);
}

/* Streams that together ask for more than the link has room for are held back; one alone is not, neither before nor after. */
TEST_F_TIMEOUT(dir, a_busy_mount_throttles_and_comes_back, 60)
{
	unsigned char buf[65536];
	long before, ahead;
	int fd;

	OK(options("readahead_mem=512,readahead=adaptive"));
	before = value("throttled");
	for (int round = 0; round < 4 && value("throttled") == before; round++)
		EXPECT_EQ(0, read_streams(self->server, BUSY, BUSY, !round));
	EXPECT_GT(value("throttled"), before);
	EXPECT_GE(value("budget"), 16l * MIB);
	EXPECT_GE(value("rate"), 1);
	EXPECT_GE(value("delay"), 1);

	OK(fd = big_file(self->server));
	before = value("throttled");
	ahead = value("ahead");
	for (off_t pos = 0; pos < BIG; pos += sizeof(buf))
		ASSERT_EQ((ssize_t)sizeof(buf), pread_all(fd, buf, sizeof(buf), pos));
	EXPECT_EQ(before, value("throttled"));
	EXPECT_GE(value("ahead") - ahead, BIG / 2);
	close(fd);
}

TEST_HARNESS_MAIN
