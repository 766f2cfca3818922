/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz.c - what the network can hand to the parsers, at every length and with any bytes changed, for the sanitizers.
 *
 * Built and run by test_native.py.  Each input lies in memory of exactly its own size, so that AddressSanitizer
 * sees a single byte read beyond it.  The program is told how many rounds to do and with which seed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/geneve.h"
#include "../../native/packet.h"

static const uint8_t header[] = { 0x08, 0x00, 0x08, 0x00, 0, 0, 0, 0, 1, 8, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 8, 2, 2, 1,
	                          2,    3,    4,    5,    6, 7, 8, 1, 8, 3, 1, 9, 9, 9, 9 };
static const uint8_t udp4[] = { 0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0,
	                        0,    2, 1, 2,  3, 4, 0, 16, 0, 0,  1, 2, 3,  4, 5, 6, 7,  8 };
/* Unreachable, quoting the beginning of a UDP packet. */
static const uint8_t error4[] = { 0x45, 0, 0, 56, 0, 1, 0, 0,  64, 1,  0,  0, 10, 0,  0, 9, 10, 0, 0, 1, 3, 4, 0, 0,  0, 0, 5, 0,
	                          0x45, 0, 0, 36, 0, 1, 0, 0,  64, 17, 0,  0, 10, 0,  0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 0, 16, 0, 0 };
/* Hop-by-hop options, routing, fragment, and TCP. */
static const uint8_t tcp6[] = { 0x60, 0, 0, 0, 0, 44, 0, 64, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
	                        1,    2, 3, 4, 5, 6,  7, 8,  9, 10, 11, 12, 13, 14, 15, 17, 43, 0, 0, 0, 0, 0, 0, 0,
	                        44,   0, 0, 0, 0, 0,  0, 0,  6, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4, 0, 0, 0, 1,
	                        0,    0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0 };

static const struct sample {
	const uint8_t *bytes;
	size_t len;
} samples[] = { { udp4, sizeof(udp4) }, { error4, sizeof(error4) }, { tcp6, sizeof(tcp6) } };

static unsigned long judged[GW_COUNTERS];

static void judge(const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct gw_geneve geneve;
	struct gw_packet packet;
	struct gw_packet_keys keys;
	unsigned reason;

	if (!copy)
		abort();
	memcpy(copy, bytes, len);
	reason = gw_geneve_parse(copy, len, &geneve);
	if (!reason)
		reason = gw_packet_parse(copy + geneve.header_len, len - geneve.header_len, geneve.family, &packet);
	if (!reason) {
		gw_packet_keys(&packet, 3, &keys);
		if (packet.len > len - geneve.header_len || packet.l4_offset > packet.len)
			abort();
	}
	judged[reason]++;
	free(copy);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100000;
	unsigned seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1;

	for (unsigned i = 0; i < rounds; i++) {
		const struct sample *sample = &samples[i % 3];
		uint8_t bytes[sizeof(header) + sizeof(tcp6)];
		size_t len = sizeof(header) + sample->len;

		memcpy(bytes, header, sizeof(header));
		if (sample->bytes[0] >> 4 == 6)
			memcpy(bytes + 2, "\x86\xdd", 2);
		memcpy(bytes + sizeof(header), sample->bytes, sample->len);
		for (int changes = rand_r(&seed) % 4; changes > 0; changes--)
			bytes[(size_t)rand_r(&seed) % len] = (uint8_t)rand_r(&seed);
		if (rand_r(&seed) % 2)
			len = (size_t)rand_r(&seed) % (len + 1);
		judge(bytes, len);
	}
	for (unsigned i = 0; i < GW_COUNTERS; i++)
		if (judged[i])
			printf("%u %lu\n", i, judged[i]);
	return 0;
}
