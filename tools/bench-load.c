// SPDX-License-Identifier: GPL-2.0
/*
 * bench-load.c - the loads of tools/bench that fio has not got
 *
 *	bench-load read FILE			read(2) all of it, 1 MiB at a time
 *	bench-load touch FILE INDEX SEED	map it; touch each page of each tensor, tensors in shuffled order
 *	bench-load stat DIR N			stat(2) of DIR/0 to DIR/N-1, shuffled
 *	bench-load open DIR N			open(2) and close(2) of them
 *	bench-load create DIR N			make and remove N files
 *	bench-load list DIR N			getdents(2) of DIR, which has N files
 *
 * INDEX has a line "offset length" in bytes for each tensor.  Prints "amount seconds": bytes or operations.
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READ_SIZE	(1u << 20)
#define TENSORS_MAX	4096

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void report(unsigned long long amount, double start)
{
	printf("%llu %.6f\n", amount, now() - start);
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void shuffle(unsigned int *order, unsigned int n, unsigned int seed)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		order[i] = i;
	srandom(seed);
	for (i = n; i > 1; i--) {
		unsigned int j = random() % i, t = order[j];

		order[j] = order[i - 1];
		order[i - 1] = t;
	}
}

static void read_all(const char *path)
{
	char *buf = malloc(READ_SIZE);
	unsigned long long sum = 0;
	double start = now();
	int fd = open_file(path, O_RDONLY);
	ssize_t n;

	while ((n = read(fd, buf, READ_SIZE)) > 0)
		sum += n;
	if (n < 0)
		err(1, "%s: read", path);
	close(fd);
	report(sum, start);
}

static void touch(const char *path, const char *index, unsigned int seed)
{
	static struct { unsigned long long off, len; } t[TENSORS_MAX];
	static unsigned int order[TENSORS_MAX];
	unsigned long long sum = 0;
	volatile unsigned char byte;
	unsigned int n = 0, i;
	struct stat st;
	FILE *f = fopen(index, "r");
	double start;
	char *map;
	int fd;

	if (!f)
		err(1, "%s", index);
	while (n < TENSORS_MAX && fscanf(f, "%llu %llu", &t[n].off, &t[n].len) == 2)
		n++;
	fclose(f);
	shuffle(order, n, seed);
	start = now();
	fd = open_file(path, O_RDONLY);
	if (fstat(fd, &st))
		err(1, "%s: fstat", path);
	map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		err(1, "%s: mmap", path);
	for (i = 0; i < n; i++) {
		unsigned long long off = t[order[i]].off, end = off + t[order[i]].len;

		if (end > (unsigned long long)st.st_size)
			errx(1, "%s: a tensor ends behind the file", path);
		for (; off < end; off += 4096)
			byte = map[off];
		sum += t[order[i]].len;
	}
	(void)byte;
	munmap(map, st.st_size);
	close(fd);
	report(sum, start);
}

static void names(const char *what, const char *dir, unsigned int n)
{
	unsigned int *order = calloc(n, sizeof(*order)), i;
	char path[4096];
	struct stat st;
	double start;

	shuffle(order, n, 1);
	start = now();
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%u", dir, order[i]);
		if (!strcmp(what, "stat")) {
			if (stat(path, &st))
				err(1, "%s", path);
		} else if (!strcmp(what, "open")) {
			close(open_file(path, O_RDONLY));
		} else {
			close(open_file(path, O_WRONLY | O_CREAT | O_EXCL));
			if (unlink(path))
				err(1, "%s: unlink", path);
		}
	}
	report(n, start);
	free(order);
}

static void list(const char *dir, unsigned int n)
{
	double start = now();
	DIR *d = opendir(dir);
	unsigned int seen = 0;

	if (!d)
		err(1, "%s", dir);
	while (readdir(d))
		seen++;
	closedir(d);
	if (seen != n + 2)
		errx(1, "%s: %u entries instead of %u", dir, seen, n + 2);
	report(n, start);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "read"))
		read_all(argv[2]);
	else if (argc == 5 && !strcmp(argv[1], "touch"))
		touch(argv[2], argv[3], atoi(argv[4]));
	else if (argc == 4 && (!strcmp(argv[1], "stat") || !strcmp(argv[1], "open") || !strcmp(argv[1], "create")))
		names(argv[1], argv[2], atoi(argv[3]));
	else if (argc == 4 && !strcmp(argv[1], "list"))
		list(argv[2], atoi(argv[3]));
	else
		errx(2, "usage: see the head of tools/bench-load.c");
	return 0;
}
