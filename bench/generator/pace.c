/* SPDX-License-Identifier: MIT-0 */
#include "pace.h"
#include "clock.h"
#include "options.h"
#include "probes.h"
#include "sending.h"

enum {
	LATE_NS = 3000000
}; /* if something holds up the sender for longer, it gives the time up and does not catch up */

struct paced send_at(const struct pace *pace)
{
	const uint64_t begin = now_ns(CLOCK_MONOTONIC);
	const uint64_t probe_interval = pace->probes_per_s ? NS_PER_S / pace->probes_per_s : 0;
	struct paced done = { 0, 0 };
	uint64_t start = begin, now = begin;
	uint64_t next_probe = begin + probe_interval;

	while (now - begin < pace->duration_ns && done.sent < pace->packets) {
		uint64_t bursts = BATCH;

		if (probe_interval && now >= next_probe) {
			probe_send();
			next_probe = now + probe_interval;
		}
		if (pace->rate) {
			/* The packets that are due by now, but never more than LATE_NS's worth at once. */
			uint64_t due = (uint64_t)((double)(now - start) * (double)pace->rate / 1e9);
			uint64_t late;

			if (due < done.sent + opt.burst) {
				now = now_ns(CLOCK_MONOTONIC);
				continue;
			}
			late = (due - done.sent - opt.burst) * NS_PER_S / pace->rate;
			if (late > LATE_NS) {
				start += late;
				done.given_up_ns += late;
				continue;
			}
			bursts = (due - done.sent) / opt.burst;
		}
		done.sent += send_bursts((uint32_t)(bursts < BATCH ? bursts : BATCH));
		if (pace->each)
			pace->each();
		now = now_ns(CLOCK_MONOTONIC);
	}
	return done;
}
