// SPDX-License-Identifier: GPL-2.0
/*
 * waiter - processes that wait for a server that is away, in every way that a process can wait
 *
 *	waiter -d DIR -a AWAY [-m MIDDLE] [-e] [-b BACK] [KIND...]
 *
 * Each KIND (default: all) is a process in a directory of its own, DIR/KIND.  It prepares while the server is
 * there; then AWAY, a shell command, takes the server away and the process makes its call.  When all of them are
 * stuck in their calls, MIDDLE is run.  Then each is killed, one after the other, and has to be gone soon; with -e they have
 * to end by themselves, because of MIDDLE.  After BACK what the killed processes had written has to arrive.
 * DIR is below WFS_TEST_DIR; WFS_EXPORT_DIR is where the server has that.  Speaks TAP.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define FILE_SIZE	(1 << 20)
#define DIRTY		'd'		/* what a process writes, DIRTY_LEN bytes of it from the start of the file */
#define DIRTY_LEN	8192
#define PATIENCE	30		/* seconds that a process may take to die on a busy machine */
#define STUCK_PATIENCE	60		/* seconds until all are stuck */

/* What the process has; prepare() sets it up as far as its kind needs it. */
static int fd = -1;		/* "file", open for reading and writing, nothing of it cached */
static int direct = -1;		/* the same with O_DIRECT */
static int dir = -1;		/* the directory */
static char *map;		/* "file", shared */
static char *buf;		/* page-aligned, FILE_SIZE bytes */
static int pipes[2];

static void *aligned(void)
{
	void *p;

	return posix_memalign(&p, 4096, FILE_SIZE) ? NULL : p;
}

static long dirty(void)
{
	memset(buf, DIRTY, DIRTY_LEN);
	return pwrite(fd, buf, DIRTY_LEN, 0);
}

static long forever(void)
{
	while (pause())
		;
	return 0;
}

static long w_open(void) { return openat(dir, "file", O_RDONLY); }
static long w_create(void) { return openat(dir, "new", O_RDWR | O_CREAT, 0644); }
static long w_lookup(void) { struct stat st; return fstatat(dir, "unknown", &st, 0); }
static long w_statx(void) { struct statx st; return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_ALL, &st); }
static long w_read(void) { return pread(fd, buf, 4096, 0); }
static long w_read_ahead(void) { return posix_fadvise(fd, 0, FILE_SIZE, POSIX_FADV_WILLNEED) ?: pread(fd, buf, 4096, 65536); }
static long w_fault(void) { return ((volatile char *)map)[8192]; }
static long w_write_fault(void) { return ((volatile char *)map)[8192] = 1; }
static long w_copy_to_map(void) { int zero = open("/dev/zero", O_RDONLY); return read(zero, map + 8192, 100); }
static long w_copy_from_map(void) { return pwrite(fd, map + 65536, 100, 0); }
static long w_write_part(void) { return pwrite(fd, "x", 1, 5000); }
static long w_append(void) { return fcntl(fd, F_SETFL, O_APPEND) ?: write(fd, "x", 1); }
static long w_fsync(void) { dirty(); return fsync(fd); }
static long w_fdatasync(void) { dirty(); return fdatasync(fd); }
static long w_close(void) { dirty(); return close(fd); }
static long w_dup_close(void) { dirty(); return close(dup(fd)); }
static long w_syncfs(void) { dirty(); return syncfs(fd); }
static long w_msync(void) { memset(map, DIRTY, DIRTY_LEN); return msync(map, FILE_SIZE, MS_SYNC); }
static long w_truncate(void) { return ftruncate(fd, 100); }
static long w_direct_read(void) { return pread(direct, buf, FILE_SIZE, 0); }
static long w_direct_write(void) { return pwrite(direct, buf, 65536, 0); }
static long w_splice(void) { off_t off = 0; return splice(fd, &off, pipes[1], NULL, 4096, 0); }
static long w_sendfile(void) { off_t off = 0; return sendfile(pipes[1], fd, &off, 4096); }
static long w_mkdir(void) { return mkdirat(dir, "new", 0755); }
static long w_rmdir(void) { return unlinkat(dir, "sub", AT_REMOVEDIR); }
static long w_unlink(void) { return unlinkat(dir, "file", 0); }
static long w_rename(void) { return renameat(dir, "file", dir, "new"); }
static long w_link(void) { return linkat(dir, "file", dir, "new", 0); }
static long w_symlink(void) { return symlinkat("to", dir, "new"); }
static long w_readlink(void) { return readlinkat(dir, "link", buf, 100); }
static long w_mknod(void) { return mknodat(dir, "new", S_IFIFO | 0644, 0); }
static long w_chmod(void) { return fchmod(fd, 0600); }
static long w_chmod_dirty(void) { dirty(); return fchmod(fd, 0600); }
static long w_utimens(void) { return futimens(fd, NULL); }
static long w_getxattr(void) { return fgetxattr(fd, "user.a", buf, 10); }
static long w_setxattr(void) { return fsetxattr(fd, "user.a", "b", 1, 0); }
static long w_listxattr(void) { return flistxattr(fd, buf, 100); }
static long w_statfs(void) { struct statfs st; return fstatfs(fd, &st); }
static long w_exec(void) { char *argv[] = { "true", NULL }; return execve("program", argv, argv + 1); }

