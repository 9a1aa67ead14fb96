// SPDX-License-Identifier: GPL-2.0
/*
 * account - kmod/account.c in userspace: when a mount counts as busy, and when no longer
 *
 * Readers are played against a link that has a rate and a delay: what is sent beyond that waits in its queue.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <kselftest_harness.h>

#define min(a, b)	({ __typeof__(a) _x = (a); __typeof__(b) _y = (b); _x < _y ? _x : _y; })
#define max(a, b)	({ __typeof__(a) _x = (a); __typeof__(b) _y = (b); _x > _y ? _x : _y; })
#include "../kmod/account.c"

#define KIB	1024ull
#define MIB	(1024 * KIB)
#define USEC	1000ull
#define MSEC	1000000ull
#define FLOOR	(16 * MIB)
#define STEP	(100 * USEC)	/* of the clock */
#define READERS	256

/* A reader keeps @want bytes of its kind on their way, in READs of @len. */
struct reader {
	enum wfs_load load;
	__u64 want, len;
	__u64 in_flight;
};

/* READs on their way, in the order in which they will come. */
struct read {
	unsigned int reader;
	__u64 len, sent, due;
};

struct play {
	struct wfs_account a;
	struct wfs_tally t;
	__u64 now;
	__u64 rate, delay;		/* of the link: bytes a second, nanoseconds */
	__u64 free;			/* when it has brought all that was sent */
	struct reader reader[READERS];
	unsigned int readers;
	struct read fifo[65536];
	unsigned int head, tail;
	__u64 came;			/* bytes, since the last look at it */
	__u64 held;			/* steps in which readahead was held back */
	__u64 steps;
};

static struct play *play_begin(__u64 rate, __u64 delay)
{
	static struct play p;

	memset(&p, 0, sizeof(p));
	p.a.floor = FLOOR;
	p.now = 1000 * MSEC;
	p.rate = rate;
	p.delay = delay;
	return &p;
}

static void play_add(struct play *p, enum wfs_load load, unsigned int n, __u64 want, __u64 len)
{
	while (n--)
		p->reader[p->readers++] = (struct reader){ .load = load, .want = want, .len = len };
}

static void play_send(struct play *p, unsigned int n)
{
	struct reader *r = &p->reader[n];

	p->free = max(p->free, p->now) + r->len * 1000000 / (p->rate / 1000);
	p->fifo[p->tail++ % 65536] = (struct read){ n, r->len, p->now, p->free + p->delay };
	p->t.asked[r->load] += r->len;
	r->in_flight += r->len;
}

/* Time goes on. */
static void play_run(struct play *p, __u64 time)
{
	__u64 until = p->now + time;

	p->came = p->held = p->steps = 0;
	for (; p->now < until; p->now += STEP) {
		while (p->head != p->tail && p->fifo[p->head % 65536].due <= p->now) {
			struct read *r = &p->fifo[p->head++ % 65536];
			__u64 delay = r->due - r->sent;

			p->reader[r->reader].in_flight -= r->len;
			p->t.came[p->reader[r->reader].load] += r->len;
			p->came += r->len;
			if (!p->t.delay || delay < p->t.delay)
				p->t.delay = delay;
		}
		for (unsigned int n = 0; n < p->readers; n++) {
			struct reader *r = &p->reader[n];

			while (r->in_flight + r->len <= r->want) {
				/* as readahead.c does: a look before each of them */
				wfs_account_update(&p->a, &p->t, p->now);
				p->t.delay = 0;
				if (r->load == WFS_LOAD_AHEAD && p->a.state == WFS_AHEAD_BUSY)
					break;
				play_send(p, n);
			}
		}
		p->steps++;
		p->held += p->a.state == WFS_AHEAD_BUSY;
	}
}

TEST(a_single_stream_is_never_held_back)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);

	play_add(p, WFS_LOAD_AHEAD, 1, 4 * MIB, 1 * MIB);
	play_add(p, WFS_LOAD_DEMAND, 1, 128 * KIB, 128 * KIB);
	play_run(p, 5000 * MSEC);
	EXPECT_EQ(0ull, p->held);
	EXPECT_EQ(0ull, p->a.throttled);
}

TEST(the_rate_is_what_arrives)
{
	for (__u64 rate = 10 * MIB; rate <= 10000 * MIB; rate *= 10) {
		struct play *p = play_begin(rate, 100 * USEC);

		play_add(p, WFS_LOAD_DEMAND, 16, 1 * MIB, 1 * MIB);
		play_run(p, 5000 * MSEC);
		EXPECT_GE(p->a.rate, rate * 9 / 10);
		EXPECT_LE(p->a.rate, rate * 11 / 10);
	}
}

