/* SPDX-License-Identifier: MIT-0 */
/* options.h - the command line: what the generator sends, and where. */
#ifndef BENCH_GENERATOR_OPTIONS_H
#define BENCH_GENERATOR_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	MAX_PORTS = 16384,
	MAX_FLOWS = 1 << 24, /* a flow's number is the low 24 bits of its inner source address */
	MAX_ENDPOINTS = 4096,
	MAX_BURST = 64,
	GENEVE_HEADER = 40, /* with GWLB's three options */
};

struct options {
	const char *device;
	struct in_addr source;
	struct in_addr probe_source;
	struct in_addr target;
	uint8_t target_mac[6];
	uint32_t flows;
	uint32_t endpoints;
	uint32_t ports;
	uint32_t size; /* of the inner packet */
	uint32_t burst;
	int family;
	bool tcp;
	bool segment;
	bool probe_apart; /* the probes have an endpoint of their own */
};

extern struct options opt;

void parse_options(int argc, char **argv);

#endif
