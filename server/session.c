// SPDX-License-Identifier: GPL-2.0-only
/*
 * session.c - sessions, and what they hold open.
 *
 * A session is the connections of one mount.  It outlives the last of them for a while, so that a
 * client whose network broke comes back to it.  A hold says that a session has an inode open.
 * Reading and writing need no hold, the I/O handle says it all; but when the last link of an inode
 * goes, those who have it open keep it, by a descriptor that is pinned to their holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "wfsd.h"

#define SESSIONS_MAX		4096
#define HOLDS_MAX		(1u << 20)	/* of all sessions */
#define SESSION_HOLDS_MAX	(1u << 18)
#define SHARDS			64		/* powers of 2 */
#define BUCKETS			256

LIST_HEAD(session_list, session);

static pthread_mutex_t sessions_lock = PTHREAD_MUTEX_INITIALIZER;	/* these three */
static struct session_list sessions = LIST_HEAD_INITIALIZER(sessions);
static struct session_list ended = LIST_HEAD_INITIALIZER(ended);	/* to be freed */
static unsigned int nsessions;

/* That @session has @fh open, @count times. */
struct hold {
	struct wfs_fh		fh;		/* without rights */
	struct session		*session;
	unsigned int		count;
	struct file		*pin;		/* when the inode has no link any more */
	LIST_ENTRY(hold)	list;
};

LIST_HEAD(hold_list, hold);

static struct hold_shard {
	pthread_mutex_t		lock;		/* the lists and the holds in them */
	struct hold_list	buckets[BUCKETS];
} shards[SHARDS];

static atomic_uint nholds, npins;

static uint64_t life;	/* set before the first thread starts */

/* Another one whenever the process was started anew. */
uint64_t session_life(void)
{
	return life;
}

void session_init(void)
{
	do
		randombytes_buf(&life, sizeof(life));
	while (!life);
	for (unsigned int i = 0; i < SHARDS; i++)
		pthread_mutex_init(&shards[i].lock, NULL);
}

static struct hold_list *lock_holds(const struct wfs_fh *fh, struct hold_shard **sh)
{
	uint64_t hash = handle_hash(fh);

	*sh = &shards[hash % SHARDS];
	pthread_mutex_lock(&(*sh)->lock);
	return &(*sh)->buckets[hash / SHARDS % BUCKETS];
}

static struct hold *find_hold(struct hold_list *list, struct session *s, const struct wfs_fh *fh)
{
	struct hold *h;

	LIST_FOREACH(h, list, list)
		if (h->session == s && !memcmp(&h->fh, fh, sizeof(*fh)))
			return h;
	return NULL;
}

static void free_hold(struct hold *h)
{
	if (h->pin)
		atomic_fetch_sub(&npins, 1);
	file_put(h->pin);
	atomic_fetch_sub(&h->session->holds, 1);
	atomic_fetch_sub(&nholds, 1);
	free(h);
}

/**
 * hold_add - a session opens an inode; before it does, so that an unlink after that sees the hold
 */
int hold_add(struct session *s, const struct wfs_fh *fh)
{
	struct hold_shard *sh;
	struct hold_list *list;
	struct wfs_fh key;
	struct hold *h;
	int err = 0;

	handle_with_rights(fh, 0, &key);
	list = lock_holds(&key, &sh);
	h = find_hold(list, s, &key);
	if (h) {
		h->count++;
	} else if (atomic_load(&nholds) >= HOLDS_MAX ||
		   atomic_load(&s->holds) >= SESSION_HOLDS_MAX) {
		err = -ENFILE;
	} else if (!(h = calloc(1, sizeof(*h)))) {
		err = -ENOMEM;
	} else {
		h->fh = key;
		h->session = s;
		h->count = 1;
		atomic_fetch_add(&s->holds, 1);
		atomic_fetch_add(&nholds, 1);
		LIST_INSERT_HEAD(list, h, list);
	}
	pthread_mutex_unlock(&sh->lock);
	return err;
}

/* No hold is no error: the session may be younger than the I/O handle, after a restart. */
void hold_drop(struct session *s, const struct wfs_fh *fh)
{
	struct hold_shard *sh;
	struct hold_list *list;
	struct wfs_fh key;
	struct hold *h;

	handle_with_rights(fh, 0, &key);
	list = lock_holds(&key, &sh);
	h = find_hold(list, s, &key);
	if (h && --h->count)
		h = NULL;
	if (h)
		LIST_REMOVE(h, list);
	pthread_mutex_unlock(&sh->lock);
	if (h)
		free_hold(h);
}

static bool is_held(const struct wfs_fh *fh, bool unpinned)
{
	struct hold_shard *sh;
	struct hold_list *list = lock_holds(fh, &sh);
	struct hold *h;

	LIST_FOREACH(h, list, list)
		if (!memcmp(&h->fh, fh, sizeof(*fh)) && !(unpinned && h->pin))
			break;
	pthread_mutex_unlock(&sh->lock);
	return h;
}

/**
 * hold_pin - the last link of an inode is gone: keep it for those who have it open
 * @fh: the inode
 * @fd: O_PATH, or opened for something; stays the caller's
 */
