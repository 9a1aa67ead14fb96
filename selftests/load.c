// SPDX-License-Identifier: GPL-2.0
/*
 * load - random operations on files and names, each compared with a model.
 *
 *	load [OPTIONS] DIR...			the load, and at its end the whole tree is verified
 *	load -V -m FILE [OPTIONS] DIR...	verify a tree that was kept, on another mount or the server
 *
 * Each process has a directory of its own, DIR/pN (the Nth process in the Nth DIR, and round again), and its
 * model says what every system call there has to return, which names there are and what each byte is.  The
 * first result, name or byte that is not as it has to be ends the load with exit code 1 and a line that says
 * where; so does every error.  2 is wrong usage.  SIGTERM ends the load as the end of its time does.
 *
 * With -w the same tree is there twice, as two mounts of it are: each operation takes one of them by chance, and
 * has to find what came before through the other (both mounted with actimeo=0).
 *
 * All is drawn from the seed: the same seed gives the same operations, and the model after N of them can be
 * made again without the tree.  Data is not kept: each write has a number, from which its bytes follow.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <linux/fs.h>

enum {
	MAX_PROCS = 256,
	MAX_VIEWS = 4,
	MAX_NODES = 96,		/* files, directories and links of a process */
	MAX_DIRS = 10,
	NAMES = 24,		/* names that there may be in a directory */
	XATTRS = 4,
	XATTR_MAX = 400,
	IO_MAX = 128 << 10,
	ALIGN = 4096,
};

static struct {
	int procs, seconds, steps;
	uint64_t seed;
	unsigned int size;	/* largest file */
	bool keep, verify, no_direct, no_xattr, data_only;
	const char *model;
	char **dirs;
	int n_dirs;
	const char *views[MAX_VIEWS];	/* other ways to the only DIR; the first is DIR itself */
	int n_views;
} opt = { .procs = 4, .seconds = 10, .seed = 1, .size = 1 << 20, .n_views = 1 };

enum node_type { FREE, REG, DIRECTORY, SYMLINK };

/* The bytes from @start to before @end are those of write number @stamp; what no extent has is zero. */
struct extent {
	uint32_t start, end, stamp;
};

struct node {
	enum node_type type;
	int links;		/* names; a file with none lives while it is held */
	int parent;		/* of a directory: its node */
	mode_t mode;
	uint32_t size;
	struct extent *extents;
	int n_extents, room;
	uint32_t xattrs[XATTRS];	/* the value's stamp; 0: there is none */
	uint32_t target;	/* of a link: its target's stamp */
	bool held;		/* kept open, with @fd unless this is a rehearsal */
	int fd;
	ino_t ino;
};

/* What the processes and their parent share. */
struct shared {
	volatile int stop;
	struct {
		volatile uint64_t steps, written, read;
		volatile uint64_t counts[24];
		volatile double slowest;
		volatile int slowest_op;
	} procs[MAX_PROCS];
};

static struct shared *shared;
static int proc;		/* this process' number */
static bool dry;		/* a rehearsal: only the model moves */
static uint64_t step, random_state;
static uint32_t last_stamp;
static int views[MAX_VIEWS];	/* this process' directory */
static int view;		/* the one that is used now */
static struct node nodes[MAX_NODES];
static short names[MAX_NODES][NAMES];	/* of directories: the node of each name, or -1 */
static char doing[6000];	/* for the message when it fails */
static unsigned char *buffer, *wanted;

/* ---- chance, and what follows from it ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static unsigned int below(unsigned int n)
{
	random_state += 0x9e3779b97f4a7c15ull;
	return (mix(random_state) >> 32) * n >> 32;
}

static bool one_in(unsigned int n)
{
	return !below(n);
}

/* The 8 bytes at 8 * @word that write @stamp of process @who makes. */
static uint64_t word_of(uint64_t word, uint32_t stamp, int who)
{
	return mix(word * 0x9e3779b97f4a7c15ull ^ mix(opt.seed ^ (uint64_t)who << 32 ^ stamp));
}

static void fill(unsigned char *to, uint64_t off, size_t len, uint32_t stamp)
{
	uint64_t word;
	size_t n;

	for (; len; to += n, off += n, len -= n) {
		word = htole64(word_of(off / 8, stamp, proc));
		n = 8 - off % 8 < len ? 8 - off % 8 : len;
		memcpy(to, (char *)&word + off % 8, n);
	}
}

/* ---- messages ---- */

static const char *error_name(int err)
{
	return err ? strerrorname_np(err) : "success";
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	char text[8000], *p;
	va_list args;
	int n;

	n = snprintf(text, sizeof(text), "load: process %d, step %llu%s%s: %s: ", proc, (unsigned long long)step,
		     opt.n_views > 1 ? ", through " : "", opt.n_views > 1 ? opt.views[view] : "", doing);
	va_start(args, fmt);
	vsnprintf(text + n, sizeof(text) - n, fmt, args);
	va_end(args);
	for (p = text; *p; p++)
		if (!isprint(*p))
			*p = '?';
	dprintf(1, "%s\n", text);
	_exit(1);
}

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(doing, sizeof(doing), fmt, args);
	va_end(args);
}

/* A system call returned @ret: with @want 0 it has to have succeeded, or failed with that error. */
static void result(long ret, int want)
{
	int got = ret == -1 ? errno : 0;

	if (got != want)
		fail("expected %s, got %s", error_name(want), error_name(got));
}

/* TRY(WANT, CALL): the call and its result, unless this is a rehearsal */
#define TRY(want, call) do { if (!dry) result((call), want); } while (0)

static int try_open(int want, const char *path, int flags, mode_t mode)
{
	int fd = -1;

	if (!dry) {
		fd = open(path, flags | O_CLOEXEC, mode);
		result(fd, want);
	}
	return fd;
}

static void try_close(int fd)
{
	TRY(0, close(fd));
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	fail("SIGBUS at %p of the mapping %p", info->si_addr, (void *)wanted);
}

