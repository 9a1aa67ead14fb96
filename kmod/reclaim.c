// SPDX-License-Identifier: GPL-2.0
/*
 * reclaim.c - what the server holds for this mount, and claiming it again
 *
 * The server keeps a deleted file for those who have it open.  That is a hold: one for each OPEN and
 * CREATE that was answered, until a CLOSE is.  A restart of the server forgets them, and so they are
 * counted here, by inode.
 *
 * After a restart the first connection that comes back claims everything, within its recovery and before
 * any other connection is let in (hello_mutex), and before requests are sent again: those were not counted,
 * and count when they come.  So no reply of the life before may still be on its way to be counted when the
 * claim is made up; the sockets of the other connections are torn down first.
 */
#include <linux/rbtree.h>
#include <net/sock.h>

#include "internal.h"

/**
 * struct wfs_hold - an inode that the server holds for us
 * @node: in wfs_session.holds, ordered by @fh
 * @fh: its handle
 * @io: an I/O handle of it, whichever
 * @count: OPENs and CREATEs that were answered, less CLOSEs that were
 * @unwanted: of them, those whose opener was killed, to be closed by close_work
 * @link: on wfs_session.unwanted while that is not 0
 */
struct wfs_hold {
	struct rb_node		node;
	struct wfs_fh		fh;
	struct wfs_fh		io;
	unsigned int		count;
	unsigned int		unwanted;
	struct list_head	link;
};

static int wfs_fh_cmp(const struct wfs_fh *a, const struct wfs_fh *b)
{
	return memcmp(a, b, sizeof(*a));
}

/* Count one more hold of @fh; @hold is used if there is none yet.  Return the one that is used. */
static struct wfs_hold *wfs_hold_count(struct wfs_session *sess, struct wfs_hold *hold,
				       const struct wfs_fh *fh, const struct wfs_fh *io)
{
	struct rb_node **link = &sess->holds.rb_node, *parent = NULL;

	lockdep_assert_held(&sess->holds_lock);
	while (*link) {
		struct wfs_hold *other = rb_entry(*link, struct wfs_hold, node);
		int cmp = wfs_fh_cmp(fh, &other->fh);

		if (!cmp) {
			other->count++;
			return other;
		}
		parent = *link;
		link = cmp < 0 ? &parent->rb_left : &parent->rb_right;
	}
	hold->fh = *fh;
	hold->io = *io;
	hold->count = 1;
	hold->unwanted = 0;
	rb_link_node(&hold->node, parent, link);
	rb_insert_color(&hold->node, &sess->holds);
	return hold;
}

/* An OPEN or CREATE was answered well; @killed: nobody waits for it any more. */
static void wfs_hold_settle(struct wfs_req *req, bool killed)
{
	const struct wfs_create_rep *create = (const void *)req->rep;
	const struct wfs_open_rep *open = (const void *)req->rep;
	const struct wfs_open_req *body = req->body;
	bool opened = req->op == WFS_OP_OPEN;
	struct wfs_session *sess = req->sess;
	struct wfs_hold *hold;

	spin_lock(&sess->holds_lock);
	hold = wfs_hold_count(sess, req->buf, opened ? &body->fh : &create->entry.fh,
			      opened ? &open->io : &create->io);
	if (hold == req->buf)
		req->buf = NULL;
	if (killed && !hold->unwanted++)
		list_add_tail(&hold->link, &sess->unwanted);
	spin_unlock(&sess->holds_lock);
	req->private = hold;
	if (killed)
		queue_work(wfs_dio_wq, &sess->close_work);
}

/**
 * wfs_hold_prepare - make room for the hold that an OPEN or CREATE will get
 * @req: the request; afterwards @req->private is the hold, if it succeeded
 *
 * Return: 0 or -ENOMEM.
 */
int wfs_hold_prepare(struct wfs_req *req)
{
	req->buf = kmalloc(sizeof(struct wfs_hold), GFP_KERNEL);
	if (!req->buf)
		return -ENOMEM;
	req->settle = wfs_hold_settle;
	return 0;
}