void hold_pin(const struct wfs_fh *fh, int fd)
{
	struct hold_shard *sh;
	struct hold_list *list;
	struct wfs_fh key;
	struct file *file;
	struct hold *h;
	int rw;

	handle_with_rights(fh, 0, &key);
	if (!is_held(&key, true))
		return;
	if (atomic_load(&npins) >= cfg.max_pins) {
		log_limited("too many deleted files are open, one is lost");
		return;
	}
	rw = open_file_of(fd, O_RDWR);
	if (rw < 0)
		rw = open_file_of(fd, O_RDONLY);
	file = rw < 0 ? NULL : malloc(sizeof(*file));
	if (!file) {
		log_limited("an open file that was deleted is lost: %s", strerror(errno));
		return;
	}
	*file = (struct file){ .fh = key, .fd = rw, .refs = 1 };

	list = lock_holds(&key, &sh);
	LIST_FOREACH(h, list, list) {
		if (h->pin || memcmp(&h->fh, &key, sizeof(key)))
			continue;
		h->pin = file_ref(file);
		atomic_fetch_add(&npins, 1);
	}
	pthread_mutex_unlock(&sh->lock);
	file_put(file);
}

/* The pinned file of an inode whose last link is gone, whoever pinned it; or NULL. */
struct file *hold_pinned(const struct wfs_fh *fh)
{
	struct file *file = NULL;
	struct hold_shard *sh;
	struct hold_list *list;
	struct wfs_fh key;
	struct hold *h;

	if (!atomic_load(&npins))
		return NULL;
	handle_with_rights(fh, 0, &key);
	list = lock_holds(&key, &sh);
	LIST_FOREACH(h, list, list) {
		if (h->pin && !memcmp(&h->fh, &key, sizeof(key))) {
			file = file_ref(h->pin);
			break;
		}
	}
	pthread_mutex_unlock(&sh->lock);
	return file;
}

/* Nobody can add to the holds of a session that is on no list and has no users. */
static void free_session(struct session *s)
{
	struct hold_list gone = LIST_HEAD_INITIALIZER(gone);
	struct hold *h, *next;

	for (unsigned int i = 0; i < SHARDS && atomic_load(&s->holds); i++) {
		pthread_mutex_lock(&shards[i].lock);
		for (unsigned int b = 0; b < BUCKETS; b++) {
			for (h = LIST_FIRST(&shards[i].buckets[b]); h; h = next) {
				next = LIST_NEXT(h, list);
				if (h->session != s)
					continue;
				LIST_REMOVE(h, list);
				LIST_INSERT_HEAD(&gone, h, list);
			}
		}
		pthread_mutex_unlock(&shards[i].lock);
		while ((h = LIST_FIRST(&gone))) {
			LIST_REMOVE(h, list);
			free_hold(h);
		}
	}
	free(s);
}

/* Under sessions_lock. */
static void end_session(struct session *s)
{
	LIST_REMOVE(s, list);
	LIST_INSERT_HEAD(&ended, s, list);
	nsessions--;
}

/*
 * Under sessions_lock.  There is no room: a session whose client may come back makes room for one
 * that is here.
 */
static bool end_oldest(void)
{
	struct session *s, *oldest = NULL;

	LIST_FOREACH(s, &sessions, list)
		if (!s->users && (!oldest || s->expires < oldest->expires))
			oldest = s;
	if (oldest)
		end_session(oldest);
	return oldest;
}

/* Under sessions_lock. */
static struct session *new_session(void)
{
	struct session *s;

	if (nsessions >= SESSIONS_MAX && !end_oldest())
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	randombytes_buf(s->id, sizeof(s->id));
	for (unsigned int i = 0; i < WFS_CONNS_MAX; i++)
		s->sock[i] = -1;
	LIST_INSERT_HEAD(&sessions, s, list);
	nsessions++;
	return s;
}

/**
 * session_join - a connection says HELLO
 * @id: all zero for a new session
 * @conn: the connection's index; a connection that has it already is broken without knowing,
 *	and is shut
 * @sock: the connection's
 *
 * Return: 0, -ESTALE when there is no such session, -ENFILE when there are too many.
 */
int session_join(const uint8_t *id, unsigned int conn, int sock, struct session **ret)
{
	struct session *s;
	int err = 0;

	pthread_mutex_lock(&sessions_lock);
	if (sodium_is_zero(id, WFS_SESSION_LEN)) {
		s = new_session();
		err = s ? 0 : -ENFILE;
	} else {
		LIST_FOREACH(s, &sessions, list)
			if (!sodium_memcmp(s->id, id, WFS_SESSION_LEN))
				break;
		err = s ? 0 : -ESTALE;
	}
	if (!err) {
		s->users++;
		if (s->sock[conn] >= 0)
			shutdown(s->sock[conn], SHUT_RDWR);
		s->sock[conn] = sock;
		*ret = s;
	}
	pthread_mutex_unlock(&sessions_lock);
	return err;
}

/* The connection ends; what it still has under way keeps the session until session_put(). */
void session_leave(struct session *s, unsigned int conn, int sock)
{
	pthread_mutex_lock(&sessions_lock);
	if (s->sock[conn] == sock)
		s->sock[conn] = -1;
	pthread_mutex_unlock(&sessions_lock);
}

void session_put(struct session *s)
{
	pthread_mutex_lock(&sessions_lock);
	if (!--s->users)
		s->expires = now_seconds() + SESSION_LEASE;
	pthread_mutex_unlock(&sessions_lock);
}

void session_expire(time_t now)
{
	struct session *s, *next;

	pthread_mutex_lock(&sessions_lock);
	for (s = LIST_FIRST(&sessions); s; s = next) {
		next = LIST_NEXT(s, list);
		if (!s->users && s->expires <= now)
			end_session(s);
	}
	while ((s = LIST_FIRST(&ended))) {
		LIST_REMOVE(s, list);
		pthread_mutex_unlock(&sessions_lock);
		free_session(s);
		pthread_mutex_lock(&sessions_lock);
	}
	pthread_mutex_unlock(&sessions_lock);
}

unsigned int session_count(void)
{
	unsigned int n;

	pthread_mutex_lock(&sessions_lock);
	n = nsessions;
	pthread_mutex_unlock(&sessions_lock);
	return n;
}
