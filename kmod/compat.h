/* SPDX-License-Identifier: GPL-2.0 */
/* compat.h - every difference between kernel versions, and nowhere else. */
#ifndef _WFS_COMPAT_H
#define _WFS_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#error "wfs needs Linux 6.12 or newer"
#endif

/* Linux 6.14: ->d_revalidate() is told the parent and the name. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define WFS_D_REVALIDATE_ARGS	struct inode *dir_unused, const struct qstr *name_unused,
#else
#define WFS_D_REVALIDATE_ARGS
#endif

#endif /* _WFS_COMPAT_H */
