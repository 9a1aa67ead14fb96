// SPDX-License-Identifier: GPL-2.0-only
/*
 * change.c - change values of inodes.
 *
 * ctime moves in ticks of milliseconds, so two changes may leave the same ctime.  Changes that go
 * through this server are told apart by a stamp, which is kept beside the ctime that they left.
 * The table is as small as it is because a stamp matters only while its ctime is the inode's; what
 * it forgets, or never saw, is marked as racy until the tick is over.
 *
 * Beside it stands whose doing the last changes were: the run of struct wfs_attr.
 */
#include <pthread.h>
#include <sodium.h>
#include <string.h>

#include "wfsd.h"

#define ENTRIES		65536	/* powers of 2 */
#define LOCKS		256
#define DIR_LOCKS	256
#define LOOKS		4	/* at an inode that changes all the time */
#define TICK_NS		10000000	/* the longest that kernels have: 100 Hz */

/*
 * @ctime_ns, @stamp: what the last change through this server left
 * @stamped: last_stamp when it came here
 * @epoch: differs whenever the entry is another inode's
 * @session: who began the run, or who changes it now
 * @run, @run_base: of struct wfs_attr; 0 while there is none
 * @busy: changes under way
 */
static struct entry {
	uint64_t	ino;
	int64_t		ctime_ns;
	uint64_t	stamp;
	uint64_t	stamped;
	uint64_t	epoch;
	uint64_t	session;
	uint64_t	run;
	uint64_t	run_base;
	unsigned int	busy;
} table[ENTRIES];
static pthread_mutex_t locks[LOCKS];		/* each: every LOCKS-th entry */
static _Atomic uint64_t last_stamp;

/*
 * One is held while an operation changes a directory, so that what it says about before and after
 * is about itself.  Two are taken in the order of their addresses.
 */
static pthread_mutex_t dir_locks[DIR_LOCKS];