static void wfs_closed(struct wfs_req *req)
{
	struct wfs_session *sess = req->sess;
	struct wfs_hold *hold = req->private;

	spin_lock(&sess->holds_lock);
	if (--hold->count)
		hold = NULL;
	else
		rb_erase(&hold->node, &sess->holds);
	spin_unlock(&sess->holds_lock);
	kfree(hold);
}

/**
 * wfs_send_close - give a hold back; nobody waits
 * @sess: the session
 * @hold: of the OPEN or CREATE; not to be used any more
 * @cred: who opened it
 */
void wfs_send_close(struct wfs_session *sess, struct wfs_hold *hold, const struct cred *cred)
{
	struct wfs_fh_req *body;
	struct wfs_req *req;

	/* from the mempool, so there always is one */
	req = wfs_req_alloc(sess, WFS_OP_CLOSE, cred, sizeof(*body), GFP_NOFS);
	body = req->body;
	body->fh = hold->io;
	req->private = hold;
	req->complete = wfs_closed;
	wfs_submit(req);
	wfs_req_put(req);
}

/* Close what was opened for somebody who was killed meanwhile. */
static void wfs_close_work(struct work_struct *work)
{
	struct wfs_session *sess = container_of(work, struct wfs_session, close_work);
	struct wfs_hold *hold;

	for (;;) {
		spin_lock(&sess->holds_lock);
		hold = list_first_entry_or_null(&sess->unwanted, struct wfs_hold, link);
		if (hold && !--hold->unwanted)
			list_del(&hold->link);
		spin_unlock(&sess->holds_lock);
		if (!hold)
			return;
		wfs_send_close(sess, hold, current_cred());
	}
}

void wfs_holds_init(struct wfs_session *sess)
{
	spin_lock_init(&sess->holds_lock);
	sess->holds = RB_ROOT;
	INIT_LIST_HEAD(&sess->unwanted);
	INIT_WORK(&sess->close_work, wfs_close_work);
}

/* No request of the session is under way any more. */
void wfs_holds_destroy(struct wfs_session *sess)
{
	struct wfs_hold *hold, *next;

	rbtree_postorder_for_each_entry_safe(hold, next, &sess->holds, node)
		kfree(hold);
	sess->holds = RB_ROOT;
}

/* ---- after a restart of the server ---- */

#define WFS_CLAIMS	32u	/* sent together, each on a slot, so that many do not take as many round trips */
#define WFS_CLAIM_SEQ	1u

static void wfs_claim_hdr(struct wfs_req_hdr *hdr, u8 op, u16 slot, size_t len)
{
	*hdr = (struct wfs_req_hdr) {
		.magic		= cpu_to_le32(WFS_MAGIC),
		.op		= op,
		.slot		= cpu_to_le16(slot),
		.seq		= cpu_to_le32(WFS_CLAIM_SEQ),
		.body_len	= cpu_to_le32(len),
	};
}

/* Take the reply to one of @n claims, whose index is *@slot then.  Return its status, or what is wrong in *@broken. */
static int wfs_claim_reply(struct socket *sock, u8 op, const void *bodies, size_t len, u32 waiting,
			   unsigned int *slot, int *broken)
{
	struct wfs_lock_rep rep;	/* that of SESSION is empty */
	struct wfs_rep_hdr hdr;
	int err;

	*broken = wfs_sock_io(sock, &hdr, sizeof(hdr), false);
	if (*broken)
		return 0;
	*slot = le16_to_cpu(hdr.slot);
	*broken = -EPROTO;
	if (*slot >= WFS_CLAIMS || !(waiting & BIT(*slot)) || wfs_check_reply(&hdr, op, WFS_CLAIM_SEQ, 0))
		return 0;
	err = wfs_errno_from_wire(le32_to_cpu(hdr.status));
	*broken = hdr.body_len ? wfs_sock_io(sock, &rep, le32_to_cpu(hdr.body_len), false) : 0;
	if (!*broken && !err)
		*broken = wfs_check_body(op, bodies + *slot * len, &rep, 0);
	return err;
}

