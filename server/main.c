// SPDX-License-Identifier: GPL-2.0-only
/*
 * main.c - wfsd: options, listening, and the thread that accepts and waits for signals.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/magic.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "wfsd.h"

#define POLL_MAX	10000	/* microseconds */
#define STR(x)		STR_(x)
#define STR_(x)		#x
#define LISTEN_MAX	64
#define THREADS_MAX	128
#define PAUSE_MS	1000	/* without accepting, when there are no descriptors left */

struct config cfg = {
	.state_dir	= "/var/lib/wfsd",
	.root_squash	= true,
	.anon_uid	= 65534,
	.anon_gid	= 65534,
	.lease		= 90,
	.poll		= 50,
};

static const char *listen_opts[LISTEN_MAX];
static int listen_fds[LISTEN_MAX];
static unsigned int nlisten_opts, nlisten;

static const char usage[] =
	"Usage: wfsd --export DIR [OPTION]...\n"
	"Serve a directory to wfs clients.\n"
	"\n"
	"  --export DIR         the directory\n"
	"  --listen ADDR:PORT   where to listen, again for more; [ADDR]:PORT for IPv6;\n"
	"                       default 127.0.0.1:" STR(WFS_PORT) " and [::1]:" STR(WFS_PORT) "\n"
	"  --read-only          let nobody change anything\n"
	"  --no-root-squash     let clients' root be root here\n"
	"  --anon-uid UID       whom their root is otherwise (65534)\n"
	"  --anon-gid GID       and its group (65534)\n"
	"  --threads N          event loops (one for each CPU)\n"
	"  --state-dir DIR      what must survive a restart (/var/lib/wfsd)\n"
	"  --poll MICROSECONDS   that an idle thread looks for requests before it sleeps, at most (50)\n"
	"  --lease SECONDS      that a client may be away before what it holds is given up (90)\n"
	"  --mover NAME         how files are sent: sendfile, splice, read, mmap, uring (sendfile)\n"
	"  --help, --version\n"
	"\n"
	"Signals: TERM finishes what is in flight and exits, USR1 writes counters to stderr.\n";

static unsigned int parse_number(const char *opt, const char *arg, unsigned int min,
				 unsigned int max)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(arg, &end, 10);
	if (errno || end == arg || *end || *arg == '-' || n < min || n > max)
		die("--%s %s: must be a number from %u to %u", opt, arg, min, max);
	return n;
}

static void parse_options(int argc, char **argv)
{
	enum { EXPORT = 1, LISTEN, READ_ONLY, NO_SQUASH, ANON_UID, ANON_GID, THREADS, STATE_DIR,
	       LEASE, POLL, MOVER, HELP, VERSION };
	static const struct option options[] = {
		{ "export",		required_argument,	NULL, EXPORT },
		{ "listen",		required_argument,	NULL, LISTEN },
		{ "read-only",		no_argument,		NULL, READ_ONLY },
		{ "no-root-squash",	no_argument,		NULL, NO_SQUASH },
		{ "anon-uid",		required_argument,	NULL, ANON_UID },
		{ "anon-gid",		required_argument,	NULL, ANON_GID },
		{ "threads",		required_argument,	NULL, THREADS },
		{ "state-dir",		required_argument,	NULL, STATE_DIR },
		{ "lease",		required_argument,	NULL, LEASE },
		{ "poll",		required_argument,	NULL, POLL },
		{ "mover",		required_argument,	NULL, MOVER },
		{ "help",		no_argument,		NULL, HELP },
		{ "version",		no_argument,		NULL, VERSION },
		{ }
	};
	int opt, index = 0, err;

	while ((opt = getopt_long(argc, argv, "", options, &index)) != -1) {
		switch (opt) {
		case EXPORT:
			if (cfg.export)
				die("--export: there can be only one");
			cfg.export = optarg;
			break;
		case LISTEN:
			if (nlisten_opts == LISTEN_MAX)
				die("--listen: more than %d", LISTEN_MAX);
			listen_opts[nlisten_opts++] = optarg;
			break;
		case READ_ONLY:
			cfg.read_only = true;
			break;
		case NO_SQUASH:
			cfg.root_squash = false;
			break;
		case ANON_UID:
			cfg.anon_uid = parse_number("anon-uid", optarg, 1, UINT_MAX - 1);
			break;
		case ANON_GID:
			cfg.anon_gid = parse_number("anon-gid", optarg, 1, UINT_MAX - 1);
			break;
		case THREADS:
			cfg.threads = parse_number("threads", optarg, 1, THREADS_MAX);
			break;
		case STATE_DIR:
			cfg.state_dir = optarg;
			break;
		case POLL:
			cfg.poll = parse_number("poll", optarg, 0, POLL_MAX);
			break;
		case LEASE:
			cfg.lease = parse_number("lease", optarg, 1, WFS_LEASE_MAX);
			break;
		case MOVER:
			err = mover_select(optarg);
			if (err == -ENOENT)
				die("--mover %s: must be sendfile, splice, read, mmap or uring", optarg);
			if (err)
				die("--mover %s: the kernel does not allow it: %s", optarg, strerror(-err));
			break;
		case HELP:
			fputs(usage, stdout);
			exit(0);
		case VERSION:
			printf("wfsd %s, protocol version %d\n", WFSD_VERSION, WFS_VERSION);
			exit(0);
		default:
			fprintf(stderr, "Try wfsd --help.\n");
			exit(2);
		}
	}
	if (optind < argc)
		die("%s: what is it for?  Try wfsd --help", argv[optind]);
	if (!cfg.export)
		die("--export DIR is missing");
}