/* ---- the model of data ---- */

static void add_extent(struct node *n, int at, struct extent e)
{
	if (n->n_extents == n->room) {
		n->room = n->room ? 2 * n->room : 8;
		n->extents = realloc(n->extents, n->room * sizeof(e));
		if (!n->extents)
			fail("no memory");
	}
	memmove(n->extents + at + 1, n->extents + at, (n->n_extents - at) * sizeof(e));
	n->extents[at] = e;
	n->n_extents++;
}

/* From @start to before @end there is nothing any more; returns the place for an extent there. */
static int cut_extents(struct node *n, uint32_t start, uint32_t end)
{
	int i = 0, last;

	while (i < n->n_extents && n->extents[i].end <= start)
		i++;
	if (i < n->n_extents && n->extents[i].start < start) {
		struct extent rest = n->extents[i];

		n->extents[i++].end = start;
		if (rest.end > end) {
			rest.start = end;
			add_extent(n, i, rest);
			return i;
		}
	}
	for (last = i; last < n->n_extents && n->extents[last].end <= end; last++)
		;
	if (last > i)
		memmove(n->extents + i, n->extents + last, (n->n_extents - last) * sizeof(*n->extents));
	n->n_extents -= last - i;
	if (i < n->n_extents && n->extents[i].start < end)
		n->extents[i].start = end;
	return i;
}

static void model_write(struct node *n, uint32_t off, uint32_t len, uint32_t stamp)
{
	int at = cut_extents(n, off, off + len);

	add_extent(n, at, (struct extent){ off, off + len, stamp });
	if (off + len > n->size)
		n->size = off + len;
}

static void model_truncate(struct node *n, uint32_t size)
{
	if (size < n->size)
		cut_extents(n, size, UINT32_MAX);
	n->size = size;
}

static void model_read(const struct node *n, unsigned char *to, uint32_t off, uint32_t len)
{
	memset(to, 0, len);
	for (int i = 0; i < n->n_extents; i++) {
		uint32_t start = n->extents[i].start, end = n->extents[i].end;

		start = start > off ? start : off;
		end = end < off + len ? end : off + len;
		if (start < end)
			fill(to + (start - off), start, end - start, n->extents[i].stamp);
	}
}

/* Says whose bytes @p are, found at @off: of which write, of zeros, of nobody. */
static const char *whose(const unsigned char *p, uint32_t off, uint32_t len)
{
	static char text[80];
	uint32_t skip = (8 - off % 8) % 8;
	uint64_t word;

	if (len < skip + 8)
		return "";
	memcpy(&word, p + skip, 8);
	word = le64toh(word);
	if (!word)
		return " (zeros)";
	for (int who = 0; who < opt.procs; who++)
		for (uint32_t stamp = 1; stamp <= last_stamp; stamp++)
			if (word_of((off + skip) / 8, stamp, who) == word) {
				snprintf(text, sizeof(text), " (write %u of process %d)", stamp, who);
				return text;
			}
	return " (no write's)";
}

/* Compare @len bytes that were read at @off. */
static void compare(const struct node *n, const unsigned char *got, unsigned char *scratch, uint32_t off,
		    uint32_t len)
{
	uint32_t i = 0, last = len;
	char now[96];

	model_read(n, scratch, off, len);
	shared->procs[proc].read += len;
	if (!memcmp(got, scratch, len))
		return;
	while (got[i] == scratch[i])
		i++;
	while (got[last - 1] == scratch[last - 1])
		last--;
	snprintf(now, sizeof(now), "%s", whose(scratch + i, off + i, len - i));
	fail("offset %u: expected 0x%02x%s, got 0x%02x%s; wrong up to %u, size %u, last write %u",
	     off + i, scratch[i], now, got[i], whose(got + i, off + i, len - i), off + last, n->size, last_stamp);
}

/* ---- the model of names ---- */

/* Some names are long, some are odd. */
static const char *name_of(int k)
{
	static char table[NAMES][256];

	if (!table[k][0]) {
		snprintf(table[k], sizeof(table[k]), k % 8 == 6 ? "n%02d \xff\xc3\xa4*" : "n%02d", k);
		if (k % 8 == 7)
			for (int i = 3; i < 255; i++)
				table[k][i] = 'a' + (i + k) % 26;
	}
	return table[k];
}

static int name_in(int dir, int node)
{
	for (int k = 0; k < NAMES; k++)
		if (names[dir][k] == node)
			return k;
	return -1;
}

/* The path of name @k in directory @dir, or of the directory with @k -1; good for the next three calls. */
static const char *path_of(int dir, int k)
{
	static char buffers[4][4096];
	static int turn;
	char *buf = buffers[turn++ % 4], *p = buf + sizeof(buffers[0]) - 1;
	const char *name;

	*p = 0;
	for (;;) {
		if (k >= 0) {
			name = name_of(k);
			p -= strlen(name);
			memcpy(p, name, strlen(name));
			*--p = '/';
		}
		if (!dir)
			break;
		k = name_in(nodes[dir].parent, dir);
		dir = nodes[dir].parent;
	}
	*--p = '.';
	return p;
}

/* Some path of a file or link that has names, each as likely; of a directory its only one. */
static const char *some_path(int node)
{
	int skip;

	if (nodes[node].type == DIRECTORY)
		return path_of(node, -1);
	skip = below(nodes[node].links);
	for (int d = 0; d < MAX_NODES; d++)
		for (int k = 0; nodes[d].type == DIRECTORY && k < NAMES; k++)
			if (names[d][k] == node && !skip--)
				return path_of(d, k);
	fail("the model has no name for node %d", node);
}

static int free_node(void)
{
	for (int i = 0; i < MAX_NODES; i++)
		if (nodes[i].type == FREE)
			return i;
	return -1;
}

static int count(enum node_type type)
{
	int found = 0;

	for (int i = 0; i < MAX_NODES; i++)
		found += nodes[i].type == type;
	return found;
}

