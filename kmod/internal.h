/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - what the files of the module share, grouped by the file that defines it.
 *
 * Lock order, outermost first:
 *
 *	inode->i_rwsem > wfs_inode.range_sem > wfs_inode.inval_mutex > mapping->invalidate_lock > folio lock > wfs_session.hello_mutex >
 *	wfs_conn.send_mutex > socket lock > wfs_conn.lock, wfs_session.uncommitted_lock > wfs_inode.lock
 */
#ifndef _WFS_INTERNAL_H
#define _WFS_INTERNAL_H

#include <linux/backing-dev.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/siphash.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "account.h"
#include "compat.h"
#include "proto.h"
#include "stream.h"

struct wfs_conn;
struct wfs_req;
struct wfs_session;

/* ---- request.c: one request from its making to its end ---- */

/**
 * enum wfs_req_state - where a request is; wfs_req_set_state() is the only writer
 * @WFS_REQ_NEW: being filled in by its maker
 * @WFS_REQ_QUEUED: on a connection's pending list, waits for a slot
 * @WFS_REQ_SENT: has a slot; is being sent or was sent
 * @WFS_REQ_DONE: has its result; the callback runs or ran
 */
enum wfs_req_state {
	WFS_REQ_NEW,
	WFS_REQ_QUEUED,
	WFS_REQ_SENT,
	WFS_REQ_DONE,
};

/* wfs_req.flags */
#define WFS_REQ_ABANDONED	0	/* nobody waits for it any more: not worth sending again, without @settle */
#define WFS_REQ_REPLIED		1	/* the reply is complete, wfs_req.error is set */
#define WFS_REQ_LOST		2	/* was sent, and ended without a reply: the server may do it yet */

#define WFS_REQ_HEAD		512	/* bytes of header, groups and body that need no allocation */
#define WFS_REQ_BVECS		16	/* segments of data that need no allocation */
#define WFS_REP_BODY		(sizeof(struct wfs_create_rep))	/* the longest reply body */

/**
 * struct wfs_req - a request
 * @link: on wfs_conn.pending, .resend, .done or a list of the function that handles it
 * @ref: one for the transport from submit to the end of the callback, one for the maker
 * @sess: the session
 * @conn: the connection that it was submitted on
 * @flags: WFS_REQ_*
 * @state: enum wfs_req_state
 * @op: enum wfs_op
 * @soft: fails when it got no answer for the session's timeo
 * @inode: kept until the request has ended, or NULL; wfs_req_hold()
 * @slot: valid in WFS_REQ_SENT
 * @seq: of the slot, valid in WFS_REQ_SENT
 * @phases: 2 when it goes to the socket; one is taken by the sender when the last byte is with TCP, one by the
 *	receiver when the reply is complete; who takes the last one ends the request.  So neither side
 *	touches a request that the other has ended.
 * @submitted: jiffies at submit
 * @start: ktime_get_ns() at submit, to order what replies say about an inode
 * @head: header, groups and body as they go out
 * @head_len: bytes of it
 * @head_sent: bytes of it that TCP has taken
 * @body: the body in @head
 * @src: data to send as the maker set it, count 0 when none
 * @src_left: what of @src TCP has not taken
 * @splice: the pages of @src may be given to TCP without a copy
 * @any_context: @complete may be called in softirq
 * @spread: one of several large ones: they go out on several connections
 * @batch: nobody waits for this one alone: it may be sent a moment later, together with others
 * @load: enum wfs_load: what it is to the mount's account, with @len
 * @dst: where received data goes, as the maker set it
 * @dst_left: what of @dst is still free
 * @data_len: bytes of data received
 * @rep: body of the reply, valid and checked without error
 * @error: 0 or a negative errno, valid from WFS_REQ_DONE on
 * @complete: called once, in process context (the connection's work item or its recovery), with @any_context
 *	in softirq too; must not sleep for another request's end
 * @progress: reads, or NULL: called whenever more data has come, in any context
 * @landed: reads with @progress: bytes that it has handed on: they are not touched any more, and not received again
 * @landed_bvec: segments of these
 * @settle: wfs_req_call(): called at a good end, before the waiter looks; @killed: there is none, what the
 *	request brought has to be given back.  Such a request is sent again though its waiter was killed.
 * @private: of the maker
 * @wb_phase: where wfs_session.wb_count counts it
 * @buf: memory owned by the request that @src or @dst point to, freed with it
 * @bvec: the data's segments, @bvec_inline or allocated
 * @nr_bvec: segments used
 * @max_bvec: segments there are
 * @kvec: for @buf
 * @pos: for reads and writes: offset in the file in bytes
 * @len: for reads and writes: length in bytes
 * @done: for wfs_req_call()
 * @head_inline, @bvec_inline: what @head and @bvec are as long as it is enough
 */