static long w_readdir(void)
{
	DIR *d = fdopendir(dir);

	return d && readdir(d) ? 0 : -1;
}

/* dirty again while it is being written: the VM would wait for the first WRITE without regard to signals */
static long start_write(void)
{
	dirty();
	return sync_file_range(fd, 0, FILE_SIZE, SYNC_FILE_RANGE_WRITE);
}

static long w_fsync_twice(void) { return start_write() ?: dirty() < 0 ? -1 : fsync(fd); }
static long w_truncate_written(void) { return start_write() ?: ftruncate(fd, 100); }
static long w_direct_dirty(void) { return start_write() ?: pwrite(direct, buf, 4096, 0); }

enum aio { AIO_READ, AIO_WRITE, AIO_CANCEL, AIO_DESTROY };

static long aio(enum aio how)
{
	struct iocb cb, *cbs[1] = { &cb };
	struct io_event event;
	io_context_t ctx = 0;

	if (io_setup(1, &ctx))
		return -1;
	if (how == AIO_WRITE)
		io_prep_pwrite(&cb, direct, buf, 65536, 0);
	else
		io_prep_pread(&cb, direct, buf, 65536, 0);
	if (io_submit(ctx, 1, cbs) != 1)
		return -1;
	if (how == AIO_DESTROY)
		return io_destroy(ctx);
	/* it is refused while the process lives, and then the kernel forgets to ask again when it ends */
	if (how == AIO_CANCEL && io_cancel(ctx, &cb, &event) != -EBUSY)
		return -1;
	return io_getevents(ctx, 1, 1, &event, NULL);
}

static long w_aio_read(void) { return aio(AIO_READ); }
static long w_aio_write(void) { return aio(AIO_WRITE); }
static long w_aio_sync(void) { return fcntl(direct, F_SETFL, O_DIRECT | O_DSYNC) ?: aio(AIO_WRITE); }
static long w_aio_cancel(void) { return aio(AIO_CANCEL); }
static long w_aio_destroy(void) { return aio(AIO_DESTROY); }

static long uring(int file)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0))
		return -1;
	io_uring_prep_read(io_uring_get_sqe(&ring), file, buf, 65536, 0);
	return io_uring_submit_and_wait(&ring, 1);
}

static long w_uring(void) { return uring(fd); }
static long w_uring_direct(void) { return uring(direct); }

/* Killed when they sleep: what waits is their end. */
static long w_exit_dirty(void) { dirty(); return forever(); }
static long w_exit_map(void) { memset(map, DIRTY, DIRTY_LEN); return forever(); }
static long w_exit_reading(void) { posix_fadvise(fd, 0, FILE_SIZE, POSIX_FADV_WILLNEED); return forever(); }
static long w_exit_writing(void) { start_write(); return forever(); }

