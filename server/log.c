// SPDX-License-Identifier: GPL-2.0-only
/*
 * log.c - messages to stderr, and to systemd whether we are ready.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "wfsd.h"

#define LIMIT_LINES	10	/* a second */

static void vlog(const char *fmt, va_list ap)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "wfsd: ");

	n += vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	/*
	 * One write, so that the lines of several threads do not mix; nobody to tell if it fails.
	 */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

void log_msg(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vlog(fmt, ap);
	va_end(ap);
}

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vlog(fmt, ap);
	va_end(ap);
	exit(1);
}

void log_limited(const char *fmt, ...)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;	/* the statics below */
	static time_t second;
	static unsigned int lines, left_out;
	unsigned int skipped = 0;
	time_t now = now_seconds();
	bool print;
	va_list ap;

	pthread_mutex_lock(&lock);
	if (now != second) {
		second = now;
		lines = 0;
		skipped = left_out;
		left_out = 0;
	}
	print = lines++ < LIMIT_LINES;
	if (!print)
		left_out++;
	pthread_mutex_unlock(&lock);

	if (skipped)
		log_msg("%u messages were left out", skipped);
	if (!print)
		return;
	va_start(ap, fmt);
	vlog(fmt, ap);
	va_end(ap);
}

/* sd_notify(3) is one datagram; that is no reason to depend on libsystemd. */
void notify_systemd(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	size_t len;
	int fd;

	if (!path || (len = strlen(path)) < 2 || len >= sizeof(sun.sun_path))
		return;
	memcpy(sun.sun_path, path, len);
	if (path[0] == '@')
		sun.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sun,
		   offsetof(struct sockaddr_un, sun_path) + len) < 0)
		log_msg("NOTIFY_SOCKET %s: %s", path, strerror(errno));
	close(fd);
}