struct wfs_req {
	struct list_head	link;
	refcount_t		ref;
	struct wfs_session	*sess;
	struct wfs_conn		*conn;
	struct inode		*inode;
	unsigned long		flags;
	enum wfs_req_state	state;
	u8			op;
	bool			soft;
	bool			splice;
	bool			any_context;
	bool			batch;
	bool			spread;
	u8			load;
	u16			slot;
	u32			seq;
	atomic_t		phases;
	unsigned long		submitted;
	u64			start;

	void			*head;
	unsigned int		head_len;
	unsigned int		head_sent;
	void			*body;
	struct iov_iter		src, src_left;

	struct iov_iter		dst, dst_left;
	u32			data_len;
	int			error;

	void			(*complete)(struct wfs_req *req);
	void			(*progress)(struct wfs_req *req);
	u32			landed;
	unsigned int		landed_bvec;
	void			(*settle)(struct wfs_req *req, bool killed);
	void			*private;
	unsigned int		wb_phase;
	void			*buf;
	struct bio_vec		*bvec;
	unsigned int		nr_bvec;
	unsigned int		max_bvec;
	struct kvec		kvec;
	u64			pos;
	size_t			len;
	struct completion	done;

	u8			rep[WFS_REP_BODY] __aligned(8);
	u8			head_inline[WFS_REQ_HEAD] __aligned(8);
	struct bio_vec		bvec_inline[WFS_REQ_BVECS];
};

int wfs_req_init(void);
void wfs_req_exit(void);
struct wfs_req *wfs_req_alloc(struct wfs_session *sess, u8 op, const struct cred *cred, size_t body_len,
			      gfp_t gfp);
void wfs_req_put(struct wfs_req *req);
void wfs_req_bvecs(struct wfs_req *req, unsigned int want, gfp_t gfp);
int wfs_req_buf(struct wfs_req *req, size_t len, bool source);
void wfs_req_hold(struct wfs_req *req, struct inode *inode);
void wfs_inode_put_work(struct work_struct *work);
void wfs_req_rewind(struct wfs_req *req);
void wfs_req_set_state(struct wfs_req *req, enum wfs_req_state state);
void wfs_req_end(struct wfs_req *req);
void wfs_req_malformed(struct wfs_req *req);
int wfs_wait(struct wfs_session *sess, struct completion *done);
int wfs_req_call(struct wfs_req *req);
int wfs_req_call_change(struct wfs_req *req, struct inode *inode);
bool wfs_killed(void);
void wfs_req_call_timeout(struct wfs_req *req, unsigned long timeout);
void wfs_put_name(void *to, const struct qstr *name);

/* ---- conn.c: one TCP connection ---- */

/**
 * enum wfs_conn_state - wfs_conn_set_state() is the only writer
 * @WFS_CONN_NEW: not started
 * @WFS_CONN_CONNECTING: recover_work makes the socket and says HELLO
 * @WFS_CONN_READY: requests flow
 * @WFS_CONN_BROKEN: recover_work is queued to tear the socket down and to connect again
 * @WFS_CONN_WAITING: recover_work is delayed after a failure
 * @WFS_CONN_CLOSED: for good; every request fails
 */
enum wfs_conn_state {
	WFS_CONN_NEW,
	WFS_CONN_CONNECTING,
	WFS_CONN_READY,
	WFS_CONN_BROKEN,
	WFS_CONN_WAITING,
	WFS_CONN_CLOSED,
};

/* What the receiver expects next. */
enum wfs_recv_state {
	WFS_RECV_HDR,
	WFS_RECV_BODY,
	WFS_RECV_DATA,
};

/**
 * struct wfs_slot - a request's place on a connection
 * @req: the request in it, or NULL; written under wfs_conn.lock
 * @seq: sequence number of the slot's last request
 */
struct wfs_slot {
	struct wfs_req	*req;
	u32		seq;
};

/* Counters of a connection; each has one writer at a time, readers may be a little behind. */
struct wfs_conn_stats {
	u64	sent;		/* bytes given to TCP */
	u64	received;	/* bytes taken from TCP */
	u64	requests;	/* requests ended */
	u64	resent;		/* requests sent again on a new connection */
	u64	connects;	/* connections made */
};

/**
 * struct wfs_conn - a connection: belongs to a CPU, whose bound worker sends and receives
 * @sess: the session
 * @index: its number in the session
 * @cpu: where @io_work runs
 * @sock_mutex: protects @sock against release while another thread shuts it down
 * @sock: the socket or NULL
 * @saved_data_ready, @saved_write_space, @saved_state_change: the socket's own callbacks
 * @io_work: sends and receives within a budget, runs completions; enabled while there is a socket that it
 *	may use
 * @recover_work: the one place that tears down, sends again and connects
 * @send_timer: kicks @io_work when TCP had no memory
 * @lock: protects @state, @pending, @resend, @done, @slot_map and wfs_slot.req
 * @state: enum wfs_conn_state
 * @pending: requests without a slot, in the order of submit
 * @resend: requests that have a slot and were cut off, oldest first
 * @done: requests that the sender found ended, for @io_work
 * @slots: @nr_slots slots
 * @slot_map: which of them are taken
 * @nr_slots: slots agreed with the server
 * @inflight: requests in slots
 * @progress: jiffies when the last byte was received, or the first request sent after none
 * @error: why the last connection ended or could not be made, negative errno
 * @peer_versions: wfs_rep_hdr.info of a HELLO that was refused
 * @attempts: failed attempts to connect since the last success
 * @fruitless: times that the connection broke since it last brought a reply
 * @down_since: jiffies when it ceased to be ready
 * @abort: fail what is queued instead of sending it again, once
 * @send_mutex: held by who sends; protects @sending
 * @sending: the request that is partly sent, or NULL
 * @recv_state, @recv_hdr, @recv_off, @recv_left, @recv_req: the receiver's place in the stream; the socket's lock
 *	protects it
 * @recv_error: the stream can't be read on, negative errno
 * @stats: counters
 */
