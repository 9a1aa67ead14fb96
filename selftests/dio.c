// SPDX-License-Identifier: GPL-2.0
/*
 * dio - O_DIRECT with psync, libaio and io_uring, and its coherence with the page cache.
 *
 * Alignment is a property of the file system: an unaligned request may be refused with EINVAL (ext4) or
 * served (wfs, NFS), but it never transfers anything wrong.
 */
#include "wfs_test.h"

#include <libaio.h>
#include <liburing.h>
#include <sys/uio.h>

#define ALIGN 4096
#define DEPTH 64

static void *aligned(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

TEST_F(dir, psync)
{
	const size_t sizes[] = { 4096, 8192, 65536, MIB, 4 * MIB, 9 * MIB };
	char *buf = aligned(9 * MIB);
	off_t off = 0, end;
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);

	OK(fd);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(buf, sizes[i], off, 1);
		ASSERT_EQ(sizes[i], pwrite(fd, buf, sizes[i], off));
		off += sizes[i];
	}
	end = off;
	OK(check_file("f", end, 1));		/* buffered */
	off = 0;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(buf, 0, sizes[i]);
		ASSERT_EQ(sizes[i], pread(fd, buf, sizes[i], off));
		ASSERT_EQ(-1, mismatch(buf, sizes[i], off, 1));
		off += sizes[i];
	}
	/* backwards, in pieces that lie across those of the writes */
	for (off = end - 36864; off >= 0; off -= 36864 * 37) {
		ASSERT_EQ(36864, pread(fd, buf, 36864, off));
		ASSERT_EQ(-1, mismatch(buf, 36864, off, 1));
	}
	OK(close(fd));
	OK(remount(self->path));
	OK(check_file("f", end, 1));
}

TEST_F(dir, vectors)
{
	char *buf = aligned(64 * ALIGN);
	struct iovec iov[16];
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);

	OK(fd);
	fill(buf, 16 * ALIGN, 0, 2);
	ASSERT_EQ(16 * ALIGN, pwrite(fd, buf, 16 * ALIGN, 0));
	/* scattered: page i of the file to every third page of memory */
	memset(buf, 0, 64 * ALIGN);
	for (int i = 0; i < 16; i++)
		iov[i] = (struct iovec){ buf + 3 * i * ALIGN, ALIGN };
	ASSERT_EQ(16 * ALIGN, preadv(fd, iov, 16, 0));
	for (int i = 0; i < 16; i++)
		ASSERT_EQ(-1, mismatch(buf + 3 * i * ALIGN, ALIGN, i * ALIGN, 2));
	ASSERT_EQ(16 * ALIGN, pwritev(fd, iov, 16, 16 * ALIGN));
	memset(buf, 0, 64 * ALIGN);
	ASSERT_EQ(16 * ALIGN, pread(fd, buf, 16 * ALIGN, 16 * ALIGN));
	ASSERT_EQ(-1, mismatch(buf, 16 * ALIGN, 0, 2));
	OK(close(fd));
}

TEST_F(dir, end_of_file)
{
	char *buf = aligned(16 * ALIGN);
	struct stat st;
	int fd;

	OK(make_file("f", 10000, 3));
	fd = open("f", O_RDWR | O_DIRECT);
	OK(fd);
	memset(buf, 0x33, 16 * ALIGN);
	ASSERT_EQ(10000, pread(fd, buf, 4 * ALIGN, 0));
	ASSERT_EQ(-1, mismatch(buf, 10000, 0, 3));
	ASSERT_EQ(1808, pread(fd, buf, ALIGN, 8192));
	ASSERT_EQ(-1, mismatch(buf, 1808, 8192, 3));
	ASSERT_EQ(0, pread(fd, buf, ALIGN, 12288));
	ASSERT_EQ(0, pread(fd, buf, ALIGN, 1ll << 40));

	/* a write beyond the end grows the file and leaves zeros between */
	fill(buf, ALIGN, 20480, 3);
	ASSERT_EQ(ALIGN, pwrite(fd, buf, ALIGN, 20480));
	OK(fstat(fd, &st));
	ASSERT_EQ(24576, st.st_size);
	ASSERT_EQ(24576, pread(fd, buf, 8 * ALIGN, 0));
	ASSERT_EQ(-1, mismatch(buf, 10000, 0, 3));
	for (int i = 10000; i < 20480; i++)
		ASSERT_EQ(0, buf[i]);
	ASSERT_EQ(-1, mismatch(buf + 20480, ALIGN, 20480, 3));

	OK(ftruncate(fd, 5000));
	ASSERT_EQ(5000, pread(fd, buf, 8 * ALIGN, 0));
	OK(close(fd));

	/* a hole larger than any single request */
	fd = open("hole", O_RDWR | O_CREAT | O_DIRECT, 0644);
	OK(fd);
	OK(ftruncate(fd, 8 * MIB));
	buf = aligned(8 * MIB);
	memset(buf, 1, 8 * MIB);
	ASSERT_EQ(8 * MIB, pread(fd, buf, 8 * MIB, 0));
	for (int i = 0; i < 8 * MIB; i++)
		if (buf[i])
			ASSERT_EQ(0, buf[i]);
	OK(close(fd));
}

