/* SPDX-License-Identifier: MIT-0 */
/* clock.h - the kernel's clocks in nanoseconds. */
#ifndef BENCH_GENERATOR_CLOCK_H
#define BENCH_GENERATOR_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)

static inline uint64_t timespec_ns(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * NS_PER_S + (uint64_t)time->tv_nsec;
}

static inline uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return timespec_ns(&now);
}

#endif
