// SPDX-License-Identifier: GPL-2.0-only
/*
 * conn.c - a connection: bytes in, requests run, replies out.
 *
 * Everything here runs under the loop's lock, but for what stands between loop_leave() and
 * loop_enter().  There the connection may change: others may serve its next requests, or kill it.
 * It stays in memory as long as it is busy.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wfsd.h"

#define IN_SIZE		16384		/* holds a frame, or a WRITE's and a page of its payload */
#define PAGE		4096u
#define CHUNK_ROOM	(PAGE - sizeof(struct chunk))
#define COPY_MAX	1024		/* data up to here shares a chunk with the header */
#define REPLY_ROOM	(sizeof(struct wfs_rep_hdr) + WFS_BODY_MAX + COPY_MAX)
#define SEND_MAX	(256u << 10)	/* of a file in one call */
#define SEND_IOVS	64

#define TURN_REQUESTS	32		/* requests or pieces of payload, before others are served */
#define TURN_BYTES	(2u << 20)
#define FLUSH_REPLIES	16		/* replies that are sent together */
#define FLUSH_BYTES	(64u << 10)	/* bytes */

#define OUT_REPLIES	32		/* more than that unsent or waiting for the disk: no further request is begun */
#define OUT_BYTES	(256u << 10)
#define OUT_BYTES_ALL	(256ul << 20)	/* of all connections, then only one reply for each */
#define CONN_STUCK	8

#define SHED_SECONDS	3	/* without a reply taken, while others wait for memory */
#define HELLO_SECONDS	10
#define LINGER_SECONDS	3
#define HELLO_WAIT	2	/* seconds that a HELLO may wait for the old connection to end */

_Static_assert(sizeof(struct wfs_req_hdr) + WFS_GROUPS_MAX * 4 + WFS_BODY_MAX <= IN_SIZE, "frame");
_Static_assert(sizeof(struct wfs_req_hdr) + WFS_GROUPS_MAX * 4 + sizeof(struct wfs_write_req) + PAGE
	       <= IN_SIZE, "frame and a page");

/* Its events come to the loop, what is the case already at once. */
int conn_watch(struct conn *c, struct loop *loop)
{
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = c,
	};

	return epoll_ctl(loop->epfd, EPOLL_CTL_ADD, c->sock, &ev);
}

struct conn *conn_new(struct loop *loop, int sock, const char *peer)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->loop = loop;
	c->sock = sock;
	c->cpu = -1;
	c->writable = true;
	TAILQ_INIT(&c->out);
	snprintf(c->peer, sizeof(c->peer), "%s", peer);
	if (conn_watch(c, loop)) {
		free(c);
		return NULL;
	}
	LIST_INSERT_HEAD(&loop->conns, c, all);
	loop->nconns++;
	loop_timed(c, HELLO_SECONDS);
	return c;
}

static void free_chunk(struct conn *c, struct chunk *ch)
{
	size_t bytes = sizeof(*ch) + ch->room;

	TAILQ_REMOVE(&c->out, ch, list);
	c->out_bytes -= bytes;
	atomic_fetch_sub_explicit(&stats.out_bytes, bytes, memory_order_relaxed);
	c->out_replies -= ch->replies;
	file_put_later(ch->file);
	free(ch->data);
	free(ch);
}

/* Nobody works for a dead connection any more. */
static void release(struct conn *c)
{
	while (!TAILQ_EMPTY(&c->out))
		free_chunk(c, TAILQ_FIRST(&c->out));
	free(c->in);
	free(c->pay_blob);
	file_put_later(c->pay_file);
	if (c->session)
		session_leave(c->session, c->index);
	close(c->sock);
	LIST_REMOVE(c, all);
	loop_conn_gone(c->loop);
	LIST_INSERT_HEAD(&c->loop->dead, c, all);
}

static void put(struct conn *c)
{
	if (!--c->busy && c->state == CONN_DEAD)
		release(c);
}

static void unpark_all(struct conn *c);

