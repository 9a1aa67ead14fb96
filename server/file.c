// SPDX-License-Identifier: GPL-2.0-only
/*
 * file.c - open files by handle: a bounded cache, so that a read costs no open.
 *
 * What nobody used for some seconds is closed, or the space of a file that was deleted behind our
 * back would never come free.  What was written is synced before that: of data that the disk loses later only those
 * are told who have the file open then, and that is to be us.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wfsd.h"

#define SHARDS		64	/* a power of 2 */
#define BUCKETS		512	/* of a shard; a power of 2 */
#define IDLE_SECONDS	5
#define VICTIMS		8	/* looked at for one that can be closed at once */
#define SYNC_EACH	32	/* more files than that are synced by one call for all */
#define EVICT_SECONDS	10	/* most that somebody waits for a descriptor */
#define EVICT		2	/* closes so many of each shard */

LIST_HEAD(file_list, file);
TAILQ_HEAD(file_lru, file);
TAILQ_HEAD(file_idle, file);

static struct shard {
	pthread_mutex_t		lock;		/* this structure, and the links of its files */
	struct file_list	buckets[BUCKETS];
	struct file_lru		lru;		/* used last: at the tail */
	unsigned int		count;
} shards[SHARDS];

/* Nobody uses them any more, and who was the last could not close them. */
static struct file_lru late = TAILQ_HEAD_INITIALIZER(late);
static pthread_mutex_t late_lock = PTHREAD_MUTEX_INITIALIZER;

static struct shard *shard_of(uint64_t hash)
{
	return &shards[hash % SHARDS];
}

static struct file_list *bucket_of(struct shard *sh, uint64_t hash)
{
	return &sh->buckets[hash / SHARDS % BUCKETS];
}

struct file *file_ref(struct file *file)
{
	atomic_fetch_add_explicit(&file->refs, 1, memory_order_relaxed);
	return file;
}

static void free_file(struct file *file)
{
	close(file->fd);
	free(file);
}

void file_put(struct file *file)
{
	if (!file || atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) != 1)
		return;
	free_file(file);
}

/**
 * file_put_later - the same under a loop's lock: to close the last descriptor of a deleted file takes its time
 */
