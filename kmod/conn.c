// SPDX-License-Identifier: GPL-2.0
/*
 * conn.c - one TCP connection: send, receive, recover
 *
 * The way of a request: wfs_conn_submit() puts it on the pending list and, when nobody else is
 * sending, sends it in the caller's context.  wfs_conn_next() gives it a slot.  The server's reply raises
 * sk_data_ready, where wfs_recv_skb() finds the request by the reply's slot and copies the data from the socket's
 * buffers to where the request wants it.  wfs_conn_end_done() calls the request's maker.  For a small reply all of that
 * happens in softirq, on the CPU where the packet came in.  A large one, and what can't be done there because the socket
 * is busy or because the maker may sleep, is left to io_work on the connection's CPU.  Nobody waits on the way.
 *
 * All errors funnel into wfs_conn_break() and from there into recover_work, the one place that tears the
 * socket down, decides which requests are sent again, and connects.
 */
#include <linux/sched/mm.h>
#include <linux/skbuff.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "internal.h"
#include "trace.h"

#define WFS_IO_BUDGET		msecs_to_jiffies(1)	/* io_work yields its CPU after this */
#define WFS_IO_BYTES		SZ_1M			/* it receives in one go */
#define WFS_SOFTIRQ_BYTES	SZ_8K			/* sk_data_ready receives, and leaves more to io_work */
#define WFS_BATCH		4			/* requests on their way from which on those that may wait do */
#define WFS_RETRY_MIN		msecs_to_jiffies(50)	/* delay before the second attempt to connect, then doubled */
#define WFS_RETRY_MAX		(2 * HZ)
#define WFS_SEND_RETRY		msecs_to_jiffies(20)	/* when TCP had no memory to take anything */
#define WFS_INFLIGHT		256			/* slots to ask for */

struct workqueue_struct *wfs_io_wq;	/* bound: io_work and what else is short */
struct workqueue_struct *wfs_dio_wq;	/* unbound: what waits for replies */
static struct workqueue_struct *wfs_wq;	/* unbound: recovery, which nothing that waits for a reply may delay */

