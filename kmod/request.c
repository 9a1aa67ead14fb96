// SPDX-License-Identifier: GPL-2.0
/*
 * request.c - one request: memory, credentials, the wait for its end
 *
 * A request owns all that its reply may be written to, or pins it.  So whoever waits for one may
 * walk away when killed: the reply then lands in memory that nobody looks at, and the last reference frees it.
 */
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>

#include "internal.h"
#include "trace.h"

/*
 * Requests that writeback can always have.  Each is given back when its reply arrives, without any
 * other allocation, so writeback makes progress when there is no memory left.
 */
#define WFS_REQ_RESERVE		64

static struct kmem_cache *wfs_req_cache;
static mempool_t *wfs_req_pool;

int wfs_req_init(void)
{
	BUILD_BUG_ON(WFS_REP_BODY < sizeof(struct wfs_rename_rep));
	BUILD_BUG_ON(WFS_REP_BODY < sizeof(struct wfs_make_rep));

	wfs_req_cache = KMEM_CACHE(wfs_req, SLAB_HWCACHE_ALIGN | SLAB_RECLAIM_ACCOUNT);
	if (!wfs_req_cache)
		return -ENOMEM;
	wfs_req_pool = mempool_create_slab_pool(WFS_REQ_RESERVE, wfs_req_cache);
	if (!wfs_req_pool) {
		kmem_cache_destroy(wfs_req_cache);
		return -ENOMEM;
	}
	return 0;
}

void wfs_req_exit(void)
{
	mempool_destroy(wfs_req_pool);
	kmem_cache_destroy(wfs_req_cache);
}

/**
 * wfs_req_alloc - make a request
 * @sess: the session
 * @op: enum wfs_op
 * @cred: whose request it is; uid, gid and groups go out with it
 * @body_len: bytes of body
 * @gfp: GFP_KERNEL, or GFP_NOFS on the writeback path and for what has to be given back, where this can't fail
 *	while the body fits beside the header in WFS_REQ_HEAD
 *
 * For GFP_NOFS groups that need memory which is not there are left out: what is sent so has its rights by an
 * I/O handle, or needs none.
 *
 * Return: the request, its body zeroed, with one reference, or NULL.
 */
struct wfs_req *wfs_req_alloc(struct wfs_session *sess, u8 op, const struct cred *cred, size_t body_len,
			      gfp_t gfp)
{
	const struct group_info *gi = cred->group_info;
	unsigned int ngroups = min_t(unsigned int, gi->ngroups, WFS_GROUPS_MAX);
	struct wfs_req_hdr *hdr;
	struct wfs_req *req;
	__le32 *groups;
	unsigned int i;
	size_t len;

	/* the reserve is for writeback; and who waits for it can't be killed */
	req = gfp & __GFP_FS ? kmem_cache_alloc(wfs_req_cache, gfp) : mempool_alloc(wfs_req_pool, gfp);
	if (!req)
		return NULL;
	memset(req, 0, offsetof(struct wfs_req, rep));
	req->head = req->head_inline;
	len = sizeof(*hdr) + ngroups * sizeof(*groups) + body_len;
	if (len > WFS_REQ_HEAD) {
		req->head = kmalloc(len, gfp | __GFP_NOWARN);
		if (!req->head && !(gfp & __GFP_FS) && sizeof(*hdr) + body_len <= WFS_REQ_HEAD) {
			req->head = req->head_inline;
			ngroups = 0;
			len = sizeof(*hdr) + body_len;
		} else if (!req->head) {
			/* without a group the caller may have more rights as well as fewer */
			mempool_free(req, wfs_req_pool);
			return NULL;
		}
	}
	memset(req->head, 0, len);
	req->head_len = len;

	hdr = req->head;
	hdr->magic = cpu_to_le32(WFS_MAGIC);
	hdr->op = op;
	hdr->body_len = cpu_to_le32(body_len);
	hdr->uid = cpu_to_le32(from_kuid(&init_user_ns, cred->fsuid));
	hdr->gid = cpu_to_le32(from_kgid(&init_user_ns, cred->fsgid));
	hdr->ngroups = cpu_to_le16(ngroups);
	groups = (__le32 *)(hdr + 1);
	for (i = 0; i < ngroups; i++)
		groups[i] = cpu_to_le32(from_kgid(&init_user_ns, gi->gid[i]));
	req->body = groups + ngroups;

	INIT_LIST_HEAD(&req->link);
	refcount_set(&req->ref, 1);
	init_completion(&req->done);
	req->sess = sess;
	req->op = op;
	req->soft = sess->opt.soft;
	req->bvec = req->bvec_inline;
	req->max_bvec = WFS_REQ_BVECS;
	return req;
}

