// SPDX-License-Identifier: GPL-2.0
/*
 * lock.c - flock, POSIX and OFD locks
 *
 * The server decides; what it granted is entered in the VFS's own table too, which knows what a process that
 * ends has locked and what has to be claimed after a restart of the server.  A lock is taken at the server
 * first, and freed here first: so the table never has more than the server, and no two lockers of this
 * mount meet in it.
 *
 * A LOCK must not be overtaken by an UNLOCK of the same owner that is older, nor overtake it, and an UNLOCK
 * can't wait: who exits does not wait for a server that is away.  So a LOCK waits until no UNLOCK is under
 * way, and is done again when one has begun since (struct wfs_unlocks).
 */
#include <linux/filelock.h>
#include <linux/jhash.h>
#include <linux/siphash.h>
#include <linux/wait_bit.h>

#include "internal.h"

#define WFS_LOCK_WAIT		5000u	/* ms that the server may hold a LOCK, at most */
#define WFS_LOCK_PAUSE		(HZ / 10)	/* between two LOCKs when it does not */

static bool wfs_is_flock(const struct file_lock *fl)
{
	return fl->c.flc_flags & FL_FLOCK;
}

/*
 * The number of an owner: another one for each, and nothing that tells where in memory it is.  When an owner
 * is freed its locks are, or are about to be by an UNLOCK that every LOCK of the same number waits for; so
 * the number may be used again when the memory is.
 */
static u64 wfs_lock_owner(const struct wfs_session *sess, fl_owner_t owner)
{
	u64 v = (unsigned long)owner;
	u32 l = v >> 32, r = v;
	unsigned int i;

	/* a Feistel network: a permutation, whatever the function */
	for (i = 0; i < 4; i++) {
		l ^= (u32)siphash_2u32(r, i, &sess->lock_key);
		swap(l, r);
	}
	return (u64)l << 32 | r;
}

static u32 wfs_lock_type(unsigned int type)
{
	switch (type) {
	case F_RDLCK:
		return WFS_LOCK_READ;
	case F_WRLCK:
		return WFS_LOCK_WRITE;
	default:
		return WFS_LOCK_UNLOCK;
	}
}

static void wfs_lock_body(struct wfs_lock_req *body, const struct wfs_session *sess, const struct file_lock *fl,
			  u32 type, u32 flags)
{
	const struct wfs_file *wf = fl->c.flc_file->private_data;

	memset(body, 0, sizeof(*body));
	body->io = wf->io;
	body->owner = cpu_to_le64(wfs_lock_owner(sess, fl->c.flc_owner));
	body->start = cpu_to_le64(fl->fl_start);
	body->end = cpu_to_le64(fl->fl_end);
	body->type = cpu_to_le32(type);
	body->flags = cpu_to_le32(flags | (wfs_is_flock(fl) ? WFS_LOCK_FLOCK : 0));
	body->pid = cpu_to_le32(fl->c.flc_flags & FL_OFDLCK ? WFS_LOCK_PID_OFD : fl->c.flc_pid);
}

/* With GFP_NOFS it is from the mempool, so there always is one. */
static struct wfs_req *wfs_lock_req(struct file_lock *fl, u32 type, u32 flags, gfp_t gfp)
{
	struct wfs_session *sess = wfs_sess(file_inode(fl->c.flc_file)->i_sb);
	const struct wfs_file *wf = fl->c.flc_file->private_data;
	struct wfs_req *req;

	req = wfs_req_alloc(sess, WFS_OP_LOCK, wf->cred, sizeof(struct wfs_lock_req), gfp);
	if (req)
		wfs_lock_body(req->body, sess, fl, type, flags);
	return req;
}

/* ---- UNLOCK ---- */

static struct wfs_unlocks *wfs_unlocks_of(const struct file_lock *fl)
{
	struct inode *inode = file_inode(fl->c.flc_file);

	return &wfs_sess(inode->i_sb)->unlocks[jhash_2words((u32)(unsigned long)inode / 64,
							    (u32)(unsigned long)fl->c.flc_owner / 64,
							    wfs_is_flock(fl)) % WFS_UNLOCKS];
}

static void wfs_unlock_begin(struct wfs_unlocks *u)
{
	atomic_inc(&u->under_way);
	smp_mb__after_atomic();	/* who sees it as begun sees it under way */
	atomic_inc(&u->begun);
	smp_mb__after_atomic();	/* and both before the lock is gone from the table */
}

