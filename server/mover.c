// SPDX-License-Identifier: GPL-2.0-only
/*
 * mover.c - the ways to bring a file's bytes into a socket.
 */
#include <errno.h>
#include <sys/sendfile.h>

#include "wfsd.h"

/* The page cache's pages become the socket's: no copy. */
static ssize_t sendfile_send(int sock, int fd, off_t *pos, size_t len)
{
	ssize_t n = sendfile(sock, fd, pos, len);

	return n < 0 ? -errno : n;
}

static const struct mover sendfile_mover = {
	.name = "sendfile",
	.send = sendfile_send,
};

const struct mover *const mover = &sendfile_mover;
