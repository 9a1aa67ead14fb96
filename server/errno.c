// SPDX-License-Identifier: GPL-2.0-only
/*
 * errno.c - the numbers of errors on the wire: those of asm-generic/errno.h, which this machine's
 * architecture need not share.
 */
#include <errno.h>

#include "wfsd.h"

#define WIRE_EIO	5

static const uint8_t wire[] = {
	[EPERM] = 1,			[ENOENT] = 2,			[EIO] = WIRE_EIO,
	[ENXIO] = 6,			[E2BIG] = 7,			[EBADF] = 9,
	[EAGAIN] = 11,			[ENOMEM] = 12,			[EACCES] = 13,
	[EBUSY] = 16,			[EEXIST] = 17,			[EXDEV] = 18,
	[ENODEV] = 19,			[ENOTDIR] = 20,			[EISDIR] = 21,
	[EINVAL] = 22,			[ENFILE] = 23,			[EMFILE] = 24,
	[ETXTBSY] = 26,			[EFBIG] = 27,			[ENOSPC] = 28,
	[ESPIPE] = 29,			[EROFS] = 30,			[EMLINK] = 31,
	[ERANGE] = 34,			[EDEADLK] = 35,			[ENAMETOOLONG] = 36,
	[ENOLCK] = 37,			[ENOSYS] = 38,			[ENOTEMPTY] = 39,
	[ELOOP] = 40,			[ENODATA] = 61,			[EPROTO] = 71,
	[EOVERFLOW] = 75,		[EPROTONOSUPPORT] = 93,		[EOPNOTSUPP] = 95,
	[ETIMEDOUT] = 110,		[ESTALE] = 116,			[EDQUOT] = 122,
};

uint32_t errno_to_wire(int err)
{
	if (!err)
		return 0;
	if (err < 0 || (size_t)err >= ARRAY_SIZE(wire) || !wire[err])
		return WIRE_EIO;
	return wire[err];
}