static void wfs_unlock_end(struct wfs_unlocks *u)
{
	if (atomic_dec_and_test(&u->under_way))
		wake_up_var(&u->under_way);
}

static void wfs_unlock_done(struct wfs_req *req)
{
	/* who aborts all requests (umount -f) may leave it to the end of the session */
	if (req->error && req->error != -ESTALE && !READ_ONCE(req->sess->umounting))
		pr_warn_ratelimited("wfs: %s: a lock could not be freed: %pe\n", req->sess->opt.source,
				    ERR_PTR(req->error));
	wfs_unlock_end(req->private);
	complete(&req->done);
}

/* An UNLOCK of what @fl says, counted with wfs_unlock_begin() by the caller. */
static struct wfs_req *wfs_unlock_req(struct file_lock *fl, struct wfs_unlocks *u)
{
	struct wfs_req *req = wfs_lock_req(fl, WFS_LOCK_UNLOCK, 0, GFP_NOFS);

	/* it has to reach the server */
	req->soft = false;
	req->private = u;
	req->complete = wfs_unlock_done;
	return req;
}

/* Free at the server what it may have granted and nobody has. */
static void wfs_unlock_server(struct file_lock *fl)
{
	struct wfs_unlocks *u = wfs_unlocks_of(fl);
	struct wfs_req *req;

	wfs_unlock_begin(u);
	req = wfs_unlock_req(fl, u);
	wfs_submit(req);
	wfs_req_put(req);
}

/* Has the owner of @fl locks of its bytes in the table?  @lose: which are lost.  A flock leaves it, see wfs_set_lock(). */
static bool wfs_own_locks(struct file *file, struct file_lock *fl, bool lose)
{
	struct file_lock_context *ctx = locks_inode_context(file_inode(file));
	struct file_lock *other;
	bool some = false;

	if (!ctx || wfs_is_flock(fl))
		return false;
	spin_lock(&ctx->flc_lock);
	list_for_each_entry(other, &ctx->flc_posix, c.flc_list) {
		struct wfs_file *wf = other->c.flc_file->private_data;

		if (other->c.flc_owner != fl->c.flc_owner || other->fl_start > fl->fl_end ||
		    fl->fl_start > other->fl_end)
			continue;
		some = true;
		if (lose)
			WRITE_ONCE(wf->lost_lock, true);
	}
	spin_unlock(&ctx->flc_lock);
	return some;
}

/*
 * Nobody knows what the server has of @fl, or the table has no memory for it: so it is freed there.  What the owner had
 * of these bytes before went with it, and is lost.
 */
static void wfs_lock_undo(struct file *file, struct file_lock *fl)
{
	wfs_unlock_server(fl);
	wfs_own_locks(file, fl, true);
}

/* Only in the table of the VFS. */
static void wfs_unlock_local(struct file *file, struct file_lock *fl)
{
	unsigned int type = fl->c.flc_type, flags = fl->c.flc_flags;

	fl->c.flc_type = F_UNLCK;
	fl->c.flc_flags &= ~FL_SLEEP;
	locks_lock_file_wait(file, fl);
	fl->c.flc_type = type;
	fl->c.flc_flags = flags;
}

static int wfs_unlock(struct file *file, struct file_lock *fl)
{
	struct inode *inode = file_inode(file);
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_unlocks *u = wfs_unlocks_of(fl);
	struct wfs_file *wf = file->private_data;
	bool exiting = current->flags & PF_EXITING;
	bool closing = fl->c.flc_flags & FL_CLOSE;
	struct wfs_req *req;
	int err;

	/*
	 * Who gets the lock next is to see what was written under it.  When the data does not arrive the lock is
	 * given back all the same; close(2) and fsync(2) tell.  Who exits has been through wfs_file_flush().
	 */
	if (!exiting && !wfs_flush(inode))
		wfs_settle(inode);

	wfs_unlock_begin(u);
	fl->c.flc_flags |= FL_EXISTS;
	err = locks_lock_file_wait(file, fl);
	fl->c.flc_flags &= ~FL_EXISTS;
	/* what a child closes that it has inherited unlocks nothing; a lock that was lost may have left the table */
	if (err) {
		wfs_unlock_end(u);
		if (err == -ENOENT && !closing)
			WRITE_ONCE(wf->lost_lock, false);
		return err == -ENOENT ? 0 : err;
	}
	WRITE_ONCE(wf->lost_lock, false);
	req = wfs_unlock_req(fl, u);
	wfs_submit(req);
	/* an exit waits for a server that answers, so that the lock is free when its parent hears of it */
	if (exiting && atomic_read(&sess->ready))
		wait_for_completion_timeout(&req->done, HZ);
	/* it is on its way whoever waits; that it would make two locks of one, of which there are too many, is an error */
	if (!exiting && !wait_for_completion_killable(&req->done) && req->error == -ENOLCK)
		err = -ENOLCK;
	wfs_req_put(req);
	return err;
}

