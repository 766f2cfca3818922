/* SPDX-License-Identifier: MIT-0 */
/*
 * way.h - the least that the path in the kernel could be: packets take its way, by gwi and gwo, and nothing is known of them.
 *
 * Theory of operation: what comes from the load balancer goes to gwi as it is, under its outer headers, with the addresses
 * exchanged.  What leaves by gwo gets the link header and leaves by the uplink.  No header goes or comes back, no flow is looked
 * up, nothing is counted.  bench/path_floor.py fills the only map, before the first packet.
 */
#ifndef BENCH_BPF_WAY_H
#define BENCH_BPF_WAY_H

#include "../../native/bpf/packet.h"

struct way {
	uint32_t gwi; /* indices of interfaces */
	uint32_t uplink;
	uint16_t ethernet[8]; /* the link header, 14 bytes */
};

extern const char way_map[];

#endif
