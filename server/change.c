// SPDX-License-Identifier: GPL-2.0-only
/*
 * change.c - change values of inodes.
 *
 * ctime moves in ticks of milliseconds, so two changes may leave the same ctime.  Changes that go
 * through this server are told apart by a stamp, which is kept beside the ctime that they left.
 * The table is as small as it is because a stamp matters only while its ctime is the inode's; what
 * it forgets, or never saw, is marked as racy until the tick is over.
 */
#include <pthread.h>
#include <sodium.h>
#include <string.h>

#include "wfsd.h"

#define ENTRIES		65536	/* powers of 2 */
#define LOCKS		256
#define DIR_LOCKS	256
#define TICK_NS		10000000	/* the longest that kernels have: 100 Hz */

static struct entry {
	uint64_t	ino;
	int64_t		ctime_ns;
	uint64_t	stamp;
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

/**
 * change_stamp - this server has just changed an inode
 * @stx: as it is after that
 */
void change_stamp(const struct statx *stx)
{
	uint64_t stamp = atomic_fetch_add(&last_stamp, 1) + 1;
	pthread_mutex_t *lock;
	struct entry *e = lock_entry(stx->stx_ino, &lock);
	int64_t ns = ctime_ns(stx);

	/* Of two changes at once the one that looked later may come here first. */
	if (e->ino != stx->stx_ino || e->ctime_ns != ns || (int64_t)(stamp - e->stamp) > 0)
		*e = (struct entry){ stx->stx_ino, ns, stamp };
	pthread_mutex_unlock(lock);
}

uint64_t change_value(const struct statx *stx, uint32_t *flags)
{
	pthread_mutex_t *lock;
	struct entry *e = lock_entry(stx->stx_ino, &lock);
	int64_t ns = ctime_ns(stx);
	uint64_t stamp = 0;
	struct timespec now;

	if (e->ino == stx->stx_ino && e->ctime_ns == ns)
		stamp = e->stamp;
	pthread_mutex_unlock(lock);

	if (!stamp) {
		int64_t age;

		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		age = (int64_t)((uint64_t)now.tv_sec * 1000000000 + now.tv_nsec - (uint64_t)ns);
		/* A ctime in the future is from before the clock was set back: no better. */
		if (age < TICK_NS)
			*flags |= WFS_ATTR_RACY;
	}
	return mix((uint64_t)ns ^ mix(stamp));
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
