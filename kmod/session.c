// SPDX-License-Identifier: GPL-2.0
/*
 * session.c - the connections of one mount
 *
 * A connection belongs to a CPU, and a request goes out on the connection of the CPU that submits it, so that
 * submit, softirq, receive and completion share no lock and no cache line with another CPU.
 */
#include <linux/cpumask.h>
#include <net/net_namespace.h>

#include "internal.h"

static DEFINE_IDA(wfs_session_ids);

/* How long umount waits for the last requests, the CLOSEs among them. */
#define WFS_DRAIN	(2 * HZ)

#define WFS_SPREAD	4	/* connections, that one stream of large requests uses */

/* The connection for a request of this CPU: its own, or the @nth from there on; else any that is ready. */
static struct wfs_conn *wfs_pick_conn(struct wfs_session *sess, unsigned int nth)
{
	unsigned int nr = sess->nr_conns;
	unsigned int own = (raw_smp_processor_id() + nth) % nr;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct wfs_conn *conn = sess->conns[(own + i) % nr];

		if (READ_ONCE(conn->state) == WFS_CONN_READY)
			return conn;
	}
	return sess->conns[own];
}

/**
 * wfs_submit - send a request on one of its session's connections
 * @req: the request, filled in, with @complete set
 */
void wfs_submit(struct wfs_req *req)
{
	unsigned int nth = 0;

	if (req->load)
		this_cpu_add(req->sess->stats->load.asked[req->load], req->len);
	/* a single CPU does not receive as fast as a network brings it */
	if (req->spread)
		nth = this_cpu_inc_return(req->sess->stats->spread) % WFS_SPREAD;
	wfs_conn_submit(wfs_pick_conn(req->sess, nth), req);
}

/**
 * wfs_session_tally - add up what the CPUs have counted for the account
 * @sess: the session
 * @t: the sums, but of @t->delay the least
 */
void wfs_session_tally(struct wfs_session *sess, struct wfs_tally *t)
{
	unsigned int i;
	int cpu;

	memset(t, 0, sizeof(*t));
	for_each_possible_cpu(cpu) {
		const struct wfs_tally *one = &per_cpu_ptr(sess->stats, cpu)->load;

		/* a request may end on another CPU: what has ended first, so that it was asked for */
		for (i = 0; i < WFS_LOAD__COUNT; i++)
			t->came[i] += READ_ONCE(one->came[i]);
		t->wasted += READ_ONCE(one->wasted);
		if (one->delay && (!t->delay || one->delay < t->delay))
			t->delay = one->delay;
	}
	smp_rmb();
	for_each_possible_cpu(cpu)
		for (i = 0; i < WFS_LOAD__COUNT; i++)
			t->asked[i] += READ_ONCE(per_cpu_ptr(sess->stats, cpu)->load.asked[i]);
}

static void wfs_timeout_work(struct work_struct *work)
{
	struct wfs_session *sess = container_of(to_delayed_work(work), struct wfs_session, timeout_work);
	struct wfs_conn *ready;
	unsigned int i;

	for (i = 0; i < sess->nr_conns; i++) {
		wfs_conn_check_timeout(sess->conns[i]);
		ready = wfs_pick_conn(sess, 0);
		if (READ_ONCE(ready->state) == WFS_CONN_READY && ready != sess->conns[i])
			wfs_conn_move_pending(sess->conns[i], ready);
	}
	wfs_dio_check_uncancelled(sess);
	queue_delayed_work(wfs_io_wq, &sess->timeout_work, clamp(wfs_timeo(sess) / 8, 1ul, (unsigned long)HZ));
}

/* Say why the first connection could not be made. */
static int wfs_session_explain(struct wfs_session *sess, struct fs_context *fc)
{
	const struct wfs_conn *conn = sess->conns[0];
	const struct sockaddr_storage *addr = &sess->opt.addr;
	u64 versions = conn->peer_versions;
	int err = conn->error;

	switch (err) {
	case -ECONNREFUSED:
		errorf(fc, "wfs: connection refused: nothing listens at %pISpc (option port=)", addr);
		break;
	case -ETIMEDOUT:
		errorf(fc, "wfs: no answer from %pISpc within %u.%u s (option timeo=)", addr,
		       sess->opt.timeo / 10, sess->opt.timeo % 10);
		break;
	case -ECONNRESET:
	case -EPIPE:
		errorf(fc, "wfs: %pISpc closed the connection instead of answering: not a wfs server?", addr);
		break;
	case -EPROTO:
		errorf(fc, "wfs: %pISpc does not speak the wfs protocol: not a wfs server?", addr);
		break;
	case -EPROTONOSUPPORT:
		errorf(fc, "wfs: %pISpc speaks wfs versions %u to %u, this client %u", addr,
		       lower_32_bits(versions), upper_32_bits(versions), WFS_VERSION);
		break;
	case -ENETUNREACH:
	case -EHOSTUNREACH:
		errorf(fc, "wfs: %pISpc can't be reached: no route to host", addr);
		break;
	default:
		errorf(fc, "wfs: can't connect to %pISpc: error %d", addr, err);
	}
	return err ?: -EIO;
}

static bool wfs_conn_tried(struct wfs_conn *conn)
{
	return READ_ONCE(conn->state) == WFS_CONN_READY || READ_ONCE(conn->attempts);
}

/**
 * wfs_session_create - connect to a server
 * @opt: mount options; the session takes them over, also on failure
 * @fc: where messages go
 *
 * Waits, killable and at most timeo, for the first connection; the others are made in the background.
 *
 * Return: the session or an ERR_PTR.
 */