void wfs_req_put(struct wfs_req *req)
{
	if (!req || !refcount_dec_and_test(&req->ref))
		return;
	if (req->head != req->head_inline)
		kfree(req->head);
	if (req->bvec != req->bvec_inline)
		kfree(req->bvec);
	kvfree(req->buf);
	mempool_free(req, wfs_req_pool);
}

/**
 * wfs_req_bvecs - make room for segments of data
 * @req: the request
 * @want: segments; WFS_REQ_BVECS are there without asking
 * @gfp: for the allocation
 *
 * Without memory the request keeps what it has and gets shorter: look at @max_bvec.
 */
void wfs_req_bvecs(struct wfs_req *req, unsigned int want, gfp_t gfp)
{
	struct bio_vec *bvec;

	if (want <= req->max_bvec)
		return;
	bvec = kmalloc_array(want, sizeof(*bvec), gfp | __GFP_NOWARN);
	if (!bvec)
		return;
	req->bvec = bvec;
	req->max_bvec = want;
}

/**
 * wfs_req_buf - give a request a buffer of its own for data
 * @req: the request
 * @len: bytes, not 0
 * @source: the data goes out; else it comes in
 *
 * Return: 0 or -ENOMEM.
 */
int wfs_req_buf(struct wfs_req *req, size_t len, bool source)
{
	req->buf = kvzalloc(len, GFP_KERNEL);
	if (!req->buf)
		return -ENOMEM;
	req->kvec.iov_base = req->buf;
	req->kvec.iov_len = len;
	iov_iter_kvec(source ? &req->src : &req->dst, source ? ITER_SOURCE : ITER_DEST, &req->kvec, 1, len);
	return 0;
}

/**
 * wfs_req_hold - keep an inode until a request has ended
 * @req: the request, not submitted yet
 * @inode: the inode whose folios it has
 *
 * So an inode that is evicted has no folios that wait for the server: the task that drops the last other
 * reference does not wait for them, and it may be one that was killed.
 */
void wfs_req_hold(struct wfs_req *req, struct inode *inode)
{
	/* fails in the writeback of an inode that is being evicted by umount, which may wait */
	req->inode = igrab(inode);
	if (req->inode)
		this_cpu_inc(req->sess->stats->held);
}

static void wfs_session_unheld(struct wfs_session *sess)
{
	this_cpu_dec(sess->stats->held);
	smp_mb();	/* umount sets the flag, then looks at the count */
	if (READ_ONCE(sess->umounting))
		wake_up_all(&sess->wait);
}

/* Drops the reference of a request that turned out to be the last one. */
void wfs_inode_put_work(struct work_struct *work)
{
	struct inode *inode = &container_of(work, struct wfs_inode, put_work)->inode;
	struct wfs_session *sess = wfs_sess(inode->i_sb);

	iput(inode);
	/* umount goes on when it sees the count, and frees the session after a grace period */
	rcu_read_lock();
	wfs_session_unheld(sess);
	rcu_read_unlock();
}

