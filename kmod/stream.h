/* SPDX-License-Identifier: GPL-2.0 */
/*
 * stream.h - what an open file is read like, and what to read ahead of that
 *
 * Only arithmetic: no page cache, no locks, no time.  It is compiled for userspace too, where selftests/stream tests it.
 */
#ifndef _WFS_STREAM_H
#define _WFS_STREAM_H

#include <linux/types.h>

#define WFS_STREAMS	8	/* of one open file, at the same time */

/**
 * enum wfs_pattern - what a stream is
 * @WFS_PATTERN_NONE: the entry is free
 * @WFS_PATTERN_ONCE: one access; the next one tells what it is
 * @WFS_PATTERN_FORWARD: each access begins where the last one ended, or a little further
 * @WFS_PATTERN_BACKWARD: each access ends where the last one began
 * @WFS_PATTERN_STRIDED: accesses of some length, each @stride pages behind the last one's beginning
 */
enum wfs_pattern {
	WFS_PATTERN_NONE,
	WFS_PATTERN_ONCE,
	WFS_PATTERN_FORWARD,
	WFS_PATTERN_BACKWARD,
	WFS_PATTERN_STRIDED,
};

/**
 * enum wfs_access - how a file was accessed
 * @WFS_ACCESS_READ: read(2) and the like: it says how much it wants
 * @WFS_ACCESS_FAULT: a page fault: one page, and nothing is known of the next ones.  Who maps a file reads it in long
 *	pieces, so that a fault in a new place begins a stream at once.
 */
enum wfs_access {
	WFS_ACCESS_READ,
	WFS_ACCESS_FAULT,
};

/**
 * struct wfs_stream - one sequence of accesses; all in pages
 * @pattern: enum wfs_pattern
 * @first: where the last access began
 * @next: FORWARD: how far the accesses have come, as far as can be seen; else where the last one ended
 * @ahead: FORWARD: everything before this was asked for; BACKWARD: everything from this on; STRIDED: the pieces that
 *	begin before this, in the stride's direction
 * @stride: STRIDED: distance of two accesses
 * @window: to be kept read ahead
 * @stray: begun by a fault that no other has followed yet
 * @used: wfs_streams.clock at the last access
 */
struct wfs_stream {
	enum wfs_pattern	pattern;
	__u64			first;
	__u64			next;
	__u64			ahead;
	__s64			stride;
	__u32			window;
	bool			stray;
	__u32			used;
};

/**
 * struct wfs_streams - those of an open file
 * @clock: counts accesses
 * @strays: streams that faults began and that came to nothing, less those that came to something
 * @last: first page of the last access that belonged to no stream
 * @stride: distance of the last two of them
 * @steps: how often it has been that
 */
struct wfs_streams {
	__u32			clock;
	__u32			strays;
	__u64			last;
	__s64			stride;
	__u32			steps;
	struct wfs_stream	stream[WFS_STREAMS];
};

/**
 * struct wfs_ahead - what is to be read
 * @start: first page
 * @pages: pages of a piece
 * @count: pieces
 * @stride: pages from one piece's beginning to the next one's
 * @asked: what lies from the access on before this page was asked for already, by an access before it; else 0
 * @quiet: the stream needs to hear of no access that goes on with this one and ends before this page, unless it waits; 0
 *	if of each
 */
struct wfs_ahead {
	__u64	start;
	__u32	pages;
	__u32	count;
	__s64	stride;
	__u64	asked;
	__u64	quiet;
};

/**
 * struct wfs_ra_limits - what windows may be
 * @min: pages that a stream begins with, at least 1
 * @full: pages from which on it only grows when somebody has to wait: requests are as long as they may be then
 * @max: pages that it may grow to, at least @min; 0: nothing is read ahead
 * @pages: length of the file
 * @busy: nothing is read ahead of its need; but who has to wait for the server anyway asks for a whole piece, @full / 2
 */
struct wfs_ra_limits {
	__u32	min;
	__u32	full;
	__u32	max;
	__u64	pages;
	bool	busy;
};

bool wfs_stream_access(struct wfs_streams *s, __u64 first, __u32 pages, enum wfs_access how, bool waits,
		       const struct wfs_ra_limits *limits, struct wfs_ahead *ahead);

#endif /* _WFS_STREAM_H */
