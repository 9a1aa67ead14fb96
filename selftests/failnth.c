// SPDX-License-Identifier: GPL-2.0
/*
 * failnth - let every allocation of an operation fail, one after the other
 *
 *	failnth PORT [OPERATION...]	in the guest, with the debug kernel; faults.test sets up what it needs
 *	failnth MODULE.ko		the loading of the module instead
 *
 * OPERATION is the name of one in the table below or a pattern of the shell's, like "*read": only these.
 *
 * Each operation runs with the first allocation that it makes in the module's name failing, then with the second,
 * and so on until it runs through without a failure.  Whatever failed, the operation succeeds or says ENOMEM, EIO,
 * ENOBUFS or, for a lock, ENOLCK;
 * and the same operation works right after it, with the right data.  With WFS_SHORT=1 ever more allocations are left out
 * the further on they are: most of them are alike.
 *
 * Environment: WFS_TEST_DIR, WFS_EXPORT_DIR (as wfs_test.h has them)
 */
#include <fnmatch.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "wfs_test.h"

#define LEN		(100 * 1024)	/* more pages than fit into a request without an allocation */
#define ENTRIES		6
#define GROUPS		200		/* more than fit into a request without an allocation */
#define MOST		2000		/* allocations that no operation makes */
#define MOUNT		"/mnt/failnth"
#define WRONG		(-2)		/* what an operation returns when the data is wrong */

static const char *module;
static char mount_options[100];
static unsigned char data[LEN] __attribute__((aligned(4096))), got[LEN] __attribute__((aligned(4096)));
static char name[PATH_MAX], name2[PATH_MAX];	/* on the mount, new for each run */
static char path[PATH_MAX], path2[PATH_MAX];	/* the same in the export */
static unsigned int runs;
static int fd = -1, fail_fd;

/* ---- what an operation finds ---- */

static int no_file(void)
{
	return 0;
}

/* A file that the client has not heard of yet. */
static int cold_file(void)
{
	int out = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	if (out < 0 || pwrite_all(out, data, LEN, 0) < 0)
		return -1;
	return close(out);
}

static int cold_open(void)
{
	if (cold_file())
		return -1;
	fd = open(name, O_RDWR);
	return fd < 0 ? -1 : 0;
}

static int cold_direct(void)
{
	if (cold_file())
		return -1;
	fd = open(name, O_RDWR | O_DIRECT);
	return fd < 0 ? -1 : 0;
}

static int dirty(void)
{
	if (cold_open())
		return -1;
	return pwrite_all(fd, data + 1, LEN - 1, 0) < 0 ? -1 : 0;
}

#define APART		(8 * 4096)

/* Two WRITEs, after which the attributes have to be asked for. */
static int dirty_apart(void)
{
	if (cold_open() || pwrite_all(fd, data + 1, 4096, 0) < 0)
		return -1;
	return pwrite_all(fd, data + 1, 4096, APART) < 0 ? -1 : 0;
}

static int cold_dir(void)
{
	char entry[PATH_MAX + 8];

	if (mkdir(path, 0755))
		return -1;
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(entry, sizeof(entry), "%s/%d", path, i);
		if (mknod(entry, S_IFREG | 0644, 0))
			return -1;
	}
	return 0;
}

static int cold_empty_dir(void)
{
	return mkdir(path, 0755);
}

static int cold_link(void)
{
	return symlink("some/target", path);
}

/* A file that everybody may read, but the members of a group. */
static int file_without_group(void)
{
	return cold_file() ?: chmod(path, 0604) ?: chown(path, 0, GROUPS);
}

static int with_xattr(void)
{
	if (cold_file())
		return -1;
	return setxattr(path, "user.a", "value", 5, 0);
}

static int lock(int file, int cmd, int type, off_t start, off_t len)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return fcntl(file, cmd, &fl) ?: cmd == F_OFD_GETLK && fl.l_type != F_UNLCK;
}

static int flocked(void)
{
	return cold_open() ?: flock(fd, LOCK_SH);
}

static int read_locked(void)
{
	return cold_open() ?: lock(fd, F_SETLK, F_RDLCK, 0, 100);
}

static int mounted(void)
{
	return mount("127.0.0.1:/", MOUNT, "wfs", 0, mount_options);
}

