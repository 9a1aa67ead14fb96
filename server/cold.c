// SPDX-License-Identifier: GPL-2.0-only
/*
 * cold.c - data that is not in the page cache: threads that wait for the disk, so that no loop does.
 *
 * A READ of data that is in the page cache is answered where it is read.  Any other is handed to a thread
 * of the pool here, which brings the data into the page cache (or, when it is little, into memory) and then
 * queues the reply, for the loop to send.  Meanwhile the loop goes on, with the same connection too: replies
 * need not come in the order of the requests.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "wfsd.h"

#define THREADS_MAX	64		/* requests that the disk has at once */

#define AHEAD_MAX	(8u << 20)	/* bytes that a stream is read ahead; 4 ms of 2 GB/s */
#define AHEAD_NEAR	(4u << 20)	/* a stream's READs come out of order, by up to that */
#define AHEAD_SECONDS	2		/* after the last cold data of a file its streams are looked for */

/* cachestat(2), which the C library does not know: Linux 6.5. */
#ifndef SYS_cachestat
#define SYS_cachestat	451
#endif

struct cache_range {
	uint64_t	off, len;
};

struct cache_stat {
	uint64_t	cached, dirty, writeback, evicted, recently_evicted;	/* pages */
};

/**
 * struct job - something that the disk is needed for
 * @conn: who waits, and is busy meanwhile; NULL when nobody does: reading ahead
 * @output: for the file's bytes at the head of the connection's output, instead of a READ
 * @data: where the bytes of the READ go; NULL: just into the page cache
 */
struct job {
	TAILQ_ENTRY(job)	list;
	struct conn		*conn;
	struct file		*file;
	off_t			offset;
	size_t			len;
	bool			output;
	uint16_t		slot;
	uint32_t		seq;
	char			*data;
};

struct pool_thread {
	struct cred	cred;
	char		scratch[SCRATCH_SIZE];
};

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;	/* these six, and sessions' queues */
static pthread_cond_t pool_wake = PTHREAD_COND_INITIALIZER;
static TAILQ_HEAD(, cold_queue) queues = TAILQ_HEAD_INITIALIZER(queues);	/* with jobs, in turn */
static struct cold_queue nobodys = { .jobs = TAILQ_HEAD_INITIALIZER(nobodys.jobs) };	/* reading ahead */
static unsigned int njobs, nthreads, nidle;

static bool in_memory;			/* the export has no disk; does not change once there are threads */
static atomic_bool has_nowait = true;	/* its file system knows RWF_NOWAIT */
static atomic_bool has_cachestat = true;

/* ---- is it there? ---- */

/*
 * Are all pages of it in the page cache?  Some may still be on their way from the disk.  The kernel tells only
 * who could write the file, which is a matter of the credentials that this thread happens to have.
 */
static bool cached(struct cred *cred, int fd, uint64_t offset, uint64_t len)
{
	const uint64_t page = sysconf(_SC_PAGESIZE);
	struct cache_range range = { offset, len };
	struct cache_stat st;

	if (!atomic_load_explicit(&has_cachestat, memory_order_relaxed))
		return true;
	if (syscall(SYS_cachestat, fd, &range, &st, 0)) {
		if (errno == EPERM && cred->uid) {
			cred_root(cred);
			return cached(cred, fd, offset, len);
		}
		atomic_store(&has_cachestat, false);
		return true;
	}
	return st.cached == (offset + len - 1) / page - offset / page + 1;
}

/**
 * cold_pread - pread(2) that does not wait for a disk
 *
 * Return: bytes, which are less than @len also when the rest is not in the page cache; 0 at the file's end; -EAGAIN
 * when nothing is there; another -errno.
 */
ssize_t cold_pread(struct cred *cred, int fd, void *buf, size_t len, off_t offset)
{
	struct iovec iov = { buf, len };
	ssize_t n;

	if (atomic_load_explicit(&has_nowait, memory_order_relaxed)) {
		n = preadv2(fd, &iov, 1, offset, RWF_NOWAIT);
		if (n >= 0 || errno != EOPNOTSUPP)
			return n < 0 ? -errno : n;
		atomic_store(&has_nowait, false);
	}
	if (!in_memory && !cached(cred, fd, offset, len))
		return -EAGAIN;
	n = pread(fd, buf, len, offset);
	return n < 0 ? -errno : n;
}

/**
 * cold_has - can these bytes be sent without waiting for a disk?
 *
 * The last byte is read, since that tells two things that cachestat(2) does not: that the file is so long (a caller
 * needs no fstat(2)), and that reading it in, which is done in this order, has come so far.  Without cachestat(2)
 * it is all there is; what that overlooks the watchdog sees.
 *
 * Return: true if the file has all of them and they are at hand.
 */