int wfs_conn_init_module(void)
{
	wfs_io_wq = alloc_workqueue("wfs_io", WQ_MEM_RECLAIM, 0);
	wfs_dio_wq = alloc_workqueue("wfs_dio", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	wfs_wq = alloc_workqueue("wfs", WQ_MEM_RECLAIM | WQ_UNBOUND, WQ_MAX_ACTIVE);
	if (wfs_io_wq && wfs_dio_wq && wfs_wq)
		return 0;
	wfs_conn_exit_module();
	return -ENOMEM;
}

void wfs_conn_exit_module(void)
{
	if (wfs_io_wq)
		destroy_workqueue(wfs_io_wq);
	if (wfs_dio_wq)
		destroy_workqueue(wfs_dio_wq);
	if (wfs_wq)
		destroy_workqueue(wfs_wq);
}

const char *wfs_conn_state_name(enum wfs_conn_state state)
{
	static const char * const names[] = {
		[WFS_CONN_NEW]		= "new",
		[WFS_CONN_CONNECTING]	= "connecting",
		[WFS_CONN_READY]	= "ready",
		[WFS_CONN_BROKEN]	= "broken",
		[WFS_CONN_WAITING]	= "waiting",
		[WFS_CONN_CLOSED]	= "closed",
	};

	return names[state];
}

static void wfs_conn_set_state(struct wfs_conn *conn, enum wfs_conn_state state)
{
	lockdep_assert_held(&conn->lock);
	if (conn->state == state)
		return;
	trace_wfs_conn_state(conn, conn->state, state, conn->error);
	if (conn->state == WFS_CONN_READY) {
		atomic_dec(&conn->sess->ready);
		conn->down_since = jiffies;
	}
	if (state == WFS_CONN_READY && atomic_inc_return(&conn->sess->ready) == conn->sess->nr_conns)
		WRITE_ONCE(conn->sess->whole, ktime_get_ns());
	WRITE_ONCE(conn->state, state);
}

/* The connection is of no use any more because of @error.  Any context. */
void wfs_conn_break(struct wfs_conn *conn, int error)
{
	bool ready;

	spin_lock_bh(&conn->lock);
	ready = conn->state == WFS_CONN_READY;
	if (ready) {
		conn->error = error;
		wfs_conn_set_state(conn, WFS_CONN_BROKEN);
	}
	spin_unlock_bh(&conn->lock);
	if (ready)
		mod_delayed_work(wfs_wq, &conn->recover_work, 0);
}

/* ---- ends of requests ---- */

/* Take @req off its slot.  The caller ends it. */
static void wfs_conn_free_slot(struct wfs_conn *conn, struct wfs_req *req)
{
	lockdep_assert_held(&conn->lock);
	if (req->state != WFS_REQ_SENT)
		return;
	conn->slots[req->slot].req = NULL;
	__clear_bit(req->slot, conn->slot_map);
	conn->inflight--;
	conn->stats.requests++;
}

static void wfs_conn_end_list(struct wfs_conn *conn, struct list_head *ended)
{
	struct wfs_req *req, *next;

	if (list_empty(ended))
		return;
	list_for_each_entry_safe(req, next, ended, link) {
		list_del_init(&req->link);
		wfs_req_end(req);
	}
	if (READ_ONCE(conn->sess->umounting))
		wake_up_all(&conn->sess->wait);
}

/* End the requests whose sending and whose reply are both complete; in @softirq those that may end there. */
static void wfs_conn_end_done(struct wfs_conn *conn, bool softirq)
{
	struct wfs_req *req, *next;
	LIST_HEAD(ended);

	spin_lock_bh(&conn->lock);
	if (!list_empty(&conn->done))
		conn->fruitless = 0;
	list_for_each_entry_safe(req, next, &conn->done, link) {
		if (softirq && !req->any_context)
			continue;
		wfs_conn_free_slot(conn, req);
		list_move_tail(&req->link, &ended);
	}
	spin_unlock_bh(&conn->lock);
	wfs_conn_end_list(conn, &ended);
}

/* One of the two phases of @req is over. */
static void wfs_conn_phase(struct wfs_conn *conn, struct wfs_req *req)
{
	if (!atomic_dec_and_test(&req->phases))
		return;
	spin_lock_bh(&conn->lock);
	list_add_tail(&req->link, &conn->done);
	spin_unlock_bh(&conn->lock);
}

/* ---- send ---- */

static bool wfs_conn_can_send(struct wfs_conn *conn)
{
	lockdep_assert_held(&conn->lock);
	return !list_empty(&conn->resend) ||
	       (!list_empty(&conn->pending) && conn->inflight < conn->nr_slots);
}

/**
 * wfs_conn_next - the next request to send, with its slot
 * @conn: connection, send_mutex held
 * @more: whether another one can follow it at once
 */
static struct wfs_req *wfs_conn_next(struct wfs_conn *conn, bool *more)
{
	struct wfs_req *req;
	unsigned int slot;

	spin_lock_bh(&conn->lock);
	req = list_first_entry_or_null(&conn->resend, struct wfs_req, link);
	if (!req && wfs_conn_can_send(conn)) {
		req = list_first_entry(&conn->pending, struct wfs_req, link);
		slot = find_first_zero_bit(conn->slot_map, conn->nr_slots);
		__set_bit(slot, conn->slot_map);
		if (!conn->inflight++)
			conn->progress = jiffies;
		req->slot = slot;
		req->seq = conn->slots[slot].seq = wfs_seq_next(conn->slots[slot].seq);
		wfs_req_set_state(req, WFS_REQ_SENT);
		wfs_req_rewind(req);
		conn->slots[slot].req = req;
	}
	if (req)
		list_del_init(&req->link);
	*more = wfs_conn_can_send(conn);
	spin_unlock_bh(&conn->lock);
	return req;
}

/* Give TCP what is left of @req.  Return 0, -EAGAIN when the socket is full, or the socket's error. */
static int wfs_send_req(struct wfs_conn *conn, struct wfs_req *req, bool more)
{
	size_t left;
	int ret;

	while (req->head_sent < req->head_len) {
		struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
		struct kvec kv = {
			.iov_base = req->head + req->head_sent,
			.iov_len = req->head_len - req->head_sent,
		};

		if (more || iov_iter_count(&req->src_left))
			msg.msg_flags |= MSG_MORE;
		ret = kernel_sendmsg(conn->sock, &msg, &kv, 1, kv.iov_len);
		if (ret <= 0)
			return ret ?: -EPIPE;
		req->head_sent += ret;
		conn->stats.sent += ret;
	}
	while ((left = iov_iter_count(&req->src_left))) {
		struct msghdr msg = {
			.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL,
			.msg_iter = req->src_left,
		};

		if (req->splice)
			msg.msg_flags |= MSG_SPLICE_PAGES;
		if (more)
			msg.msg_flags |= MSG_MORE;
		ret = sock_sendmsg(conn->sock, &msg);
		if (ret <= 0)
			return ret ?: -EPIPE;
		iov_iter_advance(&req->src_left, ret);
		conn->stats.sent += ret;
	}
	return 0;
}

/* Send what can be sent.  send_mutex held. */
static void wfs_conn_send(struct wfs_conn *conn)
{
	unsigned int nofs = memalloc_nofs_save();
	bool more = false;
	int ret = 0;

	while (READ_ONCE(conn->state) == WFS_CONN_READY) {
		struct wfs_req *req = conn->sending;

		if (!req)
			req = wfs_conn_next(conn, &more);
		if (!req)
			break;
		conn->sending = req;
		ret = wfs_send_req(conn, req, more);
		if (ret)
			break;
		conn->sending = NULL;
		wfs_conn_phase(conn, req);
	}
	memalloc_nofs_restore(nofs);
	/* the socket calls when it has room again, if it has anything whose way out makes room */
	if (ret == -ENOMEM || ret == -ENOBUFS ||
	    (ret == -EAGAIN && tcp_rtx_and_write_queues_empty(conn->sock->sk)))
		mod_timer(&conn->send_timer, jiffies + WFS_SEND_RETRY);
	else if (ret && ret != -EAGAIN)
		wfs_conn_break(conn, ret);
}

/* Is there something that only io_work will see to? */
static bool wfs_conn_has_work(struct wfs_conn *conn)
{
	bool work;

	spin_lock_bh(&conn->lock);
	work = wfs_conn_can_send(conn) || !list_empty(&conn->done) || READ_ONCE(conn->sending);
	spin_unlock_bh(&conn->lock);
	return work;
}

static void wfs_conn_kick(struct wfs_conn *conn)
{
	queue_work_on(conn->cpu, wfs_io_wq, &conn->io_work);
}

static void wfs_send_again(struct timer_list *timer)
{
	wfs_conn_kick(container_of(timer, struct wfs_conn, send_timer));
}

/* Is there no point in waiting for @conn, which is not ready? */
static bool wfs_conn_hopeless(struct wfs_conn *conn)
{
	struct wfs_session *sess = conn->sess;

	if (conn->state == WFS_CONN_CLOSED || READ_ONCE(sess->forced))
		return true;
	/* umount waits for timeo in all, not for each request */
	return READ_ONCE(sess->umounting) && time_after(jiffies, conn->down_since + wfs_timeo(sess));
}

/**
 * wfs_conn_submit - send a request, now or as soon as it can be
 * @conn: the connection
 * @req: the request; the transport takes its own reference
 *
 * Never waits for a reply.
 *
 * Context: process; may be called with folios locked and on the writeback path.
 */
void wfs_conn_submit(struct wfs_conn *conn, struct wfs_req *req)
{
	enum wfs_conn_state state;
	bool wait;

	refcount_inc(&req->ref);
	req->conn = conn;
	req->submitted = jiffies;
	req->start = ktime_get_ns();
	trace_wfs_request_submit(req);

	spin_lock_bh(&conn->lock);
	state = conn->state;
	if (state != WFS_CONN_READY && wfs_conn_hopeless(conn)) {
		spin_unlock_bh(&conn->lock);
		req->error = -EIO;
		wfs_req_end(req);
		return;
	}
	wfs_req_set_state(req, WFS_REQ_QUEUED);
	list_add_tail(&req->link, &conn->pending);
	wait = req->batch && conn->inflight >= WFS_BATCH;
	spin_unlock_bh(&conn->lock);

	if (state != WFS_CONN_READY)
		return;
	/* io_work runs as soon as the caller has submitted all that it wants to and sleeps */
	if (!wait && mutex_trylock(&conn->send_mutex)) {
		wfs_conn_send(conn);
		mutex_unlock(&conn->send_mutex);
		/* who came while we held the mutex relied on us */
		if (!wfs_conn_has_work(conn))
			return;
	}
	wfs_conn_kick(conn);
}

/* ---- receive ---- */

/* The header is complete: find the request. */
static int wfs_recv_hdr(struct wfs_conn *conn)
{
	const struct wfs_rep_hdr *hdr = &conn->recv_hdr;
	unsigned int slot = le16_to_cpu(hdr->slot);
	struct wfs_req *req = NULL;
	int err;

	if (slot >= conn->nr_slots)
		return -EPROTO;
	spin_lock_bh(&conn->lock);
	req = conn->slots[slot].req;
	/* on a list: it is to be sent again on this connection, and may be given up until it is */
	if (req && !list_empty(&req->link))
		req = NULL;
	spin_unlock_bh(&conn->lock);
	if (!req || test_bit(WFS_REQ_REPLIED, &req->flags))
		return -EPROTO;
	err = wfs_check_reply(hdr, req->op, req->seq, iov_iter_count(&req->dst));
	if (err)
		return err;
	req->error = wfs_errno_from_wire(le32_to_cpu(hdr->status));
	conn->recv_req = req;
	return 0;
}

/* What comes next in the stream after a part is complete; ends the reply when nothing does. */
static void wfs_recv_next(struct wfs_conn *conn)
{
	struct wfs_req *req = conn->recv_req;
	u32 data_len = le32_to_cpu(conn->recv_hdr.data_len);

	conn->recv_off = 0;
	switch (conn->recv_state) {
	case WFS_RECV_HDR:
		conn->recv_left = le32_to_cpu(conn->recv_hdr.body_len);
		conn->recv_state = WFS_RECV_BODY;
		if (conn->recv_left)
			return;
		fallthrough;
	case WFS_RECV_BODY:
		if (!req->error && wfs_check_body(req->op, req->body, req->rep, data_len))
			wfs_req_malformed(req);
		conn->recv_left = data_len;
		conn->recv_state = WFS_RECV_DATA;
		if (conn->recv_left)
			return;
		fallthrough;
	case WFS_RECV_DATA:
		conn->recv_req = NULL;
		conn->recv_state = WFS_RECV_HDR;
		conn->recv_left = sizeof(conn->recv_hdr);
		set_bit(WFS_REQ_REPLIED, &req->flags);
		wfs_conn_phase(conn, req);
	}
}

/* Takes @len bytes of the stream.  Runs under the socket's lock, in process context or softirq. */
static int wfs_recv_skb(read_descriptor_t *desc, struct sk_buff *skb, unsigned int offset, size_t len)
{
	struct wfs_conn *conn = desc->arg.data;
	struct wfs_req *req;
	size_t left = len;
	int err = conn->recv_error;

	while (left && !err) {
		size_t n = min_t(size_t, left, conn->recv_left);

		switch (conn->recv_state) {
		case WFS_RECV_HDR:
			err = skb_copy_bits(skb, offset, (void *)&conn->recv_hdr + conn->recv_off, n);
			break;
		case WFS_RECV_BODY:
			err = skb_copy_bits(skb, offset, conn->recv_req->rep + conn->recv_off, n);
			break;
		case WFS_RECV_DATA:
			req = conn->recv_req;
			if (req->data_len < req->landed) {
				/* it came before the last connection broke, and may have changed since */
				n = min_t(size_t, n, req->landed - req->data_len);
				iov_iter_advance(&req->dst_left, n);
			} else {
				err = skb_copy_datagram_iter(skb, offset, &req->dst_left, n);
			}
			req->data_len += n;
			if (!err && req->progress && !req->error)
				req->progress(req);
			break;
		}
		offset += n;
		left -= n;
		conn->recv_off += n;
		conn->recv_left -= n;
		if (!err && !conn->recv_left && conn->recv_state == WFS_RECV_HDR)
			err = wfs_recv_hdr(conn);
		if (!err && !conn->recv_left)
			wfs_recv_next(conn);
	}
	conn->stats.received += len - left;
	desc->count -= min(desc->count, len - left);
	if (err) {
		conn->recv_error = err;
		return err;
	}
	return len;
}

/* Receive what there is.  Return bytes received, or a negative errno, also when nothing will come any more. */
static int wfs_conn_recv(struct wfs_conn *conn)
{
	struct socket *sock = conn->sock;
	read_descriptor_t desc = {
		.arg.data = conn,
		.count = WFS_IO_BYTES,
	};
	int ret;

	lock_sock(sock->sk);
	ret = sock->ops->read_sock(sock->sk, &desc, wfs_recv_skb);
	if (!ret && (sock->sk->sk_shutdown & RCV_SHUTDOWN))
		ret = -READ_ONCE(sock->sk->sk_err) ?: -ECONNRESET;
	release_sock(sock->sk);
	if (conn->recv_error)
		return conn->recv_error;
	if (ret > 0)
		WRITE_ONCE(conn->progress, jiffies);
	return ret;
}

static void wfs_io_work(struct work_struct *work)
{
	struct wfs_conn *conn = container_of(work, struct wfs_conn, io_work);
	unsigned long deadline = jiffies + WFS_IO_BUDGET;
	unsigned int nofs = memalloc_nofs_save();
	int ret;

	do {
		if (mutex_trylock(&conn->send_mutex)) {
			wfs_conn_send(conn);
			mutex_unlock(&conn->send_mutex);
		}
		ret = wfs_conn_recv(conn);
		wfs_conn_end_done(conn, false);
		if (ret < 0) {
			if (ret == -EPROTO)
				pr_warn_ratelimited("wfs: %s: broken reply, connection %u is made again\n",
						    conn->sess->opt.source, conn->index);
			wfs_conn_break(conn, ret);
			goto out;
		}
		if (!ret)
			goto out;
	} while (time_before_eq(jiffies, deadline));
	wfs_conn_kick(conn);
out:
	memalloc_nofs_restore(nofs);
}

/* ---- the socket's callbacks: softirq ---- */

/* Receive at once what has arrived; the socket's lock is held.  Return whether that was all that there is to do. */
static bool wfs_recv_softirq(struct wfs_conn *conn, struct sock *sk)
{
	read_descriptor_t desc = {
		.arg.data = conn,
		.count = WFS_SOFTIRQ_BYTES,
	};
	int ret = tcp_read_sock(sk, &desc, wfs_recv_skb);

	if (ret > 0)
		WRITE_ONCE(conn->progress, jiffies);
	wfs_conn_end_done(conn, true);
	return ret > 0 && desc.count && !conn->recv_error && !(sk->sk_shutdown & RCV_SHUTDOWN) &&
	       !wfs_conn_has_work(conn);
}

/*
 * Is what has arrived, and what belongs to it, little?  Then it is received at once, on whatever CPU brought it: to wake
 * somebody else costs more than the copy.  Of more there are many packets, and io_work takes them together, on the CPU that
 * the connection belongs to, while this one goes on bringing them.
 */
static bool wfs_recv_little(const struct wfs_conn *conn, struct sock *sk)
{
	return tcp_inq(sk) <= WFS_SOFTIRQ_BYTES &&
	       !(conn->recv_state == WFS_RECV_DATA && le32_to_cpu(conn->recv_hdr.data_len) > WFS_SOFTIRQ_BYTES);
}

static void wfs_data_ready(struct sock *sk)
{
	struct wfs_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	/* when somebody else has the socket's lock, and lets us know of what came meanwhile, it is not the time to read */
	if (conn && (sock_owned_by_user_nocheck(sk) || !wfs_recv_little(conn, sk) || !wfs_recv_softirq(conn, sk)))
		wfs_conn_kick(conn);
	read_unlock_bh(&sk->sk_callback_lock);
}

static void wfs_write_space(struct sock *sk)
{
	struct wfs_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	if (conn && sk_stream_is_writeable(sk)) {
		clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		wfs_conn_kick(conn);
	}
	read_unlock_bh(&sk->sk_callback_lock);
}

static void wfs_state_change(struct sock *sk)
{
	struct wfs_conn *conn;

	read_lock_bh(&sk->sk_callback_lock);
	conn = sk->sk_user_data;
	/* before an orderly end there may be replies: io_work takes them and finds the end behind them */
	if (conn && sk->sk_err)
		wfs_conn_break(conn, -sk->sk_err);
	else if (conn && sk->sk_state != TCP_ESTABLISHED)
		wfs_conn_kick(conn);
	read_unlock_bh(&sk->sk_callback_lock);
}

static void wfs_set_callbacks(struct wfs_conn *conn, struct sock *sk)
{
	write_lock_bh(&sk->sk_callback_lock);
	conn->saved_data_ready = sk->sk_data_ready;
	conn->saved_write_space = sk->sk_write_space;
	conn->saved_state_change = sk->sk_state_change;
	sk->sk_user_data = conn;
	sk->sk_data_ready = wfs_data_ready;
	sk->sk_write_space = wfs_write_space;
	sk->sk_state_change = wfs_state_change;
	write_unlock_bh(&sk->sk_callback_lock);
}

static void wfs_restore_callbacks(struct wfs_conn *conn, struct sock *sk)
{
	write_lock_bh(&sk->sk_callback_lock);
	if (sk->sk_user_data == conn) {
		sk->sk_user_data = NULL;
		sk->sk_data_ready = conn->saved_data_ready;
		sk->sk_write_space = conn->saved_write_space;
		sk->sk_state_change = conn->saved_state_change;
	}
	write_unlock_bh(&sk->sk_callback_lock);
}

/* ---- recovery ---- */

/* Why @req is not to be sent again: a negative errno, or 0. */
static int wfs_conn_give_up(struct wfs_conn *conn, struct wfs_req *req, bool abort)
{
	struct wfs_session *sess = conn->sess;

	if (abort)
		return -EIO;
	/* what it brings has to be given back, once the server may have it */
	if (test_bit(WFS_REQ_ABANDONED, &req->flags) && !(req->settle && req->state == WFS_REQ_SENT))
		return -EINTR;
	if ((req->soft || READ_ONCE(sess->umounting)) &&
	    time_after_eq(jiffies, req->submitted + wfs_timeo(sess)))
		return -ETIMEDOUT;
	return 0;
}

/* Move the requests on @list that are not worth sending to @ended.  @conn->lock held. */
static void wfs_conn_expire(struct wfs_conn *conn, struct list_head *list, bool abort,
			    struct list_head *ended)
{
	struct wfs_req *req, *next;

	lockdep_assert_held(&conn->lock);
	list_for_each_entry_safe(req, next, list, link) {
		int err = wfs_conn_give_up(conn, req, abort);

		if (!err)
			continue;
		req->error = err;
		if (req->state == WFS_REQ_SENT)
			set_bit(WFS_REQ_LOST, &req->flags);
		wfs_conn_free_slot(conn, req);
		list_move_tail(&req->link, ended);
	}
}

/* There is no socket: bring all requests back to where they can be sent, or end them. */
static void wfs_conn_requeue(struct wfs_conn *conn)
{
	unsigned int slot;
	LIST_HEAD(ended);
	bool abort;

	spin_lock_bh(&conn->lock);
	abort = conn->abort || conn->state == WFS_CONN_CLOSED;
	conn->abort = false;
	for_each_set_bit(slot, conn->slot_map, conn->nr_slots) {
		struct wfs_req *req = conn->slots[slot].req;

		if (test_bit(WFS_REQ_REPLIED, &req->flags)) {
			/* the server answered before it had all of it: that is its answer */
			list_move_tail(&req->link, &conn->done);
		} else {
			wfs_req_rewind(req);
			list_move_tail(&req->link, &conn->resend);
			conn->stats.resent++;
		}
	}
	wfs_conn_expire(conn, &conn->resend, abort, &ended);
	wfs_conn_expire(conn, &conn->pending, abort, &ended);
	spin_unlock_bh(&conn->lock);
	wfs_conn_end_done(conn, false);
	wfs_conn_end_list(conn, &ended);
}

static void wfs_conn_teardown(struct wfs_conn *conn)
{
	struct socket *sock = conn->sock;

	if (sock) {
		wfs_restore_callbacks(conn, sock->sk);
		kernel_sock_shutdown(sock, SHUT_RDWR);
		disable_work_sync(&conn->io_work);
		mutex_lock(&conn->send_mutex);
		conn->sending = NULL;
		mutex_lock(&conn->sock_mutex);
		conn->sock = NULL;
		mutex_unlock(&conn->sock_mutex);
		mutex_unlock(&conn->send_mutex);
		timer_delete_sync(&conn->send_timer);
		sock_release(sock);
	}
	wfs_conn_requeue(conn);
}

/* Send or receive exactly @len bytes on a socket that has no callbacks yet. */
int wfs_sock_io(struct socket *sock, void *buf, size_t len, bool send)
{
	struct msghdr msg = { .msg_flags = send ? MSG_NOSIGNAL : MSG_WAITALL | MSG_NOSIGNAL };
	struct kvec kv = { .iov_base = buf, .iov_len = len };
	int ret;

	if (send)
		ret = kernel_sendmsg(sock, &msg, &kv, 1, len);
	else
		ret = kernel_recvmsg(sock, &msg, &kv, 1, len, msg.msg_flags);
	if (ret == len)
		return 0;
	if (ret == 0)
		return -ECONNRESET;
	return ret > 0 ? -ETIMEDOUT : ret;
}

/* Introduce ourselves.  hello_mutex held. */
static int wfs_hello(struct wfs_conn *conn, struct socket *sock)
{
	struct wfs_session *sess = conn->sess;
	u32 max_inflight = sess->agreed ? sess->max_inflight : WFS_INFLIGHT;
	struct {
		struct wfs_req_hdr	hdr;
		struct wfs_hello_req	body;
	} req = {
		.hdr.magic		= cpu_to_le32(WFS_MAGIC),
		.hdr.op			= WFS_OP_HELLO,
		.hdr.body_len		= cpu_to_le32(sizeof(req.body)),
		.body.version_min	= cpu_to_le32(WFS_VERSION),
		.body.version_max	= cpu_to_le32(WFS_VERSION),
		.body.conn		= cpu_to_le16(conn->index),
		.body.max_read		= cpu_to_le32(sess->opt.rsize),
		.body.max_write		= cpu_to_le32(sess->opt.wsize),
		.body.max_inflight	= cpu_to_le32(max_inflight),
	};
	struct wfs_hello_rep rep;
	struct wfs_rep_hdr hdr;
	int err;

	memcpy(req.body.session, sess->session_id, WFS_SESSION_LEN);
	err = wfs_sock_io(sock, &req, sizeof(req), true);
	if (!err)
		err = wfs_sock_io(sock, &hdr, sizeof(hdr), false);
	if (err)
		return err;
	if (hdr.slot || wfs_check_reply(&hdr, WFS_OP_HELLO, 0, 0))
		return -EPROTO;
	err = wfs_errno_from_wire(le32_to_cpu(hdr.status));
	if (err == -EPROTONOSUPPORT)
		conn->peer_versions = le64_to_cpu(hdr.info);
	if (err)
		return err;
	err = wfs_sock_io(sock, &rep, sizeof(rep), false);
	if (err)
		return err;
	err = wfs_check_hello(&req.body, &rep);
	if (err)
		return err;
	if (sess->agreed) {
		/* what is on its way was cut to the limits agreed on before */
		if (le32_to_cpu(rep.max_read) < sess->opt.rsize ||
		    le32_to_cpu(rep.max_write) < sess->opt.wsize ||
		    le32_to_cpu(rep.max_inflight) < sess->max_inflight) {
			pr_err_ratelimited("wfs: %s: the server came back with smaller limits: mount again\n",
					   sess->opt.source);
			return -EREMOTEIO;
		}
		wfs_resumed(sess, le32_to_cpu(rep.session_flags), le64_to_cpu(rep.life));
	} else {
		sess->opt.rsize = le32_to_cpu(rep.max_read);
		sess->opt.wsize = le32_to_cpu(rep.max_write);
		sess->max_inflight = le32_to_cpu(rep.max_inflight);
		sess->max_conns = le32_to_cpu(rep.max_conns);
		sess->agreed = true;
	}
	sess->life = le64_to_cpu(rep.life);
	sess->export_flags = le32_to_cpu(rep.export_flags);
	memcpy(sess->session_id, rep.session, WFS_SESSION_LEN);
	return 0;
}

/*
 * Memory reclaim takes our sockets' locks, and allocates under other sockets' locks: lockdep has to know that
 * these are not the same.
 */
static void wfs_set_lock_class(struct sock *sk)
{
	static struct lock_class_key keys[4];

	if (sk->sk_family == AF_INET6)
		sock_lock_init_class_and_name(sk, "slock-AF_INET6-WFS", &keys[0], "sk_lock-AF_INET6-WFS", &keys[1]);
	else
		sock_lock_init_class_and_name(sk, "slock-AF_INET-WFS", &keys[2], "sk_lock-AF_INET-WFS", &keys[3]);
}

/* Make a socket, connect it within the session's timeo and say HELLO. */
static int wfs_conn_connect(struct wfs_conn *conn)
{
	struct wfs_session *sess = conn->sess;
	unsigned long deadline = jiffies + wfs_timeo(sess);
	struct sockaddr_storage addr = sess->opt.addr;
	struct socket *sock;
	struct sock *sk;
	int err;

	err = sock_create_kern(sess->net, addr.ss_family, SOCK_STREAM, IPPROTO_TCP, &sock);
	if (err)
		return err;
	sk = sock->sk;
	wfs_set_lock_class(sk);
	tcp_sock_set_nodelay(sk);
	sock_set_keepalive(sk);
	/* close at once: no orphan keeps the network namespace, and replies that come late are of no use */
	sock_no_linger(sk);
	sk->sk_allocation = GFP_NOFS;
	sk->sk_use_task_frag = false;
	sk->sk_sndtimeo = wfs_timeo(sess);

	mutex_lock(&conn->sock_mutex);
	conn->sock = sock;
	mutex_unlock(&conn->sock_mutex);
	conn->recv_state = WFS_RECV_HDR;
	conn->recv_off = 0;
	conn->recv_left = sizeof(conn->recv_hdr);
	conn->recv_req = NULL;
	conn->recv_error = 0;

	/* set before the look at the state: who closes sets the state, then shuts the socket down */
	if (READ_ONCE(conn->state) != WFS_CONN_CONNECTING)
		err = -ESHUTDOWN;
	else
		err = kernel_connect(sock, (struct sockaddr *)&addr, addr.ss_family == AF_INET6 ?
				     sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in), 0);
	/* no signals come here; but it may last as long as timeo, and is no hung task */
	if (!err)
		err = mutex_lock_interruptible(&sess->hello_mutex);
	if (!err) {
		sk->sk_rcvtimeo = max_t(long, deadline - jiffies, 1);
		sk->sk_sndtimeo = sk->sk_rcvtimeo;
		err = READ_ONCE(sess->ended) ? -ESHUTDOWN : wfs_hello(conn, sock);
		if (err == -ESTALE)
			/* the server forgot us: start a new session */
			memset(sess->session_id, 0, WFS_SESSION_LEN);
		if (!err && sess->claim) {
			sk->sk_rcvtimeo = wfs_timeo(sess);
			sk->sk_sndtimeo = sk->sk_rcvtimeo;
			err = wfs_reclaim(conn, sock);
		}
		mutex_unlock(&sess->hello_mutex);
	}
	if (err == -EAGAIN || err == -EINPROGRESS)
		err = -ETIMEDOUT;
	if (!err && !conn->slots) {
		conn->slots = kcalloc(sess->max_inflight, sizeof(*conn->slots), GFP_KERNEL);
		conn->slot_map = bitmap_zalloc(sess->max_inflight, GFP_KERNEL);
		if (conn->slots && conn->slot_map) {
			conn->nr_slots = sess->max_inflight;
		} else {
			kfree(conn->slots);
			bitmap_free(conn->slot_map);
			conn->slots = NULL;
			conn->slot_map = NULL;
			err = -ENOMEM;
		}
	}
	if (err) {
		mutex_lock(&conn->sock_mutex);
		conn->sock = NULL;
		mutex_unlock(&conn->sock_mutex);
		sock_release(sock);
	}
	return err;
}