/* Who wants the lock of a directory that somebody else keeps, in the VFS, goes when that one goes. */
static long w_crowd(void)
{
	if (!fork() || !fork())
		return mkdirat(dir, "new", 0755);
	return openat(dir, "other", O_RDWR | O_CREAT, 0644);
}

#define UNLINKED	1	/* the file loses its name while it is prepared */
#define WRITES		2	/* what it has written has to arrive after all */
#define URING		4	/* keeps files busy until its requests end */
#define SLEEPS		8	/* does not end by itself */
#define CACHED		16	/* the start of the file is in the page cache */

static const struct kind {
	const char	*name;
	long		(*call)(void);
	int		flags;
} kinds[] = {
	{ "open", w_open, 0 }, { "create", w_create, 0 }, { "lookup", w_lookup, 0 }, { "statx", w_statx, 0 },
	{ "readdir", w_readdir, 0 }, { "read", w_read, 0 }, { "read_ahead", w_read_ahead, 0 },
	{ "fault", w_fault, 0 }, { "write_fault", w_write_fault, 0 }, { "copy_to_map", w_copy_to_map, 0 },
	{ "copy_from_map", w_copy_from_map, 0 }, { "write_part", w_write_part, 0 }, { "append", w_append, 0 },
	{ "fsync", w_fsync, WRITES }, { "fdatasync", w_fdatasync, WRITES }, { "close", w_close, WRITES },
	{ "dup_close", w_dup_close, WRITES }, { "fsync_twice", w_fsync_twice, WRITES },
	{ "syncfs", w_syncfs, WRITES }, { "msync", w_msync, WRITES | CACHED }, { "truncate", w_truncate, 0 },
	{ "truncate_written", w_truncate_written, 0 }, { "direct_read", w_direct_read, 0 },
	{ "direct_write", w_direct_write, 0 }, { "direct_dirty", w_direct_dirty, 0 },
	{ "splice", w_splice, 0 }, { "sendfile", w_sendfile, 0 }, { "mkdir", w_mkdir, 0 },
	{ "rmdir", w_rmdir, 0 }, { "unlink", w_unlink, 0 }, { "rename", w_rename, 0 }, { "link", w_link, 0 },
	{ "symlink", w_symlink, 0 }, { "readlink", w_readlink, 0 }, { "mknod", w_mknod, 0 },
	{ "chmod", w_chmod, 0 }, { "chmod_dirty", w_chmod_dirty, 0 }, { "utimens", w_utimens, 0 },
	{ "getxattr", w_getxattr, 0 }, { "setxattr", w_setxattr, 0 }, { "listxattr", w_listxattr, 0 },
	{ "statfs", w_statfs, 0 }, { "exec", w_exec, 0 }, { "aio_read", w_aio_read, 0 },
	{ "aio_write", w_aio_write, 0 }, { "aio_sync", w_aio_sync, 0 }, { "aio_cancel", w_aio_cancel, 0 },
	{ "aio_destroy", w_aio_destroy, 0 }, { "uring", w_uring, URING },
	{ "uring_direct", w_uring_direct, URING }, { "crowd", w_crowd, 0 },
	{ "exit_dirty", w_exit_dirty, WRITES | SLEEPS }, { "exit_map", w_exit_map, WRITES | SLEEPS | CACHED },
	{ "exit_reading", w_exit_reading, UNLINKED | SLEEPS },
	{ "exit_writing", w_exit_writing, UNLINKED | SLEEPS }, { "unlinked_read", w_read, UNLINKED },
};
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

enum step { STARTED, PREPARED, CALLING, RETURNED };

static struct shared {
	atomic_bool	go;
	struct {
		atomic_int	step;
		atomic_long	ret;
		atomic_int	err;
	} of[NR_KINDS];
} *shared;

static char mount_dir[4096], export_dir[4096];
static pid_t pids[NR_KINDS];
static bool chosen[NR_KINDS];
static unsigned int points, failed;