void conn_kill(struct conn *c)
{
	struct loop *l = c->loop;

	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_DEAD;
	c->busy++;
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, c->sock, NULL);
	/* Another thread may be in the middle of sending: the socket stays until it is back. */
	shutdown(c->sock, SHUT_RDWR);
	if (c->queued)
		TAILQ_REMOVE(&l->runq, c, runq);
	if (c->throttled)
		TAILQ_REMOVE(&l->throttled, c, throttled_link);
	loop_untimed(c);
	c->queued = c->throttled = false;
	unpark_all(c);
	put(c);
}

/* Around all that is done for a connection without the lock. */
static void leave(struct worker *w, struct conn *c, bool slow)
{
	c->busy++;
	loop_leave(w, slow);
}

static void enter(struct worker *w, struct conn *c)
{
	loop_enter(w);
	put(c);
}

void conn_event(struct conn *c, uint32_t events)
{
	if (c->state == CONN_DEAD)
		return;
	if (events & (EPOLLHUP | EPOLLERR)) {
		conn_kill(c);
		return;
	}
	if (events & EPOLLIN)
		c->readable = true;
	if (events & EPOLLOUT)
		c->writable = true;
	if (events & EPOLLRDHUP)
		c->eof = c->readable = true;
	loop_queue(c);
}

/* ---- output ---- */

/*
 * Before a request is begun there has to be memory for its reply: when it is done it is too late to say
 * that there is none.  The spare chunks are the worker's and are used only then.  When they can't be had
 * the request waits.
 */
static bool reserve(struct worker *w, struct conn *c)
{
	static const size_t rooms[] = { 0, REPLY_ROOM };

	for (unsigned int i = 0; i < 2; i++) {
		if (w->spare[i])
			continue;
		w->spare[i] = malloc(sizeof(*w->spare[i]) + rooms[i]);
		if (!w->spare[i]) {
			loop_no_memory(c);
			return false;
		}
	}
	return true;
}

static struct chunk *new_chunk(struct worker *w, struct conn *c, size_t room)
{
	struct chunk *ch = malloc(sizeof(*ch) + room);
	size_t bytes;

	if (!ch) {
		if (!w)
			return NULL;
		ch = w->spare[room > 0];
		w->spare[room > 0] = NULL;
		room = room ? REPLY_ROOM : 0;
	}
	bytes = sizeof(*ch) + room;
	*ch = (struct chunk){ .room = room };
	TAILQ_INSERT_TAIL(&c->out, ch, list);
	c->out_bytes += bytes;
	stat_add(&stats.out_bytes, bytes);
	return ch;
}

static struct chunk *chunk_for(struct worker *w, struct conn *c, size_t len)
{
	struct chunk *ch = TAILQ_LAST(&c->out, chunks);

	if (ch && !ch->data && !ch->file && ch->room - ch->end >= len)
		return ch;
	return new_chunk(w, c, MAX(len, CHUNK_ROOM));
}

static struct chunk *append(struct worker *w, struct conn *c, const struct wfs_rep_hdr *h, struct reply *rep)
{
	bool copy = rep->data && rep->data_len <= COPY_MAX;
	uint32_t body_len = le32toh(h->body_len);
	struct chunk *ch;

	ch = chunk_for(w, c, sizeof(*h) + body_len + (copy ? rep->data_len : 0));
	if (!ch)
		return NULL;
	memcpy(ch->buf + ch->end, h, sizeof(*h));
	ch->end += sizeof(*h);
	memcpy(ch->buf + ch->end, rep->body, body_len);
	ch->end += body_len;
	if (copy) {
		memcpy(ch->buf + ch->end, rep->data, rep->data_len);
		ch->end += rep->data_len;
	}
	if (!h->data_len || copy)
		return ch;

	ch = new_chunk(w, c, 0);
	if (!ch)
		return NULL;
	if (rep->file) {
		ch->file = rep->file;
		ch->pos = rep->offset;
		ch->left = rep->data_len;
		ch->seen = now_seconds();
		rep->file = NULL;
	} else {
		/* Accounted for as room that the chunk does not have in itself. */
		ch->data = rep->data;
		ch->end = ch->room = rep->data_len;
		c->out_bytes += ch->room;
		stat_add(&stats.out_bytes, ch->room);
		rep->data = NULL;
	}
	return ch;
}

