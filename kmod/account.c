// SPDX-License-Identifier: GPL-2.0
/*
 * account.c - how busy a mount is: bytes on their way, the rate at which they arrive, readahead for nothing
 *
 * A link holds its rate times its delay; what is on its way beyond that waits in a queue, and who reads ahead then only
 * makes others wait.  So readahead has room as long as less than that, with something to spare, is on its way.  A short
 * queue is better than none, though: readers that find nothing ahead take turns on the CPUs more often.  What somebody
 * waits for is never held back, and takes the room first: when that alone fills link and queue, readahead has stopped.
 */
#ifdef __KERNEL__
#include <linux/minmax.h>
#include <linux/types.h>
#endif	/* else who includes this file has what is needed: selftests/account.c */

#include "account.h"

#define SAMPLE		50000000ull	/* nanoseconds between two samples of the rate, at least */
#define IDLE		2000000000ull	/* after so long there is no telling what the rate is */
#define DELAY_PERIOD	10000000000ull	/* nanoseconds */
#define DELAY_GROWTH	64		/* in which the least delay may grow by this part, should the way have become longer */
#define GAIN		4		/* what fills the link, in terms of rate x delay */
#define QUEUE		100		/* milliseconds: the budget is what comes within them at least; half of that if it is buffered */
#define WASTE		8		/* more than this part of what was read ahead is too much to be wasted */
#define SHIFT_MAX	6

/* Bytes of one kind that are on their way. */
__u64 wfs_account_in_flight(const struct wfs_tally *t, enum wfs_load load)
{
	return t->asked[load] - min(t->asked[load], t->came[load]);
}

/*
 * What is on its way, in bytes that have to be copied for it: a buffered byte twice, from the network into the page
 * cache and from there to who reads it; a direct one once.
 */
__u64 wfs_account_load(const struct wfs_tally *t)
{
	return 2 * (wfs_account_in_flight(t, WFS_LOAD_DEMAND) + wfs_account_in_flight(t, WFS_LOAD_AHEAD)) +
	       wfs_account_in_flight(t, WFS_LOAD_DIRECT);
}

static void wfs_account_sample(struct wfs_account *a, const struct wfs_tally *t, __u64 now)
{
	__u64 came = t->came[WFS_LOAD_DEMAND] + t->came[WFS_LOAD_AHEAD] + t->came[WFS_LOAD_DIRECT];
	__u64 ahead = t->came[WFS_LOAD_AHEAD] - a->ahead;
	__u64 wasted = t->wasted - a->wasted;
	__u64 past = now - a->time;

	if (a->time && past < SAMPLE)
		return;
	if (a->time && past < IDLE) {
		__u64 rate = (came - a->came) * 1000 / (past / 1000000);	/* no division of 128 bits */

		a->rate = rate > a->rate ? a->rate + (rate - a->rate + 1) / 2 : a->rate - (a->rate - rate) / 8;
		if (wasted > ahead / WASTE)
			a->shift = min(a->shift + 1, (__u32)SHIFT_MAX);
		else if (a->shift)
			a->shift--;
	}
	a->time = now;
	a->came = came;
	a->ahead = t->came[WFS_LOAD_AHEAD];
	a->wasted = t->wasted;
}

/**
 * wfs_account_update - take a look at what was counted
 * @a: the account
 * @t: what was counted until now
 * @now: nanoseconds, of a clock that does not go back
 */
void wfs_account_update(struct wfs_account *a, const struct wfs_tally *t, __u64 now)
{
	__u64 load = wfs_account_load(t);

	if (t->delay && (!a->delay || t->delay < a->delay))
		a->delay = t->delay;
	if (now - a->delay_time >= DELAY_PERIOD) {
		if (t->delay)
			a->delay += a->delay / DELAY_GROWTH;
		a->delay_time = now;
	}
	wfs_account_sample(a, t, now);
	a->link = max(a->floor, GAIN * (a->rate / 1000 * (a->delay / 1000) / 1000));
	a->budget = max(a->link, a->rate / 1000 * QUEUE);

	if (a->state == WFS_AHEAD_OPEN && load > a->budget) {
		a->state = WFS_AHEAD_BUSY;
		a->throttled++;
	} else if (a->state == WFS_AHEAD_BUSY && load <= a->budget / 2) {
		a->state = WFS_AHEAD_OPEN;
	}
}

/**
 * wfs_account_share - how much a stream may read ahead when memory for that is bounded
 * @limit: pages that all streams may have
 * @held: pages that they have
 * @window: pages that this one would like
 *
 * Nobody takes more than a quarter of what is left: so there is something for who comes later.
 */
__u32 wfs_account_share(__u64 limit, __u64 held, __u32 window)
{
	return min((__u64)window, (limit - min(limit, held)) / 4);
}