struct wfs_conn {
	struct wfs_session	*sess;
	unsigned int		index;
	int			cpu;

	struct mutex		sock_mutex;
	struct socket		*sock;
	void			(*saved_data_ready)(struct sock *sk);
	void			(*saved_write_space)(struct sock *sk);
	void			(*saved_state_change)(struct sock *sk);

	struct work_struct	io_work;
	struct delayed_work	recover_work;
	struct timer_list	send_timer;

	spinlock_t		lock;
	enum wfs_conn_state	state;
	struct list_head	pending;
	struct list_head	resend;
	struct list_head	done;
	struct wfs_slot		*slots;
	unsigned long		*slot_map;
	unsigned int		nr_slots;
	unsigned int		inflight;
	unsigned long		progress;
	int			error;
	u64			peer_versions;
	unsigned int		attempts;
	unsigned int		fruitless;
	unsigned long		down_since;
	bool			abort;

	struct mutex		send_mutex;
	struct wfs_req		*sending;

	enum wfs_recv_state	recv_state;
	struct wfs_rep_hdr	recv_hdr;
	unsigned int		recv_off;
	u32			recv_left;
	struct wfs_req		*recv_req;
	int			recv_error;

	struct wfs_conn_stats	stats;
};

int wfs_conn_init_module(void);
void wfs_conn_exit_module(void);
struct wfs_conn *wfs_conn_create(struct wfs_session *sess, unsigned int index, int cpu);
void wfs_conn_start(struct wfs_conn *conn);
void wfs_conn_abort(struct wfs_conn *conn);
void wfs_conn_move_pending(struct wfs_conn *from, struct wfs_conn *to);
void wfs_conn_close(struct wfs_conn *conn);
void wfs_conn_stop(struct wfs_conn *conn);
void wfs_conn_destroy(struct wfs_conn *conn);
void wfs_conn_submit(struct wfs_conn *conn, struct wfs_req *req);
void wfs_conn_break(struct wfs_conn *conn, int error);
int wfs_sock_io(struct socket *sock, void *buf, size_t len, bool send);
void wfs_conn_check_timeout(struct wfs_conn *conn);
const char *wfs_conn_state_name(enum wfs_conn_state state);
extern struct workqueue_struct *wfs_io_wq;
extern struct workqueue_struct *wfs_dio_wq;

/* ---- session.c: the connections of one mount ---- */

/**
 * enum wfs_readahead - option readahead=
 * @WFS_READAHEAD_ADAPTIVE: as the load allows
 * @WFS_READAHEAD_ALWAYS: whatever the load is
 * @WFS_READAHEAD_OFF: never without being told to
 */
enum wfs_readahead {
	WFS_READAHEAD_ADAPTIVE,
	WFS_READAHEAD_ALWAYS,
	WFS_READAHEAD_OFF,
};

/**
 * struct wfs_options - mount options; Documentation/mount.wfs.8.rst
 * @source: HOST:/[SUBDIR] as it was mounted
 * @path: SUBDIR in @source, without its slashes at either end
 * @addr: the server's address and port
 * @port: 1 to 65535
 * @conns: connections, 1 to WFS_CONNS_MAX
 * @rsize, @wsize: bytes, WFS_IO_MIN to WFS_IO_MAX
 * @timeo: tenths of a second, 1 to 6000
 * @soft: fail after timeo instead of waiting on
 * @acregmin, @acregmax, @acdirmin, @acdirmax: seconds, 0 to 86400
 * @readahead: enum wfs_readahead
 * @readahead_mem: MiB that readahead may hold, 1 to WFS_READAHEAD_MEM_MAX
 * @poll: microseconds that who waits for a reply looks for it before sleeping, at most; 0 to WFS_POLL_MAX
 */
struct wfs_options {
	char			*source;
	char			*path;
	struct sockaddr_storage	addr;
	unsigned int		port;
	unsigned int		conns;
	unsigned int		rsize, wsize;
	unsigned int		timeo;
	bool			soft;
	unsigned int		acregmin, acregmax, acdirmin, acdirmax;
	enum wfs_readahead	readahead;
	unsigned int		readahead_mem;
	unsigned int		poll;
};

