// SPDX-License-Identifier: GPL-2.0-only
/*
 * session.c - sessions, which outlive their connections and this process.
 *
 * A session is the connections of one mount.  It lives on for the length of the lease after the
 * last of them, so that a client whose network broke comes back to it.
 *
 * What has to be known of it after a restart is in a file of its own, <state dir>/<export>.sessions/
 * <id>, which is mapped: a page with struct session_head, then the records of replay.c.  The page cache
 * survives the process, so little is synced: that there is a session which holds something, and that
 * it has lost that, so that a crash of the machine gives nothing to two.  After a restart a session has
 * to claim what it held; for that time, the grace period, others do not get it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wfsd.h"

#define SESSIONS_MAX		4096
#define SETTLE_SECONDS		10	/* after the grace, at most, for requests that come again */
#define BATCH			64
#define LOCK_SECONDS		30	/* that the process before has to end */

LIST_HEAD(session_list, session);

/*
 * These five.  It is taken under loops' locks, so nothing is done under it that could wait for the state directory's
 * disk: no system call there, and no access to a session's head.
 */
static pthread_mutex_t sessions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct session_list sessions = LIST_HEAD_INITIALIZER(sessions);
static struct session_list ended = LIST_HEAD_INITIALIZER(ended);	/* to be freed */
static unsigned int nsessions;
static unsigned int unclaimed;		/* of them, those that have to claim what they held */
static bool stopping;

static atomic_llong grace_end;		/* now_seconds() when the grace ended or will end */
static atomic_bool grace_over;		/* set when nobody can claim any more: under sessions_lock */
static uint64_t life;			/* these three: set before the first thread starts */
static int dir_fd;			/* where the files are; locked: flock(2) */
static unsigned int under_way;		/* operations, when the process before was killed */

#define HEAD_MAGIC	0x32736573736677ull	/* "wfsses2" */
#define HEAD_CLAIMS	0x1	/* it has had holds or locks in the life that wrote this */
#define HEAD_RECLAIM	0x2	/* it has not said yet that it claimed them again */

/* What the file begins with; in this machine's byte order. */
struct session_head {
	uint64_t	magic;		/* set when the rest is */
	uint32_t	file_size;	/* so that another version's file is known */
	_Atomic uint32_t flags;
	int64_t		left;		/* CLOCK_REALTIME seconds when it had a connection last, or 0 */
	_Atomic uint64_t groups[REPLAY_GROUPS / 64];	/* of replay.c: which have their blocks */
	char		boot_id[BOOT_ID_LEN];	/* when it was written: all of the file, or after a crash a part of it */
};
_Static_assert(sizeof(struct session_head) <= SESSION_HEAD_SIZE, "head");

/* Another one whenever the process was started anew. */
uint64_t session_life(void)
{
	return life;
}

/**
 * session_in_grace - may there be sessions that have not claimed yet what they held?
 */
bool session_in_grace(void)
{
	return !atomic_load_explicit(&grace_over, memory_order_acquire);
}

/**
 * session_settling - or requests that were answered before the restart and will come again?
 */
bool session_settling(void)
{
	return session_in_grace() ||
	       now_seconds() < atomic_load_explicit(&grace_end, memory_order_relaxed) +
			       MIN(SETTLE_SECONDS, (time_t)cfg.lease);
}

/* May it claim now what it held before the restart?  Nobody else has anything to claim. */
bool session_may_claim(const struct session *s)
{
	return session_in_grace() && atomic_load_explicit(&s->reclaim, memory_order_relaxed);
}

static void sync_head(struct session *s)
{
	/* of the file's size and blocks too, as fdatasync(2) does */
	if (msync(s->head, SESSION_HEAD_SIZE, MS_SYNC))
		log_limited("--state-dir %s: %s: a crash may give to two what a client holds", cfg.state_dir,
			    strerror(errno));
}

