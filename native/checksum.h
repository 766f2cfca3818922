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

/* Adds len bytes to a ones-complement sum.  Every piece of a sum but the last must have an even length. */
uint64_t gw_sum(const void *data, size_t len, uint64_t sum);

/* Like gw_sum(), and copies the bytes to out, which must not overlap them.  Costs little more than either alone. */
uint64_t gw_sum_copy(void *out, const void *data, size_t len, uint64_t sum);

/* The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) of an IP packet.  Reads the fixed IP header. */
uint64_t gw_pseudo_sum(const uint8_t *packet, uint8_t protocol, uint32_t l4_len);

/* Sums the len bytes from start on and stores the checksum at offset from there.  The checksum field must hold the sum of
 * the pseudo-header until then.  False if the field lies outside the packet. */
bool gw_checksum_complete(uint8_t *packet, size_t len, unsigned start, unsigned offset);

/* Adds two sums. */
static inline uint64_t gw_sum_add(uint64_t a, uint64_t b)
{
	a += b;
	return a + (a < b);
}

/* Folds a sum to 16 bits, not complemented, its bytes in the order of a packet. */
inline uint16_t gw_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* The checksum field of a packet with that sum. */
static inline uint16_t gw_checksum_of(uint64_t sum)
{
	return (uint16_t)~gw_fold(sum);
}

/* Loads 16 bits as they lie in memory: sums are made of those. */
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

/* The offset of the checksum in a TCP or UDP header. */
static inline unsigned gw_checksum_offset(uint8_t protocol)
{
	return protocol == GW_PROTO_TCP ? 16 : 6;
}

#endif