/* Queue the reply to @rq.  @status: 0 or -errno; @w: who has reserved memory for it, or NULL. */
static void answer(struct worker *w, struct conn *c, const struct request *rq, int status, struct reply *rep)
{
	struct wfs_rep_hdr h = {
		.magic = htole32(WFS_MAGIC),
		.op = rq->op,
		.slot = htole16(rq->slot),
		.seq = htole32(rq->seq),
		.status = htole32(errno_to_wire(-status)),
		.info = htole64(rep->info),
	};
	struct chunk *ch;

	stat_add(&stats.requests[rq->op], 1);
	if (status)
		stat_add(&stats.errors[rq->op], 1);
	if (status == -ENOMEM)
		loop_memory_short();
	c->slots[rq->slot / 64] &= ~(1ull << rq->slot % 64);
	if (status) {
		rep->body_len = 0;
		rep->data_len = 0;
		free(rep->data);
		rep->data = NULL;
	}
	if (c->state == CONN_OPEN || c->state == CONN_FINISH) {
		h.body_len = htole32(rep->body_len);
		h.data_len = htole32(rep->data_len);
		ch = append(w, c, &h, rep);
		if (ch) {
			ch->replies++;
			c->out_replies++;
		} else {
			log_limited("%s: no memory for a reply, closing", c->peer);
			conn_kill(c);
		}
	}
	free(rep->data);
	file_put_later(rep->file);
}

/* Answer a request that has waited, which has counted as busy. */
static void unpark(struct conn *c, uint8_t op, uint16_t slot, uint32_t seq, int status, struct reply *rep)
{
	struct request rq;

	rq.op = op;
	rq.slot = slot;
	rq.seq = seq;
	answer(NULL, c, &rq, status, rep);
	loop_queue(c);
	put(c);
}

/* The connection ends: nobody waits any more; who still wants it asks again. */
static void unpark_all(struct conn *c)
{
	struct reply rep = { };
	uint16_t slot;
	uint32_t seq;

	while (lock_abandon(c, &slot, &seq))
		unpark(c, WFS_OP_LOCK, slot, seq, -EAGAIN, &rep);
}

/**
 * conn_unpark - a request that op_run() has parked has its result
 * @rep: its data and file are taken over
 *
 * Context: no lock is held.
 */
void conn_unpark(struct conn *c, uint8_t op, uint16_t slot, uint32_t seq, int status, struct reply *rep)
{
	struct loop *l = c->loop;

	pthread_mutex_lock(&l->lock);
	if (op == WFS_OP_READ)
		atomic_fetch_sub(&c->cold, 1);
	unpark(c, op, slot, seq, status, rep);
	pthread_mutex_unlock(&l->lock);
}

/**
 * conn_output_warm - cold_output() is done
 *
 * Context: no lock is held.
 */
void conn_output_warm(struct conn *c)
{
	struct loop *l = c->loop;

	pthread_mutex_lock(&l->lock);
	c->sending = false;
	loop_queue(c);
	put(c);
	pthread_mutex_unlock(&l->lock);
}

static void socket_full(struct conn *c)
{
	c->writable = false;
	c->full_since = now_seconds();
}

/* Memory is short: close the connection if its client has what there is of it in replies that it does not take. */
void conn_shed(struct conn *c)
{
	if (c->state == CONN_DEAD || c->writable || c->sending || TAILQ_EMPTY(&c->out) ||
	    now_seconds() < c->full_since + SHED_SECONDS)
		return;
	log_limited("%s: takes no replies while memory is short, closing", c->peer);
	conn_kill(c);
}

