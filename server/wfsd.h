/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * wfsd.h - what the server's files share, grouped by the file that defines it.
 *
 * Order of locks, outermost first; one that is not listed is a leaf:
 *	loop.lock > sessions_lock, table_lock (lock.c), pool_lock (cold.c)
 *	dir lock (change.c) > inode lock, dir_lock (both orphan.c) > table_lock (orphan.c) >
 *		hold shard (hold.c), cache shard (file.c)
 * A dir lock is taken by an operation, which runs without the loop's lock.  Who has a loop's lock only tries
 * to get another's.
 */
#ifndef _WFSD_H
#define _WFSD_H

#include <endian.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "wfs_proto.h"

#define WFSD_VERSION	"0.1"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define INFLIGHT_MAX	256	/* slots of a connection */
#define MIN(a, b)	((a) < (b) ? (a) : (b))
#define MAX(a, b)	((a) > (b) ? (a) : (b))

struct conn;
struct file;
struct loop;
struct session;
struct worker;

/* ---- main.c ---- */

/* The configuration.  Set before the first thread starts, only read afterwards. */
struct config {
	const char	*export;
	const char	*state_dir;
	bool		read_only;
	bool		root_squash;
	uid_t		anon_uid;
	gid_t		anon_gid;
	unsigned int	threads;
	unsigned int	poll;		/* microseconds that an idle loop looks for events before it sleeps, at most */
	unsigned int	lease;		/* seconds that a session lives without a connection */
	char		export_id[33];	/* names what is kept for this export in the state directory */
	int		root_fd;	/* the export, O_RDONLY for open_by_handle_at() */
	struct wfs_fh	root_fh;
	uint64_t	root_ino;
	bool		acl;		/* its file system has POSIX ACLs */
	int		proc_fd;	/* /proc/self/fd, every worker's working directory */
	unsigned int	max_conns;	/* these four are shares of RLIMIT_NOFILE */
	unsigned int	max_files;
	unsigned int	max_pins;
	unsigned int	max_locked;
};
extern struct config cfg;

/* ---- log.c ---- */

