// SPDX-License-Identifier: GPL-2.0-only
/*
 * thread.c - what the threads of all kinds have in common: how they start, and how they wait for work.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "wfsd.h"

#define STACK_SIZE	(1u << 20)
#define IDLE_SECONDS	10
#define NODES_MAX	1024

static cpu_set_t cpus;		/* of the process; empty if that is not known */
static unsigned short node_of[CPU_SETSIZE];	/* the NUMA node of each of them */

void thread_init(void)
{
	char path[64];

	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		CPU_ZERO(&cpus);
	/* a kernel without NUMA has no such directory: all are on one node then */
	if (access("/sys/devices/system/node", F_OK))
		return;
	for (unsigned short cpu = 0; cpu < CPU_SETSIZE; cpu++)
		for (unsigned short node = 0; CPU_ISSET(cpu, &cpus) && node < NODES_MAX; node++) {
			snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/cpu%u", node, cpu);
			if (access(path, F_OK))
				continue;
			node_of[cpu] = node;
			break;
		}
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

/**
 * thread_near - let this thread begin on a CPU and stay on its NUMA node
 * @cpu: the CPU; -1: any that the process may use
 *
 * Not on that CPU alone: it may be busy with something else, its client's process for instance, when another has nothing to do.
 * While it is not, the scheduler leaves a thread where it is.
 */
void thread_near(int cpu)
{
	cpu_set_t set = cpus, one;

	if (cpu >= 0) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		for (int other = 0; other < CPU_SETSIZE; other++)
			if (node_of[other] != node_of[cpu])
				CPU_CLR(other, &set);
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
