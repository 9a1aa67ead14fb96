// SPDX-License-Identifier: GPL-2.0-only
/*
 * loop.c - event loops, the threads that run them, and what happens when one hangs in a call.
 */
#include <errno.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wfsd.h"

#define WORKERS_MAX	512
#define SHARE		15		/* see loop_may_begin() */
#define SPARE_MAX	4		/* workers that may idle for long */
#define TURNS		16		/* of connections between two looks for events */
#define EVENTS		64
#define THROTTLE_MS	10
#define WATCH_NS	2000000		/* a call may last for one to two of these */
#define WATCH_IDLE	50		/* looks without anything seen until the watchdog sleeps */
#define STOP_SECONDS	10
#define POLL_FIRST	10000ull	/* nanoseconds */
#define POLL_BYTES	(256u << 10)	/* a loop that has just moved so much does not poll */

static struct loop *loops;
static unsigned int nloops;

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;	/* these three */
static TAILQ_HEAD(, worker) idle_workers = TAILQ_HEAD_INITIALIZER(idle_workers);
static unsigned int nworkers, nidle;

static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER;	/* clearing watch_asleep */
static pthread_cond_t watch_wake = PTHREAD_COND_INITIALIZER;
static atomic_bool watch_asleep;

/* Requests in calls that take long, which have a worker each: of all, and of connections without a session. */
static atomic_uint stuck, strangers_stuck;

static atomic_bool memory_short;	/* somebody got none; the janitor looks for who has it */

/* ---- workers ---- */

static void loop_run(struct worker *w);

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	int cpu = -1;

	/* A working directory and a umask of this thread's own. */
	if (unshare(CLONE_FS) || fchdir(cfg.proc_fd))
		die("setting up a thread: %s", strerror(errno));
	cred_thread_init(&w->cred);

	pthread_mutex_lock(&pool_lock);
	for (;;) {
		while (!w->next_loop && (thread_idle(&w->wake, &pool_lock) || nidle <= SPARE_MAX))
			;
		if (!w->next_loop)
			break;
		w->next_loop = NULL;
		pthread_mutex_unlock(&pool_lock);

		if (cpu != w->loop->cpu)
			thread_near(cpu = w->loop->cpu);
		loop_run(w);

		pthread_mutex_lock(&pool_lock);
		TAILQ_INSERT_HEAD(&idle_workers, w, idle);
		nidle++;
	}
	TAILQ_REMOVE(&idle_workers, w, idle);
	nidle--;
	nworkers--;
	pthread_mutex_unlock(&pool_lock);
	pthread_cond_destroy(&w->wake);
	if (mover->end)
		mover->end(w);
	free(w->spare[0]);
	free(w->spare[1]);
	intake_drop(w);
	free(w->scratch);
	free(w);
	return NULL;
}

/* Under pool_lock.  The thread finds its work when it starts. */
static struct worker *new_worker(void)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->scratch = malloc(SCRATCH_SIZE);
	pthread_cond_init(&w->wake, NULL);
	if (!w->scratch || thread_start(worker_main, w)) {
		pthread_cond_destroy(&w->wake);
		free(w->scratch);
		free(w);
		return NULL;
	}
	nworkers++;
	return w;
}

/* Give a loop, whose lock is held, a new runner. */
static bool set_runner(struct loop *l)
{
	struct worker *w;

	pthread_mutex_lock(&pool_lock);
	w = TAILQ_FIRST(&idle_workers);
	if (w) {
		TAILQ_REMOVE(&idle_workers, w, idle);
		nidle--;
	} else if (nworkers < WORKERS_MAX) {
		w = new_worker();
	}
	if (w) {
		w->loop = w->next_loop = l;
		l->runner = w;
		pthread_cond_signal(&w->wake);
	}
	pthread_mutex_unlock(&pool_lock);
	return w;
}

static atomic_uint *stuck_of(const struct conn *c)
{
	return c->session ? &c->session->stuck : &strangers_stuck;
}

/**
 * loop_may_begin - may another request of the connection's session be begun, or do enough of them hang?
 *
 * A session may use as many workers as a 15th of those that are left: 32 of 512 if it is the only one whose requests
 * hang, 20 each if there are ten, and whoever comes next finds some.  One request of a session may always.
 */
