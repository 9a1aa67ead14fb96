// SPDX-License-Identifier: GPL-2.0
/*
 * coherence - several clients of one export: what one closed, the others see when they open, and what is cached
 * costs no more than its revalidation.
 *
 * WFS_MOUNTS is a directory with four mounts of the export that is WFS_EXPORT_DIR: a and b believe attributes for
 * ten minutes, t for a second, z not at all.  Their counters are in WFS_STATS/0 to 3, in this order.
 */
#include "wfs_test.h"

#include <sys/mman.h>
#include <sys/xattr.h>

#define LEN (64 * 1024)

enum { A, B, T, Z, MOUNTS };

FIXTURE(mounts)
{
	char name[64];
	char dir[MOUNTS][PATH_MAX];	/* of this test, on each mount */
	char server[PATH_MAX];
	char path[2 * PATH_MAX];
};

FIXTURE_SETUP(mounts)
{
	ASSERT_NE(NULL, getenv("WFS_MOUNTS")) TH_LOG("WFS_MOUNTS is not set");
	umask(0);
	snprintf(self->name, sizeof(self->name), "%s.%d", _metadata->name, getpid());
	for (int m = 0; m < MOUNTS; m++)
		snprintf(self->dir[m], PATH_MAX, "%s/%c/%s", getenv("WFS_MOUNTS"), "abtz"[m], self->name);
	snprintf(self->server, sizeof(self->server), "%s/%s", export_dir(), self->name);
	OK(mkdir(self->dir[A], 0777));
}

FIXTURE_TEARDOWN(mounts)
{
	if (nftw(self->server, rm_one, 64, FTW_DEPTH | FTW_PHYS))
		TH_LOG("cannot remove %s: %s", self->server, strerror(errno));
}