static void wfs_req_unhold(struct wfs_req *req)
{
	/* eviction may wait for what only our own context brings on */
	if (atomic_add_unless(&req->inode->i_count, -1, 1))
		wfs_session_unheld(req->sess);
	else
		queue_work(wfs_dio_wq, &WFS_I(req->inode)->put_work);
}

/* Bring @req to where nothing of it was sent or received. */
void wfs_req_rewind(struct wfs_req *req)
{
	struct wfs_req_hdr *hdr = req->head;

	hdr->slot = cpu_to_le16(req->slot);
	hdr->seq = cpu_to_le32(req->seq);
	hdr->data_len = cpu_to_le32(iov_iter_count(&req->src));
	req->head_sent = 0;
	req->src_left = req->src;
	req->dst_left = req->dst;
	req->data_len = 0;
	req->error = 0;
	clear_bit(WFS_REQ_REPLIED, &req->flags);
	atomic_set(&req->phases, 2);
}

void wfs_req_set_state(struct wfs_req *req, enum wfs_req_state state)
{
	static const u8 from[] = {	/* the states that a state may follow */
		[WFS_REQ_NEW]		= 0,
		[WFS_REQ_QUEUED]	= BIT(WFS_REQ_NEW),
		[WFS_REQ_SENT]		= BIT(WFS_REQ_QUEUED),
		[WFS_REQ_DONE]		= BIT(WFS_REQ_NEW) | BIT(WFS_REQ_QUEUED) | BIT(WFS_REQ_SENT),
	};

	WARN_ON_ONCE(!(from[state] & BIT(req->state)));
	WRITE_ONCE(req->state, state);
}

/* A READ that the account knows has ended. */
static void wfs_req_came(const struct wfs_req *req)
{
	struct wfs_tally __percpu *load = &req->sess->stats->load;
	u64 delay = ktime_get_ns() - req->start, least = this_cpu_read(load->delay);

	this_cpu_add(load->came[req->load], req->len);
	if (!req->error && (!least || delay < least))
		this_cpu_write(load->delay, delay);
	if (unlikely(READ_ONCE(req->sess->nr_willneed)))
		queue_work(wfs_dio_wq, &req->sess->willneed_work);
}

/**
 * wfs_req_end - count a request as ended, tell its maker and drop the transport's reference
 * @req: the request; @error is set and nothing else knows it any more
 *
 * Context: process, or softirq for a request with @any_context.
 */
void wfs_req_end(struct wfs_req *req)
{
	wfs_req_set_state(req, WFS_REQ_DONE);
	trace_wfs_request_complete(req);
	this_cpu_inc(req->sess->stats->requests[req->op]);
	if (req->error)
		this_cpu_inc(req->sess->stats->errors[req->op]);
	if (req->load)
		wfs_req_came(req);
	if (req->complete)
		req->complete(req);
	if (req->inode)
		wfs_req_unhold(req);
	wfs_req_put(req);
}

/**
 * wfs_req_malformed - a reply's body or data is not what the protocol allows
 * @req: the request, which fails with -EIO.  The stream is still in step: other requests have no part in it.
 */
void wfs_req_malformed(struct wfs_req *req)
{
	pr_warn_ratelimited("wfs: %s: malformed reply to %s\n", req->sess->opt.source, wfs_op_name(req->op));
	req->error = -EIO;
}

static void wfs_req_wake(struct wfs_req *req)
{
	bool killed = test_and_set_bit(WFS_REQ_ABANDONED, &req->flags);

	if (req->settle && !req->error)
		req->settle(req, killed);
	if (req->inode && (killed || test_bit(WFS_REQ_LOST, &req->flags)))
		wfs_changed_unseen(req->inode, req);
	complete(&req->done);
}

/* Was the current task killed, and closes its files now?  Nobody can kill it again. */
bool wfs_killed(void)
{
	return (current->flags & PF_EXITING) && (current->signal->group_exit_code & 0x7f);
}

#define WFS_POLL_FIRST	(10 * NSEC_PER_USEC)