static void sync_dir(void)
{
	if (fsync(dir_fd))
		log_limited("--state-dir %s: %s: a crash may give to two what a client holds", cfg.state_dir,
			    strerror(errno));
}

/*
 * It has claimed what it held, or with @lost can't any more.  That is in its file before others may have it, so that
 * another restart does not let it claim that.
 */
static void claimed(struct session *s, bool lost)
{
	if (!atomic_load(&s->reclaim))
		return;
	atomic_fetch_and(&s->head->flags, ~HEAD_RECLAIM);
	if (lost)
		sync_head(s);
	pthread_mutex_lock(&sessions_lock);
	if (atomic_exchange(&s->reclaim, false) && !--unclaimed && session_in_grace()) {
		atomic_store(&grace_end, now_seconds());
		atomic_store(&grace_over, true);
	}
	pthread_mutex_unlock(&sessions_lock);
}

/**
 * session_claims - there will be something that the session has to claim after a restart: a hold, a lock
 *
 * Context: may wait for the disk; before it is there, and without a lock that others need.
 */
void session_claims(struct session *s)
{
	if (atomic_load(&s->claims))
		return;
	pthread_mutex_lock(&s->head_lock);
	if (!atomic_load(&s->claims)) {
		atomic_fetch_or(&s->head->flags, HEAD_CLAIMS);
		sync_head(s);
		sync_dir();
		atomic_store(&s->claims, true);
	}
	pthread_mutex_unlock(&s->head_lock);
}

/* Connections came or went: let the file say so. */
static void write_left(struct session *s)
{
	pthread_mutex_lock(&s->head_lock);
	s->head->left = atomic_load(&s->left);
	pthread_mutex_unlock(&s->head_lock);
}

/* ---- files ---- */

struct file_name {
	char s[2 * WFS_SESSION_LEN + 1];
};

static struct file_name file_name(const struct session *s)
{
	struct file_name n;

	sodium_bin2hex(n.s, sizeof(n.s), s->id, WFS_SESSION_LEN);
	return n;
}

static int open_session(const struct session *s, int flags)
{
	int fd;

	do
		fd = openat(dir_fd, file_name(s).s, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	while (fd < 0 && (errno == EMFILE || errno == ENFILE) && file_evict(false));
	return fd < 0 ? -errno : fd;
}

/* Blocks that are there cannot be missing when the mapping is written to, which would be SIGBUS. */
static int reserve(int fd, off_t from, off_t len)
{
	return -posix_fallocate(fd, from, len);
}

static int map_session(struct session *s, int fd)
{
	void *p = mmap(NULL, SESSION_FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	s->head = p;
	s->records = (char *)p + SESSION_HEAD_SIZE;
	return 0;
}

static void free_memory(struct session *s)
{
	if (s->head)
		munmap(s->head, SESSION_FILE_SIZE);
	pthread_mutex_destroy(&s->grow);
	pthread_mutex_destroy(&s->head_lock);
	free(s);
}

static struct session *alloc_session(void)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->grow, NULL);
	pthread_mutex_init(&s->head_lock, NULL);
	TAILQ_INIT(&s->cold.jobs);
	for (unsigned int i = 0; i < WFS_CONNS_MAX; i++)
		s->sock[i] = -1;
	return s;
}

static int create_session(struct session **ret)
{
	struct session *s = alloc_session();
	int fd, err;

	if (!s)
		return -ENOMEM;
	randombytes_buf(s->id, sizeof(s->id));
	fd = open_session(s, O_RDWR | O_CREAT | O_EXCL);
	if (fd < 0) {
		free_memory(s);
		return fd;
	}
	err = ftruncate(fd, SESSION_FILE_SIZE) ? -errno : reserve(fd, 0, SESSION_HEAD_SIZE);
	if (!err)
		err = map_session(s, fd);
	close(fd);
	if (err) {
		unlinkat(dir_fd, file_name(s).s, 0);
		free_memory(s);
		return err;
	}
	s->head->file_size = SESSION_FILE_SIZE;
	memcpy(s->head->boot_id, boot_id(), BOOT_ID_LEN);
	atomic_signal_fence(memory_order_release);
	s->head->magic = HEAD_MAGIC;
	*ret = s;
	return 0;
}