static unsigned long wfs_retry_delay(unsigned int failures)
{
	return min(WFS_RETRY_MIN << min(failures, 8u), WFS_RETRY_MAX);
}

static void wfs_recover(struct wfs_conn *conn)
{
	struct wfs_session *sess = conn->sess;
	enum wfs_conn_state state;
	unsigned long delay = 0;
	int err;

	if (conn->state == WFS_CONN_BROKEN)
		pr_info_ratelimited("wfs: %s: connection %u broke: %pe\n", sess->opt.source, conn->index,
				    ERR_PTR(conn->error));
	wfs_conn_teardown(conn);

	spin_lock_bh(&conn->lock);
	/* one that breaks again before it brought any reply, or whose server talks nonsense, is no reason to hurry */
	if (conn->state == WFS_CONN_BROKEN && (conn->fruitless++ || conn->error == -EPROTO))
		wfs_conn_set_state(conn, WFS_CONN_WAITING);
	else if (conn->state != WFS_CONN_CLOSED)
		wfs_conn_set_state(conn, WFS_CONN_CONNECTING);
	state = conn->state;
	spin_unlock_bh(&conn->lock);
	wake_up_all(&sess->wait);
	if (state == WFS_CONN_WAITING)
		queue_delayed_work(wfs_wq, &conn->recover_work, wfs_retry_delay(conn->fruitless));
	if (state != WFS_CONN_CONNECTING)
		return;

	err = wfs_conn_connect(conn);
	if (!err) {
		enable_work(&conn->io_work);
		wfs_set_callbacks(conn, conn->sock->sk);
	}

	spin_lock_bh(&conn->lock);
	conn->error = err;
	if (conn->state == WFS_CONN_CLOSED) {
		/* closed meanwhile: recover_work is queued again and tears down */
	} else if (err) {
		/* a failure that a new session cures is no reason to wait, once */
		delay = err == -ESTALE && !conn->attempts ? 1 : wfs_retry_delay(conn->attempts);
		conn->attempts++;
		wfs_conn_set_state(conn, WFS_CONN_WAITING);
	} else {
		if (conn->attempts && conn->stats.connects)
			pr_info_ratelimited("wfs: %s: connection %u stands again\n", sess->opt.source,
					    conn->index);
		conn->attempts = 0;
		conn->abort = false;
		conn->progress = jiffies;
		conn->stats.connects++;
		WRITE_ONCE(sess->forced, false);
		wfs_conn_set_state(conn, WFS_CONN_READY);
	}
	spin_unlock_bh(&conn->lock);
	wake_up_all(&sess->wait);

	if (delay) {
		queue_delayed_work(wfs_wq, &conn->recover_work, delay);
	} else if (!err) {
		/* also if it has ended before it had callbacks */
		wfs_conn_kick(conn);
	}
}