/* At most WFS_CLAIMS, and as many as there are slots.  @frames: room for them. */
static int wfs_claim_some(struct wfs_session *sess, struct socket *sock, u8 op, const void *bodies, size_t len,
			  unsigned int n, void *frames, wfs_refused_t refused)
{
	u32 waiting = GENMASK(n - 1, 0);
	unsigned int i;
	int err, broken;

	for (i = 0; i < n; i++) {
		void *frame = frames + i * (sizeof(struct wfs_req_hdr) + len);

		wfs_claim_hdr(frame, op, i, len);
		memcpy(frame + sizeof(struct wfs_req_hdr), bodies + i * len, len);
	}
	broken = wfs_sock_io(sock, frames, n * (sizeof(struct wfs_req_hdr) + len), true);
	while (!broken && waiting) {
		err = wfs_claim_reply(sock, op, bodies, len, waiting, &i, &broken);
		if (broken)
			break;
		waiting &= ~BIT(i);
		if (err == -ENOMEM)
			return err;
		if (err)
			refused(sess, bodies + i * len, err);
	}
	return broken;
}

/**
 * wfs_claim - claim some of what the mount has
 * @sess: the session; no connection is ready
 * @sock: a socket that nothing else uses yet
 * @op: WFS_OP_SESSION or WFS_OP_LOCK
 * @bodies: @n bodies of requests, one after the other
 * @len: bytes of one of them
 * @n: how many there are
 * @refused: called for each that the server has an error for
 *
 * Replies come in any order.  The claims use slots that requests may have, which are to be sent again; but for these
 * two no slot keeps a record, so that harms nothing.
 *
 * Return: 0 or a negative errno: all has to be claimed again, on another connection.
 */
int wfs_claim(struct wfs_session *sess, struct socket *sock, u8 op, const void *bodies, size_t len, unsigned int n,
	      wfs_refused_t refused)
{
	unsigned int some, i;
	void *frames;
	int err = 0;

	frames = kmalloc_array(WFS_CLAIMS, sizeof(struct wfs_req_hdr) + len, GFP_NOFS);
	if (!frames)
		return -ENOMEM;
	for (i = 0; i < n && !err; i += some) {
		some = min3(n - i, WFS_CLAIMS, sess->max_inflight);
		err = wfs_claim_some(sess, sock, op, bodies + i * len, len, some, frames, refused);
	}
	kfree(frames);
	return err;
}

/* The next holds after *@after, which is moved on to the last of them.  Return how many. */
static unsigned int wfs_next_holds(struct wfs_session *sess, struct wfs_session_req *bodies, struct wfs_fh *after)
{
	struct rb_node *node, *next = NULL;
	unsigned int n = 0;

	spin_lock(&sess->holds_lock);
	for (node = sess->holds.rb_node; node;) {
		if (wfs_fh_cmp(&rb_entry(node, struct wfs_hold, node)->fh, after) > 0) {
			next = node;
			node = node->rb_left;
		} else {
			node = node->rb_right;
		}
	}
	for (; next && n < WFS_CLAIMS; next = rb_next(next)) {
		const struct wfs_hold *hold = rb_entry(next, struct wfs_hold, node);

		bodies[n++] = (struct wfs_session_req) {
			.io	= hold->io,
			.what	= cpu_to_le32(WFS_SESSION_HOLD),
			.count	= cpu_to_le32(hold->count),
		};
		*after = hold->fh;
	}
	spin_unlock(&sess->holds_lock);
	return n;
}

static void wfs_hold_refused(struct wfs_session *sess, const void *body, int err)
{
	/* one that is gone says so to those who use it */
	if (err != -ESTALE)
		pr_warn_ratelimited("wfs: %s: an open file can't be claimed again: %pe\n", sess->opt.source,
				    ERR_PTR(err));
}

static int wfs_claim_holds(struct wfs_session *sess, struct socket *sock)
{
	struct wfs_session_req *bodies;
	struct wfs_fh after = {};
	unsigned int n;
	int err = 0;

	bodies = kmalloc_array(WFS_CLAIMS, sizeof(*bodies), GFP_NOFS);
	if (!bodies)
		return -ENOMEM;
	while (!err && (n = wfs_next_holds(sess, bodies, &after)))
		err = wfs_claim(sess, sock, WFS_OP_SESSION, bodies, sizeof(*bodies), n, wfs_hold_refused);
	kfree(bodies);
	return err;
}

