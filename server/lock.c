// SPDX-License-Identifier: GPL-2.0-only
/*
 * lock.c - locks of files: who has which, who waits for one.
 *
 * The table below decides between the sessions, and knows what to free when one of them ends.  So that
 * programs on this machine are excluded as well, what all sessions together have locked of an inode
 * is locked in the kernel too: as one open file description, for byte ranges by F_OFD_SETLK and for
 * flock(2), which the kernel keeps apart.
 *
 * A request that has to wait has no thread.  It is woken when a lock of its inode goes; the kernel
 * does not tell when a program's does, nor is there an event when the grace period ends, so for those
 * who wait for that a thread looks every POLL_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "wfsd.h"

#define BUCKETS			4096
#define LOCKS_MAX		(1u << 17)	/* of all sessions */
#define SESSION_LOCKS_MAX	(1u << 14)
#define PARKED_MAX		1024		/* requests that wait, of all connections */
#define SESSION_PARKED_MAX	256
#define CONN_PARKED_MAX		64
#define POLL_MS			50
#define SEARCH_MAX		100000		/* locks and waiters looked at in the search for a deadlock */

#define OURS			1		/* take(): a lock of the table is in the way */

/**
 * struct claim - a lock that somebody has or wants
 * @type: WFS_LOCK_*
 * @pid: on the client; ~0 when it is an open file's (OFD), which takes no part in deadlocks
 */
struct claim {
	struct session		*session;
	uint64_t		owner;
	uint64_t		start, end;
	uint32_t		type;
	uint32_t		pid;
	bool			flock;
};

struct lock {
	struct claim		c;
	TAILQ_ENTRY(lock)	list;
};

/**
 * struct space - the locks of one kind of an inode
 * @fd: has in the kernel what @locks are together; -1 until there is one
 * @locks: by their starts; those of one owner do not overlap, and do not touch when of one type
 */
struct space {
	int			fd;
	TAILQ_HEAD(locks, lock)	locks;
};

struct locked {
	struct wfs_fh		fh;		/* without rights */
	struct space		space[2];	/* bytes, flock */
	unsigned int		waiters;
	LIST_ENTRY(locked)	list;
};

struct waiter {
	struct locked		*in;
	struct claim		c;
	struct conn		*conn;		/* counts as busy */
	uint16_t		slot;
	uint32_t		seq;
	uint64_t		deadline;	/* ms */
	bool			polled;		/* nobody tells when that which was in its way goes */
	int			status;		/* once it is on a todo list */
	unsigned long		seen;		/* by this search for a deadlock */
	TAILQ_ENTRY(waiter)	list;
};

TAILQ_HEAD(waiters, waiter);

/*
 * All that follows.  The calls into the kernel under it do not wait; opening and closing are done
 * without it.
 */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t table_wake;
static LIST_HEAD(, locked) table[BUCKETS];
static LIST_HEAD(, locked) idle = LIST_HEAD_INITIALIZER(idle);	/* for the thread to close */
static struct waiters waiting = TAILQ_HEAD_INITIALIZER(waiting);	/* in the order of their coming */
static unsigned int nwaiting, nlocks, nfds;
static unsigned long searches;

/* ---- the kernel's locks ---- */