#define WFS_READAHEAD_MEM_MAX	(1u << 24)	/* 16 TiB */
#define WFS_POLL		50		/* about what a small reply needs on a fast network: then nobody sleeps */
#define WFS_POLL_MAX		10000

/**
 * struct wfs_op_stats - what each CPU counts for itself
 * @requests: requests that ended, by operation
 * @errors: those of them that failed
 * @load: the account's; @load.delay is reset by who adds up
 * @limited: accesses whose stream has a shorter window because of readahead_mem
 * @held: inodes that requests hold, in the sum of all CPUs
 * @spread: requests with @spread that there were; wraps
 * @poll: nanoseconds that the next wait for a reply looks for it before sleeping; wfs_wait()
 * @polled: waits that ended without sleeping
 */
struct wfs_op_stats {
	u64			requests[WFS_OP__COUNT];
	u64			errors[WFS_OP__COUNT];
	struct wfs_tally	load;
	u64			limited;
	long			held;
	unsigned int		spread;
	u32			poll;
	u64			polled;
};

/**
 * struct wfs_unlocks - UNLOCKs of some owners of locks
 * @under_way: those without a reply
 * @begun: those that there ever were; wraps
 */
struct wfs_unlocks {
	atomic_t	under_way;
	atomic_t	begun;
};

#define WFS_UNLOCKS	256

/**
 * struct wfs_session - what a mount shares with the server
 * @opt: mount options; rsize and wsize as agreed once the first connection stands
 * @id: number of the mount, names its debugfs directory
 * @nr_conns: connections, at most what the server allows
 * @conns: they
 * @hello_mutex: one HELLO at a time; protects @session_id and the agreed limits
 * @session_id: the server's name for the session, zero for none yet
 * @agreed: limits are agreed on; a server that comes back with less is refused
 * @max_inflight: slots of each connection
 * @max_conns: connections that the server allows
 * @export_flags: WFS_EXPORT_*
 * @life: of the server process that said HELLO last (hello_mutex)
 * @claim: what the mount holds has to be claimed before any connection is ready (hello_mutex)
 * @restarted: and the server, which goes on with our session, waits to hear that it was (hello_mutex)
 * @ended: no connection is to be made any more
 * @ready: connections in WFS_CONN_READY
 * @whole: ktime_get_ns() when all of them were, after one had not been; no lock
 * @wait: woken when a connection was torn down, its attempt to connect ends, and when it becomes idle
 * @holds_lock: protects @holds, @unwanted and what is in them; taken under no other spinlock
 * @holds: struct wfs_hold by handle: what the server holds for us
 * @unwanted: those that close_work has to give back
 * @close_work: sends CLOSE for those whose opener was killed
 * @timeout_work: looks for requests and connections that got no answer, and for I/O whose process is gone
 * @net: the network namespace of the mount
 * @umounting: every request is soft from now on
 * @forced: umount -f: requests fail while there is no connection; ends with the next one
 * @stats: requests and errors by operation
 * @root_fh: handle of the directory that the mount starts at
 * @wb_mutex: one waits for WRITEs at a time
 * @wb_lock: protects @wb_phase and @wb_count
 * @wb_phase: 0 or 1: where a WRITE of writeback that is submitted now is counted
 * @wb_count: WRITEs of writeback that have no reply yet
 * @changed: something was changed that no sync(2) covers yet
 * @uncommitted_lock: protects @uncommitted and, with wfs_inode.lock, WFS_INO_UNCOMMITTED
 * @uncommitted: inodes with data that the server has and that is not on its disk
 * @commit_seq: counts COMMITs
 * @commit_work: a COMMIT of all, when there is such data for long
 * @debugfs: the mount's directory
 * @lock_key: makes owners of locks into numbers
 * @unlocks: UNLOCKs under way, by a hash of inode and owner
 * @lock_claims: how often the server has forgotten our locks
 * @locked_lock: protects @locked; taken before file_lock_context.flc_lock
 * @locked: struct wfs_inode by @locked: inodes that have or had locks
 * @sb: the superblock, set before there are files
 * @account_lock: protects @account and the resetting of wfs_op_stats.load.delay; who doesn't get it at once does without
 * @account: how busy the mount is; its state, shift, link and budget are read without the lock
 * @account_time: when it was last brought up to date, ktime_get_ns()
 * @unread: bytes that were read ahead and nobody has read yet, on their way or there
 * @unread_max: the most that was
 * @unread_looked: jiffies when @unread_work last ran
 * @unread_work: forgets what nobody will read
 * @willneed_lock: protects @willneed and @nr_willneed
 * @willneed: struct wfs_willneed: what is to be read because somebody said so, oldest first
 * @nr_willneed: of them; also read without the lock
 * @willneed_work: asks for that
 * @uncancelled_lock: protects @uncancelled and wfs_dio.uncancelled; taken with interrupts off, within locks of fs/aio.c
 * @uncancelled: direct I/O that could not be cancelled yet, see direct.c
 * @rcu: to free it
 */
