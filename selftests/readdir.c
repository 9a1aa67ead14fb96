// SPDX-License-Identifier: GPL-2.0
/*
 * readdir - listing directories: large ones, from any position, while they change, with attributes.
 *
 * Large directories are filled on the server's side (WFS_EXPORT_DIR), which is quicker.
 */
#include "wfs_test.h"

#include <sys/sysmacros.h>
#include <sys/syscall.h>

#define LARGE reps(100000)

/* Makes @n empty files @prefix0... in @dir. */
static int make_many(const char *dir, const char *prefix, int n)
{
	int dfd = open(dir, O_RDONLY | O_DIRECTORY), ret = 0;
	char name[300];

	for (int i = 0; dfd >= 0 && !ret && i < n; i++) {
		snprintf(name, sizeof(name), "%s%d", prefix, i);
		ret = mknodat(dfd, name, S_IFREG | 0644, 0);
	}
	close(dfd);
	return dfd < 0 ? -1 : ret;
}

static int remove_all(const char *dir)
{
	return nftw(dir, rm_one, 64, FTW_DEPTH | FTW_PHYS);
}

/* The number in a name with that prefix, -1 for another name. */
static int number(const char *name, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(name, prefix, len) ? -1 : atoi(name + len);
}

TEST_F_TIMEOUT(dir, hundred_thousand, 240)
{
	unsigned char *seen = calloc(LARGE, 1);
	char sub[PATH_MAX + 8];
	struct dirent *de;
	double start;
	int count = 0;
	DIR *d;

	snprintf(sub, sizeof(sub), "%s/big", self->server);
	OK(mkdir("big", 0755));
	start = now();
	OK(make_many(sub, "entry-", LARGE));
	TH_LOG("made in %.1f s", now() - start);

	start = now();
	d = opendir("big");
	ASSERT_NE(NULL, d);
	while ((errno = 0, de = readdir(d))) {
		int i = number(de->d_name, "entry-");

		if (i < 0) {
			ASSERT_EQ('.', de->d_name[0]);
			continue;
		}
		ASSERT_LT(i, LARGE);
		ASSERT_EQ(0, seen[i]++) TH_LOG("%s twice", de->d_name);
		count++;
	}
	ASSERT_EQ(0, errno);
	ASSERT_EQ(LARGE, count);
	TH_LOG("listed in %.1f s", now() - start);
	OK(closedir(d));
	free(seen);
	OK(remove_all(sub));
}

TEST_F_TIMEOUT(dir, telldir_seekdir, 120)
{
	enum { N = 10000, POSITIONS = 300 };
	struct { long pos; char name[64]; } *at = calloc(POSITIONS, sizeof(*at));
	char sub[PATH_MAX + 8], first[64] = "";
	unsigned int seed = 1;
	struct dirent *de;
	int i = 0, n = 0;
	DIR *d;

	snprintf(sub, sizeof(sub), "%s/big", self->server);
	OK(mkdir("big", 0755));
	OK(make_many(sub, "e", N));
	d = opendir("big");
	ASSERT_NE(NULL, d);
	for (;;) {
		long pos = telldir(d);

		de = readdir(d);
		if (!de)
			break;
		if (!first[0])
			snprintf(first, sizeof(first), "%.60s", de->d_name);
		if (i++ % (N / POSITIONS + 1) == 0) {
			at[n].pos = pos;
			snprintf(at[n++].name, sizeof(at[0].name), "%.60s", de->d_name);
		}
	}
	ASSERT_LT(POSITIONS / 2, n);
	for (i = 0; i < 100; i++) {
		int k = rand_r(&seed) % n;

		seekdir(d, at[k].pos);
		de = readdir(d);
		ASSERT_NE(NULL, de);
		ASSERT_STREQ(at[k].name, de->d_name);
	}
	rewinddir(d);
	de = readdir(d);
	ASSERT_NE(NULL, de);
	ASSERT_STREQ(first, de->d_name);
	OK(closedir(d));
	free(at);
	OK(remove_all(sub));
}

TEST_F(dir, positions_survive_changes)
{
	enum { N = 400 };
	struct { long pos; char name[64]; } *at = calloc(N + 3, sizeof(*at));
	char sub[PATH_MAX + 8], path[PATH_MAX + 80];
	struct dirent *de;
	int n = 0;
	DIR *d;

	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "e", N));
	d = opendir("d");
	ASSERT_NE(NULL, d);
	for (;;) {
		at[n].pos = telldir(d);
		de = readdir(d);
		if (!de)
			break;
		snprintf(at[n++].name, sizeof(at[0].name), "%.60s", de->d_name);
	}
	ASSERT_EQ(N + 2, n);
	for (int i = 0; i < n; i += 2) {	/* every other one goes, others come */
		if (at[i].name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "d/%s", at[i].name);
		OK(unlink(path));
	}
	OK(make_many("d", "new", 150));
	for (int i = n - 1; i > 0; i -= 3) {
		if (i % 2 == 0 || at[i].name[0] == '.')
			continue;
		seekdir(d, at[i].pos);
		do {				/* a new one may have its place just before */
			de = readdir(d);
			ASSERT_NE(NULL, de);
		} while (!strncmp(de->d_name, "new", 3));
		ASSERT_STREQ(at[i].name, de->d_name);
	}
	OK(closedir(d));
	free(at);
	OK(remove_all(sub));
}

