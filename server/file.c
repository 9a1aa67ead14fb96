// SPDX-License-Identifier: GPL-2.0-only
/*
 * file.c - open files by handle: a bounded cache, so that a read costs no open.
 *
 * What nobody used for some seconds is closed, or the space of a file that was deleted behind our
 * back would never come free.
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

LIST_HEAD(file_list, file);
TAILQ_HEAD(file_lru, file);

static struct shard {
	pthread_mutex_t		lock;		/* this structure, and the links of its files */
	struct file_list	buckets[BUCKETS];
	struct file_lru		lru;		/* used last: at the tail */
	unsigned int		count;
} shards[SHARDS];

static struct shard *shard_of(uint64_t hash)
{
	return &shards[hash % SHARDS];
}

static struct file_list *bucket_of(struct shard *sh, uint64_t hash)
{
	return &sh->buckets[hash / SHARDS % BUCKETS];
}

void file_cache_init(void)
{
	for (unsigned int i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&shards[i].lock, NULL);
		TAILQ_INIT(&shards[i].lru);
	}
}

struct file *file_ref(struct file *file)
{
	atomic_fetch_add_explicit(&file->refs, 1, memory_order_relaxed);
	return file;
}

void file_put(struct file *file)
{
	if (!file || atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) != 1)
		return;
	close(file->fd);
	free(file);
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

static struct file *insert(const struct wfs_fh *fh, int fd, bool rdonly)
{
	struct shard *sh = shard_of(handle_hash(fh));
	struct file *file, *other, *victim = NULL;

	file = malloc(sizeof(*file));
	if (!file) {
		close(fd);
		return NULL;
	}
	*file = (struct file){ .fh = *fh, .fd = fd, .refs = 2, .rdonly = rdonly, .cached = true,
			       .used = now_seconds(), .stream_lock = PTHREAD_MUTEX_INITIALIZER };

	pthread_mutex_lock(&sh->lock);
	other = find(sh, fh);
	if (!other) {
		LIST_INSERT_HEAD(bucket_of(sh, handle_hash(fh)), file, hash);
		TAILQ_INSERT_TAIL(&sh->lru, file, lru);
		if (++sh->count > cfg.max_files / SHARDS) {
			victim = TAILQ_FIRST(&sh->lru);
			unlink_file(sh, victim);
		}
	}
	pthread_mutex_unlock(&sh->lock);

	file_put(victim);
	if (other) {
		close(fd);
		free(file);
		return other;
	}
	return file;
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
	while ((fd == -EMFILE || fd == -ENFILE) && file_evict());
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
	file_forget(fh);
	err = file_get(cred, fh, file);
	if (!err && (*file)->rdonly) {
		file_put(*file);
		err = -EROFS;
	}
	return err;
}

/* The inode is gone: its descriptors must not keep its blocks. */
void file_forget(const struct wfs_fh *fh)
{
	for (unsigned int rights = 0; rights <= (FH_READ | FH_WRITE); rights++) {
		struct wfs_fh key;
		struct shard *sh;
		struct file *file;

		handle_with_rights(fh, rights, &key);
		sh = shard_of(handle_hash(&key));
		pthread_mutex_lock(&sh->lock);
		file = find(sh, &key);
		if (file)
			unlink_file(sh, file);
		pthread_mutex_unlock(&sh->lock);
		if (file) {
			file_put(file);
			file_put(file);
		}
	}
}

/* Close up to @max files of a shard that nobody has in use and nobody used since @before. */
static unsigned int expire_shard(struct shard *sh, time_t before, unsigned int max)
{
	TAILQ_HEAD(, file) gone = TAILQ_HEAD_INITIALIZER(gone);
	struct file *file, *next;
	unsigned int n = 0;

	pthread_mutex_lock(&sh->lock);
	for (file = TAILQ_FIRST(&sh->lru); file && file->used < before && n < max; file = next) {
		next = TAILQ_NEXT(file, lru);
		if (atomic_load(&file->refs) > 1)
			continue;
		unlink_file(sh, file);
		TAILQ_INSERT_TAIL(&gone, file, lru);
		n++;
	}
	pthread_mutex_unlock(&sh->lock);

	/* Closing the last descriptor of a deleted file takes its time: not under the lock. */
	while ((file = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, file, lru);
		file_put(file);
	}
	return n;
}

void file_expire(time_t before)
{
	for (unsigned int i = 0; i < SHARDS; i++)
		expire_shard(&shards[i], before, UINT_MAX);
}

bool file_evict(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < SHARDS; i++)
		n += expire_shard(&shards[i], now_seconds() + 1, 2);
	return n;
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