struct wfs_session {
	struct rcu_head		rcu;		/* first: kfree_rcu() wants it within 4 KiB */
	struct wfs_options	opt;
	unsigned int		id;
	unsigned int		nr_conns;
	struct wfs_conn		*conns[WFS_CONNS_MAX];

	struct mutex		hello_mutex;
	u8			session_id[WFS_SESSION_LEN];
	bool			agreed;
	u32			max_inflight;
	u32			max_conns;
	u32			export_flags;
	u64			life;

	bool			claim;
	bool			restarted;
	bool			ended;

	atomic_t		ready;
	u64			whole;
	wait_queue_head_t	wait;
	spinlock_t		holds_lock;
	struct rb_root		holds;
	struct list_head	unwanted;
	struct work_struct	close_work;
	struct delayed_work	timeout_work;
	struct net		*net;
	bool			umounting;
	bool			forced;
	struct wfs_op_stats __percpu *stats;
	struct wfs_fh		root_fh;
	struct mutex		wb_mutex;
	spinlock_t		wb_lock;
	unsigned int		wb_phase;
	unsigned int		wb_count[2];
	bool			changed;
	spinlock_t		uncommitted_lock;
	struct list_head	uncommitted;
	atomic64_t		commit_seq;
	struct delayed_work	commit_work;
	struct dentry		*debugfs;
	siphash_key_t		lock_key;
	struct wfs_unlocks	unlocks[WFS_UNLOCKS];
	u32			lock_claims;
	spinlock_t		locked_lock;
	struct list_head	locked;
	struct super_block	*sb;
	spinlock_t		account_lock;
	struct wfs_account	account;
	u64			account_time;
	atomic_long_t		unread;
	atomic_long_t		unread_max;
	unsigned long		unread_looked;
	struct work_struct	unread_work;
	spinlock_t		willneed_lock;
	struct list_head	willneed;
	unsigned int		nr_willneed;
	struct work_struct	willneed_work;
	spinlock_t		uncancelled_lock;
	struct list_head	uncancelled;
};

struct wfs_session *wfs_session_create(struct wfs_options *opt, struct fs_context *fc);
void wfs_session_abort(struct wfs_session *sess);
void wfs_session_umount(struct wfs_session *sess);
void wfs_session_wait_held(struct wfs_session *sess);
void wfs_session_destroy(struct wfs_session *sess);
#define WFS_SPREAD_MIN	SZ_128K		/* bytes of a stream or WRITE that are left to one connection */

void wfs_submit(struct wfs_req *req);
void wfs_session_tally(struct wfs_session *sess, struct wfs_tally *t);

static inline unsigned long wfs_timeo(const struct wfs_session *sess)
{
	return max(sess->opt.timeo * HZ / 10, 1u);
}

/* ---- reclaim.c: what the server holds for the mount ---- */

struct wfs_hold;
int wfs_hold_prepare(struct wfs_req *req);
void wfs_send_close(struct wfs_session *sess, struct wfs_hold *hold, const struct cred *cred);
void wfs_holds_init(struct wfs_session *sess);
void wfs_holds_destroy(struct wfs_session *sess);
/* A claim was answered with an error.  @body: the claim. */
typedef void (*wfs_refused_t)(struct wfs_session *sess, const void *body, int err);
int wfs_claim(struct wfs_session *sess, struct socket *sock, u8 op, const void *bodies, size_t len, unsigned int n,
	      wfs_refused_t refused);
int wfs_reclaim(struct wfs_conn *conn, struct socket *sock);
void wfs_resumed(struct wfs_session *sess, u32 flags, u64 life);
void wfs_session_end(struct wfs_session *sess, unsigned long timeout);

/* ---- debugfs.c ---- */

void wfs_debugfs_init(void);
void wfs_debugfs_exit(void);
void wfs_debugfs_add(struct wfs_session *sess);
void wfs_debugfs_remove(struct wfs_session *sess);

/* ---- super.c ---- */

static inline struct wfs_session *wfs_sess(const struct super_block *sb)
{
	return sb->s_fs_info;
}

/* ---- inode.c: inodes and their attributes ---- */

/* wfs_inode.flags */
#define WFS_INO_STALE_DATA	0	/* the page cache may be older than the file: drop it before the next use */
#define WFS_INO_STALE_ATTR	1	/* the attributes may be older than the file */
#define WFS_INO_LOST_DATA	2	/* data that was not committed is gone, and nobody was told yet */
#define WFS_INO_UNCOMMITTED	3	/* on wfs_session.uncommitted */
#define WFS_INO_UNSETTLED	4	/* written to since the attributes were asked for */
#define WFS_INO_DROPPING	5	/* the page cache is being dropped: wait for inval_mutex */
#define WFS_INO_GONE		6	/* reading was answered with ESTALE */