struct wfs_session *wfs_session_create(struct wfs_options *opt, struct fs_context *fc)
{
	struct wfs_session *sess = kzalloc(sizeof(*sess), GFP_KERNEL);
	unsigned int i, want;
	int err = -ENOMEM;

	if (!sess) {
		kfree(opt->source);
		kfree(opt->path);
		memset(opt, 0, sizeof(*opt));
		return ERR_PTR(-ENOMEM);
	}
	sess->opt = *opt;
	memset(opt, 0, sizeof(*opt));
	sess->net = get_net(fc->net_ns);
	mutex_init(&sess->hello_mutex);
	mutex_init(&sess->wb_mutex);
	spin_lock_init(&sess->wb_lock);
	wfs_commit_init(sess);
	wfs_locks_init(sess);
	spin_lock_init(&sess->account_lock);
	wfs_unread_init(sess);
	wfs_willneed_init(sess);
	wfs_dio_init(sess);
	init_waitqueue_head(&sess->wait);
	INIT_DELAYED_WORK(&sess->timeout_work, wfs_timeout_work);
	wfs_holds_init(sess);
	sess->id = ida_alloc(&wfs_session_ids, GFP_KERNEL);
	if ((int)sess->id < 0) {
		sess->id = UINT_MAX;
		goto err;
	}
	sess->stats = alloc_percpu(struct wfs_op_stats);
	if (!sess->stats)
		goto err;

	sess->conns[0] = wfs_conn_create(sess, 0, cpumask_local_spread(0, NUMA_NO_NODE));
	if (!sess->conns[0])
		goto err;
	sess->nr_conns = 1;
	wfs_conn_start(sess->conns[0]);
	err = wait_event_killable(sess->wait, wfs_conn_tried(sess->conns[0]));
	if (err)
		goto err;
	if (sess->conns[0]->attempts) {
		err = wfs_session_explain(sess, fc);
		goto err;
	}

	want = min(sess->opt.conns, sess->max_conns);
	for (i = 1; i < want; i++) {
		struct wfs_conn *conn;

		conn = wfs_conn_create(sess, i, cpumask_local_spread(i % num_online_cpus(), NUMA_NO_NODE));
		if (!conn) {
			err = -ENOMEM;
			goto err;
		}
		sess->conns[i] = conn;
		sess->nr_conns = i + 1;
		wfs_conn_start(conn);
	}
	sess->opt.conns = want;
	queue_delayed_work(wfs_io_wq, &sess->timeout_work, 1);
	wfs_debugfs_add(sess);
	return sess;
err:
	wfs_session_destroy(sess);
	return ERR_PTR(err);
}

/**
 * wfs_session_abort - umount -f: end all requests now, and new ones until the server answers again
 * @sess: the session
 */
void wfs_session_abort(struct wfs_session *sess)
{
	unsigned int i;

	WRITE_ONCE(sess->forced, true);
	for (i = 0; i < sess->nr_conns; i++)
		wfs_conn_abort(sess->conns[i]);
}

/**
 * wfs_session_umount - from here on no request waits longer than timeo, and nothing of our own holds an inode for long
 * @sess: the session
 */
void wfs_session_umount(struct wfs_session *sess)
{
	WRITE_ONCE(sess->umounting, true);
	wfs_unread_end(sess);
	wfs_willneed_end(sess);
}

static bool wfs_session_holds_none(struct wfs_session *sess)
{
	long held = 0;
	int cpu;

	/* nobody adds to it by now */
	for_each_possible_cpu(cpu)
		held += READ_ONCE(per_cpu_ptr(sess->stats, cpu)->held);
	return !held;
}

/**
 * wfs_session_wait_held - wait until no request holds an inode any more
 * @sess: the session, after wfs_session_umount(): so this takes at most timeo
 */
void wfs_session_wait_held(struct wfs_session *sess)
{
	wait_event(sess->wait, wfs_session_holds_none(sess));
}

static bool wfs_session_idle(struct wfs_session *sess)
{
	unsigned int i;

	for (i = 0; i < sess->nr_conns; i++) {
		struct wfs_conn *conn = sess->conns[i];
		bool idle;

		spin_lock_bh(&conn->lock);
		idle = conn->state != WFS_CONN_READY || (!conn->inflight && list_empty(&conn->pending));
		spin_unlock_bh(&conn->lock);
		if (!idle)
			return false;
	}
	return true;
}

/* Close all connections and free the session.  What is still on its way fails. */
void wfs_session_destroy(struct wfs_session *sess)
{
	unsigned long left = WFS_DRAIN;
	unsigned int i;

	wfs_debugfs_remove(sess);
	disable_work_sync(&sess->close_work);
	if (sess->umounting)
		left = wait_event_timeout(sess->wait, wfs_session_idle(sess), left);
	if (left)
		wfs_session_end(sess, left);
	cancel_delayed_work_sync(&sess->timeout_work);
	/* all at once: one may hold up another */
	for (i = 0; i < sess->nr_conns; i++)
		wfs_conn_close(sess->conns[i]);
	cancel_delayed_work_sync(&sess->commit_work);
	for (i = 0; i < sess->nr_conns; i++)
		wfs_conn_stop(sess->conns[i]);
	for (i = 0; i < sess->nr_conns; i++)
		wfs_conn_destroy(sess->conns[i]);
	wfs_holds_destroy(sess);
	if (sess->id != UINT_MAX)
		ida_free(&wfs_session_ids, sess->id);
	free_percpu(sess->stats);
	put_net(sess->net);
	kfree(sess->opt.source);
	kfree(sess->opt.path);
	/* a path walk under RCU may still look at the options */
	kfree_rcu(sess, rcu);
}