void file_put_later(struct file *file)
{
	if (!file || atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_lock(&late_lock);
	TAILQ_INSERT_TAIL(&late, file, lru);
	pthread_mutex_unlock(&late_lock);
}

static unsigned int close_late(void)
{
	struct file_lru list = TAILQ_HEAD_INITIALIZER(list);
	struct file *file;
	unsigned int n = 0;

	pthread_mutex_lock(&late_lock);
	TAILQ_CONCAT(&list, &late, lru);
	pthread_mutex_unlock(&late_lock);
	while ((file = TAILQ_FIRST(&list))) {
		TAILQ_REMOVE(&list, file, lru);
		free_file(file);
		n++;
	}
	return n;
}

/* Under the shard's lock.  The caller puts the cache's reference when it has let go of that. */
static void unlink_file(struct shard *sh, struct file *file)
{
	LIST_REMOVE(file, hash);
	TAILQ_REMOVE(&sh->lru, file, lru);
	file->cached = false;
	sh->count--;
}

static struct file *find(struct shard *sh, const struct wfs_fh *fh)
{
	struct file *file;

	LIST_FOREACH(file, bucket_of(sh, handle_hash(fh)), hash) {
		if (memcmp(&file->fh, fh, sizeof(*fh)))
			continue;
		file->used = now_seconds();
		TAILQ_REMOVE(&sh->lru, file, lru);
		TAILQ_INSERT_TAIL(&sh->lru, file, lru);
		return file_ref(file);
	}
	return NULL;
}

/**
 * file_new - a file that is not the cache's
 * @fd: taken over, whatever happens
 *
 * Return: the file, with a reference for the caller; NULL without memory.
 */
struct file *file_new(const struct wfs_fh *fh, int fd, bool rdonly)
{
	struct file *file = malloc(sizeof(*file));

	if (!file) {
		close(fd);
		return NULL;
	}
	*file = (struct file){ .fh = *fh, .fd = fd, .refs = 1, .rdonly = rdonly, .sync = SYNC_INIT,
			       .stream_lock = PTHREAD_MUTEX_INITIALIZER };
	return file;
}

/* Data was written through it, and is not on the disk yet. */
void file_wrote(struct file *file)
{
	if (!atomic_load(&file->written))
		atomic_store(&file->written, true);
}

/* Nobody has it in use, and nobody needs it for what has been done; under the shard's lock. */
static bool closable(struct file *file)
{
	return atomic_load(&file->refs) == 1 && !atomic_load(&file->written);
}

static struct file *find_victim(struct shard *sh)
{
	struct file *file = TAILQ_FIRST(&sh->lru);

	for (unsigned int i = 0; file && i < VICTIMS; i++, file = TAILQ_NEXT(file, lru))
		if (closable(file))
			return file;
	return NULL;
}

static struct file *insert(const struct wfs_fh *fh, int fd, bool rdonly)
{
	struct shard *sh = shard_of(handle_hash(fh));
	struct file *file, *other, *victim = NULL;

	file = file_new(fh, fd, rdonly);
	if (!file)
		return NULL;
	pthread_mutex_lock(&sh->lock);
	other = find(sh, fh);
	if (!other) {
		file_ref(file);
		file->cached = true;
		file->used = now_seconds();
		LIST_INSERT_HEAD(bucket_of(sh, handle_hash(fh)), file, hash);
		TAILQ_INSERT_TAIL(&sh->lru, file, lru);
		/* Without a victim there are too many until they are synced. */
		if (++sh->count > cfg.max_files / SHARDS)
			victim = find_victim(sh);
		if (victim)
			unlink_file(sh, victim);
	}
	pthread_mutex_unlock(&sh->lock);

	file_put(victim);
	if (other)
		file_put(file);
	return other ? other : file;
}

/**
 * file_insert - make a descriptor the cache's
 * @fh: its handle
 * @fd: taken over, whatever happens
 *
 * Return: the file, with a reference for the caller; NULL without memory.
 */
struct file *file_insert(const struct wfs_fh *fh, int fd)
{
	return insert(fh, fd, false);
}

static int open_handle(const struct wfs_fh *fh, int flags)
{
	int fd;

	do
		fd = handle_open(fh, flags);
	while ((fd == -EMFILE || fd == -ENFILE) && file_evict(true));
	return fd;
}

/**
 * file_get - the open file that a handle names
 * @cred: of this thread; root's afterwards if the file had to be opened
 *
 * The rights in a handle were granted when it was made, so a file whose descriptor is not at hand
 * is opened again as root: whoever has it open goes on after a chmod and after our restart.  When the
 * disk has become read-only, that is for reading: who may read goes on, and who writes asks
 * file_get_write().
 *
 * Return: 0 or -errno.
 */
int file_get(struct cred *cred, const struct wfs_fh *fh, struct file **file)
{
	static const int modes[] = {
		[0] = O_PATH,
		[FH_READ] = O_RDONLY | O_NONBLOCK | O_NOCTTY,
		[FH_WRITE] = O_WRONLY | O_NONBLOCK | O_NOCTTY,
		[FH_READ | FH_WRITE] = O_RDWR | O_NONBLOCK | O_NOCTTY,
	};
	struct shard *sh = shard_of(handle_hash(fh));
	bool rdonly;
	int fd;

	fd = handle_check(fh);
	if (fd)
		return fd;
	pthread_mutex_lock(&sh->lock);
	*file = find(sh, fh);
	pthread_mutex_unlock(&sh->lock);
	if (*file)
		return 0;

	/* Unlinked, but open somewhere. */
	*file = hold_pinned(fh);
	if (*file)
		return 0;

	cred_root(cred);
	fd = open_handle(fh, modes[handle_rights(fh)]);
	rdonly = fd == -EROFS;
	if (rdonly)
		fd = open_handle(fh, modes[FH_READ]);
	if (fd < 0)
		return fd;
	*file = insert(fh, fd, rdonly);
	return *file ? 0 : -ENOMEM;
}

static void forget(const struct wfs_fh *key)
{
	struct shard *sh = shard_of(handle_hash(key));
	struct file *file;

	pthread_mutex_lock(&sh->lock);
	file = find(sh, key);
	if (file)
		unlink_file(sh, file);
	pthread_mutex_unlock(&sh->lock);
	if (file) {
		file_put(file);
		file_put(file);
	}
}

/* The inode is gone: its descriptors must not keep its blocks. */
void file_forget(const struct wfs_fh *fh)
{
	for (unsigned int rights = 0; rights <= (FH_READ | FH_WRITE); rights++) {
		struct wfs_fh key;

		handle_with_rights(fh, rights, &key);
		forget(&key);
	}
}

/**
 * file_get_write - the same for who writes
 *
 * Return: 0, -EBADF when the handle lacks the right, -EROFS when the disk is read-only, or another
 * -errno.
 */
int file_get_write(struct cred *cred, const struct wfs_fh *fh, struct file **file)
{
	int err = file_get(cred, fh, file);

	if (err)
		return err;
	if (!(handle_rights(fh) & FH_WRITE)) {
		file_put(*file);
		return -EBADF;
	}
	if (!(*file)->rdonly)
		return 0;
	/* It may have become writable again. */
	file_put(*file);
	forget(fh);
	err = file_get(cred, fh, file);
	if (!err && (*file)->rdonly) {
		file_put(*file);
		err = -EROFS;
	}
	return err;
}

/* The open file of the same inode with these rights, if it is in the cache; or NULL. */
struct file *file_cached_as(const struct wfs_fh *fh, unsigned int rights)
{
	struct wfs_fh key;
	struct shard *sh;
	struct file *file;

	handle_with_rights(fh, rights, &key);
	sh = shard_of(handle_hash(&key));
	pthread_mutex_lock(&sh->lock);
	file = find(sh, &key);
	pthread_mutex_unlock(&sh->lock);
	return file;
}

/* Is it to go, of its shard's oldest?  When it is idle, or there are too many. */
static bool too_old(struct shard *sh, struct file *file, time_t before)
{
	return file && (file->used < before || sh->count > cfg.max_files / SHARDS);
}

/* Close up to @max files of a shard that nobody used since @before. */
static unsigned int close_idle(struct shard *sh, time_t before, unsigned int max)
{
	struct file_idle gone = TAILQ_HEAD_INITIALIZER(gone);
	struct file *file, *next;
	unsigned int n = 0;

	pthread_mutex_lock(&sh->lock);
	for (file = TAILQ_FIRST(&sh->lru); too_old(sh, file, before) && n < max; file = next) {
		next = TAILQ_NEXT(file, lru);
		if (!closable(file))
			continue;
		unlink_file(sh, file);
		TAILQ_INSERT_TAIL(&gone, file, idle);
		n++;
	}
	pthread_mutex_unlock(&sh->lock);

	/* Closing the last descriptor of a deleted file takes its time: not under the lock. */
	while ((file = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, file, idle);
		file_put(file);
	}
	return n;
}

/* Of those, up to @max that were written. */
static unsigned int find_written(struct shard *sh, time_t before, unsigned int max, struct file_idle *found)
{
	struct file *file;
	unsigned int n = 0;

	pthread_mutex_lock(&sh->lock);
	for (file = TAILQ_FIRST(&sh->lru); too_old(sh, file, before) && n < max; file = TAILQ_NEXT(file, lru)) {
		if (atomic_load(&file->refs) > 1 || !atomic_load(&file->written))
			continue;
		file_ref(file);
		TAILQ_INSERT_TAIL(found, file, idle);
		n++;
	}
	pthread_mutex_unlock(&sh->lock);
	return n;
}

/* They stay in the cache meanwhile: a COMMIT that comes now has to wait for what we learn. */
static void sync_idle(time_t before, unsigned int max)
{
	struct file_idle found = TAILQ_HEAD_INITIALIZER(found);
	unsigned int n = 0;
	struct file *file;

	for (unsigned int i = 0; i < SHARDS; i++)
		n += find_written(&shards[i], before, max, &found);
	if (n > SYNC_EACH) {
		TAILQ_FOREACH(file, &found, idle)
			atomic_store(&file->written, false);
		sync_all(NULL);
	}
	while ((file = TAILQ_FIRST(&found))) {
		if (n <= SYNC_EACH)
			sync_file(NULL, file, SYNC_DATA);
		TAILQ_REMOVE(&found, file, idle);
		file_put(file);
	}
}

static unsigned int close_all_idle(time_t before, unsigned int max)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < SHARDS; i++)
		n += close_idle(&shards[i], before, max);
	return n + close_late();
}

