/* SPDX-License-Identifier: MIT-0 */
/* capture.h - captures all that returns (AF_PACKET), splits super-packets, and compares each packet byte for byte. */
#ifndef BENCH_GENERATOR_CAPTURE_H
#define BENCH_GENERATOR_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

struct captured {
	uint64_t back;
	uint64_t wrong;
	uint64_t out_of_order;
};

/* What has been captured since capture_begin(). */
extern struct captured captured;

void capture_begin(void);

/* Takes one frame, if there is one. */
bool capture_receive(void);
void drain_capture(void);

void capture_end(void);

#endif