static int kernel_set(struct space *sp, bool whole, uint32_t type, uint64_t start, uint64_t end)
{
	static const int flock_ops[] = {
		[WFS_LOCK_READ] = LOCK_SH, [WFS_LOCK_WRITE] = LOCK_EX, [WFS_LOCK_UNLOCK] = LOCK_UN,
	};
	static const short types[] = {
		[WFS_LOCK_READ] = F_RDLCK, [WFS_LOCK_WRITE] = F_WRLCK, [WFS_LOCK_UNLOCK] = F_UNLCK,
	};
	struct flock fl = {
		.l_type = types[type],
		.l_whence = SEEK_SET,
		.l_start = start,
		.l_len = end == INT64_MAX ? 0 : end - start + 1,
	};

	if (!(whole ? flock(sp->fd, flock_ops[type] | LOCK_NB) : fcntl(sp->fd, F_OFD_SETLK, &fl)))
		return 0;
	return errno == EACCES || errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

/* An owner gave up @c: what nobody else of us has of it is free. */
static void kernel_free(struct space *sp, const struct claim *c)
{
	uint64_t pos = c->start;
	struct lock *l;
	int err = 0;

	if (c->flock) {
		if (TAILQ_EMPTY(&sp->locks))
			err = kernel_set(sp, true, WFS_LOCK_UNLOCK, 0, INT64_MAX);
	} else {
		TAILQ_FOREACH(l, &sp->locks, list) {
			if (l->c.end < pos)
				continue;
			if (l->c.start > c->end)
				break;
			if (l->c.start > pos)
				err = kernel_set(sp, false, WFS_LOCK_UNLOCK, pos, l->c.start - 1) ?: err;
			pos = l->c.end + 1;
		}
		if (pos <= c->end)
			err = kernel_set(sp, false, WFS_LOCK_UNLOCK, pos, c->end) ?: err;
	}
	if (err)
		log_limited("a lock can't be freed for programs of this machine: %s", strerror(-err));
}

/* The description that has the locks of an inode in the kernel. */
static int open_description(struct op_ctx *op, bool whole)
{
	struct file *file;
	int fd, err;

	err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	cred_root(op->cred);
	/*
	 * A lock for writing needs the right to write.  flock(2) needs none, and while a program is open for
	 * writing it can't be executed.
	 */
	fd = whole || cfg.read_only ? -EROFS : open_file_of(file->fd, O_RDWR);
	if (fd == -EROFS || fd == -ETXTBSY || fd == -EPERM || fd == -EACCES)
		fd = open_file_of(file->fd, O_RDONLY);
	file_put(file);
	return fd;
}

/* ---- the table ---- */

static bool same_owner(const struct claim *a, const struct claim *b)
{
	return a->session == b->session && a->owner == b->owner;
}

static bool overlap(const struct claim *a, const struct claim *b)
{
	return a->start <= b->end && b->start <= a->end;
}

static bool conflict(const struct claim *a, const struct claim *b)
{
	return !same_owner(a, b) && overlap(a, b) &&
	       (a->type == WFS_LOCK_WRITE || b->type == WFS_LOCK_WRITE);
}

static struct space *space_of(struct locked *in, const struct claim *c)
{
	return &in->space[c->flock];
}

static void insert(struct space *sp, struct lock *l)
{
	struct lock *after;

	TAILQ_FOREACH_REVERSE(after, &sp->locks, locks, list)
		if (after->c.start <= l->c.start)
			break;
	if (after)
		TAILQ_INSERT_AFTER(&sp->locks, after, l, list);
	else
		TAILQ_INSERT_HEAD(&sp->locks, l, list);
}

static void add(struct space *sp, struct lock *l, const struct claim *c)
{
	l->c = *c;
	l->c.session->locks++;
	nlocks++;
	insert(sp, l);
}

static void drop(struct space *sp, struct lock *l)
{
	TAILQ_REMOVE(&sp->locks, l, list);
	l->c.session->locks--;
	nlocks--;
	free(l);
}

/* Another lock may become two. */
static bool too_many(const struct claim *c)
{
	return nlocks + 2 > LOCKS_MAX || c->session->locks + 2 > SESSION_LOCKS_MAX;
}

/*
 * Make @c what its owner has of its bytes, as fcntl(2) does: other types give way, the same type is
 * joined.  Nothing has changed after an error.
 */
static int set_range(struct space *sp, struct claim c)
{
	struct lock *l, *next, *new[2];
	int err = 0;

	new[0] = malloc(sizeof(*new[0]));
	new[1] = malloc(sizeof(*new[1]));
	if (!new[0] || !new[1]) {
		err = -ENOMEM;
		goto out;
	}
	for (l = TAILQ_FIRST(&sp->locks); l; l = next) {
		next = TAILQ_NEXT(l, list);
		if (!same_owner(&l->c, &c))
			continue;
		if (l->c.type == c.type) {
			if (l->c.end + 1 < c.start || c.end + 1 < l->c.start)
				continue;
			c.start = MIN(c.start, l->c.start);
			c.end = MAX(c.end, l->c.end);
			drop(sp, l);
		} else if (!overlap(&l->c, &c)) {
			continue;
		} else if (l->c.start < c.start && l->c.end > c.end) {
			struct claim rest = l->c;

			/* the only one that @c meets: nothing was changed before */
			if (c.type == WFS_LOCK_UNLOCK && too_many(&c)) {
				err = -ENOLCK;
				goto out;
			}
			rest.start = c.end + 1;
			l->c.end = c.start - 1;
			add(sp, new[1], &rest);
			new[1] = NULL;
		} else if (l->c.start < c.start) {
			l->c.end = c.start - 1;
		} else if (l->c.end > c.end) {
			TAILQ_REMOVE(&sp->locks, l, list);
			l->c.start = c.end + 1;
			insert(sp, l);
		} else {
			drop(sp, l);
		}
	}
	if (c.type != WFS_LOCK_UNLOCK) {
		add(sp, new[0], &c);
		new[0] = NULL;
	}
out:
	free(new[0]);
	free(new[1]);
	return err;
}

static struct lock *in_the_way(struct space *sp, const struct claim *c)
{
	struct lock *l;

	TAILQ_FOREACH(l, &sp->locks, list) {
		if (l->c.start > c->end)
			break;
		if (conflict(&l->c, c))
			return l;
	}
	return NULL;
}

/* Something became less that an owner had of @in, and it was not him who said so: look who can have it. */
static void poll_waiters(struct locked *in)
{
	struct waiter *w;

	if (!in->waiters)
		return;
	TAILQ_FOREACH(w, &waiting, list)
		if (w->in == in)
			w->polled = true;
}

/* Its owner has it already: who claims it again has not got the answer. */
static bool has(struct space *sp, const struct claim *c)
{
	struct lock *l;

	TAILQ_FOREACH(l, &sp->locks, list)
		if (same_owner(&l->c, c) && l->c.type == c->type && l->c.start <= c->start && l->c.end >= c->end)
			return true;
	return false;
}

/* Get a lock if it can be had now: 0, OURS, -EAGAIN (a program has it), or another error. */
static int take(struct locked *in, const struct claim *c)
{
	struct space *sp = space_of(in, c);
	bool dropped = false;
	struct lock *l;
	int err = 0;

	if (c->flock) {
		TAILQ_FOREACH(l, &sp->locks, list)
			if (same_owner(&l->c, c))
				break;
		if (l && l->c.type == c->type)
			return 0;
		/* flock(2) lets go of the old lock before it asks for the new one: two may convert at once */
		if (l) {
			drop(sp, l);
			dropped = true;
		}
	}
	if (in_the_way(sp, c))
		err = OURS;
	else if (too_many(c))
		err = -ENOLCK;
	else if (!c->flock || c->type == WFS_LOCK_WRITE || TAILQ_EMPTY(&sp->locks))
		err = kernel_set(sp, c->flock, c->type, c->start, c->end);
	if (!err) {
		err = set_range(sp, *c);
		dropped |= err;
	}
	if (err && dropped)
		kernel_free(sp, c);
	if (dropped || (!err && c->type == WFS_LOCK_READ))
		poll_waiters(in);
	return err;
}

static struct locked *find(const struct wfs_fh *fh)
{
	struct locked *in;

	LIST_FOREACH(in, &table[handle_hash(fh) % BUCKETS], list)
		if (!memcmp(&in->fh, fh, sizeof(*fh)))
			return in;
	return NULL;
}

static struct locked *find_or_make(const struct wfs_fh *fh)
{
	struct locked *in = find(fh);

	if (in)
		return in;
	in = calloc(1, sizeof(*in));
	if (!in)
		return NULL;
	in->fh = *fh;
	for (unsigned int i = 0; i < ARRAY_SIZE(in->space); i++) {
		in->space[i].fd = -1;
		TAILQ_INIT(&in->space[i].locks);
	}
	LIST_INSERT_HEAD(&table[handle_hash(fh) % BUCKETS], in, list);
	return in;
}

/* Forget an inode that nobody has a lock of or waits for. */
static void retire(struct locked *in)
{
	if (in->waiters || !TAILQ_EMPTY(&in->space[0].locks) || !TAILQ_EMPTY(&in->space[1].locks))
		return;
	LIST_REMOVE(in, list);
	LIST_INSERT_HEAD(&idle, in, list);
	pthread_cond_signal(&table_wake);
}

/* ---- waiting ---- */

static void end_wait(struct waiter *w, int status, struct waiters *done)
{
	TAILQ_REMOVE(&waiting, w, list);
	nwaiting--;
	w->conn->parked--;
	w->c.session->parked--;
	w->in->waiters--;
	w->status = status;
	TAILQ_INSERT_TAIL(done, w, list);
}

/* False if it goes on waiting. */
static bool try_again(struct waiter *w, struct waiters *done)
{
	int err = session_in_grace() ? -EAGAIN : take(w->in, &w->c);

	w->polled = err == -EAGAIN;
	if (err == -EAGAIN || err == OURS)
		return false;
	end_wait(w, err, done);
	return true;
}

/* A lock of @in went, or may have, of the bytes of @gone or with NULL any: who has waited longest comes first. */
static void wake(struct locked *in, const struct claim *gone, struct waiters *done)
{
	struct waiter *w, *next;

	if (!in->waiters || session_in_grace())
		return;
	for (w = TAILQ_FIRST(&waiting); w; w = next) {
		next = TAILQ_NEXT(w, list);
		if (w->in == in && (!gone || (w->c.flock == gone->flock && overlap(&w->c, gone))))
			try_again(w, done);
	}
}

/* Without the table's lock. */
static void tell(struct waiters *done)
{
	struct waiter *w;

	while ((w = TAILQ_FIRST(done))) {
		struct reply rep = { .body_len = sizeof(struct wfs_lock_rep) };

		*(struct wfs_lock_rep *)rep.body = (struct wfs_lock_rep){
			.start = htole64(w->c.start),
			.end = htole64(w->c.end),
			.type = htole32(w->c.type),
		};
		TAILQ_REMOVE(done, w, list);
		conn_unpark(w->conn, WFS_OP_LOCK, w->slot, w->seq, w->status, &rep);
		free(w);
	}
}

/* Whether @c can't be had before @who gives up something. */
static bool waits_for(struct locked *in, const struct claim *c, const struct claim *who,
		      unsigned int *left)
{
	struct waiter *w;
	struct lock *l;

	TAILQ_FOREACH(l, &in->space[0].locks, list) {
		if (l->c.start > c->end || !*left || !--*left)
			return false;
		if (!conflict(&l->c, c))
			continue;
		if (same_owner(&l->c, who))
			return true;
		TAILQ_FOREACH(w, &waiting, list) {
			if (!*left || !--*left)
				return false;
			if (w->seen == searches || w->c.flock || w->c.pid == UINT32_MAX ||
			    !same_owner(&w->c, &l->c))
				continue;
			w->seen = searches;
			if (waits_for(w->in, &w->c, who, left))
				return true;
		}
	}
	return false;
}

static bool deadlock(struct locked *in, const struct claim *c)
{
	unsigned int left = SEARCH_MAX;

	if (c->flock || c->pid == UINT32_MAX || TAILQ_EMPTY(&waiting))
		return false;
	searches++;
	return waits_for(in, c, c, &left);
}

static int park(struct op_ctx *op, struct locked *in, const struct claim *c, bool polled)
{
	struct waiter *w;

	if (deadlock(in, c))
		return -EDEADLK;
	if (nwaiting >= PARKED_MAX || c->session->parked >= SESSION_PARKED_MAX || op->asker->parked >= CONN_PARKED_MAX)
		return -EAGAIN;
	w = malloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct waiter){
		.in = in, .c = *c, .conn = op->asker, .slot = op->rq->slot, .seq = op->rq->seq,
		.deadline = now_ms() + op->rq->wait, .polled = polled,
	};
	TAILQ_INSERT_TAIL(&waiting, w, list);
	nwaiting++;
	in->waiters++;
	op->asker->parked++;
	c->session->parked++;
	pthread_cond_signal(&table_wake);
	return OP_PARKED;
}

