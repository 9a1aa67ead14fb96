/* SPDX-License-Identifier: GPL-2.0 */
/*
 * account.h - how busy a mount is, and what readahead may add to that
 *
 * Only arithmetic: no locks, no time of its own.  It is compiled for userspace too, where selftests/account tests it.
 */
#ifndef _WFS_ACCOUNT_H
#define _WFS_ACCOUNT_H

#include <linux/types.h>

/**
 * enum wfs_load - what a READ is to a mount's account
 * @WFS_LOAD_NONE: not counted: other requests
 * @WFS_LOAD_DEMAND: buffered, somebody waits for it
 * @WFS_LOAD_AHEAD: buffered, nobody has asked for it yet
 * @WFS_LOAD_DIRECT: into the caller's own memory
 */
enum wfs_load {
	WFS_LOAD_NONE,
	WFS_LOAD_DEMAND,
	WFS_LOAD_AHEAD,
	WFS_LOAD_DIRECT,
	WFS_LOAD__COUNT,
};

/**
 * enum wfs_ahead_state - what readahead may do; wfs_account_update() is the only writer
 * @WFS_AHEAD_OPEN: there is room on the link: streams keep their windows
 * @WFS_AHEAD_BUSY: the link is full without it: nothing is read before somebody has to wait for the server anyway
 */
enum wfs_ahead_state {
	WFS_AHEAD_OPEN,
	WFS_AHEAD_BUSY,
};

/**
 * struct wfs_tally - what was counted since the mount; the sums of all CPUs
 * @asked: bytes of READs that were sent
 * @came: bytes of those that ended, at most @asked
 * @wasted: bytes read ahead that left memory before anybody read them
 * @delay: nanoseconds that the fastest READ since the last wfs_account_update() took, 0 when none ended
 */
struct wfs_tally {
	__u64	asked[WFS_LOAD__COUNT];
	__u64	came[WFS_LOAD__COUNT];
	__u64	wasted;
	__u64	delay;
};

/**
 * struct wfs_account - a mount's; all zero at the beginning but @floor
 * @floor: what @link is at least, in bytes
 * @state: see enum wfs_ahead_state
 * @link: bytes to be copied for what is on its way, see wfs_account_load(), that fill the link
 * @budget: the same, but a short queue's worth at least: above it the state is busy
 * @rate: bytes a second that arrive, smoothed: up fast, down slowly
 * @delay: nanoseconds that a READ takes when nothing else is on its way: the least that was seen
 * @shift: windows are halved so often, because of what was wasted
 * @throttled: how often the state became busy
 * @time: nanoseconds, when the last sample was taken, 0 for never
 * @delay_time: nanoseconds, when @delay was last allowed to grow
 * @came, @ahead, @wasted: what was counted at @time: all bytes, bytes read ahead, bytes wasted
 */
struct wfs_account {
	__u64			floor;
	enum wfs_ahead_state	state;
	__u64			link, budget;
	__u64			rate;
	__u64			delay;
	__u32			shift;
	__u64			throttled;
	__u64			time;
	__u64			delay_time;
	__u64			came, ahead, wasted;
};

__u64 wfs_account_in_flight(const struct wfs_tally *t, enum wfs_load load);
__u64 wfs_account_load(const struct wfs_tally *t);
void wfs_account_update(struct wfs_account *a, const struct wfs_tally *t, __u64 now);
__u32 wfs_account_share(__u64 limit, __u64 held, __u32 window);

#endif /* _WFS_ACCOUNT_H */
