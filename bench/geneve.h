/* SPDX-License-Identifier: MIT-0 */
/* geneve.h - the part of Geneve that the handlers that gwlbtun is compared with read. */
#ifndef BENCH_GENEVE_H
#define BENCH_GENEVE_H

#include <stddef.h>
#include <stdint.h>

enum {
	GENEVE_PORT = 6081,
	MAX_HEADER = 72, /* GWLB's take 40 */
};

#define GWLB_CLASS 0x0108

static inline uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint64_t get64(const uint8_t *at)
{
	uint64_t value = 0;

	for (int i = 0; i < 8; i++)
		value = value << 8 | at[i];
	return value;
}

/* Returns the ENI ID in a Geneve packet of GWLB, whose header takes *header bytes, or 0 if it is none. */
static inline uint64_t parse(const uint8_t *packet, size_t length, size_t *header)
{
	uint64_t eni = 0;

	if (length < 8 || packet[0] >> 6)
		return 0;
	*header = 8 + (packet[0] & 63u) * 4;
	if (*header > length || *header > MAX_HEADER)
		return 0;
	for (size_t at = 8; at + 4 <= *header; at += 4 + (packet[at + 3] & 31u) * 4)
		if (get16(packet + at) == GWLB_CLASS && packet[at + 2] == 1 && at + 12 <= *header)
			eni = get64(packet + at + 4);
	return eni;
}

#endif