/* Can the records of a group be written to?  A restart does not know those that are in memory. */
bool session_has_group(const struct session *s, unsigned int group)
{
	return (atomic_load(&s->have[group / 64]) | atomic_load(&s->head->groups[group / 64])) &
	       1ull << group % 64;
}

/**
 * session_grow - make sure that a group of the session's records can be written to
 *
 * When there is no room on the disk they are kept in memory, and a restart forgets them.
 *
 * Return: 0 or -ENOMEM.
 */
int session_grow(struct session *s, unsigned int group)
{
	_Atomic uint64_t *word = &s->head->groups[group / 64];
	uint64_t bit = 1ull << group % 64;
	size_t offset = group * REPLAY_GROUP_SIZE;
	int fd, err = 0;

	pthread_mutex_lock(&s->grow);
	if (session_has_group(s, group))
		goto out;
	fd = open_session(s, O_RDWR);
	err = fd < 0 ? fd : reserve(fd, SESSION_HEAD_SIZE + offset, REPLAY_GROUP_SIZE);
	if (fd >= 0)
		close(fd);
	if (!err) {
		atomic_fetch_or(word, bit);
		goto out;
	}
	log_limited("--state-dir %s: %s: a restart would forget what a client has done", cfg.state_dir,
		    strerror(-err));
	err = 0;
	if (mmap(s->records + offset, REPLAY_GROUP_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		err = -ENOMEM;
	else
		atomic_fetch_or(&s->have[group / 64], bit);
out:
	pthread_mutex_unlock(&s->grow);
	return err;
}

static int64_t now_real(void)
{
	return time(NULL);
}

static bool same_boot(const struct session_head *h)
{
	return !memcmp(h->boot_id, boot_id(), BOOT_ID_LEN);
}

/* Is the file one that we wrote to the end, and of a session whose lease is not over? */
static bool good_head(const struct session_head *h)
{
	if (h->magic != HEAD_MAGIC || h->file_size != SESSION_FILE_SIZE)
		return false;
	/* That it came back may not have reached the disk. */
	return !h->left || !same_boot(h) || now_real() < h->left + (int64_t)cfg.lease;
}

static int load_session(const char *name)
{
	struct session *s = alloc_session();
	off_t size;
	int fd, err;

	if (!s)
		return -ENOMEM;
	err = sodium_hex2bin(s->id, sizeof(s->id), name, strlen(name), NULL, NULL, NULL) ||
	      strlen(name) != 2 * sizeof(s->id) ? -EINVAL : 0;
	fd = err ? err : open_session(s, O_RDWR);
	if (fd < 0) {
		free_memory(s);
		return fd;
	}
	size = lseek(fd, 0, SEEK_END);
	err = size == SESSION_FILE_SIZE ? reserve(fd, 0, SESSION_HEAD_SIZE) : -EINVAL;
	if (!err)
		err = map_session(s, fd);
	if (!err && !good_head(s->head))
		err = -EINVAL;
	for (unsigned int i = 0; !err && i < REPLAY_GROUPS; i++)
		if (atomic_load(&s->head->groups[i / 64]) & 1ull << i % 64)
			err = reserve(fd, SESSION_HEAD_SIZE + (off_t)i * REPLAY_GROUP_SIZE,
				      REPLAY_GROUP_SIZE);
	close(fd);
	if (err) {
		free_memory(s);
		return err;
	}
	/* One that does not come back is not to be kept by the next restart and the one after. */
	if (!s->head->left || !same_boot(s->head))
		s->head->left = now_real();
	atomic_store(&s->left, s->head->left);
	s->expires = now_seconds() + cfg.lease;
	if (atomic_load(&s->head->flags) & (HEAD_CLAIMS | HEAD_RECLAIM)) {
		atomic_store(&s->head->flags, HEAD_RECLAIM);
		atomic_store(&s->reclaim, true);
		unclaimed++;
	}
	if (same_boot(s->head)) {
		under_way += replay_load(s);
	} else {
		replay_forget(s);
		memcpy(s->head->boot_id, boot_id(), BOOT_ID_LEN);
	}
	LIST_INSERT_HEAD(&sessions, s, list);
	nsessions++;
	return 0;
}

static void load_sessions(void)
{
	DIR *d = fdopendir(dup(dir_fd));
	const struct dirent *e;

	if (!d)
		die("--state-dir %s: %s", cfg.state_dir, strerror(errno));
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (nsessions >= SESSIONS_MAX || load_session(e->d_name))
			unlinkat(dir_fd, e->d_name, 0);
	}
	closedir(d);
}

/* A file can be made here: better to know now than when a client comes. */
static void try_file(void)
{
	int fd = openat(dir_fd, ".try", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int err = fd < 0 ? errno : -reserve(fd, 0, SESSION_HEAD_SIZE);

	if (fd >= 0) {
		close(fd);
		unlinkat(dir_fd, ".try", 0);
	}
	if (err == ENOSPC || err == EDQUOT)
		log_msg("--state-dir %s: %s: there can be no new sessions", cfg.state_dir, strerror(err));
	else if (err)
		die("--state-dir %s: %s", cfg.state_dir, strerror(err));
}

static void sync_state_dir(void)
{
	int fd = open(cfg.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd))
		log_msg("--state-dir %s: %s: a crash may lose the sessions", cfg.state_dir, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/*
 * Where a block is written to another place each time, which is to say on btrfs, one that is there is not enough for
 * reserve(): its files shall not be so.
 */
static void set_in_place(int dir)
{
	int flags;

	if (!ioctl(dir, FS_IOC_GETFLAGS, &flags)) {
		flags |= FS_NOCOW_FL;
		/* Others know no such flag and need none. */
		ioctl(dir, FS_IOC_SETFLAGS, &flags);
	}
}

/**
 * session_lock - from here on the sessions are this process's, until its last thread is gone
 *
 * A process that ends lets go of its port before it has finished what is in flight, and a thread that hangs in a call
 * outlives kill -9.  What such a thread does must be known, by its record, before it can be asked for again here.
 */
void session_lock(void)
{
	static const struct timespec tick = { .tv_nsec = 10000000 };
	char path[PATH_MAX];
	bool told = false;
	time_t until;

	snprintf(path, sizeof(path), "%s/%s.sessions", cfg.state_dir, cfg.export_id);
	if (!mkdir(path, 0700))
		sync_state_dir();
	else if (errno != EEXIST)
		die("%s: %s", path, strerror(errno));
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir_fd < 0)
		die("%s: %s", path, strerror(errno));
	until = now_seconds() + LOCK_SECONDS;
	while (flock(dir_fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			die("locking %s: %s", path, strerror(errno));
		if (now_seconds() >= until)
			die("%s: another wfsd has it and does not end", path);
		if (!told)
			log_msg("%s: waiting for another wfsd, which has it, to end", path);
		told = true;
		nanosleep(&tick, NULL);
	}
	set_in_place(dir_fd);
}

void session_init(void)
{
	do
		randombytes_buf(&life, sizeof(life));
	while (!life);

	try_file();
	load_sessions();
	atomic_store(&grace_end, now_seconds() + (unclaimed ? (time_t)cfg.lease : -SETTLE_SECONDS));
	atomic_store(&grace_over, !unclaimed);
	if (nsessions)
		log_msg("%u sessions go on, %u of them have to claim what they held; "
			"%u operations were under way", nsessions, unclaimed, under_way);
}

/* ---- ends ---- */

/*
 * All that the session has goes: holds, locks, its file.  Called once when the session ends, while
 * requests of it may be under way yet; and again when there are none, before its memory goes.
 */
static void release_all(struct session *s)
{
	hold_end(s);
	lock_session_end(s);
	unlinkat(dir_fd, file_name(s).s, 0);
}

/* Under sessions_lock: no HELLO finds it any more.  end_session() follows, without. */
static void take_out(struct session *s)
{
	LIST_REMOVE(s, list);
	nsessions--;
	s->ended = true;
}

/*
 * Nobody gets what it held before the next restart, too, has forgotten it.  Whoever calls this has taken it out, and
 * is a request of it, or there is none.  @lost: its client may think that it holds something.
 */
static void end_session(struct session *s, bool lost)
{
	unlinkat(dir_fd, file_name(s).s, 0);
	if (lost && (atomic_load(&s->claims) || atomic_load(&s->reclaim)))
		sync_dir();
	claimed(s, false);
	pthread_mutex_lock(&sessions_lock);
	if (!s->users)
		LIST_INSERT_HEAD(&ended, s, list);
	pthread_mutex_unlock(&sessions_lock);
}

/*
 * Under sessions_lock.  There is no room: a session whose client may come back makes room for one
 * that is here.
 */
static struct session *take_out_oldest(void)
{
	struct session *s, *oldest = NULL;

	LIST_FOREACH(s, &sessions, list)
		if (!s->users && (!oldest || s->expires < oldest->expires))
			oldest = s;
	if (oldest)
		take_out(oldest);
	return oldest;
}

/**
 * session_end - its client says that it is done
 */
void session_end(struct session *s)
{
	bool end;

	pthread_mutex_lock(&sessions_lock);
	end = !s->ended;
	if (end)
		take_out(s);
	pthread_mutex_unlock(&sessions_lock);
	if (end) {
		end_session(s, false);
		release_all(s);
	}
}

/**
 * session_reclaimed - its client says that it has claimed all that it held before the restart
 */
void session_reclaimed(struct session *s)
{
	claimed(s, false);
}

/*
 * Who has not claimed what he held by now has lost it: others may have it from here on, so not even another restart
 * may let him claim it.
 */
static void end_grace(void)
{
	struct session *s;
	bool end;

	do {
		pthread_mutex_lock(&sessions_lock);
		LIST_FOREACH(s, &sessions, list)
			if (!stopping && atomic_load(&s->reclaim))
				break;
		end = s && !s->users;
		if (end)
			take_out(s);
		pthread_mutex_unlock(&sessions_lock);
		if (end)
			end_session(s, true);
		else if (s)
			claimed(s, true);
	} while (s);
}

static void end_expired(time_t now)
{
	struct session *s;

	do {
		pthread_mutex_lock(&sessions_lock);
		LIST_FOREACH(s, &sessions, list)
			if (!stopping && !s->users && s->expires <= now)
				break;
		if (s)
			take_out(s);
		pthread_mutex_unlock(&sessions_lock);
		if (s)
			end_session(s, true);
	} while (s);
}

/* Who left did that under a loop's lock, and could not wait for a disk. */
static void write_all_left(void)
{
	struct session *s, *batch[BATCH];
	unsigned int n;

	do {
		n = 0;
		pthread_mutex_lock(&sessions_lock);
		LIST_FOREACH(s, &sessions, list) {
			if (!s->has_left || n == BATCH)
				continue;
			s->has_left = false;
			batch[n++] = s;
		}
		pthread_mutex_unlock(&sessions_lock);
		for (unsigned int i = 0; i < n; i++)
			write_left(batch[i]);
	} while (n == BATCH);
}

/**
 * session_expire - called every second, by the only thread that frees sessions
 */
void session_expire(time_t now)
{
	struct session *s;

	write_all_left();
	if (session_in_grace() && now >= atomic_load(&grace_end))
		end_grace();
	end_expired(now);
	pthread_mutex_lock(&sessions_lock);
	while ((s = LIST_FIRST(&ended))) {
		LIST_REMOVE(s, list);
		pthread_mutex_unlock(&sessions_lock);
		release_all(s);
		free_memory(s);
		pthread_mutex_lock(&sessions_lock);
	}
	pthread_mutex_unlock(&sessions_lock);
}

/* ---- connections ---- */

/* With sessions_lock held afterwards; @gone: made room for it, and has to be ended when that is released. */
static int new_session(struct session **ret, struct session **gone)
{
	struct session *s;
	int err;

	err = create_session(&s);
	if (err)
		return err;
	pthread_mutex_lock(&sessions_lock);
	if (nsessions >= SESSIONS_MAX)
		*gone = take_out_oldest();
	if (nsessions >= SESSIONS_MAX) {
		pthread_mutex_unlock(&sessions_lock);
		release_all(s);
		free_memory(s);
		return -ENFILE;
	}
	LIST_INSERT_HEAD(&sessions, s, list);
	nsessions++;
	*ret = s;
	return 0;
}

/* With sessions_lock held afterwards, if it is found. */
static int find_session(const uint8_t *id, struct session **ret)
{
	struct session *s;

	pthread_mutex_lock(&sessions_lock);
	LIST_FOREACH(s, &sessions, list) {
		if (!sodium_memcmp(s->id, id, WFS_SESSION_LEN)) {
			*ret = s;
			return 0;
		}
	}
	pthread_mutex_unlock(&sessions_lock);
	return -ESTALE;
}

/**
 * session_join - a connection says HELLO
 * @id: all zero for a new session
 * @conn: the connection's index
 * @sock: the connection's
 * @flags: WFS_SESSION_*
 *
 * There is never more than one connection of an index that has a request under way.  So one that
 * still is there, which must be broken without knowing, is shut, and the new one has to wait until
 * the last system call of the old one is over: then a request that comes again is not carried out
 * while it still is.
 *
 * Return: 0, -EBUSY as said, -ESTALE when there is no such session, -ENFILE when there are too
 * many, or what the file system of the state directory says.
 */
int session_join(const uint8_t *id, unsigned int conn, int sock, struct session **ret, uint32_t *flags)
{
	bool fresh = sodium_is_zero(id, WFS_SESSION_LEN);
	struct session *s, *gone = NULL;
	int err;

	err = fresh ? new_session(&s, &gone) : find_session(id, &s);
	if (err)
		return err;
	if (s->sock[conn] >= 0) {
		shutdown(s->sock[conn], SHUT_RDWR);
		err = -EBUSY;
	} else {
		s->users++;
		atomic_store(&s->left, 0);
		s->sock[conn] = sock;
		*flags = (fresh ? 0 : WFS_SESSION_KNOWN) |
			 (atomic_load(&s->reclaim) ? WFS_SESSION_RECLAIM : 0);
		*ret = s;
	}
	pthread_mutex_unlock(&sessions_lock);
	if (gone)
		end_session(gone, true);
	if (!err && !fresh)
		write_left(s);
	return err;
}

/*
 * A connection is no more; nothing is under way on it.  Its socket is closed after that.  Under the loop's lock, so the
 * session's file gets to know it later.
 */
void session_leave(struct session *s, unsigned int conn)
{
	pthread_mutex_lock(&sessions_lock);
	s->sock[conn] = -1;
	if (!--s->users) {
		s->expires = now_seconds() + cfg.lease;
		/* When it is us who go the client did not leave. */
		if (!stopping) {
			atomic_store(&s->left, now_real());
			s->has_left = true;
		}
		if (s->ended)
			LIST_INSERT_HEAD(&ended, s, list);
	}
	pthread_mutex_unlock(&sessions_lock);
}

/**
 * session_stop - the server ends: from here on no session does
 */
void session_stop(void)
{
	pthread_mutex_lock(&sessions_lock);
	stopping = true;
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
