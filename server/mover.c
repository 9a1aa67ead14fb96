// SPDX-License-Identifier: GPL-2.0-only
/*
 * mover.c - the ways to bring a file's bytes into a socket.
 *
 * All do the same; which one is fastest is a matter of the kernel, the network card and the file system.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wfsd.h"

#define PIPE_SIZE	(1 << 20)
#define URING_BUFS	8	/* of SCRATCH_SIZE, for each thread */

/* ---- sendfile: the page cache's pages become the socket's, there is no copy ---- */

static ssize_t sendfile_send(struct worker *w, int sock, int fd, off_t *pos, size_t len)
{
	ssize_t n = sendfile(sock, fd, pos, len);

	(void)w;
	return n < 0 ? -errno : n;
}

/* ---- splice: the same by way of a pipe of this thread's own ---- */

struct splice_state {
	int	pipe[2];
};

static void splice_end(struct worker *w)
{
	struct splice_state *s = w->mover;

	if (s) {
		close(s->pipe[0]);
		close(s->pipe[1]);
	}
	free(s);
	w->mover = NULL;
}

static struct splice_state *splice_begin(struct worker *w)
{
	struct splice_state *s = w->mover;

	if (s)
		return s;
	s = malloc(sizeof(*s));
	if (!s || pipe2(s->pipe, O_CLOEXEC | O_NONBLOCK)) {
		free(s);
		return NULL;
	}
	/* With less than that it works too. */
	fcntl(s->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
	w->mover = s;
	return s;
}

static ssize_t splice_send(struct worker *w, int sock, int fd, off_t *pos, size_t len)
{
	struct splice_state *s = splice_begin(w);
	off_t from = *pos;
	ssize_t have, n, done = 0;
	int err = 0;

	if (!s)
		return -ENOMEM;
	have = splice(fd, &from, s->pipe[1], NULL, len, SPLICE_F_NONBLOCK);
	if (have <= 0)
		return have < 0 ? -errno : 0;
	while (done < have) {
		n = splice(s->pipe[0], NULL, sock, NULL, have - done,
			   SPLICE_F_NONBLOCK | ((size_t)have < len ? SPLICE_F_MORE : 0));
		if (n <= 0) {
			err = n < 0 ? errno : EPIPE;
			break;
		}
		done += n;
	}
	*pos += done;
	/* The pipe has what the socket did not take, and is of no use to the next connection. */
	if (done < have)
		splice_end(w);
	return done ? done : -err;
}

/* ---- read: by way of memory ---- */

static ssize_t sent(ssize_t n, off_t *pos)
{
	if (n < 0)
		return -errno;
	*pos += n;
	return n;
}

static ssize_t read_send(struct worker *w, int sock, int fd, off_t *pos, size_t len)
{
	ssize_t have = pread(fd, w->scratch, MIN(len, SCRATCH_SIZE), *pos);

	if (have <= 0)
		return have < 0 ? -errno : 0;
	return sent(send(sock, w->scratch, have, MSG_DONTWAIT | MSG_NOSIGNAL), pos);
}

/* ---- mmap: out of the page cache without a buffer, but with a page table ---- */

static ssize_t mmap_send(struct worker *w, int sock, int fd, off_t *pos, size_t len)
{
	size_t before = *pos % (size_t)sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, before + len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, *pos - before);
	ssize_t n;

	(void)w;
	if (map == MAP_FAILED)
		return -errno;
	n = sent(send(sock, map + before, len, MSG_DONTWAIT | MSG_NOSIGNAL), pos);
	munmap(map, before + len);
	/* The system call finds no page behind the end of the file, or one that can't be read: read(2) knows which. */
	if (n == -EFAULT)
		return read_send(w, sock, fd, pos, len);
	return n;
}

/* ---- uring: read and sent by one system call, and the network card's DMA empties the buffer ---- */

/**
 * struct uring_state - a thread's ring
 * @bufs: URING_BUFS of SCRATCH_SIZE; mapped, so that the kernel's references outlive their end
 * @busy: buffers whose bytes the network still has
 * @zero_copy: the kernel can send without a copy
 */
struct uring_state {
	struct io_uring	ring;
	char		*bufs;
	unsigned int	busy;
	bool		zero_copy;
};

enum { URING_READ, URING_SEND };	/* 256 times that and the buffer's number is user_data */

static void uring_end(struct worker *w)
{
	struct uring_state *s = w->mover;

	if (s) {
		io_uring_queue_exit(&s->ring);
		munmap(s->bufs, URING_BUFS * SCRATCH_SIZE);
	}
	free(s);
	w->mover = NULL;
}