bool loop_may_begin(const struct conn *c)
{
	unsigned int all = MIN(atomic_load_explicit(&stuck, memory_order_relaxed), WORKERS_MAX);

	return atomic_load_explicit(stuck_of(c), memory_order_relaxed) < MAX((WORKERS_MAX - all) / SHARE, 1u);
}

/*
 * The runner of @l, whose lock is held, is or will be in a call for long: let another thread be the
 * runner.
 */
static bool lend(struct loop *l)
{
	struct worker *w = l->runner;
	struct conn *c = w->conn;

	if (!set_runner(l)) {
		stat_add(&stats.lend_failed, 1);
		return false;
	}
	stat_add(&stats.lends, 1);
	w->stuck = true;
	c->stuck++;
	atomic_fetch_add(stuck_of(c), 1);
	atomic_fetch_add(&stuck, 1);
	/* There may be more requests of the same connection. */
	loop_queue(c);
	return true;
}

/**
 * loop_leave - the worker is about to make a call that may take a while: release the loop
 * @slow: it will
 */
void loop_leave(struct worker *w, bool slow)
{
	struct loop *l = w->loop;
	bool watch = false;

	if (l->runner == w && !(slow && lend(l))) {
		atomic_fetch_add(&l->calls, 1);
		watch = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (watch && atomic_load(&watch_asleep)) {
		pthread_mutex_lock(&watch_lock);
		atomic_store(&watch_asleep, false);
		pthread_cond_signal(&watch_wake);
		pthread_mutex_unlock(&watch_lock);
	}
}

void loop_enter(struct worker *w)
{
	struct loop *l = w->loop;

	pthread_mutex_lock(&l->lock);
	if (l->runner == w) {
		atomic_fetch_add(&l->calls, 1);
	} else if (w->stuck) {
		w->stuck = false;
		w->conn->stuck--;
		/* join() gives it a session after this */
		atomic_fetch_sub(stuck_of(w->conn), 1);
		atomic_fetch_sub(&stuck, 1);
	}
}

/*
 * The watchdog looks at the loops every 2 ms: a runner that is in the same call as at the last look
 * has been there for too long.  So the loops need not read the clock.  With nothing going on it
 * sleeps.
 */
static void *watchdog_main(void *arg)
{
	static const struct timespec tick = { .tv_nsec = WATCH_NS };
	unsigned int idle = 0;

	for (;;) {
		bool busy = false;

		nanosleep(&tick, NULL);
		for (unsigned int i = 0; i < nloops; i++) {
			struct loop *l = &loops[i];
			unsigned long calls = atomic_load(&l->calls);

			busy |= calls != l->seen || calls % 2;
			if (calls % 2 && calls == l->seen) {
				pthread_mutex_lock(&l->lock);
				if (atomic_load(&l->calls) == calls && lend(l))
					atomic_fetch_add(&l->calls, 1);
				pthread_mutex_unlock(&l->lock);
			}
			l->seen = calls;
		}
		idle = busy ? 0 : idle + 1;
		if (idle < WATCH_IDLE)
			continue;

		pthread_mutex_lock(&watch_lock);
		atomic_store(&watch_asleep, true);
		/* A call that began before it could see that is to be seen now. */
		for (unsigned int i = 0; i < nloops; i++)
			if (atomic_load(&loops[i].calls) != loops[i].seen)
				atomic_store(&watch_asleep, false);
		while (atomic_load(&watch_asleep))
			pthread_cond_wait(&watch_wake, &watch_lock);
		pthread_mutex_unlock(&watch_lock);
		idle = 0;
	}
	return arg;
}

/*
 * Somebody got no memory.  What of it clients can hold are replies that they do not take, so those
 * connections go that have not taken any for a while, and nobody else.
 */
static void shed(void)
{
	for (unsigned int i = 0; i < nloops; i++) {
		struct loop *l = &loops[i];
		struct conn *c, *next;

		pthread_mutex_lock(&l->lock);
		for (c = LIST_FIRST(&l->conns); c; c = next) {
			next = LIST_NEXT(c, all);
			conn_shed(c);
		}
		pthread_mutex_unlock(&l->lock);
	}
	malloc_trim(0);
}

/* Closes what nobody uses any more; a thread of its own, for closing may take long. */
static void *janitor_main(void *arg)
{
	for (;;) {
		time_t now = now_seconds();

		readdir_expire(now - 5);
		session_expire(now);
		if (atomic_exchange(&memory_short, false))
			shed();
		orphan_expire();
		sleep(1);
	}
	return arg;
}

/* ---- the loop ---- */

static void wake(struct loop *l)
{
	uint64_t one = 1;

	/* It fails only when it is as good as written already. */
	if (l->sleeping && write(l->wakefd, &one, sizeof(one)) > 0)
		l->sleeping = false;
}

/* The connection may have something to do. */
void loop_queue(struct conn *c)
{
	struct loop *l = c->loop;

	if (c->queued || c->state == CONN_DEAD)
		return;
	c->queued = true;
	TAILQ_INSERT_TAIL(&l->runq, c, runq);
	wake(l);
}

/* A connection has left loop.conns; when it was the last, the runner may have been waiting for that. */
void loop_conn_gone(struct loop *l)
{
	l->nconns--;
	if (l->stopping && !l->nconns)
		wake(l);
}

void loop_memory_short(void)
{
	atomic_store(&memory_short, true);
}

/* There was no memory for what the connection has to do next: look again in a while. */
void loop_no_memory(struct conn *c)
{
	loop_memory_short();
	loop_throttle(c);
}

/* Its session has too many requests that hang: look again in a while. */
void loop_throttle(struct conn *c)
{
	if (c->throttled)
		return;
	c->throttled = true;
	if (TAILQ_EMPTY(&c->loop->throttled))
		c->loop->throttled_until = now_ms() + THROTTLE_MS;
	TAILQ_INSERT_TAIL(&c->loop->throttled, c, throttled_link);
}

/* The connection is dead unless something happens in time. */
void loop_timed(struct conn *c, unsigned int seconds)
{
	c->deadline = now_seconds() + seconds;
	if (c->timed)
		return;
	c->timed = true;
	TAILQ_INSERT_TAIL(&c->loop->timed, c, timed_link);
}

void loop_untimed(struct conn *c)
{
	if (!c->timed)
		return;
	c->timed = false;
	TAILQ_REMOVE(&c->loop->timed, c, timed_link);
}

static void check_times(struct loop *l)
{
	time_t now = now_seconds();
	struct conn *c, *next;

	for (c = now == l->checked ? NULL : TAILQ_FIRST(&l->timed); c; c = next) {
		next = TAILQ_NEXT(c, timed_link);
		if (c->deadline > now)
			continue;
		if (c->state == CONN_OPEN)
			log_limited("%s: said no HELLO, closing", c->peer);
		conn_kill(c);
	}
	l->checked = now;
	/* Not sooner, or many of them would keep each other from sleeping. */
	if (TAILQ_EMPTY(&l->throttled) || now_ms() < l->throttled_until)
		return;
	while ((c = TAILQ_FIRST(&l->throttled))) {
		TAILQ_REMOVE(&l->throttled, c, throttled_link);
		c->throttled = false;
		loop_queue(c);
	}
}

/*
 * Wait for events.  To put an idle CPU to sleep and wake it costs more than many a request takes to come; so they are
 * looked for first, for as long as is worth while: as wfs_wait() of the client does it.  Whoever else wants this CPU comes first.
 */
static int poll_events(struct loop *l, struct epoll_event *events)
{
	uint64_t most = cfg.poll * 1000ull, start = now_ns(), took = 0;
	int n = 0;

	while (took < l->poll) {
		n = epoll_wait(l->epfd, events, EVENTS, 0);
		if (n)
			break;
		sched_yield();
		took = now_ns() - start;
	}
	if (!n) {
		n = epoll_wait(l->epfd, events, EVENTS, -1);
		took = now_ns() - start;
	}
	if (took > most)
		l->poll = 0;
	else if (took > l->poll)
		l->poll = MIN(MAX(2 * l->poll, POLL_FIRST), most);
	return n;
}

/*
 * May events come soon?  Not behind much data, nor in the middle of some: who gets or sends that is busy with it for longer, and
 * perhaps on this CPU.
 */
static bool may_poll(struct loop *l)
{
	bool may = cfg.poll && !l->moving && l->moved < POLL_BYTES;

	/* an event may be followed by others of the same data */
	if (!l->moving)
		l->moved /= 4;
	return may;
}

static void look_for_events(struct loop *l)
{
	struct epoll_event events[EVENTS];
	struct conn *c;
	int n, timeout;
	uint64_t count;
	bool poll;

	/* All events that could refer to them have been seen. */
	while ((c = LIST_FIRST(&l->dead))) {
		LIST_REMOVE(c, all);
		free(c);
	}
	timeout = !TAILQ_EMPTY(&l->runq) ? 0 : !TAILQ_EMPTY(&l->throttled) ? THROTTLE_MS :
		  !TAILQ_EMPTY(&l->timed) ? 1000 : -1;
	poll = may_poll(l) && timeout == -1;
	if (timeout) {
		l->sleeping = true;
		pthread_mutex_unlock(&l->lock);
	}
	n = poll ? poll_events(l, events) : epoll_wait(l->epfd, events, EVENTS, timeout);
	if (timeout) {
		pthread_mutex_lock(&l->lock);
		l->sleeping = false;
	}
	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr)
			conn_event(events[i].data.ptr, events[i].events);
		else if (read(l->wakefd, &count, sizeof(count)) < 0)
			continue;
	}
	check_times(l);
}