/* ---- LOCK ---- */

/* A LOCK has ended.  When its waiter was killed meanwhile it has left the UNLOCK that frees what was granted. */
static void wfs_lock_done(struct wfs_req *req)
{
	struct wfs_req *undo;

	if (!test_and_set_bit(WFS_REQ_ABANDONED, &req->flags)) {
		complete(&req->done);
		return;
	}
	undo = req->private;
	if (test_bit(WFS_REQ_REPLIED, &req->flags) && req->error && req->error != -EIO)
		wfs_unlock_end(undo->private);
	else
		wfs_submit(undo);
	wfs_req_put(undo);
}

/* Send a LOCK and wait for its end; @wait: the server may take its time, and signals are heeded. */
static int wfs_lock_call(struct wfs_req *req, struct file_lock *fl, bool wait)
{
	struct wfs_unlocks *u = wfs_unlocks_of(fl);
	struct wfs_req *cancel, *undo;
	int err;

	req->complete = wfs_lock_done;
	wfs_submit(req);
	err = wait ? wait_for_completion_interruptible(&req->done) : wait_for_completion_killable(&req->done);
	if (err && wait) {
		/* on the same connection, so that it does not overtake */
		cancel = wfs_lock_req(fl, WFS_LOCK_UNLOCK, WFS_LOCK_CANCEL, GFP_NOFS);
		wfs_conn_submit(READ_ONCE(req->conn), cancel);
		wfs_req_put(cancel);
		err = wait_for_completion_killable(&req->done);
	}
	if (!err)
		return req->error;

	wfs_unlock_begin(u);
	undo = wfs_unlock_req(fl, u);
	req->private = undo;
	if (!test_and_set_bit(WFS_REQ_ABANDONED, &req->flags))
		return -EINTR;
	/* the end was faster */
	wait_for_completion(&req->done);
	wfs_unlock_end(u);
	wfs_req_put(undo);
	return req->error;
}

/* Wait until no UNLOCK of the owner is under way; @begun: what wfs_unlocks.begun is then. */
static int wfs_wait_unlocks(struct wfs_unlocks *u, bool sleep, int *begun)
{
	int err;

	for (;;) {
		*begun = atomic_read(&u->begun);
		smp_rmb();	/* pairs with wfs_unlock_begin() */
		if (!atomic_read(&u->under_way))
			return 0;
		if (sleep)
			err = wait_var_event_interruptible(&u->under_way, !atomic_read(&u->under_way));
		else
			err = wait_var_event_killable(&u->under_way, !atomic_read(&u->under_way));
		if (err)
			return err;
	}
}

/* Get the lock from the server.  @begun: as wfs_wait_unlocks(). */
static int wfs_lock_server(struct file *file, struct file_lock *fl, bool sleep, int *begun)
{
	struct wfs_session *sess = wfs_sess(file_inode(file)->i_sb);
	u32 wait = min(WFS_LOCK_WAIT, sess->opt.timeo * 100 / 2);
	struct wfs_lock_req *body;
	unsigned long start;
	struct wfs_req *req;
	bool sure;
	int err;

	for (;;) {
		err = wfs_wait_unlocks(wfs_unlocks_of(fl), sleep, begun);
		if (err)
			return err;
		req = wfs_lock_req(fl, wfs_lock_type(fl->c.flc_type), 0, GFP_KERNEL);
		if (!req)
			return -ENOMEM;
		body = req->body;
		body->wait = cpu_to_le32(sleep ? wait : 0);
		start = jiffies;
		err = wfs_lock_call(req, fl, sleep);
		sure = err == -EINTR || (test_bit(WFS_REQ_REPLIED, &req->flags) && err != -EIO);
		wfs_req_put(req);
		if (err && !sure)
			wfs_lock_undo(file, fl);
		if (err != -EAGAIN || !sleep)
			return err;
		if (signal_pending(current))
			return -ERESTARTSYS;
		/* too many wait there, or it is about to end */
		if (time_before(jiffies, start + msecs_to_jiffies(wait) / 2))
			schedule_timeout_interruptible(WFS_LOCK_PAUSE);
	}
}

