// SPDX-License-Identifier: GPL-2.0
/*
 * concurrency - several processes on the same directory and the same files.
 *
 * Who wins is open; what all of them together did has to add up.  With WFS_TEST_DIR2, another mount of the
 * same export, every other process works there.
 */
#include "wfs_test.h"

#include <linux/fs.h>

#define PROCS 6

struct shared {
	struct barrier b;
	atomic_int odd;			/* results that nobody may get */
	atomic_int net[64];		/* creations less removals of each name */
	atomic_bool stop;
};

static void complain(struct shared *s, const char *what)
{
	printf("# %s: %s\n", what, strerror(errno));
	fflush(stdout);
	atomic_fetch_add(&s->odd, 1);
}

static bool start(int me, const char *name)
{
	const char *second = getenv("WFS_TEST_DIR2");
	pid_t pid = fork();
	char path[PATH_MAX];

	if (pid)
		return false;
	if (second && me % 2) {
		snprintf(path, sizeof(path), "%s/%s", second, name);
		if (chdir(path)) {
			perror(path);
			_exit(1);
		}
	}
	return true;
}

/* Forks PROCS children, each with its number in @me; the statement after it is theirs. */
#define EACH(me)						\
	for (int me = 0; me < PROCS; me++)			\
		if (start(me, self->name))