static void loop_run(struct worker *w)
{
	struct loop *l = w->loop;
	struct conn *c;

	pthread_mutex_lock(&l->lock);
	while (l->runner == w && !(l->stopping && !l->nconns)) {
		look_for_events(l);
		for (unsigned int i = 0; i < TURNS && l->runner == w &&
		     (c = TAILQ_FIRST(&l->runq)); i++) {
			TAILQ_REMOVE(&l->runq, c, runq);
			c->queued = false;
			conn_turn(w, c);
			if (l->runner == w) {
				l->moved += w->moved;
				l->moving = w->moving;
			}
		}
	}
	if (l->runner == w)
		l->ended = true;
	pthread_mutex_unlock(&l->lock);
}

/* ---- steering ---- */

/* The CPU where a network card brings the connection's packets; -1 if none does: those of this machine arrive where their sender runs. */
static int packets_cpu(const struct conn *c)
{
	socklen_t len = sizeof(int);
	int cpu = -1, napi = 0;

	if (getsockopt(c->sock, SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &len) || !napi ||
	    getsockopt(c->sock, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len))
		return -1;
	return cpu;
}

/*
 * No loop gets more to do than the one that gives.  The last connection goes only when another will come in its place,
 * or with a card that has one queue all would be done on one CPU.
 */