/**
 * struct wfs_inode - an inode
 * @inode: the VFS's
 * @fh: its handle, never changes
 * @flags: WFS_INO_*
 * @lock: protects @change to @access_mask but @write_error and @uncommitted, and who writes @dir_gen; also i_size against
 *	updates from the server while @writers is not 0
 * @change: the change attribute that the page cache, or a directory's dentries, belong to
 * @racy: @change does not tell the next change from this one
 * @run: the run of our own changes that @change belongs to, or 0
 * @doubt: ktime_get_ns() when a request was lost that may change the data yet, or 0: until all connections have been made
 *	again since, which the server lets none be before it is done with the old one, runs tell nothing
 * @attr_time: jiffies when the attributes were found valid
 * @attr_timeo: jiffies that they stay valid
 * @attr_start: replies of requests that were submitted before (ktime_get_ns()) say nothing new
 * @writers: tasks that change data or size just now
 * @wb_inflight: WRITEs of writeback that have no reply yet
 * @wb_overlap: there was more than one of them at a time
 * @write_error: what one of them failed with, 0 when none has since write(2) last looked; negative errno, no lock
 * @btime: birth time, tv_nsec -1 when the export has none
 * @write_io: I/O handle with the right to write, for writeback; len 0 when there was none
 * @write_cred: who got it
 * @uncommitted: on wfs_session.uncommitted, protected by its lock
 * @verifier: the server's when it took the data that is not committed
 * @uncommitted_seq: wfs_session.commit_seq when it took the last of it
 * @access_cred, @access_time, @access_mask: what the server said that this user may do (squashed root)
 * @dir_gen: directories: a dentry whose d_time differs has to be looked up again; read without a lock
 * @readdirs: directories: READDIRs that there were; wraps
 * @opens: files: open files of it, until their CLOSE is sent; no lock
 * @used: @readdirs when one of its names was last looked up; no lock
 * @inval_mutex: held while the page cache is dropped
 * @range_sem: files: held for writing while the server changes a range or the size, for reading while a mapping makes a
 *	page dirty; the latter with mmap_lock held
 * @put_work: drops a reference where the inode may be evicted
 * @locked: on wfs_session.locked, protected by its lock
 * @unread: bytes of it that were read ahead and that nobody has read yet
 * @ra_time: jiffies of the last access that readahead has seen, some ticks old; no lock
 */
struct wfs_inode {
	struct inode		inode;
	struct wfs_fh		fh;
	unsigned long		flags;

	spinlock_t		lock;
	u64			change;
	bool			racy;
	u64			run;
	u64			doubt;
	unsigned long		attr_time;
	unsigned long		attr_timeo;
	u64			attr_start;
	unsigned int		writers;
	unsigned int		wb_inflight;
	bool			wb_overlap;
	int			write_error;
	struct timespec64	btime;
	struct wfs_fh		write_io;
	const struct cred	*write_cred;
	struct list_head	uncommitted;
	u64			verifier;
	u64			uncommitted_seq;
	const struct cred	*access_cred;
	unsigned long		access_time;
	u32			access_mask;

	unsigned long		dir_gen;
	atomic_t		readdirs;
	atomic_t		opens;
	unsigned int		used;
	struct mutex		inval_mutex;
	struct rw_semaphore	range_sem;
	struct work_struct	put_work;
	struct list_head	locked;
	atomic_long_t		unread;
	unsigned long		ra_time;
};

static inline struct wfs_inode *WFS_I(const struct inode *inode)
{
	return container_of(inode, struct wfs_inode, inode);
}

/* How wfs_update_attr() is to take what the server said. */
enum wfs_attr_from {
	WFS_ATTR_SEEN,		/* GETATTR, LOOKUP, ...: somebody else's changes show in it */
	WFS_ATTR_OPENED,	/* OPEN: as SEEN, and data cached under a racy change can't be trusted */
	WFS_ATTR_OURS,		/* SETATTR, LINK: there is a change of ours in it */
	WFS_ATTR_WROTE,		/* WRITE, COMMIT: ours, and the size is behind the cached one */
	WFS_ATTR_DIR,		/* wfs_update_dir(): ours, and it has seen to the dentries */
};

/* How wfs_revalidate() is to ask. */
#define WFS_REVAL_FORCE	1u	/* in any case */
#define WFS_REVAL_SOFT	2u	/* for no longer than timeo; without an answer, what is known has to do on a hard mount */

int wfs_inode_init(void);
void wfs_inode_exit(void);
struct inode *wfs_alloc_inode(struct super_block *sb);
void wfs_free_inode(struct inode *inode);
void wfs_evict_inode(struct inode *inode);
struct inode *wfs_iget(struct super_block *sb, const struct wfs_fh *fh, const struct wfs_iattr *attr,
		       u64 start);
struct inode *wfs_iget_entry(struct super_block *sb, const struct wfs_entry *entry, u64 start);
void wfs_update_attr(struct inode *inode, const struct wfs_iattr *attr, u64 start,
		     enum wfs_attr_from from);
int wfs_update_attr_wire(struct inode *inode, const struct wfs_attr *wire, u64 start,
			 enum wfs_attr_from from);