/* ---- operations: 0, -1 with errno, or WRONG ---- */

static int op_stat(void)
{
	struct stat st;

	if (stat(name, &st))
		return -1;
	return st.st_size == LEN ? 0 : WRONG;
}

static int op_access(void)
{
	return access(name, R_OK | W_OK);
}

static int op_open(void)
{
	fd = open(name, O_RDONLY);
	return fd < 0 ? -1 : 0;
}

/* By a user with many groups, one of which takes the right away. */
static int op_open_denied(void)
{
	gid_t groups[GROUPS];
	int ret = WRONG, err;

	for (int i = 0; i < GROUPS; i++)
		groups[i] = i + 1;
	if (setgroups(GROUPS, groups) || seteuid(1000))
		return WRONG;
	fd = open(name, O_RDONLY);
	err = errno;
	if (fd < 0)
		ret = err == EACCES ? 0 : -1;
	if (seteuid(0) || setgroups(0, NULL))
		return WRONG;
	errno = err;
	return ret;
}

static int op_close(void)
{
	int ret = close(fd);

	fd = -1;
	return ret;
}

static int op_create(void)
{
	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
	return fd < 0 ? -1 : 0;
}

static int op_mknod(void)
{
	return mknod(name, S_IFCHR | 0600, makedev(1, 3));
}

static int op_mkdir(void)
{
	return mkdir(name, 0755);
}

static int op_rmdir(void)
{
	return rmdir(name);
}

static int op_unlink(void)
{
	return unlink(name);
}

static int op_link(void)
{
	return link(name, name2);
}

static int op_rename(void)
{
	return rename(name, name2);
}

static int op_symlink(void)
{
	return symlink("some/target", name);
}

static int op_readlink(void)
{
	char target[64];
	ssize_t n = readlink(name, target, sizeof(target));

	if (n < 0)
		return -1;
	return n == 11 && !memcmp(target, "some/target", 11) ? 0 : WRONG;
}

static int op_readdir(void)
{
	DIR *dir = opendir(name);
	struct dirent *de;
	int n = 0, err;

	if (!dir)
		return -1;
	errno = 0;
	while ((de = readdir(dir)))
		n++;
	err = errno;
	closedir(dir);
	errno = err;
	if (err)
		return -1;
	return n == ENTRIES + 2 ? 0 : WRONG;
}

static int compare(ssize_t n)
{
	if (n < 0)
		return -1;
	return n == LEN && !memcmp(got, data, LEN) ? 0 : WRONG;
}

static int op_read(void)
{
	return compare(pread_all(fd, got, LEN, 0));
}

static int op_direct_read(void)
{
	return compare(pread_all(fd, got, LEN, 0));
}

static int op_direct_write(void)
{
	return pwrite_all(fd, data, LEN, 0) < 0 ? -1 : 0;
}

static int op_write(void)
{
	return pwrite_all(fd, data, LEN, 0) < 0 ? -1 : 0;
}

static int op_write_sync(void)
{
	if (pwrite_all(fd, data, LEN, 0) < 0)
		return -1;
	return fsync(fd);
}

static int op_fsync(void)
{
	return fsync(fd);
}

static int op_syncfs(void)
{
	return syncfs(fd);
}

static int op_close_dirty(void)
{
	return op_close();
}

static int op_truncate(void)
{
	return ftruncate(fd, 1000);
}

static int op_fallocate(void)
{
	return fallocate(fd, 0, 0, 2 * LEN);
}

static int op_punch(void)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
}

static int op_seek(void)
{
	off_t at = lseek(fd, 0, SEEK_HOLE);

	return at < 0 ? -1 : at == LEN ? 0 : WRONG;
}

static int op_copy(void)
{
	loff_t from = 0, to = LEN;

	while (from < LEN) {
		ssize_t n = copy_file_range(fd, &from, fd, &to, LEN - from, 0);

		if (n <= 0)
			return n ? -1 : WRONG;
	}
	return 0;
}

/* A fault that finds no memory is tried again by the kernel: no error shows. */
static int op_mmap_read(void)
{
	unsigned char *map = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0);
	int ret;

	if (map == MAP_FAILED)
		return -1;
	ret = memcmp(map, data, LEN) ? WRONG : 0;
	munmap(map, LEN);
	return ret;
}