static bool may_move(const struct loop *from, const struct loop *to)
{
	const struct conn *c;

	if (from->stopping || to->stopping || to->nconns > from->nconns)
		return false;
	if (from->nconns > 1)
		return true;
	LIST_FOREACH(c, &to->conns, all)
		if (c->cpu == from->cpu)
			return true;
	return false;
}

static void move(struct conn *c, struct loop *to)
{
	struct loop *from = c->loop;

	/* No event of it is left in the old loop: the runner has seen all that it got, and it is who does this. */
	epoll_ctl(from->epfd, EPOLL_CTL_DEL, c->sock, NULL);
	if (c->queued)
		TAILQ_REMOVE(&from->runq, c, runq);
	c->queued = false;
	LIST_REMOVE(c, all);
	from->nconns--;
	c->loop = to;
	LIST_INSERT_HEAD(&to->conns, c, all);
	to->nconns++;
	to->steered++;
	loop_queue(c);
}

/**
 * loop_steer - after a turn of a connection: let the loop have it that is on the CPU where its packets arrive
 *
 * After HELLO, and then once a second, since interrupts are moved and cards learn.  Nobody else may work for the connection.
 *
 * Return: true if it was moved; the caller must not touch it any more.
 */
bool loop_steer(struct worker *w, struct conn *c)
{
	struct loop *from = c->loop, *to = NULL;
	time_t now = now_seconds();
	bool moved;

	if (c->looked == now || !c->session)
		return false;
	c->looked = now;
	c->cpu = packets_cpu(c);
	if (c->cpu == from->cpu)
		return false;
	for (unsigned int i = 0; i < nloops && !to; i++)
		if (loops[i].cpu == c->cpu)
			to = &loops[i];
	if (!to || from->runner != w || c->busy || c->throttled || c->timed || pthread_mutex_trylock(&to->lock))
		return false;
	moved = may_move(from, to) && !conn_watch(c, to);
	if (moved)
		move(c, to);
	pthread_mutex_unlock(&to->lock);
	return moved;
}