/* Entries come and go, here and on the server, while the directory is read: nobody else is lost or doubled. */
TEST_F_TIMEOUT(dir, changes_meanwhile, 120)
{
	enum { N = 2000, NEW = 800 };
	unsigned char keep[N] = {}, fresh[NEW] = {};
	char sub[PATH_MAX + 8], path[PATH_MAX + 80];
	int kept = 0, made = 0, gone = 0, count = 0;
	struct dirent *de;
	DIR *d;

	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "keep", N));
	OK(make_many(sub, "gone", N));
	d = opendir("d");
	ASSERT_NE(NULL, d);
	while ((errno = 0, de = readdir(d))) {
		int i;

		if ((i = number(de->d_name, "keep")) >= 0) {
			ASSERT_EQ(0, keep[i]++) TH_LOG("%s twice", de->d_name);
			kept++;
		} else if ((i = number(de->d_name, "new")) >= 0) {
			ASSERT_EQ(0, fresh[i]++) TH_LOG("%s twice", de->d_name);
		}
		if (++count % 4 == 0 && made < NEW) {
			snprintf(path, sizeof(path), "%s/new%d", made % 2 ? sub : "d", made);
			made++;
			OK(mknod(path, S_IFREG | 0644, 0));
		}
		if (count % 3 == 0 && gone < N) {
			snprintf(path, sizeof(path), "%s/gone%d", gone % 2 ? sub : "d", gone);
			gone++;
			OK(unlink(path));
		}
	}
	ASSERT_EQ(0, errno);
	ASSERT_EQ(N, kept);
	ASSERT_LT(100, made);
	ASSERT_LT(100, gone);
	OK(closedir(d));
	OK(remove_all(sub));
}

/* As rm -rf does it: every entry is removed as soon as it is read. */
TEST_F_TIMEOUT(dir, remove_while_reading, 120)
{
	enum { N = 1500 };
	char sub[PATH_MAX + 8];
	struct dirent *de;
	int count = 0;
	DIR *d;

	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "e", N));
	d = opendir("d");
	ASSERT_NE(NULL, d);
	while ((errno = 0, de = readdir(d))) {
		if (de->d_name[0] == '.')
			continue;
		OK(unlinkat(dirfd(d), de->d_name, 0));
		count++;
	}
	ASSERT_EQ(0, errno);
	ASSERT_EQ(N, count);
	OK(closedir(d));
	OK(rmdir("d"));
}

/* A listing that follows a change shows it. */
TEST_F(dir, own_changes_show)
{
	char name[32];

	for (int i = 0; i < 100; i++) {
		bool there = false, old = false;
		struct dirent *de;
		DIR *d;

		snprintf(name, sizeof(name), "f%d", i);
		OK(mknod(name, S_IFREG | 0644, 0));
		d = opendir(".");
		ASSERT_NE(NULL, d);
		while ((de = readdir(d))) {
			if (!strcmp(de->d_name, name))
				there = true;
			else if (de->d_name[0] == 'f')
				old = true;
		}
		OK(closedir(d));
		ASSERT_TRUE(there);
		ASSERT_FALSE(old);
		OK(unlink(name));
	}
}

TEST_F(dir, types_and_inodes)
{
	int seen = 0, dots = 0;
	struct dirent *de;
	struct stat st;
	DIR *d;

	OK(mknod("f", S_IFREG | 0644, 0));
	OK(mkdir("d", 0755));
	OK(symlink("f", "l"));
	OK(mkfifo("p", 0644));
	OK(mknod("s", S_IFSOCK | 0644, 0));
	OK(mknod("c", S_IFCHR | 0644, makedev(1, 3)));
	OK(mknod("b", S_IFBLK | 0644, makedev(1, 3)));
	OK(remount(self->path));
	d = opendir(".");
	ASSERT_NE(NULL, d);
	while ((de = readdir(d))) {
		OK(lstat(de->d_name, &st));
		if (!strcmp(de->d_name, ".."))
			ASSERT_EQ(DT_DIR, de->d_type);
		if (strcmp(de->d_name, "..")) {
			ASSERT_EQ(st.st_ino, de->d_ino);
			ASSERT_EQ(IFTODT(st.st_mode), de->d_type);
		}
		if (de->d_name[0] == '.')
			dots++;
		else
			seen++;
	}
	ASSERT_EQ(2, dots);
	ASSERT_EQ(7, seen);
	OK(closedir(d));

	d = opendir("d");		/* empty */
	ASSERT_NE(NULL, d);
	ASSERT_NE(NULL, readdir(d));
	ASSERT_NE(NULL, readdir(d));
	ASSERT_EQ(NULL, readdir(d));
	OK(closedir(d));
}