static int op_mmap_write(void)
{
	unsigned char *map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int ret, err;

	if (map == MAP_FAILED)
		return -1;
	for (size_t i = 0; i < LEN; i += 4096)
		map[i] = ~data[i];
	ret = msync(map, LEN, MS_SYNC);
	err = errno;
	munmap(map, LEN);
	errno = err;
	return ret;
}

static int op_chmod(void)
{
	return chmod(name, 0600);
}

static int op_utimens(void)
{
	return utimensat(AT_FDCWD, name, NULL, 0);
}

static int op_setxattr(void)
{
	return setxattr(name, "user.b", data, 1000, 0);
}

static int op_getxattr(void)
{
	char value[100];
	ssize_t n = getxattr(name, "user.a", value, sizeof(value));

	if (n < 0)
		return -1;
	return n == 5 && !memcmp(value, "value", 5) ? 0 : WRONG;
}

static int op_listxattr(void)
{
	char list[1000];

	return listxattr(name, list, sizeof(list)) < 0 ? -1 : 0;
}

static int op_removexattr(void)
{
	return removexattr(name, "user.a");
}

static int op_flock(void)
{
	return flock(fd, LOCK_EX | LOCK_NB);
}

static int op_lock(void)
{
	return lock(fd, F_SETLK, F_WRLCK, 0, 50);
}

static int op_lock_more(void)
{
	return lock(fd, F_SETLK, F_WRLCK, 50, 100);
}

static int op_unlock(void)
{
	return lock(fd, F_SETLK, F_UNLCK, 0, 0);
}

static int op_unlock_inside(void)
{
	return lock(fd, F_SETLK, F_UNLCK, 20, 10);
}

static int op_unflock(void)
{
	return flock(fd, LOCK_UN);
}

static int op_statfs(void)
{
	struct statfs st;

	return statfs(test_dir(), &st);
}

static int op_mount(void)
{
	return mount("127.0.0.1:/", MOUNT, "wfs", 0, mount_options);
}

static int op_umount(void)
{
	return umount(MOUNT);
}

static int op_remount(void)
{
	return mount("127.0.0.1:/", MOUNT, "wfs", MS_REMOUNT, mount_options);
}

static int op_load(void)
{
	int ko = open(module, O_RDONLY);
	int ret = syscall(SYS_finit_module, ko, "", 0);

	close(ko);
	return ret;
}

/* ---- what has to hold afterwards; @ret is the operation's ---- */

static int nothing(int ret)
{
	(void)ret;
	return 0;
}

static int gone(int ret)
{
	return ret == 0 && !access(path, F_OK) ? WRONG : 0;
}

static int there(int ret)
{
	struct stat st;

	return ret == 0 && lstat(path, &st) ? WRONG : 0;
}

static int there2(int ret)
{
	struct stat st;

	return ret == 0 && lstat(path2, &st) ? WRONG : 0;
}

/* What was written and synced is on the server, now or when it is done again. */
static int written(int ret)
{
	int in;

	if (ret && (pwrite_all(fd, data, LEN, 0) < 0 || fsync(fd)))
		return -1;
	if (!ret && fsync(fd))
		return -1;
	in = open(path, O_RDONLY);
	if (in < 0 || pread_all(in, got, LEN, 0) != LEN)
		return -1;
	close(in);
	return compare(LEN);
}

/* dirty() has written data + 1; after a failed fsync it is in doubt, after a good one not. */
static int synced(int ret)
{
	int in;

	if (ret)
		return written(ret);
	in = open(path, O_RDONLY);
	if (in < 0 || pread_all(in, got, LEN, 0) != LEN)
		return -1;
	close(in);
	return memcmp(got, data + 1, LEN - 1) ? WRONG : 0;
}

/* Closing has no error as long as the data is there. */
static int closed(int ret)
{
	int in = open(path, O_RDONLY);

	if (in < 0 || pread_all(in, got, LEN, 0) != LEN)
		return -1;
	close(in);
	if (ret || memcmp(got, data + 1, 4096) || memcmp(got + APART, data + 1, 4096))
		return WRONG;
	memcpy(got, data, 4096);
	memcpy(got + APART, data + APART, 4096);
	return compare(LEN);
}