static int pick(enum node_type type)
{
	int n = count(type), skip;

	if (!n)
		return -1;
	skip = below(n);
	for (int i = 0;; i++)
		if (nodes[i].type == type && !skip--)
			return i;
}

static struct node *node(int i)
{
	return i < 0 ? NULL : &nodes[i];
}

static int empty(int dir)
{
	for (int k = 0; k < NAMES; k++)
		if (names[dir][k] >= 0)
			return 0;
	return 1;
}

/* Is directory @a @b, or above it? */
static bool above(int a, int b)
{
	for (; b != a; b = nodes[b].parent)
		if (!b)
			return false;
	return true;
}

static struct node *make_node(int i, enum node_type type, mode_t mode)
{
	struct node *n = &nodes[i];

	free(n->extents);
	*n = (struct node){ .type = type, .mode = mode, .fd = -1 };
	for (int k = 0; k < NAMES; k++)
		names[i][k] = -1;
	return n;
}

static void add_name(int dir, int k, int node)
{
	names[dir][k] = node;
	nodes[node].links++;
	if (nodes[node].type == DIRECTORY)
		nodes[node].parent = dir;
}

static void drop_name(int dir, int k)
{
	struct node *n = &nodes[names[dir][k]];

	names[dir][k] = -1;
	if (!--n->links && !n->held)
		n->type = FREE;
}

/* ---- verifying ---- */

static void check_stat(int i, const struct stat *st)
{
	static const mode_t types[] = { [REG] = S_IFREG, [DIRECTORY] = S_IFDIR, [SYMLINK] = S_IFLNK };
	struct node *n = &nodes[i];
	nlink_t links = n->links;

	if ((st->st_mode & S_IFMT) != types[n->type])
		fail("expected type %#o, got %#o", types[n->type], st->st_mode & S_IFMT);
	if (n->type != SYMLINK && (st->st_mode & 07777) != n->mode)
		fail("expected mode %#o, got %#o", n->mode, st->st_mode & 07777);
	if (n->type != DIRECTORY && st->st_size != n->size)
		fail("expected size %u, got %lld", n->size, (long long)st->st_size);
	if (n->type == DIRECTORY) {
		links = 2;
		for (int k = 0; k < NAMES; k++)
			links += names[i][k] >= 0 && nodes[names[i][k]].type == DIRECTORY;
		if (st->st_nlink == 1)	/* a file system that doesn't count them */
			links = 1;
	}
	if (st->st_nlink != links)
		fail("expected nlink %lu, got %lu", (long)links, (long)st->st_nlink);
	if (n->ino && st->st_ino != n->ino)
		fail("expected inode %lu, got %lu", (long)n->ino, (long)st->st_ino);
	n->ino = st->st_ino;
}

/* lstat of a path, which is that of @node, or of nothing with -1 */
static void try_stat(const char *path, int node)
{
	struct stat st;

	say("lstat %s", path);
	TRY(node < 0 ? ENOENT : 0, lstat(path, &st));
	if (!dry && node >= 0)
		check_stat(node, &st);
}

static void try_fstat(int fd, int node)
{
	struct stat st;

	if (dry)
		return;
	result(fstat(fd, &st), 0);
	check_stat(node, &st);
}

/* What @stamp of a symbolic link points to. */
static size_t target_of(uint32_t stamp, char *to, size_t room)
{
	return snprintf(to, room, "%u/%*s", stamp, (int)(stamp % 7 * stamp % 900), "to");
}

static void check_link(const char *path, const struct node *n)
{
	char got[2000], want[2000];
	size_t len = target_of(n->target, want, sizeof(want));
	ssize_t ret;

	if (dry)
		return;
	say("readlink %s", path);
	ret = readlink(path, got, sizeof(got) - 1);
	result(ret, 0);
	got[ret] = 0;
	if ((size_t)ret != len || strcmp(got, want))
		fail("expected '%s', got '%s'", want, got);
}

/* readdir of @dir: its names and no other, each once */
static void check_dir(int dir)
{
	static const unsigned char types[] = { [REG] = DT_REG, [DIRECTORY] = DT_DIR, [SYMLINK] = DT_LNK };
	int seen[NAMES + 2] = {}, k;
	struct dirent *de;
	DIR *d;

	say("readdir %s", path_of(dir, -1));
	if (dry)
		return;
	d = opendir(path_of(dir, -1));
	result(d ? 0 : -1, 0);
	for (errno = 0; (de = readdir(d)); errno = 0) {
		for (k = 0; k < NAMES && strcmp(de->d_name, name_of(k)); k++)
			;
		if (k == NAMES && strcmp(de->d_name, ".")) {
			if (strcmp(de->d_name, ".."))
				fail("a name that should not be there: '%s'", de->d_name);
			k = NAMES + 1;
		}
		if (k < NAMES && names[dir][k] < 0)
			fail("a name that should not be there: '%s'", de->d_name);
		if (seen[k]++)
			fail("'%s' twice", de->d_name);
		if (k < NAMES && de->d_type != DT_UNKNOWN && de->d_type != types[nodes[names[dir][k]].type])
			fail("'%s': expected type %d, got %d", de->d_name, types[nodes[names[dir][k]].type],
			     de->d_type);
	}
	result(errno ? -1 : 0, 0);
	for (k = 0; k < NAMES + 2; k++)
		if (!seen[k] && (k >= NAMES || names[dir][k] >= 0))
			fail("'%s' is missing", k < NAMES ? name_of(k) : k == NAMES ? "." : "..");
	result(closedir(d), 0);
}

static const char *xattr_name(int x)
{
	static const char *const table[XATTRS] = { "user.a", "user.load", "user.with.dots", "user.\xc3\xa4" };

	return table[x];
}

static size_t xattr_value(uint32_t stamp, unsigned char *to)
{
	size_t len = mix(stamp) % XATTR_MAX;

	fill(to, 0, len, stamp);
	return len;
}

