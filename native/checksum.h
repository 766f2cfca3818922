/* SPDX-License-Identifier: MIT-0 */
/*
 * checksum.h - the Internet checksum (RFC 1071).
 */
#ifndef GW_CHECKSUM_H
#define GW_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ip.h"

/* Adds len bytes to a ones-complement sum.  Of the pieces of one sum, all but the last must be even in length. */
uint64_t gw_sum(const void *data, size_t len, uint64_t sum);

/* gw_sum(), and copies what it sums to out, which must not overlap: little dearer than either. */
uint64_t gw_sum_copy(void *out, const void *data, size_t len, uint64_t sum);

/* The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) of an IP packet, of which the fixed header is read. */
uint64_t gw_pseudo_sum(const uint8_t *packet, uint8_t protocol, uint32_t l4_len);

/*
 * Sums the packet of len bytes from start on, and puts the checksum at offset from there, whose bytes hold the sum of the
 * pseudo-header until then.  False if that is outside the packet.
 */
bool gw_checksum_complete(uint8_t *packet, size_t len, unsigned start, unsigned offset);

/* Of two sums. */
static inline uint64_t gw_sum_add(uint64_t a, uint64_t b)
{
	a += b;
	return a + (a < b);
}

/* The sum in 16 bits, not complemented, its bytes in the order in which they stand in a packet. */
inline uint16_t gw_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* What stands in a packet of that sum. */
static inline uint16_t gw_checksum_of(uint64_t sum)
{
	return (uint16_t)~gw_fold(sum);
}

/* 16 bits as they lie in memory, which is what sums are made of. */
static inline uint16_t gw_native16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static inline void gw_store_native16(uint8_t *p, uint16_t value)
{
	memcpy(p, &value, sizeof(value));
}

/* Where the checksum stands in a TCP or UDP header. */
static inline unsigned gw_checksum_offset(uint8_t protocol)
{
	return protocol == GW_PROTO_TCP ? 16 : 6;
}

#endif
