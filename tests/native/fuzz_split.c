/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_split.c - random bytes, more or less like packets, for gw_split_...() and the sanitizers.
 *
 * Built and run by tests/test_split.py, with the number of rounds and a seed.  Prints how many packets were cut into several.
 */
#include <string.h>

#include "../../native/split.h"
#include "hostile.h"

static uint16_t near(uint32_t value)
{
	return (uint16_t)(random_below(8) ? value : value + random_below(9) - 4);
}

static unsigned fuzz_split(void)
{
	static const uint8_t types[] = { 0, 1, 4, 5, 0x81, 0x84, 3 };
	bool tcp = random_below(2);
	uint32_t l4, payload_len, len = random_below(3) ? random_below(200) : random_below(70000);
	uint8_t *header, *packet = new_packet(len, tcp, &l4);
	size_t carried = 0;
	struct gw_vnet_header vnet = {
		.flags = random_below(8) ? GW_VNET_NEEDS_CSUM : random_byte(),
		.gso_type = random_below(8) ? types[random_below(sizeof(types))] : random_byte(),
		.hdr_len = (uint16_t)random_below(65536),
		.gso_size = (uint16_t)(random_below(2) ? random_below(100) : random_below(65536)),
		.csum_start = near(random_below(4) ? l4 : random_below(65536)),
		.csum_offset = near(tcp ? 16 : 6),
	};
	struct gw_packet known;
	struct gw_split split;
	const uint8_t *payload;
	int count;

	if (l4 && random_below(2))
		vnet.gso_type = tcp ? packet[0] >> 4 == 4 ? GW_VNET_GSO_TCPV4 : GW_VNET_GSO_TCPV6 : GW_VNET_GSO_UDP_L4;
	known = parsed(packet, len);
	count = gw_split_begin(&split, &vnet, &known, packet);
	for (int i = 0; i < count; i++) {
		header = new_bytes(split.header_len);
		gw_split_segment(&split, (unsigned)i, header, &payload, &payload_len);
		free_bytes(header);
		header = new_bytes(split.header_len + payload_len);
		gw_split_write(&split, (unsigned)i, header);
		free_bytes(header);
		if (payload != packet + split.header_len + carried)
			abort();
		carried += payload_len;
	}
	if (count > 0 && split.header_len + carried != len)
		abort();
	free_bytes(packet);
	return count > 1;
}

int main(int argc, char **argv)
{
	return fuzz(argc, argv, fuzz_split);
}
