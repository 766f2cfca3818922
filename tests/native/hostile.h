/* SPDX-License-Identifier: MIT-0 */
/*
 * hostile.h - random bytes, more or less like packets.
 *
 * Each lies at an odd address in memory that ends where it does, so that AddressSanitizer sees a byte read beyond it.
 */
#ifndef GW_TEST_HOSTILE_H
#define GW_TEST_HOSTILE_H

#include <stdio.h>
#include <stdlib.h>

#include "../../native/packet.h"

static uint64_t random_state;

static inline uint32_t random_below(uint32_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % bound;
}

static inline uint8_t random_byte(void)
{
	return (uint8_t)random_below(256);
}

static inline uint8_t *new_bytes(size_t len)
{
	uint8_t *memory = malloc(len + 1);

	if (!memory)
		abort();
	return memory + 1;
}

static inline void free_bytes(uint8_t *bytes)
{
	free(bytes - 1);
}

static inline void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* Where the transport header begins, if it is made to look like a packet. */
static inline uint32_t dress(uint8_t *p, uint32_t len, bool tcp)
{
	uint32_t l4;

	if (len < 20 || random_below(10) == 0)
		return 0;
	if (len < 40 || random_below(2)) {
		p[0] = (uint8_t)(0x45 + (random_below(4) ? 0 : random_below(11)));
		put16(p + 2, len);
		put16(p + 6, random_below(8) ? 0x4000 : random_below(65536));
		p[9] = tcp ? 6 : 17;
		l4 = (p[0] & 15u) * 4;
	} else {
		p[0] = (uint8_t)(0x60 | random_below(16));
		put16(p + 4, len - 40);
		p[6] = random_below(8) ? tcp ? 6 : 17 : random_byte();
		l4 = 40;
	}
	if (len >= l4 + 14) {
		if (tcp)
			p[l4 + 12] = (uint8_t)((random_below(4) ? 5 : random_below(16)) << 4);
		else
			put16(p + l4 + 4, random_below(8) ? len - l4 : random_below(65536));
		if (tcp)
			p[l4 + 13] = random_below(4) ? 0x10 : random_byte();
	}
	return l4;
}

static inline uint8_t *new_packet(uint32_t len, bool tcp, uint32_t *l4)
{
	uint8_t *p = new_bytes(len);

	for (uint32_t i = 0; i < len; i++)
		p[i] = random_byte();
	*l4 = dress(p, len, tcp);
	return p;
}

/* What the packet is known to be; of one to which IP does not give its length, nothing is. */
static inline struct gw_packet parsed(const uint8_t *p, uint32_t len)
{
	struct gw_packet packet;

	if (len > 0 && !gw_packet_parse(p, len, p[0] >> 4 == 6 ? 6 : 4, &packet) && packet.len == len)
		return packet;
	return (struct gw_packet){ .data = p, .len = len };
}

/* Does it as often as the first argument says, from the seed in the second, and prints the sum of what it returned. */
static inline int fuzz(int argc, char **argv, unsigned (*once)(void))
{
	const unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 4000;
	unsigned sum = 0;

	random_state = 0x9e3779b97f4a7c15u ^ (argc > 2 ? (uint64_t)atoll(argv[2]) : 1);
	for (unsigned i = 0; i < rounds; i++)
		sum += once();
	printf("%u\n", sum);
	return 0;
}

#endif
