/* SPDX-License-Identifier: MIT-0 */
/* pace.h - packets sent at a rate, with probes among them. */
#ifndef BENCH_GENERATOR_PACE_H
#define BENCH_GENERATOR_PACE_H

#include <stdint.h>

struct pace {
	uint64_t rate; /* packets/s; 0: as fast as possible */
	uint64_t duration_ns;
	uint64_t packets;
	uint64_t probes_per_s;
	void (*each)(void); /* called between batches; NULL: nothing */
};

struct paced {
	uint64_t sent; /* probes not counted */
	uint64_t given_up_ns;
};

/* Sends until the time is over or the packets are sent. */
struct paced send_at(const struct pace *pace);

#endif
