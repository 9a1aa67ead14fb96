// SPDX-License-Identifier: GPL-2.0-only
/*
 * orphan.c - files without a name that somebody has open.
 *
 * An inode whose last link goes while it is held is given another one before that, in
 * <export>/.wfsd/<export id>/<its handle>, which no client sees; so it outlives this process too.  That
 * link goes with the last hold.  After a restart nobody holds anything until it is claimed again, so
 * for that time every file is kept, and what nobody claimed goes at its end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wfsd.h"

#define BUCKETS		1024	/* powers of 2 */
#define LOCKS		256
#define UNHELD_MAX	65536	/* kept only because there was a restart */
#define BATCH		64

struct orphan {
	struct wfs_fh		fh;		/* without rights */
	uint64_t		ino;
	uint32_t		dev_minor;
	LIST_ENTRY(orphan)	list;
};
LIST_HEAD(orphan_list, orphan);

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;	/* the table and what is in it */
static struct orphan_list table[BUCKETS];
static atomic_uint norphans;

/* Held while the last link of an inode goes, or a hold of it comes: one sees the other. */
static pthread_mutex_t inode_locks[LOCKS];

/* dir_fd; read-held while links are made and removed in it. */
static pthread_rwlock_t dir_lock = PTHREAD_RWLOCK_INITIALIZER;
static int dir_fd = -1;
static atomic_bool dir_there;

static pthread_mutex_t *inode_lock(const struct wfs_fh *fh)
{
	struct wfs_fh key;

	handle_with_rights(fh, 0, &key);
	return &inode_locks[handle_hash(&key) % LOCKS];
}

void orphan_lock_inode(const struct wfs_fh *fh)
{
	pthread_mutex_lock(inode_lock(fh));
}

void orphan_unlock_inode(const struct wfs_fh *fh)
{
	pthread_mutex_unlock(inode_lock(fh));
}

/* ---- which there are ---- */

static struct orphan_list *bucket(uint64_t ino)
{
	return &table[(ino ^ ino >> 10) % BUCKETS];
}

/* Under table_lock. */
static struct orphan *find(uint64_t ino, uint32_t dev_minor)
{
	struct orphan *o;

	LIST_FOREACH(o, bucket(ino), list)
		if (o->ino == ino && o->dev_minor == dev_minor)
			return o;
	return NULL;
}

bool orphan_any(void)
{
	return atomic_load_explicit(&norphans, memory_order_relaxed);
}

/**
 * orphan_nlink - how many links clients see of an inode
 */
uint32_t orphan_nlink(const struct statx *stx)
{
	uint32_t hidden = 0;

	if (S_ISREG(stx->stx_mode) && orphan_any()) {
		pthread_mutex_lock(&table_lock);
		hidden = find(stx->stx_ino, stx->stx_dev_minor) != NULL;
		pthread_mutex_unlock(&table_lock);
	} else if (S_ISDIR(stx->stx_mode) && stx->stx_ino == cfg.root_ino && stx->stx_nlink > 2) {
		hidden = atomic_load_explicit(&dir_there, memory_order_relaxed);
	}
	return stx->stx_nlink - MIN(hidden, stx->stx_nlink);
}

static bool insert(const struct wfs_fh *fh, const struct statx *stx)
{
	struct orphan *o = malloc(sizeof(*o));

	if (!o)
		return false;
	*o = (struct orphan){ .ino = stx->stx_ino, .dev_minor = stx->stx_dev_minor };
	handle_with_rights(fh, 0, &o->fh);
	pthread_mutex_lock(&table_lock);
	LIST_INSERT_HEAD(bucket(o->ino), o, list);
	atomic_fetch_add(&norphans, 1);
	pthread_mutex_unlock(&table_lock);
	return true;
}

static void forget(const struct statx *stx)
{
	struct orphan *o;

	pthread_mutex_lock(&table_lock);
	o = find(stx->stx_ino, stx->stx_dev_minor);
	if (o) {
		LIST_REMOVE(o, list);
		atomic_fetch_sub(&norphans, 1);
	}
	pthread_mutex_unlock(&table_lock);
	free(o);
}

/* ---- the directory ---- */

/* With dir_lock held for reading if it is there. */
static bool lock_dir(void)
{
	pthread_rwlock_rdlock(&dir_lock);
	if (dir_fd >= 0)
		return true;
	pthread_rwlock_unlock(&dir_lock);
	return false;
}

