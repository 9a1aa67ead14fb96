// SPDX-License-Identifier: GPL-2.0
/*
 * debugfs.c - what a mount does: /sys/kernel/debug/wfs/<mount>/
 *
 *	session	the server, what was agreed with it
 *	conns	a line for each connection
 *	ops	requests and errors by operation
 *	readahead	how busy the mount is, and what readahead does about it
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "internal.h"

static struct dentry *wfs_debugfs_root;

static int session_show(struct seq_file *m, void *unused)
{
	const struct wfs_session *sess = m->private;
	u64 polled = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		polled += READ_ONCE(per_cpu_ptr(sess->stats, cpu)->polled);
	seq_printf(m, "source %s\naddr %pISpc\n", sess->opt.source, &sess->opt.addr);
	seq_printf(m, "conns %u\nready %d\nmax_inflight %u\n", sess->nr_conns, atomic_read(&sess->ready),
		   sess->max_inflight);
	seq_printf(m, "rsize %u\nwsize %u\n", sess->opt.rsize, sess->opt.wsize);
	seq_printf(m, "rdonly %u\nroot_squash %u\n", !!(sess->export_flags & WFS_EXPORT_RDONLY),
		   !!(sess->export_flags & WFS_EXPORT_ROOT_SQUASH));
	seq_printf(m, "polled %llu\n", polled);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(session);

static int conns_show(struct seq_file *m, void *unused)
{
	struct wfs_session *sess = m->private;
	unsigned int i;

	seq_puts(m, "conn cpu state inflight pending sent received requests resent connects error\n");
	for (i = 0; i < sess->nr_conns; i++) {
		struct wfs_conn *conn = sess->conns[i];
		const struct wfs_conn_stats *st = &conn->stats;
		enum wfs_conn_state state;
		unsigned int inflight;
		size_t pending;

		spin_lock_bh(&conn->lock);
		state = conn->state;
		inflight = conn->inflight;
		pending = list_count_nodes(&conn->pending);
		spin_unlock_bh(&conn->lock);
		seq_printf(m, "%u %d %s %u %zu %llu %llu %llu %llu %llu %d\n", conn->index, conn->cpu,
			   wfs_conn_state_name(state), inflight, pending, st->sent, st->received, st->requests,
			   st->resent, st->connects, conn->error);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(conns);

static int ops_show(struct seq_file *m, void *unused)
{
	struct wfs_session *sess = m->private;
	unsigned int op;
	int cpu;

	for (op = WFS_OP_ROOT; op < WFS_OP__COUNT; op++) {
		u64 requests = 0, errors = 0;

		for_each_possible_cpu(cpu) {
			const struct wfs_op_stats *st = per_cpu_ptr(sess->stats, cpu);

			requests += st->requests[op];
			errors += st->errors[op];
		}
		seq_printf(m, "%s %llu %llu\n", wfs_op_name(op), requests, errors);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(ops);

static int readahead_show(struct seq_file *m, void *unused)
{
	struct wfs_session *sess = m->private;
	struct wfs_account a;
	struct wfs_tally t;
	u64 limited = 0;
	int cpu;

	spin_lock(&sess->account_lock);
	a = sess->account;
	spin_unlock(&sess->account_lock);
	wfs_session_tally(sess, &t);
	for_each_possible_cpu(cpu)
		limited += READ_ONCE(per_cpu_ptr(sess->stats, cpu)->limited);
	seq_printf(m, "state %s\nthrottled %llu\nlimited %llu\n", a.state == WFS_AHEAD_BUSY ? "busy" : "open", a.throttled,
		   limited);
	seq_printf(m, "demand_in_flight %llu\nahead_in_flight %llu\ndirect_in_flight %llu\n",
		   wfs_account_in_flight(&t, WFS_LOAD_DEMAND), wfs_account_in_flight(&t, WFS_LOAD_AHEAD),
		   wfs_account_in_flight(&t, WFS_LOAD_DIRECT));
	seq_printf(m, "load %llu\nbudget %llu\nlink %llu\n", wfs_account_load(&t), a.budget, a.link);
	seq_printf(m, "rate %llu\ndelay %llu\nshift %u\n", a.rate, a.delay, a.shift);
	seq_printf(m, "ahead %llu\nwasted %llu\n", t.came[WFS_LOAD_AHEAD], t.wasted);
	seq_printf(m, "unread %ld\nunread_max %ld\nunread_limit %ld\n", atomic_long_read(&sess->unread),
		   atomic_long_read(&sess->unread_max), wfs_unread_limit(sess));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(readahead);

void wfs_debugfs_init(void)
{
	wfs_debugfs_root = debugfs_create_dir("wfs", NULL);
}

void wfs_debugfs_exit(void)
{
	debugfs_remove(wfs_debugfs_root);
}

void wfs_debugfs_add(struct wfs_session *sess)
{
	char name[16];

	snprintf(name, sizeof(name), "%u", sess->id);
	sess->debugfs = debugfs_create_dir(name, wfs_debugfs_root);
	debugfs_create_file("session", 0400, sess->debugfs, sess, &session_fops);
	debugfs_create_file("conns", 0400, sess->debugfs, sess, &conns_fops);
	debugfs_create_file("ops", 0400, sess->debugfs, sess, &ops_fops);
	debugfs_create_file("readahead", 0400, sess->debugfs, sess, &readahead_fops);
}

void wfs_debugfs_remove(struct wfs_session *sess)
{
	debugfs_remove(sess->debugfs);
}