static int mapped(int ret)
{
	int in;

	if (ret)
		return written(ret);
	in = open(path, O_RDONLY);
	if (in < 0 || pread_all(in, got, LEN, 0) != LEN)
		return -1;
	close(in);
	for (size_t i = 0; i < LEN; i++)
		if (got[i] != (unsigned char)(i % 4096 ? data[i] : ~data[i]))
			return WRONG;
	return 0;
}

static int longer(int ret)
{
	struct stat st;

	return ret == 0 && (stat(path, &st) || st.st_size != 2 * LEN) ? WRONG : 0;
}

static int punched(int ret)
{
	static const unsigned char zero[4096];
	int in = open(path, O_RDONLY);

	if (in < 0 || pread_all(in, got, LEN, 0) != LEN)
		return -1;
	close(in);
	if (memcmp(got + 4096, data + 4096, LEN - 4096))
		return WRONG;
	return ret == 0 && memcmp(got, zero, 4096) ? WRONG : 0;
}

static int twice(int ret)
{
	int in = open(path, O_RDONLY), at;

	for (at = 0; in >= 0 && at <= LEN; at += LEN)
		if ((ret == 0 || !at) && (pread_all(in, got, LEN, at) != LEN || memcmp(got, data, LEN)))
			return WRONG;
	return in < 0 ? -1 : close(in);
}

static int cut(int ret)
{
	struct stat st;

	if (stat(path, &st) || st.st_size != (ret ? LEN : 1000))
		return ret && st.st_size == 1000 ? 0 : WRONG;
	return 0;
}

/* The server has the lock, or it will be free there. */
static int check_flock(int ret)
{
	int in = open(path, O_RDWR), got;
	double until = now() + slow(5);

	while ((got = flock(in, LOCK_EX | LOCK_NB)) && ret && now() < until)
		usleep(10000);
	close(in);
	return !got == !ret ? WRONG : 0;
}

static int unflocked(int ret)
{
	return ret ? WRONG : check_flock(-1);
}

/* Nobody but the server has a lock on @len bytes from @start on; @want: whether it has, or has in the end. */
static int check_lock(off_t start, off_t len, bool want)
{
	int in = open(path, O_RDWR), got;
	double until = now() + slow(5);

	while ((got = lock(in, F_OFD_GETLK, F_WRLCK, start, len)) == 1 && !want && now() < until)
		usleep(10000);
	close(in);
	return got < 0 ? -1 : got == want ? 0 : WRONG;
}

static int locked(int ret)
{
	return check_lock(0, 50, !ret);
}

/* The lock that read_locked() took is there, or whoever relies on it hears that it is not. */
static int kept_or_lost(void)
{
	char byte;

	if (pread(fd, &byte, 1, 0) == 1)
		return check_lock(0, 1, true) ?: check_lock(99, 1, true);
	if (errno != EIO || lock(fd, F_SETLK, F_UNLCK, 0, 0) || pread(fd, &byte, 1, 0) != 1)
		return WRONG;
	return check_lock(0, 0, false);
}

static int locked_again(int ret)
{
	return ret ? kept_or_lost() : check_lock(0, 50, true) ?: check_lock(50, 50, true);
}

static int locked_more(int ret)
{
	if (ret)
		return kept_or_lost() ?: check_lock(100, 50, false);
	return check_lock(0, 50, true) ?: check_lock(100, 50, true);
}

static int unlocked(int ret)
{
	return ret ? WRONG : check_lock(0, 0, false);
}

static int unlocked_inside(int ret)
{
	return check_lock(0, 20, true) ?: check_lock(20, 10, ret) ?: check_lock(30, 70, true);
}

static int not_mounted(int ret)
{
	return ret == 0 ? umount(MOUNT) : 0;
}

static int unmount(int ret)
{
	(void)ret;
	return umount(MOUNT);
}

/* It can't fail, whatever does. */
static int succeeded(int ret)
{
	return ret ? WRONG : 0;
}

static int unload_if(int ret)
{
	return ret == 0 ? syscall(SYS_delete_module, "wfs", O_NONBLOCK) : 0;
}