static int uring_begin(struct worker *w)
{
	struct uring_state *s = w->mover;
	struct io_uring_probe *probe;
	int err;

	if (s)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->bufs = mmap(NULL, URING_BUFS * SCRATCH_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	err = s->bufs == MAP_FAILED ? -ENOMEM : io_uring_queue_init(4 * URING_BUFS, &s->ring, 0);
	if (err) {
		if (s->bufs != MAP_FAILED)
			munmap(s->bufs, URING_BUFS * SCRATCH_SIZE);
		free(s);
		return err;
	}
	probe = io_uring_get_probe_ring(&s->ring);
	s->zero_copy = probe && io_uring_opcode_supported(probe, IORING_OP_SEND_ZC);
	io_uring_free_probe(probe);
	w->mover = s;
	return 0;
}

/* Take what has completed; results of the two operations go to @res. */
static void uring_reap(struct uring_state *s, int res[2], unsigned int *left)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&s->ring, &cqe)) {
		unsigned int op = cqe->user_data / 256, buf = cqe->user_data % 256;

		/* Of a send without a copy there are two: it is done, and the network needs the buffer no more. */
		if (op == URING_SEND && !(cqe->flags & IORING_CQE_F_MORE))
			s->busy &= ~(1u << buf);
		if (!(cqe->flags & IORING_CQE_F_NOTIF)) {
			res[op] = cqe->res;
			--*left;
		}
		io_uring_cqe_seen(&s->ring, cqe);
	}
}

static int uring_submit(struct uring_state *s, unsigned int n, int res[2])
{
	int err = 0;

	res[0] = res[1] = -ECANCELED;
	while (n) {
		err = io_uring_submit_and_wait(&s->ring, 1);
		if (err < 0 && err != -EINTR)
			return err;
		uring_reap(s, res, &n);
	}
	return 0;
}

static ssize_t uring_send(struct worker *w, int sock, int fd, off_t *pos, size_t len)
{
	struct uring_state *s;
	struct io_uring_sqe *sqe;
	unsigned int buf, left = 0;
	int res[2], err;
	char *data;

	err = uring_begin(w);
	if (err)
		return err;
	s = w->mover;
	uring_reap(s, res, &left);
	if (s->busy == (1u << URING_BUFS) - 1)
		return read_send(w, sock, fd, pos, len);
	buf = __builtin_ctz(~s->busy);
	data = s->bufs + (size_t)buf * SCRATCH_SIZE;
	len = MIN(len, SCRATCH_SIZE);

	sqe = io_uring_get_sqe(&s->ring);
	io_uring_prep_read(sqe, fd, data, len, *pos);
	sqe->user_data = URING_READ * 256 + buf;
	sqe->flags |= IOSQE_IO_LINK;
	for (;;) {
		s->busy |= 1u << buf;
		sqe = io_uring_get_sqe(&s->ring);
		if (s->zero_copy)
			io_uring_prep_send_zc(sqe, sock, data, len, MSG_DONTWAIT | MSG_NOSIGNAL, 0);
		else
			io_uring_prep_send(sqe, sock, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		sqe->user_data = URING_SEND * 256 + buf;
		err = uring_submit(s, io_uring_sq_ready(&s->ring), res);
		if (err)
			return err;
		/* After a short read, at the file's end, the send was called off. */
		if (res[1] != -ECANCELED)
			break;
		if (res[0] <= 0)
			return res[0];
		len = res[0];
	}
	if (res[1] < 0)
		return res[1];
	*pos += res[1];
	return res[1];
}

/* ---- the table ---- */

static const struct mover movers[] = {
	{ .name = "sendfile",	.send = sendfile_send },
	{ .name = "splice",	.send = splice_send,	.end = splice_end },
	{ .name = "read",	.send = read_send },
	{ .name = "mmap",	.send = mmap_send },
	{ .name = "uring",	.send = uring_send,	.begin = uring_begin,	.end = uring_end },
};

const struct mover *mover = &movers[0];

/**
 * mover_select - --mover
 *
 * Return: 0, -ENOENT when there is none of that name, or why it can't be used here.
 */
int mover_select(const char *name)
{
	struct worker w = { };
	int err = 0;

	for (size_t i = 0; i < sizeof(movers) / sizeof(movers[0]); i++) {
		if (strcmp(movers[i].name, name))
			continue;
		mover = &movers[i];
		if (mover->begin)
			err = mover->begin(&w);
		if (!err && mover->end)
			mover->end(&w);
		return err;
	}
	return -ENOENT;
}
