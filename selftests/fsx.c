// SPDX-License-Identifier: GPL-2.0
/*
 * fsx - random operations on a file under test and on a local file; they have to stay the same.
 *
 *	fsx [-n OPS] [-p PROCS] [-s SEED] [-l FILE_BYTES] [-o OP_BYTES] [-a ALIGN] [-r LOCAL_DIR]
 *
 * Each of PROCS processes has a file and a seed (SEED, SEED + 1, ...) of its own and does OPS operations.
 * A run is repeated with the seed that it prints.  When the files differ, the operations that touched the
 * wrong byte are printed, the last one last.
 */
#include "wfs_test.h"

#include <getopt.h>
#include <linux/falloc.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

static long opt_ops = 10000, opt_procs = 1, opt_len = 512 * 1024, opt_op = 64 * 1024, opt_align = 4096;
static unsigned long opt_seed;
static const char *opt_local = "/tmp";

enum op { READ, WRITE, APPEND, MAPREAD, MAPWRITE, DIOREAD, DIOWRITE, READV, WRITEV, SPLICE, TRUNCATE, ALLOCATE,
	  PUNCH, ZERO, COPY, SEEKDATA,
	  FSYNC, MSYNC, STAT, DONTNEED, DROPCACHES, REOPEN, COMPARE, OPS };

static const struct { const char *name; int weight; } ops[OPS] = {
	[READ]		= { "read", 160 },
	[WRITE]		= { "write", 160 },
	[APPEND]	= { "append", 50 },
	[MAPREAD]	= { "mapread", 100 },
	[MAPWRITE]	= { "mapwrite", 100 },
	[DIOREAD]	= { "dioread", 80 },
	[DIOWRITE]	= { "diowrite", 80 },
	[READV]		= { "readv", 20 },
	[WRITEV]	= { "writev", 20 },
	[SPLICE]	= { "sendfile", 20 },
	[TRUNCATE]	= { "truncate", 60 },
	[ALLOCATE]	= { "fallocate", 20 },
	[PUNCH]		= { "punch_hole", 40 },
	[ZERO]		= { "zero_range", 40 },
	[COPY]		= { "copy_range", 60 },
	[SEEKDATA]	= { "seek", 40 },
	[FSYNC]		= { "fsync", 20 },
	[MSYNC]		= { "msync", 20 },
	[STAT]		= { "stat", 60 },
	[DONTNEED]	= { "dontneed", 40 },
	[DROPCACHES]	= { "drop_caches", 1 },
	[REOPEN]	= { "reopen", 20 },
	[COMPARE]	= { "compare", 4 },
};

struct logged {
	enum op op;
	long off, len, size;	/* size of the file before */
};

struct fsx {
	unsigned long seed;
	uint64_t rng;
	char path[PATH_MAX], ref_path[PATH_MAX];
	int fd, append_fd, direct_fd, ref_fd;
	char *map;		/* the whole file, mapped for as long as it is open */
	char *buf, *ref;
	int sock[2];
	long size, n;
	bool no_zero;		/* the export has no FALLOC_FL_ZERO_RANGE */
	struct logged *log;
};

static uint64_t rnd(struct fsx *x)
{
	x->rng ^= x->rng << 13;
	x->rng ^= x->rng >> 7;
	x->rng ^= x->rng << 17;
	return x->rng * 0x2545f4914f6cdd1dull >> 11;
}

static void __attribute__((format(printf, 3, 4), noreturn))
die(struct fsx *x, long bad, const char *fmt, ...)
{
	va_list ap;
	int shown = 0;

	printf("# seed %lu, operation %ld (%s off %ld len %ld): ", x->seed, x->n, ops[x->log[x->n].op].name,
	       x->log[x->n].off, x->log[x->n].len);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n# repeat: fsx -n %ld -s %lu -l %ld -o %ld -a %ld\n", opt_ops, x->seed, opt_len, opt_op, opt_align);
	for (long i = x->n; i >= 0 && shown < 40; i--) {
		struct logged *l = &x->log[i];
		bool touches = l->off <= bad && bad < l->off + l->len;

		if (l->op == TRUNCATE)
			touches = l->len <= bad || l->size <= bad;
		if (bad >= 0 && !touches && i < x->n - 3)
			continue;
		printf("#   %ld: %s off %#lx len %#lx, size was %#lx\n", i, ops[l->op].name, l->off, l->len,
		       l->size);
		shown++;
	}
	fflush(stdout);
	_exit(1);
}

