// SPDX-License-Identifier: GPL-2.0
/*
 * readahead - what is read ahead of whom: few requests for sequences of any kind, nothing for random reads, and never
 * anything old
 */
#include "wfs_test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define SIZE	(32 * MIB)
#define PAGES	(SIZE / 4096)

/* A file that the client has nothing of. */
static int cold_file(const char *dir, uint64_t seed)
{
	char path[2 * PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/f", dir);
	if (make_file(path, SIZE, seed) || drop_caches())
		return -1;
	fd = open("f", O_RDONLY);
	if (fd >= 0 && cached(fd) > 0)
		errno = EBUSY;
	return fd;
}

/* What to read and in which order: pieces of @len bytes. */
static long read_pieces(int fd, const off_t *at, int n, size_t len, uint64_t seed)
{
	unsigned char *buf = malloc(len);
	long bad = -1;

	for (int i = 0; i < n && bad < 0; i++) {
		if (pread_all(fd, buf, len, at[i]) != (ssize_t)len)
			bad = at[i];
		else if (mismatch(buf, len, at[i], seed) >= 0)
			bad = at[i] + mismatch(buf, len, at[i], seed);
	}
	free(buf);
	return bad;
}

static off_t at[PAGES];

TEST_F(dir, sequential)
{
	int fd, n = 0;
	long before;

	OK(fd = cold_file(self->server, 1));
	before = op_requests("READ");
	for (off_t pos = 0; pos + 5000 <= SIZE; pos += 5000)
		at[n++] = pos;
	ASSERT_EQ(-1, read_pieces(fd, at, n, 5000, 1));
	/* rsize is 1 MiB; the window has to grow first */
	EXPECT_LE(op_requests("READ") - before, SIZE / MIB + 30);
	close(fd);
}

TEST_F(dir, backward)
{
	long before;
	int fd;

	OK(fd = cold_file(self->server, 2));
	before = op_requests("READ");
	for (int i = 0; i < PAGES; i++)
		at[i] = SIZE - (i + 1) * 4096l;
	ASSERT_EQ(-1, read_pieces(fd, at, PAGES, 4096, 2));
	EXPECT_LE(op_requests("READ") - before, SIZE / MIB + 60);
	close(fd);
}

TEST_F(dir, strided)
{
	int fd;

	OK(fd = cold_file(self->server, 3));
	for (int i = 0; i < 128; i++)
		at[i] = i * (SIZE / 128l);
	ASSERT_EQ(-1, read_pieces(fd, at, 128, 8192, 3));
	/* only what was wanted, and maybe the first window */
	EXPECT_LE(cached(fd), 128 * 2 + 300);
	close(fd);
}

TEST_F(dir, interleaved)
{
	long before;
	int fd;

	OK(fd = cold_file(self->server, 4));
	before = op_requests("READ");
	for (int i = 0; i < PAGES; i++)
		at[i] = (i % 4) * (SIZE / 4l) + i / 4 * 4096l;
	ASSERT_EQ(-1, read_pieces(fd, at, PAGES, 4096, 4));
	EXPECT_LE(op_requests("READ") - before, SIZE / MIB + 150);
	close(fd);
}

TEST_F(dir, random_reads_read_nothing_else)
{
	int fd;

	OK(fd = cold_file(self->server, 5));
	srand(5);
	for (int i = 0; i < 400; i++)
		at[i] = (1 + rand() % (PAGES / 8 - 1)) * 8l * 4096;
	ASSERT_EQ(-1, read_pieces(fd, at, 400, 4096, 5));
	/* some follow each other by chance */
	EXPECT_LE(cached(fd), 400 + 200);
	close(fd);
}

TEST_F(dir, advice)
{
	int fd;

	OK(fd = cold_file(self->server, 6));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM));
	for (int i = 0; i < 100; i++)
		at[i] = i * 4096l;
	ASSERT_EQ(-1, read_pieces(fd, at, 100, 4096, 6));
	EXPECT_LE(cached(fd), 110);
	/* for what is said to be needed, read_ahead_kb is no bound */
	ASSERT_EQ(0, posix_fadvise(fd, 16 * MIB, 8 * MIB, POSIX_FADV_WILLNEED));
	for (int i = 0; i < 1000 && cached(fd) < 8 * MIB / 4096; i++)
		usleep(10000);
	EXPECT_GE(cached(fd), 8 * MIB / 4096);
	OK(readahead(fd, 24 * MIB, 2 * MIB));
	for (int i = 0; i < 1000 && cached(fd) < 10 * MIB / 4096; i++)
		usleep(10000);
	EXPECT_GE(cached(fd), 10 * MIB / 4096);
	close(fd);
}