static void check_xattr(const char *path, const struct node *n, int x)
{
	unsigned char got[XATTR_MAX + 1], want[XATTR_MAX];
	ssize_t len, ret;

	if (dry || opt.no_xattr)
		return;
	say("getxattr %s %s", path, xattr_name(x));
	ret = getxattr(path, xattr_name(x), got, sizeof(got));
	result(ret, n->xattrs[x] ? 0 : ENODATA);
	if (ret < 0)
		return;
	len = xattr_value(n->xattrs[x], want);
	if (ret != len)
		fail("expected %zd bytes, got %zd", len, ret);
	if (memcmp(got, want, len))
		fail("expected the value of write %u, got another", n->xattrs[x]);
}

static void check_xattr_list(const char *path, const struct node *n)
{
	char list[1000];
	bool found[XATTRS] = {};
	ssize_t len;
	int x;

	if (dry || opt.no_xattr)
		return;
	say("listxattr %s", path);
	len = listxattr(path, list, sizeof(list));
	result(len, 0);
	for (char *p = list; p < list + len; p += strlen(p) + 1) {
		if (strncmp(p, "user.", 5))
			continue;	/* the file system's own */
		for (x = 0; x < XATTRS && strcmp(p, xattr_name(x)); x++)
			;
		if (x == XATTRS || !n->xattrs[x] || found[x])
			fail("an attribute that should not be there: '%s'", p);
		found[x] = true;
	}
	for (x = 0; x < XATTRS; x++)
		if (n->xattrs[x] && !found[x])
			fail("'%s' is missing", xattr_name(x));
}

/* All bytes of an open file. */
static void check_data(int fd, const struct node *n, const char *path)
{
	ssize_t ret;

	for (uint32_t off = 0; !dry && off <= n->size; off += IO_MAX) {
		uint32_t len = n->size - off < IO_MAX ? n->size - off : IO_MAX;

		say("pread %s at %u, %u bytes", path, off, IO_MAX);
		ret = pread(fd, buffer, IO_MAX, off);
		result(ret, 0);
		if (ret != len)
			fail("expected %u bytes, got %zd", len, ret);
		compare(n, buffer, wanted, off, len);
	}
}

/* All that there is. */
static void check_tree(void)
{
	int fd;

	for (int d = 0; d < MAX_NODES; d++) {
		if (nodes[d].type != DIRECTORY)
			continue;
		check_dir(d);
		try_stat(path_of(d, -1), d);
		for (int k = 0; k < NAMES; k++) {
			int i = names[d][k];

			if (i < 0)
				continue;
			try_stat(path_of(d, k), i);
			if (nodes[i].type == SYMLINK) {
				check_link(path_of(d, k), &nodes[i]);
				continue;
			}
			check_xattr_list(path_of(d, k), &nodes[i]);
			for (int x = 0; x < XATTRS; x++)
				check_xattr(path_of(d, k), &nodes[i], x);
			if (nodes[i].type != REG)
				continue;
			say("open %s", path_of(d, k));
			fd = try_open(0, path_of(d, k), O_RDONLY, 0);
			check_data(fd, &nodes[i], path_of(d, k));
			try_close(fd);
		}
	}
}

/* ---- operations ---- */

/* Most are small, some have whole pages, few are long. */
static void some_range(uint32_t *off, uint32_t *len, uint32_t align)
{
	*len = one_in(8) ? 1 + below(IO_MAX) : one_in(2) ? 1 + below(3 * 4096) : 1 + below(200);
	*off = below(opt.size);
	if (one_in(4))
		*off &= ~4095u;
	*off &= -align;
	*len = (*len + align - 1) & -align;
	if (*len > opt.size - *off)
		*len = opt.size - *off;
}

enum how { BUFFERED, MAPPED, APPEND, DIRECT };

/* A way to do I/O that the file can be asked for: without a name only through the descriptor that holds it. */
static enum how some_way(const struct node *n, enum how last)
{
	enum how how = below(last + 1);

	if ((!n->links && how > MAPPED) || (!n->size && how == MAPPED))
		return BUFFERED;
	return how;
}

/*
 * What another view wrote is certain to be seen after an open, or after attributes that are not cached; what
 * this one wrote must be on its way before another opens the file: see op_write().
 */
static void fresh(const struct node *n)
{
	struct stat st;

	say("fstat of an open file");
	if (opt.n_views > 1)
		TRY(0, fstat(n->fd, &st));
}

static int open_for(int i, enum how how, int flags, const char **path)
{
	struct node *n = &nodes[i];
	bool by_fd = n->held && how <= MAPPED && (!n->links || one_in(2));

	*path = n->links ? some_path(i) : "(unlinked)";
	if (by_fd) {
		fresh(n);
		return n->fd;
	}
	if (how == APPEND)
		flags |= O_APPEND;
	if (how == DIRECT && !opt.no_direct)
		flags |= O_DIRECT;
	say("open %s with %#o", *path, flags);
	return try_open(0, *path, flags, 0);
}

static void close_for(int i, int fd, const char *path)
{
	if (fd == nodes[i].fd)
		return;
	say("close %s", path);
	try_close(fd);
}

static void map_range(int fd, const struct node *n, const char *path, uint32_t off, uint32_t len, bool write)
{
	uint32_t start = off & -ALIGN, end = off + len;
	unsigned char *map;

	say("mmap %s at %u, %u bytes, to %s", path, off, len, write ? "write" : "read");
	map = mmap(NULL, end - start, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, start);
	result(map == MAP_FAILED ? -1 : 0, 0);
	if (write) {
		fill(map + (off - start), off, len, last_stamp);
	} else {
		compare(n, map + (off - start), wanted, off, len);
		if (end == n->size)
			for (; end % ALIGN; end++)
				if (map[end - start])
					fail("a byte that is not 0 behind the end at %u: %#x", end, map[end - start]);
		end = off + len;
	}
	result(munmap(map, end - start), 0);
}

static void op_create(void);

