// SPDX-License-Identifier: GPL-2.0
/*
 * commit.c - data that the server has taken and that is not on its disk yet
 *
 * Until a COMMIT has brought it there a restart of the server's machine loses such data, and the verifier tells.
 * So an inode that has some is on the session's list and is dirty (I_DIRTY_DATASYNC), which keeps it in memory;
 * when a reply shows another verifier than the data's own, the data is gone and whoever has the file open is
 * told: EIO.
 *
 * What a COMMIT covers is told by a count of COMMITs: the WRITEs that were answered before it was sent.
 */
#include <linux/writeback.h>

#include "internal.h"

/* Of the flusher: at most one COMMIT of the whole export in as long. */
#define WFS_COMMIT_DELAY	(10 * HZ)

/* Uncommitted data is gone; wfs_inode.lock held. */
static void wfs_lost(struct wfs_inode *wi)
{
	struct inode *inode = &wi->inode;

	if (!test_and_set_bit(WFS_INO_LOST_DATA, &wi->flags))
		pr_warn_ratelimited("wfs: %s: the server lost data of inode %lu before it was on its disk\n",
				    wfs_sess(inode->i_sb)->opt.source, inode->i_ino);
	mapping_set_error(inode->i_mapping, -EIO);
	/* the file is not what is cached of it */
	set_bit(WFS_INO_STALE_DATA, &wi->flags);
}

/* The server took data under @verifier; wfs_inode.lock held. */
static void wfs_took(struct wfs_inode *wi, u64 verifier)
{
	if (wi->verifier != verifier)
		wfs_lost(wi);
	wi->verifier = verifier;
	wi->uncommitted_seq = atomic64_read(&wfs_sess(wi->inode.i_sb)->commit_seq);
}

/**
 * wfs_uncommitted - the server took data of a file and has not said that it is on its disk
 * @inode: the file
 * @verifier: from the reply that said so
 *
 * Context: process; may hold spinlocks.
 */
void wfs_uncommitted(struct inode *inode, u64 verifier)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_inode *wi = WFS_I(inode);
	bool known;

	spin_lock(&wi->lock);
	known = test_bit(WFS_INO_UNCOMMITTED, &wi->flags);
	if (known)
		wfs_took(wi, verifier);
	spin_unlock(&wi->lock);
	if (known)
		return;

	spin_lock(&sess->uncommitted_lock);
	spin_lock(&wi->lock);
	if (!test_and_set_bit(WFS_INO_UNCOMMITTED, &wi->flags)) {
		list_add_tail(&wi->uncommitted, &sess->uncommitted);
		wi->verifier = verifier;
	}
	wfs_took(wi, verifier);
	spin_unlock(&wi->lock);
	spin_unlock(&sess->uncommitted_lock);
	__mark_inode_dirty(inode, I_DIRTY_DATASYNC);
}

static void wfs_forget(struct wfs_inode *wi)
{
	clear_bit(WFS_INO_UNCOMMITTED, &wi->flags);
	list_del_init(&wi->uncommitted);
}

/* A COMMIT with number @seq brought @verifier.  Return whether data is gone.  uncommitted_lock held. */
static bool wfs_committed(struct wfs_inode *wi, u64 seq, u64 verifier)
{
	bool lost = false;

	spin_lock(&wi->lock);
	if (test_bit(WFS_INO_UNCOMMITTED, &wi->flags)) {
		lost = wi->verifier != verifier;
		if (lost)
			wfs_lost(wi);
		if (wi->uncommitted_seq < seq)
			wfs_forget(wi);
	}
	spin_unlock(&wi->lock);
	return lost;
}

/* The disk has failed: whoever has the file open is told, once. */
static void wfs_commit_failed(struct wfs_inode *wi, u64 seq, int err)
{
	struct wfs_session *sess = wfs_sess(wi->inode.i_sb);

	mapping_set_error(wi->inode.i_mapping, err);
	set_bit(WFS_INO_STALE_DATA, &wi->flags);
	spin_lock(&sess->uncommitted_lock);
	spin_lock(&wi->lock);
	if (test_bit(WFS_INO_UNCOMMITTED, &wi->flags) && wi->uncommitted_seq < seq)
		wfs_forget(wi);
	spin_unlock(&wi->lock);
	spin_unlock(&sess->uncommitted_lock);
}

/**
 * wfs_evict_uncommitted - an inode goes: its last link is gone, or the file system is unmounted
 * @inode: the inode
 */
void wfs_evict_uncommitted(struct inode *inode)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	struct wfs_inode *wi = WFS_I(inode);

	/* nobody writes to it any more */
	if (!test_bit(WFS_INO_UNCOMMITTED, &wi->flags))
		return;
	spin_lock(&sess->uncommitted_lock);
	wfs_forget(wi);
	spin_unlock(&sess->uncommitted_lock);
}

static struct wfs_req *wfs_commit_req(struct wfs_session *sess, const struct wfs_fh *fh, u32 flags)
{
	struct wfs_commit_req *body;
	struct wfs_req *req;

	/* from the mempool, so there always is one: umount could not say that it was not sent */
	req = wfs_req_alloc(sess, WFS_OP_COMMIT, current_cred(), sizeof(*body), GFP_NOFS);
	body = req->body;
	body->fh = *fh;
	body->flags = cpu_to_le32(flags);
	return req;
}