void loops_dump(void)
{
	for (unsigned int i = 0; i < nloops; i++) {
		struct loop *l = &loops[i];
		unsigned int here = 0;
		struct conn *c;

		pthread_mutex_lock(&l->lock);
		LIST_FOREACH(c, &l->conns, all)
			here += c->cpu == l->cpu;
		log_msg("stats: loop %u cpu %d connections %u packets_here %u steered %lu", i, l->cpu, l->nconns,
			here, l->steered);
		pthread_mutex_unlock(&l->lock);
	}
}

/* ---- from outside ---- */

static void start_thread(void *(*fn)(void *))
{
	int err = thread_start(fn, NULL);

	if (err)
		die("starting a thread: %s", strerror(err));
}

void loops_start(void)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
	cpu_set_t set;
	int cpu = -1;

	if (sched_getaffinity(0, sizeof(set), &set))
		die("sched_getaffinity: %s", strerror(errno));
	nloops = cfg.threads ? cfg.threads : (unsigned int)CPU_COUNT(&set);
	loops = calloc(nloops, sizeof(*loops));
	if (!loops)
		die("no memory");
	for (unsigned int i = 0; i < nloops; i++) {
		struct loop *l = &loops[i];

		do
			cpu = (cpu + 1) % CPU_SETSIZE;
		while (!CPU_ISSET(cpu, &set));
		l->cpu = cpu;
		pthread_mutex_init(&l->lock, NULL);
		TAILQ_INIT(&l->runq);
		TAILQ_INIT(&l->throttled);
		TAILQ_INIT(&l->timed);
		l->epfd = epoll_create1(EPOLL_CLOEXEC);
		l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (l->epfd < 0 || l->wakefd < 0 ||
		    epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev))
			die("epoll: %s", strerror(errno));
	}
	for (unsigned int i = 0; i < nloops; i++) {
		pthread_mutex_lock(&loops[i].lock);
		if (!set_runner(&loops[i]))
			die("starting a thread: %s", strerror(errno));
		pthread_mutex_unlock(&loops[i].lock);
	}
	start_thread(watchdog_main);
	start_thread(janitor_main);
}

/*
 * The loop with the fewest connections; of several, that on the CPU where this one's packets
 * arrive.  See loop_steer() for what comes later.
 */
void loops_add_conn(int sock, const char *peer)
{
	struct loop *best = NULL;
	unsigned int fewest = UINT_MAX;
	socklen_t len = sizeof(int);
	struct conn *c;
	int cpu = -1;

	getsockopt(sock, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len);
	for (unsigned int i = 0; i < nloops; i++) {
		struct loop *l = &loops[i];

		pthread_mutex_lock(&l->lock);
		if (l->nconns < fewest || (l->nconns == fewest && l->cpu == cpu)) {
			fewest = l->nconns;
			best = l;
		}
		pthread_mutex_unlock(&l->lock);
	}
	pthread_mutex_lock(&best->lock);
	c = conn_new(best, sock, peer);
	if (c)
		loop_queue(c);
	pthread_mutex_unlock(&best->lock);
	if (!c) {
		log_limited("%s: no memory for a connection", peer);
		close(sock);
	}
}

unsigned int loops_conns(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < nloops; i++) {
		pthread_mutex_lock(&loops[i].lock);
		n += loops[i].nconns;
		pthread_mutex_unlock(&loops[i].lock);
	}
	return n;
}

bool loops_stop(void)
{
	static const struct timespec tick = { .tv_nsec = 10000000 };
	time_t until = now_seconds() + STOP_SECONDS;
	bool ended;

	for (unsigned int i = 0; i < nloops; i++) {
		struct loop *l = &loops[i];
		struct conn *c, *next;

		pthread_mutex_lock(&l->lock);
		l->stopping = true;
		for (c = LIST_FIRST(&l->conns); c; c = next) {
			next = LIST_NEXT(c, all);
			conn_finish(c);
		}
		wake(l);
		pthread_mutex_unlock(&l->lock);
	}
	do {
		ended = true;
		for (unsigned int i = 0; i < nloops; i++) {
			pthread_mutex_lock(&loops[i].lock);
			ended &= loops[i].ended;
			pthread_mutex_unlock(&loops[i].lock);
		}
		if (!ended)
			nanosleep(&tick, NULL);
	} while (!ended && now_seconds() < until);
	return ended;
}