static void op_write(void)
{
	int i = pick(REG), fd;
	struct node *n = node(i);
	uint32_t off, len;
	const char *path;
	bool sync = one_in(6);
	enum how how;

	if (i < 0)
		return op_create();
	how = some_way(n, DIRECT);
	some_range(&off, &len, how == DIRECT ? ALIGN : 1);
	if (how == APPEND) {
		off = n->size;
		if (len > opt.size - off)
			len = opt.size - off;
		if (!len)
			return;
	} else if (how == MAPPED) {
		off %= n->size;
		if (len > n->size - off)
			len = n->size - off;
	}
	last_stamp++;
	fd = open_for(i, how, O_RDWR, &path);
	if (!dry) {
		if (how == MAPPED) {
			map_range(fd, n, path, off, len, true);
		} else {
			ssize_t ret;

			fill(buffer, off, len, last_stamp);
			say("%s %s at %u, %u bytes%s", how == APPEND ? "append" : "pwrite", path, off, len,
			    how == DIRECT ? " direct" : "");
			ret = how == APPEND ? write(fd, buffer, len) : pwrite(fd, buffer, len, off);
			result(ret, 0);
			if (ret != len)
				fail("expected %u bytes, got %zd", len, ret);
		}
		shared->procs[proc].written += len;
	}
	model_write(n, off, len, last_stamp);
	if (sync || (opt.n_views > 1 && fd == n->fd)) {
		say("fsync %s", path);
		TRY(0, fsync(fd));
	}
	close_for(i, fd, path);
}

static void op_read(void)
{
	int i = pick(REG), fd;
	struct node *n = node(i);
	uint32_t off, len, want;
	const char *path;
	bool drop = one_in(3);
	enum how how;

	if (i < 0)
		return;
	how = some_way(n, DIRECT);
	some_range(&off, &len, how == DIRECT ? ALIGN : 1);
	if (n->size && one_in(2))
		off = off % n->size & (how == DIRECT ? -ALIGN : -1);
	if (how == MAPPED)
		off %= n->size;
	want = off >= n->size ? 0 : len < n->size - off ? len : n->size - off;
	fd = open_for(i, how, O_RDONLY, &path);
	if (!dry && drop)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (how == MAPPED) {
		if (!dry)
			map_range(fd, n, path, off, want, false);
	} else if (!dry) {
		ssize_t ret;

		say("pread %s at %u, %u bytes%s", path, off, len, how == DIRECT ? " direct" : "");
		ret = pread(fd, buffer, len, off);
		result(ret, 0);
		if (ret != want)
			fail("expected %u bytes, got %zd", want, ret);
		compare(n, buffer, wanted, off, want);
	}
	close_for(i, fd, path);
}

static void op_truncate(void)
{
	int i = pick(REG);
	struct node *n = node(i);
	uint32_t size;
	const char *path;

	if (i < 0)
		return;
	size = one_in(4) ? 0 : one_in(2) ? below(n->size + 1) : below(opt.size);
	if (n->held && (!n->links || one_in(2))) {
		fresh(n);
		say("ftruncate to %u", size);
		TRY(0, ftruncate(n->fd, size));
	} else {
		path = some_path(i);
		say("truncate %s to %u", path, size);
		TRY(0, truncate(path, size));
	}
	model_truncate(n, size);
}

static void op_sync(void)
{
	int i = one_in(4) ? pick(DIRECTORY) : pick(REG), fd;
	bool data = one_in(2);
	const char *path;

	if (i < 0)
		return;
	fd = open_for(i, BUFFERED, O_RDONLY, &path);
	say("%s %s", data ? "fdatasync" : "fsync", path);
	TRY(0, data ? fdatasync(fd) : fsync(fd));
	close_for(i, fd, path);
}

static void op_hold(void)
{
	int i = pick(REG);
	struct node *n = node(i);

	if (i < 0)
		return;
	if (!n->held) {
		const char *path = some_path(i);

		say("open %s to hold it", path);
		n->fd = try_open(0, path, O_RDWR, 0);
		n->held = true;
		return;
	}
	say("fstat of an open file%s", n->links ? "" : " without a name");
	try_fstat(n->fd, i);
	if (!n->links)
		check_data(n->fd, n, "(unlinked)");
	say("close of an open file%s", n->links ? "" : " without a name");
	try_close(n->fd);
	n->fd = -1;
	n->held = false;
	if (!n->links)
		n->type = FREE;
}

static void op_unlink(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), i = names[d][k];
	const char *path = path_of(d, k);

	say("unlink %s", path);
	if (i < 0) {
		TRY(ENOENT, unlink(path));
	} else if (nodes[i].type == DIRECTORY) {
		TRY(EISDIR, unlink(path));
	} else {
		TRY(0, unlink(path));
		drop_name(d, k);
	}
}

static void op_create(void)
{
	static const int variants[] = { O_EXCL, O_EXCL, 0, O_TRUNC };
	int d = pick(DIRECTORY), k = below(NAMES), i = names[d][k], new = free_node(), fd, want = 0;
	int flags = O_RDWR | O_CREAT | O_NOFOLLOW | variants[below(4)];
	mode_t mode = 0600 | below(0100);
	const char *path = path_of(d, k);

	if (i < 0 && new < 0)
		return op_unlink();
	if (i >= 0)
		want = flags & O_EXCL ? EEXIST : nodes[i].type == DIRECTORY ? EISDIR :
		       nodes[i].type == SYMLINK ? ELOOP : 0;
	say("open %s with %#o, mode %#o", path, flags, mode);
	fd = try_open(want, path, flags, mode);
	if (want)
		return;
	if (i < 0) {
		i = new;
		make_node(i, REG, mode);
		add_name(d, k, i);
	} else if (flags & O_TRUNC) {
		model_truncate(&nodes[i], 0);
	}
	say("fstat of %s after open", path);
	try_fstat(fd, i);
	say("close %s after open", path);
	try_close(fd);
}