void log_msg(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* As log_msg, for what a client can cause: a few lines a second, then a count of those left out. */
void log_limited(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void notify_systemd(const char *state);

/* ---- thread.c ---- */

void thread_init(void);
int thread_start(void *(*fn)(void *), void *arg);
void thread_near(int cpu);
bool thread_idle(pthread_cond_t *wake, pthread_mutex_t *lock);

/* ---- errno.c ---- */

uint32_t errno_to_wire(int err);

/* ---- request.c ---- */

/**
 * struct limits - what a connection agreed on, for the parser
 * @hello: HELLO was answered; before it nothing else is allowed and after it no other HELLO
 */
struct limits {
	bool		hello;
	uint32_t	max_read;
	uint32_t	max_write;
	uint32_t	max_inflight;
};

/**
 * struct request - a request in the host's byte order, checked, with nothing pointing elsewhere
 *
 * Which of the fields below @ngroups are set depends on @op; names are terminated by a NUL.
 */
struct request {
	uint8_t		op;
	uint16_t	slot;
	uint32_t	seq;
	uint64_t	hash;		/* tells it from others of its session; not of READ and WRITE */
	uint32_t	frame_len;	/* header, groups and body */
	uint32_t	data_len;
	uid_t		uid;
	gid_t		gid;
	uint32_t	ngroups;

	uint32_t	flags;		/* of the operation; SESSION: what */
	uint32_t	count;		/* READ, READDIR, *XATTR: most data; ACCESS: mask; SESSION: holds; SEEK: whence */
	uint64_t	offset;		/* READ, WRITE, ALLOCATE, SEEK, COPY: from; READDIR: cookie */
	uint64_t	to_offset;	/* COPY */
	uint64_t	len;		/* ALLOCATE, COPY */
	uint32_t	mode;		/* SETATTR, CREATE and its like; ALLOCATE */
	uint64_t	owner;		/* these six: LOCK */
	uint64_t	start, end;
	uint32_t	type, wait, pid;
	uint32_t	umask;
	uint32_t	rdev_major;
	uint32_t	rdev_minor;
	uint32_t	set_uid;	/* SETATTR */
	uint32_t	set_gid;
	uint64_t	set_size;
	struct timespec	set_times[2];
	struct wfs_hello_req hello;	/* in the wire's byte order */
	struct wfs_fh	fh;
	struct wfs_fh	fh2;		/* LINK, RENAME: the second directory; COPY: to */
	gid_t		groups[WFS_GROUPS_MAX];
	char		name[WFS_NAME_MAX + 1];
	char		name2[WFS_TARGET_MAX + 1];	/* RENAME: new name; SYMLINK: target */
};

/* What fits no limit of the protocol is -EPROTO: the connection must be closed. */
int request_head(const void *hdr, const struct limits *lim, struct request *rq);
int request_body(const void *frame, const struct limits *lim, struct request *rq);

/* ---- handle.c ---- */

#define FH_READ		1
#define FH_WRITE	2

void handle_setup(void);
/* These return 0 or a negative errno. */
int handle_from_fd(int fd, unsigned int rights, struct wfs_fh *fh);
int handle_check(const struct wfs_fh *fh);		/* -ESTALE unless this server made it */
int handle_open(const struct wfs_fh *fh, int flags);	/* as root; a file descriptor */
unsigned int handle_rights(const struct wfs_fh *fh);
void handle_with_rights(const struct wfs_fh *fh, unsigned int rights, struct wfs_fh *to);
uint64_t handle_hash(const struct wfs_fh *fh);
uint64_t handle_keyed_hash(const void *data, size_t len);
#define BOOT_ID_LEN	36

void verifier_setup(void);
const char *boot_id(void);
uint64_t verifier_get(void);
void verifier_changed(void);		/* written data was lost: clients must send it again */

#define HANDLE_NAME	128
void handle_name(const struct wfs_fh *fh, char name[HANDLE_NAME]);

/* ---- cred.c ---- */

/* What the kernel holds for this thread, so that equal credentials cost no system call. */
struct cred {
	uid_t		uid;
	gid_t		gid;
	mode_t		umask;
	uint32_t	ngroups;
	gid_t		groups[WFS_GROUPS_MAX];
};

void cred_drop_privileges(void);
void cred_thread_init(struct cred *cred);
int cred_assume(struct cred *cred, const struct request *rq);
void cred_root(struct cred *cred);
void cred_umask(struct cred *cred, mode_t mask);

/* ---- sync.c ---- */

enum sync_how {
	SYNC_DATA,	/* fdatasync(2) */
	SYNC_FILE,	/* fsync(2) */
	SYNC_ALL,	/* syncfs(2) */
};

/**
 * struct sync - the calls that sync through one open file
 * @how: what those want who wait for the next call
 * @begun, @ended: how many calls
 * @failed, @err: the last one that did
 */
struct sync {
	pthread_mutex_t	lock;		/* this structure */
	pthread_cond_t	over;
	enum sync_how	how;
	uint64_t	begun, ended, failed;
	int		err;
};
#define SYNC_INIT { .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER }

struct file;
int sync_file(struct cred *cred, struct file *file, enum sync_how how);
int sync_file_by(struct cred *cred, struct file *file, int fd, enum sync_how how);
int sync_all(struct cred *cred);

/* ---- file.c ---- */

#define FILE_STREAMS	4

/**
 * struct file_stream - somebody reads a file from one end to the other; see cold_stream()
 * @start, @next: the first byte that was read, and the one behind the last
 * @bytes: that it has read; all between those two, if it is what it seems
 * @ahead: how far the disk has been asked
 */
struct file_stream {
	uint64_t	start, next;
	uint64_t	bytes;
	uint64_t	ahead;
};

/**
 * struct file - an open file of the cache, shared by all who present the same handle
 * @fh: the key: rights included, so that a handle gets what it was granted and not more
 * @fd: O_PATH without rights, else opened for the rights
 * @refs: one for the cache while it is in there, one for each user
 * @suspect: reading it failed after a reply had been promised: read first, promise then
 * @rdonly: the handle has the right to write, but the disk was read-only when it was opened
 * @written: through it, since the last sync: it is not closed unsynced, or nobody would be told of lost data
 * @cold_until: in seconds: had data that was not in the page cache, so streams are looked for until then
 */
struct file {
	struct wfs_fh		fh;
	int			fd;
	atomic_uint		refs;
	atomic_bool		suspect;
	bool			rdonly;
	atomic_bool		written;
	struct sync		sync;
	_Atomic time_t		cold_until;
	pthread_mutex_t		stream_lock;	/* these two */
	struct file_stream	streams[FILE_STREAMS];
	unsigned int		oldest_stream;
	bool			cached;		/* these four: under the shard's lock */
	time_t			used;
	LIST_ENTRY(file)	hash;
	TAILQ_ENTRY(file)	lru;
	TAILQ_ENTRY(file)	idle;		/* file.c's thread */
};

void file_cache_init(void);
int file_get(struct cred *cred, const struct wfs_fh *fh, struct file **file);
int file_get_write(struct cred *cred, const struct wfs_fh *fh, struct file **file);
struct file *file_new(const struct wfs_fh *fh, int fd, bool rdonly);	/* these two take over fd */
struct file *file_insert(const struct wfs_fh *fh, int fd);
struct file *file_cached_as(const struct wfs_fh *fh, unsigned int rights);
void file_wrote(struct file *file);
struct file *file_ref(struct file *file);
void file_put(struct file *file);
void file_put_later(struct file *file);
void file_forget(const struct wfs_fh *fh);	/* whatever its rights */
bool file_evict(bool wait);		/* frees a few descriptors when there are none left */
unsigned int file_cached(void);

/* ---- session.c ---- */

/* The file of a session: a head, then a record for each slot of each connection, in groups. */
#define REPLAY_RECORD_SIZE	1280
#define REPLAY_GROUP		16		/* records; the group is pages */
#define REPLAY_GROUP_SIZE	((size_t)REPLAY_GROUP * REPLAY_RECORD_SIZE)
#define REPLAY_GROUPS		(WFS_CONNS_MAX * (INFLIGHT_MAX / REPLAY_GROUP))
#define SESSION_HEAD_SIZE	4096
#define SESSION_FILE_SIZE	(SESSION_HEAD_SIZE + REPLAY_GROUPS * REPLAY_GROUP_SIZE)

/* What a session waits for a disk for; under pool_lock (cold.c). */
struct cold_queue {
	TAILQ_HEAD(cold_jobs, job)	jobs;
	TAILQ_ENTRY(cold_queue)		list;	/* while there are any */
};

/**
 * struct session - the connections of one mount
 * @head, @records: its file, mapped
 * @grow: one session_grow() at a time
 * @head_lock: the last to write @left to @head writes what is true, and @claims is there before it is relied on
 * @claims, @reclaim, @left: as in @head, which is not read any more
 * @have: groups of records that are only in memory
 */
struct session {
	uint8_t			id[WFS_SESSION_LEN];
	struct session_head	*head;
	char			*records;
	pthread_mutex_t		grow, head_lock;
	atomic_bool		claims, reclaim;
	_Atomic int64_t		left;
	_Atomic uint64_t	have[REPLAY_GROUPS / 64];
	atomic_uint		stuck;		/* requests in file system calls that take long */
	atomic_uint		holds;
	struct cold_queue	cold;
	unsigned int		locks, parked;	/* under table_lock (lock.c) */
	unsigned int		users;		/* these six: under sessions_lock */
	bool			has_left;	/* @head is to be told */
	bool			ended;		/* no HELLO finds it any more */
	time_t			expires;	/* when there are no users */
	int			sock[WFS_CONNS_MAX];	/* -1, or the connection of that index */
	LIST_ENTRY(session)	list;
};

void session_lock(void);
void session_init(void);
uint64_t session_life(void);
bool session_in_grace(void);
bool session_settling(void);
bool session_may_claim(const struct session *s);
int session_join(const uint8_t *id, unsigned int conn, int sock, struct session **s, uint32_t *flags);
void session_leave(struct session *s, unsigned int conn);
void session_claims(struct session *s);
void session_reclaimed(struct session *s);
void session_end(struct session *s);
bool session_has_group(const struct session *s, unsigned int group);
int session_grow(struct session *s, unsigned int group);
void session_expire(time_t now);
void session_stop(void);
unsigned int session_count(void);

/* ---- replay.c ---- */

struct op_ctx;
int replay_run(struct op_ctx *op);
void replay_intent(struct op_ctx *op, const __le64 pre[2], const struct statx *was);
void replay_done(struct op_ctx *op, int err);
void replay_passed(struct session *s, unsigned int conn, const struct request *rq);
unsigned int replay_load(struct session *s);
void replay_forget(struct session *s);

/* ---- hold.c ---- */

void hold_init(void);
int hold_add(struct session *s, const struct wfs_fh *fh);
int hold_set(struct session *s, const struct wfs_fh *fh, unsigned int count);
void hold_drop(struct session *s, const struct wfs_fh *fh);
void hold_end(struct session *s);
bool hold_held(const struct wfs_fh *fh);
void hold_pin(const struct wfs_fh *fh, int fd);
struct file *hold_pinned(const struct wfs_fh *fh);

/* ---- lock.c ---- */

struct op_ctx;

void lock_init(void);
int op_lock(struct op_ctx *op);
bool lock_abandon(struct conn *conn, uint16_t *slot, uint32_t *seq);
void lock_session_end(struct session *s);

/* ---- orphan.c ---- */

#define ORPHAN_DIR	".wfsd"		/* in the export's root; clients do not see it */

void orphan_init(void);
bool orphan_any(void);
uint32_t orphan_nlink(const struct statx *stx);
void orphan_lock_inode(const struct wfs_fh *fh);
void orphan_unlock_inode(const struct wfs_fh *fh);
bool orphan_keep(const struct wfs_fh *fh, int fd, const struct statx *stx);
void orphan_drop(const struct wfs_fh *fh, const struct statx *stx);
void orphan_release(const struct wfs_fh *fh);
void orphan_expire(void);

/* ---- change.c ---- */

void change_init(void);
/* A change of an inode by a session; @ino, @epoch: its entry in the table. */
struct change {
	uint64_t	ino, epoch;
	uint64_t	run, run_base;
	uint64_t	stamp;
};

uint64_t change_seen(void);
uint64_t change_number(void);
void change_stamp(const struct statx *stx, uint64_t stamp);
void change_begin(struct change *ch, int fd, const struct session *s);
int change_end(struct change *ch, int fd, struct statx *stx);
void change_fill(const struct statx *stx, uint64_t seen, const struct session *s, struct wfs_attr *a);
void change_fill_own(const struct statx *stx, const struct change *ch, struct wfs_attr *a);
void change_lock_dirs(const struct wfs_fh *a, const struct wfs_fh *b);
void change_unlock_dirs(const struct wfs_fh *a, const struct wfs_fh *b);

/* ---- ops.c ---- */

#define XATTR_ACL_ACCESS	"system.posix_acl_access"
#define XATTR_ACL_DEFAULT	"system.posix_acl_default"

/**
 * struct reply - what an operation answers
 * @body: filled up to @body_len
 * @data: @data_len bytes that were allocated, taken over by who sends the reply; or
 * @file: data_len bytes of this file at @offset; the reference is taken over
 * @session: CLOSE and HELLO change it
 */
struct reply {
	uint32_t	body_len;
	uint32_t	data_len;
	uint64_t	info;
	char		*data;
	struct file	*file;
	uint64_t	offset;
	_Alignas(8) uint8_t body[WFS_BODY_MAX];
};

/**
 * struct op_ctx - whom an operation runs for; no lock is held
 * @data: payload of SETXATTR
 * @conn: index of the connection
 * @asker: the connection; belongs to the loop, is here to be named to conn_unpark()
 * @record: replay.c's, until the reply is in it
 * @broken: the connection must be closed
 */
struct op_ctx {
	struct cred	*cred;
	struct session	*session;
	unsigned int	conn;
	struct record	*record;
	bool		broken;
	struct conn	*asker;
	const void	*data;
	const struct request *rq;
	struct reply	*rep;
};

/* op_run(): the request waits, has no thread meanwhile, and is answered by conn_unpark(). */
#define OP_PARKED	1

int op_run(struct op_ctx *op);
bool op_slow(const struct request *rq);		/* known to take long */
int write_open(struct op_ctx *op, struct file **file);
/* Leaves the attributes in the reply. */
int write_chunk(struct op_ctx *op, struct file *file, struct worker *w, bool piped, size_t len, uint64_t pos);
int write_done(struct op_ctx *op, struct file *file, bool stable, uint64_t verifier);

int get_file(struct op_ctx *op, const struct wfs_fh *fh, struct file **file);
int reply_attr(struct op_ctx *op, int fd, struct wfs_attr *attr);
int reply_changed(struct op_ctx *op, int fd, struct wfs_attr *attr);
int reply_change(struct change *ch, int fd, struct wfs_attr *attr);
int stat_fd(int fd, struct statx *stx);
int access_fd(int fd, int mask);
void attr_fill(const struct statx *stx, uint64_t seen, const struct session *s, struct wfs_attr *attr);
unsigned int open_rights(uint32_t flags);
int open_in(int dirfd, const char *name, int flags);
int open_file_of(int fd, int flags);		/* opens again what an O_PATH fd stands for */
int setup_entry(int fd, const struct session *s, struct wfs_entry *entry, struct statx *stx);

/* ---- cold.c ---- */

void cold_init(void);
ssize_t cold_pread(struct cred *cred, int fd, void *buf, size_t len, off_t offset);
bool cold_has(struct cred *cred, int fd, off_t offset, size_t len);
int cold_read(struct op_ctx *op, struct file *file);
void cold_stream(struct file *file, uint64_t offset, size_t len);
bool cold_output(struct conn *conn, struct file *file, off_t offset, size_t len);
void cold_counts(unsigned int *waiting, unsigned int *threads);

/* ---- readdir.c ---- */

int op_readdir(struct op_ctx *op);
void readdir_expire(time_t before);

/* ---- range.c ---- */

int op_allocate(struct op_ctx *op);
int op_seek(struct op_ctx *op);
int op_copy(struct op_ctx *op);

/* ---- mover.c ---- */

/**
 * struct mover - a way to bring a file's bytes into a socket
 * @send: sends up to @len bytes from *@pos on and advances it; bytes sent, 0 at the end of the
 *	file, a negative errno; -EAGAIN when the socket takes no more
 * @begin: makes what the thread needs, if it has not got it; 0 or a negative errno; or NULL
 * @end: the thread ends: gives back what it has in worker.mover; or NULL
 */
struct mover {
	const char	*name;
	ssize_t		(*send)(struct worker *w, int sock, int fd, off_t *pos, size_t len);
	int		(*begin)(struct worker *w);
	void		(*end)(struct worker *w);
};
extern const struct mover *mover;		/* does not change once there are workers */
int mover_select(const char *name);

/* ---- intake.c ---- */

#define INTAKE_SIZE	(1u << 20)	/* of the pipe */
#define INTAKE_MIN	(64u << 10)	/* of less, a copy is cheaper */

bool intake_begin(struct worker *w);
void intake_drop(struct worker *w);
bool intake_put(struct worker *w, const void *buf, size_t len);
ssize_t intake_receive(struct worker *w, int sock, size_t len);
ssize_t intake_write(struct worker *w, int fd, size_t len, off_t pos);
void intake_take(struct worker *w, void *buf, size_t len);

/* ---- conn.c ---- */

/**
 * struct chunk - a piece of a connection's output
 * @buf, @data: the bytes are in @buf, or in @data which is freed with the chunk, or in @file at
 *	@pos
 * @start, @end: what is to be sent yet of buf or data
 * @left: what is to be sent yet of @file
 * @seen: when that was in the page cache, in seconds
 * @replies: that end in this chunk
 */
struct chunk {
	TAILQ_ENTRY(chunk)	list;
	char			*data;
	struct file		*file;
	off_t			pos;
	size_t			left;
	time_t			seen;
	uint32_t		start, end, room;
	unsigned int		replies;
	char			buf[];
};

enum conn_state {
	CONN_OPEN,
	CONN_FINISH,	/* send what is queued, read no more */
	CONN_LINGER,	/* all is sent and our side is shut down; wait for the peer's */
	CONN_DEAD,	/* the last user frees it */
};

/**
 * struct conn - a connection; all of it belongs to the loop and its lock
 * @busy: threads that work for it without the lock, and requests that wait
 * @parked: LOCKs that wait, under table_lock (lock.c)
 * @cold: READs that wait for the disk; without a lock
 * @stuck: those of them that did not come back soon, so that the loop went on without them
 * @reading: a thread in a call is in the middle of the input, nobody else may touch it
 * @sending: the same for the output
 * @cpu, @looked: the CPU where a card brings its packets, or -1; and when that was seen; loop_steer()
 * @in: bytes received and not yet used, only while there are some
 * @pay_left: bytes of payload that are to come for the request at @in_start; 0 when in no payload
 * @pay_verifier: WRITE: the verifier from before its first piece
 */
struct conn {
	struct loop		*loop;
	int			sock;
	enum conn_state		state;
	bool			readable, writable, eof;
	bool			corked;		/* TCP sends whole packets only */
	bool			queued;		/* on loop.runq */
	bool			throttled;	/* on loop.throttled */
	bool			timed;		/* on loop.timed */
	bool			reading, sending;
	unsigned int		busy, stuck;
	unsigned int		parked;
	atomic_uint		cold;
	TAILQ_ENTRY(conn)	runq, throttled_link, timed_link;
	LIST_ENTRY(conn)	all;
	time_t			deadline;	/* while timed */
	int			cpu;
	time_t			looked;

	struct session		*session;
	unsigned int		index;
	time_t			hello;		/* when HELLO came first, while it has to wait */
	struct limits		lim;
	uint64_t		slots[WFS_SLOTS_MAX / 64];	/* occupied by a request */

	char			*in;
	uint32_t		in_start, in_end;
	uint64_t		pay_left, pay_done, pay_verifier;
	int			pay_err;
	struct file		*pay_file;
	char			*pay_blob;

	TAILQ_HEAD(chunks, chunk)	out;
	size_t			out_bytes;	/* on the heap */
	unsigned int		out_replies;
	time_t			full_since;	/* while not writable: when the socket became full */

	char			peer[64];	/* for the log */
};

struct conn *conn_new(struct loop *loop, int sock, const char *peer);
int conn_watch(struct conn *c, struct loop *loop);
void conn_turn(struct worker *w, struct conn *c);
void conn_event(struct conn *c, uint32_t events);
void conn_kill(struct conn *c);
void conn_finish(struct conn *c);
void conn_unpark(struct conn *c, uint8_t op, uint16_t slot, uint32_t seq, int status, struct reply *rep);
void conn_output_warm(struct conn *c);
void conn_shed(struct conn *c);

/* ---- loop.c ---- */

#define SCRATCH_SIZE	(256 * 1024)

/**
 * struct worker - a thread and what it needs to carry out a request
 * @loop, @conn, @stuck: whom it works for, under the loop's lock; the rest is its own
 * @mover: what the mover needs in this thread
 * @pipe: for intake.c, if @has_pipe
 */
struct worker {
	struct loop		*loop;
	struct conn		*conn;
	struct cred		cred;
	struct request		rq;
	struct reply		rep;
	char			*scratch;	/* SCRATCH_SIZE */
	struct chunk		*spare[2];	/* for a reply without memory; see reserve() */
	void			*mover;
	bool			has_pipe;
	int			pipe[2];
	size_t			moved;		/* bytes, in this turn of the connection */
	bool			moving;		/* after it: in the middle of a payload or of replies */
	bool			stuck;		/* counted in @conn->stuck */
	struct loop		*next_loop;	/* these three: under pool_lock */
	pthread_cond_t		wake;
	TAILQ_ENTRY(worker)	idle;
};

/**
 * struct loop - an event loop: a monitor that one thread at a time, its runner, keeps going
 *
 * The lock is held whenever the loop or one of its connections is touched, and released around
 * operations, the calls that move data from files, and epoll_wait.  When the runner does not come
 * back from a call the watchdog makes another thread the runner; the first one finishes its request
 * when it can, under the lock again, and leaves.
 */
struct loop {
	pthread_mutex_t		lock;		/* everything but @calls */
	atomic_ulong		calls;		/* odd while the runner is in a call */
	struct worker		*runner;
	int			cpu;
	int			epfd;
	int			wakefd;		/* eventfd: ends epoll_wait */
	uint64_t		moved;		/* bytes of files; a quarter each time that it waits, but in the middle of some */
	bool			moving;		/* as the runner's, after its last turn */
	uint64_t		poll;		/* nanoseconds that the runner looks for events before it sleeps */
	bool			sleeping;	/* the runner is in epoll_wait */
	bool			stopping;
	bool			ended;
	unsigned int		nconns;
	unsigned long		steered;	/* connections that came here for their packets' sake */
	unsigned long		seen;		/* by the watchdog: @calls at its last look */
	time_t			checked;	/* when deadlines were looked at last */
	TAILQ_HEAD(, conn)	runq;		/* have something to do */
	TAILQ_HEAD(, conn)	throttled;	/* wait for their session's requests to end, or for memory */
	uint64_t		throttled_until;	/* in ms; while there are any */
	TAILQ_HEAD(, conn)	timed;		/* have a deadline */
	LIST_HEAD(, conn)	conns;
	LIST_HEAD(, conn)	dead;		/* to be freed when no event can refer to them */
};

void loops_start(void);
bool loops_stop(void);		/* true when all is finished, false after some seconds */
void loops_add_conn(int sock, const char *peer);
unsigned int loops_conns(void);
void loop_leave(struct worker *w, bool slow);
void loop_enter(struct worker *w);
void loop_queue(struct conn *c);
bool loop_may_begin(const struct conn *c);
void loop_throttle(struct conn *c);
void loop_no_memory(struct conn *c);
void loop_memory_short(void);
void loop_conn_gone(struct loop *l);
void loop_timed(struct conn *c, unsigned int seconds);
void loop_untimed(struct conn *c);
bool loop_steer(struct worker *w, struct conn *c);
void loops_dump(void);

/* ---- stats.c ---- */

struct stats {
	atomic_ulong	requests[WFS_OP__COUNT], errors[WFS_OP__COUNT];
	atomic_ulong	bytes_read, bytes_written, accepted, rejected, replayed, lends, lend_failed;
	atomic_ulong	out_bytes;	/* heap held by replies, now */
	atomic_ulong	cold_reads, cold_output;	/* that waited for the disk */
	atomic_ulong	cold_ahead;	/* bytes */
};
extern struct stats stats;
void stats_dump(void);

static inline void stat_add(atomic_ulong *v, unsigned long n)
{
	atomic_fetch_add_explicit(v, n, memory_order_relaxed);
}

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static inline uint64_t now_ms(void)
{
	return now_ns() / 1000000;
}

static inline time_t now_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec;
}

#endif /* _WFSD_H */