static void wfs_recover_work(struct work_struct *work)
{
	/* writeback may wait for this */
	unsigned int nofs = memalloc_nofs_save();

	wfs_recover(container_of(to_delayed_work(work), struct wfs_conn, recover_work));
	memalloc_nofs_restore(nofs);
}

/**
 * wfs_conn_check_timeout - look for what got no answer in the session's timeo
 * @conn: the connection
 *
 * A request that TCP has can only be ended by ending the connection: until then its reply may come and be
 * written to the request's pages.
 */
void wfs_conn_check_timeout(struct wfs_conn *conn)
{
	unsigned long timeo = wfs_timeo(conn->sess);
	bool late = false, hopeless;
	unsigned int slot;
	LIST_HEAD(ended);

	spin_lock_bh(&conn->lock);
	/* what came from another connection may have missed what made this one so: umount -f */
	hopeless = conn->state != WFS_CONN_READY && wfs_conn_hopeless(conn);
	if (conn->state == WFS_CONN_READY) {
		if (conn->inflight)
			late = time_after(jiffies, READ_ONCE(conn->progress) + timeo);
		for_each_set_bit(slot, conn->slot_map, conn->nr_slots)
			if (wfs_conn_give_up(conn, conn->slots[slot].req, false) == -ETIMEDOUT)
				late = true;
	} else {
		wfs_conn_expire(conn, &conn->resend, hopeless, &ended);
	}
	wfs_conn_expire(conn, &conn->pending, hopeless, &ended);
	spin_unlock_bh(&conn->lock);

	wfs_conn_end_list(conn, &ended);
	if (late) {
		pr_warn_ratelimited("wfs: %s: no answer on connection %u for %u.%u s\n", conn->sess->opt.source,
				    conn->index, conn->sess->opt.timeo / 10, conn->sess->opt.timeo % 10);
		wfs_conn_break(conn, -ETIMEDOUT);
	}
}