/* Inodes that have or had locks are on a list, for wfs_claim_locks(). */
static void wfs_track_locks(struct inode *inode)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_inode *wi = WFS_I(inode);

	spin_lock(&sess->locked_lock);
	if (list_empty(&wi->locked))
		list_add(&wi->locked, &sess->locked);
	spin_unlock(&sess->locked_lock);
}

/* The inode goes. */
void wfs_evict_locks(struct inode *inode)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_inode *wi = WFS_I(inode);

	if (list_empty(&wi->locked))
		return;
	spin_lock(&sess->locked_lock);
	list_del_init(&wi->locked);
	spin_unlock(&sess->locked_lock);
}

static int wfs_set_lock(struct file *file, int cmd, struct file_lock *fl)
{
	struct inode *inode = file_inode(file);
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_unlocks *u = wfs_unlocks_of(fl);
	struct wfs_file *wf = file->private_data;
	bool held = false, had;
	int err, begun;
	u32 claims;

	/* unwritten data would hide what others have written */
	err = wfs_flush(inode);
	if (err)
		return err;
	wfs_track_locks(inode);
	had = wfs_own_locks(file, fl, false);
	for (;;) {
		claims = READ_ONCE(sess->lock_claims);
		err = wfs_lock_server(file, fl, cmd == F_SETLKW, &begun);
		if (err)
			break;
		err = locks_lock_file_wait(file, fl);
		if (err) {
			wfs_lock_undo(file, fl);
			break;
		}
		/*
		 * An UNLOCK that began meanwhile may have freed it there, and when the server restarted the lock may
		 * not have been in the table yet: then there is no telling whether it still has it.
		 */
		smp_mb();
		if (atomic_read(&u->begun) == begun && READ_ONCE(sess->lock_claims) == claims)
			break;
		wfs_unlock_local(file, fl);
		held = true;
	}
	if (err) {
		/* a flock that could not be converted is gone; the server may not have been asked */
		if (held || (wfs_is_flock(fl) && err != -EAGAIN))
			wfs_unlock_server(fl);
		/* what the owner had before has become a part of the lock that was given back */
		if (held && had)
			WRITE_ONCE(wf->lost_lock, true);
		if (wfs_is_flock(fl))
			wfs_unlock_local(file, fl);
		return err;
	}
	/* the lock is there, whatever this says: what can't be asked now is asked before the next use */
	wfs_revalidate_data(inode);
	return 0;
}