/**
 * wfs_commit - bring what the server has to stable storage
 * @inode: file or directory
 * @datasync: the times may wait
 *
 * Return: 0 or a negative errno; data that is gone is in the mapping's error too.
 */
int wfs_commit(struct inode *inode, bool datasync)
{
	struct wfs_session *sess = wfs_sess(inode->i_sb);
	bool regular = S_ISREG(inode->i_mode);
	struct wfs_inode *wi = WFS_I(inode);
	const struct wfs_commit_rep *rep;
	struct wfs_req *req;
	struct wfs_fh fh;
	bool lost;
	u64 seq;
	int err;

	spin_lock(&wi->lock);
	fh = regular && wi->write_io.len ? wi->write_io : wi->fh;
	spin_unlock(&wi->lock);
	req = wfs_commit_req(sess, &fh, datasync ? WFS_COMMIT_DATASYNC : 0);
	clear_bit(WFS_INO_UNSETTLED, &wi->flags);
	seq = atomic64_inc_return(&sess->commit_seq);
	err = wfs_req_call(req);
	if (err) {
		set_bit(WFS_INO_UNSETTLED, &wi->flags);
		if (err == -EIO || err == -ENOSPC || err == -EDQUOT)
			wfs_commit_failed(wi, seq, err);
		goto out;
	}
	rep = (const void *)req->rep;
	spin_lock(&sess->uncommitted_lock);
	lost = wfs_committed(wi, seq, le64_to_cpu(rep->verifier));
	spin_unlock(&sess->uncommitted_lock);
	err = wfs_update_attr_wire(inode, &rep->attr, req->start, regular ? WFS_ATTR_WROTE : WFS_ATTR_SEEN);
	if (lost)
		err = -EIO;
out:
	wfs_req_put(req);
	return err;
}

/* One COMMIT for all files, those that are open nowhere any more among them. */
static int wfs_commit_all(struct wfs_session *sess)
{
	struct wfs_req *req = wfs_commit_req(sess, &sess->root_fh, WFS_COMMIT_ALL);
	const struct wfs_commit_rep *rep;
	struct wfs_inode *wi, *next;
	u64 seq;
	int err;

	WRITE_ONCE(sess->changed, false);
	seq = atomic64_inc_return(&sess->commit_seq);
	err = wfs_req_call(req);
	if (err) {
		WRITE_ONCE(sess->changed, true);
		goto out;
	}
	rep = (const void *)req->rep;
	spin_lock(&sess->uncommitted_lock);
	list_for_each_entry_safe(wi, next, &sess->uncommitted, uncommitted)
		if (wfs_committed(wi, seq, le64_to_cpu(rep->verifier)))
			err = -EIO;
	spin_unlock(&sess->uncommitted_lock);
out:
	wfs_req_put(req);
	return err;
}

static bool wfs_need_commit(struct wfs_session *sess)
{
	bool some;

	spin_lock(&sess->uncommitted_lock);
	some = !list_empty(&sess->uncommitted);
	spin_unlock(&sess->uncommitted_lock);
	return some;
}

/**
 * wfs_sync_fs - sync(2), syncfs(2), umount: bring all that was changed to stable storage
 * @sb: the mount
 * @wait: 0 for a first round, which waits for what is being written where that can be killed
 */
int wfs_sync_fs(struct super_block *sb, int wait)
{
	struct wfs_session *sess = wfs_sess(sb);

	/* what follows in the VFS waits without regard to signals; umount must not skip it, and is soft */
	if (!wait)
		return READ_ONCE(sess->umounting) ? 0 : wfs_wait_writes(sess);
	if (!READ_ONCE(sess->changed) && !wfs_need_commit(sess))
		return 0;
	return wfs_commit_all(sess);
}

/**
 * wfs_write_inode - the inode was dirty long enough: is its data on the server's disk by now?
 * @inode: the inode
 * @wbc: who asks
 */
int wfs_write_inode(struct inode *inode, struct writeback_control *wbc)
{
	struct wfs_inode *wi = WFS_I(inode);
	int err = 0;

	if (test_bit(WFS_INO_UNCOMMITTED, &wi->flags)) {
		if (wbc->sync_mode == WB_SYNC_ALL && !wbc->for_sync)
			err = wfs_commit(inode, true);
		else if (!wbc->for_sync && !wfs_is_dirty(inode))
			/* the flusher must not wait for a disk; wfs_sync_fs() comes after for_sync */
			queue_delayed_work(wfs_dio_wq, &wfs_sess(inode->i_sb)->commit_work, WFS_COMMIT_DELAY);
	}
	/* it must not be forgotten, nor before somebody was told what is lost */
	if (test_bit(WFS_INO_UNCOMMITTED, &wi->flags) || test_bit(WFS_INO_LOST_DATA, &wi->flags))
		__mark_inode_dirty(inode, I_DIRTY_DATASYNC);
	return err;
}

static void wfs_commit_work(struct work_struct *work)
{
	struct wfs_session *sess = container_of(to_delayed_work(work), struct wfs_session, commit_work);

	if (wfs_need_commit(sess))
		wfs_commit_all(sess);
}

void wfs_commit_init(struct wfs_session *sess)
{
	spin_lock_init(&sess->uncommitted_lock);
	INIT_LIST_HEAD(&sess->uncommitted);
	INIT_DELAYED_WORK(&sess->commit_work, wfs_commit_work);
}
