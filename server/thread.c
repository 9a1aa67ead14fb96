// SPDX-License-Identifier: GPL-2.0-only
/*
 * thread.c - what the threads of all kinds have in common: how they start, and how they wait for work.
 */
#include <pthread.h>
#include <sched.h>

#include "wfsd.h"

#define STACK_SIZE	(1u << 20)
#define IDLE_SECONDS	10

static cpu_set_t cpus;		/* of the process; empty if that is not known */

void thread_init(void)
{
	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		CPU_ZERO(&cpus);
}

/**
 * thread_start - start a thread that nobody waits for; it inherits credentials and CPUs
 *
 * Return: 0 or an errno.
 */
int thread_start(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	err = pthread_create(&thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return err;
}

/* This thread runs on one CPU; on any that the process may use if @cpu is -1. */
void thread_pin(int cpu)
{
	cpu_set_t set = cpus;

	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
	}
	/* It is faster so, not wrong otherwise. */
	sched_setaffinity(0, sizeof(set), &set);
}

/**
 * thread_idle - a thread of a pool has no work and waits for it
 * @wake: is signalled when there is some
 * @lock: held, and released meanwhile
 *
 * Return: false when nothing came for so long that the thread may end.  Work may be there nevertheless.
 */
bool thread_idle(pthread_cond_t *wake, pthread_mutex_t *lock)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += IDLE_SECONDS;
	return !pthread_cond_timedwait(wake, lock, &until);
}