/* Offset, length and memory that are not aligned: refused, or right. */
TEST_F(dir, unaligned)
{
	static const struct { int mem, off, len; } odd[] = {
		{ 0, 512, 512 }, { 0, 0, 100 }, { 0, 1, 4096 }, { 1, 0, 4096 }, { 8, 4096, 8192 },
		{ 3, 777, 12345 }, { 100, 4095, 2 }, { 512, 512, 1536 }, { 1, 5, 200001 },
	};
	char *buf = aligned(MIB);
	struct stat st;
	int fd, served = 0;

	OK(make_file("f", 300000, 4));
	OK(make_file("w", 300000, 4));
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		char *p = buf + odd[i].mem;
		ssize_t n;

		fd = open("f", O_RDONLY | O_DIRECT);
		OK(fd);
		memset(buf, 0x44, MIB);
		n = pread(fd, p, odd[i].len, odd[i].off);
		if (n < 0) {
			ASSERT_EQ(EINVAL, errno);
		} else {
			ASSERT_EQ(odd[i].len, n);
			ASSERT_EQ(-1, mismatch(p, n, odd[i].off, 4));
			ASSERT_EQ(0x44, p[n]);
			if (odd[i].mem)
				ASSERT_EQ(0x44, p[-1]);
			served++;
		}
		OK(close(fd));

		fd = open("w", O_RDWR | O_DIRECT);
		OK(fd);
		fill(p, odd[i].len, odd[i].off, 5);
		n = pwrite(fd, p, odd[i].len, odd[i].off);
		if (n < 0) {
			ASSERT_EQ(EINVAL, errno);
		} else {
			ASSERT_EQ(odd[i].len, n);
			OK(close(fd));
			fd = open("w", O_RDONLY);
			OK(fd);
			memset(buf, 0, MIB);
			ASSERT_EQ(odd[i].len, pread(fd, p, odd[i].len, odd[i].off));
			ASSERT_EQ(-1, mismatch(p, n, odd[i].off, 5));
		}
		OK(close(fd));
		OK(stat("w", &st));
		ASSERT_EQ(300000, st.st_size);
		OK(make_file("w", 300000, 4));
	}
	TH_LOG("%d of %zu unaligned reads served, the others refused with EINVAL", served, ARRAY_SIZE(odd));
}

/* Each way of writing is seen at once by each way of reading. */
TEST_F(dir, coherence)
{
	const size_t len = 8 * ALIGN;
	char *buf = aligned(len), *map;
	int d = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644), b;

	OK(d);
	b = open("f", O_RDWR);
	OK(b);
	OK(ftruncate(b, len));
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0);
	ASSERT_NE(MAP_FAILED, map);
	for (int round = 0; round < 20; round++) {
		int writer = round % 3;

		fill(buf, len, 0, round);
		if (writer < 2)
			ASSERT_EQ(len, pwrite(writer ? d : b, buf, len, 0));
		if (writer == 2)
			memcpy(map, buf, len);
		memset(buf, 0, len);
		ASSERT_EQ(len, pread(d, buf, len, 0));
		ASSERT_EQ(-1, mismatch(buf, len, 0, round));
		memset(buf, 0, len);
		ASSERT_EQ(len, pread(b, buf, len, 0));
		ASSERT_EQ(-1, mismatch(buf, len, 0, round));
		ASSERT_EQ(-1, mismatch(map, len, 0, round));
	}
	/* a direct write into the middle of dirty pages keeps the rest of them */
	fill(buf, len, 0, 100);
	ASSERT_EQ(len, pwrite(b, buf, len, 0));
	fill(buf, ALIGN, 2 * ALIGN, 101);
	ASSERT_EQ(ALIGN, pwrite(d, buf, ALIGN, 2 * ALIGN));
	OK(fsync(b));
	OK(munmap(map, len));
	OK(close(b));
	OK(close(d));
	OK(remount(self->path));
	b = open("f", O_RDONLY);
	OK(b);
	ASSERT_EQ(len, pread(b, buf, len, 0));
	ASSERT_EQ(-1, mismatch(buf, 2 * ALIGN, 0, 100));
	ASSERT_EQ(-1, mismatch(buf + 2 * ALIGN, ALIGN, 2 * ALIGN, 101));
	ASSERT_EQ(-1, mismatch(buf + 3 * ALIGN, len - 3 * ALIGN, 3 * ALIGN, 100));
	OK(close(b));
}