int wfs_update_dir(struct inode *dir, const struct wfs_dir_change *dc, u64 start);
void wfs_changed_unseen(struct inode *inode, const struct wfs_req *req);
int wfs_revalidate(struct inode *inode, unsigned int how);
int wfs_revalidate_mapping(struct inode *inode);
int wfs_revalidate_end(struct inode *inode);
int wfs_revalidate_data(struct inode *inode);
int wfs_settle(struct inode *inode);
bool wfs_is_dirty(struct inode *inode);
bool wfs_data_stale(struct inode *inode);
bool wfs_attr_fresh(struct inode *inode);
int wfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat, u32 mask,
		unsigned int flags);
int wfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr);
int wfs_permission(struct mnt_idmap *idmap, struct inode *inode, int mask);
void wfs_begin_write(struct inode *inode);
void wfs_end_write(struct inode *inode);
extern const struct inode_operations wfs_special_inode_operations;

/* ---- dir.c ---- */

extern const struct inode_operations wfs_dir_inode_operations;
extern const struct dentry_operations wfs_dentry_operations;
int wfs_lookup_entry(struct super_block *sb, const struct wfs_fh *dir, const struct qstr *name,
		     struct inode **inode);
void wfs_dentry_verified(struct dentry *dentry, unsigned long gen);

/* ---- readdir.c ---- */

extern const struct file_operations wfs_dir_operations;
void wfs_dir_used(struct inode *dir);

/* ---- symlink.c ---- */

extern const struct inode_operations wfs_symlink_inode_operations;

/* ---- xattr.c ---- */

extern const struct xattr_handler * const wfs_xattr_handlers[];
ssize_t wfs_listxattr(struct dentry *dentry, char *list, size_t size);
ssize_t wfs_xattr_read(struct inode *inode, u8 op, const char *name, void *value, size_t size);
int wfs_xattr_write(struct inode *inode, const char *name, const void *value, size_t size, int flags);

/* ---- acl.c ---- */

struct posix_acl *wfs_get_acl(struct inode *inode, int type, bool rcu);
int wfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type);

/* ---- file.c ---- */

/* Ranges that wfs_ra.work may have to read. */
#define WFS_RA_TODO	4

/**
 * struct wfs_ra_todo - what is to be read ahead
 * @ahead: where it is
 * @memcg: whose memory it takes
 */
struct wfs_ra_todo {
	struct wfs_ahead	ahead;
	struct mem_cgroup	*memcg;
};

/**
 * struct wfs_ra - readahead of an open file
 * @lock: protects @streams, @todo, @nr_todo
 * @streams: what it is read like
 * @heard: @streams need not hear of what is read from this page on and ends before @quiet, if it is there.  Both without
 *	@lock: when they do not go together, a read is told of for nothing, or another one asks for what comes next.
 * @quiet: see @heard
 * @todo: what is to be read by @work, while whoever found out about it goes on
 * @nr_todo: ranges of it; read also without @lock, by who can do with an old value
 * @work: reads them
 * @closed: the file is released, which waits for @work: nobody needs what is left.  Without @lock: it is set once.
 * @file: the file, which cancels @work when it is released
 */
struct wfs_ra {
	spinlock_t		lock;	/* see above */
	struct wfs_streams	streams;
	pgoff_t			heard;
	pgoff_t			quiet;
	struct wfs_ra_todo	todo[WFS_RA_TODO];
	unsigned int		nr_todo;
	struct work_struct	work;
	bool			closed;
	struct file		*file;
};

/**
 * struct wfs_file - an open regular file, file->private_data
 * @io: its I/O handle
 * @hold: what keeps it when it is deleted
 * @cred: who opened it
 * @can_read: @io has the right to read, which a file opened for writing lacks when the user does
 * @ra: its readahead
 * @lost_lock: a lock that was taken through it is lost: no data goes through it until it is unlocked
 * @written: where the last buffered write ended; with @sent under the inode's lock
 * @sent: up to where what was written in one go is on its way; wfs_write_behind()
 */
struct wfs_file {
	struct wfs_fh		io;
	struct wfs_hold		*hold;
	const struct cred	*cred;
	bool			can_read;
	bool			lost_lock;
	loff_t			written, sent;
	struct wfs_ra		ra;
};

extern const struct inode_operations wfs_file_inode_operations;
extern const struct file_operations wfs_file_operations;
int wfs_file_attach(struct inode *inode, struct file *file, const struct wfs_fh *io, struct wfs_hold *hold,
		    bool can_read);
int wfs_check_lock(const struct file *file);
u32 wfs_open_flags(unsigned int f_flags);

/* ---- read.c: buffered reads ---- */

int wfs_read_folio(struct file *file, struct folio *folio);
void wfs_readahead(struct readahead_control *rac);
struct wfs_req *wfs_read_req(struct wfs_session *sess, const struct wfs_fh *io, const struct cred *cred, u64 pos,
			     enum wfs_load load);

/**
 * struct wfs_reads - READs of folios that follow each other, being put together; its user's alone
 * @sess: the session
 * @io: I/O handle with the right to read
 * @cred: who reads
 * @spread: wfs_req.spread of each
 * @req: the last one, which may have room for more, or NULL
 */