static const struct op {
	const char *name;
	int (*prepare)(void);
	int (*run)(void);
	int (*check)(int ret);
} ops[] = {
	{ "stat",		cold_file,	op_stat,	nothing },
	{ "access",		cold_file,	op_access,	nothing },
	{ "open",		cold_file,	op_open,	nothing },
	{ "open denied",	file_without_group, op_open_denied, nothing },
	{ "close",		cold_open,	op_close,	succeeded },
	{ "create",		no_file,	op_create,	there },
	{ "mknod",		no_file,	op_mknod,	there },
	{ "mkdir",		no_file,	op_mkdir,	there },
	{ "rmdir",		cold_empty_dir,	op_rmdir,	gone },
	{ "unlink",		cold_file,	op_unlink,	gone },
	{ "link",		cold_file,	op_link,	there2 },
	{ "rename",		cold_file,	op_rename,	there2 },
	{ "symlink",		no_file,	op_symlink,	there },
	{ "readlink",		cold_link,	op_readlink,	nothing },
	{ "readdir",		cold_dir,	op_readdir,	nothing },
	{ "read",		cold_open,	op_read,	nothing },
	{ "direct read",	cold_direct,	op_direct_read,	nothing },
	{ "direct write",	cold_direct,	op_direct_write, written },
	{ "write",		cold_open,	op_write,	written },
	{ "write and fsync",	cold_open,	op_write_sync,	written },
	{ "fsync",		dirty,		op_fsync,	synced },
	{ "syncfs",		dirty,		op_syncfs,	synced },
	{ "close of dirty",	dirty_apart,	op_close_dirty,	closed },
	{ "truncate",		cold_open,	op_truncate,	cut },
	{ "fallocate",		cold_open,	op_fallocate,	longer },
	{ "punch",		cold_open,	op_punch,	punched },
	{ "seek",		cold_open,	op_seek,	nothing },
	{ "copy",		cold_open,	op_copy,	twice },
	{ "mmap read",		cold_open,	op_mmap_read,	nothing },
	{ "mmap write",		cold_open,	op_mmap_write,	mapped },
	{ "chmod",		cold_file,	op_chmod,	nothing },
	{ "utimens",		cold_file,	op_utimens,	nothing },
	{ "setxattr",		cold_file,	op_setxattr,	nothing },
	{ "getxattr",		with_xattr,	op_getxattr,	nothing },
	{ "listxattr",		with_xattr,	op_listxattr,	nothing },
	{ "removexattr",	with_xattr,	op_removexattr,	nothing },
	{ "flock",		cold_open,	op_flock,	check_flock },
	{ "flock of flocked",	flocked,	op_flock,	check_flock },
	{ "funlock",		flocked,	op_unflock,	unflocked },
	{ "close of flocked",	flocked,	op_close,	unflocked },
	{ "lock",		cold_open,	op_lock,	locked },
	{ "lock of locked",	read_locked,	op_lock,	locked_again },
	{ "lock of more",	read_locked,	op_lock_more,	locked_more },
	{ "unlock",		read_locked,	op_unlock,	unlocked },
	{ "unlock inside",	read_locked,	op_unlock_inside, unlocked_inside },
	{ "close of locked",	read_locked,	op_close,	unlocked },
	{ "statfs",		no_file,	op_statfs,	nothing },
	{ "mount",		no_file,	op_mount,	not_mounted },
	{ "umount",		mounted,	op_umount,	succeeded },
	{ "remount",		mounted,	op_remount,	unmount },
}, load_ops[] = {
	/* makes hundreds, most of them the kernel's own for slab caches and work queues */
	{ "load",		no_file,	op_load,	unload_if },
};

static void fresh_names(void)
{
	runs++;
	snprintf(name, sizeof(name), "%s/n%u", test_dir(), runs);
	snprintf(name2, sizeof(name2), "%s/m%u", test_dir(), runs);
	snprintf(path, sizeof(path), "%s/n%u", export_dir(), runs);
	snprintf(path2, sizeof(path2), "%s/m%u", export_dir(), runs);
}

static void clean(void)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
	nftw(path, rm_one, 64, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	remove(path2);
}