static void result(bool good, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	printf("%sok %u ", good ? "" : "not ", ++points);
	vprintf(format, ap);
	printf("\n");
	va_end(ap);
	failed += !good;
	fflush(stdout);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void nap(void)
{
	usleep(20000);
}

static void die(const char *what)
{
	printf("# %s: %s\n", what, strerror(errno));
	exit(1);
}

/* On the server's side, so that the client has nothing of it in its cache. */
static void make_files(const struct kind *kind)
{
	char path[4200];
	int file;

	snprintf(path, sizeof(path), "%s/%s", export_dir, kind->name);
	if (mkdir(path, 0755) || chdir(path) || mkdir("sub", 0755) || symlink("target", "link"))
		die(path);
	memset(buf, 'f', FILE_SIZE);
	file = open("file", O_RDWR | O_CREAT | O_EXCL, 0644);
	if (file < 0 || write(file, buf, FILE_SIZE) != FILE_SIZE || close(file))
		die("file");
	file = open("program", O_RDWR | O_CREAT | O_EXCL, 0755);
	if (file < 0 || write(file, "\177ELF", 4) != 4 || ftruncate(file, FILE_SIZE) || close(file) || chdir("/"))
		die("program");
}

static void child(unsigned int i)
{
	const struct kind *kind = &kinds[i];
	struct stat st;
	char path[4200];
	long ret;

	setpgid(0, 0);
	snprintf(path, sizeof(path), "%s/%s", mount_dir, kind->name);
	if (chdir(path))
		die(path);
	dir = open(".", O_RDONLY | O_DIRECTORY);
	fd = open("file", O_RDWR);
	direct = open("file", O_RDWR | O_DIRECT);
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (dir < 0 || fd < 0 || direct < 0 || map == MAP_FAILED || pipe(pipes) || fstat(fd, &st) ||
	    stat("program", &st) || stat("sub", &st) || lstat("link", &st))
		die(kind->name);
	if ((kind->flags & CACHED) && pread(fd, buf, DIRTY_LEN, 0) != DIRTY_LEN)
		die("read");
	if ((kind->flags & UNLINKED) && unlink("file"))
		die("unlink");
	if (kind->call == w_exec)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	atomic_store(&shared->of[i].step, PREPARED);
	while (!atomic_load(&shared->go))
		nap();
	atomic_store(&shared->of[i].step, CALLING);
	ret = kind->call();
	atomic_store(&shared->of[i].err, errno);
	atomic_store(&shared->of[i].ret, ret);
	atomic_store(&shared->of[i].step, RETURNED);
	/* not what close does now, but how it ended */
	_exit(ret < 0);
}

/* R, S, D, Z..., or 0 when there is no such process */
static char state(pid_t pid)
{
	char path[64], text[512], *p;
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	p = strrchr(text, ')');
	return p ? p[2] : 0;
}

static void show_wait(pid_t pid)
{
	char path[64], line[200];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	f = fopen(path, "r");
	printf("# %c\n", state(pid) ?: '-');
	while (f && fgets(line, sizeof(line), f))
		printf("# %s", line);
	if (f)
		fclose(f);
}

static bool returned(unsigned int i)
{
	return atomic_load(&shared->of[i].step) == RETURNED;
}

/* Seen in its call and asleep several times in a row. */
static void wait_stuck(void)
{
	double until = now() + STUCK_PATIENCE;
	unsigned int i, in_row = 0;

	while (in_row < 10 && now() < until) {
		bool all = true;

		for (i = 0; i < NR_KINDS; i++) {
			char s;

			if (!chosen[i] || returned(i))
				continue;
			s = state(pids[i]);
			all = all && atomic_load(&shared->of[i].step) == CALLING && (s == 'S' || s == 'D');
		}
		in_row = all ? in_row + 1 : 0;
		usleep(100000);
	}
}

/* Wait for all processes of a kind. */
static bool reaped(unsigned int i, double seconds)
{
	double until = now() + seconds;
	int status;

	for (;;) {
		pid_t pid = waitpid(-pids[i], &status, WNOHANG);

		if (pid < 0)
			return true;
		if (!pid) {
			if (now() > until)
				return false;
			nap();
		}
	}
}

static bool arrived(const char *name)
{
	double until = now() + PATIENCE;
	char path[4300], text[DIRTY_LEN];
	bool good = false;

	snprintf(path, sizeof(path), "%s/%s/file", export_dir, name);
	while (!good && now() < until) {
		int file = open(path, O_RDONLY);
		size_t n;

		if (file < 0 || read(file, text, sizeof(text)) != sizeof(text))
			die(path);
		close(file);
		for (n = 0; n < sizeof(text) && text[n] == DIRTY; n++)
			;
		good = n == sizeof(text);
		if (!good)
			nap();
	}
	return good;
}

static int run(const char *command)
{
	double start = now();
	int status = system(command);

	printf("# %s: %d, %.1f s\n", command, WEXITSTATUS(status), now() - start);
	fflush(stdout);
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	const char *away = NULL, *back = NULL, *middle = NULL, *sub = NULL;
	const char *top = getenv("WFS_TEST_DIR"), *export = getenv("WFS_EXPORT_DIR");
	unsigned int i, n = 0;
	bool end = false;
	int opt;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt(argc, argv, "d:a:m:b:e")) != -1) {
		switch (opt) {
		case 'd': sub = optarg; break;
		case 'a': away = optarg; break;
		case 'm': middle = optarg; break;
		case 'b': back = optarg; break;
		case 'e': end = true; break;
		default: return 2;
		}
	}
	if (!sub || !away || !top || !export)
		return 2;
	snprintf(mount_dir, sizeof(mount_dir), "%s/%s", top, sub);
	snprintf(export_dir, sizeof(export_dir), "%s/%s", export, sub);
	for (i = 0; i < NR_KINDS; i++) {
		int k = optind;

		while (k < argc && strcmp(argv[k], kinds[i].name))
			k++;
		chosen[i] = optind == argc ? !(middle && (kinds[i].flags & URING)) : k < argc;
		n += chosen[i];
	}
	buf = aligned();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (mkdir(export_dir, 0755))
		die(export_dir);
	for (i = 0; i < NR_KINDS; i++)
		if (chosen[i])
			make_files(&kinds[i]);
	fflush(stdout);
	for (i = 0; i < NR_KINDS; i++) {
		if (!chosen[i])
			continue;
		pids[i] = fork();
		if (!pids[i])
			child(i);
		setpgid(pids[i], pids[i]);
		while (atomic_load(&shared->of[i].step) != PREPARED && state(pids[i]) != 'Z')
			nap();
	}
	if (run(away))
		die("AWAY failed");
	atomic_store(&shared->go, true);
	wait_stuck();
	for (i = 0; i < NR_KINDS; i++) {
		if (!chosen[i])
			continue;
		result(!returned(i) && state(pids[i]) != 'Z', "%s waits", kinds[i].name);
		if (returned(i))
			printf("# it returned %ld: %s\n", atomic_load(&shared->of[i].ret),
			       strerror(atomic_load(&shared->of[i].err)));
	}
	if (middle)
		result(!run(middle), "%s", middle);
	for (i = 0; i < NR_KINDS; i++) {
		double start = now();
		bool gone;

		if (!chosen[i])
			continue;
		if (!end || (kinds[i].flags & SLEEPS))
			kill(-pids[i], SIGKILL);
		gone = reaped(i, PATIENCE);
		result(gone, "%s %s", kinds[i].name, end ? "ends" : "can be killed");
		if (!gone)
			show_wait(pids[i]);
		else if (now() - start > 3)
			printf("# that took %.1f s\n", now() - start);
	}
	if (back && run(back))
		die("BACK failed");
	for (i = 0; back && i < NR_KINDS; i++)
		if (chosen[i] && (kinds[i].flags & WRITES))
			result(arrived(kinds[i].name), "%s: what was written before the kill arrives", kinds[i].name);
	printf("1..%u\n", points);
	return failed > 0;
}
