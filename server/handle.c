// SPDX-License-Identifier: GPL-2.0-only
/*
 * handle.c - file handles: the kernel's, with rights, signed.
 *
 * open_by_handle_at() would open any inode of the file system for us, so a handle must be one that
 * this server gave out.  The signature makes sure of that: its key never leaves the server, and
 * each export has its own, so that not even the handles of another export of the same file system
 * are good.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "wfsd.h"

#define MAC_LEN		crypto_shorthash_siphashx24_BYTES
#define KEY_LEN		crypto_shorthash_siphashx24_KEYBYTES

/* wfs_fh.data */
struct sealed {
	uint8_t	mac[MAC_LEN];
	/* from here on signed */
	uint8_t	rights;		/* FH_READ, FH_WRITE */
	uint8_t	type;		/* the kernel's */
	uint8_t	bytes;		/* of handle */
	uint8_t	handle[WFS_FH_LEN - 1 - MAC_LEN - 3];
};
_Static_assert(sizeof(struct sealed) == sizeof(((struct wfs_fh *)0)->data), "layout");
#define SIGNED_FROM	offsetof(struct sealed, rights)
#define HANDLE_FROM	offsetof(struct sealed, handle)
#define HANDLE_MAX	sizeof(((struct sealed *)0)->handle)

struct kernel_handle {
	struct file_handle	fh;
	uint8_t			space[MAX_HANDLE_SZ];
};

static uint8_t key[KEY_LEN], other_key[KEY_LEN];	/* set before the first thread starts */
static char verifier_path[PATH_MAX];

static void sign(const struct sealed *s, uint8_t *mac)
{
	crypto_shorthash_siphashx24(mac, (const uint8_t *)s + SIGNED_FROM,
				    HANDLE_FROM - SIGNED_FROM + s->bytes, key);
}

static void seal(struct sealed *s, struct wfs_fh *fh)
{
	sign(s, s->mac);
	fh->len = HANDLE_FROM + s->bytes;
	memcpy(fh->data, s, sizeof(fh->data));
}

/**
 * handle_from_fd - the handle of an open file
 *
 * Return: 0 or -errno; -EOVERFLOW when the kernel's handle is too long to be sent.
 */
int handle_from_fd(int fd, unsigned int rights, struct wfs_fh *fh)
{
	struct kernel_handle k = { .fh.handle_bytes = HANDLE_MAX };
	struct sealed s = { .rights = rights };
	int mount_id;

	if (name_to_handle_at(fd, "", &k.fh, &mount_id, AT_EMPTY_PATH))
		return -errno;
	if (k.fh.handle_type < 0 || k.fh.handle_type > UINT8_MAX)
		return -EOVERFLOW;
	s.type = k.fh.handle_type;
	s.bytes = k.fh.handle_bytes;
	memcpy(s.handle, k.fh.f_handle, s.bytes);
	seal(&s, fh);
	return 0;
}

int handle_check(const struct wfs_fh *fh)
{
	struct sealed s;
	uint8_t mac[MAC_LEN];

	memcpy(&s, fh->data, sizeof(s));
	if (s.bytes > HANDLE_MAX || fh->len != HANDLE_FROM + s.bytes)
		return -ESTALE;
	sign(&s, mac);
	if (sodium_memcmp(mac, s.mac, MAC_LEN))
		return -ESTALE;
	/*
	 * The tail is not signed, but the handle is a key in tables: there must be one form of it.
	 */
	if (!sodium_is_zero(s.handle + s.bytes, HANDLE_MAX - s.bytes))
		return -ESTALE;
	return 0;
}