TEST_F(dir, buffers)
{
	char buf[4096], name[256];
	int fd, count = 0;
	long n;

	memset(name, 'x', 255);
	name[255] = 0;
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "%03d", i);
		name[3] = 'x';
		OK(mknod(name, S_IFREG | 0644, 0));
	}
	fd = open(".", O_RDONLY | O_DIRECTORY);
	OK(fd);
	FAILS(EISDIR, read(fd, buf, 1));
	FAILS(EINVAL, syscall(SYS_getdents64, fd, buf, 4));
	for (;;) {			/* one name fits at a time */
		n = syscall(SYS_getdents64, fd, buf, 300);
		OK(n);
		if (!n)
			break;
		for (long pos = 0; pos < n; count++)
			pos += *(unsigned short *)(buf + pos + 16);
	}
	ASSERT_EQ(52, count);
	ASSERT_EQ(0, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	OK(lseek(fd, 0, SEEK_SET));
	ASSERT_LT(0, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	OK(close(fd));
	OK(mkdir("gone", 0755));
	fd = open("gone", O_RDONLY | O_DIRECTORY);
	OK(fd);
	OK(rmdir("gone"));
	n = syscall(SYS_getdents64, fd, buf, sizeof(buf));
	ASSERT_TRUE(n == 0 || errno == ENOENT || errno == ESTALE);
	OK(close(fd));
}

TEST_F(dir, two_readers)
{
	enum { N = 2000 };
	char sub[PATH_MAX + 8];
	int count[2] = {};
	struct dirent *de;
	DIR *d[2];

	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "e", N));
	d[0] = opendir("d");
	d[1] = opendir("d");
	ASSERT_NE(NULL, d[0]);
	ASSERT_NE(NULL, d[1]);
	for (int i = 0; i < 3 * N; i++) {
		int k = i % 3 == 2;		/* the second is slower */

		de = readdir(d[k]);
		count[k] += de != NULL;
	}
	while ((de = readdir(d[1])))
		count[1]++;
	ASSERT_EQ(N + 2, count[0]);
	ASSERT_EQ(N + 2, count[1]);
	OK(closedir(d[0]));
	OK(closedir(d[1]));
	OK(remove_all(sub));
}

/* Listing and stat of a thousand files: the attributes come with the names. */
TEST_F(dir, attributes_in_one_trip)
{
	enum { N = 1000 };
	long lookups, getattrs, readdirs;
	char sub[PATH_MAX + 8];
	struct dirent *de;
	struct stat st;
	int count = 0;
	DIR *d;

	if (op_requests("READDIR") < 0)
		SKIP(return, "no counters in WFS_STATS");
	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "e", N));
	OK(remount(self->path));
	d = opendir("d");
	ASSERT_NE(NULL, d);
	lookups = op_requests("LOOKUP");
	getattrs = op_requests("GETATTR");
	readdirs = op_requests("READDIR");
	while ((de = readdir(d))) {
		OK(fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW));
		if (de->d_name[0] != '.')
			ASSERT_EQ(S_IFREG | 0644, st.st_mode);
		count++;
	}
	lookups = op_requests("LOOKUP") - lookups;
	getattrs = op_requests("GETATTR") - getattrs;
	readdirs = op_requests("READDIR") - readdirs;
	TH_LOG("%d entries: %ld READDIR, %ld LOOKUP, %ld GETATTR", count, readdirs, lookups, getattrs);
	ASSERT_EQ(N + 2, count);
	ASSERT_LT(0, readdirs);
	ASSERT_LE(readdirs, 60);
	ASSERT_LE(lookups + getattrs, 20);
	OK(closedir(d));
	OK(remove_all(sub));
}

/* Who does not look at the files gets names alone, of which more fit into a reply. */
TEST_F(dir, names_alone)
{
	enum { N = 4000 };
	char sub[PATH_MAX + 8];
	long readdirs;
	int count = 0;
	DIR *d;

	if (op_requests("READDIR") < 0)
		SKIP(return, "no counters in WFS_STATS");
	snprintf(sub, sizeof(sub), "%s/d", self->server);
	OK(mkdir("d", 0755));
	OK(make_many(sub, "e", N));
	OK(remount(self->path));
	d = opendir("d");
	ASSERT_NE(NULL, d);
	readdirs = op_requests("READDIR");
	while (readdir(d))
		count++;
	readdirs = op_requests("READDIR") - readdirs;
	TH_LOG("%d entries: %ld READDIR", count, readdirs);
	ASSERT_EQ(N + 2, count);
	ASSERT_LE(readdirs, 3);
	OK(closedir(d));
	OK(remove_all(sub));
}

TEST_HARNESS_MAIN
