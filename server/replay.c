// SPDX-License-Identifier: GPL-2.0-only
/*
 * replay.c - exactly once: what was done is remembered, so that a request that comes again is
 * answered and not carried out again.
 *
 * Each slot of each connection of a session has a record, in the session's file (session.c), which
 * is mapped: it costs no system call, and survives kill -9 as the page cache does.  An operation that
 * could answer otherwise the second time leaves its reply there.  Those that make, remove and move
 * names say moreover what they are about to do, just before the system call that does it, both under
 * the lock of the directory; so after kill -9 it can be seen whether it was done.
 *
 * A record belongs to its slot, and that to a connection, of which there is one at a time
 * (session_join()); no lock is needed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "wfsd.h"

enum record_state {
	RECORD_NONE,	/* nothing is known */
	RECORD_INTENT,	/* all but the reply is valid; it may have been done or not */
	RECORD_DONE,	/* the reply is valid */
};

/**
 * struct record - of a slot's last operation that needs one; in a file, so nothing in it is believed
 * @seq, @op, @hash: of the request
 * @redo: it was done before a restart, which forgot the hold that it made or dropped
 * @status: of the reply, a positive errno
 * @was_ino, @was_dev: the inode that the (old) name stood for; or if there was an xattr: 1, 0
 * @pre: of the directories, as in the reply
 */
struct record {
	_Atomic uint32_t	state;
	uint32_t		seq;
	uint64_t		hash;
	uint8_t			op;
	uint8_t			redo;
	uint16_t		body_len;
	uint32_t		status;
	uint32_t		flags;
	uint32_t		was_dev;
	uint64_t		was_ino;
	__le64			pre[2];
	struct wfs_fh		fh, fh2;
	char			name[WFS_NAME_MAX + 1], name2[WFS_NAME_MAX + 1];
	_Alignas(8) uint8_t	body[584];
};
_Static_assert(sizeof(struct record) == REPLAY_RECORD_SIZE, "record");
_Static_assert(sizeof(struct wfs_create_rep) <= sizeof(((struct record *)0)->body) &&
	       sizeof(struct wfs_rename_rep) <= sizeof(((struct record *)0)->body), "body");
_Static_assert(REPLAY_GROUP_SIZE % 4096 == 0, "group");

static void set_state(struct record *rec, enum record_state state)
{
	atomic_store_explicit(&rec->state, state, memory_order_release);
}

static unsigned int record_number(unsigned int conn, unsigned int slot)
{
	return conn * INFLIGHT_MAX + slot;
}

static struct record *record_at(struct session *s, unsigned int n)
{
	return (struct record *)(s->records + (size_t)n * REPLAY_RECORD_SIZE);
}

/* Could the second run answer otherwise than the first? */
static bool is_recorded(const struct request *rq)
{
	switch (rq->op) {
	case WFS_OP_OPEN:
	case WFS_OP_CLOSE:
	case WFS_OP_SETATTR:
	case WFS_OP_CREATE:
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
	case WFS_OP_LINK:
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
	case WFS_OP_RENAME:
	case WFS_OP_SETXATTR:
	case WFS_OP_REMOVEXATTR:
	case WFS_OP_ALLOCATE:
	case WFS_OP_COPY:
		return true;
	case WFS_OP_LOCK:
		return !(rq->flags & WFS_LOCK_RECLAIM);
	default:
		return false;
	}
}

/* Neither the record nor the request has been checked: only one that is equal was. */
static int redo_hold(struct op_ctx *op, struct record *rec)
{
	const struct wfs_create_rep *rep = (void *)rec->body;
	struct wfs_fh fh = rec->op == WFS_OP_CREATE ? rep->entry.fh : op->rq->fh;
	int err;

	if (rec->op == WFS_OP_OPEN || rec->op == WFS_OP_CREATE || rec->op == WFS_OP_CLOSE) {
		err = handle_check(&fh);
		if (err)
			return err;
		cred_root(op->cred);
		if (rec->op == WFS_OP_CLOSE)
			hold_drop(op->session, &fh);
		else
			hold_add(op->session, &fh);
	}
	rec->redo = 0;
	return 0;
}

static int answer_again(struct op_ctx *op, struct record *rec)
{
	int err = rec->redo ? redo_hold(op, rec) : 0;

	if (err)
		return err;
	op->rep->body_len = rec->body_len;
	memcpy(op->rep->body, rec->body, rec->body_len);
	stat_add(&stats.replayed, 1);
	return -(int)rec->status;
}

/**
 * replay_run - carry out an operation that was not carried out yet, or answer as it was answered
 *
 * Return: as op_run(); op->broken when the connection has to be closed, because the request's number
 * is that of another or of one long past.
 */