/* Bytes of all chunks up to the next file. */
static bool send_bytes(struct conn *c)
{
	struct iovec iov[SEND_IOVS];
	struct msghdr msg = { .msg_iov = iov };
	bool more = false;
	struct chunk *ch;
	ssize_t n;

	TAILQ_FOREACH(ch, &c->out, list) {
		if (ch->file || msg.msg_iovlen == SEND_IOVS) {
			more = true;
			break;
		}
		iov[msg.msg_iovlen].iov_base = (ch->data ? ch->data : ch->buf) + ch->start;
		iov[msg.msg_iovlen++].iov_len = ch->end - ch->start;
	}
	/* MSG_MORE: a header leaves in one packet with the file's bytes behind it. */
	n = sendmsg(c->sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
	if (n < 0) {
		if (errno == EAGAIN)
			socket_full(c);
		else
			conn_kill(c);
		return false;
	}
	while (n) {
		uint32_t part;

		ch = TAILQ_FIRST(&c->out);
		part = MIN((size_t)n, ch->end - ch->start);
		ch->start += part;
		n -= part;
		if (ch->start == ch->end)
			free_chunk(c, ch);
	}
	return true;
}

/* The client has taken its time, and there may have been no memory to keep the file's data for so long. */
static bool became_cold(struct worker *w, struct conn *c, struct chunk *ch)
{
	size_t len = MIN(ch->left, SEND_MAX);

	if (now_seconds() <= ch->seen + 1)
		return false;
	ch->seen = now_seconds();
	if (cold_has(&w->cred, ch->file->fd, ch->pos, len))
		return false;
	c->sending = true;
	c->busy++;
	if (cold_output(c, ch->file, ch->pos, len))
		return true;
	c->sending = false;
	c->busy--;
	return false;
}

/*
 * Corked, TCP sends whole packets only.  The kernel gives it a file in pieces of 64 KiB, of which TCP makes a packet of
 * 65160 bytes, and without the cork another one of 376 as soon as something is acknowledged.
 */
static void cork(struct conn *c, bool on)
{
	int value = on;

	if (c->corked == on)
		return;
	c->corked = on;
	setsockopt(c->sock, IPPROTO_TCP, TCP_CORK, &value, sizeof(value));
}

static bool send_file(struct worker *w, struct conn *c)
{
	struct chunk *ch = TAILQ_FIRST(&c->out);
	ssize_t n;

	if (became_cold(w, c, ch)) {
		cork(c, false);
		return false;
	}
	cork(c, true);
	/* Before the call: an event that comes during it must not be forgotten after it. */
	socket_full(c);
	c->sending = true;
	leave(w, c, false);
	n = mover->send(w, c->sock, ch->file->fd, &ch->pos, MIN(ch->left, SEND_MAX));
	enter(w, c);
	c->sending = false;
	if (c->state == CONN_DEAD)
		return false;
	if (n > 0) {
		c->writable = true;
		w->moved += n;
		ch->left -= n;
		if (!ch->left)
			free_chunk(c, ch);
		return true;
	}
	if (n == -EAGAIN)
		return c->writable;
	/*
	 * The header has promised bytes that will not come, as the file has become shorter or can't
	 * be read.  There is no way to say so but to break the connection; the client sends the
	 * request again and gets what is true then.
	 */
	if (n == 0) {
		log_limited("%s: a file shrank while it was sent, closing", c->peer);
	} else if (n != -EPIPE && n != -ECONNRESET) {
		atomic_store(&ch->file->suspect, true);
		log_limited("%s: reading a file: %s, closing", c->peer, strerror(-n));
	}
	conn_kill(c);
	return false;
}

static void flush(struct worker *w, struct conn *c)
{
	struct chunk *ch;

	while (c->state != CONN_DEAD && c->writable && !c->sending && w->moved < TURN_BYTES &&
	       (ch = TAILQ_FIRST(&c->out)))
		if (!(ch->file ? send_file(w, c) : send_bytes(c)))
			break;
	/* the end of a reply is not to wait for the next one */
	ch = TAILQ_FIRST(&c->out);
	if (c->state != CONN_DEAD && (!ch || !ch->file))
		cork(c, false);
}

/* ---- input ---- */

/* Always false, for its callers to return. */
static bool broken(struct conn *c, const char *what)
{
	log_limited("%s: %s, closing", c->peer, what);
	stat_add(&stats.rejected, 1);
	conn_kill(c);
	return false;
}

/* What recv() returned; false when there is nothing more now. */
static bool received(struct conn *c, ssize_t n, size_t room)
{
	if (n > 0) {
		/*
		 * Less than there was room for: it was all.  But the end comes with no other event.
		 */
		if ((size_t)n < room && !c->eof)
			c->readable = false;
		return true;
	}
	if (n < 0 && errno == EAGAIN) {
		c->readable = false;
		return false;
	}
	if (c->in_end > c->in_start)
		return broken(c, "the connection ended within a request");
	conn_kill(c);
	return false;
}

static void compact(struct conn *c)
{
	if (!c->in_start)
		return;
	memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
	c->in_end -= c->in_start;
	c->in_start = 0;
}

static bool receive(struct conn *c)
{
	ssize_t n;

	if (!c->readable)
		return false;
	if (!c->in) {
		c->in = malloc(IN_SIZE);
		if (!c->in) {
			loop_no_memory(c);
			return false;
		}
	}
	compact(c);
	n = recv(c->sock, c->in + c->in_end, IN_SIZE - c->in_end, MSG_DONTWAIT);
	if (!received(c, n, IN_SIZE - c->in_end))
		return false;
	c->in_end += n;
	return true;
}

/* Joins the session, which may make one, without the lock. */
static int join(struct worker *w, struct conn *c, const struct wfs_hello_req *req, uint32_t *flags)
{
	struct session *s = NULL;
	int err;

	c->reading = true;
	leave(w, c, false);
	cred_root(&w->cred);
	err = session_join(req->session, c->index, c->sock, &s, flags);
	loop_enter(w);
	c->session = s;
	c->reading = false;
	if (!--c->busy && c->state == CONN_DEAD) {
		release(c);
		return -EPIPE;
	}
	return err;
}

static int hello(struct worker *w, struct conn *c)
{
	const struct wfs_hello_req *req = &w->rq.hello;
	struct wfs_hello_rep *r = (void *)w->rep.body;
	uint32_t flags;
	int err;

	c->index = le16toh(req->conn);
	err = join(w, c, req, &flags);
	if (err)
		return err;
	c->lim = (struct limits){
		.hello = true,
		.max_read = MIN(le32toh(req->max_read), WFS_IO_MAX),
		.max_write = MIN(le32toh(req->max_write), WFS_IO_MAX),
		.max_inflight = MIN(le32toh(req->max_inflight), INFLIGHT_MAX),
	};
	*r = (struct wfs_hello_rep){
		.version = htole32(WFS_VERSION),
		.export_flags = htole32((cfg.read_only ? WFS_EXPORT_RDONLY : 0) |
					(cfg.root_squash ? WFS_EXPORT_ROOT_SQUASH : 0) |
					(cfg.acl ? WFS_EXPORT_ACL : 0)),
		.features = htole64(WFS_FEAT_NONE),
		.verifier = htole64(verifier_get()),
		.max_read = htole32(c->lim.max_read),
		.max_write = htole32(c->lim.max_write),
		.max_inflight = htole32(c->lim.max_inflight),
		.max_conns = htole32(WFS_CONNS_MAX),
		.anon_uid = htole32(cfg.anon_uid),
		.anon_gid = htole32(cfg.anon_gid),
		.life = htole64(session_life()),
		.lease = htole32(cfg.lease),
		.session_flags = htole32(flags),
	};
	memcpy(r->session, c->session->id, sizeof(r->session));
	w->rep.body_len = sizeof(*r);
	loop_untimed(c);
	return 0;
}

static struct op_ctx op_begin(struct worker *w, struct conn *c, const void *data)
{
	w->rep.body_len = w->rep.data_len = 0;
	w->rep.info = 0;
	w->rep.data = NULL;
	w->rep.file = NULL;
	return (struct op_ctx){ .cred = &w->cred, .session = c->session, .conn = c->index, .asker = c,
				.data = data, .rq = &w->rq, .rep = &w->rep };
}

static void run(struct worker *w, struct conn *c, int err, const void *data)
{
	struct op_ctx op = op_begin(w, c, data);

	/* for what waits; who wakes it may be faster than we are back */
	c->busy++;
	if (!err) {
		leave(w, c, op_slow(&w->rq));
		err = replay_run(&op);
		enter(w, c);
	}
	if (op.broken && c->state != CONN_DEAD)
		broken(c, "request with the number of another");
	if (err == OP_PARKED) {
		if (c->state != CONN_OPEN)
			unpark_all(c);
		return;
	}
	answer(w, c, &w->rq, err, &w->rep);
	put(c);
}

/* More of a payload, into the worker's pipe or scratch, where there are @have bytes; how many it are then. */
static size_t receive_payload(struct worker *w, struct conn *c, bool piped, size_t have, size_t want)
{
	bool empty = true;

	while (have < want && c->readable) {
		ssize_t n = piped ? intake_receive(w, c->sock, want - have) :
			    recv(c->sock, w->scratch + have, want - have, MSG_DONTWAIT);

		/* The pipe may be full: then the socket is asked again after this piece. */
		if (piped && n < 0 && errno == EAGAIN && !empty)
			break;
		/* That a pipe got less does not mean that it was all. */
		if (!received(c, n, piped ? 0 : want - have))
			break;
		have += n;
		empty = false;
	}
	return have;
}

/*
 * The payload of a WRITE goes from the socket to the file in pieces the size of the worker's
 * pipe or scratch, so that memory does not depend on what clients send.  The frame stays in c->in until the
 * last piece.  Pieces end on a page's boundary, lest the file system must read what it is about to
 * overwrite; what is over is kept behind the frame.
 */
static bool write_payload(struct worker *w, struct conn *c)
{
	const struct request *rq = &w->rq;
	struct op_ctx op = op_begin(w, c, NULL);
	bool stable = rq->flags & WFS_WRITE_STABLE;
	bool first = !c->pay_done, last, piped;
	uint64_t pos = rq->offset + c->pay_done;
	struct file *file = c->pay_file;
	int err = c->pay_err;
	uint64_t verifier;
	size_t have, want, keep = 0;

	have = MIN(c->in_end - c->in_start - rq->frame_len, c->pay_left);
	piped = !err && c->pay_left >= INTAKE_MIN && intake_begin(w);
	if (piped && !intake_put(w, c->in + c->in_start + rq->frame_len, have)) {
		intake_drop(w);
		piped = false;
	}
	if (!piped)
		memcpy(w->scratch, c->in + c->in_start + rq->frame_len, have);
	want = MIN(c->pay_left, piped ? INTAKE_SIZE : SCRATCH_SIZE);
	/*
	 * What is in c->in behind the payload are the next requests; then nothing is received here.
	 */
	if (have < c->pay_left)
		c->in_end = c->in_start + rq->frame_len;
	have = receive_payload(w, c, piped, have, want);
	if (c->state == CONN_DEAD) {
		intake_drop(w);
		return false;
	}

	last = have == c->pay_left;
	if (last) {
		if (c->in_end > c->in_start + rq->frame_len)
			c->in_start += rq->frame_len + have;
		else
			c->in_start = c->in_end = 0;
	} else {
		keep = MIN(have, (pos + have) % PAGE);
		have -= keep;
		if (!piped)
			memcpy(c->in + c->in_end, w->scratch + have, keep);
		else if (!have)
			intake_take(w, c->in + c->in_end, keep);
		c->in_end += keep;
		if (!have)
			return false;
		c->reading = true;
	}
	c->pay_left -= have;
	c->pay_done += have;
	w->moved += have;

	/* ours until we are back: the connection may die meanwhile */
	c->pay_file = NULL;
	if (first)
		c->pay_verifier = verifier_get();
	verifier = c->pay_verifier;
	leave(w, c, stable && last);
	if (!err && !file)
		err = write_open(&op, &file);
	if (!err)
		err = write_chunk(&op, file, w, piped, have, pos);
	if (piped && err)
		intake_drop(w);
	if (last) {
		if (!err)
			err = write_done(&op, file, stable, verifier);
		file_put(file);
	}
	enter(w, c);
	if (last) {
		answer(w, c, &w->rq, err, &w->rep);
		return true;
	}
	c->reading = false;
	if (c->state == CONN_DEAD) {
		intake_drop(w);
		file_put_later(file);
		return false;
	}
	/* What is kept has been behind it in the pipe. */
	if (piped && !err)
		intake_take(w, c->in + c->in_end - keep, keep);
	c->pay_file = file;
	c->pay_err = err;
	return true;
}

/* A value of an xattr is small and is gathered. */
static bool xattr_payload(struct worker *w, struct conn *c)
{
	uint32_t len = w->rq.data_len, have;
	char *blob;
	int err;

	if (!c->pay_blob) {
		c->pay_blob = malloc(len);
		if (!c->pay_blob) {
			loop_no_memory(c);
			return false;
		}
	}
	have = MIN(c->in_end - c->in_start - w->rq.frame_len, c->pay_left);
	memcpy(c->pay_blob + c->pay_done, c->in + c->in_start + w->rq.frame_len, have);
	c->pay_done += have;
	c->pay_left -= have;
	if (c->pay_left) {
		c->in_end = c->in_start + w->rq.frame_len;
		while (c->pay_left && c->readable) {
			ssize_t n = recv(c->sock, c->pay_blob + c->pay_done, c->pay_left,
					 MSG_DONTWAIT);

			if (!received(c, n, c->pay_left))
				break;
			c->pay_done += n;
			c->pay_left -= n;
		}
		if (c->pay_left || c->state == CONN_DEAD)
			return false;
		have = 0;
	}
	c->in_start += w->rq.frame_len + have;
	blob = c->pay_blob;
	c->pay_blob = NULL;
	err = c->pay_err;
	run(w, c, err, blob);
	free(blob);
	return true;
}

static bool payload_step(struct worker *w, struct conn *c)
{
	/* The frame was good when it came; this worker has not seen it, or something else since. */
	request_head(c->in + c->in_start, &c->lim, &w->rq);
	request_body(c->in + c->in_start, &c->lim, &w->rq);
	return w->rq.op == WFS_OP_WRITE ? write_payload(w, c) : xattr_payload(w, c);
}

/*
 * May another request be begun?  Not when the client does not take its replies, and not when enough
 * of its requests hang in the file system: each of them has a thread.
 */
static bool may_begin(struct conn *c)
{
	if (c->out_replies + atomic_load(&c->cold) >= OUT_REPLIES || c->out_bytes >= OUT_BYTES)
		return false;
	if (c->out_replies && atomic_load_explicit(&stats.out_bytes, memory_order_relaxed) >=
	    OUT_BYTES_ALL)
		return false;
	if (c->stuck >= CONN_STUCK)
		return false;
	if (!loop_may_begin(c)) {
		loop_throttle(c);
		return false;
	}
	return true;
}

/* False when it has to wait: the frame stays where it is, and is looked at again in a moment. */
static bool run_hello(struct worker *w, struct conn *c, int err)
{
	op_begin(w, c, NULL);
	if (!err)
		err = hello(w, c);
	else if (err == -EPROTONOSUPPORT)
		w->rep.info = (uint64_t)WFS_VERSION << 32 | WFS_VERSION;
	if (c->state == CONN_DEAD)
		return false;
	if (err == -EBUSY) {
		if (!c->hello)
			c->hello = now_seconds();
		if (now_seconds() < c->hello + HELLO_WAIT) {
			loop_throttle(c);
			return false;
		}
	}
	c->in_start += w->rq.frame_len;
	answer(w, c, &w->rq, err, &w->rep);
	if (err)
		conn_finish(c);
	return true;
}

/**
 * enum step - how a piece of work on the input went
 * @STEP_DONE: well, there may be more
 * @STEP_IDLE: there is nothing to be done, an event will tell of more
 * @STEP_BLOCKED: there may be, but not now: see may_begin()
 */
enum step {
	STEP_DONE,
	STEP_IDLE,
	STEP_BLOCKED,
};

static enum step input_step(struct worker *w, struct conn *c)
{
	struct request *rq = &w->rq;
	int err;

	if (c->state != CONN_OPEN || c->reading || !reserve(w, c))
		return STEP_IDLE;
	if (c->pay_left)
		return payload_step(w, c) ? STEP_DONE : STEP_IDLE;
	if (!may_begin(c))
		return STEP_BLOCKED;
	for (;;) {
		size_t have = c->in_end - c->in_start;

		if (have >= sizeof(struct wfs_req_hdr)) {
			if (request_head(c->in + c->in_start, &c->lim, rq))
				return broken(c, "malformed request"), STEP_IDLE;
			if (have >= rq->frame_len)
				break;
		}
		if (!receive(c))
			return STEP_IDLE;
	}
	err = request_body(c->in + c->in_start, &c->lim, rq);
	if (err == -EPROTO)
		return broken(c, "malformed request"), STEP_IDLE;
	if (c->slots[rq->slot / 64] & 1ull << rq->slot % 64)
		return broken(c, "request on a slot that is taken"), STEP_IDLE;
	if (rq->op == WFS_OP_HELLO)
		return run_hello(w, c, err) ? STEP_DONE : STEP_IDLE;
	c->slots[rq->slot / 64] |= 1ull << rq->slot % 64;
	if (!(rq->seq << 4))
		replay_passed(c->session, c->index, rq);

	if (rq->data_len) {
		compact(c);
		c->pay_left = rq->data_len;
		c->pay_done = 0;
		c->pay_err = err;
		return payload_step(w, c) ? STEP_DONE : STEP_IDLE;
	}
	c->in_start += rq->frame_len;
	run(w, c, err, NULL);
	return STEP_DONE;
}

/* ---- both ---- */

/* Answer what has been begun, then end the connection; its client will come again with the rest. */
void conn_finish(struct conn *c)
{
	if (c->state != CONN_OPEN)
		return;
	c->state = CONN_FINISH;
	unpark_all(c);
	loop_queue(c);
}

/*
 * All is sent.  Closing a socket with unread input would reset the connection and may take the last
 * replies with it, so read on until the peer has seen our end.
 */
static void linger(struct worker *w, struct conn *c)
{
	ssize_t n;

	if (c->state == CONN_FINISH) {
		c->state = CONN_LINGER;
		shutdown(c->sock, SHUT_WR);
		loop_timed(c, LINGER_SECONDS);
	}
	while (c->readable) {
		n = recv(c->sock, w->scratch, SCRATCH_SIZE, MSG_DONTWAIT);
		if (n > 0)
			continue;
		if (n == 0 || errno != EAGAIN) {
			conn_kill(c);
			return;
		}
		c->readable = false;
	}
}

/**
 * conn_turn - do what there is to do for a connection, for a while
 */
void conn_turn(struct worker *w, struct conn *c)
{
	enum step step = STEP_DONE;

	w->conn = c;
	w->moved = 0;
	flush(w, c);
	for (unsigned int i = 0; i < TURN_REQUESTS && w->moved < TURN_BYTES &&
	     w->loop->runner == w; i++) {
		step = input_step(w, c);
		if (step == STEP_IDLE)
			break;
		if (step == STEP_BLOCKED || c->out_replies >= FLUSH_REPLIES ||
		    c->out_bytes >= FLUSH_BYTES)
			flush(w, c);
		if (step == STEP_BLOCKED && !may_begin(c))
			break;
	}
	flush(w, c);
	w->conn = NULL;
	w->moving = c->state != CONN_DEAD && (c->pay_left || !TAILQ_EMPTY(&c->out));
	if (c->state == CONN_DEAD)
		return;

	if (c->in_start == c->in_end) {
		free(c->in);
		c->in = NULL;
		c->in_start = c->in_end = 0;
	}
	if (c->state != CONN_OPEN && TAILQ_EMPTY(&c->out) && !c->busy) {
		linger(w, c);
		return;
	}
	if (loop_steer(w, c))
		return;
	/*
	 * Out of turn; or the loop's runner may have stopped at what this worker was at until now.
	 */
	if (step == STEP_DONE || w->loop->runner != w ||
	    (c->writable && !c->sending && !TAILQ_EMPTY(&c->out)))
		loop_queue(c);
}