static long faults(void)
{
	struct rusage ru;

	getrusage(RUSAGE_THREAD, &ru);
	return ru.ru_minflt + ru.ru_majflt;
}

/* Touch each page of [@from, @to).  Returns the first wrong one, or -1.  ASan's own memory would count as faults. */
__attribute__((no_sanitize("address")))
static long touch(const unsigned char *map, long from, long to, uint64_t seed)
{
	for (long pos = from; pos < to; pos += 4096)
		if (map[pos] != pattern(pos, seed))
			return pos;
	return -1;
}

TEST_F(dir, mapping)
{
	unsigned char *map;
	long before, count;
	int fd;

	OK(fd = cold_file(self->server, 7));
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	before = op_requests("READ");
	count = faults();
	ASSERT_EQ(-1, touch(map, 0, SIZE, 7));
	EXPECT_LE(op_requests("READ") - before, SIZE / MIB + 30);
	/* the kernel's way is one for 16 pages, and more where it has to be waited for */
	EXPECT_LE(faults() - count, PAGES / 32);
	munmap(map, SIZE);
	close(fd);
}

TEST_F(dir, mapping_of_tensors_in_any_order)
{
	static const int order[] = { 5, 2, 7, 0, 3, 6, 1, 4 };
	unsigned char *map;
	long before;
	int fd;

	OK(fd = cold_file(self->server, 8));
	map = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	before = op_requests("READ");
	for (int i = 0; i < 8; i++)
		ASSERT_EQ(-1, touch(map, order[i] * (SIZE / 8l) + 12288, (order[i] + 1) * (SIZE / 8l), 8));
	EXPECT_LE(op_requests("READ") - before, SIZE / MIB + 100);
	munmap(map, SIZE);
	close(fd);
}

TEST_F(dir, mapping_with_random_advice)
{
	unsigned char *map;
	int fd;

	OK(fd = cold_file(self->server, 9));
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	OK(madvise(map, SIZE, MADV_RANDOM));
	for (int i = 0; i < 100; i++)
		ASSERT_EQ(-1, touch(map, i * 65536l, i * 65536l + 4096, 9));
	EXPECT_LE(cached(fd), 110);
	OK(madvise(map, SIZE, MADV_NORMAL));
	OK(madvise(map + 16 * MIB, 8 * MIB, MADV_WILLNEED));
	for (int i = 0; i < 1000 && cached(fd) < 4 * MIB / 4096; i++)
		usleep(10000);
	EXPECT_GE(cached(fd), 4 * MIB / 4096);
	munmap(map, SIZE);
	close(fd);
}

/* The last bytes of a file that is no whole number of pages, by every way. */
TEST_F(dir, unaligned_end)
{
	char path[PATH_MAX + 8], buf[8192];
	unsigned char *map;
	int fd, n = SIZE - 4096 - 1234;

	OK(fd = cold_file(self->server, 10));
	snprintf(path, sizeof(path), "%s/f", self->server);
	close(fd);
	OK(truncate(path, n));
	OK(drop_caches());
	OK(fd = open("f", O_RDONLY));
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(-1, touch(map, n / 2 & ~4095, n, 10));
	for (int i = n; i % 4096; i++)
		ASSERT_EQ(0, map[i]);
	ASSERT_EQ(1000, pread(fd, buf, sizeof(buf), n - 1000));
	ASSERT_EQ(-1, mismatch(buf, 1000, n - 1000, 10));
	ASSERT_EQ(0, pread(fd, buf, sizeof(buf), n));
	munmap(map, SIZE);
	close(fd);
}