/* Memory that is itself a mapping of the file, and memory that is read-only. */
TEST_F(dir, odd_memory)
{
	char *map, *ro;
	int d, b;

	OK(make_file("f", 4 * ALIGN, 6));
	OK(make_file("g", 4 * ALIGN, 7));
	d = open("f", O_RDWR | O_DIRECT);
	OK(d);
	b = open("g", O_RDWR);
	OK(b);
	map = mmap(NULL, 4 * ALIGN, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(2 * ALIGN, pread(d, map, 2 * ALIGN, 0));	/* into another file's pages */
	ASSERT_EQ(-1, mismatch(map, 2 * ALIGN, 0, 6));
	ASSERT_EQ(ALIGN, pwrite(d, map + 3 * ALIGN, ALIGN, 3 * ALIGN));
	OK(munmap(map, 4 * ALIGN));
	OK(close(b));
	ro = mmap(NULL, ALIGN, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FAILS(EFAULT, pread(d, ro, ALIGN, 0));
	OK(munmap(ro, ALIGN));
	FAILS(EFAULT, pwrite(d, ro, ALIGN, 0));			/* not mapped any more */
	OK(close(d));
	b = open("g", O_RDONLY);
	ro = aligned(4 * ALIGN);
	ASSERT_EQ(4 * ALIGN, pread(b, ro, 4 * ALIGN, 0));
	ASSERT_EQ(-1, mismatch(ro, 2 * ALIGN, 0, 6));
	ASSERT_EQ(-1, mismatch(ro + 2 * ALIGN, 2 * ALIGN, 2 * ALIGN, 7));
	OK(close(b));
}

/* ---- depth ---- */

#define BLOCKS 2048		/* of ALIGN bytes */
#define REQUESTS 3000

struct engine {
	io_context_t aio;
	struct io_uring ring;
	bool uring;
	unsigned int inflight;
};

static int submit(struct engine *e, bool write, int fd, void *buf, long off, long slot)
{
	struct iocb cb, *cbs[1] = { &cb };
	struct io_uring_sqe *sqe;

	e->inflight++;
	if (e->uring) {
		sqe = io_uring_get_sqe(&e->ring);
		if (write)
			io_uring_prep_write(sqe, fd, buf, ALIGN, off);
		else
			io_uring_prep_read(sqe, fd, buf, ALIGN, off);
		io_uring_sqe_set_data(sqe, (void *)slot);
		return io_uring_submit(&e->ring) == 1 ? 0 : -1;
	}
	if (write)
		io_prep_pwrite(&cb, fd, buf, ALIGN, off);
	else
		io_prep_pread(&cb, fd, buf, ALIGN, off);
	cb.data = (void *)slot;
	return io_submit(e->aio, 1, cbs) == 1 ? 0 : -1;
}

/* The slot of a request that has ended, its result in @res. */
static long complete(struct engine *e, long *res)
{
	struct io_uring_cqe *cqe;
	struct io_event ev;
	long slot;

	e->inflight--;
	if (e->uring) {
		if (io_uring_wait_cqe(&e->ring, &cqe))
			return -1;
		*res = cqe->res;
		slot = (long)io_uring_cqe_get_data(cqe);
		io_uring_cqe_seen(&e->ring, cqe);
		return slot;
	}
	if (io_getevents(e->aio, 1, 1, &ev, NULL) != 1)
		return -1;
	*res = ev.res;
	return (long)ev.data;
}

static int engine_init(struct engine *e, bool uring)
{
	memset(e, 0, sizeof(*e));
	e->uring = uring;
	if (uring)
		return io_uring_queue_init(DEPTH, &e->ring, 0);
	return io_setup(DEPTH, &e->aio);
}

static void engine_exit(struct engine *e)
{
	if (e->uring)
		io_uring_queue_exit(&e->ring);
	else
		io_destroy(e->aio);
}

/*
 * 64 in flight at every moment, reads and writes mixed, every block with the number of its last write.
 * A block has at most one request in flight, so what a read has to return is known.
 */
static void deep(struct __test_metadata *_metadata, bool uring, int flags)
{
	static unsigned int version[BLOCKS];
	static bool busy[BLOCKS];
	struct { long block; unsigned int version; bool write; } slot[DEPTH];
	char *buf = aligned(DEPTH * ALIGN), *one;
	unsigned int free_slots[DEPTH], nfree = DEPTH, seed = 1, started = 0;
	struct engine e;
	int fd = open("f", O_RDWR | O_CREAT | flags, 0644);

	OK(fd);
	ASSERT_EQ(0, engine_init(&e, uring));
	one = malloc(ALIGN);
	OK(make_file("f", BLOCKS * ALIGN, 0));
	for (unsigned int i = 0; i < DEPTH; i++)
		free_slots[i] = i;

	while (started < REQUESTS || e.inflight) {
		long s, res, b;

		while (nfree && started < REQUESTS) {
			do
				b = rand_r(&seed) % BLOCKS;
			while (busy[b]);
			s = free_slots[--nfree];
			busy[b] = true;
			slot[s].block = b;
			slot[s].write = rand_r(&seed) % 2;
			if (slot[s].write)
				fill(buf + s * ALIGN, ALIGN, b * ALIGN, ++version[b]);
			else
				memset(buf + s * ALIGN, 0, ALIGN);
			slot[s].version = version[b];
			OK(submit(&e, slot[s].write, fd, buf + s * ALIGN, b * ALIGN, s));
			started++;
		}
		s = complete(&e, &res);
		ASSERT_LE(0, s);
		ASSERT_EQ(ALIGN, res);
		b = slot[s].block;
		ASSERT_EQ(-1, mismatch(buf + s * ALIGN, ALIGN, b * ALIGN, slot[s].version)) {
			TH_LOG("block %ld, version %u", b, slot[s].version);
		}
		busy[b] = false;
		free_slots[nfree++] = s;
	}
	engine_exit(&e);
	OK(close(fd));
	fd = open("f", O_RDONLY);
	OK(fd);
	for (long b = 0; b < BLOCKS; b++) {
		ASSERT_EQ(ALIGN, pread(fd, one, ALIGN, b * ALIGN));
		ASSERT_EQ(-1, mismatch(one, ALIGN, b * ALIGN, version[b]));
	}
	OK(close(fd));
	free(one);
}

TEST_F(dir, libaio_depth_64)
{
	deep(_metadata, false, O_DIRECT);
}

TEST_F(dir, io_uring_depth_64)
{
	deep(_metadata, true, O_DIRECT);
}

TEST_F(dir, io_uring_buffered_depth_64)
{
	deep(_metadata, true, 0);
}

/*
 * A read that io_uring makes again because it could not be made at once (the attributes have expired) finds its first 8 MiB
 * in the page cache and has to wait for the rest: that is a short read, and nobody waits any more.
 */
TEST_F(dir, io_uring_buffered_half_cached)
{
	const size_t len = 24 * MIB, cached = 8 * MIB;
	char *buf = aligned(len);
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(fd);
	OK(io_uring_queue_init(4, &ring, 0));
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM));
	fill(buf, len, 0, 5);
	for (int i = 0; i < 5; i++) {
		size_t done = 0;

		ASSERT_EQ(len, pwrite(fd, buf, len, 0));
		OK(fsync(fd));
		OK(posix_fadvise(fd, cached, 0, POSIX_FADV_DONTNEED));
		sleep(2);	/* more than acregmax */
		while (done < len) {
			memset(buf, 0, len);
			io_uring_prep_read(io_uring_get_sqe(&ring), fd, buf, len - done, done);
			ASSERT_EQ(1, io_uring_submit(&ring));
			OK(io_uring_wait_cqe(&ring, &cqe));
			ASSERT_GT(cqe->res, 0);
			ASSERT_EQ(-1, mismatch(buf, cqe->res, done, 5));
			done += cqe->res;
			io_uring_cqe_seen(&ring, cqe);
		}
		fill(buf, len, 0, 5);
	}
	io_uring_queue_exit(&ring);
	OK(close(fd));
}

