// SPDX-License-Identifier: GPL-2.0
/*
 * stream.c - what an open file is read like: sequential, backward, strided, several of these at once, or random
 *
 * Each access belongs to a stream: the one that it goes on with, or a new one in the place of one that was not used for
 * long.  A stream keeps a window read ahead of its accesses.  The window grows when the accesses catch up with what has
 * arrived: so it becomes what the reader takes in the time that the server needs, and no more.
 */
#ifdef __KERNEL__
#include <linux/minmax.h>
#include <linux/stddef.h>
#include <linux/types.h>
#endif	/* else who includes this file has what is needed: selftests/stream.c */

#include "stream.h"

#define GAP		16	/* pages that an access may leave out and still be the next one */
#define STEPS		2	/* equal distances that make a stride */
#define STRIDE_MAX	(1 << 18)	/* pages: what is further apart has nothing to do with each other */
#define STRAYS_MAX	16	/* faults that began a stream for nothing, until they don't any more */
#define PARTS		4	/* in which a window is read */
#define FAULT_GROWTH	4	/* what a fault begins and grows with, in terms of read(2), which says what it wants */

/* The entry for a new stream.  Random accesses must not drive out streams. */
static struct wfs_stream *wfs_stream_victim(struct wfs_streams *s)
{
	struct wfs_stream *st, *oldest = NULL, *once = NULL;
	unsigned int nr_once = 0;

	for (st = s->stream; st < s->stream + WFS_STREAMS; st++) {
		if (st->pattern == WFS_PATTERN_NONE)
			return st;
		if (st->pattern == WFS_PATTERN_ONCE) {
			nr_once++;
			if (!once || (__s32)(st->used - once->used) < 0)
				once = st;
		}
		if (!oldest || (__s32)(st->used - oldest->used) < 0)
			oldest = st;
	}
	return nr_once >= WFS_STREAMS / 2 ? once : oldest;
}

/* Does an access to [@first, @end) go on with what @st is? */
static bool wfs_stream_continues(const struct wfs_stream *st, __u64 first, __u64 end, enum wfs_access how)
{
	__u64 gap = how == WFS_ACCESS_FAULT ? GAP : 0;

	switch (st->pattern) {
	case WFS_PATTERN_ONCE:
		/* without a gap, lest random reads of a small file look like that */
		return (first >= st->first && first <= st->next + gap) ||
		       (end <= st->next && end + gap >= st->first);
	case WFS_PATTERN_FORWARD:
		/* also within what was read ahead: of a mapping only some accesses are seen */
		return first + GAP >= st->first && first <= max(st->next, st->ahead) + GAP;
	case WFS_PATTERN_BACKWARD:
		return end <= st->next && end + GAP >= min(st->first, st->ahead);
	case WFS_PATTERN_STRIDED:
		return (__s64)(first - st->first) == st->stride;
	default:
		return false;
	}
}

/* Is an access that belongs to no stream one of several at the same distance? */
static bool wfs_stream_strides(struct wfs_streams *s, __u64 first, __u32 pages)
{
	__s64 stride = first - s->last;

	s->steps = stride == s->stride ? s->steps + 1 : 1;
	s->stride = stride;
	s->last = first;
	return s->steps >= STEPS && stride <= STRIDE_MAX && stride >= -STRIDE_MAX &&
	       (stride > (__s64)pages || stride < -(__s64)pages);
}

static struct wfs_stream *wfs_stream_begin(struct wfs_streams *s, __u64 first, __u32 pages, enum wfs_access how,
					   const struct wfs_ra_limits *lim)
{
	bool strides = wfs_stream_strides(s, first, pages);
	struct wfs_stream *st = wfs_stream_victim(s);
	bool fault = how == WFS_ACCESS_FAULT && s->strays < STRAYS_MAX;

	*st = (struct wfs_stream){
		.pattern = WFS_PATTERN_ONCE,
		.first = first,
		.next = first + pages,
		.ahead = first,
	};
	if (strides) {
		st->pattern = WFS_PATTERN_STRIDED;
		st->stride = s->stride;
		st->ahead = first + st->stride;
	} else if (fault || !first || (how == WFS_ACCESS_READ && pages >= lim->min)) {
		/* who begins at the beginning, or takes much at once, is taken to go on */
		st->pattern = WFS_PATTERN_FORWARD;
		st->stray = fault;
		s->strays += fault;
	}
	return st;
}

/* See wfs_ahead.asked.  Who comes to the same place again does not go on: it has left memory since. */
static __u64 wfs_stream_asked(const struct wfs_stream *st, __u64 first, __u32 pages)
{
	if (st->pattern == WFS_PATTERN_FORWARD && first > st->first && first < st->ahead)
		return st->ahead;
	if (st->pattern == WFS_PATTERN_BACKWARD && first < st->first && first >= st->ahead)
		return first + pages;
	return 0;
}

static void wfs_stream_continue(struct wfs_streams *s, struct wfs_stream *st, __u64 first, __u64 end)
{
	if (st->stray || st->pattern == WFS_PATTERN_ONCE)
		s->strays -= min(s->strays, 2u);
	st->stray = false;
	if (st->pattern == WFS_PATTERN_ONCE && first < st->first) {
		st->pattern = WFS_PATTERN_BACKWARD;
		st->ahead = first;
	} else if (st->pattern == WFS_PATTERN_ONCE) {
		st->pattern = WFS_PATTERN_FORWARD;
		st->ahead = first;
	}
	if (st->pattern == WFS_PATTERN_FORWARD)
		end = max(end, st->next);
	st->first = first;
	st->next = end;
}

