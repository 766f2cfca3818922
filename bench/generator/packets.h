/* SPDX-License-Identifier: MIT-0 */
/*
 * packets.h - the packets that the generator sends, all made before any is sent.
 *
 * For each flow there is a burst of "heads": outer Ethernet, IP, UDP and Geneve headers, inner headers, and the flow's
 * number and the packet's sequence number as the first payload bytes.  The rest of the payload, the tail, is the same for
 * all.  Before a head is sent again, stamp() advances it: sequence number, TCP sequence, IP ID, and the checksums from sums
 * kept beside it.  So a packet is a function of its flow and sequence number, and the generator can compare what returns
 * with what it sent without having stored it.
 *
 * Short flows (shorten_flows()) come and go.  What turns a packet round leaves its checksums as they are, since they are sums.
 */
#ifndef BENCH_GENERATOR_PACKETS_H
#define BENCH_GENERATOR_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "options.h"

enum {
	GENEVE_PORT = 6081,
	FIRST_PORT = 49152,

	ETHERNET = 14,
	OUTER = ETHERNET + 20 + 8,
	IDENT = 8,
	HEAD = OUTER + GENEVE_HEADER + 40 + 20 + IDENT, /* the largest: TCP over IPv6 */
};

/* A packet up to the end of its identity.  The sums are of all that the checksums cover but the fields stamp() sets. */
struct head {
	uint32_t sequence;
	uint16_t ip_sum;
	uint16_t l4_sum;
	uint8_t bytes[HEAD];
};

extern size_t packet_size; /* of the outer UDP payload; all packets have the same */
extern struct head probe;  /* of a flow of its own, number opt.flows */

void make_packets(const uint8_t mac[6]);

/* By flow, the first of opt.burst heads. */
struct head *burst_of(uint32_t flow);

/* By flow, the number of its port among the load balancer's, from 0. */
uint32_t port_of(uint32_t flow);

/* Makes the head its flow's packet of this sequence number. */
void stamp(struct head *head, uint32_t sequence);

/* Makes the flow's burst the one that follows. */
void advance(uint32_t flow);

/* From now on each flow has so many packets, back and forth in turn; then one with a new address and port takes its place.  They
 * are numbered from `first` on.  The first of each place is older than that of the place before it by a packet, so that as many
 * begin at any time. */
void shorten_flows(uint32_t packets, uint32_t first);

/* Where a packet lies in memory: as a whole frame, or as the outer UDP payload alone. */
void frame_pieces(struct iovec pieces[2], struct head *head);
void payload_pieces(struct iovec pieces[2], struct head *head);

/* What a returned packet says that it is; data: packet_size bytes of the outer UDP payload. */
uint32_t flow_in(const uint8_t *data);
uint32_t sequence_in(const uint8_t *data);

/* Whether the outer UDP payload is, byte for byte, the packet of the head's flow with the sequence number it carries. */
bool same_packet(const uint8_t *data, size_t length, const struct head *of);

#endif
