// SPDX-License-Identifier: GPL-2.0
/*
 * mount.wfs - the helper that mount(8) calls for "mount -t wfs".
 *
 * Resolves the server's name, sorts options into those of the mount and those of the file system, and has
 * the kernel mount through fsopen(2) and its family.  What the kernel says about a failure is what the user
 * reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* as in mount(8) */
enum { EX_OK = 0, EX_USAGE = 1, EX_SYSERR = 2, EX_FAIL = 32 };

#define OPTS_MAX	128
#define ADDRS_MAX	32
#define ADDR_LEN	64

#define ATTR_SECURE	(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

/* An option for the file system: KEY, or KEY=VALUE. */
struct opt {
	char	*key;
	char	*value;		/* NULL for a flag */
};

struct request {
	const char	*source;	/* as given: HOST:/PATH */
	const char	*dir;
	bool		remount;
	bool		sloppy;
	bool		fake;
	bool		verbose;
	struct opt	opts[OPTS_MAX];
	unsigned int	nopts;
	bool		has_addr;	/* addr= was given: nothing to resolve */
	__u64		attr_set;	/* MOUNT_ATTR_* that were asked for */
	__u64		attr_clr;	/* and those whose opposite was */
};

/* Options that are the mount's own: what they set and what they clear. */
static const struct attr_opt {
	const char	*name;
	__u64		set;
	__u64		clr;
	bool		to_fs;		/* the file system is told too */
} attr_opts[] = {
	{ "ro",		MOUNT_ATTR_RDONLY,	0,			true },
	{ "rw",		0,			MOUNT_ATTR_RDONLY,	true },
	{ "nosuid",	MOUNT_ATTR_NOSUID,	0,			false },
	{ "suid",	0,			MOUNT_ATTR_NOSUID,	false },
	{ "nodev",	MOUNT_ATTR_NODEV,	0,			false },
	{ "dev",	0,			MOUNT_ATTR_NODEV,	false },
	{ "noexec",	MOUNT_ATTR_NOEXEC,	0,			false },
	{ "exec",	0,			MOUNT_ATTR_NOEXEC,	false },
	{ "nodiratime",	MOUNT_ATTR_NODIRATIME,	0,			false },
	{ "diratime",	0,			MOUNT_ATTR_NODIRATIME,	false },
	{ "nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0,			false },
	{ "symfollow",	0,			MOUNT_ATTR_NOSYMFOLLOW,	false },
	/* the three are one field */
	{ "noatime",	MOUNT_ATTR_NOATIME,	MOUNT_ATTR__ATIME,	false },
	{ "strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME,	false },
	{ "relatime",	MOUNT_ATTR_RELATIME,	MOUNT_ATTR__ATIME,	false },
	{ "atime",	MOUNT_ATTR_RELATIME,	MOUNT_ATTR__ATIME,	false },
	{ "norelatime",	MOUNT_ATTR_RELATIME,	MOUNT_ATTR__ATIME,	false },
	{ "nostrictatime", MOUNT_ATTR_RELATIME,	MOUNT_ATTR__ATIME,	false },
	/* who may mount is for mount(8) to check; these are what it implies */
	{ "user",	ATTR_SECURE,		0,			false },
	{ "users",	ATTR_SECURE,		0,			false },
	{ "owner",	MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0,	false },
	{ "group",	MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0,	false },
};

/* Options that are for others to read. */
static const char *const ignored_opts[] = {
	"defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "nousers", "noowner", "nogroup",
};

static const char usage[] =
	"Usage: mount.wfs HOST:/[SUBDIR] DIR [-fhnsv] [-o OPTION[,OPTION...]]\n"
	"Mount a directory that wfsd exports; called by mount -t wfs.\n"
	"\n"
	"  -o OPTIONS  see mount.wfs(8)\n"
	"  -f          do everything but mount\n"
	"  -n          ignored\n"
	"  -s          ignore options that are not known\n"
	"  -v          say what is done\n"
	"  -h          this help\n";

static void complain(const struct request *req, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "mount.wfs: %s: ", req->source);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static void say(const struct request *req, const char *fmt, ...)
{
	va_list ap;

	if (!req->verbose)
		return;
	printf("mount.wfs: %s: ", req->source);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* ---- options ---- */

static bool starts_with(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

static bool is_ignored(const char *key)
{
	size_t i;

	for (i = 0; i < sizeof(ignored_opts) / sizeof(*ignored_opts); i++)
		if (!strcmp(key, ignored_opts[i]))
			return true;
	return starts_with(key, "x-") || starts_with(key, "X-") || !strcmp(key, "comment") ||
	       !strcmp(key, "uhelper");
}

static int add_fs_opt(struct request *req, char *key, char *value)
{
	if (req->nopts == OPTS_MAX) {
		complain(req, "more than %d options", OPTS_MAX);
		return EX_USAGE;
	}
	req->opts[req->nopts++] = (struct opt){ key, value };
	return EX_OK;
}

static int parse_opt(struct request *req, char *key, char *value)
{
	size_t i;

	for (i = 0; i < sizeof(attr_opts) / sizeof(*attr_opts); i++) {
		const struct attr_opt *a = &attr_opts[i];

		if (strcmp(key, a->name))
			continue;
		/* the last one wins */
		req->attr_set = (req->attr_set & ~a->clr) | a->set;
		req->attr_clr = a->clr & MOUNT_ATTR__ATIME ? req->attr_clr | a->clr
							   : (req->attr_clr & ~a->set) | a->clr;
		return a->to_fs ? add_fs_opt(req, key, NULL) : EX_OK;
	}
	if (is_ignored(key))
		return EX_OK;
	if (!strcmp(key, "remount")) {
		req->remount = true;
		return EX_OK;
	}
	if (!strcmp(key, "addr") && value)
		req->has_addr = true;
	return add_fs_opt(req, key, value);
}

/* Cut "a,b=c,d="e,f"" at its commas; values may be quoted.  Keeps pointers into @list. */
static int parse_opts(struct request *req, char *list)
{
	while (list && *list) {
		char *key = list, *value = NULL, *in, *out;
		bool quoted = false;
		int err;

		for (in = out = list; *in && (quoted || *in != ','); in++) {
			if (*in == '"')
				quoted = !quoted;
			else if (*in == '=' && !value && !quoted)
				*out++ = '\0', value = out;
			else
				*out++ = *in;
		}
		list = *in ? in + 1 : NULL;
		*out = '\0';
		if (quoted) {
			complain(req, "option %s: a quote is missing", key);
			return EX_USAGE;
		}
		err = *key ? parse_opt(req, key, value) : EX_OK;
		if (err)
			return err;
	}
	return EX_OK;
}

/* ---- the server's addresses ---- */

/* Split HOST:/PATH; the host goes to @host without an IPv6 address's brackets. */
static int parse_source(const struct request *req, char *host, size_t size)
{
	const char *start = req->source, *end;
	bool bracket = *start == '[';

	if (bracket) {
		end = strchr(++start, ']');
		if (!end || !starts_with(end, "]:/"))
			goto bad;
	} else {
		end = strstr(start, ":/");
		if (!end)
			goto bad;
		if (memchr(start, ':', end - start)) {
			complain(req, "an IPv6 address is written in brackets: [%.*s]:/",
				 (int)(end - start), start);
			return EX_USAGE;
		}
	}
	if (end == start || (size_t)(end - start) >= size)
		goto bad;
	memcpy(host, start, end - start);
	host[end - start] = '\0';
	return EX_OK;
bad:
	complain(req, "the source has to be HOST:/[SUBDIR], HOST a name, an IPv4 or an [IPv6] address");
	return EX_USAGE;
}

/* Returns the number of addresses, 0 after a message. */
static unsigned int resolve(const struct request *req, const char *host, char (*addrs)[ADDR_LEN])
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list, *ai;
	unsigned int n = 0;
	int err;

	err = getaddrinfo(host, NULL, &hints, &list);
	if (err) {
		complain(req, "can't find the address of '%s': %s", host,
			 err == EAI_SYSTEM ? strerror(errno) : gai_strerror(err));
		return 0;
	}
	for (ai = list; ai && n < ADDRS_MAX; ai = ai->ai_next)
		if (!getnameinfo(ai->ai_addr, ai->ai_addrlen, addrs[n], ADDR_LEN, NULL, 0, NI_NUMERICHOST))
			n++;
	freeaddrinfo(list);
	if (!n)
		complain(req, "'%s' has no IP address", host);
	return n;
}

/* ---- the kernel ---- */

/*
 * Print what the kernel has logged in the context: errors, and warnings, and with -v what is only information.
 * Returns whether there was an error.
 */
static bool print_log(const struct request *req, int fsfd, const char *addr)
{
	char line[1024];
	bool error = false;
	ssize_t n;

	while ((n = read(fsfd, line, sizeof(line) - 1)) > 0) {
		const char *text = line;
		char level = 'e';

		if (line[n - 1] == '\n')
			n--;
		line[n] = '\0';
		if (n > 2 && line[1] == ' ') {
			level = line[0];
			text += 2;
		}
		if (starts_with(text, "wfs: "))
			text += 5;
		if (starts_with(text, req->source) && starts_with(text + strlen(req->source), ": "))
			text += strlen(req->source) + 2;
		if (level == 'i') {
			say(req, "%s", text);
			continue;
		}
		error |= level == 'e';
		complain(req, "%s%s%s", addr ? addr : "", addr ? ": " : "", text);
	}
	return error;
}

/* For errors that the kernel has left without a message. */
static const char *explain(int err)
{
	switch (err) {
	case EPERM:		return "only root can mount";
	case ENODEV:		return "the wfs module is not loaded; modprobe wfs";
	case ECONNREFUSED:	return "the server refuses connections: is wfsd running, and on this port?";
	case ETIMEDOUT:		return "the server does not answer";
	case EBUSY:		return "the mount is busy";
	case EROFS:		return "the export is read-only";
	default:		return strerror(err);
	}
}

static void report(const struct request *req, int fsfd, const char *addr, int err)
{
	if (fsfd < 0 || !print_log(req, fsfd, addr))
		complain(req, "%s%s%s", addr ? addr : "", addr ? ": " : "", explain(err));
}

/* Another address of the same host may do better. */
static bool is_address_problem(int err)
{
	switch (err) {
	case ECONNREFUSED:
	case ECONNRESET:
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case EHOSTDOWN:
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
	case EAFNOSUPPORT:
		return true;
	default:
		return false;
	}
}

/* Did the kernel not know the option?  Takes the message out of the log when it did not. */
static bool is_unknown_option(int fsfd)
{
	char line[1024];
	ssize_t n = read(fsfd, line, sizeof(line) - 1);

	if (n <= 0)
		return false;
	line[n] = '\0';
	return strstr(line, "Unknown parameter");
}

/* Returns 0 or an errno; what the kernel has to say is in the context's log. */
static int set_options(const struct request *req, int fsfd)
{
	unsigned int i;

	for (i = 0; i < req->nopts; i++) {
		const struct opt *o = &req->opts[i];

		say(req, "option %s%s%s", o->key, o->value ? "=" : "", o->value ? o->value : "");
		if (!fsconfig(fsfd, o->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, o->key, o->value, 0))
			continue;
		if (errno == EINVAL && req->sloppy && is_unknown_option(fsfd))
			continue;
		return errno;
	}
	return 0;
}

/*
 * Have the kernel connect to @addr (NULL when the options have it) and make a mount that has no place yet.
 * Returns its descriptor, or a negative errno after a message.  @name is @addr where it says something.
 */
static int make_mount(const struct request *req, const char *addr, const char *name, bool *try_next)
{
	int fsfd, mfd, err;

	*try_next = false;
	fsfd = fsopen("wfs", FSOPEN_CLOEXEC);
	if (fsfd < 0) {
		err = errno;
		report(req, -1, NULL, err);
		return -err;
	}
	say(req, "trying %s", addr ? addr : "the address given");
	if (fsconfig(fsfd, FSCONFIG_SET_STRING, "source", req->source, 0) ||
	    (addr && fsconfig(fsfd, FSCONFIG_SET_STRING, "addr", addr, 0)))
		err = errno;
	else
		err = set_options(req, fsfd);
	if (err)
		goto fail;
	if (fsconfig(fsfd, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) {
		err = errno;
		*try_next = is_address_problem(err);
		goto fail;
	}
	mfd = fsmount(fsfd, FSMOUNT_CLOEXEC, req->attr_set);
	if (mfd < 0) {
		err = errno;
		goto fail;
	}
	print_log(req, fsfd, name);
	close(fsfd);
	return mfd;
fail:
	report(req, fsfd, name, err);
	close(fsfd);
	return -err;
}

static int do_mount(const struct request *req, char (*addrs)[ADDR_LEN], unsigned int naddrs)
{
	bool try_next = true;
	int mfd = -1;
	unsigned int i;

	if (req->has_addr)
		mfd = make_mount(req, NULL, NULL, &try_next);
	for (i = 0; !req->has_addr && i < naddrs && mfd < 0 && try_next; i++)
		mfd = make_mount(req, addrs[i], naddrs > 1 ? addrs[i] : NULL, &try_next);
	if (mfd < 0)
		return mfd == -EPERM ? EX_USAGE : EX_FAIL;
	if (move_mount(mfd, "", AT_FDCWD, req->dir, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS)) {
		complain(req, "can't mount on %s: %s", req->dir, strerror(errno));
		return EX_FAIL;
	}
	return EX_OK;
}

static int do_remount(const struct request *req)
{
	struct mount_attr attr = { .attr_set = req->attr_set, .attr_clr = req->attr_clr };
	int fsfd, err;

	fsfd = fspick(AT_FDCWD, req->dir, FSPICK_CLOEXEC | FSPICK_NO_AUTOMOUNT);
	if (fsfd < 0) {
		complain(req, "can't remount %s: %s", req->dir,
			 errno == EINVAL ? "it is not a mount point" : explain(errno));
		return errno == EPERM ? EX_USAGE : EX_FAIL;
	}
	err = set_options(req, fsfd);
	if (!err && fsconfig(fsfd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0))
		err = errno;
	if (err) {
		report(req, fsfd, NULL, err);
		close(fsfd);
		return EX_FAIL;
	}
	print_log(req, fsfd, NULL);
	close(fsfd);
	if ((attr.attr_set || attr.attr_clr) &&
	    mount_setattr(AT_FDCWD, req->dir, 0, &attr, sizeof(attr))) {
		complain(req, "can't remount %s: %s", req->dir, explain(errno));
		return EX_FAIL;
	}
	return EX_OK;
}

/* ---- the command line ---- */

static int check_dir(const struct request *req)
{
	struct stat st;

	if (stat(req->dir, &st)) {
		if (errno == ENOENT)
			complain(req, "mount point %s does not exist", req->dir);
		else
			complain(req, "mount point %s: %s", req->dir, strerror(errno));
		return EX_FAIL;
	}
	if (!S_ISDIR(st.st_mode)) {
		complain(req, "mount point %s is not a directory", req->dir);
		return EX_FAIL;
	}
	return EX_OK;
}

int main(int argc, char **argv)
{
	static struct request req;
	char addrs[ADDRS_MAX][ADDR_LEN], host[NI_MAXHOST];
	unsigned int naddrs = 0;
	char *lists[16];
	int opt, i, nlists = 0, err;

	while ((opt = getopt(argc, argv, "fhno:st:v")) != -1) {
		switch (opt) {
		case 'f':
			req.fake = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return EX_OK;
		case 'n':		/* there is no mtab to leave alone */
		case 't':		/* mount(8) says it again */
			break;
		case 'o':
			if (nlists == sizeof(lists) / sizeof(*lists)) {
				fprintf(stderr, "mount.wfs: too many -o\n");
				return EX_USAGE;
			}
			lists[nlists++] = optarg;
			break;
		case 's':
			req.sloppy = true;
			break;
		case 'v':
			req.verbose = true;
			break;
		default:
			fputs(usage, stderr);
			return EX_USAGE;
		}
	}
	if (argc - optind != 2) {
		fputs(usage, stderr);
		return EX_USAGE;
	}
	req.source = argv[optind];
	req.dir = argv[optind + 1];

	for (i = 0; i < nlists; i++) {
		err = parse_opts(&req, lists[i]);
		if (err)
			return err;
	}
	if (!req.remount) {
		err = parse_source(&req, host, sizeof(host));
		if (err)
			return err;
	}
	err = check_dir(&req);
	if (err)
		return err;
	if (geteuid()) {
		complain(&req, "%s", explain(EPERM));
		return EX_USAGE;
	}
	if (req.remount)
		return req.fake ? EX_OK : do_remount(&req);
	if (!req.has_addr) {
		naddrs = resolve(&req, host, addrs);
		if (!naddrs)
			return EX_FAIL;
	}
	return req.fake ? EX_OK : do_mount(&req, addrs, naddrs);
}