static void check(struct fsx *x, long ret, const char *what)
{
	if (ret < 0)
		die(x, -1, "%s: %s", what, strerror(errno));
}

static void open_all(struct fsx *x)
{
	check(x, x->fd = open(x->path, O_RDWR), "open");
	check(x, x->append_fd = open(x->path, O_WRONLY | O_APPEND), "open O_APPEND");
	check(x, x->direct_fd = open(x->path, O_RDWR | O_DIRECT), "open O_DIRECT");
	x->map = mmap(NULL, opt_len, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, 0);
	if (x->map == MAP_FAILED)
		die(x, -1, "mmap: %s", strerror(errno));
}

static void close_all(struct fsx *x)
{
	check(x, munmap(x->map, opt_len), "munmap");
	check(x, close(x->direct_fd), "close O_DIRECT");
	check(x, close(x->append_fd), "close O_APPEND");
	check(x, close(x->fd), "close");
}

static void same(struct fsx *x, const char *got, const char *want, long off, long len)
{
	if (!memcmp(got, want, len))
		return;
	for (long i = 0, last = len - 1; i < len; i++) {
		if (got[i] == want[i])
			continue;
		while (got[last] == want[last])
			last--;
		die(x, off + i, "wrong from %#lx to %#lx of %#lx: %#x instead of %#x", off + i, off + last,
		    x->size, (unsigned char)got[i], (unsigned char)want[i]);
	}
}

/* What the local file has in the range; the number of bytes up to its end. */
static long expected(struct fsx *x, long off, long len)
{
	long n = pread_all(x->ref_fd, x->ref, len, off);

	check(x, n, "local pread");
	return n;
}

static void compare_all(struct fsx *x, int fd)
{
	long n = expected(x, 0, opt_len), got = pread_all(fd, x->buf, opt_len, 0);

	check(x, got, "pread of everything");
	same(x, x->buf, x->ref, 0, n < got ? n : got);
	if (n != got)
		die(x, got, "%ld bytes instead of %ld", got, n);
}

static void new_data(struct fsx *x, long len)
{
	uint64_t v = rnd(x);

	for (long i = 0; i < len; i++)
		x->buf[i] = (v >> (i & 31)) + i + x->n;
}

static void wrote(struct fsx *x, long off, long len)
{
	if (pwrite_all(x->ref_fd, x->buf, len, off) < 0)
		die(x, -1, "local pwrite: %s", strerror(errno));
	if (off + len > x->size)
		x->size = off + len;
}

/* What an operation made of zeros between @off and @end, on the local file. */
static void zeroed(struct fsx *x, long off, long end)
{
	if (end <= off)
		return;
	memset(x->buf, 0, end - off);
	if (pwrite_all(x->ref_fd, x->buf, end - off, off) < 0)
		die(x, -1, "local pwrite: %s", strerror(errno));
}

static void resized(struct fsx *x, long size)
{
	check(x, ftruncate(x->ref_fd, size), "local ftruncate");
	x->size = size;
}

static void allocate(struct fsx *x, int mode, long off, long len)
{
	bool keep = mode & FALLOC_FL_KEEP_SIZE;
	long size = x->size;

	if (fallocate(x->fd, mode, off, len)) {
		if (errno != EOPNOTSUPP || !(mode & FALLOC_FL_ZERO_RANGE))
			check(x, -1, "fallocate");
		x->no_zero = true;
		return;
	}
	if (!keep && off + len > size)
		resized(x, off + len);
	if (mode & ~FALLOC_FL_KEEP_SIZE)
		zeroed(x, off, off + len < size ? off + len : size);
}

/* From @off to another place, without overlap. */
static void copy_range(struct fsx *x, long off, long to, long len)
{
	loff_t in = off, out = to;
	long n, want = expected(x, off, len);

	memcpy(x->buf, x->ref, want);
	for (n = 0; n < want; ) {
		long r = copy_file_range(x->fd, &in, x->fd, &out, want - n, 0);

		check(x, r, "copy_file_range");
		if (!r)
			die(x, off + n, "copied %ld bytes instead of %ld", n, want);
		n += r;
	}
	if (want)
		wrote(x, to, want);
}