TEST(demand_that_fills_the_link_stops_readahead_and_it_comes_back)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);

	play_add(p, WFS_LOAD_AHEAD, 1, 4 * MIB, 1 * MIB);
	play_run(p, 2000 * MSEC);
	EXPECT_EQ(0ull, p->held);

	play_add(p, WFS_LOAD_DEMAND, 64, 1 * MIB, 1 * MIB);
	play_run(p, 2000 * MSEC);
	EXPECT_EQ(WFS_AHEAD_BUSY, p->a.state);
	EXPECT_GE(p->held, p->steps * 99 / 100);
	EXPECT_EQ(1ull, p->a.throttled);
	EXPECT_EQ(0ull, p->reader[0].in_flight);

	/* the load goes */
	p->readers = 1;
	play_run(p, 500 * MSEC);
	EXPECT_EQ(WFS_AHEAD_OPEN, p->a.state);
	EXPECT_EQ(4 * MIB, p->reader[0].in_flight);
	play_run(p, 500 * MSEC);
	EXPECT_EQ(0ull, p->held);
}

/* Readahead alone: as much of it as keeps the link full and a tenth of a second's worth of copies on their way, no more. */
TEST(many_streams_fill_the_link_and_little_of_its_queue)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);

	play_add(p, WFS_LOAD_AHEAD, 64, 4 * MIB, 1 * MIB);
	play_run(p, 3000 * MSEC);
	play_run(p, 3000 * MSEC);
	EXPECT_GE(p->came, 3 * 500 * MIB * 98 / 100);
	EXPECT_GE(p->a.budget, 49 * MIB);
	EXPECT_LE(p->a.budget, 52 * MIB);
	EXPECT_EQ(FLOOR, p->a.link);
	for (unsigned int i = 0; i < 100; i++) {
		play_run(p, 10 * MSEC);
		/* a buffered byte is copied twice; the last READ may go over it */
		EXPECT_LE(2 * wfs_account_in_flight(&p->t, WFS_LOAD_AHEAD), p->a.budget + 2 * MIB);
	}
}

/* Over a long and fast line the budget is what the line holds, however long it takes to find out. */
TEST(a_long_way_is_filled)
{
	struct play *p = play_begin(1000 * MIB, 50 * MSEC);

	play_add(p, WFS_LOAD_AHEAD, 64, 4 * MIB, 1 * MIB);
	play_run(p, 5000 * MSEC);
	EXPECT_GE(p->a.link, 3 * 50 * MIB);
	EXPECT_GE(p->a.budget, p->a.link);
	play_run(p, 5000 * MSEC);
	EXPECT_GE(p->came, 5 * 1000 * MIB * 95 / 100);
}

/* What is on its way does not make the delay longer that the budget is made of. */
TEST(a_queue_is_not_taken_for_a_long_way)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);

	play_add(p, WFS_LOAD_AHEAD, 1, 1 * MIB, 1 * MIB);
	play_run(p, 1000 * MSEC);
	play_add(p, WFS_LOAD_AHEAD, 64, 4 * MIB, 1 * MIB);
	play_add(p, WFS_LOAD_DEMAND, 64, 1 * MIB, 1 * MIB);
	play_run(p, 60000 * MSEC);
	EXPECT_LE(p->a.delay, 3 * (200 * USEC + 2 * MSEC));
	EXPECT_EQ(FLOOR, p->a.link);
	EXPECT_LE(p->a.budget, 52 * MIB);
}

/* But a way that has become longer is, in time. */
TEST(a_longer_way_is_found_out)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);
	__u64 before;

	play_add(p, WFS_LOAD_AHEAD, 1, 1 * MIB, 1 * MIB);
	play_run(p, 1000 * MSEC);
	before = p->a.delay;
	p->delay = 100 * MSEC;
	play_run(p, 100000 * MSEC);
	EXPECT_GE(p->a.delay, before + before / 10);
}

TEST(a_direct_byte_weighs_half_a_buffered_one)
{
	static const enum wfs_load kinds[] = { WFS_LOAD_DEMAND, WFS_LOAD_DIRECT };

	for (unsigned int i = 0; i < 2; i++) {
		struct play *p = play_begin(500 * MIB, 200 * USEC);

		/* 30 MiB on their way: buffered that is 60 to be copied, more than the 50 that come in 100 ms; direct it is 30 */
		play_add(p, WFS_LOAD_AHEAD, 1, 1 * MIB, 1 * MIB);
		play_run(p, 1000 * MSEC);
		play_add(p, kinds[i], 30, 1 * MIB, 1 * MIB);
		play_run(p, 2000 * MSEC);
		EXPECT_EQ(kinds[i] == WFS_LOAD_DEMAND ? WFS_AHEAD_BUSY : WFS_AHEAD_OPEN, p->a.state);
		EXPECT_EQ(kinds[i] == WFS_LOAD_DEMAND, p->held > 0);
	}
}

TEST(a_state_does_not_flap_at_its_edge)
{
	struct wfs_account a = { .floor = FLOOR };
	struct wfs_tally t = { };

	t.asked[WFS_LOAD_DEMAND] = FLOOR / 2;
	wfs_account_update(&a, &t, MSEC);
	EXPECT_EQ(WFS_AHEAD_OPEN, a.state);
	t.asked[WFS_LOAD_DEMAND]++;
	for (unsigned int i = 2; i < 100; i++) {
		wfs_account_update(&a, &t, i * MSEC);
		EXPECT_EQ(WFS_AHEAD_BUSY, a.state);
		t.came[WFS_LOAD_DEMAND] = i % 2;
	}
	EXPECT_EQ(1ull, a.throttled);
	t.came[WFS_LOAD_DEMAND] = FLOOR / 4 + 1;
	wfs_account_update(&a, &t, 100 * MSEC);
	EXPECT_EQ(WFS_AHEAD_OPEN, a.state);
}

