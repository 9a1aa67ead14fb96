/* SPDX-License-Identifier: GPL-2.0 */
/* userspace.h - what kmod/proto.c has from the kernel's headers, for userspace */
#ifndef _WFS_USERSPACE_H
#define _WFS_USERSPACE_H

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
typedef unsigned short umode_t;

struct timespec64 {
	s64	tv_sec;
	long	tv_nsec;
};

#define le16_to_cpu	le16toh
#define le32_to_cpu	le32toh
#define le64_to_cpu	le64toh
#define cpu_to_le16	htole16
#define cpu_to_le32	htole32
#define cpu_to_le64	htole64
#define S32_MAX		INT32_MAX
#define S64_MAX		INT64_MAX
#define MAX_LFS_FILESIZE INT64_MAX
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#include "proto.h"

#endif /* _WFS_USERSPACE_H */