/* ---- life ---- */

/**
 * wfs_conn_create - make a connection object; wfs_conn_start() connects it
 * @sess: the session
 * @index: its number there
 * @cpu: the CPU that it belongs to
 */
struct wfs_conn *wfs_conn_create(struct wfs_session *sess, unsigned int index, int cpu)
{
	struct wfs_conn *conn = kzalloc(sizeof(*conn), GFP_KERNEL);

	if (!conn)
		return NULL;
	conn->sess = sess;
	conn->index = index;
	conn->cpu = cpu;
	mutex_init(&conn->sock_mutex);
	mutex_init(&conn->send_mutex);
	spin_lock_init(&conn->lock);
	INIT_LIST_HEAD(&conn->pending);
	INIT_LIST_HEAD(&conn->resend);
	INIT_LIST_HEAD(&conn->done);
	INIT_WORK(&conn->io_work, wfs_io_work);
	disable_work(&conn->io_work);
	INIT_DELAYED_WORK(&conn->recover_work, wfs_recover_work);
	timer_setup(&conn->send_timer, wfs_send_again, 0);
	conn->down_since = jiffies;
	return conn;
}

void wfs_conn_start(struct wfs_conn *conn)
{
	queue_delayed_work(wfs_wq, &conn->recover_work, 0);
}