/* F_GETLK: who would be in the way? */
static int wfs_test_lock(struct file *file, struct file_lock *fl)
{
	u32 type = wfs_lock_type(fl->c.flc_type);
	unsigned int vfs_type = fl->c.flc_type;
	const struct wfs_lock_rep *rep;
	struct wfs_req *req;
	int err;

	posix_test_lock(file, fl);
	if (fl->c.flc_type != F_UNLCK)
		return 0;
	fl->c.flc_type = vfs_type;
	req = wfs_lock_req(fl, type, WFS_LOCK_TEST, GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	err = wfs_req_call(req);
	if (!err) {
		rep = (const void *)req->rep;
		type = le32_to_cpu(rep->type);
		if (type == WFS_LOCK_UNLOCK) {
			fl->c.flc_type = F_UNLCK;
		} else {
			fl->c.flc_type = type == WFS_LOCK_WRITE ? F_WRLCK : F_RDLCK;
			fl->fl_start = le64_to_cpu(rep->start);
			fl->fl_end = le64_to_cpu(rep->end);
			/* a number of another machine, or of none */
			fl->c.flc_pid = -(pid_t)le32_to_cpu(rep->pid);
		}
	}
	wfs_req_put(req);
	return err;
}

int wfs_lock(struct file *file, int cmd, struct file_lock *fl)
{
	if (fl->c.flc_flags & FL_RECLAIM || cmd == F_CANCELLK)
		return -ENOLCK;
	if (cmd == F_GETLK)
		return wfs_test_lock(file, fl);
	if (fl->c.flc_type == F_UNLCK)
		return wfs_unlock(file, fl);
	return wfs_set_lock(file, cmd, fl);
}

int wfs_flock(struct file *file, int cmd, struct file_lock *fl)
{
	if (fl->c.flc_type == F_UNLCK)
		return wfs_unlock(file, fl);
	return wfs_set_lock(file, cmd, fl);
}

/* ---- after a restart of the server ---- */

/* Call @fn, which must not sleep, for each lock in the table. */
static void wfs_each_lock(struct wfs_session *sess, void (*fn)(struct wfs_session *sess, struct file_lock *fl, void *arg),
			  void *arg)
{
	struct file_lock_context *ctx;
	struct wfs_inode *wi;
	struct file_lock *fl;

	spin_lock(&sess->locked_lock);
	list_for_each_entry(wi, &sess->locked, locked) {
		ctx = locks_inode_context(&wi->inode);
		if (!ctx)
			continue;
		spin_lock(&ctx->flc_lock);
		list_for_each_entry(fl, &ctx->flc_posix, c.flc_list)
			fn(sess, fl, arg);
		list_for_each_entry(fl, &ctx->flc_flock, c.flc_list)
			fn(sess, fl, arg);
		spin_unlock(&ctx->flc_lock);
	}
	spin_unlock(&sess->locked_lock);
}

/* The body of a LOCK that claims @fl again. */
static void wfs_claim_body(struct wfs_lock_req *body, const struct wfs_session *sess, const struct file_lock *fl)
{
	wfs_lock_body(body, sess, fl, wfs_lock_type(fl->c.flc_type), WFS_LOCK_RECLAIM);
}

/* Somebody else may have had the lock that @arg claims, or if it is NULL any: who thinks that he has it must not go on. */
static void wfs_lose_lock(struct wfs_session *sess, struct file_lock *fl, void *arg)
{
	struct wfs_file *wf = fl->c.flc_file->private_data;
	struct wfs_lock_req body;

	wfs_claim_body(&body, sess, fl);
	if (arg && memcmp(&body, arg, sizeof(body)))
		return;
	WRITE_ONCE(wf->lost_lock, true);
	pr_warn_ratelimited("wfs: %s: a lock of inode %lu is lost, who had it gets EIO\n", sess->opt.source,
			    file_inode(fl->c.flc_file)->i_ino);
}

/**
 * struct wfs_lock_claims - the locks that are to be claimed
 * @bodies: room for @max of them
 * @max: may be too little
 * @n: how many there are
 */
struct wfs_lock_claims {
	struct wfs_lock_req	*bodies;
	unsigned int		max;
	unsigned int		n;
};

static void wfs_collect_lock(struct wfs_session *sess, struct file_lock *fl, void *arg)
{
	struct wfs_lock_claims *all = arg;

	if (all->n < all->max)
		wfs_claim_body(&all->bodies[all->n], sess, fl);
	all->n++;
}

/**
 * wfs_locks_lost - the server has forgotten the session: its locks are anybody's
 * @sess: the session
 */
void wfs_locks_lost(struct wfs_session *sess)
{
	WRITE_ONCE(sess->lock_claims, sess->lock_claims + 1);
	smp_mb();	/* pairs with wfs_set_lock(): in the table by now, or asked for again */
	wfs_each_lock(sess, wfs_lose_lock, NULL);
}

static void wfs_lock_refused(struct wfs_session *sess, const void *body, int err)
{
	wfs_each_lock(sess, wfs_lose_lock, (void *)body);
}

/**
 * wfs_claim_locks - claim all locks again after the server has restarted
 * @sess: the session; no connection is ready
 * @sock: a connection that nothing else uses yet
 *
 * What is freed meanwhile sends its UNLOCK when a connection is ready again, so after all this.
 *
 * Return: 0 or a negative errno: all has to be claimed again, on another connection.
 */
int wfs_claim_locks(struct wfs_session *sess, struct socket *sock)
{
	struct wfs_lock_claims all = {};
	int err;

	WRITE_ONCE(sess->lock_claims, sess->lock_claims + 1);
	smp_mb();	/* pairs with wfs_set_lock(): in the table by now, or asked for again */
	while (wfs_each_lock(sess, wfs_collect_lock, &all), all.n > all.max) {
		kvfree(all.bodies);
		all.max = all.n + all.n / 8;
		all.n = 0;
		all.bodies = kvmalloc_array(all.max, sizeof(*all.bodies), GFP_NOFS);
		if (!all.bodies)
			return -ENOMEM;
	}
	err = wfs_claim(sess, sock, WFS_OP_LOCK, all.bodies, sizeof(*all.bodies), all.n, wfs_lock_refused);
	kvfree(all.bodies);
	return err;
}

void wfs_locks_init(struct wfs_session *sess)
{
	get_random_bytes(&sess->lock_key, sizeof(sess->lock_key));
	spin_lock_init(&sess->locked_lock);
	INIT_LIST_HEAD(&sess->locked);
}