static void op_mkdir(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), i = names[d][k], new = free_node();
	mode_t mode = 0700 | below(0100);
	const char *path = path_of(d, k);

	say("mkdir %s, mode %#o", path, mode);
	if (i >= 0) {
		TRY(EEXIST, mkdir(path, mode));
	} else if (new >= 0 && count(DIRECTORY) < MAX_DIRS) {
		TRY(0, mkdir(path, mode));
		make_node(new, DIRECTORY, mode);
		add_name(d, k, new);
		try_stat(path, new);
	}
}

static void op_rmdir(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), i;
	const char *path;

	if (d && one_in(2)) {	/* a directory, more often than chance would find one */
		k = name_in(nodes[d].parent, d);
		d = nodes[d].parent;
	}
	i = names[d][k];
	path = path_of(d, k);
	say("rmdir %s", path);
	if (i < 0) {
		TRY(ENOENT, rmdir(path));
	} else if (nodes[i].type != DIRECTORY) {
		TRY(ENOTDIR, rmdir(path));
	} else if (!empty(i)) {
		TRY(ENOTEMPTY, rmdir(path));
	} else {
		TRY(0, rmdir(path));
		drop_name(d, k);
	}
}

static void op_symlink(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), i = names[d][k], new = free_node();
	const char *path = path_of(d, k);
	char target[2000];
	size_t len;

	last_stamp++;
	len = target_of(last_stamp, target, sizeof(target));
	say("symlink %s", path);
	if (i >= 0) {
		TRY(EEXIST, symlink(target, path));
	} else if (new >= 0) {
		TRY(0, symlink(target, path));
		make_node(new, SYMLINK, 0777)->target = last_stamp;
		nodes[new].size = len;
		add_name(d, k, new);
		try_stat(path, new);
		check_link(path, &nodes[new]);
	}
}

static void op_link(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), to = pick(DIRECTORY), as = below(NAMES);
	int i = names[d][k], want = 0;
	const char *path = path_of(d, k), *new = path_of(to, as);

	if (i < 0)
		want = ENOENT;
	else if (names[to][as] >= 0)
		want = EEXIST;
	else if (nodes[i].type == DIRECTORY)
		want = EPERM;
	/* both are right, and what a client has cached of the new name decides which one comes first */
	if (want == EEXIST && nodes[i].type == DIRECTORY)
		return;
	say("link %s as %s", path, new);
	TRY(want, link(path, new));
	if (want)
		return;
	add_name(to, as, i);
	try_stat(new, i);
}

/* What the kernel says, in the order in which it looks. */
static int rename_error(int d, int i, int to, int j, unsigned int flags)
{
	bool dir = i >= 0 && nodes[i].type == DIRECTORY, over_dir = j >= 0 && nodes[j].type == DIRECTORY;

	if (i < 0)
		return ENOENT;
	if ((flags & RENAME_NOREPLACE) && j >= 0)
		return EEXIST;
	if ((flags & RENAME_EXCHANGE) && j < 0)
		return ENOENT;
	if (d != to && dir && above(i, to))
		return EINVAL;
	if (d != to && over_dir && above(j, d))
		return flags & RENAME_EXCHANGE ? EINVAL : ENOTEMPTY;
	if (i == j || j < 0 || (flags & RENAME_EXCHANGE))
		return 0;
	if (dir && !over_dir)
		return ENOTDIR;
	if (!dir && over_dir)
		return EISDIR;
	return dir && !empty(j) ? ENOTEMPTY : 0;
}

