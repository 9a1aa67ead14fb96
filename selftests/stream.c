// SPDX-License-Identifier: GPL-2.0
/*
 * stream - kmod/stream.c in userspace: what it takes sequences of accesses for, and what it reads ahead of them
 *
 * A reader is played against a page cache where each page that was asked for arrives some accesses later.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <kselftest_harness.h>


#define min(a, b)	({ __typeof__(a) _x = (a); __typeof__(b) _y = (b); _x < _y ? _x : _y; })
#define max(a, b)	({ __typeof__(a) _x = (a); __typeof__(b) _y = (b); _x > _y ? _x : _y; })
#define max3(a, b, c)	max(max(a, b), c)
#include "../kmod/stream.c"

#define FILE_PAGES	262144u	/* 1 GiB */
#define MIN_PAGES	32u
#define FULL_PAGES	512u
#define MAX_PAGES	4096u

/* asked[page]: the time when it was asked for, plus 1; 0: never */
static unsigned int asked[FILE_PAGES];

struct play {
	struct wfs_streams streams;
	struct wfs_ra_limits lim;
	unsigned int now, delay;	/* time, in accesses; how much of it passes until a page is there */
	unsigned int waits;		/* accesses that found their page not there */
	unsigned long read;		/* pages asked for */
	__u64 heard, quiet;		/* reads between them, if they are there, the streams do not hear of */
	unsigned int calls;		/* of wfs_stream_access() */
};

static void play_begin(struct play *p, unsigned int delay)
{
	memset(p, 0, sizeof(*p));
	memset(asked, 0, sizeof(asked));
	p->lim = (struct wfs_ra_limits){
		.min = MIN_PAGES, .full = FULL_PAGES, .max = MAX_PAGES, .pages = FILE_PAGES,
	};
	p->delay = delay;
}

static void ask(struct play *p, __u64 first, __u64 pages)
{
	for (__u64 i = first; i < first + pages && i < FILE_PAGES; i++) {
		p->read += !asked[i];
		if (!asked[i])
			asked[i] = p->now + 1;
	}
}

static bool there(struct play *p, __u64 page)
{
	return asked[page] && asked[page] + p->delay <= p->now + 1;
}

/* An access as readahead.c makes it. */
static void play_access(struct play *p, __u64 first, unsigned int pages, enum wfs_access how)
{
	bool waits = !there(p, first + pages - 1);
	struct wfs_ahead ahead;

	p->now++;
	if (!waits && how == WFS_ACCESS_READ && first >= p->heard && first + pages < p->quiet)
		return;
	p->waits += waits;
	p->calls++;
	if (wfs_stream_access(&p->streams, first, pages, how, waits, &p->lim, &ahead)) {
		__s64 start = ahead.start;

		for (unsigned int i = 0; i < ahead.count && start >= 0; i++, start += ahead.stride)
			ask(p, start, ahead.pages);
	}
	p->heard = first;
	p->quiet = ahead.quiet;
	ask(p, first, pages);
	/* whoever waits lets time pass for all that is on its way */
	for (unsigned int i = 0; i < pages; i++)
		if (!there(p, first + i))
			p->now = asked[first + i] - 1 + p->delay;
}

/* A mapping is read from @first on: what is there of 512 pages gets mapped at the first touch, and is seen no more. */
static void play_mapped(struct play *p, __u64 first, unsigned int pages)
{
	for (__u64 i = first; i < first + pages; ) {
		__u64 to = i;

		if (there(p, i)) {
			struct wfs_ahead ahead;

			p->now++;
			while (to < first + pages && to / 512 == i / 512 && there(p, to))
				to++;
			if (wfs_stream_access(&p->streams, i, (i / 512 + 1) * 512 - i, WFS_ACCESS_FAULT, false, &p->lim,
					      &ahead))
				ask(p, ahead.start, ahead.pages);
			p->now += to - i;
			i = to;
		} else {
			play_access(p, i, 1, WFS_ACCESS_FAULT);
		}
	}
}

TEST(sequential_reads_wait_only_at_the_beginning)
{
	struct play p;

	play_begin(&p, 50);
	for (unsigned int i = 0; i < 20000; i++)
		play_access(&p, i, 1, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 10);
	EXPECT_LE(p.read, 20000ul + MAX_PAGES);
}

TEST(small_reads_are_not_told_of)
{
	struct play p;

	play_begin(&p, 50);
	for (unsigned int i = 0; i < 20000; i++)
		play_access(&p, i, 1, WFS_ACCESS_READ);
	/* one for each READ, and a few while the window grows */
	EXPECT_LE(p.calls, 20000 / (FULL_PAGES / 4) + 50);
}

