// SPDX-License-Identifier: GPL-2.0
/*
 * writeback - buffered writes are cached, reach the server by themselves, and their errors are reported.
 *
 * The fixture "dir" needs WFS_SERVER_PID and short vm.dirty_*_centisecs; "full" needs WFS_FULL_DIR, a
 * directory of a mount whose export has about 8 MiB of space.
 */
#include "wfs_test.h"

static pid_t server;

static void stop(struct __test_metadata *_metadata)
{
	char path[64], line[256] = "";

	ASSERT_NE(NULL, getenv("WFS_SERVER_PID")) TH_LOG("WFS_SERVER_PID is not set");
	server = atoi(getenv("WFS_SERVER_PID"));
	snprintf(path, sizeof(path), "/proc/%d/stat", server);
	OK(kill(server, SIGSTOP));
	while (!strstr(line, ") T")) {
		FILE *f = fopen(path, "r");

		ASSERT_NE(NULL, f);
		ASSERT_NE(NULL, fgets(line, sizeof(line), f));
		fclose(f);
	}
}

/* Polls until the server's copy has the @len bytes; the seconds that it took, or -1 after @limit. */
static double wait_server(const char *path, size_t len, uint64_t seed, double limit)
{
	double start = now();
	char *buf = malloc(len);
	bool same = false;

	do {
		int fd = open(path, O_RDONLY);

		same = fd >= 0 && pread_all(fd, buf, len, 0) == (ssize_t)len && mismatch(buf, len, 0, seed) < 0;
		close(fd);
		if (!same)
			usleep(20000);
	} while (!same && now() - start < limit);
	free(buf);
	return same ? now() - start : -1;
}

TEST_F(dir, cached_and_written_back)
{
	const size_t len = MIB;
	char path[PATH_MAX + 16], *buf = malloc(MIB);
	double took;
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct stat st;

	OK(fd);
	snprintf(path, sizeof(path), "%s/f", self->server);
	fill(buf, len, 0, 1);
	stop(_metadata);
	took = now();
	ASSERT_EQ(len, write(fd, buf, len));		/* nobody there to take it */
	TH_LOG("write returned after %.3f s", now() - took);
	memset(buf, 0, len);
	ASSERT_EQ(len, pread(fd, buf, len, 0));		/* and readable at once */
	ASSERT_EQ(-1, mismatch(buf, len, 0, 1));
	OK(stat(path, &st));
	ASSERT_EQ(0, st.st_size);
	OK(kill(server, SIGCONT));
	took = wait_server(path, len, 1, 20);		/* no fsync, no close */
	ASSERT_LE(0, took) TH_LOG("not written back after 20 s");
	TH_LOG("on the server %.1f s later", took);
	OK(close(fd));
	free(buf);
}

TEST_F(dir, mapping_is_written_back)
{
	char path[PATH_MAX + 16], *map;
	double took;
	int fd;

	OK(make_file("f", 100000, 2));
	snprintf(path, sizeof(path), "%s/f", self->server);
	fd = open("f", O_RDWR);
	OK(fd);
	map = mmap(NULL, 100000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	fill(map, 100000, 0, 3);
	took = wait_server(path, 100000, 3, 20);
	ASSERT_LE(0, took) TH_LOG("not written back after 20 s");
	TH_LOG("on the server %.1f s later", took);
	OK(munmap(map, 100000));
	OK(close(fd));
}

/* Small writes are gathered: a cache that sends each of them would be none. */
TEST_F(dir, writes_are_gathered)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	long before = op_requests("WRITE"), after;
	char buf[100];

	OK(fd);
	ASSERT_LE(0, before) TH_LOG("no counters in WFS_STATS");
	for (int i = 0; i < 5000; i++) {
		fill(buf, 100, i * 100, 4);
		ASSERT_EQ(100, write(fd, buf, 100));
	}
	OK(fsync(fd));
	OK(close(fd));
	after = op_requests("WRITE");
	TH_LOG("5000 writes of 100 bytes: %ld requests", after - before);
	ASSERT_LE(1, after - before);
	ASSERT_LE(after - before, 50);
	OK(check_file("f", 500000, 4));
}

/* Others may write and fsync while one file's writeback waits. */
TEST_F(dir, fsync_waits_for_the_server)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), status;
	pid_t pid;

	OK(fd);
	ASSERT_EQ(5, write(fd, "hello", 5));
	stop(_metadata);
	pid = fork();
	if (!pid)
		_exit(fsync(fd) ? 1 : 0);
	usleep(500000);					/* time in which a wrong fsync would return */
	ASSERT_EQ(0, waitpid(pid, &status, WNOHANG));
	OK(kill(server, SIGCONT));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	OK(close(fd));
}

/* ---- errors ---- */