/* The n-th allocation from now on fails; 0: none.  Returns what was left to count before. */
static unsigned int arm(unsigned int n)
{
	char text[16] = "";
	unsigned int left;
	int len;

	if (pread(fail_fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	left = atoi(text);
	len = snprintf(text, sizeof(text), "%u", n);
	if (pwrite(fail_fd, text, len, 0) != len)
		perror("fail-nth");
	return left;
}

static const char *outcome(int ret)
{
	return ret == WRONG ? "wrong data or state" : ret ? strerror(errno) : "success";
}

/* One run of an operation with its @n-th allocation failing.  Returns what is wrong with it, or NULL. */
static const char *one_failure(const struct op *op, unsigned int n, bool *injected, int *ret)
{
	static char wrong[200];
	int err, after;

	fresh_names();
	*injected = true;
	if (op->prepare()) {
		snprintf(wrong, sizeof(wrong), "can't be prepared: %s", strerror(errno));
		return wrong;
	}
	errno = 0;
	arm(n);
	*ret = op->run();
	err = errno;
	*injected = arm(0) == 0;
	errno = err;
	if (*ret == WRONG || (*ret && (!*injected || (err != ENOMEM && err != EIO && err != ENOBUFS && err != ENOLCK)))) {
		snprintf(wrong, sizeof(wrong), "%s", outcome(*ret));
		return wrong;
	}
	after = op->check(*ret);
	if (after) {
		snprintf(wrong, sizeof(wrong), "after %s: %s", *ret ? strerror(err) : "success", outcome(after));
		return wrong;
	}
	clean();
	if (!*ret)
		return NULL;
	fresh_names();
	after = op->prepare() ?: op->run() ?: op->check(0);
	if (after) {
		snprintf(wrong, sizeof(wrong), "again without a failure: %s", outcome(after));
		return wrong;
	}
	clean();
	return NULL;
}

/* One operation with all its failures. */
static bool every_failure(const struct op *op, unsigned int *failures, unsigned int *errors)
{
	unsigned int n, bad = 0;
	bool injected = true;

	for (n = 1; n < MOST && bad < 3 && injected; n += reps(10) < 10 ? 1 + n / 8 : 1) {
		int ret = 0;
		const char *wrong = one_failure(op, n, &injected, &ret);

		if (wrong) {
			printf("# %s, allocation %u%s: %s\n", op->name, n, injected ? " failed" : " was one too much", wrong);
			clean();
			bad++;
		}
		*failures += injected;
		*errors += ret != 0;
	}
	return n < MOST && !bad;
}

static bool chosen(const struct op *op, char *const *patterns)
{
	bool none = !*patterns;

	for (; *patterns; patterns++)
		if (!fnmatch(*patterns, op->name, 0))
			return true;
	return none;
}

int main(int argc, char **argv)
{
	unsigned int failures, errors, number = 0, failed = 0;
	const struct op *op, *all = ops;
	size_t count = ARRAY_SIZE(ops);

	if (argc < 2) {
		fprintf(stderr, "usage: failnth PORT|MODULE.ko [OPERATION...]\n");
		return 3;
	}
	if (strchr(argv[1], '/')) {
		module = argv[1];
		all = load_ops;
		count = ARRAY_SIZE(load_ops);
	}
	mkdir(MOUNT, 0755);
	snprintf(mount_options, sizeof(mount_options), "port=%s,conns=1,timeo=100", argv[1]);
	fail_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fail_fd < 0) {
		perror("/proc/thread-self/fail-nth");
		return 3;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	fill(data, LEN, 0, 1);
	printf("TAP version 13\n");
	for (op = all; op < all + count; op++) {
		double began = now();
		bool good;

		if (!chosen(op, argv + 2))
			continue;
		failures = errors = 0;
		good = every_failure(op, &failures, &errors);
		clean();
		if (!failures && good) {
			printf("# %s: nothing was made to fail\n", op->name);
			good = false;
		}
		printf("%sok %u %s: %u failed allocations, %u errors # %.1f s\n", good ? "" : "not ", ++number, op->name,
		       failures, errors, now() - began);
		failed += !good;
	}
	printf("1..%u\n", number);
	return failed != 0;
}