/**
 * lock_abandon - a connection ends: take one of its requests that wait out of the table
 *
 * Return: false when none waits; else the request's slot and seq, for the caller to answer.
 */
bool lock_abandon(struct conn *conn, uint16_t *slot, uint32_t *seq)
{
	struct waiters done = TAILQ_HEAD_INITIALIZER(done);
	struct waiter *w;

	pthread_mutex_lock(&table_lock);
	TAILQ_FOREACH(w, &waiting, list)
		if (w->conn == conn)
			break;
	if (w) {
		end_wait(w, 0, &done);
		retire(w->in);
	}
	pthread_mutex_unlock(&table_lock);
	if (w) {
		*slot = w->slot;
		*seq = w->seq;
	}
	free(w);
	return w;
}

/* Close what is not used any more, end what has waited for long enough, look at the rest. */
static void *lock_main(void *arg)
{
	pthread_mutex_lock(&table_lock);
	for (;;) {
		struct waiters done = TAILQ_HEAD_INITIALIZER(done);
		uint64_t now = now_ms();
		struct waiter *w, *next;
		struct locked *in;
		struct timespec ts;

		while ((in = LIST_FIRST(&idle))) {
			LIST_REMOVE(in, list);
			for (unsigned int i = 0; i < ARRAY_SIZE(in->space); i++)
				nfds -= in->space[i].fd >= 0;
			pthread_mutex_unlock(&table_lock);
			for (unsigned int i = 0; i < ARRAY_SIZE(in->space); i++)
				if (in->space[i].fd >= 0)
					close(in->space[i].fd);
			free(in);
			pthread_mutex_lock(&table_lock);
		}
		for (w = TAILQ_FIRST(&waiting); w; w = next) {
			next = TAILQ_NEXT(w, list);
			in = w->in;
			if (!w->polled || !try_again(w, &done)) {
				if (now < w->deadline)
					continue;
				end_wait(w, -EAGAIN, &done);
			}
			retire(in);
		}
		if (!TAILQ_EMPTY(&done)) {
			pthread_mutex_unlock(&table_lock);
			tell(&done);
			pthread_mutex_lock(&table_lock);
		}
		if (!LIST_EMPTY(&idle))
			continue;
		if (TAILQ_EMPTY(&waiting)) {
			pthread_cond_wait(&table_wake, &table_lock);
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += POLL_MS * 1000000l;
		ts.tv_sec += ts.tv_nsec / 1000000000;
		ts.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&table_wake, &table_lock, &ts);
	}
	return arg;
}