/* io_uring with buffers and a file that are registered. */
TEST_F(dir, io_uring_fixed)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct iovec iov = { aligned(32 * ALIGN), 32 * ALIGN };
	char *buf = iov.iov_base;
	int fd;

	OK(make_file("f", 32 * ALIGN, 8));
	fd = open("f", O_RDWR | O_DIRECT);
	OK(fd);
	ASSERT_EQ(0, io_uring_queue_init(32, &ring, 0));
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(0, io_uring_register_files(&ring, &fd, 1));
	for (int i = 0; i < 32; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		io_uring_prep_read_fixed(sqe, 0, buf + i * ALIGN, ALIGN, (31 - i) * ALIGN, 0);
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	ASSERT_EQ(32, io_uring_submit_and_wait(&ring, 32));
	for (int i = 0; i < 32; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&ring, &cqe));
		ASSERT_EQ(ALIGN, cqe->res);
		io_uring_cqe_seen(&ring, cqe);
	}
	for (int i = 0; i < 32; i++)
		ASSERT_EQ(-1, mismatch(buf + i * ALIGN, ALIGN, (31 - i) * ALIGN, 8));
	io_uring_queue_exit(&ring);
	OK(close(fd));
}

/* ---- submitting does not wait for the reply: shown with a server that is stopped ---- */