static void wfs_reclaimed_refused(struct wfs_session *sess, const void *body, int err)
{
	pr_warn_ratelimited("wfs: %s: the server does not hear that all is claimed: %pe\n", sess->opt.source,
			    ERR_PTR(err));
}

static int wfs_say_reclaimed(struct wfs_session *sess, struct socket *sock)
{
	struct wfs_session_req body = { .what = cpu_to_le32(WFS_SESSION_RECLAIMED) };

	return wfs_claim(sess, sock, WFS_OP_SESSION, &body, sizeof(body), 1, wfs_reclaimed_refused);
}

static bool wfs_others_down(struct wfs_session *sess, const struct wfs_conn *conn)
{
	unsigned int i;

	for (i = 0; i < sess->nr_conns; i++) {
		enum wfs_conn_state state = READ_ONCE(sess->conns[i]->state);

		if (sess->conns[i] != conn && (state == WFS_CONN_READY || state == WFS_CONN_BROKEN))
			return false;
	}
	return true;
}

/**
 * wfs_reclaim - claim all that the mount holds, after the server or the session began anew
 * @conn: the connection
 * @sock: its socket, after HELLO
 *
 * hello_mutex held.  Locks are claimed here too, between the holds and RECLAIMED, on the same socket.
 *
 * Return: 0, or a negative errno: the connection has to be made again, and all be claimed then.
 */
int wfs_reclaim(struct wfs_conn *conn, struct socket *sock)
{
	struct wfs_session *sess = conn->sess;
	unsigned int i;
	int err;

	lockdep_assert_held(&sess->hello_mutex);
	for (i = 0; i < sess->nr_conns; i++)
		if (sess->conns[i] != conn)
			wfs_conn_break(sess->conns[i], -ECONNRESET);
	if (!wait_event_timeout(sess->wait, wfs_others_down(sess, conn), HZ))
		return -ETIMEDOUT;

	err = wfs_claim_holds(sess, sock);
	if (!err && sess->restarted)
		err = wfs_claim_locks(sess, sock) ?: wfs_say_reclaimed(sess, sock);
	if (!err)
		sess->claim = sess->restarted = false;
	return err;
}

/**
 * wfs_resumed - a connection was made again: is there anything to claim?
 * @sess: the session, hello_mutex held
 * @flags: WFS_SESSION_*, from HELLO
 * @life: the server's, as well
 *
 * When the server does not know the session any more, what it held is anybody's.  Files that are open are claimed
 * for the new session, and are there unless somebody deleted them.  Locks are lost.  Records of what was done are
 * lost as well: a request that is sent again is carried out again.
 */
void wfs_resumed(struct wfs_session *sess, u32 flags, u64 life)
{
	lockdep_assert_held(&sess->hello_mutex);
	if (!(flags & WFS_SESSION_KNOWN)) {
		pr_warn_ratelimited("wfs: %s: the server has forgotten this mount, which was away for longer than its lease\n",
				    sess->opt.source);
		wfs_locks_lost(sess);
		sess->restarted = false;
		sess->claim = true;
	} else if (flags & WFS_SESSION_RECLAIM || life != sess->life) {
		/* without the flag the time for it is over: then the server tells what is lost */
		sess->restarted = true;
		sess->claim = true;
	}
}

/**
 * wfs_session_end - tell the server that the mount is gone; nothing else is under way
 * @sess: the session
 * @timeout: jiffies to wait for its answer
 */
void wfs_session_end(struct wfs_session *sess, unsigned long timeout)
{
	struct wfs_session_req *body;
	struct wfs_req *req;

	/* no connection comes back and makes a new session after that */
	WRITE_ONCE(sess->ended, true);
	if (!atomic_read(&sess->ready))
		return;
	req = wfs_req_alloc(sess, WFS_OP_SESSION, current_cred(), sizeof(*body), GFP_NOFS);
	body = req->body;
	body->what = cpu_to_le32(WFS_SESSION_END);
	wfs_req_call_timeout(req, timeout);
	wfs_req_put(req);
}