/* ---- operations ---- */

static void fill_reply(struct op_ctx *op, const struct claim *c, uint32_t pid)
{
	struct wfs_lock_rep *rep = (void *)op->rep->body;

	*rep = (struct wfs_lock_rep){
		.start = htole64(c->start),
		.end = htole64(c->end),
		.type = htole32(c->type),
		.pid = htole32(pid),
	};
	op->rep->body_len = sizeof(*rep);
}

/* Who is in the way of @c?  Of us, or a program of this machine, which has no number on the client. */
static int test(struct op_ctx *op, const struct wfs_fh *fh, struct claim *c)
{
	struct flock fl = {
		.l_type = c->type == WFS_LOCK_WRITE ? F_WRLCK : F_RDLCK,
		.l_whence = SEEK_SET,
		.l_start = c->start,
		.l_len = c->end == INT64_MAX ? 0 : c->end - c->start + 1,
	};
	struct file *file;
	struct locked *in;
	struct lock *l;
	int err, fd;

	err = file_get(op->cred, &op->rq->fh, &file);
	if (err)
		return err;
	pthread_mutex_lock(&table_lock);
	in = find(fh);
	l = in ? in_the_way(&in->space[0], c) : NULL;
	if (l) {
		fill_reply(op, &l->c, l->c.session == c->session && l->c.pid != UINT32_MAX ? l->c.pid : 0);
	} else {
		/* the locks that the table knows of are that descriptor's own */
		fd = in && in->space[0].fd >= 0 ? in->space[0].fd : file->fd;
		err = fcntl(fd, F_OFD_GETLK, &fl) ? -errno : 0;
		if (fl.l_type == F_UNLCK) {
			c->type = WFS_LOCK_UNLOCK;
		} else {
			c->type = fl.l_type == F_WRLCK ? WFS_LOCK_WRITE : WFS_LOCK_READ;
			c->start = fl.l_start;
			c->end = fl.l_len ? fl.l_start + fl.l_len - 1 : INT64_MAX;
		}
		fill_reply(op, c, 0);
	}
	pthread_mutex_unlock(&table_lock);
	file_put(file);
	return err;
}