void change_init(void)
{
	uint64_t start;

	for (unsigned int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&locks[i], NULL);
	for (unsigned int i = 0; i < DIR_LOCKS; i++)
		pthread_mutex_init(&dir_locks[i], NULL);
	/* Stamps of the life before must not come again. */
	randombytes_buf(&start, sizeof(start));
	atomic_store(&last_stamp, start);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9;
	x ^= x >> 27;
	x *= 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static int64_t ctime_ns(const struct statx *stx)
{
	return (int64_t)((uint64_t)stx->stx_ctime.tv_sec * 1000000000 + stx->stx_ctime.tv_nsec);
}

static struct entry *lock_entry(uint64_t ino, pthread_mutex_t **lock)
{
	size_t i = mix(ino) % ENTRIES;

	*lock = &locks[i % LOCKS];
	pthread_mutex_lock(*lock);
	return &table[i];
}

static uint64_t next_number(void)
{
	uint64_t n = atomic_fetch_add(&last_stamp, 1) + 1;

	return n ? n : atomic_fetch_add(&last_stamp, 1) + 1;
}

/* The id is random. */
static uint64_t session_number(const struct session *s)
{
	uint64_t n;

	memcpy(&n, s->id, sizeof(n));
	return n;
}

static uint64_t value_of(int64_t ns, uint64_t stamp)
{
	return mix((uint64_t)ns ^ mix(stamp));
}

/* The entry of an inode, made when there is none; NULL when its place is taken.  Locks in any case. */
static struct entry *lock_own_entry(uint64_t ino, pthread_mutex_t **lock)
{
	struct entry *e = lock_entry(ino, lock);

	if (e->ino == ino)
		return e;
	if (e->busy)
		return NULL;
	*e = (struct entry){ .ino = ino, .epoch = next_number() };
	return e;
}

/* Was the entry given its stamp when or after this number came? */
static bool stamped_since(const struct entry *e, uint64_t number)
{
	return e->stamp && (int64_t)(e->stamped - number) >= 0;
}

/*
 * @stamp: from before it was seen that the change had left @ns
 *
 * Of two looks at once that which saw more may come here first.  Otherwise an older ctime is from a clock that was
 * set back.
 */
static void put_stamp(struct entry *e, int64_t ns, uint64_t stamp)
{
	if (stamped_since(e, stamp) &&
	    (ns == e->ctime_ns ? (int64_t)(stamp - e->stamp) < 0 : ns < e->ctime_ns))
		return;
	e->ctime_ns = ns;
	e->stamp = stamp;
	e->stamped = atomic_load(&last_stamp);
}

/**
 * change_seen - what a look at an inode that follows is going to see
 *
 * For change_fill(): changes whose stamp is newer may have come before or after the look.
 */
uint64_t change_seen(void)
{
	return atomic_load(&last_stamp);
}

/* The stamp of a change that was made just now, from before the look at what it left; see change_seen(), too. */
uint64_t change_number(void)
{
	return next_number();
}

/**
 * change_stamp - this server has just changed an inode, on whose behalf does not matter
 * @stx: as it is after that
 * @stamp: of change_number(), from between the two
 */
void change_stamp(const struct statx *stx, uint64_t stamp)
{
	pthread_mutex_t *lock;
	struct entry *e = lock_own_entry(stx->stx_ino, &lock);

	if (e) {
		e->run = 0;
		put_stamp(e, ctime_ns(stx), stamp);
	}
	pthread_mutex_unlock(lock);
}

/**
 * change_begin - a session is about to change an inode, and wants to know later whether it is the only one
 * @ch: for change_end()
 * @fd: the inode
 *
 * What nobody else through this server did in between is known for sure.  A program of this machine is
 * seen when it did it between our changes, not in the midst of one.
 */
void change_begin(struct change *ch, int fd, const struct session *s)
{
	uint64_t session = session_number(s), seen;
	unsigned int looks = 0;
	pthread_mutex_t *lock;
	struct statx stx;
	struct entry *e;
	int64_t ns;

	*ch = (struct change){ 0 };
again:
	seen = change_seen();
	if (stat_fd(fd, &stx))
		return;
	ns = ctime_ns(&stx);
	e = lock_own_entry(stx.stx_ino, &lock);
	if (!e)
		goto out;
	/* A change of ours that ended meanwhile is none of somebody else's. */
	if (!e->busy && e->ctime_ns != ns && stamped_since(e, seen) && ++looks < LOOKS) {
		pthread_mutex_unlock(lock);
		goto again;
	}
	if (e->busy) {
		if (e->session != session)
			e->run = 0;
	} else if (!e->run || e->session != session || e->ctime_ns != ns) {
		e->session = session;
		e->run = next_number();
		e->run_base = value_of(ns, e->ctime_ns == ns ? e->stamp : 0);
	}
	e->busy++;
	ch->ino = e->ino;
	ch->epoch = e->epoch;
	ch->run = e->run;
out:
	pthread_mutex_unlock(lock);
}

/**
 * change_end - it has changed it, or has failed to
 * @ch: of change_begin(); tells the run that the change belongs to, or 0, and the change value that it left
 * @fd: the inode
 * @stx: as it is now
 *
 * Return: 0 or -errno.
 */
int change_end(struct change *ch, int fd, struct statx *stx)
{
	uint64_t stamp = next_number();
	pthread_mutex_t *lock;
	struct entry *e;
	int err;

	err = stat_fd(fd, stx);
	e = lock_own_entry(err ? ch->ino : stx->stx_ino, &lock);
	if (e && ch->epoch && ch->epoch == e->epoch)
		e->busy--;
	if (!e || !ch->run || ch->epoch != e->epoch || ch->run != e->run)
		ch->run = 0;
	else
		ch->run_base = e->run_base;
	if (e && !err) {
		if (!ch->run)
			e->run = 0;
		put_stamp(e, ctime_ns(stx), stamp);
		/* Of the changes in the run all are the session's, and the last one may speak for them. */
		if (ch->run && e->ctime_ns == ctime_ns(stx))
			stamp = e->stamp;
	}
	ch->stamp = e ? stamp : 0;
	pthread_mutex_unlock(lock);
	return err;
}

static void fill(const struct statx *stx, uint64_t stamp, bool racy, uint64_t run, uint64_t run_base,
		 struct wfs_attr *a)
{
	int64_t ns = ctime_ns(stx);
	struct timespec now;

	if (!stamp) {
		int64_t age;

		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		age = (int64_t)((uint64_t)now.tv_sec * 1000000000 + now.tv_nsec - (uint64_t)ns);
		/* A ctime in the future is from before the clock was set back: no better. */
		racy = age < TICK_NS;
	}
	a->change = htole64(value_of(ns, stamp));
	a->flags = htole32(racy ? WFS_ATTR_RACY : 0);
	a->run = htole64(run);
	a->run_base = htole64(run_base);
}

/* What the attributes after a change say of it, even if others have followed. */
void change_fill_own(const struct statx *stx, const struct change *ch, struct wfs_attr *a)
{
	fill(stx, ch->stamp, false, ch->run, ch->run ? ch->run_base : 0, a);
}

/**
 * change_fill - what the attributes say about change: change, flags, run, run_base
 * @seen: of change_seen() or change_number(), from before @stx
 * @s: who is to be told
 */
void change_fill(const struct statx *stx, uint64_t seen, const struct session *s, struct wfs_attr *a)
{
	uint64_t stamp = 0, run = 0, run_base = 0;
	pthread_mutex_t *lock;
	struct entry *e = lock_entry(stx->stx_ino, &lock);
	bool racy = false;

	if (e->ino == stx->stx_ino && e->ctime_ns == ctime_ns(stx)) {
		stamp = e->stamp;
		if (e->run && s && e->session == session_number(s)) {
			run = e->run;
			run_base = e->run_base;
		}
		/* Whoever is told of a run knows its own changes; another's may be missing in what was seen. */
		racy = !run && (int64_t)(stamp - seen) > 0;
	}
	pthread_mutex_unlock(lock);
	fill(stx, stamp, racy, run, run_base, a);
}

static pthread_mutex_t *dir_lock(const struct wfs_fh *fh)
{
	struct wfs_fh key;

	handle_with_rights(fh, 0, &key);
	return &dir_locks[handle_hash(&key) % DIR_LOCKS];
}

/* @b may be @a's directory or NULL. */
void change_lock_dirs(const struct wfs_fh *a, const struct wfs_fh *b)
{
	pthread_mutex_t *la = dir_lock(a), *lb = b ? dir_lock(b) : la;

	pthread_mutex_lock(MIN(la, lb));
	if (la != lb)
		pthread_mutex_lock(MAX(la, lb));
}

void change_unlock_dirs(const struct wfs_fh *a, const struct wfs_fh *b)
{
	pthread_mutex_t *la = dir_lock(a), *lb = b ? dir_lock(b) : la;

	if (la != lb)
		pthread_mutex_unlock(lb);
	pthread_mutex_unlock(la);
}