/* ---- listening ---- */

static void format_addr(const struct sockaddr *sa, socklen_t len, char *buf, size_t size)
{
	char host[INET6_ADDRSTRLEN + 20], port[8];

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(buf, size, "?");
	else
		snprintf(buf, size, sa->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* Splits ADDR:PORT, [ADDR]:PORT, ADDR or [ADDR]. */
static void split_addr(const char *opt, char *host, size_t size, char *port, size_t port_size)
{
	const char *p = opt, *end;

	if (*p == '[') {
		end = strchr(++p, ']');
		if (!end || (end[1] && end[1] != ':'))
			die("--listen %s: must be [ADDR]:PORT", opt);
		snprintf(port, port_size, "%s", end[1] ? end + 2 : STR(WFS_PORT));
	} else {
		end = strchr(p, ':');
		if (end && strchr(end + 1, ':'))
			die("--listen %s: write IPv6 addresses as [ADDR]:PORT", opt);
		snprintf(port, port_size, "%s", end ? end + 1 : STR(WFS_PORT));
		if (!end)
			end = p + strlen(p);
	}
	if (end == p || (size_t)(end - p) >= size)
		die("--listen %s: there is no address in it", opt);
	memcpy(host, p, end - p);
	host[end - p] = 0;
	parse_number("listen port", port, 0, 65535);
}

static int try_listen(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, err;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, SOMAXCONN)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static void listen_on(const char *opt, bool must)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *list, *ai;
	char host[256], port[8], addr[80];
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int err, fd;

	split_addr(opt, host, sizeof(host), port, sizeof(port));
	err = getaddrinfo(host, port, &hints, &list);
	if (err)
		die("--listen %s: %s", opt, gai_strerror(err));
	for (ai = list; ai && nlisten < LISTEN_MAX; ai = ai->ai_next) {
		fd = try_listen(ai);
		if (fd < 0 && must)
			die("--listen %s: %s", opt, strerror(-fd));
		if (fd < 0) {
			log_msg("not listening on %s: %s", opt, strerror(-fd));
			continue;
		}
		listen_fds[nlisten++] = fd;
		getsockname(fd, (void *)&ss, &len);
		format_addr((void *)&ss, len, addr, sizeof(addr));
		log_msg("listening on %s", addr);
	}
	freeaddrinfo(list);
}

/* ---- accepting ---- */

static void set_socket(int fd)
{
	static const struct { int level, name, value; } opts[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		/* A peer that is gone without a word is noticed within two minutes. */
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 30 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 10 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 6 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, 120000 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(opts); i++)
		setsockopt(fd, opts[i].level, opts[i].name, &opts[i].value, sizeof(opts[i].value));
}

/* False when there can be no more connections for now. */
static bool accept_all(int listener)
{
	struct sockaddr_storage ss;
	char peer[64];

	for (;;) {
		socklen_t len = sizeof(ss);
		int fd = accept4(listener, (void *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			    errno == ENOMEM) {
				log_limited("accepting no connections for a while: %s",
					    strerror(errno));
				file_evict(false);
				return false;
			}
			/* None left; or one that is gone already, then this is called again. */
			return true;
		}
		format_addr((void *)&ss, len, peer, sizeof(peer));
		if (loops_conns() >= cfg.max_conns) {
			log_limited("%s: too many connections (%u), closing", peer, cfg.max_conns);
			close(fd);
			continue;
		}
		set_socket(fd);
		stat_add(&stats.accepted, 1);
		loops_add_conn(fd, peer);
	}
}

static void watch_listeners(int epfd, bool on)
{
	for (unsigned int i = 0; i < nlisten; i++) {
		struct epoll_event ev = { .events = on ? EPOLLIN : 0, .data.fd = listen_fds[i] };

		epoll_ctl(epfd, EPOLL_CTL_MOD, listen_fds[i], &ev);
	}
}

/* Accepts until a signal ends it. */
static void serve(int sigfd)
{
	int epfd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = sigfd };
	struct signalfd_siginfo si;
	bool paused = false;

	if (epfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, sigfd, &ev))
		die("epoll: %s", strerror(errno));
	for (unsigned int i = 0; i < nlisten; i++) {
		ev.data.fd = listen_fds[i];
		if (epoll_ctl(epfd, EPOLL_CTL_ADD, listen_fds[i], &ev))
			die("epoll: %s", strerror(errno));
	}
	for (;;) {
		int n = epoll_wait(epfd, &ev, 1, paused ? PAUSE_MS : -1);

		if (n == 0 && paused) {
			paused = false;
			watch_listeners(epfd, true);
		}
		if (n <= 0)
			continue;
		if (ev.data.fd != sigfd) {
			if (!accept_all(ev.data.fd)) {
				paused = true;
				watch_listeners(epfd, false);
			}
			continue;
		}
		if (read(sigfd, &si, sizeof(si)) != sizeof(si))
			continue;
		if (si.ssi_signo == SIGUSR1)
			stats_dump();
		else
			break;
	}
	for (unsigned int i = 0; i < nlisten; i++)
		close(listen_fds[i]);
	close(epfd);
}

