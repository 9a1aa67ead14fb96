// SPDX-License-Identifier: GPL-2.0
/*
 * locks - flock, POSIX and OFD locks between two mounts of one export, and programs of the server.
 *
 * WFS_TEST_DIR2 is another mount of the same export: another session, so that one process can be two lockers.
 */
#include "wfs_test.h"

#include <pthread.h>
#include <sys/file.h>
#include <sys/time.h>

static int lock_fd(int fd, int cmd, int type, off_t start, off_t len)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return fcntl(fd, cmd, &fl);
}

/* What is in the way of a write lock: its type, F_UNLCK for nothing, -1 for an error. */
static int in_the_way(int fd, off_t start, off_t len, struct flock *fl)
{
	*fl = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
	return fcntl(fd, F_GETLK, fl) ? -1 : fl->l_type;
}

#define LOCK(fd, type, start, len)	OK(lock_fd(fd, F_SETLK, type, start, len))
#define BUSY(fd, type, start, len)	FAILS(EAGAIN, lock_fd(fd, F_SETLK, type, start, len))

FIXTURE(locks)
{
	char file[PATH_MAX], file2[PATH_MAX], local[PATH_MAX];
	int a, b;		/* the same file on each mount */
};

FIXTURE_SETUP(locks)
{
	const char *second = getenv("WFS_TEST_DIR2");
	const char *name = _metadata->name;

	if (!second)
		SKIP(return, "no second mount");
	snprintf(self->file, sizeof(self->file), "%s/%s.%d", test_dir(), name, getpid());
	snprintf(self->file2, sizeof(self->file2), "%s/%s.%d", second, name, getpid());
	snprintf(self->local, sizeof(self->local), "%s/%s.%d", export_dir(), name, getpid());
	self->a = open(self->file, O_RDWR | O_CREAT | O_EXCL, 0644);
	OK(self->a);
	self->b = open(self->file2, O_RDWR);
	OK(self->b);
}

FIXTURE_TEARDOWN(locks)
{
	close(self->a);
	close(self->b);
	unlink(self->file);
}

TEST_F(locks, posix)
{
	int a = self->a, b = self->b;
	struct flock fl;

	LOCK(a, F_WRLCK, 100, 100);
	BUSY(b, F_RDLCK, 199, 1);
	LOCK(b, F_WRLCK, 200, 0);
	BUSY(a, F_RDLCK, 0, 0);
	LOCK(b, F_UNLCK, 0, 0);
	/* split, convert, join */
	LOCK(a, F_UNLCK, 120, 10);
	LOCK(b, F_WRLCK, 120, 10);
	BUSY(b, F_WRLCK, 119, 1);
	LOCK(b, F_UNLCK, 0, 0);
	LOCK(a, F_RDLCK, 110, 20);
	ASSERT_EQ(F_WRLCK, in_the_way(b, 0, 0, &fl));
	ASSERT_EQ(100, fl.l_start);
	ASSERT_EQ(10, fl.l_len);
	ASSERT_EQ(F_RDLCK, in_the_way(b, 110, 0, &fl));
	ASSERT_EQ(110, fl.l_start);
	ASSERT_EQ(20, fl.l_len);
	LOCK(b, F_RDLCK, 110, 20);
	BUSY(a, F_WRLCK, 110, 20);
	LOCK(b, F_UNLCK, 0, 0);
	LOCK(a, F_WRLCK, 110, 20);
	LOCK(a, F_WRLCK, 200, 0);
	ASSERT_EQ(F_WRLCK, in_the_way(b, 0, 0, &fl));
	ASSERT_EQ(100, fl.l_start);
	ASSERT_EQ(0, fl.l_len);
	ASSERT_EQ(F_UNLCK, in_the_way(b, 0, 100, &fl));
	/* closing any descriptor of the file frees them */
	OK(close(open(self->file, O_RDONLY)));
	ASSERT_EQ(F_UNLCK, in_the_way(b, 0, 0, &fl));
	LOCK(b, F_WRLCK, 0, 0);
}