/*
 * Look for @done until it is complete, @until, or somebody else wants this CPU.  Return whether it is complete.
 */
static bool wfs_poll(struct completion *done, u64 until)
{
	while (!completion_done(done)) {
		if (!single_task_running() || need_resched() || fatal_signal_pending(current) ||
		    ktime_get_ns() >= until)
			return false;
		cpu_relax();
	}
	return true;
}

/**
 * wfs_wait - wait for a reply
 * @sess: the session
 * @done: what its coming completes
 *
 * To put an idle CPU to sleep and wake it costs more than many a reply needs to come.  So it is looked for first, for
 * as long as is worth while: the time doubles when replies come soon after it, and is none when they need longer than
 * the option poll allows.  As KVM's halt polling does (virt/kvm/kvm_main.c).
 *
 * Return: 0, or -ERESTARTSYS when the caller was killed.
 */
int wfs_wait(struct wfs_session *sess, struct completion *done)
{
	u32 most = READ_ONCE(sess->opt.poll) * NSEC_PER_USEC;
	u32 poll = min(raw_cpu_read(sess->stats->poll), most);
	u64 start, took;
	int err;

	if (!most)
		return wait_for_completion_killable(done);
	start = ktime_get_ns();
	if (poll && wfs_poll(done, start + poll))
		this_cpu_inc(sess->stats->polled);
	err = wait_for_completion_killable(done);
	took = ktime_get_ns() - start;
	if (took > most)
		poll = 0;
	else if (took > poll)
		poll = min(max(2 * poll, (u32)WFS_POLL_FIRST), most);
	raw_cpu_write(sess->stats->poll, poll);
	return err;
}

static int wfs_req_submit_wait(struct wfs_req *req)
{
	req->complete = wfs_req_wake;
	/* the inode's lock is not for softirq */
	req->any_context = !req->settle && !req->inode;
	/* signals don't reach who is exiting: it waits for timeo at most */
	if (current->flags & PF_EXITING)
		req->soft = true;
	wfs_submit(req);
	if (wfs_wait(req->sess, &req->done)) {
		if (!test_and_set_bit(WFS_REQ_ABANDONED, &req->flags))
			return -EINTR;
		/* the end was faster, and thinks that we are here */
		wait_for_completion(&req->done);
	}
	if (!req->error && wfs_check_data(req->op, req->body, req->buf, req->data_len))
		wfs_req_malformed(req);
	return req->error;
}

/**
 * wfs_req_call - submit a request and wait for its end
 * @req: the request; the caller keeps its reference
 *
 * Return: the request's error, or -EINTR when the caller was killed: nothing is known about the request
 * then, and its results must not be looked at.
 */
int wfs_req_call(struct wfs_req *req)
{
	return wfs_killed() ? -EINTR : wfs_req_submit_wait(req);
}

/**
 * wfs_req_call_change - wfs_req_call() for what changes the data of a file
 * @req: the request; the caller keeps its reference
 * @inode: the file, kept until the request has ended: when the caller does not see that, wfs_changed_unseen() does
 *
 * Return: as wfs_req_call().
 */
int wfs_req_call_change(struct wfs_req *req, struct inode *inode)
{
	if (wfs_killed())
		return -EINTR;
	wfs_req_hold(req, inode);
	return wfs_req_submit_wait(req);
}

/**
 * wfs_req_call_timeout - submit a request and wait a while for its end
 * @req: the request; the caller keeps its reference
 * @timeout: jiffies
 */
void wfs_req_call_timeout(struct wfs_req *req, unsigned long timeout)
{
	req->complete = wfs_req_wake;
	req->any_context = !req->settle;
	wfs_submit(req);
	if (!wait_for_completion_timeout(&req->done, timeout))
		set_bit(WFS_REQ_ABANDONED, &req->flags);
}

/* Copy a name to where a body wants it. */
void wfs_put_name(void *to, const struct qstr *name)
{
	memcpy(to, name->name, name->len);
}