TEST(sequential_reads_from_the_middle)
{
	struct play p;

	play_begin(&p, 50);
	for (unsigned int i = 0; i < 20000; i++)
		play_access(&p, 77777 + i, 1, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 12);
}

TEST(the_window_is_what_the_delay_needs)
{
	struct play p;

	for (unsigned int delay = 10; delay <= 1000; delay *= 10) {
		play_begin(&p, delay);
		for (unsigned int i = 0; i < 50000; i++)
			play_access(&p, i, 1, WFS_ACCESS_READ);
		EXPECT_GE(p.streams.stream[0].window, delay);
		EXPECT_LE(p.streams.stream[0].window, max(8 * delay, FULL_PAGES));
	}
}

TEST(large_reads_have_the_next_one_on_its_way)
{
	struct play p;

	play_begin(&p, 1);
	for (unsigned int i = 0; i < 500; i++)
		play_access(&p, i * 256, 256, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 2);
}

TEST(random_reads_read_nothing_else)
{
	struct play p;

	play_begin(&p, 10);
	srand(1);
	for (unsigned int i = 0; i < 5000; i++)
		play_access(&p, 1 + rand() % (FILE_PAGES - 1), 1, WFS_ACCESS_READ);
	/* some follow each other by chance */
	EXPECT_LE(p.read, 5000ul + 10 * MIN_PAGES);
}

TEST(backward)
{
	struct play p;

	play_begin(&p, 50);
	for (unsigned int i = 0; i < 20000; i++)
		play_access(&p, 100000 - i, 1, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 12);
	EXPECT_LE(p.read, 20000ul + MAX_PAGES);
}

TEST(backward_to_the_beginning)
{
	struct play p;

	play_begin(&p, 5);
	for (int i = 3000; i >= 0; i--)
		play_access(&p, i, 1, WFS_ACCESS_READ);
	EXPECT_EQ(p.read, 3001ul);
}

TEST(strides_in_both_directions)
{
	struct play p;

	for (int stride = -100; stride <= 100; stride += 200) {
		play_begin(&p, 3);
		for (int i = 0; i < 1000; i++)
			play_access(&p, 130000 + i * stride, 4, WFS_ACCESS_READ);
		EXPECT_LE(p.waits, 10);
		/* only the pieces, not what lies between them */
		EXPECT_LE(p.read, 4 * 1000ul + 2 * MAX_PAGES);
	}
}

TEST(interleaved_streams_with_random_reads_between)
{
	struct play p;
	unsigned int at[4] = { 0, 60000, 120000, 180000 };

	play_begin(&p, 40);
	srand(2);
	for (unsigned int i = 0; i < 40000; i++) {
		if (i % 5 == 4)
			play_access(&p, 1 + rand() % (FILE_PAGES - 1), 1, WFS_ACCESS_READ);
		else
			play_access(&p, at[i % 5]++, 1, WFS_ACCESS_READ);
	}
	EXPECT_LE(p.waits, 8000 + 4 * 12);
}

TEST(a_fault_begins_a_stream_and_grows_it_fast)
{
	struct play p;

	play_begin(&p, 600);
	play_mapped(&p, 50000, 20000);
	EXPECT_GE(p.streams.stream[0].window, 600);
	EXPECT_LE(p.waits, 10);
	EXPECT_LE(p.read, 20000ul + MAX_PAGES);
}

TEST(random_faults_stop_to_read_ahead)
{
	struct play p;
	unsigned long before;

	play_begin(&p, 10);
	srand(3);
	for (unsigned int i = 0; i < 200; i++)
		play_access(&p, rand() % FILE_PAGES, 1, WFS_ACCESS_FAULT);
	before = p.read;
	for (unsigned int i = 0; i < 1000; i++)
		play_access(&p, rand() % FILE_PAGES, 1, WFS_ACCESS_FAULT);
	EXPECT_LE(p.read - before, 1000ul + 20 * MIN_PAGES);
	/* and a sequence of faults is found all the same */
	p.waits = 0;
	for (unsigned int i = 0; i < 5000; i++)
		play_access(&p, 1000 + i, 1, WFS_ACCESS_FAULT);
	EXPECT_LE(p.waits, 12);
}

TEST(random_faults_on_what_is_there_stop_too)
{
	unsigned int wants = 0;
	struct play p;

	play_begin(&p, 10);
	srand(4);
	for (unsigned int i = 0; i < 200; i++)
		play_access(&p, rand() % FILE_PAGES, 1, WFS_ACCESS_FAULT);
	/* what a fault maps says nothing of what is wanted */
	for (unsigned int i = 0; i < 200; i++) {
		struct wfs_ahead ahead;

		wants += wfs_stream_access(&p.streams, rand() % FILE_PAGES, 300, WFS_ACCESS_FAULT, false, &p.lim, &ahead);
	}
	EXPECT_LE(wants, 10);
}

