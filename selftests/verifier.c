// SPDX-License-Identifier: GPL-2.0
/*
 * verifier - the server's machine restarts before written data is on its disk: it is sent again, or fsync says
 * that it is gone.
 *
 * WFS_CRASH is a shell command that does that: it takes the export's disk back to what has reached it, and starts
 * the server under another boot id.  WFS_DISK prints the content of a file of the export (relative to it) as it would
 * be found on the disk after a crash now.
 */
#include "wfs_test.h"

#include <sys/ioctl.h>

#define LEN (300 * 1024)

static int crash(void)
{
	const char *cmd = getenv("WFS_CRASH");

	if (!cmd) {
		printf("# WFS_CRASH is not set\n");
		return -1;
	}
	/* a program of it that ends with a file of ours open would wait for the server, which is not there */
	if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC))
		return -1;
	return system(cmd) ? -1 : 0;
}

/* Are the @len bytes of @seed on the server's disk? */
static bool on_disk(const char *dir, size_t len, uint64_t seed)
{
	char cmd[PATH_MAX + 128], *buf = malloc(len + 1);
	bool same = false;
	FILE *f;

	snprintf(cmd, sizeof(cmd), "%s %s/f", getenv("WFS_DISK"), dir);
	f = popen(cmd, "r");
	if (f) {
		same = fread(buf, 1, len + 1, f) == len && mismatch(buf, len, 0, seed) < 0;
		pclose(f);
	}
	free(buf);
	return same;
}

/* A file with content that is on the disk, and open. */
static int stable_file(const char *name, uint64_t seed)
{
	int fd;

	if (make_file(name, LEN, seed) || (fd = open(name, O_RDWR)) < 0 || fsync(fd)) {
		printf("# %s: %s\n", name, strerror(errno));
		return -1;
	}
	return fd;
}

static int overwrite(int fd, uint64_t seed)
{
	char *buf = malloc(LEN);
	ssize_t n;

	fill(buf, LEN, 0, seed);
	n = pwrite_all(fd, buf, LEN, 0);
	free(buf);
	return n == LEN ? 0 : -1;
}

/* Sends what is dirty to the server and waits, without asking for stable storage. */
static int to_server(int fd)
{
	return sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			       SYNC_FILE_RANGE_WAIT_AFTER);
}

/* The one thing that may not happen. */
#define NO_FALSE_SUCCESS(call, seed) do {				\
	int __ret = (call);						\
	if (__ret) {							\
		ASSERT_EQ(EIO, errno);					\
	} else {							\
		ASSERT_TRUE(on_disk(self->name, LEN, seed)) {		\
			TH_LOG("success, and the data is gone");	\
		}							\
	}								\
	TH_LOG("%s", __ret ? "EIO" : "sent again");			\
} while (0)

TEST_F_TIMEOUT(dir, fsync, 120)
{
	int fd = stable_file("f", 1), other;

	OK(fd);
	other = open("f", O_RDWR);
	OK(other);
	OK(overwrite(fd, 2));
	OK(to_server(fd));
	OK(crash());
	ASSERT_TRUE(on_disk(self->name, LEN, 1));	/* or there is nothing to see here */
	NO_FALSE_SUCCESS(fsync(fd), 2);
	NO_FALSE_SUCCESS(fsync(other), 2);
	/* and it goes on */
	OK(overwrite(fd, 3));
	OK(fsync(fd));
	ASSERT_TRUE(on_disk(self->name, LEN, 3));
	OK(check_file("f", LEN, 3));
	OK(close(other));
	OK(close(fd));
}

TEST_F_TIMEOUT(dir, fdatasync_with_half_of_it_after, 120)
{
	int fd = stable_file("f", 1);
	char *buf = malloc(LEN);

	OK(fd);
	OK(overwrite(fd, 2));
	OK(to_server(fd));
	OK(crash());
	fill(buf, LEN, 0, 2);
	ASSERT_EQ(LEN / 2, pwrite(fd, buf + LEN / 2, LEN / 2, LEN / 2));
	NO_FALSE_SUCCESS(to_server(fd) || fdatasync(fd) ? -1 : 0, 2);
	OK(close(fd));
	free(buf);
}

/* Closed, and out of the caches if it may: the inode must remember. */
TEST_F_TIMEOUT(dir, closed_and_forgotten, 120)
{
	int fd = stable_file("f", 1), drop;

	OK(fd);
	OK(overwrite(fd, 2));
	OK(close(fd));
	drop = open("/proc/sys/vm/drop_caches", O_WRONLY);
	OK(drop);
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(1, write(drop, "3", 1));
	OK(close(drop));
	OK(crash());
	fd = open("f", O_RDWR);
	OK(fd);
	NO_FALSE_SUCCESS(fsync(fd), 2);
	OK(fsync(fd));
	OK(close(fd));
}

/* sync(2) reports nothing, and then fsync has to. */
TEST_F_TIMEOUT(dir, sync_then_fsync, 120)
{
	int fd = stable_file("f", 1);

	OK(fd);
	OK(overwrite(fd, 2));
	OK(to_server(fd));
	OK(crash());
	sync();
	NO_FALSE_SUCCESS(fsync(fd), 2);
	/* and what syncfs(2) does report */
	OK(overwrite(fd, 3));
	OK(to_server(fd));
	OK(crash());
	NO_FALSE_SUCCESS(syncfs(fd), 3);
	close(fd);
}

TEST_F_TIMEOUT(dir, mapped_and_direct, 120)
{
	int fd = stable_file("f", 1), g = stable_file("g", 1), direct;
	char *map, *buf = aligned_alloc(4096, LEN);

	OK(fd);
	OK(g);
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	fill(map, LEN, 0, 2);
	OK(to_server(fd));
	direct = open("g", O_RDWR | O_DIRECT);
	OK(direct);
	fill(buf, LEN, 0, 2);
	ASSERT_EQ(LEN, pwrite(direct, buf, LEN, 0));
	OK(crash());
	NO_FALSE_SUCCESS(msync(map, LEN, MS_SYNC), 2);
	FAILS(EIO, fsync(direct));		/* nobody has this to send it again */
	OK(munmap(map, LEN));
	OK(close(direct));
	close(fd);
	close(g);
	free(buf);
}

/* What was on the disk is no loss, and nobody is told of one. */
TEST_F_TIMEOUT(dir, no_false_alarm, 120)
{
	int fd = stable_file("f", 1);

	OK(fd);
	OK(overwrite(fd, 3));
	sync();
	OK(crash());
	OK(fsync(fd));
	ASSERT_TRUE(on_disk(self->name, LEN, 3));
	OK(close(fd));
}

/* Writes that wait for the server while its machine restarts. */
TEST_F_TIMEOUT(dir, dsync_across, 120)
{
	int fd = stable_file("f", 1), status;
	pid_t pid;

	OK(fd);
	pid = fork();
	if (!pid) {
		int dsync = open("f", O_RDWR | O_DSYNC);
		char *buf = malloc(LEN);

		fill(buf, LEN, 0, 2);
		for (double end = now() + 1; now() < end;)
			for (size_t off = 0; off < LEN; off += LEN / 10)
				if (pwrite(dsync, buf + off, LEN / 10, off) != LEN / 10)
					_exit(errno == EIO ? 2 : 1);
		_exit(0);
	}
	usleep(300000);
	OK(crash());
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_NE(1, WEXITSTATUS(status));
	if (!WEXITSTATUS(status))
		ASSERT_TRUE(on_disk(self->name, LEN, 2));
	close(fd);
}

TEST_HARNESS_MAIN