static void op_rename(void)
{
	static const unsigned int variants[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	int d = pick(DIRECTORY), k = below(NAMES), to = one_in(2) ? d : pick(DIRECTORY), as = below(NAMES);
	int i = names[d][k], j = names[to][as], want;
	unsigned int flags = variants[below(4)];
	const char *path = path_of(d, k), *new = path_of(to, as);

	want = rename_error(d, i, to, j, flags);
	say("rename %s to %s, flags %u", path, new, flags);
	TRY(want, renameat2(AT_FDCWD, path, AT_FDCWD, new, flags));
	if (want || i == j)
		return;
	/* First the names go, then they come: a directory's parent is that of its last name. */
	nodes[i].links++;
	drop_name(d, k);
	nodes[i].links--;
	if (flags & RENAME_EXCHANGE) {
		names[to][as] = -1;
		nodes[j].links--;
		add_name(d, k, j);
	} else if (j >= 0) {
		drop_name(to, as);
	}
	add_name(to, as, i);
	path = path_of(d, k);		/* may be another now */
	new = path_of(to, as);
	try_stat(new, i);
	try_stat(path, names[d][k]);
}

static void op_readdir(void)
{
	check_dir(pick(DIRECTORY));
}

static void op_stat(void)
{
	int d = pick(DIRECTORY), k = below(NAMES), i = names[d][k];
	const char *path = path_of(d, k);

	try_stat(path, i);
	if (i >= 0 && nodes[i].type == SYMLINK)
		check_link(path, &nodes[i]);
}

static void op_chmod(void)
{
	int i = one_in(4) ? pick(DIRECTORY) : pick(REG);
	mode_t mode = below(0100);
	const char *path;

	if (i <= 0 || !nodes[i].links)
		return;
	mode |= nodes[i].type == DIRECTORY ? 0700 : 0600;
	path = some_path(i);
	say("chmod %s to %#o", path, mode);
	TRY(0, chmod(path, mode));
	nodes[i].mode = mode;
	try_stat(path, i);
}

static void op_xattr(void)
{
	int i = one_in(4) ? pick(DIRECTORY) : pick(REG), x = below(XATTRS), what = below(6), flags, want = 0;
	struct node *n = node(i);
	unsigned char value[XATTR_MAX];
	const char *path;
	size_t len;

	if (i < 0 || !n->links || opt.no_xattr)
		return;
	path = some_path(i);
	if (what < 3) {
		flags = what == 1 ? XATTR_CREATE : what == 2 ? XATTR_REPLACE : 0;
		if (flags)
			want = (flags == XATTR_CREATE) == !n->xattrs[x] ? 0 :
			       flags == XATTR_CREATE ? EEXIST : ENODATA;
		len = xattr_value(++last_stamp, value);
		say("setxattr %s %s, flags %d", path, xattr_name(x), flags);
		TRY(want, setxattr(path, xattr_name(x), value, len, flags));
		if (!want)
			n->xattrs[x] = last_stamp;
	} else if (what == 3) {
		say("removexattr %s %s", path, xattr_name(x));
		TRY(n->xattrs[x] ? 0 : ENODATA, removexattr(path, xattr_name(x)));
		n->xattrs[x] = 0;
	} else if (what == 4) {
		check_xattr_list(path, n);
	}
	check_xattr(path, n, x);
}

static const struct {
	const char *name;
	void (*run)(void);
	int weight;
	bool data;
} ops[] = {
	{ "write", op_write, 30, true },
	{ "read", op_read, 30, true },
	{ "truncate", op_truncate, 5, true },
	{ "fsync", op_sync, 3, true },
	{ "hold", op_hold, 10, true },
	{ "create", op_create, 16, false },
	{ "unlink", op_unlink, 12, false },
	{ "mkdir", op_mkdir, 6, false },
	{ "rmdir", op_rmdir, 6, false },
	{ "symlink", op_symlink, 4, false },
	{ "link", op_link, 6, false },
	{ "rename", op_rename, 14, false },
	{ "readdir", op_readdir, 8, true },
	{ "stat", op_stat, 10, true },
	{ "chmod", op_chmod, 5, true },
	{ "xattr", op_xattr, 10, true },
};

enum { N_OPS = sizeof(ops) / sizeof(ops[0]) };

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* With -d a few files are made first, and then names stay as they are. */
static int next_op(void)
{
	int sum = 0, at, i;
	bool data = opt.data_only && step > 40;

	for (i = 0; i < N_OPS; i++)
		sum += !data || ops[i].data ? ops[i].weight : 0;
	at = below(sum);
	for (i = 0;; i++) {
		if (data && !ops[i].data)
			continue;
		at -= ops[i].weight;
		if (at < 0)
			return i;
	}
}

static void one_step(void)
{
	double began = now(), took;
	int i = next_op();

	view = below(opt.n_views);
	if (!dry && opt.n_views > 1)
		result(fchdir(views[view]), 0);

	ops[i].run();
	step++;
	if (dry)
		return;
	took = now() - began;
	if (took > shared->procs[proc].slowest) {
		shared->procs[proc].slowest = took;
		shared->procs[proc].slowest_op = i;
	}
	shared->procs[proc].counts[i]++;
	shared->procs[proc].steps = step;
}

/* What is held is let go of. */
static void release(void)
{
	for (int i = 0; i < MAX_NODES; i++) {
		struct node *n = &nodes[i];

		if (n->type != REG || !n->held)
			continue;
		if (!n->links) {
			say("fstat of an open file without a name");
			try_fstat(n->fd, i);
			check_data(n->fd, n, "(unlinked)");
			n->type = FREE;
		}
		say("close of an open file");
		try_close(n->fd);
		n->held = false;
		n->fd = -1;
	}
}

/* Removes all of directory @d, files first. */
static void remove_all(int d)
{
	for (int k = 0; k < NAMES; k++) {
		const char *path = path_of(d, k);
		int i = names[d][k];

		if (i < 0)
			continue;
		if (nodes[i].type == DIRECTORY) {
			remove_all(i);
			path = path_of(d, k);
			say("rmdir %s", path);
			TRY(0, rmdir(path));
		} else {
			say("unlink %s", path);
			TRY(0, unlink(path));
		}
		drop_name(d, k);
	}
	check_dir(d);
}

/* One process: @steps of the model are made again for -V. */
static void run(uint64_t steps)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	const char *dir = opt.dirs[proc % opt.n_dirs];
	double until = now() + opt.seconds;
	char name[4200];

	random_state = mix(opt.seed + (uint64_t)proc * 0x1000193);
	buffer = aligned_alloc(ALIGN, IO_MAX);
	wanted = aligned_alloc(ALIGN, IO_MAX);
	if (!buffer || !wanted)
		fail("no memory");
	sigaction(SIGBUS, &sa, NULL);
	umask(0);
	make_node(0, DIRECTORY, 0755)->links = 1;

	snprintf(name, sizeof(name), "%s/p%d", dir, proc);
	if (!opt.verify) {
		say("mkdir %s", name);
		result(mkdir(name, 0755), 0);
	}
	for (view = opt.n_views - 1; view >= 0; view--) {
		if (view)
			snprintf(name, sizeof(name), "%s/p%d", opt.views[view], proc);
		else
			snprintf(name, sizeof(name), "%s/p%d", dir, proc);
		say("open %s", name);
		views[view] = try_open(0, name, O_PATH | O_DIRECTORY, 0);
	}
	view = 0;
	result(fchdir(views[0]), 0);

	dry = opt.verify;
	while (dry ? step < steps : !shared->stop && (!opt.seconds || now() < until) &&
		    (!opt.steps || step < (uint64_t)opt.steps))
		one_step();
	release();
	dry = false;
	for (view = opt.n_views - 1; view >= 0; view--) {
		result(fchdir(views[view]), 0);
		check_tree();
	}
	view = 0;
	if (!opt.keep && !opt.verify) {
		remove_all(0);
		say("rmdir %s", name);
		result(chdir(".."), 0);
		result(rmdir(strrchr(name, '/') + 1), 0);
	}
}

/* ---- the parent ---- */

static void on_stop(int sig)
{
	(void)sig;
	shared->stop = 1;
}

static void read_model(uint64_t *steps)
{
	FILE *f = fopen(opt.model, "r");
	unsigned long long seed, n;
	int no_xattr, data_only;

	if (!f || fscanf(f, "load %llu %d %u %d %d", &seed, &opt.procs, &opt.size, &no_xattr, &data_only) != 5 ||
	    opt.procs < 1 || opt.procs > MAX_PROCS)
		goto bad;
	opt.seed = seed;
	opt.no_xattr |= no_xattr;
	opt.data_only = data_only;
	for (int i = 0; i < opt.procs; i++) {
		if (fscanf(f, "%llu", &n) != 1)
			goto bad;
		steps[i] = n;
	}
	fclose(f);
	return;
bad:
	fprintf(stderr, "load: %s is not the model of a load\n", opt.model);
	exit(2);
}