static int unlock(const struct wfs_fh *fh, const struct claim *c)
{
	struct waiters done = TAILQ_HEAD_INITIALIZER(done);
	struct space *sp;
	struct locked *in;
	int err = 0;

	pthread_mutex_lock(&table_lock);
	in = find(fh);
	sp = in ? space_of(in, c) : NULL;
	if (in && sp->fd >= 0) {
		err = set_range(sp, *c);
		if (!err) {
			kernel_free(sp, c);
			wake(in, c, &done);
			retire(in);
		}
	}
	pthread_mutex_unlock(&table_lock);
	tell(&done);
	return err;
}

/* The client does not want to wait any more for exactly this. */
static int cancel(const struct wfs_fh *fh, const struct claim *c)
{
	struct waiters done = TAILQ_HEAD_INITIALIZER(done);
	struct waiter *w, *next;
	struct locked *in;

	pthread_mutex_lock(&table_lock);
	in = find(fh);
	for (w = in ? TAILQ_FIRST(&waiting) : NULL; w; w = next) {
		next = TAILQ_NEXT(w, list);
		if (w->in == in && w->c.flock == c->flock && same_owner(&w->c, c) &&
		    w->c.start == c->start && w->c.end == c->end)
			end_wait(w, -EAGAIN, &done);
	}
	if (in)
		retire(in);
	pthread_mutex_unlock(&table_lock);
	tell(&done);
	return 0;
}