bool cold_has(struct cred *cred, int fd, off_t offset, size_t len)
{
	char last;

	return (in_memory || cached(cred, fd, offset, len)) &&
	       cold_pread(cred, fd, &last, 1, offset + len - 1) == 1;
}

/* ---- the pool ---- */

/*
 * Read it into @buf, or, with none, just into the page cache.  All of it is asked for before any of it is waited for.
 * Return: bytes, fewer than @len at the file's end; or -errno.
 */
static ssize_t fetch(struct pool_thread *t, int fd, char *buf, off_t offset, size_t len)
{
	size_t done = 0;
	ssize_t n;

	readahead(fd, offset, len);
	while (done < len) {
		n = pread(fd, buf ? buf + done : t->scratch, buf ? len - done : MIN(len - done, SCRATCH_SIZE),
			  offset + done);
		if (n <= 0)
			return n < 0 ? -errno : (ssize_t)done;
		done += n;
	}
	return done;
}

static void finish_read(struct pool_thread *t, struct job *job)
{
	struct reply rep;
	ssize_t n;

	n = fetch(t, job->file->fd, job->data, job->offset, job->len);
	rep.body_len = 0;
	rep.info = 0;
	rep.data_len = MAX(n, 0);
	rep.data = job->data;
	rep.file = job->data || n <= 0 ? NULL : file_ref(job->file);
	rep.offset = job->offset;
	stat_add(&stats.bytes_read, rep.data_len);
	conn_unpark(job->conn, WFS_OP_READ, job->slot, job->seq, MIN(n, 0), &rep);
}

static void cold_now(struct file *file)
{
	atomic_store_explicit(&file->cold_until, now_seconds() + AHEAD_SECONDS, memory_order_relaxed);
}

static void read_ahead(struct pool_thread *t, struct job *job)
{
	if (cached(&t->cred, job->file->fd, job->offset, job->len))
		return;
	cold_now(job->file);
	readahead(job->file->fd, job->offset, job->len);
	stat_add(&stats.cold_ahead, job->len);
}

static void run(struct pool_thread *t, struct job *job)
{
	if (!job->conn) {
		read_ahead(t, job);
	} else if (job->output) {
		fetch(t, job->file->fd, NULL, job->offset, job->len);
		conn_output_warm(job->conn);
	} else {
		finish_read(t, job);
	}
	file_put(job->file);
	free(job);
}

static struct cold_queue *queue_of(const struct job *job)
{
	return job->conn ? &job->conn->session->cold : &nobodys;
}

/* Under pool_lock.  Sessions take turns: one that asks for much does not hold up one that asks for little. */
static struct job *next_job(void)
{
	struct cold_queue *q = TAILQ_FIRST(&queues);
	struct job *job;

	if (!q)
		return NULL;
	job = TAILQ_FIRST(&q->jobs);
	TAILQ_REMOVE(&q->jobs, job, list);
	TAILQ_REMOVE(&queues, q, list);
	if (!TAILQ_EMPTY(&q->jobs))
		TAILQ_INSERT_TAIL(&queues, q, list);
	njobs--;
	return job;
}

static void *pool_main(void *arg)
{
	struct pool_thread *t = arg;
	struct job *job;

	/* A worker started this thread, when it was somebody, on its node. */
	t->cred.uid = -1;
	cred_root(&t->cred);
	thread_near(-1);

	pthread_mutex_lock(&pool_lock);
	for (;;) {
		nidle++;
		while (!njobs && (thread_idle(&pool_wake, &pool_lock) || nthreads == 1))
			;
		nidle--;
		job = next_job();
		if (!job)
			break;
		pthread_mutex_unlock(&pool_lock);
		run(t, job);
		pthread_mutex_lock(&pool_lock);
	}
	nthreads--;
	pthread_mutex_unlock(&pool_lock);
	free(t);
	return NULL;
}

/* Under pool_lock. */
static int add_thread(void)
{
	struct pool_thread *t = malloc(sizeof(*t));
	int err = t ? thread_start(pool_main, t) : ENOMEM;

	if (err)
		free(t);
	else
		nthreads++;
	return err;
}

/* The file's reference is the job's. */
static bool queue(const struct job *what)
{
	struct job *job = malloc(sizeof(*job));

	if (!job)
		return false;
	*job = *what;
	file_ref(job->file);
	pthread_mutex_lock(&pool_lock);
	if (TAILQ_EMPTY(&queue_of(job)->jobs))
		TAILQ_INSERT_TAIL(&queues, queue_of(job), list);
	TAILQ_INSERT_TAIL(&queue_of(job)->jobs, job, list);
	/* When there can be no other thread the job waits for one of those that there are. */
	if (++njobs > nidle && nthreads < THREADS_MAX)
		add_thread();
	pthread_cond_signal(&pool_wake);
	pthread_mutex_unlock(&pool_lock);
	return true;
}

