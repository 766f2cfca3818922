/* SPDX-License-Identifier: MIT-0 */
/*
 * tally.c - what the programs in the kernel have counted, added up over the CPUs.
 *
 * Theory of operation: each CPU counts for itself, so nobody waits.  Who adds up reads while they count: each figure is one that
 * it had at some moment.  There may be a thousand endpoints and a hundred CPUs, which is too much for the interpreter.
 */
#include "tally.h"

#include "bpf/layout.h"

static uint64_t read_count(const uint64_t *count)
{
	return __atomic_load_n(count, __ATOMIC_RELAXED);
}

static uint32_t later(uint32_t then_s, const uint32_t *s)
{
	uint32_t now_s = __atomic_load_n(s, __ATOMIC_RELAXED);

	return now_s > then_s ? now_s : then_s;
}

void gw_kernel_tallied(const struct gw_kernel_tally *tallies, unsigned slot, unsigned cpus,
                       struct gw_kernel_tally *sum)
{
	const struct gw_kernel_tally *tally = tallies + (uint64_t)slot * cpus;

	*sum = (struct gw_kernel_tally){ 0 };
	for (unsigned cpu = 0; cpu < cpus; cpu++, tally++) {
		sum->in_packets += read_count(&tally->in_packets);
		sum->in_bytes += read_count(&tally->in_bytes);
		sum->in_s = later(sum->in_s, &tally->in_s);
		for (unsigned side = 0; side < 2; side++) {
			sum->out_packets[side] += read_count(&tally->out_packets[side]);
			sum->out_bytes[side] += read_count(&tally->out_bytes[side]);
			sum->out_s[side] = later(sum->out_s[side], &tally->out_s[side]);
		}
	}
}
