// SPDX-License-Identifier: GPL-2.0-only
/*
 * hold.c - what sessions hold open.
 *
 * A hold says that a session has an inode open.  Reading and writing need no hold, the I/O handle
 * says it all; but when the last link of an inode goes, those who have it open keep it: by a link
 * that orphan.c makes, or where that can't be by a descriptor that is pinned to their holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "wfsd.h"

#define HOLDS_MAX		(1u << 20)	/* of all sessions */
#define SESSION_HOLDS_MAX	(1u << 18)
#define SHARDS			64		/* powers of 2 */
#define BUCKETS			256

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

void hold_init(void)
{
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
	if (orphan_any())
		orphan_release(&h->fh);
	atomic_fetch_sub(&h->session->holds, 1);
	atomic_fetch_sub(&nholds, 1);
	free(h);
}

/* What @change says of the number of times that a session has an inode open. */
enum hold_change {
	HOLD_MORE,	/* once more */
	HOLD_LESS,	/* once less */
	HOLD_SET,	/* so often */
};

static int change_hold(struct session *s, const struct wfs_fh *fh, enum hold_change change,
		       unsigned int count)
{
	struct hold_shard *sh;
	struct hold_list *list;
	struct wfs_fh key;
	struct hold *h;
	int err = 0;

	handle_with_rights(fh, 0, &key);
	list = lock_holds(&key, &sh);
	h = find_hold(list, s, &key);
	if (change == HOLD_MORE)
		count = h ? h->count + 1 : 1;
	else if (change == HOLD_LESS)
		count = h ? h->count - 1 : 0;
	if (h) {
		h->count = count;
		if (!count)
			LIST_REMOVE(h, list);
		else
			h = NULL;
	} else if (!count) {
		/* No hold is no error. */
	} else if (atomic_load(&nholds) >= HOLDS_MAX ||
		   atomic_load(&s->holds) >= SESSION_HOLDS_MAX) {
		err = -ENFILE;
	} else if (!(h = calloc(1, sizeof(*h)))) {
		err = -ENOMEM;
	} else {
		h->fh = key;
		h->session = s;
		h->count = count;
		atomic_fetch_add(&s->holds, 1);
		atomic_fetch_add(&nholds, 1);
		LIST_INSERT_HEAD(list, h, list);
		h = NULL;
	}
	pthread_mutex_unlock(&sh->lock);
	if (h)
		free_hold(h);
	return err;
}

/**
 * hold_add - a session opens an inode; before it does, so that an unlink after that sees the hold
 */
int hold_add(struct session *s, const struct wfs_fh *fh)
{
	int err;

	session_claims(s);
	orphan_lock_inode(fh);
	err = change_hold(s, fh, HOLD_MORE, 0);
	orphan_unlock_inode(fh);
	return err;
}

/* A session closed an inode.  As root. */
void hold_drop(struct session *s, const struct wfs_fh *fh)
{
	change_hold(s, fh, HOLD_LESS, 0);
}

/**
 * hold_set - a session tells how often it has an inode open, 0 for not at all.  As root.
 */
int hold_set(struct session *s, const struct wfs_fh *fh, unsigned int count)
{
	int err;

	if (!count)
		return change_hold(s, fh, HOLD_SET, 0);
	session_claims(s);
	orphan_lock_inode(fh);
	err = change_hold(s, fh, HOLD_SET, count);
	orphan_unlock_inode(fh);
	return err;
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

/* Does any session have it open? */
bool hold_held(const struct wfs_fh *fh)
{
	struct wfs_fh key;

	handle_with_rights(fh, 0, &key);
	return is_held(&key, false);
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
	bool rdonly;
	int rw;

	handle_with_rights(fh, 0, &key);
	if (!is_held(&key, true))
		return;
	if (atomic_load(&npins) >= cfg.max_pins) {
		log_limited("too many deleted files are open, one is lost");
		return;
	}
	rw = open_file_of(fd, O_RDWR);
	rdonly = rw < 0;
	if (rdonly)
		rw = open_file_of(fd, O_RDONLY);
	file = rw < 0 ? NULL : file_new(&key, rw, rdonly);
	if (!file) {
		log_limited("an open file that was deleted is lost: %s", rw < 0 ? strerror(-rw) : "no memory");
		return;
	}

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

/**
 * hold_end - a session has nothing open any more.  As root.
 */
void hold_end(struct session *s)
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
}