/**
 * cold_read - let a READ wait for its data
 * @op: of its reply, data_len is what is to be read; and if there is data it is read into that, which is taken over
 *
 * Return: OP_PARKED or -ENOMEM.
 */
int cold_read(struct op_ctx *op, struct file *file)
{
	const struct request *rq = op->rq;
	struct job job = { .conn = op->asker, .file = file, .offset = rq->offset, .len = op->rep->data_len,
			   .slot = rq->slot, .seq = rq->seq, .data = op->rep->data };

	cold_now(file);
	atomic_fetch_add(&job.conn->cold, 1);
	if (!queue(&job)) {
		atomic_fetch_sub(&job.conn->cold, 1);
		return -ENOMEM;
	}
	op->rep->data = NULL;
	stat_add(&stats.cold_reads, 1);
	return OP_PARKED;
}

/* The READ is part of one of the file's streams; if that has to be read ahead: how far, and @from where. */
static size_t stream_goes_on(struct file *file, uint64_t offset, size_t len, uint64_t *from)
{
	struct file_stream *s = NULL;
	uint64_t want;

	for (unsigned int i = 0; i < FILE_STREAMS && !s; i++)
		if (file->streams[i].bytes && offset <= file->streams[i].next + AHEAD_NEAR &&
		    offset + AHEAD_NEAR >= file->streams[i].next)
			s = &file->streams[i];
	if (!s) {
		s = &file->streams[file->oldest_stream++ % FILE_STREAMS];
		*s = (struct file_stream){ .start = offset, .next = offset + len, .bytes = len };
		return 0;
	}
	s->bytes += len;
	s->start = MIN(s->start, offset);
	if (offset + len <= s->next)
		return 0;
	s->next = offset + len;
	/* Random reads that happen to be near leave most of the way out. */
	if (s->bytes < (s->next - s->start) / 2)
		return 0;
	/* The longer it has been one, the farther; in pieces of half of that. */
	want = s->next + MIN(s->bytes, AHEAD_MAX);
	*from = MAX(s->ahead, s->next);
	if (want < *from + MIN(s->bytes, AHEAD_MAX) / 2)
		return 0;
	s->ahead = want;
	return want - *from;
}

/**
 * cold_stream - a READ came: if it belongs to a sequential stream of a file that comes from the disk, read ahead
 *
 * The kernel's own readahead knows an open file by the order of its reads.  Here several clients, connections and
 * loops read through one descriptor, and even one client's reads come in any order, since it has several under way.
 * And it is meant for a reader who waits: its window (read_ahead_kb, 128 KiB) is less than a client asks for at once.
 */
void cold_stream(struct file *file, uint64_t offset, size_t len)
{
	struct job job = { .file = file };
	uint64_t from = 0;

	if (!len || atomic_load_explicit(&file->cold_until, memory_order_relaxed) < now_seconds())
		return;
	pthread_mutex_lock(&file->stream_lock);
	job.len = stream_goes_on(file, offset, len, &from);
	pthread_mutex_unlock(&file->stream_lock);
	job.offset = from;
	if (job.len)
		queue(&job);
}

/**
 * cold_output - let a connection's output wait for what comes next in it; conn_output_warm() tells of it
 *
 * Context: under the loop's lock; the connection counts as busy if true is returned.
 * Return: false when there is no memory.
 */
bool cold_output(struct conn *conn, struct file *file, off_t offset, size_t len)
{
	struct job job = { .conn = conn, .file = file, .offset = offset, .len = len, .output = true };

	if (!queue(&job))
		return false;
	stat_add(&stats.cold_output, 1);
	return true;
}

void cold_counts(unsigned int *waiting, unsigned int *threads)
{
	pthread_mutex_lock(&pool_lock);
	*waiting = njobs;
	*threads = nthreads;
	pthread_mutex_unlock(&pool_lock);
}

void cold_init(void)
{
	struct statfs sfs;
	int err;

	in_memory = !fstatfs(cfg.root_fd, &sfs) && (sfs.f_type == TMPFS_MAGIC || sfs.f_type == RAMFS_MAGIC);
	pthread_mutex_lock(&pool_lock);
	err = add_thread();
	pthread_mutex_unlock(&pool_lock);
	if (err)
		die("starting a thread: %s", strerror(err));
}