int replay_run(struct op_ctx *op)
{
	const struct request *rq = op->rq;
	unsigned int n = record_number(op->conn, rq->slot);
	struct record *rec;
	int err;

	if (!is_recorded(rq))
		return op_run(op);
	if (!session_has_group(op->session, n / REPLAY_GROUP)) {
		cred_root(op->cred);
		err = session_grow(op->session, n / REPLAY_GROUP);
		if (err)
			return err;
	}
	rec = record_at(op->session, n);
	if (atomic_load(&rec->state) == RECORD_DONE) {
		if (rec->seq == rq->seq && rec->op == rq->op && rec->hash == rq->hash)
			return answer_again(op, rec);
		if ((int32_t)(rq->seq - rec->seq) <= 0) {
			op->broken = true;
			return -EPROTO;
		}
	}
	set_state(rec, RECORD_NONE);
	op->record = rec;
	err = op_run(op);
	/* A lock that is waited for can be asked for again, whether it was granted or not. */
	if (err == OP_PARKED)
		op->record = NULL;
	replay_done(op, err);
	return err;
}

/**
 * replay_intent - an operation is about to be done
 * @pre: change values of its directories, or NULL
 * @was: what the (old) name stands for now, or NULL when it is free
 *
 * Under the locks of the directories, until replay_done().
 */
void replay_intent(struct op_ctx *op, const __le64 pre[2], const struct statx *was)
{
	const struct request *rq = op->rq;
	struct record *rec = op->record;

	rec->seq = rq->seq;
	rec->op = rq->op;
	rec->hash = rq->hash;
	rec->flags = rq->flags;
	rec->fh = rq->fh;
	rec->fh2 = rq->fh2;
	rec->was_ino = was ? was->stx_ino : 0;
	rec->was_dev = was ? was->stx_dev_minor : 0;
	if (pre)
		memcpy(rec->pre, pre, sizeof(rec->pre));
	memcpy(rec->name, rq->name, strlen(rq->name) + 1);
	if (rq->op == WFS_OP_RENAME)
		memcpy(rec->name2, rq->name2, strlen(rq->name2) + 1);
	set_state(rec, RECORD_INTENT);
}

/**
 * replay_done - an operation has its reply
 *
 * Called by those that take a directory's lock before they release it, so that nothing can happen to
 * the name between what is done and its record; and for all others when they are over.
 */
void replay_done(struct op_ctx *op, int err)
{
	struct record *rec = op->record;

	if (!rec)
		return;
	op->record = NULL;
	rec->redo = 0;
	rec->status = -err;
	rec->body_len = err ? 0 : MIN(op->rep->body_len, sizeof(rec->body));
	memcpy(rec->body, op->rep->body, rec->body_len);
	rec->seq = op->rq->seq;
	rec->op = op->rq->op;
	rec->hash = op->rq->hash;
	set_state(rec, RECORD_DONE);
}

/**
 * replay_passed - a slot counts on, so that its record does not come within reach of its number again
 *
 * Called every 2^28 requests.
 */
void replay_passed(struct session *s, unsigned int conn, const struct request *rq)
{
	unsigned int n = record_number(conn, rq->slot);
	struct record *rec = record_at(s, n);

	if (session_has_group(s, n / REPLAY_GROUP) && rec->seq != rq->seq)
		set_state(rec, RECORD_NONE);
}

/* ---- after a restart ---- */

static bool stat_in(int dirfd, const char *name, struct statx *stx)
{
	return !statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, stx);
}

static bool stands_for(const struct record *rec, int dirfd, const char *name)
{
	struct statx stx;

	return stat_in(dirfd, name, &stx) && stx.stx_ino == rec->was_ino &&
	       stx.stx_dev_minor == rec->was_dev;
}

/* Is it what the request would have made? */
static bool made(const struct record *rec, int dirfd)
{
	struct statx stx;

	if (!stat_in(dirfd, rec->name, &stx))
		return false;
	switch (rec->op) {
	case WFS_OP_CREATE:
		return S_ISREG(stx.stx_mode);
	case WFS_OP_MKDIR:
		return S_ISDIR(stx.stx_mode);
	case WFS_OP_SYMLINK:
		return S_ISLNK(stx.stx_mode);
	case WFS_OP_MKNOD:
		return !S_ISDIR(stx.stx_mode) && !S_ISLNK(stx.stx_mode);
	default:
		return stands_for(rec, dirfd, rec->name);
	}
}

static bool was_done(const struct record *rec, int fd, int fd2)
{
	char path[32];

	switch (rec->op) {
	case WFS_OP_CREATE:
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		return made(rec, fd);
	case WFS_OP_LINK:
		return made(rec, fd2);
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		return !stands_for(rec, fd, rec->name);
	case WFS_OP_RENAME:
		return stands_for(rec, fd2, rec->name2) && !stands_for(rec, fd, rec->name);
	case WFS_OP_SETXATTR:
	case WFS_OP_REMOVEXATTR:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (getxattr(path, rec->name, NULL, 0) < 0)
			return errno == ENODATA && rec->op == WFS_OP_REMOVEXATTR;
		return rec->op == WFS_OP_SETXATTR;
	default:
		return false;
	}
}