static int lock(struct op_ctx *op, const struct wfs_fh *fh, const struct claim *c)
{
	struct waiters done = TAILQ_HEAD_INITIALIZER(done);
	bool reclaim = op->rq->flags & WFS_LOCK_RECLAIM, polled;
	struct locked *in;
	int fd = -1, err;

	pthread_mutex_lock(&table_lock);
	in = find(fh);
	if (!in || space_of(in, c)->fd < 0) {
		err = nfds >= cfg.max_locked ? -ENOLCK : 0;
		pthread_mutex_unlock(&table_lock);
		if (!err)
			fd = open_description(op, c->flock);
		if (err || fd < 0)
			return err ?: fd;
		pthread_mutex_lock(&table_lock);
		in = find_or_make(fh);
		if (in && space_of(in, c)->fd < 0) {
			space_of(in, c)->fd = fd;
			nfds++;
			fd = -1;
		}
	}
	if (!in) {
		err = -ENOMEM;
	} else {
		if (reclaim && !session_may_claim(c->session))
			err = has(space_of(in, c), c) ? 0 : -ENOLCK;
		else if (!reclaim && session_in_grace())
			err = -EAGAIN;
		else
			err = take(in, c);
		polled = err != OURS;
		if (err == OURS)
			err = -EAGAIN;
		if (err == -EAGAIN && reclaim)
			err = -ENOLCK;
		/* a lock for reading in place of one for writing, or flock's old one */
		wake(in, c, &done);
		if (err == -EAGAIN && op->rq->wait)
			err = park(op, in, c, polled || !TAILQ_EMPTY(&done));
		retire(in);
	}
	pthread_mutex_unlock(&table_lock);
	if (fd >= 0)
		close(fd);
	tell(&done);
	fill_reply(op, c, 0);
	return err;
}