/**
 * wfs_conn_abort - end all requests of a connection with -EIO, sent or not
 * @conn: the connection, which then connects again
 */
void wfs_conn_abort(struct wfs_conn *conn)
{
	LIST_HEAD(ended);
	bool ready;

	spin_lock_bh(&conn->lock);
	ready = conn->state == WFS_CONN_READY;
	if (ready || conn->state == WFS_CONN_BROKEN) {
		/* recovery ends what is in slots */
		conn->abort = true;
	} else {
		wfs_conn_expire(conn, &conn->pending, true, &ended);
		wfs_conn_expire(conn, &conn->resend, true, &ended);
	}
	spin_unlock_bh(&conn->lock);
	wfs_conn_end_list(conn, &ended);
	if (ready)
		wfs_conn_break(conn, -EIO);
}

/**
 * wfs_conn_move_pending - give requests that wait for a connection to one that stands
 * @from: a connection
 * @to: another one, which is ready
 */
void wfs_conn_move_pending(struct wfs_conn *from, struct wfs_conn *to)
{
	struct wfs_req *req;
	LIST_HEAD(moved);

	spin_lock_bh(&from->lock);
	if (from->state != WFS_CONN_READY)
		list_splice_init(&from->pending, &moved);
	spin_unlock_bh(&from->lock);
	if (list_empty(&moved))
		return;
	list_for_each_entry(req, &moved, link)
		req->conn = to;
	spin_lock_bh(&to->lock);
	list_splice_tail(&moved, &to->pending);
	spin_unlock_bh(&to->lock);
	wfs_conn_kick(to);
}

