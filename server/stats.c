// SPDX-License-Identifier: GPL-2.0-only
/*
 * stats.c - counters, written to stderr on SIGUSR1.
 */
#include "wfsd.h"

struct stats stats;

static const char *const op_names[WFS_OP__COUNT] = {
	[WFS_OP_HELLO] = "hello", [WFS_OP_ROOT] = "root", [WFS_OP_LOOKUP] = "lookup",
	[WFS_OP_GETATTR] = "getattr", [WFS_OP_SETATTR] = "setattr", [WFS_OP_ACCESS] = "access",
	[WFS_OP_OPEN] = "open", [WFS_OP_CREATE] = "create", [WFS_OP_CLOSE] = "close",
	[WFS_OP_READ] = "read", [WFS_OP_WRITE] = "write", [WFS_OP_COMMIT] = "commit",
	[WFS_OP_MKDIR] = "mkdir", [WFS_OP_MKNOD] = "mknod", [WFS_OP_SYMLINK] = "symlink",
	[WFS_OP_LINK] = "link", [WFS_OP_UNLINK] = "unlink", [WFS_OP_RMDIR] = "rmdir",
	[WFS_OP_RENAME] = "rename", [WFS_OP_READLINK] = "readlink", [WFS_OP_READDIR] = "readdir",
	[WFS_OP_STATFS] = "statfs", [WFS_OP_GETXATTR] = "getxattr", [WFS_OP_SETXATTR] = "setxattr",
	[WFS_OP_LISTXATTR] = "listxattr", [WFS_OP_REMOVEXATTR] = "removexattr",
	[WFS_OP_LOCK] = "lock", [WFS_OP_SESSION] = "session", [WFS_OP_ALLOCATE] = "allocate",
	[WFS_OP_SEEK] = "seek", [WFS_OP_COPY] = "copy",
};

void stats_dump(void)
{
	unsigned int waiting, threads;

	log_msg("stats: connections %u accepted %lu rejected %lu replayed %lu sessions %u files %u",
		loops_conns(), stats.accepted, stats.rejected, stats.replayed, session_count(), file_cached());
	log_msg("stats: bytes_read %lu bytes_written %lu held_output %lu", stats.bytes_read,
		stats.bytes_written, stats.out_bytes);
	log_msg("stats: lends %lu failed %lu", stats.lends, stats.lend_failed);
	loops_dump();
	cold_counts(&waiting, &threads);
	log_msg("stats: cold reads %lu output %lu ahead %lu waiting %u threads %u", stats.cold_reads,
		stats.cold_output, stats.cold_ahead, waiting, threads);
	for (unsigned int op = 1; op < WFS_OP__COUNT; op++)
		if (stats.requests[op])
			log_msg("stats: %s requests %lu errors %lu", op_names[op],
				stats.requests[op], stats.errors[op]);
}