TEST(nothing_is_read_behind_the_end)
{
	struct play p;
	struct wfs_ahead ahead;

	play_begin(&p, 5);
	p.lim.pages = 100;
	for (unsigned int i = 0; i < 100; i++)
		if (wfs_stream_access(&p.streams, i, 1, WFS_ACCESS_READ, true, &p.lim, &ahead))
			EXPECT_LE(ahead.start + ahead.pages, 100ull);
}

TEST(a_limit_of_nothing_reads_nothing_and_a_stream_comes_back)
{
	struct play p;
	struct wfs_ahead ahead;
	unsigned int i;

	play_begin(&p, 5);
	p.lim.min = p.lim.full = p.lim.max = 0;
	for (i = 0; i < 100; i++)
		EXPECT_FALSE(wfs_stream_access(&p.streams, i, 1, WFS_ACCESS_READ, true, &p.lim, &ahead));
	p.lim.min = MIN_PAGES;
	p.lim.full = FULL_PAGES;
	p.lim.max = MAX_PAGES;
	for (; i < 2000; i++)
		play_access(&p, i, 1, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 12);
}

/* On a busy link a stream asks when it has to wait anyway, for a piece, and so has nothing ahead of its need. */
TEST(busy_streams_ask_for_pieces_when_they_need_them)
{
	struct wfs_ahead ahead;
	struct play p;
	unsigned int asks = 0;
	__u64 end = 0;

	play_begin(&p, 50);
	p.lim.busy = true;
	for (unsigned int i = 0; i < 20000; i++) {
		bool wants = wfs_stream_access(&p.streams, i, 1, WFS_ACCESS_READ, i >= end, &p.lim, &ahead);

		if (!wants)
			continue;
		ASSERT_EQ(end, i);
		ASSERT_EQ((__u64)i, ahead.start);
		ASSERT_LE(ahead.pages, FULL_PAGES / 2);
		end = ahead.start + ahead.pages;
		asks++;
	}
	EXPECT_LE(asks, 20000 / (FULL_PAGES / 2) + 10);
	/* it does not take the waiting for a reason to grow */
	EXPECT_LE(p.streams.stream[0].window, FULL_PAGES);

	/* the load is gone */
	p.lim.busy = false;
	for (unsigned int i = 20000; i < 40000; i++)
		play_access(&p, i, 1, WFS_ACCESS_READ);
	EXPECT_LE(p.waits, 12);
}

TEST(busy_streams_of_other_kinds)
{
	struct wfs_ahead ahead;
	struct play p;
	__u64 asked = 100000;
	unsigned int n = 0;

	play_begin(&p, 50);
	p.lim.busy = true;
	for (unsigned int i = 0; i < 10000; i++) {
		__u64 page = 100000 - i;

		if (!wfs_stream_access(&p.streams, page, 1, WFS_ACCESS_READ, true, &p.lim, &ahead))
			continue;
		/* never before the access that needs it, and that one is not in it */
		ASSERT_EQ(page, ahead.start + ahead.pages);
		ASSERT_LE(page, asked);
		asked = ahead.start;
		n++;
	}
	EXPECT_LE(n, 10000 / (FULL_PAGES / 2) + 10);

	play_begin(&p, 50);
	p.lim.busy = true;
	for (unsigned int i = 0; i < 1000; i++)
		EXPECT_FALSE(wfs_stream_access(&p.streams, 5000 + i * 100ull, 4, WFS_ACCESS_READ, true, &p.lim, &ahead));
	p.lim.busy = false;
	n = 0;
	for (unsigned int i = 1000; i < 1100; i++)
		n += wfs_stream_access(&p.streams, 5000 + i * 100ull, 4, WFS_ACCESS_READ, true, &p.lim, &ahead);
	EXPECT_GE(n, 1);
}

TEST(any_accesses_keep_what_is_read_within_its_limits)
{
	struct play p;
	struct wfs_ahead ahead;

	play_begin(&p, 5);
	srand(4);
	for (unsigned int i = 0; i < 200000; i++) {
		__u64 first = rand() % 3 ? (__u64)(rand() % 2000) : (__u64)rand() * rand();
		unsigned int pages = 1 + rand() % (rand() % 50 ? 10 : 5000);

		p.lim.busy = !(rand() % 3);
		if (!wfs_stream_access(&p.streams, first, pages, rand() % 2, rand() % 2, &p.lim, &ahead))
			continue;
		ASSERT_GE(ahead.pages, 1);
		ASSERT_GE(ahead.count, 1);
		ASSERT_LE((__u64)ahead.pages * ahead.count, MAX_PAGES + 2 * 5000ul);
	}
}

TEST_HARNESS_MAIN