static int open_private(int parent, const char *name, bool make)
{
	struct stat st;
	int fd;

	if (make && mkdirat(parent, name, 0700) && errno != EEXIST)
		return -errno;
	fd = open_in(parent, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	/* Somebody else's would be somebody else's to change. */
	if (fstat(fd, &st) || st.st_uid || st.st_mode & 077) {
		close(fd);
		return -EACCES;
	}
	return fd;
}

/* As root, with a umask of 077. */
static int open_dir(bool make)
{
	int top, err = 0;

	pthread_rwlock_wrlock(&dir_lock);
	if (dir_fd < 0) {
		top = open_private(cfg.root_fd, ORPHAN_DIR, make);
		err = top;
		if (top >= 0) {
			atomic_store(&dir_there, true);
			dir_fd = open_private(top, cfg.export_id, make);
			err = dir_fd;
			close(top);
		}
	}
	pthread_rwlock_unlock(&dir_lock);
	return MIN(err, 0);
}

/* Nothing is in it: it goes.  It is not there for no reason, so a listing on the server is as it was. */
static void remove_dir(void)
{
	int top;

	pthread_rwlock_wrlock(&dir_lock);
	if (dir_fd >= 0 && !orphan_any()) {
		close(dir_fd);
		dir_fd = -1;
		top = open_private(cfg.root_fd, ORPHAN_DIR, false);
		if (top >= 0) {
			unlinkat(top, cfg.export_id, AT_REMOVEDIR);
			close(top);
			/* Another export of the file system, around this one or in it, may have its own there. */
			if (!unlinkat(cfg.root_fd, ORPHAN_DIR, AT_REMOVEDIR))
				atomic_store(&dir_there, false);
		}
	}
	pthread_rwlock_unlock(&dir_lock);
}

/* ---- links ---- */

/**
 * orphan_keep - the last link of an inode is about to go: give it one that clients do not see
 * @fh: the inode
 * @fd: of it
 * @stx: what it is
 *
 * As root, with a umask of 077, under the inode's lock.
 *
 * Return: whether it has one.
 */
bool orphan_keep(const struct wfs_fh *fh, int fd, const struct statx *stx)
{
	char name[HANDLE_NAME], path[16];
	bool held = hold_held(fh), known;
	int err;

	if (!held && (!session_settling() || atomic_load(&norphans) >= UNHELD_MAX))
		return false;
	pthread_mutex_lock(&table_lock);
	known = find(stx->stx_ino, stx->stx_dev_minor);
	pthread_mutex_unlock(&table_lock);
	if (known)
		return true;
	handle_name(fh, name);
	snprintf(path, sizeof(path), "%d", fd);
	while (!lock_dir()) {
		err = open_dir(true);
		if (err)
			goto failed;
	}
	if (!insert(fh, stx)) {
		pthread_rwlock_unlock(&dir_lock);
		err = -ENOMEM;
		goto failed;
	}
	err = linkat(cfg.proc_fd, path, dir_fd, name, AT_SYMLINK_FOLLOW) && errno != EEXIST ? -errno : 0;
	pthread_rwlock_unlock(&dir_lock);
	if (!err)
		return true;
	forget(stx);
failed:
	log_limited("a restart would lose an open file that is deleted: %s", strerror(-err));
	return false;
}

/**
 * orphan_drop - it has a name after all, or nobody has it open
 *
 * As root, under the inode's lock.
 */
void orphan_drop(const struct wfs_fh *fh, const struct statx *stx)
{
	char name[HANDLE_NAME];

	handle_name(fh, name);
	if (lock_dir()) {
		unlinkat(dir_fd, name, 0);
		pthread_rwlock_unlock(&dir_lock);
	}
	forget(stx);
}

/**
 * orphan_release - a hold of an inode is gone; if it was the last one and it has no name it goes
 *
 * As root.
 */
void orphan_release(const struct wfs_fh *fh)
{
	char name[HANDLE_NAME];
	struct statx stx;
	bool drop = false;

	handle_name(fh, name);
	orphan_lock_inode(fh);
	if (!session_settling() && !hold_held(fh) && lock_dir()) {
		drop = !statx(dir_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &stx);
		pthread_rwlock_unlock(&dir_lock);
	}
	if (drop) {
		orphan_drop(fh, &stx);
		file_forget(fh);
	}
	orphan_unlock_inode(fh);
}

/* Those that nobody claimed after a restart go. */
static void sweep(void)
{
	struct wfs_fh batch[BATCH];
	unsigned int n;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		struct orphan *o;

		do {
			n = 0;
			pthread_mutex_lock(&table_lock);
			LIST_FOREACH(o, &table[i], list)
				if (n < BATCH && !hold_held(&o->fh))
					batch[n++] = o->fh;
			pthread_mutex_unlock(&table_lock);
			for (unsigned int k = 0; k < n; k++)
				orphan_release(&batch[k]);
		} while (n == BATCH);
	}
}

/**
 * orphan_expire - called every second, by a thread that is root
 */
void orphan_expire(void)
{
	static unsigned int settled, empty;

	/* Once more after a while, for one that was kept at the last moment. */
	if (!session_settling() && settled < 6 && (++settled == 1 || settled == 6))
		sweep();
	empty = orphan_any() ? 0 : empty + 1;
	if (empty == 2)
		remove_dir();
}

/**
 * orphan_init - find those of the life before
 */
void orphan_init(void)
{
	const struct dirent *e;
	char name[HANDLE_NAME];
	DIR *d;

	for (unsigned int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&inode_locks[i], NULL);
	if (open_dir(false))
		return;
	d = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (!d)
		die("%s/%s: %s", cfg.export, ORPHAN_DIR, strerror(errno));
	while ((e = readdir(d))) {
		struct statx stx;
		struct wfs_fh fh;
		bool good = false;
		int fd;

		if (e->d_name[0] == '.')
			continue;
		fd = open_in(dir_fd, e->d_name, O_PATH);
		if (fd >= 0 && !stat_fd(fd, &stx) && !handle_from_fd(fd, 0, &fh)) {
			handle_name(&fh, name);
			good = S_ISREG(stx.stx_mode) && !strcmp(name, e->d_name) && insert(&fh, &stx);
		}
		if (fd >= 0)
			close(fd);
		if (!good)
			unlinkat(dir_fd, e->d_name, 0);
	}
	closedir(d);
}
