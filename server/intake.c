// SPDX-License-Identifier: GPL-2.0-only
/*
 * intake.c - a WRITE's payload by way of a pipe: the network's pages go from the socket to the file system, which copies
 * them; they are not copied into this process before that.
 *
 * The pipe is the thread's, and empty between two pieces of a payload.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "wfsd.h"

/**
 * intake_begin - have an empty pipe
 *
 * Return: false when there can be none: receive into memory then.
 */
bool intake_begin(struct worker *w)
{
	if (w->has_pipe)
		return true;
	if (pipe2(w->pipe, O_CLOEXEC | O_NONBLOCK))
		return false;
	w->has_pipe = true;
	if (fcntl(w->pipe[1], F_SETPIPE_SZ, INTAKE_SIZE) >= (int)INTAKE_SIZE)
		return true;
	/* Root has too many (pipe-user-pages-soft): what was received already could fill such a pipe. */
	intake_drop(w);
	return false;
}

/* Throw away what is in the pipe. */
void intake_drop(struct worker *w)
{
	if (!w->has_pipe)
		return;
	close(w->pipe[0]);
	close(w->pipe[1]);
	w->has_pipe = false;
}

/* What was received with the request comes first; an empty pipe has room for that. */
bool intake_put(struct worker *w, const void *buf, size_t len)
{
	return !len || write(w->pipe[1], buf, len) == (ssize_t)len;
}

/* As recv(2); but -EAGAIN can also mean that the pipe is full, unless it was empty. */
ssize_t intake_receive(struct worker *w, int sock, size_t len)
{
	return splice(sock, NULL, w->pipe[1], NULL, len, SPLICE_F_NONBLOCK);
}

/* As pwrite(2), of what is in the pipe. */
ssize_t intake_write(struct worker *w, int fd, size_t len, off_t pos)
{
	return splice(w->pipe[0], NULL, fd, &pos, len, 0);
}

/* What comes next in the pipe, which is there. */
void intake_take(struct worker *w, void *buf, size_t len)
{
	if (len && read(w->pipe[0], buf, len) != (ssize_t)len)
		die("a pipe has lost data");
}