static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;	/* these four */
static pthread_cond_t idle_wake = PTHREAD_COND_INITIALIZER, idle_done = PTHREAD_COND_INITIALIZER;
static bool evict;			/* somebody needs descriptors */
static unsigned long nrounds, nclosed;

static struct timespec in_seconds(unsigned int seconds)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += seconds;
	return ts;
}

/* Syncs and closes what is idle; a thread of its own, as both may take long. */
static void *idle_main(void *arg)
{
	for (;;) {
		struct timespec second = in_seconds(1);
		bool now;

		pthread_mutex_lock(&idle_lock);
		if (!evict)
			pthread_cond_timedwait(&idle_wake, &idle_lock, &second);
		now = evict;
		evict = false;
		pthread_mutex_unlock(&idle_lock);

		time_t before = now ? now_seconds() + 1 : now_seconds() - IDLE_SECONDS;
		unsigned int max = now ? EVICT : UINT_MAX, n;

		sync_idle(before, max);
		n = close_all_idle(before, max);

		pthread_mutex_lock(&idle_lock);
		nrounds++;
		nclosed += n;
		pthread_cond_broadcast(&idle_done);
		pthread_mutex_unlock(&idle_lock);
	}
	return arg;
}

/**
 * file_evict - there are no descriptors: close some of those that nobody uses
 * @wait: for those that have to be synced first, if there are no others
 *
 * Return: true if some were closed.
 */
bool file_evict(bool wait)
{
	struct timespec until = in_seconds(EVICT_SECONDS);
	unsigned long before, last;
	bool closed;

	if (close_all_idle(now_seconds() + 1, EVICT))
		return true;
	pthread_mutex_lock(&idle_lock);
	before = nclosed;
	/* That which is under way may not see what we have seen. */
	last = nrounds + 2;
	do {
		evict = true;
		pthread_cond_signal(&idle_wake);
	} while (wait && nclosed == before && nrounds < last &&
		 !pthread_cond_timedwait(&idle_done, &idle_lock, &until));
	closed = nclosed != before;
	pthread_mutex_unlock(&idle_lock);
	return closed;
}

unsigned int file_cached(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < SHARDS; i++) {
		pthread_mutex_lock(&shards[i].lock);
		n += shards[i].count;
		pthread_mutex_unlock(&shards[i].lock);
	}
	return n;
}

void file_cache_init(void)
{
	for (unsigned int i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&shards[i].lock, NULL);
		TAILQ_INIT(&shards[i].lru);
	}
	if (thread_start(idle_main, NULL))
		die("no memory for a thread");
}