int handle_open(const struct wfs_fh *fh, int flags)
{
	struct kernel_handle k;
	struct sealed s;
	int fd;

	memcpy(&s, fh->data, sizeof(s));
	k.fh.handle_type = s.type;
	k.fh.handle_bytes = s.bytes;
	memcpy(k.fh.f_handle, s.handle, s.bytes);
	fd = open_by_handle_at(cfg.root_fd, &k.fh, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

unsigned int handle_rights(const struct wfs_fh *fh)
{
	return fh->data[offsetof(struct sealed, rights)];
}

void handle_with_rights(const struct wfs_fh *fh, unsigned int rights, struct wfs_fh *to)
{
	struct sealed s;

	memcpy(&s, fh->data, sizeof(s));
	s.rights = rights;
	seal(&s, to);
}

/* The signature is as good a hash as any. */
uint64_t handle_hash(const struct wfs_fh *fh)
{
	uint64_t hash;

	memcpy(&hash, fh->data, sizeof(hash));
	return hash;
}

/* A hash of anything, for which nobody outside can make another thing; the same after a restart. */
uint64_t handle_keyed_hash(const void *data, size_t len)
{
	uint64_t hash;

	crypto_shorthash_siphash24((uint8_t *)&hash, data, len, other_key);
	return hash;
}

/* The inode, without rights, as a file's name. */
void handle_name(const struct wfs_fh *fh, char name[HANDLE_NAME])
{
	struct sealed s;

	memcpy(&s, fh->data, sizeof(s));
	sodium_bin2hex(name, HANDLE_NAME, &s.type, offsetof(struct sealed, handle) -
		       offsetof(struct sealed, type) + s.bytes);
}

static ssize_t read_file(const char *path, void *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len);
	if (n < 0)
		n = -errno;
	close(fd);
	return n;
}

/* A file that is there whole or not at all, after a crash too. */
static int write_file(const char *path, const void *buf, size_t len)
{
	char tmp[PATH_MAX + 8];
	int fd, dir, err = 0;

	snprintf(tmp, sizeof(tmp), "%s.new", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, buf, len) != (ssize_t)len || fsync(fd))
		err = -errno ?: -EIO;
	close(fd);
	if (!err && rename(tmp, path))
		err = -errno;
	if (err) {
		unlink(tmp);
		return err;
	}
	dir = open(cfg.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0) {
		fsync(dir);
		close(dir);
	}
	return 0;
}

/* An export is its root directory on its file system, however it is mounted and called. */
static void export_name(char name[33])
{
	struct kernel_handle k = { .fh.handle_bytes = HANDLE_MAX };
	struct { fsid_t fsid; int type; uint8_t handle[HANDLE_MAX]; } id = { 0 };
	uint8_t hash[crypto_generichash_BYTES_MIN];
	struct statfs sfs;
	int mount_id;

	if (fstatfs(cfg.root_fd, &sfs))
		die("--export %s: statfs: %s", cfg.export, strerror(errno));
	if (name_to_handle_at(cfg.root_fd, "", &k.fh, &mount_id, AT_EMPTY_PATH)) {
		if (errno == EOVERFLOW)
			die("--export %s: its file system's handles take %u bytes, %zu fit",
			    cfg.export, k.fh.handle_bytes, HANDLE_MAX);
		die("--export %s: its file system has no file handles (name_to_handle_at: %s)",
		    cfg.export, strerror(errno));
	}
	id.fsid = sfs.f_fsid;
	id.type = k.fh.handle_type;
	memcpy(id.handle, k.fh.f_handle, k.fh.handle_bytes);
	crypto_generichash(hash, sizeof(hash), (void *)&id, sizeof(id), NULL, 0);
	sodium_bin2hex(name, 33, hash, 16);
}

static void read_key(const char *name)
{
	char path[PATH_MAX];
	ssize_t n;
	int err;

	snprintf(path, sizeof(path), "%s/%s.key", cfg.state_dir, name);
	n = read_file(path, key, KEY_LEN);
	if (n == KEY_LEN)
		return;
	if (n != -ENOENT)
		die("%s: %s; without it clients' handles are lost, remove it if there are none", path,
		    n < 0 ? strerror(-n) : "wrong length");
	randombytes_buf(key, KEY_LEN);
	err = write_file(path, key, KEY_LEN);
	if (err)
		die("%s: %s", path, strerror(-err));
}