/* Close for good: what is queued fails.  Does not wait. */
void wfs_conn_close(struct wfs_conn *conn)
{
	spin_lock_bh(&conn->lock);
	wfs_conn_set_state(conn, WFS_CONN_CLOSED);
	spin_unlock_bh(&conn->lock);

	/* cut short a connect or HELLO that is under way */
	mutex_lock(&conn->sock_mutex);
	if (conn->sock)
		kernel_sock_shutdown(conn->sock, SHUT_RDWR);
	mutex_unlock(&conn->sock_mutex);

	mod_delayed_work(wfs_wq, &conn->recover_work, 0);
}

/* Wait until a connection has torn down after wfs_conn_close(), and does nothing any more. */
void wfs_conn_stop(struct wfs_conn *conn)
{
	/* tears down; what broke the connection in the same moment may have queued it once more */
	flush_delayed_work(&conn->recover_work);
	disable_work_sync(&conn->io_work);
	disable_delayed_work_sync(&conn->recover_work);
	timer_shutdown_sync(&conn->send_timer);
	WARN_ON_ONCE(conn->inflight);
}

/* Free a connection, when all of its session have stopped: until then they look at each other. */
void wfs_conn_destroy(struct wfs_conn *conn)
{
	kfree(conn->slots);
	bitmap_free(conn->slot_map);
	kfree(conn);
}