TEST(waste_makes_windows_smaller_and_an_end_to_it_larger)
{
	struct wfs_account a = { .floor = FLOOR };
	struct wfs_tally t = { };
	__u64 now = MSEC;

	wfs_account_update(&a, &t, now);
	for (unsigned int i = 1; i <= 20; i++) {
		t.asked[WFS_LOAD_AHEAD] = t.came[WFS_LOAD_AHEAD] += 64 * MIB;
		t.wasted += 32 * MIB;
		wfs_account_update(&a, &t, now += SAMPLE);
		EXPECT_EQ(min(i, (unsigned int)SHIFT_MAX), a.shift);
	}
	/* an eighth is taken for granted */
	for (unsigned int i = 1; i <= 20; i++) {
		t.asked[WFS_LOAD_AHEAD] = t.came[WFS_LOAD_AHEAD] += 64 * MIB;
		t.wasted += 8 * MIB;
		wfs_account_update(&a, &t, now += SAMPLE);
		EXPECT_EQ(SHIFT_MAX - min(i, (unsigned int)SHIFT_MAX), a.shift);
	}
	/* what was dropped while nobody read says nothing */
	t.wasted += 64 * MIB;
	wfs_account_update(&a, &t, now += IDLE);
	EXPECT_EQ(0u, a.shift);
}

TEST(a_pause_says_nothing_about_the_rate)
{
	struct play *p = play_begin(500 * MIB, 200 * USEC);
	__u64 rate;

	play_add(p, WFS_LOAD_DEMAND, 8, 1 * MIB, 1 * MIB);
	play_run(p, 3000 * MSEC);
	rate = p->a.rate;
	p->readers = 0;
	play_run(p, 60000 * MSEC);
	wfs_account_update(&p->a, &p->t, p->now);
	EXPECT_EQ(rate, p->a.rate);
}

/* Streams that take their share of memory as readahead.c does, read some of it, are dropped, come again. */
TEST(sixty_four_streams_never_hold_more_than_the_bound)
{
	__u64 limits[] = { 256, 4096, 1 << 20 }, stream[64];

	srand(1);
	for (unsigned int l = 0; l < 3; l++) {
		__u64 held = 0, most = 0, none = 0;

		memset(stream, 0, sizeof(stream));
		for (unsigned int i = 0; i < 200000; i++) {
			unsigned int n = rand() % 64;
			__u32 share = wfs_account_share(limits[l], held, 1024);

			if (rand() % 2 && stream[n] < share) {
				held += share - stream[n];
				stream[n] = share;
			} else {
				__u64 used = rand() % 8 ? min(stream[n], 32ull) : stream[n];

				stream[n] -= used;
				held -= used;
			}
			ASSERT_LE(held, limits[l]);
			most = max(most, held);
			none += !share;
		}
		/* it is used, and there is something left for everybody */
		EXPECT_GE(most, min(limits[l] / 2, 64 * 1024ull / 2));
		EXPECT_LE(none, 1000ull);
	}
	EXPECT_EQ(0u, wfs_account_share(100, 100, 50));
	EXPECT_EQ(0u, wfs_account_share(100, ~0ull, 50));
	EXPECT_EQ(25u, wfs_account_share(100, 0, 50));
	EXPECT_EQ(7u, wfs_account_share(~0ull >> 12, 0, 7));
}

/* Whatever is counted, also what can't be: nothing overflows into nonsense. */
TEST(any_counts)
{
	struct wfs_account a = { .floor = FLOOR };
	struct wfs_tally t = { };
	__u64 now = 0;

	srand(2);
	for (unsigned int i = 0; i < 1000000; i++) {
		enum wfs_load load = 1 + rand() % 3;

		t.asked[load] += rand() % (64 * MIB);
		if (rand() % 2)
			t.came[load] = min(t.asked[load], t.came[load] + rand() % (256 * MIB));
		t.wasted = min(t.came[WFS_LOAD_AHEAD], t.wasted + rand() % MIB);
		t.delay = rand() % 3 ? rand() % (10000 * MSEC) : 0;
		wfs_account_update(&a, &t, now += rand() % (200 * MSEC));
		ASSERT_GE(a.link, FLOOR);
		ASSERT_GE(a.budget, a.link);
		ASSERT_LE(a.shift, (__u32)SHIFT_MAX);
		ASSERT_LE(a.rate, 256 * MIB * 1000);
		ASSERT_EQ(a.state == WFS_AHEAD_BUSY, wfs_account_load(&t) > (a.state == WFS_AHEAD_BUSY ? a.budget / 2 : a.budget));
	}
}

TEST_HARNESS_MAIN