/* A path on a mount; good until the next but seven. */
static const char *on(const char *dir, const char *name)
{
	static char paths[8][PATH_MAX + 64];
	static int n;
	char *p = paths[n++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

#define ON(mount, name) on(self->dir[mount], name)
#define LOCAL(name) on(self->server, name)

/* Requests of @op on a mount; without @op all but OPEN, CLOSE and COMMIT, for which nobody waits. */
static long sent(int mount, const char *op)
{
	char path[PATH_MAX], name[64];
	long requests, errors, sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%d/ops", getenv("WFS_STATS"), mount);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fscanf(f, "%63s %ld %ld", name, &requests, &errors) == 3)
		if (op ? !strcmp(op, name) : strcmp(name, "OPEN") && strcmp(name, "CLOSE") && strcmp(name, "COMMIT"))
			sum += requests;
	fclose(f);
	return sum;
}

/* Opens, writes and closes. */
static int put(const char *path, size_t off, size_t len, uint64_t seed)
{
	char *buf = malloc(len);
	int fd = open(path, O_RDWR | O_CREAT, 0666), ret;

	fill(buf, len, off, seed);
	ret = fd < 0 || pwrite_all(fd, buf, len, off) != (ssize_t)len ? -1 : 0;
	if (fd >= 0 && close(fd))
		ret = -1;
	free(buf);
	return ret;
}

/* Are these bytes there? */
static bool has(int fd, size_t off, size_t len, uint64_t seed)
{
	char *buf = malloc(len);
	bool same = pread_all(fd, buf, len, off) == (ssize_t)len && mismatch(buf, len, off, seed) < 0;

	free(buf);
	return same;
}

/* Opens, reads and closes. */
static bool opened_has(const char *path, size_t off, size_t len, uint64_t seed)
{
	int fd = open(path, O_RDONLY);
	bool same = fd >= 0 && has(fd, off, len, seed);

	if (fd >= 0)
		close(fd);
	return same;
}

static bool within(double seconds, bool (*cond)(void *), void *arg)
{
	double end = now() + seconds;

	while (!cond(arg)) {
		if (now() > end)
			return false;
		usleep(20000);
	}
	return true;
}

/* ---- close to open ---- */

TEST_F(mounts, open_sees_data)
{
	OK(put(ON(A, "f"), 0, LEN, 1));
	for (int i = 1; i < 12; i++) {
		int from = i % 2 ? B : A, to = i % 2 ? A : B;

		ASSERT_TRUE(opened_has(ON(from, "f"), 0, LEN, i)) TH_LOG("round %d", i);
		OK(put(ON(to, "f"), 0, LEN, i + 1));
	}
}

TEST_F(mounts, open_sees_size_and_mode)
{
	struct stat st;
	char c;
	int fd;

	OK(put(ON(A, "f"), 0, LEN, 1));
	ASSERT_TRUE(opened_has(ON(B, "f"), 0, LEN, 1));
	OK(truncate(ON(A, "f"), 100));
	fd = open(ON(B, "f"), O_RDONLY);
	OK(fd);
	OK(fstat(fd, &st));
	ASSERT_EQ(100, st.st_size);
	ASSERT_EQ(0, pread(fd, &c, 1, 100));
	OK(close(fd));
	OK(truncate(ON(A, "f"), LEN));		/* zeros, not what was there */
	fd = open(ON(B, "f"), O_RDONLY);
	OK(fd);
	ASSERT_EQ(1, pread(fd, &c, 1, 5000));
	ASSERT_EQ(0, c);
	ASSERT_TRUE(has(fd, 0, 100, 1));
	OK(chmod(ON(A, "f"), 0640));
	OK(close(open(ON(B, "f"), O_RDONLY)));
	OK(fstat(fd, &st));
	ASSERT_EQ(0640, st.st_mode & 07777);
	OK(close(fd));
}

TEST_F(mounts, open_sees_a_mapping)
{
	char *map;
	int fd;

	OK(put(ON(A, "f"), 0, LEN, 1));
	for (int i = 1; i < 4; i++) {
		fd = open(ON(B, "f"), O_RDONLY);
		OK(fd);
		map = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		ASSERT_EQ(-1, mismatch(map, LEN, 0, i));
		OK(munmap(map, LEN));
		OK(close(fd));
		/* written through a mapping, too */
		fd = open(ON(A, "f"), O_RDWR);
		OK(fd);
		map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		fill(map, LEN, 0, i + 1);
		OK(munmap(map, LEN));
		OK(close(fd));
	}
}

TEST_F(mounts, open_sees_names)
{
	struct stat st;
	int fd;

	OK(mkdir(ON(A, "d"), 0777));
	FAILS(ENOENT, stat(ON(B, "f"), &st));
	FAILS(ENOENT, open(ON(B, "f"), O_RDONLY));
	OK(put(ON(A, "f"), 0, 100, 1));
	ASSERT_TRUE(opened_has(ON(B, "f"), 0, 100, 1));		/* was negative there */
	OK(unlink(ON(A, "f")));
	FAILS(ENOENT, open(ON(B, "f"), O_RDONLY));
	/* replaced, while the old one is open there, too */
	OK(put(ON(A, "f"), 0, 100, 2));
	fd = open(ON(B, "f"), O_RDONLY);
	OK(fd);
	ASSERT_TRUE(has(fd, 0, 100, 2));
	OK(put(ON(A, "tmp"), 0, 100, 3));
	OK(rename(ON(A, "tmp"), ON(A, "f")));
	ASSERT_TRUE(opened_has(ON(B, "f"), 0, 100, 3));
	ASSERT_TRUE(has(fd, 0, 100, 2));
	snprintf(self->path, sizeof(self->path), "/proc/self/fd/%d", fd);
	ASSERT_TRUE(opened_has(self->path, 0, 100, 2));
	OK(close(fd));
	/* a directory that is gone, and one that came in its place */
	OK(close(open(ON(B, "d"), O_RDONLY | O_DIRECTORY)));
	OK(rmdir(ON(A, "d")));
	FAILS(ENOENT, open(ON(B, "d"), O_RDONLY | O_DIRECTORY));
	OK(mkdir(ON(A, "d"), 0777));
	OK(put(ON(A, "d/f"), 0, 100, 4));
	OK(close(open(ON(B, "d"), O_RDONLY | O_DIRECTORY)));
	ASSERT_TRUE(opened_has(ON(B, "d/f"), 0, 100, 4));
}

TEST_F(mounts, opendir_lists_what_is_there)
{
	struct dirent *e;
	bool seen;
	DIR *d;

	OK(put(ON(A, "one"), 0, 1, 1));
	for (int i = 0; i < 2; i++) {
		d = opendir(ON(B, "."));
		ASSERT_NE(NULL, d);
		for (seen = false; (e = readdir(d));)
			seen |= !strcmp(e->d_name, "two");
		closedir(d);
		ASSERT_EQ(i, seen);
		OK(put(ON(A, "two"), 0, 1, 1));
	}
}

/* ---- whose change it was: what we did must not hide what others did ---- */

static int change_by_write(int fd, const char *path)
{
	char c = pattern(0, 7);

	(void)path;
	return pwrite(fd, &c, 1, 0) == 1 && !fsync(fd) ? 0 : -1;
}

static int change_by_direct_write(int fd, const char *path)
{
	char *buf = aligned_alloc(4096, 4096);
	int direct = open(path, O_RDWR | O_DIRECT), ret;

	(void)fd;
	fill(buf, 4096, 0, 7);
	ret = pwrite(direct, buf, 4096, 0) == 4096 && !close(direct) ? 0 : -1;
	free(buf);
	return ret;
}

static int change_by_chmod(int fd, const char *path)
{
	(void)path;
	return fchmod(fd, 0600);
}

static int change_by_xattr(int fd, const char *path)
{
	(void)path;
	return fsetxattr(fd, "user.x", "1", 1, 0);
}

static int change_by_link(int fd, const char *path)
{
	char other[PATH_MAX + 80];

	(void)fd;
	snprintf(other, sizeof(other), "%s.link", path);
	return link(path, other);
}

TEST_F(mounts, ours_does_not_hide_theirs)
{
	static const struct {
		const char *name;
		int (*change)(int fd, const char *path);
	} ways[] = {
		{ "write", change_by_write }, { "direct", change_by_direct_write }, { "chmod", change_by_chmod },
		{ "xattr", change_by_xattr }, { "link", change_by_link },
	};

	for (int i = 0; i < 5; i++) {
		int fd;

		OK(put(ON(B, ways[i].name), 0, LEN, 7));
		fd = open(ON(B, ways[i].name), O_RDWR);
		OK(fd);
		ASSERT_TRUE(has(fd, 0, LEN, 7));
		OK(put(ON(A, ways[i].name), LEN / 2, LEN, 8));		/* and longer */
		ASSERT_TRUE(has(fd, 0, LEN, 7));			/* it can't know yet */
		OK(ways[i].change(fd, ON(B, ways[i].name)));
		ASSERT_TRUE(has(fd, LEN / 2, LEN, 8)) TH_LOG("after %s", ways[i].name);
		ASSERT_TRUE(has(fd, 0, LEN / 2, 7)) TH_LOG("after %s", ways[i].name);
		OK(close(fd));
	}
}

/* And what is ours alone costs nothing: the cache stays. */
TEST_F(mounts, ours_alone_keeps_the_cache)
{
	int fd = open(ON(B, "f"), O_RDWR | O_CREAT, 0666);
	long before;

	OK(fd);
	OK(put(ON(B, "f"), 0, LEN, 7));
	ASSERT_TRUE(has(fd, 0, LEN, 7));
	before = sent(B, "READ");
	for (int i = 0; i < 5; i++) {
		OK(change_by_write(fd, NULL));
		OK(change_by_chmod(fd, NULL));
		OK(change_by_xattr(fd, NULL));
		OK(put(ON(B, "f"), 0, LEN, 7));
		ASSERT_TRUE(has(fd, 0, LEN, 7));
	}
	ASSERT_EQ(before, sent(B, "READ"));
	OK(close(fd));
}

TEST_F(mounts, dirty_data_is_kept)
{
	int fd;

	OK(put(ON(A, "f"), 0, LEN, 1));
	fd = open(ON(B, "f"), O_RDWR);
	OK(fd);
	ASSERT_TRUE(has(fd, 0, LEN, 1));
	ASSERT_EQ(1, pwrite(fd, &(char){ pattern(0, 2) }, 1, 0));
	OK(put(ON(A, "f"), LEN / 2, LEN, 3));
	/* opened once more: both are there */
	ASSERT_TRUE(opened_has(ON(B, "f"), LEN / 2, LEN, 3));
	ASSERT_TRUE(opened_has(ON(B, "f"), 0, 1, 2));
	ASSERT_TRUE(opened_has(ON(B, "f"), 1, LEN / 2 - 1, 1));
	OK(close(fd));
	ASSERT_TRUE(opened_has(ON(A, "f"), LEN / 2, LEN, 3));
	ASSERT_TRUE(opened_has(ON(A, "f"), 0, 1, 2));
}

/* Writes 100 bytes at @off through @fd, and all the others of the @step bytes from @off on through the other mount. */
static int write_between(int fd, const char *other, int off, int step)
{
	char buf[100];

	fill(buf, sizeof(buf), off, 2);
	return pwrite_all(fd, buf, sizeof(buf), off) == sizeof(buf) &&
	       !put(other, off + sizeof(buf), step - sizeof(buf), 3) ? 0 : -1;
}

static bool written_between(int fd, int off, int step)
{
	return has(fd, off, 100, 2) && has(fd, off + 100, step - 100, 3);
}

/* A name goes whose link count is out of date: what is dirty belongs to the other name now. */
TEST_F(mounts, dirty_data_outlives_a_name)
{
	static const char * const gone[] = { "rm", "mv" };

	for (int i = 0; i < 2; i++) {
		const char *name = gone[i];
		char *map;
		int fd;

		OK(put(ON(A, name), 0, LEN, 1));
		OK(put(ON(A, "x"), 0, 1, 1));
		OK(fd = open(ON(A, name), O_RDWR));
		map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		OK(close(fd));
		fill(map, LEN, 0, 2);
		OK(munmap(map, LEN));
		OK(link(ON(B, name), ON(B, "other")));
		OK(i ? rename(ON(A, "x"), ON(A, name)) : unlink(ON(A, name)));
		sync();
		EXPECT_EQ(0, check_file(LOCAL("other"), LEN, 2)) TH_LOG("%s", name);
		OK(unlink(LOCAL("other")));
	}
}

TEST_F(mounts, only_what_is_dirty_is_sent)
{
	int fd, local;

	/* in one piece: one large folio; and more pieces in it than it remembers, so that it is written on the way */
	OK(put(ON(B, "f"), 0, LEN, 1));
	fd = open(ON(B, "f"), O_RDWR);
	OK(fd);
	for (int off = 0; off < 40000; off += 1000)
		OK(write_between(fd, ON(A, "f"), off, 1000));
	OK(fsync(fd));
	OK(close(fd));
	local = open(LOCAL("f"), O_RDONLY);
	OK(local);
	for (int off = 0; off < 40000; off += 1000) {
		ASSERT_TRUE(written_between(local, off, 1000)) TH_LOG("at %d", off);
	}
	OK(close(local));
}

TEST_F(mounts, only_what_is_dirty_is_sent_of_a_mapping)
{
	int fd, local;
	char *map;

	OK(put(ON(B, "f"), 0, LEN, 1));
	fd = open(ON(B, "f"), O_RDWR);
	OK(fd);
	map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	/* every other page, and a piece in the middle of each other one */
	for (int off = 0; off < LEN; off += 8192) {
		OK(write_between(fd, ON(A, "f"), off + 5000, 3000));
		fill(map + off, 4096, off, 2);
	}
	OK(munmap(map, LEN));
	OK(fsync(fd));
	OK(close(fd));
	local = open(LOCAL("f"), O_RDONLY);
	OK(local);
	for (int off = 0; off < LEN; off += 8192) {
		ASSERT_TRUE(has(local, off, 4096, 2)) TH_LOG("page at %d", off);
		ASSERT_TRUE(written_between(local, off + 5000, 3000)) TH_LOG("at %d", off + 5000);
	}
	OK(close(local));
}

TEST_F(mounts, append)
{
	enum { ROUNDS = 20, REC = 100 };
	int fd[2] = { open(ON(A, "log"), O_WRONLY | O_APPEND | O_CREAT, 0666),
		      open(ON(B, "log"), O_WRONLY | O_APPEND) };
	char buf[REC];

	OK(fd[A]);
	OK(fd[B]);
	for (int i = 0; i < ROUNDS; i++) {
		int m = i % 2;

		fill(buf, REC, i * REC, 1);
		ASSERT_EQ(REC, write(fd[m], buf, REC));
		OK(fsync(fd[m]));
	}
	OK(close(fd[A]));
	OK(close(fd[B]));
	for (int i = ROUNDS; i < 2 * ROUNDS; i++) {
		int one = open(ON(i % 2 ? A : B, "log"), O_WRONLY | O_APPEND);

		OK(one);
		fill(buf, REC, i * REC, 1);
		ASSERT_EQ(REC, write(one, buf, REC));
		OK(close(one));
	}
	OK(check_file(LOCAL("log"), 2 * ROUNDS * REC, 1));
}

/* ---- attribute caching ---- */

struct seen {
	int fd;
	const char *path;
	uint64_t seed;
};

static bool data_seen(void *p)
{
	struct seen *s = p;

	return has(s->fd, 0, LEN, s->seed);
}

static bool path_seen(void *p)
{
	struct stat st;

	return !stat(p, &st);
}

static bool path_gone(void *p)
{
	return !path_seen(p);
}

TEST_F(mounts, seen_when_the_time_is_over)
{
	struct seen s = { .seed = 2 };

	OK(put(ON(A, "f"), 0, LEN, 1));
	s.fd = open(ON(T, "f"), O_RDONLY);
	OK(s.fd);
	ASSERT_TRUE(has(s.fd, 0, LEN, 1));
	OK(put(ON(A, "f"), 0, LEN, 2));
	ASSERT_TRUE(within(20, data_seen, &s));		/* kept open all the time */
	OK(close(s.fd));
	ASSERT_TRUE(path_gone((void *)ON(T, "g")));
	OK(rename(ON(A, "f"), ON(A, "g")));
	ASSERT_TRUE(within(20, path_seen, (void *)ON(T, "g")));
	ASSERT_TRUE(path_gone((void *)ON(T, "f")));
}

TEST_F(mounts, seen_at_once_without_a_cache)
{
	struct stat st;
	int fd;

	for (int i = 1; i < 10; i++) {
		OK(put(ON(A, "f"), 0, 1000 + i, i));
		fd = open(ON(Z, "f"), O_RDONLY);
		OK(fd);
		OK(put(ON(A, "f"), 0, 2000 + i, i + 1));
		ASSERT_TRUE(has(fd, 0, 2000 + i, i + 1));
		OK(fstat(fd, &st));
		ASSERT_EQ(2000 + i, st.st_size);
		OK(chmod(ON(A, "f"), 0600 + i));
		OK(stat(ON(Z, "f"), &st));
		ASSERT_EQ(0600 + i, st.st_mode & 07777);
		OK(rename(ON(A, "f"), ON(A, "g")));
		FAILS(ENOENT, stat(ON(Z, "f"), &st));
		OK(stat(ON(Z, "g"), &st));
		OK(unlink(ON(A, "g")));
		FAILS(ENOENT, stat(ON(Z, "g"), &st));
		OK(close(fd));
	}
}

TEST_F(mounts, what_it_costs)
{
	long getattrs, all;
	struct stat st;
	int fd;

	OK(put(ON(A, "f"), 0, LEN, 1));
	usleep(50000);			/* past the time in which a change is too fresh to be told */
	/* believed: nothing is sent */
	fd = open(ON(B, "f"), O_RDONLY);
	OK(fd);
	ASSERT_TRUE(has(fd, 0, LEN, 1));
	OK(stat(ON(B, "f"), &st));
	all = sent(B, NULL);
	for (int i = 0; i < 100; i++) {
		OK(stat(ON(B, "f"), &st));
		ASSERT_TRUE(has(fd, 0, LEN, 1));
	}
	ASSERT_EQ(all, sent(B, NULL));
	OK(close(fd));
	/* opened again: OPEN and CLOSE, and no data */
	all = sent(B, NULL);
	for (int i = 0; i < 10; i++)
		ASSERT_TRUE(opened_has(ON(B, "f"), 0, LEN, 1));
	ASSERT_EQ(all, sent(B, NULL));
	/* not believed: a GETATTR for each directory and for the file, and nothing else */
	fd = open(ON(Z, "f"), O_RDONLY);
	OK(fd);
	ASSERT_TRUE(has(fd, 0, LEN, 1));
	OK(fstat(fd, &st));
	getattrs = sent(Z, "GETATTR");
	all = sent(Z, NULL) - getattrs;
	for (int i = 0; i < 10; i++)
		OK(fstat(fd, &st));
	ASSERT_EQ(10, sent(Z, "GETATTR") - getattrs);
	for (int i = 0; i < 10; i++)
		ASSERT_EQ(1, pread(fd, &(char){ 0 }, 1, 5000));
	ASSERT_EQ(20, sent(Z, "GETATTR") - getattrs);
	for (int i = 0; i < 10; i++)
		OK(stat(ON(Z, "f"), &st));
	ASSERT_LE(sent(Z, "GETATTR") - getattrs, 20 + 10 * 5);
	ASSERT_EQ(all, sent(Z, NULL) - sent(Z, "GETATTR"));
	OK(close(fd));
}

/* ---- handles that are gone ---- */

/* Behind the server's back, which is started again lest it has them open. */
TEST_F_TIMEOUT(mounts, stale, 90)
{
	char cmd[3 * PATH_MAX];
	struct stat st;
	char buf[10];
	int fd, dirfd;

	OK(mkdir(ON(A, "d"), 0777));
	for (const char *p = "12345678"; *p; p++) {
		snprintf(buf, sizeof(buf), "d/%c", *p);
		OK(put(ON(A, buf), 0, 100, 1));
		OK(stat(ON(B, buf), &st));
	}
	fd = open(ON(B, "d/1"), O_RDONLY);
	OK(fd);
	dirfd = open(ON(B, "d"), O_RDONLY | O_DIRECTORY);
	OK(dirfd);
	/* so that there is another inode under each name */
	snprintf(cmd, sizeof(cmd), "cd %s && cp -r d new && rm -r d && mv new d && %s", self->server,
		 getenv("WFS_RESTART"));
	ASSERT_EQ(0, system(cmd));
	/* by path all is well, at the first attempt */
	ASSERT_TRUE(opened_has(ON(B, "d/2"), 0, 100, 1));
	OK(stat(ON(B, "d/3"), &st));
	OK(chmod(ON(B, "d/4"), 0600));
	OK(unlink(ON(B, "d/5")));
	OK(rename(ON(B, "d/6"), ON(B, "d/9")));
	OK(truncate(ON(B, "d/7"), 10));
	OK(mkdir(ON(B, "d/dir"), 0777));
	OK(link(ON(B, "d/8"), ON(B, "d/8link")));
	OK(close(open(ON(B, "d"), O_RDONLY | O_DIRECTORY)));
	/* what was open is gone, and says so */
	FAILS(ESTALE, openat(dirfd, "2", O_RDONLY));
	FAILS(ESTALE, mkdirat(dirfd, "x", 0777));
	OK(close(dirfd));
	FAILS(ESTALE, read(fd, buf, 1));
	FAILS(ESTALE, fchmod(fd, 0600));
	OK(close(fd));
}

/* ---- random operations against a model ---- */

TEST_F_TIMEOUT(mounts, model, 120)
{
	enum { FILES = 3, MAX = 20000, ROUNDS = 250 };
	static const int mounts[] = { A, B, Z };
	struct file {
		bool exists;
		size_t size;
		mode_t mode;
		char data[MAX];
		int kept[MOUNTS];	/* open all the time, or -1 */
	} *f = calloc(FILES, sizeof(*f)), *g;
	char name[16], buf[MAX];
	unsigned int seed = getpid();
	struct stat st;

	TH_LOG("seed %u", seed);
	for (int i = 0; i < FILES; i++)
		for (int m = 0; m < MOUNTS; m++)
			f[i].kept[m] = -1;
	for (int round = 0; round < ROUNDS; round++) {
		int i = rand_r(&seed) % FILES, from = mounts[rand_r(&seed) % 3], to = mounts[rand_r(&seed) % 3];
		size_t off = rand_r(&seed) % MAX, len = 1 + rand_r(&seed) % (MAX - off);
		int op = rand_r(&seed) % 10, fd;

		g = &f[i];
		snprintf(name, sizeof(name), "f%d", i);
		if (!g->exists)
			op = 9;
		switch (op) {
		case 0:
		case 1:
		case 2:
		case 3:		/* write, by a file that is kept open half of the times */
			fd = g->kept[from] >= 0 && rand_r(&seed) % 2 ? dup(g->kept[from]) :
				open(ON(from, name), O_RDWR);
			OK(fd);
			fill(buf, len, off, round);
			ASSERT_EQ((ssize_t)len, pwrite(fd, buf, len, off)) TH_LOG("round %d", round);
			if (g->kept[from] < 0 && rand_r(&seed) % 2) {
				g->kept[from] = dup(fd);
				OK(g->kept[from]);
			}
			OK(close(fd));
			memcpy(g->data + off, buf, len);
			if (off + len > g->size)
				g->size = off + len;
			break;
		case 4:
			/* by an open file: the path alone may lead to one that was replaced a moment ago */
			fd = open(ON(from, name), O_RDWR);
			OK(fd);
			OK(ftruncate(fd, off));
			OK(close(fd));
			if (off < g->size)
				memset(g->data + off, 0, MAX - off);
			g->size = off;
			break;
		case 5:
			fd = open(ON(from, name), O_WRONLY | O_APPEND);
			OK(fd);
			len = MAX - g->size < 100 ? MAX - g->size : 100;
			fill(g->data + g->size, len, 0, round);
			ASSERT_EQ((ssize_t)len, write(fd, g->data + g->size, len));
			OK(close(fd));
			g->size += len;
			break;
		case 6:
			g->mode = 0600 + round % 0100;
			fd = open(ON(from, name), O_RDWR);
			OK(fd);
			OK(fchmod(fd, g->mode));
			OK(close(fd));
			break;
		case 7:		/* replaced by another one */
			fill(buf, len, 0, round);
			fd = open(ON(from, "new"), O_RDWR | O_CREAT | O_EXCL, 0666);
			OK(fd);
			ASSERT_EQ((ssize_t)len, pwrite(fd, buf, len, 0));
			OK(close(fd));
			OK(rename(ON(from, "new"), ON(from, name)));
			goto fresh;
		case 8:		/* the name may have been found missing a moment ago; an open asks again */
			OK(close(open(ON(from, name), O_RDONLY)));
			OK(unlink(ON(from, name)));
			g->exists = false;
			break;
		default:
			fd = open(ON(from, name), O_RDWR | O_CREAT | O_TRUNC, 0666);
			OK(fd);
			len = 0;
			if (!g->exists || g->mode != 0666)
				OK(fchmod(fd, 0666));
			OK(close(fd));
			if (g->exists) {
				g->mode = 0666;
				g->size = 0;
				memset(g->data, 0, MAX);
				break;
			}
fresh:
			g->exists = true;
			g->mode = 0666;
			g->size = len;
			memset(g->data, 0, MAX);
			memcpy(g->data, buf, len);
			break;
		}
		if (op == 7 || op == 8) {
			for (int m = 0; m < MOUNTS; m++) {
				if (g->kept[m] >= 0)
					OK(close(g->kept[m]));
				g->kept[m] = -1;
			}
		}
		if (!g->exists) {
			FAILS(ENOENT, open(ON(to, name), O_RDONLY));
			continue;
		}
		fd = open(ON(to, name), O_RDONLY);
		ASSERT_LE(0, fd) TH_LOG("round %d op %d: %s", round, op, strerror(errno));
		OK(fstat(fd, &st));
		ASSERT_EQ(g->size, (size_t)st.st_size) TH_LOG("round %d op %d from %d to %d", round, op, from, to);
		ASSERT_EQ(g->mode, st.st_mode & 07777) TH_LOG("round %d op %d from %d to %d", round, op, from, to);
		ASSERT_EQ((ssize_t)g->size, pread_all(fd, buf, MAX, 0));
		ASSERT_EQ(0, memcmp(buf, g->data, g->size)) {
			TH_LOG("round %d op %d from %d to %d off %zu len %zu", round, op, from, to, off, len);
		}
		OK(close(fd));
	}
	free(f);
}

TEST_HARNESS_MAIN