/* Another program shortens, lengthens and overwrites the file while it is read ahead: whoever opens it then sees that. */
TEST_F(dir, changes_behind_the_stream)
{
	char path[PATH_MAX + 8], *buf = malloc(SIZE);
	uint64_t seed = 11;
	int fd, out;

	OK(fd = cold_file(self->server, seed));
	snprintf(path, sizeof(path), "%s/f", self->server);
	for (int round = 0; round < reps(10); round++) {
		off_t size = SIZE / 2 + round * 12345;

		/* a stream is under way at the beginning, and has asked for what changes now */
		OK(pread_all(fd, buf, 4 * MIB, 0));
		OK(out = open(path, O_RDWR));
		seed++;
		OK(ftruncate(out, size - 100000));
		fill(buf, MIB, 5 * MIB, seed);
		OK(pwrite_all(out, buf, MIB, 5 * MIB));
		OK(ftruncate(out, size));
		close(out);
		close(fd);
		OK(fd = open("f", O_RDONLY));
		ASSERT_EQ(MIB, pread_all(fd, buf, MIB, 5 * MIB));
		ASSERT_EQ(-1, mismatch(buf, MIB, 5 * MIB, seed));
		ASSERT_EQ(size - (size - 100000), pread_all(fd, buf, MIB, size - 100000));
		for (int i = 0; i < 100000; i++)
			ASSERT_EQ(0, buf[i]);
	}
	close(fd);
	free(buf);
}

/* Our own writes and truncates through one descriptor while another thread streams through a second one. */
struct churn {
	atomic_bool stop;
	atomic_long bad;
};

static void *stream(void *arg)
{
	struct churn *churn = arg;
	unsigned char buf[65536];
	int fd = open("f", O_RDONLY);

	while (!churn->stop) {
		for (off_t pos = 0; !churn->stop; pos += sizeof(buf)) {
			ssize_t n = pread(fd, buf, sizeof(buf), pos);

			if (n <= 0)
				break;
			/* each page has the number of a round in all of its bytes, or zeros */
			for (ssize_t i = 0; i < n; i++)
				if (buf[i] != buf[i & ~4095] && buf[i] && buf[i & ~4095])
					churn->bad++;
		}
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	close(fd);
	return NULL;
}

TEST_F(dir, own_changes_below_a_stream)
{
	struct churn churn = { };
	static unsigned char page[16 * 4096];
	pthread_t thread[2];
	int fd;

	OK(fd = open("f", O_RDWR | O_CREAT, 0644));
	OK(ftruncate(fd, 8 * MIB));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, stream, &churn));
	srand(12);
	for (int round = 1; round <= reps(300); round++) {
		off_t pos = rand() % (8 * MIB / sizeof(page)) * (off_t)sizeof(page);

		memset(page, 1 + round % 255, sizeof(page));
		OK(pwrite_all(fd, page, sizeof(page), pos));
		if (round % 10 == 0)
			OK(fsync(fd));
		if (round % 25 == 0) {
			OK(ftruncate(fd, 4 * MIB));
			OK(ftruncate(fd, 8 * MIB));
		}
		/* what was written last is what is read */
		OK(pwrite_all(fd, page, 4096, pos));
		ASSERT_EQ(4096, pread_all(fd, page, 4096, pos));
		ASSERT_EQ(1 + round % 255, page[0]);
	}
	churn.stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, churn.bad);
	close(fd);
}

/* No file can be longer, but its last folio is. */
TEST_F(dir, the_last_byte_there_can_be)
{
	off_t last = INT64_MAX - 1;
	char buf[16] = "";
	int fd;

	OK(fd = open("long", O_RDWR | O_CREAT | O_TRUNC, 0666));
	OK(ftruncate(fd, INT64_MAX));
	ASSERT_EQ(1, pwrite(fd, "x", 1, last));
	OK(fsync(fd));
	OK(drop_caches());
	ASSERT_EQ(9, pread(fd, buf, 9, last - 8));
	EXPECT_EQ('x', buf[8]);
	EXPECT_EQ(0, buf[7]);
	close(fd);
	OK(unlink("long"));
}

TEST_HARNESS_MAIN
