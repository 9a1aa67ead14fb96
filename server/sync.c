// SPDX-License-Identifier: GPL-2.0-only
/*
 * sync.c - putting data on the disk, and telling all clients when some of it was lost.
 *
 * The kernel tells of lost data once for each open file.  So of several who sync through one, all have to know what
 * one was told before any of them says that all is well: one call is made at a time, for all who came before it.
 * That it serves many is good for the disk, too.
 */
#include <errno.h>
#include <unistd.h>

#include "wfsd.h"

static struct sync all = SYNC_INIT;		/* of cfg.root_fd */

/* Written data may be lost, whosever it was: all clients have to send again what they still have. */
static void lost(struct cred *cred)
{
	if (cred) {
		cred_root(cred);
		cred_umask(cred, 077);
	}
	verifier_changed();
}

static int call(int fd, enum sync_how how)
{
	switch (how) {
	case SYNC_DATA:
		return fdatasync(fd) ? -errno : 0;
	case SYNC_FILE:
		return fsync(fd) ? -errno : 0;
	default:
		return syncfs(fd) ? -errno : 0;
	}
}

/*
 * @s: of the open file
 * @written: is cleared: what is written after that is not the call's matter any more
 */
static int sync_fd(struct cred *cred, struct sync *s, atomic_bool *written, int fd, enum sync_how how)
{
	uint64_t mine;
	int err;

	pthread_mutex_lock(&s->lock);
	mine = s->begun + 1;
	s->how = MAX(s->how, how);
	while (s->ended < mine) {
		if (s->begun != s->ended) {
			pthread_cond_wait(&s->over, &s->lock);
			continue;
		}
		s->begun++;
		how = s->how;
		s->how = SYNC_DATA;
		pthread_mutex_unlock(&s->lock);

		if (written)
			atomic_store(written, false);
		err = call(fd, how);
		/* EINVAL: this is nothing that could be synced. */
		if (err && err != -EINVAL)
			lost(cred);

		pthread_mutex_lock(&s->lock);
		s->ended = s->begun;
		if (err) {
			s->failed = s->ended;
			s->err = err;
		}
		pthread_cond_broadcast(&s->over);
	}
	err = s->failed >= mine ? s->err : 0;
	pthread_mutex_unlock(&s->lock);
	return err;
}

/**
 * sync_file - put a file's data on the disk, or all of the file
 * @cred: of this thread, which may be root's afterwards; NULL when it always is
 *
 * Return: 0 or -errno; then verifier_get() differs from what it was.
 */
int sync_file(struct cred *cred, struct file *file, enum sync_how how)
{
	return sync_fd(cred, &file->sync, &file->written, file->fd, how);
}

/* The same through another descriptor of it. */
int sync_file_by(struct cred *cred, struct file *file, int fd, enum sync_how how)
{
	return sync_fd(cred, &file->sync, NULL, fd, how);
}

/* The same of the whole export. */
int sync_all(struct cred *cred)
{
	return sync_fd(cred, &all, NULL, cfg.root_fd, SYNC_ALL);
}