static void write_model(void)
{
	FILE *f = fopen(opt.model, "w");
	bool bad = !f;

	if (f) {
		fprintf(f, "load %llu %d %u %d %d\n", (unsigned long long)opt.seed, opt.procs, opt.size, opt.no_xattr,
			opt.data_only);
		for (int i = 0; i < opt.procs; i++)
			fprintf(f, "%llu\n", (unsigned long long)shared->procs[i].steps);
		bad = fclose(f);
	}
	if (bad) {
		perror(opt.model);
		exit(2);
	}
}

static void report(void)
{
	uint64_t steps = 0, written = 0, read = 0, sum;
	double slowest = 0;
	int slowest_op = 0;

	for (int i = 0; i < opt.procs; i++) {
		steps += shared->procs[i].steps;
		written += shared->procs[i].written;
		read += shared->procs[i].read;
		if (shared->procs[i].slowest > slowest) {
			slowest = shared->procs[i].slowest;
			slowest_op = shared->procs[i].slowest_op;
		}
	}
	if (opt.verify) {
		printf("load: %d trees verified, %.1f MiB read: all as expected\n", opt.procs, read / 1048576.);
		return;
	}
	printf("load: %d processes, %llu operations (", opt.procs, (unsigned long long)steps);
	for (int op = 0; op < N_OPS; op++) {
		sum = 0;
		for (int i = 0; i < opt.procs; i++)
			sum += shared->procs[i].counts[op];
		printf("%s%s %llu", op ? ", " : "", ops[op].name, (unsigned long long)sum);
	}
	printf("), %.1f MiB written, %.1f MiB read, slowest a %s of %.1f s, seed %llu: all as expected\n",
	       written / 1048576., read / 1048576., ops[slowest_op].name, slowest, (unsigned long long)opt.seed);
}

static void __attribute__((noreturn)) usage(void)
{
	fprintf(stderr,
		"load [OPTIONS] DIR...\n"
		"  -t SECONDS  how long; 0: until SIGTERM (default 10)\n"
		"  -c STEPS    end after so many operations of each process\n"
		"  -n PROCS    processes, 1 to %d (default 4)\n"
		"  -s SEED     (default 1)\n"
		"  -l BYTES    largest file, a multiple of %d (default 1 MiB)\n"
		"  -d          names change at the beginning only, then data and attributes\n"
		"  -D          no O_DIRECT, where the file system has none\n"
		"  -X          no extended attributes, where it has none\n"
		"  -w DIR      another mount of the only DIR, used in turn; up to %d\n"
		"  -k          keep the tree\n"
		"  -m FILE     write down what there is to be verified; outside of DIR\n"
		"  -V          verify what -m FILE says, and nothing else\n", MAX_PROCS, ALIGN,
		MAX_VIEWS - 1);
	exit(2);
}

/* @text as a number from @low to @high */
static uint64_t number(const char *text, uint64_t low, uint64_t high)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-' || n < low || n > high)
		usage();
	return n;
}

int main(int argc, char **argv)
{
	static uint64_t steps[MAX_PROCS];
	struct sigaction sa = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
	pid_t pids[MAX_PROCS];
	int c, status, left, bad = 0;

	while ((c = getopt(argc, argv, "t:c:n:s:l:dDXw:km:V")) != -1)
		switch (c) {
		case 't': opt.seconds = number(optarg, 0, INT32_MAX); break;
		case 'c': opt.steps = number(optarg, 1, INT32_MAX); break;
		case 'n': opt.procs = number(optarg, 1, MAX_PROCS); break;
		case 's': opt.seed = number(optarg, 0, UINT64_MAX); break;
		case 'l': opt.size = number(optarg, ALIGN, 1 << 30); break;
		case 'd': opt.data_only = true; break;
		case 'D': opt.no_direct = true; break;
		case 'X': opt.no_xattr = true; break;
		case 'w':
			if (opt.n_views == MAX_VIEWS)
				usage();
			opt.views[opt.n_views++] = optarg;
			break;
		case 'k': opt.keep = true; break;
		case 'm': opt.model = optarg; break;
		case 'V': opt.verify = true; break;
		default: usage();
		}
	opt.dirs = argv + optind;
	opt.n_dirs = argc - optind;
	opt.views[0] = opt.dirs[0];
	if (!opt.n_dirs || (opt.n_views > 1 && opt.n_dirs > 1) || (opt.verify && !opt.model) || opt.size % ALIGN)
		usage();
	if (opt.verify)
		read_model(steps);
	for (int k = 0; k < NAMES; k++)
		name_of(k);

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	for (int i = 0; i < opt.procs; i++) {
		fflush(stdout);
		pids[i] = fork();
		if (!pids[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			signal(SIGTERM, SIG_IGN);	/* as the parent says */
			signal(SIGINT, SIG_IGN);
			proc = i;
			run(steps[i]);
			_exit(0);
		}
		if (pids[i] < 0) {
			perror("fork");
			return 2;
		}
	}
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	for (left = opt.procs; left; ) {
		pid_t pid = wait(&status);

		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			break;
		left--;
		for (int i = 0; i < opt.procs; i++)
			if (pids[i] == pid)
				pids[i] = 0;
		if (!status || bad)
			continue;
		bad = 1;		/* the first has said why */
		if (WIFSIGNALED(status))
			printf("load: a process was ended by signal %d\n", WTERMSIG(status));
		for (int i = 0; i < opt.procs; i++)
			if (pids[i])
				kill(pids[i], SIGKILL);
	}
	if (bad)
		return 1;
	if (opt.model && !opt.verify)
		write_model();
	report();
	return 0;
}