/* Between @off and the next data there are zeros; and so between a hole and the data behind it. */
static void seek(struct fsx *x, long off, int whence)
{
	long pos = lseek(x->fd, off, whence), end, n;

	if (pos < 0 && errno != ENXIO)
		check(x, -1, "lseek");
	if (pos < 0 && off < x->size && whence == SEEK_HOLE)
		die(x, off, "no hole before the end");
	if (pos >= 0 && (pos < off || pos > x->size || (whence == SEEK_DATA && pos == x->size)))
		die(x, off, "lseek went to %ld of %ld", pos, x->size);
	if (whence == SEEK_HOLE && pos >= 0) {
		off = pos;
		pos = lseek(x->fd, off, SEEK_DATA);
	}
	end = pos < 0 ? x->size : pos;
	if (off >= end)
		return;
	n = expected(x, off, end - off);
	for (long i = 0; i < n; i++)
		if (x->ref[i])
			die(x, off + i, "data in a hole from %#lx to %#lx", off, end);
}

static void one(struct fsx *x)
{
	long off, len, n, to = 0, total = 0, pick;
	struct stat st, ref_st;
	struct iovec iov[3];
	enum op op = 0;
	off_t pos;

	for (int i = 0; i < OPS; i++)
		total += ops[i].weight;
	for (pick = rnd(x) % total; pick >= ops[op].weight; op++)
		pick -= ops[op].weight;

	len = 1 + rnd(x) % (rnd(x) % 4 ? opt_op : 5000);
	off = rnd(x) % opt_len;
	if (rnd(x) % 8 == 0)
		off &= ~4095l;
	if (off + len > opt_len)
		len = opt_len - off;
	switch (op) {
	case DIOREAD:
	case DIOWRITE:
		off -= off % opt_align;
		len += opt_align - 1;
		len -= len % opt_align;
		if (off + len > opt_len)
			len = (opt_len - off) / opt_align * opt_align;
		if (!len)
			op = STAT;
		break;
	case APPEND:
		off = x->size;
		if (off + len > opt_len)
			len = opt_len - off;
		if (!len)
			op = STAT;
		break;
	case TRUNCATE:
		len = rnd(x) % 3 ? (long)(rnd(x) % opt_len) : x->size / 2;
		off = 0;
		break;
	case MAPREAD:
		if (off >= x->size)
			op = STAT;
		else if (off + len > x->size)
			len = x->size - off;
		break;
	case COPY:
		if (len > opt_len / 2)
			len = opt_len / 2;
		to = rnd(x) % opt_len;
		if (to + len > opt_len)
			len = opt_len - to;
		if (to < off + len && off < to + len)
			to = off >= len ? off - len : off + len;
		if (to + len > opt_len)
			op = STAT;
		break;
	case ZERO:
		if (x->no_zero)
			op = STAT;
		break;
	case READ: case WRITE: case MAPWRITE: case READV: case WRITEV: case SPLICE: case ALLOCATE: case PUNCH:
		break;
	case SEEKDATA:
		len = 1;
		break;
	default:
		off = len = 0;
	}
	if (op == STAT)
		off = len = 0;
	x->log[x->n] = (struct logged){ op, op == COPY ? to : off, len, x->size };

	switch (op) {
	case READ:
	case DIOREAD:
		n = expected(x, off, len);
		memset(x->buf, 0x5e, len);
		pos = pread(op == READ ? x->fd : x->direct_fd, x->buf, len, off);
		check(x, pos, "pread");
		if (pos != n)
			die(x, off + pos, "read %ld bytes instead of %ld", (long)pos, n);
		same(x, x->buf, x->ref, off, n);
		break;
	case WRITE:
	case DIOWRITE:
		new_data(x, len);
		n = pwrite(op == WRITE ? x->fd : x->direct_fd, x->buf, len, off);
		check(x, n, "pwrite");
		if (n != len)
			die(x, -1, "wrote %ld bytes", n);
		wrote(x, off, len);
		break;
	case APPEND:
		new_data(x, len);
		n = write(x->append_fd, x->buf, len);
		check(x, n, "append");
		if (n != len)
			die(x, -1, "wrote %ld bytes", n);
		wrote(x, off, len);
		break;
	case MAPREAD:
		n = expected(x, off, len);
		same(x, x->map + off, x->ref, off, n);
		break;
	case MAPWRITE:
		if (off + len > x->size) {
			check(x, ftruncate(x->fd, off + len), "ftruncate");
			check(x, ftruncate(x->ref_fd, off + len), "local ftruncate");
			x->size = off + len;
		}
		new_data(x, len);
		memcpy(x->map + off, x->buf, len);
		wrote(x, off, len);
		break;
	case READV:
		n = expected(x, off, len);
		memset(x->buf, 0x5e, len);
		iov[0] = (struct iovec){ x->buf, len / 3 };
		iov[1] = (struct iovec){ x->buf + len / 3, 1 };
		iov[2] = (struct iovec){ x->buf + len / 3 + 1, len - len / 3 - 1 };
		pos = preadv(x->fd, iov, 3, off);
		check(x, pos, "preadv");
		if (pos != n)
			die(x, off + pos, "read %ld bytes instead of %ld", (long)pos, n);
		same(x, x->buf, x->ref, off, n);
		break;
	case WRITEV:
		new_data(x, len);
		iov[0] = (struct iovec){ x->buf, len / 3 };
		iov[1] = (struct iovec){ x->buf + len / 3, 1 };
		iov[2] = (struct iovec){ x->buf + len / 3 + 1, len - len / 3 - 1 };
		n = pwritev(x->fd, iov, 3, off);
		check(x, n, "pwritev");
		if (n != len)
			die(x, -1, "wrote %ld bytes", n);
		wrote(x, off, len);
		break;
	case SPLICE:
		if (len > 32768)	/* what the socket takes without a reader */
			len = 32768;
		n = expected(x, off, len);
		for (long done = 0; done < n; ) {
			long s, r;

			pos = off + done;
			check(x, s = sendfile(x->sock[1], x->fd, &pos, n - done), "sendfile");
			if (!s)
				die(x, off + done, "sendfile ended after %ld bytes instead of %ld", done, n);
			for (long t = 0; t < s; t += r)
				check(x, r = read(x->sock[0], x->buf + done + t, s - t), "read socket");
			done += s;
		}
		same(x, x->buf, x->ref, off, n);
		break;
	case TRUNCATE:
		check(x, rnd(x) % 2 ? ftruncate(x->fd, len) : truncate(x->path, len), "truncate");
		check(x, ftruncate(x->ref_fd, len), "local ftruncate");
		x->size = len;
		break;
	case ALLOCATE:
		allocate(x, rnd(x) % 2 ? FALLOC_FL_KEEP_SIZE : 0, off, len);
		break;
	case PUNCH:
		allocate(x, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
		break;
	case ZERO:
		allocate(x, FALLOC_FL_ZERO_RANGE | (rnd(x) % 2 ? FALLOC_FL_KEEP_SIZE : 0), off, len);
		break;
	case COPY:
		copy_range(x, off, to, len);
		break;
	case SEEKDATA:
		seek(x, off, rnd(x) % 2 ? SEEK_DATA : SEEK_HOLE);
		break;
	case FSYNC:
		check(x, rnd(x) % 2 ? fsync(x->fd) : fdatasync(x->fd), "fsync");
		break;
	case MSYNC:
		check(x, msync(x->map, opt_len, rnd(x) % 2 ? MS_SYNC : MS_ASYNC), "msync");
		break;
	case STAT:
		check(x, rnd(x) % 2 ? fstat(x->fd, &st) : stat(x->path, &st), "stat");
		check(x, fstat(x->ref_fd, &ref_st), "local fstat");
		if (st.st_size != ref_st.st_size)
			die(x, -1, "size is %ld instead of %ld", (long)st.st_size, (long)ref_st.st_size);
		break;
	case DONTNEED:
		check(x, fdatasync(x->fd), "fdatasync");
		check(x, madvise(x->map, opt_len, MADV_DONTNEED), "madvise");
		check(x, -posix_fadvise(x->fd, 0, 0, POSIX_FADV_DONTNEED), "fadvise");
		break;
	case DROPCACHES:
		if (drop_caches())
			die(x, -1, "drop_caches: %s", strerror(errno));
		break;
	case REOPEN:
		close_all(x);
		open_all(x);
		break;
	case COMPARE:
		compare_all(x, x->fd);
		break;
	case OPS:
		break;
	}
}

static void paths(struct fsx *x, unsigned long seed)
{
	x->seed = seed;
	snprintf(x->path, sizeof(x->path), "%s/fsx.%lu", test_dir(), seed);
	snprintf(x->ref_path, sizeof(x->ref_path), "%s/fsx-local.%d.%lu", opt_local, getppid(), seed);
}

static void prepare(struct fsx *x)
{
	x->rng = x->seed * 0x9e3779b97f4a7c15ull + 1;
	x->log = calloc(opt_ops + 1, sizeof(*x->log));
	x->buf = aligned_alloc(4096, opt_len + 4096);
	x->ref = aligned_alloc(4096, opt_len + 4096);
	if (!x->log || !x->buf || !x->ref)
		die(x, -1, "memory");
	check(x, socketpair(AF_UNIX, SOCK_STREAM, 0, x->sock), "socketpair");
	check(x, x->ref_fd = open(x->ref_path, O_RDWR | O_CREAT, 0600), "local file");
}

static int worker(unsigned long seed)
{
	static struct fsx x;
	char server[PATH_MAX + 64];
	double start = now();
	int fd;

	paths(&x, seed);
	prepare(&x);
	check(&x, ftruncate(x.ref_fd, 0), "local ftruncate");
	check(&x, fd = open(x.path, O_RDWR | O_CREAT | O_TRUNC, 0600), "create");
	check(&x, close(fd), "close");
	open_all(&x);
	for (x.n = 0; x.n < opt_ops; x.n++)
		one(&x);
	x.n--;
	compare_all(&x, x.fd);
	compare_all(&x, x.direct_fd);
	check(&x, fsync(x.fd), "fsync");
	close_all(&x);
	snprintf(server, sizeof(server), "%s/fsx.%lu", export_dir(), seed);
	check(&x, fd = open(server, O_RDONLY), "open on the server");
	compare_all(&x, fd);
	printf("# seed %lu: %ld operations in %.1f s\n", seed, opt_ops, now() - start);
	fflush(stdout);
	return 0;
}

/* After everybody has ended and the mount was made anew. */
static int again(unsigned long seed)
{
	static struct fsx x;
	int fd;

	paths(&x, seed);
	prepare(&x);
	check(&x, fd = open(x.path, O_RDONLY), "open after remount");
	compare_all(&x, fd);
	unlink(x.ref_path);
	return 0;
}

static int run(int (*fn)(unsigned long), const char *what)
{
	pid_t pids[opt_procs];
	int status, bad = 0;

	fflush(stdout);
	for (long i = 0; i < opt_procs; i++) {
		pids[i] = fork();
		if (!pids[i])
			_exit(fn(opt_seed + i));
	}
	for (long i = 0; i < opt_procs; i++) {
		bool good = waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status) &&
			    !WEXITSTATUS(status);

		ksft_test_result(good, "%s, seed %lu\n", what, opt_seed + i);
		bad += !good;
	}
	return bad;
}

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	int opt, bad;

	opt_seed = time(NULL);
	while ((opt = getopt(argc, argv, "n:p:s:l:o:a:r:")) != -1) {
		switch (opt) {
		case 'n': opt_ops = atol(optarg); break;
		case 'p': opt_procs = atol(optarg); break;
		case 's': opt_seed = strtoul(optarg, NULL, 0); break;
		case 'l': opt_len = atol(optarg); break;
		case 'o': opt_op = atol(optarg); break;
		case 'a': opt_align = atol(optarg); break;
		case 'r': opt_local = optarg; break;
		default:
			fprintf(stderr, "usage: fsx [-n ops] [-p procs] [-s seed] [-l file bytes] [-o bytes of an operation]\n"
				"           [-a alignment for O_DIRECT] [-r directory of the local files]\n");
			return KSFT_FAIL;
		}
	}
	ksft_print_header();
	ksft_set_plan(2 * opt_procs);
	ksft_print_msg("%ld x %ld operations in %s, seeds from %lu\n", opt_procs, opt_ops, test_dir(), opt_seed);
	bad = run(worker, "random operations");
	if (remount("/"))
		ksft_exit_fail_msg("remount failed\n");
	bad += run(again, "the same after a remount");
	for (long i = 0; !bad && i < opt_procs; i++) {
		snprintf(path, sizeof(path), "%s/fsx.%lu", test_dir(), opt_seed + i);
		unlink(path);
	}
	ksft_finished();
}