struct wfs_reads {
	struct wfs_session	*sess;
	const struct wfs_fh	*io;
	const struct cred	*cred;
	bool			spread;
	struct wfs_req		*req;
};

bool wfs_reads_add(struct wfs_reads *reads, struct folio *folio, u64 pages, enum wfs_load load);
void wfs_reads_send(struct wfs_reads *reads);

/* ---- readahead.c: reads ahead of what reads a file ---- */

void wfs_ra_init(struct wfs_ra *ra, struct file *file);
void wfs_ra_end(struct wfs_ra *ra);
void wfs_ra_read(struct file *file, loff_t pos, size_t len);
vm_fault_t wfs_ra_fault(struct vm_fault *vmf);
vm_fault_t wfs_ra_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end);
void wfs_account_look(struct wfs_session *sess);
pgoff_t wfs_fill(struct address_space *mapping, const struct wfs_fh *io, const struct cred *cred, pgoff_t index,
		 u64 pages, pgoff_t ahead);

#define WFS_RA_FLOOR	SZ_16M	/* wfs_account.floor: some windows' worth, on the fastest of networks */

/* ---- willneed.c: advice to read ---- */

void wfs_willneed_init(struct wfs_session *sess);
void wfs_willneed_end(struct wfs_session *sess);
int wfs_fadvise(struct file *file, loff_t offset, loff_t len, int advice);

/* ---- unread.c: what was read ahead and nobody has read yet ---- */

void wfs_unread_init(struct wfs_session *sess);
void wfs_unread_end(struct wfs_session *sess);
bool wfs_unread_mark(struct inode *inode, struct folio *folio);
void wfs_unread_undo(struct inode *inode, struct folio *folio);
void wfs_unread_used(struct folio *folio);
void wfs_unread_wasted(struct folio *folio);
void wfs_unread_come(struct address_space *mapping, pgoff_t first, pgoff_t last, bool there);
void wfs_unread_come_all(struct address_space *mapping, pgoff_t first, pgoff_t end);
void wfs_unread_short(struct wfs_session *sess);

/* Bytes that readahead may hold. */
static inline long wfs_unread_limit(const struct wfs_session *sess)
{
	return (long)READ_ONCE(sess->opt.readahead_mem) << 20;
}

/* ---- write.c: buffered writes and writeback ---- */

extern const struct address_space_operations wfs_aops;
void wfs_writeback_begin(struct address_space *mapping, loff_t start, loff_t end);
int wfs_flush(struct inode *inode);
int wfs_wait_writes(struct wfs_session *sess);
void wfs_wrote(struct inode *inode, const struct wfs_write_rep *rep, u64 start);
struct wfs_req *wfs_write_req(struct wfs_session *sess, const struct wfs_fh *io, const struct cred *cred,
			      u64 pos, gfp_t gfp);
vm_fault_t wfs_page_mkwrite(struct vm_fault *vmf);

/* ---- commit.c: data that is on the server and not on its disk ---- */

void wfs_commit_init(struct wfs_session *sess);
void wfs_uncommitted(struct inode *inode, u64 verifier);
void wfs_evict_uncommitted(struct inode *inode);
int wfs_commit(struct inode *inode, bool datasync);
int wfs_sync_fs(struct super_block *sb, int wait);
int wfs_write_inode(struct inode *inode, struct writeback_control *wbc);

/* ---- pagecache.c: waiting for folios, killable ---- */

int wfs_wait_writeback(struct address_space *mapping, pgoff_t first, pgoff_t last);
int wfs_drop_range(struct inode *inode, pgoff_t first, pgoff_t last, bool wait);
int wfs_zero_range(struct inode *inode, loff_t start, loff_t end);
int wfs_truncate_pages(struct inode *inode);
int wfs_zero_tail(struct inode *inode, loff_t size);
int wfs_dio_wait(struct inode *inode);

/* ---- lock.c: flock, POSIX and OFD locks ---- */

int wfs_lock(struct file *file, int cmd, struct file_lock *fl);
int wfs_flock(struct file *file, int cmd, struct file_lock *fl);
void wfs_evict_locks(struct inode *inode);
void wfs_locks_init(struct wfs_session *sess);
void wfs_locks_lost(struct wfs_session *sess);
int wfs_claim_locks(struct wfs_session *sess, struct socket *sock);

/* ---- direct.c: O_DIRECT, and writes that can't be cached ---- */

ssize_t wfs_direct_read(struct kiocb *iocb, struct iov_iter *iter);
ssize_t wfs_direct_write(struct kiocb *iocb, struct iov_iter *iter);
void wfs_dio_init(struct wfs_session *sess);
void wfs_dio_check_uncancelled(struct wfs_session *sess);

/* ---- range.c: parts of files ---- */

long wfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len);
loff_t wfs_llseek(struct file *file, loff_t offset, int whence);
ssize_t wfs_copy_file_range(struct file *from, loff_t pos, struct file *to, loff_t to_pos, size_t len,
			    unsigned int flags);

#endif /* _WFS_INTERNAL_H */
