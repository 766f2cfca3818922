/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_geneve.c - the UDP payload of a datagram, as a receiver checks it and makes keys of it.
 *
 * Input: that payload.
 */
#include "../../native/geneve.h"
#include "../../native/packet.h"
#include "input.h"

unsigned long fuzz_passed;

static void check_geneve(const struct gw_geneve *geneve, size_t len)
{
	require(geneve->header_len >= GW_GENEVE_BASE && geneve->header_len <= GW_GENEVE_MAX);
	require(geneve->header_len % 4 == 0 && geneve->header_len <= len);
	require(geneve->family == 4 || geneve->family == 6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	uint8_t *payload = take_bytes(&input, size);
	struct gw_packet_keys keys;
	struct gw_packet packet;
	struct gw_geneve geneve;

	if (gw_geneve_parse(payload, size, &geneve) == 0) {
		const size_t left = size - geneve.header_len;

		check_geneve(&geneve, size);
		if (gw_packet_parse(payload + geneve.header_len, left, geneve.family, &packet) == 0) {
			require(packet.len <= left);
			gw_packet_keys(&packet, 3, &keys);
			fuzz_passed++;
		}
	}
	free_bytes(payload);
	return 0;
}