/* Of a window, when so much is left of it or less, what is missing is worth a READ. */
static __u64 wfs_stream_left(const struct wfs_stream *st, const struct wfs_ra_limits *lim)
{
	return st->window - max(st->window / PARTS, min(st->window / 2, lim->full / 2));
}

static bool wfs_stream_due(const struct wfs_stream *st, const struct wfs_ra_limits *lim)
{
	__u64 left = wfs_stream_left(st, lim);

	switch (st->pattern) {
	case WFS_PATTERN_FORWARD:
		return st->ahead <= st->next + left;
	case WFS_PATTERN_BACKWARD:
		return st->ahead + left >= st->first;
	default:
		return false;
	}
}

static void wfs_stream_grow(struct wfs_stream *st, __u32 pages, enum wfs_access how, bool waits, bool due,
			    const struct wfs_ra_limits *lim)
{
	__u64 growth = how == WFS_ACCESS_FAULT ? FAULT_GROWTH : 2;
	/* of what a single access takes there should always be another one */
	__u64 window = max3((__u64)st->window, growth * lim->min / 2, 2 * (__u64)pages);

	/* on a full link whoever reads waits, whatever the window is */
	if (waits && !lim->busy)
		window = max(window, growth * st->window);
	else if (due && st->window < lim->full)
		window = max(window, min((__u64)lim->full, growth * st->window));
	st->window = min(window, (__u64)lim->max);
}

/*
 * What a stream lacks of its window, once that is a part of it: of a long window several READs are on their way, and the
 * server has the next one before it has answered the last.  Shorter ones than rsize would cost more than they gain.
 */
static bool wfs_stream_wants(struct wfs_stream *st, const struct wfs_ra_limits *lim, struct wfs_ahead *to)
{
	__u64 piece = min(st->window, lim->full / 2);
	__u64 start, end, len;
	__s64 left;

	switch (st->pattern) {
	case WFS_PATTERN_FORWARD:
		start = max(st->ahead, st->first);
		end = lim->busy ? max(start + piece, st->next) : st->next + st->window;
		end = min(end, lim->pages);
		if (lim->busy && start >= st->next)
			return false;
		if (start >= end || (!wfs_stream_due(st, lim) && end < lim->pages))
			return false;
		st->ahead = end;
		*to = (struct wfs_ahead){ .start = start, .pages = end - start, .count = 1 };
		return true;
	case WFS_PATTERN_BACKWARD:
		end = min(st->ahead, st->first);
		start = st->first - min(st->first, lim->busy ? piece : st->window);
		if (lim->busy && st->ahead <= st->first)
			return false;
		if (start >= end || (!wfs_stream_due(st, lim) && start))
			return false;
		st->ahead = start;
		*to = (struct wfs_ahead){ .start = start, .pages = end - start, .count = 1 };
		return true;
	case WFS_PATTERN_STRIDED:
		if (lim->busy)
			return false;
		len = st->next - st->first;
		/* pieces that were asked for and not used yet; those that ought to be */
		left = (__s64)(st->ahead - st->first) / st->stride - 1;
		if (left < 0) {
			st->ahead = st->first + st->stride;
			left = 0;
		}
		end = max(st->window / len, (__u64)1);
		if (left > (__s64)end / 2)
			return false;
		*to = (struct wfs_ahead){
			.start = st->ahead, .pages = len, .count = end - left, .stride = st->stride,
		};
		st->ahead += st->stride * to->count;
		return true;
	default:
		return false;
	}
}

/**
 * wfs_stream_access - a file is accessed
 * @s: its streams
 * @first: first page
 * @pages: pages that the access itself takes, at least 1
 * @how: enum wfs_access
 * @waits: not all of it is there: whoever accesses it has to wait
 * @lim: limits of windows
 * @ahead: what to read, the access itself with it if it is FORWARD; pieces of a stride may lie outside of the file
 *
 * Return: whether there is something to read ahead.
 */
bool wfs_stream_access(struct wfs_streams *s, __u64 first, __u32 pages, enum wfs_access how, bool waits,
		       const struct wfs_ra_limits *lim, struct wfs_ahead *ahead)
{
	struct wfs_stream *st;
	__u64 asked = 0;
	bool wants;

	*ahead = (struct wfs_ahead){ };
	s->clock++;
	for (st = s->stream; st < s->stream + WFS_STREAMS; st++)
		if (wfs_stream_continues(st, first, first + pages, how))
			break;
	if (st < s->stream + WFS_STREAMS) {
		asked = wfs_stream_asked(st, first, pages);
		wfs_stream_continue(s, st, first, first + pages);
	} else {
		st = wfs_stream_begin(s, first, pages, how, lim);
		waits = false;
	}
	st->used = s->clock;
	if (st->pattern == WFS_PATTERN_ONCE || !lim->max)
		return false;
	wfs_stream_grow(st, pages, how, waits, wfs_stream_due(st, lim), lim);
	wants = wfs_stream_wants(st, lim, ahead);
	ahead->asked = asked;
	if (st->pattern == WFS_PATTERN_FORWARD)
		ahead->quiet = st->ahead - min(st->ahead, wfs_stream_left(st, lim));
	return wants;
}