int op_lock(struct op_ctx *op)
{
	const struct request *rq = op->rq;
	unsigned int rights = handle_rights(&rq->fh), need;
	struct wfs_fh fh;
	struct claim c = {
		.session = op->session,
		.owner = rq->owner,
		.start = rq->start,
		.end = rq->end,
		.type = rq->type,
		.pid = rq->pid,
		.flock = rq->flags & WFS_LOCK_FLOCK,
	};
	int err = handle_check(&rq->fh);

	if (err)
		return err;
	need = c.flock || c.type == WFS_LOCK_UNLOCK || rq->flags & WFS_LOCK_TEST ? FH_READ | FH_WRITE :
	       c.type == WFS_LOCK_WRITE ? FH_WRITE : FH_READ;
	if (!(rights & need))
		return -EBADF;
	handle_with_rights(&rq->fh, 0, &fh);
	if (rq->flags & WFS_LOCK_TEST)
		return test(op, &fh, &c);
	if (c.type != WFS_LOCK_UNLOCK) {
		if (!(rq->flags & WFS_LOCK_RECLAIM) || session_may_claim(op->session))
			session_claims(op->session);
		return lock(op, &fh, &c);
	}
	fill_reply(op, &c, 0);
	return rq->flags & WFS_LOCK_CANCEL ? cancel(&fh, &c) : unlock(&fh, &c);
}

/**
 * lock_session_end - a session ends: what it has locked is free, what it waits for is given up
 *
 * The session can still be used, and has no lock then; it is called once more before it is freed.
 */
void lock_session_end(struct session *s)
{
	struct waiters done = TAILQ_HEAD_INITIALIZER(done);
	struct waiter *w, *next_w;
	struct locked *in, *next;
	struct lock *l, *next_l;

	pthread_mutex_lock(&table_lock);
	for (w = TAILQ_FIRST(&waiting); w; w = next_w) {
		next_w = TAILQ_NEXT(w, list);
		if (w->c.session != s)
			continue;
		in = w->in;
		end_wait(w, -EAGAIN, &done);
		retire(in);
	}
	for (unsigned int b = 0; b < BUCKETS && s->locks; b++) {
		for (in = LIST_FIRST(&table[b]); in; in = next) {
			next = LIST_NEXT(in, list);
			for (unsigned int i = 0; i < ARRAY_SIZE(in->space); i++) {
				struct space *sp = &in->space[i];
				bool any = false;

				for (l = TAILQ_FIRST(&sp->locks); l; l = next_l) {
					next_l = TAILQ_NEXT(l, list);
					if (l->c.session != s)
						continue;
					drop(sp, l);
					any = true;
				}
				if (any)
					kernel_free(sp, &(struct claim){ .end = INT64_MAX, .flock = i });
			}
			wake(in, NULL, &done);
			retire(in);
		}
	}
	pthread_mutex_unlock(&table_lock);
	tell(&done);
}

void lock_init(void)
{
	pthread_condattr_t attr;
	pthread_t thread;
	int err;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&table_wake, &attr);
	pthread_condattr_destroy(&attr);
	err = pthread_create(&thread, NULL, lock_main, NULL);
	if (err)
		die("starting a thread: %s", strerror(err));
	pthread_detach(thread);
}