FIXTURE(full)
{
	char path[PATH_MAX];
	char *buf;
};

#define TOO_MUCH (12 * MIB)

FIXTURE_SETUP(full)
{
	ASSERT_NE(NULL, getenv("WFS_FULL_DIR")) TH_LOG("WFS_FULL_DIR is not set");
	snprintf(self->path, sizeof(self->path), "%s/f", getenv("WFS_FULL_DIR"));
	self->buf = malloc(TOO_MUCH);
	fill(self->buf, TOO_MUCH, 0, 5);
}

FIXTURE_TEARDOWN(full)
{
	unlink(self->path);
}

/* More than there is space for; the write itself may already have the error of an earlier part. */
static void overfill(struct __test_metadata *_metadata, int fd, const char *buf)
{
	for (size_t off = 0; off < TOO_MUCH; off += MIB) {
		ssize_t n = pwrite(fd, buf + off, MIB, off);

		if (n < 0) {
			ASSERT_EQ(ENOSPC, errno);
			TH_LOG("write at %zu: ENOSPC", off);
			return;
		}
		ASSERT_EQ(MIB, n);
	}
}

TEST_F(full, fsync_reports_once)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644);

	OK(fd);
	overfill(_metadata, fd, self->buf);
	FAILS(ENOSPC, fsync(fd));
	OK(fsync(fd));			/* told once */
	OK(close(fd));
}

TEST_F(full, the_next_write_tells)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644), other;
	struct stat st;

	OK(fd);
	other = open(self->path, O_RDONLY);
	OK(other);
	overfill(_metadata, fd, self->buf);
	/* to the server, whose answer this descriptor does not hear of */
	FAILS(ENOSPC, sync_file_range(other, 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
	for (int i = 0; i < 3; i++) {
		FAILS(ENOSPC, pwrite(fd, self->buf, MIB, TOO_MUCH));
		OK(fstat(fd, &st));
		ASSERT_GE(TOO_MUCH, st.st_size);
	}
	OK(ftruncate(fd, 0));
	ASSERT_EQ(MIB, pwrite(fd, self->buf, MIB, 0));
	FAILS(ENOSPC, fsync(fd));		/* for what was lost before */
	OK(fsync(fd));
	ASSERT_EQ(MIB, pwrite(fd, self->buf, MIB, MIB));
	OK(fsync(fd));
	OK(close(fd));
	OK(close(other));
}

TEST_F(full, each_descriptor_is_told)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644), other, later;

	OK(fd);
	other = open(self->path, O_RDWR);
	OK(other);
	overfill(_metadata, fd, self->buf);
	FAILS(ENOSPC, fsync(fd));
	later = open(self->path, O_RDONLY);	/* after somebody was told: not its business */
	OK(later);
	FAILS(ENOSPC, fsync(other));
	OK(fsync(other));
	OK(fsync(fd));
	OK(fsync(later));
	OK(close(later));
	OK(close(other));
	OK(close(fd));
}

TEST_F(full, close_reports)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644);

	OK(fd);
	overfill(_metadata, fd, self->buf);
	FAILS(ENOSPC, close(fd));
}

TEST_F(full, msync_reports)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644);
	char *map;

	OK(fd);
	OK(ftruncate(fd, TOO_MUCH));
	map = mmap(NULL, TOO_MUCH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map, self->buf, TOO_MUCH);
	FAILS(ENOSPC, msync(map, TOO_MUCH, MS_SYNC));
	OK(munmap(map, TOO_MUCH));
	close(fd);
}

/* What did fit is there, and space that is made is used. */
TEST_F(full, goes_on_afterwards)
{
	int fd = open(self->path, O_RDWR | O_CREAT, 0644);

	OK(fd);
	overfill(_metadata, fd, self->buf);
	FAILS(ENOSPC, fsync(fd));
	OK(ftruncate(fd, 0));
	ASSERT_EQ(MIB, pwrite(fd, self->buf, MIB, 0));
	OK(fsync(fd));
	OK(close(fd));
	OK(check_file(self->path, MIB, 5));
}

TEST_F(full, direct_reports_at_once)
{
	int fd = open(self->path, O_RDWR | O_CREAT | O_DIRECT, 0644);
	ssize_t n = 0;
	char *buf = aligned_alloc(4096, TOO_MUCH);

	OK(fd);
	memcpy(buf, self->buf, TOO_MUCH);
	for (size_t off = 0; n >= 0 && off < TOO_MUCH; off += n)
		n = pwrite(fd, buf, TOO_MUCH - off, off);
	ASSERT_EQ(-1, n);
	ASSERT_EQ(ENOSPC, errno);
	OK(close(fd));
	free(buf);
}

TEST_HARNESS_MAIN