static int dir_now(const struct record *rec, unsigned int i, int fd, struct wfs_dir_change *dc)
{
	struct statx stx;
	int err = stat_fd(fd, &stx);

	dc->pre_change = rec->pre[i];
	if (!err)
		attr_fill(&stx, change_seen(), NULL, &dc->attr);
	return err;
}

static int entry_now(const struct record *rec, int dirfd, struct wfs_entry *entry)
{
	int fd = open_in(dirfd, rec->name, O_PATH), err;
	struct statx stx;

	if (fd < 0)
		return fd;
	err = setup_entry(fd, NULL, entry, &stx);
	close(fd);
	return err;
}

/* The reply to what was done, from what there is now. */
static int make_reply(struct record *rec, int fd, int fd2)
{
	union {
		struct wfs_attr		attr;
		struct wfs_create_rep	create;
		struct wfs_make_rep	make;
		struct wfs_link_rep	link;
		struct wfs_unlink_rep	unlink;
		struct wfs_rename_rep	rename;
	} *rep = (void *)rec->body;
	struct wfs_entry entry;
	struct statx stx;
	int err;

	memset(rec->body, 0, sizeof(rec->body));
	switch (rec->op) {
	case WFS_OP_CREATE:
		rec->body_len = sizeof(rep->create);
		rep->create.created = htole32(1);
		err = entry_now(rec, fd, &rep->create.entry) ?: dir_now(rec, 0, fd, &rep->create.dir);
		handle_with_rights(&rep->create.entry.fh, open_rights(rec->flags), &rep->create.io);
		return err;
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
	case WFS_OP_SYMLINK:
		rec->body_len = sizeof(rep->make);
		return entry_now(rec, fd, &rep->make.entry) ?: dir_now(rec, 0, fd, &rep->make.dir);
	case WFS_OP_LINK:
		rec->body_len = sizeof(rep->link);
		err = entry_now(rec, fd2, &entry) ?: dir_now(rec, 0, fd2, &rep->link.dir);
		rep->link.attr = entry.attr;
		return err;
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
		rec->body_len = sizeof(rep->unlink);
		return dir_now(rec, 0, fd, &rep->unlink.dir);
	case WFS_OP_RENAME:
		rec->body_len = sizeof(rep->rename);
		return dir_now(rec, 0, fd, &rep->rename.old_dir) ?:
		       dir_now(rec, 1, fd2, &rep->rename.new_dir);
	default:
		rec->body_len = sizeof(rep->attr);
		err = stat_fd(fd, &stx);
		if (!err)
			attr_fill(&stx, change_seen(), NULL, &rep->attr);
		return err;
	}
}

/* Was it done?  If that can't be told it was not, and will be tried again. */
static bool decide(struct record *rec)
{
	bool two = rec->op == WFS_OP_LINK || rec->op == WFS_OP_RENAME, done;
	int fd, fd2 = -1;

	rec->name[WFS_NAME_MAX] = rec->name2[WFS_NAME_MAX] = 0;
	if (handle_check(&rec->fh) || (two && handle_check(&rec->fh2)))
		return false;
	fd = handle_open(&rec->fh, O_PATH);
	if (two)
		fd2 = handle_open(&rec->fh2, O_PATH);
	done = fd >= 0 && (fd2 >= 0 || !two) && was_done(rec, fd, fd2) && !make_reply(rec, fd, fd2);
	if (fd >= 0)
		close(fd);
	if (fd2 >= 0)
		close(fd2);
	return done;
}

static unsigned int load_record(struct record *rec)
{
	switch (atomic_load(&rec->state)) {
	case RECORD_INTENT:
		if (!decide(rec)) {
			set_state(rec, RECORD_NONE);
			return 1;
		}
		rec->status = 0;
		rec->redo = 1;
		set_state(rec, RECORD_DONE);
		return 1;
	case RECORD_DONE:
		/* Locks went with the process: they are claimed again, or asked for again. */
		if (rec->op == WFS_OP_LOCK || rec->body_len > sizeof(rec->body) ||
		    rec->status > INT_MAX)
			break;
		rec->redo = !rec->status;
		return 0;
	}
	set_state(rec, RECORD_NONE);
	return 0;
}

/**
 * replay_load - what was under way when the process before ended is decided now
 *
 * Before anybody can ask for something, as root.
 *
 * Return: how many operations were under way.
 */
unsigned int replay_load(struct session *s)
{
	unsigned int n = 0;

	for (unsigned int g = 0; g < REPLAY_GROUPS; g++)
		for (unsigned int i = 0; session_has_group(s, g) && i < REPLAY_GROUP; i++)
			n += load_record(record_at(s, g * REPLAY_GROUP + i));
	return n;
}

/**
 * replay_forget - the machine crashed: of what the records say, any part may be missing
 *
 * In place of replay_load().
 */
void replay_forget(struct session *s)
{
	for (unsigned int g = 0; g < REPLAY_GROUPS; g++)
		if (session_has_group(s, g))
			memset(record_at(s, g * REPLAY_GROUP), 0, REPLAY_GROUP_SIZE);
}
