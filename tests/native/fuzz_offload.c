/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_offload.c - random bytes, more or less like packets, for gw_merge_...() and gw_split_...() and the sanitizers.
 *
 * Built and run by tests/test_offload.py, with the number of rounds and a seed.  Each packet lies at an odd address in
 * memory that ends where it does.  Prints how many packets joined a run, and how many packets were cut into several.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/offload.h"

#define FRAMES 70u

static uint64_t state;

static uint32_t random_below(uint32_t bound)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % bound;
}

static uint8_t random_byte(void)
{
	return (uint8_t)random_below(256);
}

static uint8_t *new_bytes(size_t len)
{
	uint8_t *memory = malloc(len + 1);

	if (!memory)
		abort();
	return memory + 1;
}

static void free_bytes(uint8_t *bytes)
{
	free(bytes - 1);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* Where the transport header begins, if it is made to look like a packet. */
static uint32_t dress(uint8_t *p, uint32_t len, bool tcp)
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

static uint8_t *new_packet(uint32_t len, bool tcp, uint32_t *l4)
{
	uint8_t *p = new_bytes(len);

	for (uint32_t i = 0; i < len; i++)
		p[i] = random_byte();
	*l4 = dress(p, len, tcp);
	return p;
}

/* How many packets it took. */
static unsigned write_out(struct gw_merge *merge)
{
	uint32_t room = merge->length;
	uint8_t *out = new_bytes(room);
	struct gw_vnet_header vnet;

	gw_merge_write(merge, &vnet, out);
	if (merge->count == 0 || merge->length > room)
		abort();
	free_bytes(out);
	return merge->count;
}

static unsigned fuzz_merge(void)
{
	struct gw_segment segment[FRAMES];
	uint8_t *data[FRAMES];
	struct gw_merge merge;
	unsigned joined = 0, count = 1 + random_below(FRAMES);
	uint32_t l4, len = random_below(3) ? random_below(200) : random_below(9000);
	bool tcp = random_below(2);

	for (unsigned i = 0; i < count; i++) {
		data[i] = new_packet(len, tcp, &l4);
		if (i && random_below(8)) {
			memcpy(data[i], data[i - 1], len);
			if (len > 6)
				data[i][5]++;
		}
		gw_segment_inspect(&segment[i], data[i], len);
		/* Else none would pass: the checksums of random bytes are wrong. */
		segment[i].verified = random_below(4);
	}
	for (unsigned i = 0, written; i < count; i += written) {
		gw_merge_start(&merge, &segment[i]);
		for (unsigned k = i + 1; k < count && gw_merge_join(&merge, &segment[k]); k++)
			;
		written = write_out(&merge);
		joined += written - 1;
	}
	for (unsigned i = 0; i < count; i++)
		free_bytes(data[i]);
	return joined;
}

static uint16_t near(uint32_t value)
{
	return (uint16_t)(random_below(8) ? value : value + random_below(9) - 4);
}

static bool fuzz_split(void)
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
	struct gw_split split;
	const uint8_t *payload;
	int count;

	if (l4 && random_below(2))
		vnet.gso_type = tcp ? packet[0] >> 4 == 4 ? GW_VNET_GSO_TCPV4 : GW_VNET_GSO_TCPV6 : GW_VNET_GSO_UDP_L4;
	count = gw_split_begin(&split, &vnet, packet, len);
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
	unsigned joined = 0, cut_up = 0;
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 4000;

	state = 0x9e3779b97f4a7c15u ^ (argc > 2 ? (uint64_t)atoll(argv[2]) : 1);
	for (unsigned i = 0; i < rounds; i++) {
		joined += fuzz_merge();
		for (unsigned n = 0; n < 5; n++)
			cut_up += fuzz_split();
	}
	printf("%u %u\n", joined, cut_up);
	return 0;
}