static void setup_key(const char *name)
{
	static const char purpose[] = "not for handles";

	read_key(name);
	crypto_shorthash_siphashx24(other_key, (const uint8_t *)purpose, sizeof(purpose), key);
}

/*
 * The verifier.  Data that was written and not committed is in the page cache, which is gone when
 * the machine restarts but not when this program does.  So the verifier is made of the boot's id;
 * and of a random number after written data was lost otherwise, which is kept as long as the boot
 * lasts.
 */
struct lost {
	char		boot_id[BOOT_ID_LEN];
	uint64_t	salt;
};

static pthread_mutex_t verifier_lock = PTHREAD_MUTEX_INITIALIZER;	/* lost and its file */
static struct lost lost;
static _Atomic uint64_t verifier;

static void compute_verifier(void)
{
	uint64_t v;

	crypto_shorthash_siphash24((uint8_t *)&v, (const uint8_t *)&lost, sizeof(lost), key);
	atomic_store(&verifier, v);
}

/**
 * verifier_setup - what it is when this process starts
 *
 * After session_lock(): until then the process before may find that data was lost.
 */
void verifier_setup(void)
{
	struct lost before;

	memset(&lost, 0, sizeof(lost));
	if (read_file("/proc/sys/kernel/random/boot_id", lost.boot_id, sizeof(lost.boot_id)) <= 0)
		randombytes_buf(lost.boot_id, sizeof(lost.boot_id));
	snprintf(verifier_path, sizeof(verifier_path), "%s/%s.lost", cfg.state_dir, cfg.export_id);
	if (read_file(verifier_path, &before, sizeof(before)) == sizeof(before) &&
	    !memcmp(before.boot_id, lost.boot_id, sizeof(lost.boot_id)))
		lost.salt = before.salt;
	compute_verifier();
}

/* BOOT_ID_LEN bytes, which another start of the machine has not. */
const char *boot_id(void)
{
	return lost.boot_id;
}

uint64_t verifier_get(void)
{
	return atomic_load_explicit(&verifier, memory_order_acquire);
}

void verifier_changed(void)
{
	int err;

	pthread_mutex_lock(&verifier_lock);
	randombytes_buf(&lost.salt, sizeof(lost.salt));
	compute_verifier();
	err = write_file(verifier_path, &lost, sizeof(lost));
	pthread_mutex_unlock(&verifier_lock);
	if (err)
		log_limited("%s: %s: a restart would forget that data was lost", verifier_path,
			    strerror(-err));
}

/**
 * handle_setup - make sure that the export has handles, and get its key
 */
void handle_setup(void)
{
	const char *name = cfg.export_id;
	struct stat st, st2;
	int fd, err;

	export_name(cfg.export_id);
	if (mkdir(cfg.state_dir, 0700) && errno != EEXIST)
		die("--state-dir %s: %s", cfg.state_dir, strerror(errno));
	/* Workers have another working directory. */
	cfg.state_dir = realpath(cfg.state_dir, NULL);
	if (!cfg.state_dir)
		die("--state-dir: %s", strerror(errno));
	setup_key(name);

	err = handle_from_fd(cfg.root_fd, 0, &cfg.root_fh);
	if (err)
		die("--export %s: no handle for it: %s", cfg.export, strerror(-err));
	fd = handle_open(&cfg.root_fh, O_PATH);
	if (fd < 0)
		die("--export %s: its file handles can't be opened (open_by_handle_at: %s)%s",
		    cfg.export, strerror(-fd), fd == -EPERM ? "; run as root" : "");
	if (fstat(fd, &st) || fstat(cfg.root_fd, &st2) || st.st_ino != st2.st_ino ||
	    st.st_dev != st2.st_dev)
		die("--export %s: its handle opens something else", cfg.export);
	close(fd);
	cfg.root_ino = st.st_ino;
}