TEST_F_TIMEOUT(dir, create_unlink, 120)
{
	enum { NAMES = 8, ROUNDS = 80 };
	struct shared *s = shared_alloc(sizeof(*s));
	char name[16];
	struct stat st;

	EACH(me) {
		unsigned int seed = me;

		barrier(&s->b, PROCS);
		for (int i = 0; i < reps(ROUNDS); i++) {
			int k = rand_r(&seed) % NAMES, fd;

			snprintf(name, sizeof(name), "n%d", k);
			fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
			if (fd >= 0) {
				atomic_fetch_add(&s->net[k], 1);
				if (write(fd, name, 2) != 2 || close(fd))
					complain(s, "write");
			} else if (errno != EEXIST) {
				complain(s, "create");
			}
			k = rand_r(&seed) % NAMES;
			snprintf(name, sizeof(name), "n%d", k);
			if (!unlink(name))
				atomic_fetch_sub(&s->net[k], 1);
			else if (errno != ENOENT)
				complain(s, "unlink");
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	OK(chdir(self->server));
	for (int k = 0; k < NAMES; k++) {
		snprintf(name, sizeof(name), "n%d", k);
		ASSERT_EQ(atomic_load(&s->net[k]), stat(name, &st) == 0) TH_LOG("%s", name);
	}
}

TEST_F_TIMEOUT(dir, mkdir_rmdir, 120)
{
	enum { NAMES = 6, ROUNDS = 60 };
	struct shared *s = shared_alloc(sizeof(*s));
	char name[32];
	struct stat st;

	EACH(me) {
		unsigned int seed = me;

		barrier(&s->b, PROCS);
		for (int i = 0; i < reps(ROUNDS); i++) {
			int k = rand_r(&seed) % NAMES;

			snprintf(name, sizeof(name), "d%d", k);
			if (!mkdir(name, 0755))
				atomic_fetch_add(&s->net[k], 1);
			else if (errno != EEXIST)
				complain(s, "mkdir");
			snprintf(name, sizeof(name), "d%d/f%d", k, me);
			/* ESTALE: removed by the other mount after the lookup, and once more after the VFS's second one */
			if (mknod(name, S_IFREG | 0644, 0) && errno != ENOENT && errno != EEXIST && errno != ESTALE)
				complain(s, "mknod");
			if (unlink(name) && errno != ENOENT && errno != ESTALE)
				complain(s, "unlink");
			k = rand_r(&seed) % NAMES;
			snprintf(name, sizeof(name), "d%d", k);
			if (!rmdir(name))
				atomic_fetch_sub(&s->net[k], 1);
			else if (errno != ENOENT && errno != ENOTEMPTY)
				complain(s, "rmdir");
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	OK(chdir(self->server));
	for (int k = 0; k < NAMES; k++) {
		snprintf(name, sizeof(name), "d%d", k);
		ASSERT_EQ(atomic_load(&s->net[k]), stat(name, &st) == 0) TH_LOG("%s", name);
	}
}

/* Files move between directories and swap places; in the end each is there once with its data. */
TEST_F_TIMEOUT(dir, rename, 120)
{
	enum { FILES = 10, DIRS = 3, ROUNDS = 200 };
	struct shared *s = shared_alloc(sizeof(*s));
	int found[FILES] = {};
	char a[64], b[64];

	for (int i = 0; i < DIRS; i++) {
		snprintf(a, sizeof(a), "dir%d", i);
		OK(mkdir(a, 0755));
	}
	for (int i = 0; i < FILES; i++) {
		snprintf(a, sizeof(a), "dir%d/f%d", i % DIRS, i);
		OK(make_file(a, 1000, i));
	}
	EACH(me) {
		unsigned int seed = me;

		barrier(&s->b, PROCS);
		for (int i = 0; i < reps(ROUNDS); i++) {
			bool swap = rand_r(&seed) % 2;

			snprintf(a, sizeof(a), "dir%d/f%d", rand_r(&seed) % DIRS, rand_r(&seed) % FILES);
			snprintf(b, sizeof(b), "dir%d/f%d", rand_r(&seed) % DIRS, rand_r(&seed) % FILES);
			if (renameat2(AT_FDCWD, a, AT_FDCWD, b, swap ? RENAME_EXCHANGE : RENAME_NOREPLACE) &&
			    errno != ENOENT && errno != EEXIST)
				complain(s, swap ? "exchange" : "rename");
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	OK(chdir(self->server));
	for (int i = 0; i < DIRS; i++) {
		for (int k = 0; k < FILES; k++) {
			char buf[1001];
			int fd, which;

			snprintf(a, sizeof(a), "dir%d/f%d", i, k);
			fd = open(a, O_RDONLY);
			if (fd < 0)
				continue;
			ASSERT_EQ(1000, read(fd, buf, sizeof(buf)));
			OK(close(fd));
			for (which = 0; which < FILES; which++)
				if (mismatch(buf, 1000, 0, which) < 0)
					break;
			ASSERT_LT(which, FILES);
			found[which]++;
		}
	}
	for (int i = 0; i < FILES; i++)
		ASSERT_EQ(1, found[i]);
}

TEST_F_TIMEOUT(dir, hard_links, 120)
{
	enum { ROUNDS = 80 };
	struct shared *s = shared_alloc(sizeof(*s));
	struct stat st;
	char name[32];
	int left = 0;

	OK(make_file("f", 10, 0));
	EACH(me) {
		unsigned int seed = me;

		barrier(&s->b, PROCS);
		for (int i = 0; i < reps(ROUNDS); i++) {
			snprintf(name, sizeof(name), "l%d", rand_r(&seed) % 10);
			if (rand_r(&seed) % 2) {
				if (link("f", name) && errno != EEXIST)
					complain(s, "link");
			} else if (unlink(name) && errno != ENOENT) {
				complain(s, "unlink");
			}
			if (stat("f", &st) || st.st_nlink < 1 || st.st_nlink > 11)
				complain(s, "stat");
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		left += !stat(name, &st);
	}
	OK(remount(self->path));
	OK(stat("f", &st));
	ASSERT_EQ(left + 1, st.st_nlink);
}

/* Everybody does a bit of everything, on names of their own, in one directory that somebody else lists. */
TEST_F_TIMEOUT(dir, mixed, 180)
{
	enum { ROUNDS = 16 };
	struct shared *s = shared_alloc(sizeof(*s));

	EACH(me) {
		char a[32], b[32], got[32];
		struct stat st;

		barrier(&s->b, PROCS);
		for (int i = 0; i < ROUNDS; i++) {
			struct dirent *de;
			bool seen = false;
			DIR *d;

			snprintf(a, sizeof(a), "p%d.%d", me, i);
			snprintf(b, sizeof(b), "q%d.%d", me, i);
			if (make_file(a, 5000 + i, me) || stat(a, &st) || st.st_size != 5000 + i)
				complain(s, "create");
			if (rename(a, b) || !stat(a, &st) || errno != ENOENT)
				complain(s, "rename");
			if (symlink(b, a) || readlink(a, got, sizeof(got)) != (ssize_t)strlen(b))
				complain(s, "symlink");
			if (check_file(a, 5000 + i, me))
				complain(s, "read through the link");
			d = opendir(".");
			while (d && (de = readdir(d)))
				seen |= !strcmp(de->d_name, b);
			if (!d || closedir(d) || !seen)
				complain(s, "listing");
			if (truncate(b, 100) || check_file(b, 100, me))
				complain(s, "truncate");
			if (chmod(b, 0600 + me) || stat(b, &st) || (st.st_mode & 0777) != (mode_t)(0600 + me))
				complain(s, "chmod");
			if (i % 2 && (unlink(a) || unlink(b) || !stat(b, &st)))
				complain(s, "unlink");
		}
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	OK(remount(self->path));
	for (int me = 0; me < PROCS; me++) {
		for (int i = 0; i < ROUNDS; i++) {
			char b[32];
			struct stat st;

			snprintf(b, sizeof(b), "q%d.%d", me, i);
			if (i % 2)
				FAILS(ENOENT, stat(b, &st));
			else
				OK(check_file(b, 100, me));
		}
	}
}

/* Readers of one file while the caches are dropped under them and a writer writes what is there. */
TEST_F_TIMEOUT(dir, read_with_drop_caches, 180)
{
	enum { LEN = 4 * MIB };
	struct shared *s = shared_alloc(sizeof(*s));
	int dropped = 0;

	OK(make_file("f", LEN, 1));
	EACH(me) {
		unsigned int seed = me;
		char buf[65536];
		int fd = open("f", me == 0 ? O_RDWR : O_RDONLY);
		const char *map = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0);

		if (fd < 0 || map == MAP_FAILED)
			complain(s, "open");
		barrier(&s->b, PROCS);
		for (int i = 0; i < reps(60); i++) {
			off_t off = rand_r(&seed) % (LEN - sizeof(buf));

			if (me == 0) {
				fill(buf, sizeof(buf), off, 1);
				if (pwrite(fd, buf, sizeof(buf), off) != sizeof(buf))
					complain(s, "write");
			} else if (me % 2) {
				if (pread(fd, buf, sizeof(buf), off) != sizeof(buf) ||
				    mismatch(buf, sizeof(buf), off, 1) >= 0)
					complain(s, "read");
			} else if (mismatch(map + off, sizeof(buf), off, 1) >= 0) {
				complain(s, "mapping");
			}
		}
		if (me == 0)
			s->stop = true;
		_exit(close(fd) ? 1 : 0);
	}
	do {
		OK(drop_caches());
		dropped++;
	} while (!s->stop);
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	TH_LOG("caches dropped %d times", dropped);
	OK(check_file("f", LEN, 1));
}

/* Writers of neighbouring, unaligned pieces of one file: each finds its own bytes. */
TEST_F_TIMEOUT(dir, neighbours, 120)
{
	enum { PIECE = 1000, PIECES = 600 };
	struct shared *s = shared_alloc(sizeof(*s));

	OK(make_file("f", 0, 0));
	EACH(me) {
		int fd = open("f", O_RDWR);
		char buf[PIECE];

		barrier(&s->b, PROCS);
		for (int i = me; i < PIECES; i += PROCS) {
			fill(buf, PIECE, i * PIECE, 2);
			if (pwrite(fd, buf, PIECE, i * PIECE) != PIECE)
				complain(s, "write");
			if (i % 50 == 0 && fsync(fd))
				complain(s, "fsync");
		}
		_exit(close(fd) ? 1 : 0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	OK(check_file("f", PIECE * PIECES, 2));
	OK(remount(self->path));
	OK(check_file("f", PIECE * PIECES, 2));
}

TEST_HARNESS_MAIN