static pid_t stopped;

static void go_on(void)
{
	if (stopped > 0)
		kill(stopped, SIGCONT);
}

static pid_t stop_server(struct __test_metadata *_metadata)
{
	const char *pid = getenv("WFS_SERVER_PID");
	char path[64], line[256] = "";
	FILE *f;

	if (!pid)
		SKIP(return 0, "WFS_SERVER_PID is not set");
	stopped = atoi(pid);
	snprintf(path, sizeof(path), "/proc/%d/stat", stopped);
	OK(kill(stopped, SIGSTOP));
	while (!strstr(line, ") T")) {		/* until it has stopped */
		f = fopen(path, "r");
		ASSERT_NE(NULL, f);
		ASSERT_NE(NULL, fgets(line, sizeof(line), f));
		fclose(f);
	}
	return stopped;
}

FIXTURE(stop)
{
	FIXTURE_DATA(dir) dir;
};

FIXTURE_SETUP(stop)
{
	dir_setup(_metadata, &self->dir, NULL);
}

FIXTURE_TEARDOWN(stop)
{
	go_on();
	dir_teardown(_metadata, &self->dir, NULL);
}

static void asynchronous(struct __test_metadata *_metadata, bool uring, bool write)
{
	struct timespec zero = {};
	char *buf = aligned(DEPTH * ALIGN);
	struct io_uring_cqe *cqe;
	struct io_event ev;
	struct engine e;
	double start;
	int fd;

	OK(make_file("f", DEPTH * ALIGN, 9));
	fd = open("f", O_RDWR | O_DIRECT);
	OK(fd);
	ASSERT_EQ(ALIGN, pread(fd, buf, ALIGN, 0));
	ASSERT_EQ(0, engine_init(&e, uring));
	if (!stop_server(_metadata))
		return;
	if (write)
		fill(buf, DEPTH * ALIGN, 0, 10);
	start = now();
	for (long i = 0; i < DEPTH; i++)
		OK(submit(&e, write, fd, buf + i * ALIGN, i * ALIGN, i));
	TH_LOG("64 submitted in %.3f s while the server stood still", now() - start);
	ASSERT_EQ(0, uring ? io_uring_peek_cqe(&e.ring, &cqe) == 0 : io_getevents(e.aio, 0, 1, &ev, &zero)) {
		TH_LOG("a request has ended without a server");
	}
	OK(kill(stopped, SIGCONT));
	while (e.inflight) {
		long res;

		ASSERT_LE(0, complete(&e, &res));
		ASSERT_EQ(ALIGN, res);
	}
	engine_exit(&e);
	if (write) {
		OK(check_file("f", DEPTH * ALIGN, 10));
	} else {
		ASSERT_EQ(-1, mismatch(buf, DEPTH * ALIGN, 0, 9));
	}
	OK(close(fd));
}

TEST_F(stop, libaio_reads_are_asynchronous)
{
	asynchronous(_metadata, false, false);
}

TEST_F(stop, libaio_writes_are_asynchronous)
{
	asynchronous(_metadata, false, true);
}

TEST_F(stop, io_uring_reads_are_asynchronous)
{
	asynchronous(_metadata, true, false);
}

TEST_F(stop, io_uring_writes_are_asynchronous)
{
	asynchronous(_metadata, true, true);
}

TEST_HARNESS_MAIN