/* ---- start ---- */

static void setup_limits(void)
{
	struct rlimit rl, want = { 1 << 20, 1 << 20 };

	if (getrlimit(RLIMIT_NOFILE, &rl))
		die("getrlimit: %s", strerror(errno));
	if (rl.rlim_max >= want.rlim_max || setrlimit(RLIMIT_NOFILE, &want)) {
		want.rlim_cur = want.rlim_max = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &want);
		getrlimit(RLIMIT_NOFILE, &want);
	}
	cfg.max_files = MIN(want.rlim_cur / 2, (rlim_t)65536);
	cfg.max_conns = MIN(want.rlim_cur / 8, (rlim_t)16384);
	cfg.max_pins = want.rlim_cur / 8;
	cfg.max_locked = want.rlim_cur / 8;
	if (cfg.max_files < 128 || cfg.max_conns < 16)
		die("RLIMIT_NOFILE of %llu is too low", (unsigned long long)want.rlim_cur);
}

static void setup_export(void)
{
	struct statfs sfs;

	cfg.root_fd = open(cfg.export, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cfg.root_fd < 0)
		die("--export %s: %s", cfg.export, strerror(errno));
	cfg.proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (cfg.proc_fd < 0 || fstatfs(cfg.proc_fd, &sfs) || sfs.f_type != PROC_SUPER_MAGIC)
		die("/proc is needed and not mounted");
	cfg.acl = fgetxattr(cfg.root_fd, XATTR_ACL_ACCESS, NULL, 0) >= 0 || errno != EOPNOTSUPP;
	handle_setup();
}

static int setup_signals(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("signalfd: %s", strerror(errno));
	return fd;
}

int main(int argc, char **argv)
{
	int sigfd;

	parse_options(argc, argv);
	if (geteuid())
		die("must be started as root: it acts for its clients' users");
	if (sodium_init() < 0)
		die("libsodium does not work");
	setup_limits();
	umask(077);
	setup_export();

	for (unsigned int i = 0; i < nlisten_opts; i++)
		listen_on(listen_opts[i], true);
	if (!nlisten_opts) {
		listen_on("127.0.0.1:" STR(WFS_PORT), true);
		listen_on("[::1]:" STR(WFS_PORT), false);
	}
	session_lock();		/* may wait: signals still end it */
	verifier_setup();
	sigfd = setup_signals();
	cred_drop_privileges();

	thread_init();
	file_cache_init();
	hold_init();
	change_init();
	orphan_init();
	session_init();
	lock_init();
	cold_init();
	loops_start();
	log_msg("serving %s%s", cfg.export, cfg.read_only ? " read-only" : "");
	notify_systemd("READY=1");

	serve(sigfd);

	notify_systemd("STOPPING=1");
	session_stop();
	if (loops_stop())
		log_msg("stopped");
	else
		log_msg("stopped; some requests did not end in time");
	/* What hangs in a call would keep exit() handlers from nothing; there are none we need. */
	fflush(NULL);
	_exit(0);
}