TEST_F(locks, ofd)
{
	int a = self->a, b = self->b, a2 = open(self->file, O_RDWR);

	OK(a2);
	OK(lock_fd(a, F_OFD_SETLK, F_WRLCK, 0, 10));
	FAILS(EAGAIN, lock_fd(a2, F_OFD_SETLK, F_RDLCK, 5, 1));
	FAILS(EAGAIN, lock_fd(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	BUSY(b, F_RDLCK, 5, 1);
	OK(lock_fd(b, F_OFD_SETLK, F_WRLCK, 10, 0));
	FAILS(EAGAIN, lock_fd(a2, F_OFD_SETLK, F_WRLCK, 100, 1));
	/* not by the close of another one */
	OK(close(a2));
	FAILS(EAGAIN, lock_fd(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	self->a = dup(a);
	OK(close(a));
	FAILS(EAGAIN, lock_fd(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	OK(close(self->a));
	OK(lock_fd(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}

TEST_F(locks, flocks)
{
	int a = self->a, b = self->b, a2 = open(self->file, O_RDONLY);

	OK(a2);
	OK(flock(a, LOCK_SH));
	OK(flock(b, LOCK_SH));
	OK(flock(a2, LOCK_SH));
	FAILS(EAGAIN, flock(a, LOCK_EX | LOCK_NB));
	/* which has lost the lock that a had */
	OK(flock(a2, LOCK_UN));
	OK(flock(b, LOCK_EX | LOCK_NB));
	FAILS(EAGAIN, flock(a2, LOCK_SH | LOCK_NB));
	OK(flock(b, LOCK_SH));
	OK(flock(a2, LOCK_SH | LOCK_NB));
	OK(flock(b, LOCK_UN));
	OK(flock(a2, LOCK_EX | LOCK_NB));
	FAILS(EAGAIN, flock(a, LOCK_SH | LOCK_NB));
	FAILS(EAGAIN, flock(b, LOCK_SH | LOCK_NB));
	LOCK(b, F_WRLCK, 0, 0);		/* another kind */
	OK(close(a2));
	OK(flock(b, LOCK_EX | LOCK_NB));
}

TEST_F(locks, programs_on_the_server)
{
	int a = self->a, s = open(self->local, O_RDWR);

	OK(s);
	OK(flock(s, LOCK_EX));
	FAILS(EAGAIN, flock(a, LOCK_SH | LOCK_NB));
	OK(flock(s, LOCK_UN));
	OK(flock(a, LOCK_EX | LOCK_NB));
	FAILS(EAGAIN, flock(s, LOCK_SH | LOCK_NB));
	OK(flock(a, LOCK_UN));
	OK(flock(s, LOCK_EX | LOCK_NB));
	OK(lock_fd(s, F_OFD_SETLK, F_WRLCK, 0, 10));
	BUSY(a, F_RDLCK, 9, 1);
	LOCK(a, F_WRLCK, 10, 10);
	FAILS(EAGAIN, lock_fd(s, F_OFD_SETLK, F_RDLCK, 19, 1));
	LOCK(a, F_UNLCK, 0, 0);
	OK(lock_fd(s, F_OFD_SETLK, F_WRLCK, 10, 10));
	OK(close(s));
	LOCK(a, F_WRLCK, 0, 0);
}

static void nothing(int sig)
{
	(void)sig;
}

/* A child that asks for a lock of @path and waits; exits with 0 when it has it, 2 when interrupted. */
static pid_t child_waits(const char *path, bool whole, bool read_first)
{
	pid_t pid = fork();
	int fd, ret;

	if (pid)
		return pid;
	sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = nothing }, NULL);
	fd = open(path, O_RDWR);
	if (read_first && lock_fd(fd, F_SETLK, F_RDLCK, 0, 10))
		_exit(3);
	ret = whole ? flock(fd, LOCK_EX) : lock_fd(fd, F_SETLKW, F_WRLCK, 0, 10);
	if (!ret)
		_exit(0);
	if (errno != EINTR)
		_exit(1);
	/* what it had before it still has; until it is told to end */
	if (read_first)
		pause();
	_exit(2);
}

/* 0 when the child has not ended within a moment, else 1. */
static int ends_soon(pid_t pid, int ms, int *status)
{
	for (int i = 0; i < ms / 10; i++) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return 1;
		usleep(10000);
	}
	return 0;
}

TEST_F_TIMEOUT(locks, wait_and_get, 120)
{
	int status;

	for (int whole = 0; whole < 2; whole++) {
		for (int mount = 0; mount < 2; mount++) {
			pid_t pid;

			if (whole)
				OK(flock(self->a, LOCK_SH));
			else
				LOCK(self->a, F_RDLCK, 5, 10);
			pid = child_waits(mount ? self->file2 : self->file, whole, false);
			ASSERT_EQ(0, ends_soon(pid, 500, &status));
			if (whole)
				OK(flock(self->a, LOCK_UN));
			else
				LOCK(self->a, F_UNLCK, 0, 0);
			ASSERT_EQ(1, ends_soon(pid, 30000, &status));
			ASSERT_EQ(0, status);
		}
	}
	/* from a program of the server */
	int s = open(self->local, O_RDWR);
	OK(s);
	OK(flock(s, LOCK_EX));
	pid_t pid = child_waits(self->file, true, false);
	ASSERT_EQ(0, ends_soon(pid, 500, &status));
	OK(flock(s, LOCK_UN));	/* the child has the descriptor too */
	ASSERT_EQ(1, ends_soon(pid, 30000, &status));
	ASSERT_EQ(0, status);
}

TEST_F_TIMEOUT(locks, signal_ends_the_wait, 120)
{
	struct flock fl;
	int status;
	pid_t pid;

	for (int whole = 0; whole < 2; whole++) {
		double start;

		OK(whole ? flock(self->b, LOCK_EX) : lock_fd(self->b, F_SETLK, F_WRLCK, 0, 10));
		pid = child_waits(self->file, whole, false);
		ASSERT_EQ(0, ends_soon(pid, 700, &status));
		start = now();
		OK(kill(pid, SIGUSR1));
		ASSERT_EQ(1, ends_soon(pid, 30000, &status));
		ASSERT_EQ(2, WEXITSTATUS(status));
		/* the wait is 5 s long without it */
		ASSERT_LT(now() - start, 4);
		/* killed */
		pid = child_waits(self->file, whole, false);
		ASSERT_EQ(0, ends_soon(pid, 700, &status));
		OK(kill(pid, SIGKILL));
		ASSERT_EQ(1, ends_soon(pid, 30000, &status));
		OK(whole ? flock(self->b, LOCK_UN) : lock_fd(self->b, F_SETLK, F_UNLCK, 0, 0));
		/* and leaves nothing behind */
		OK(whole ? flock(self->b, LOCK_EX) : lock_fd(self->b, F_SETLKW, F_WRLCK, 0, 0));
		OK(whole ? flock(self->b, LOCK_UN) : lock_fd(self->b, F_SETLK, F_UNLCK, 0, 0));
	}
	/* to have it for writing, what was had for reading */
	LOCK(self->b, F_RDLCK, 0, 10);
	pid = child_waits(self->file, false, true);
	ASSERT_EQ(0, ends_soon(pid, 700, &status));
	OK(kill(pid, SIGUSR1));
	ASSERT_EQ(0, ends_soon(pid, 500, &status));
	LOCK(self->b, F_UNLCK, 0, 0);
	ASSERT_EQ(F_RDLCK, in_the_way(self->b, 0, 0, &fl));
	OK(kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	OK(lock_fd(self->b, F_SETLKW, F_WRLCK, 0, 0));
}

TEST_F_TIMEOUT(locks, killed_holder, 60)
{
	int pipefd[2], status;
	char c;

	OK(pipe(pipefd));
	for (int mount = 0; mount < 2; mount++) {
		pid_t pid = fork();

		if (!pid) {
			int fd = open(mount ? self->file2 : self->file, O_RDWR);

			if (flock(fd, LOCK_EX) || lock_fd(fd, F_SETLK, F_WRLCK, 0, 10) ||
			    lock_fd(fd, F_OFD_SETLK, F_WRLCK, 20, 10) || write(pipefd[1], "x", 1) != 1)
				_exit(1);
			pause();
		}
		ASSERT_EQ(1, read(pipefd[0], &c, 1));
		BUSY(self->a, F_RDLCK, 0, 10);
		BUSY(self->a, F_RDLCK, 20, 1);
		FAILS(EAGAIN, flock(self->a, LOCK_SH | LOCK_NB));
		OK(kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		OK(lock_fd(self->a, F_SETLKW, F_WRLCK, 0, 0));
		OK(flock(self->a, LOCK_EX));
		LOCK(self->a, F_UNLCK, 0, 0);
		OK(flock(self->a, LOCK_UN));
	}
}

struct counters {
	struct barrier b;
	atomic_int in, odd, total;
};

/* Who has the lock is alone, and sees what the one before has written: with caches of the default length. */
static void count(struct counters *s, const char *path, int me, int procs, int rounds)
{
	int fd = open(path, O_RDWR);
	long n;

	barrier(&s->b, procs);
	for (int i = 0; i < rounds; i++) {
		bool whole = me & 2;	/* those of one kind count in one place */
		off_t at = whole ? 8192 : 0;

		if (whole ? flock(fd, LOCK_EX) : lock_fd(fd, F_SETLKW, F_WRLCK, 0, 8)) {
			printf("# lock: %s\n", strerror(errno));
			atomic_fetch_add(&s->odd, 1);
			break;
		}
		n = 0;
		if (pread(fd, &n, sizeof(n), at) < 0)
			atomic_fetch_add(&s->odd, 1);
		n++;
		if (pwrite(fd, &n, sizeof(n), at) != sizeof(n))
			atomic_fetch_add(&s->odd, 1);
		if (whole ? flock(fd, LOCK_UN) : lock_fd(fd, F_SETLK, F_UNLCK, 0, 8))
			atomic_fetch_add(&s->odd, 1);
	}
	close(fd);
}

TEST_F_TIMEOUT(locks, data_under_locks, 200)
{
	enum { PROCS = 8, ROUNDS = 40 };
	struct counters *s = shared_alloc(sizeof(*s));
	long n[2];

	for (int me = 0; me < PROCS; me++) {
		if (fork())
			continue;
		count(s, me & 1 ? self->file2 : self->file, me, PROCS, ROUNDS);
		_exit(0);
	}
	ASSERT_EQ(0, wait_children(PROCS));
	ASSERT_EQ(0, atomic_load(&s->odd));
	int fd = open(self->local, O_RDONLY);
	ASSERT_EQ(8, pread(fd, &n[0], 8, 0));
	ASSERT_EQ(8, pread(fd, &n[1], 8, 8192));
	OK(close(fd));
	ASSERT_EQ(PROCS / 2 * ROUNDS, n[0]);
	ASSERT_EQ(PROCS / 2 * ROUNDS, n[1]);
}

struct crossing {
	int fd;
	pthread_barrier_t start;
	bool odd;
};

static void *unlocker(void *arg)
{
	struct crossing *x = arg;

	pthread_barrier_wait(&x->start);
	if (lock_fd(x->fd, F_SETLK, F_UNLCK, 0, 0))
		x->odd = true;
	return NULL;
}

/* One thread locks while another one of the same process unlocks: whoever was last, here and there they agree. */
TEST_F_TIMEOUT(locks, crossing, 120)
{
	struct crossing x = { .fd = self->a };
	int ask[2], answer[2], locked = 0;
	struct flock here, there;
	pthread_t thread;
	char c = 0;

	/* another process of this mount asks what is there */
	OK(pipe(ask));
	OK(pipe(answer));
	if (!fork()) {
		int fd = open(self->file, O_RDWR);

		while (read(ask[0], &c, 1) == 1 && c == 'x') {
			if (in_the_way(fd, 0, 0, &here) < 0 ||
			    write(answer[1], &here, sizeof(here)) != sizeof(here))
				_exit(1);
		}
		_exit(0);
	}
	OK(pthread_barrier_init(&x.start, NULL, 2));
	for (int i = 0; i < 150; i++) {
		if (i & 1)
			LOCK(self->a, F_WRLCK, 0, 10);
		OK(pthread_create(&thread, NULL, unlocker, &x));
		pthread_barrier_wait(&x.start);
		usleep(i / 3 * 10);
		LOCK(self->a, F_WRLCK, 0, 10);
		OK(pthread_join(thread, NULL));
		ASSERT_FALSE(x.odd);
		ASSERT_EQ(1, write(ask[1], "x", 1));
		ASSERT_EQ((ssize_t)sizeof(here), read(answer[0], &here, sizeof(here)));
		ASSERT_NE(-1, in_the_way(self->b, 0, 0, &there));
		ASSERT_EQ(here.l_type, there.l_type);
		/* the number of a process is that of the table here, what only the server has has none */
		if (here.l_type != F_UNLCK) {
			ASSERT_EQ(getpid(), here.l_pid);
			locked++;
		}
		LOCK(self->a, F_UNLCK, 0, 0);
	}
	TH_LOG("%d of 150 were locked in the end", locked);
	ASSERT_EQ(1, write(ask[1], "q", 1));
	ASSERT_EQ(0, wait_children(1));
}

struct unlocking {
	int fd;
	atomic_bool stop;
};

static void *lock_and_unlock(void *arg)
{
	struct unlocking *u = arg;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	while (!atomic_load(&u->stop))
		if (lock_fd(u->fd, F_SETLK, F_WRLCK, 100, 1) || lock_fd(u->fd, F_SETLK, F_UNLCK, 100, 1))
			return u;
	return NULL;
}

/*
 * A read lock is to become a write lock, and a signal ends that, while the owner has UNLOCKs of other bytes under way: then it
 * is there as before, or whoever thinks so gets EIO until he unlocks it.
 */
TEST_F_TIMEOUT(locks, interrupted_upgrade, 120)
{
	const struct itimerval none = {};
	struct sigaction sa = { .sa_handler = nothing };
	struct unlocking u = { .fd = open(self->file, O_RDWR) };
	int interrupted = 0, lost = 0;
	pthread_t thread;
	struct flock fl;
	double end;
	void *ret;
	char c;

	/* the same owner, but not the same file: to unlock anything through one ends its EIO */
	OK(u.fd);
	OK(sigaction(SIGALRM, &sa, NULL));
	OK(pwrite(self->a, "data", 4, 0));
	OK(pthread_create(&thread, NULL, lock_and_unlock, &u) ? -1 : 0);
	end = now() + 6;
	for (unsigned int i = 0; now() < end; i++) {
		struct itimerval soon = { .it_value.tv_usec = 300 + i * 37 % 4000 };
		int err;

		LOCK(self->a, F_RDLCK, 0, 1);
		OK(setitimer(ITIMER_REAL, &soon, NULL));
		err = lock_fd(self->a, F_SETLKW, F_WRLCK, 0, 1) ? errno : 0;
		OK(setitimer(ITIMER_REAL, &none, NULL));
		if (err) {
			ASSERT_EQ(EINTR, err);
			interrupted++;
			/* what is given back may be on its way */
			usleep(3000);
			if (in_the_way(self->b, 0, 1, &fl) == F_UNLCK) {
				lost++;
				FAILS(EIO, pread(self->a, &c, 1, 0));
			}
		}
		LOCK(self->a, F_UNLCK, 0, 1);
		OK(pread(self->a, &c, 1, 0));
	}
	atomic_store(&u.stop, true);
	OK(pthread_join(thread, &ret) ? -1 : 0);
	EXPECT_EQ(NULL, ret);
	OK(close(u.fd));
	TH_LOG("%d were interrupted, %d lost their read lock", interrupted, lost);
	EXPECT_GT(interrupted, 0);
}

TEST_HARNESS_MAIN
