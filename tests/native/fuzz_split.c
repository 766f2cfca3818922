/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_split.c - what TUN hands out, taken apart: a packet behind any header.
 *
 * Input: the header, as it lies in memory but in network byte order; the length of the packet; the packet, as far as given.
 */
#include <stdbool.h>

#include "../../native/split.h"
#include "input.h"

#define LONGEST 70000u
#define CHECKED 100u /* segments, of what may be 65,000 */

unsigned long fuzz_passed;

/* What the packet is known to be; of one to which IP does not give its length, nothing is. */
static struct gw_packet parsed(const uint8_t *data, uint32_t len)
{
	struct gw_packet packet;

	if (len > 0 && gw_packet_parse(data, len, data[0] >> 4 == 6 ? 6 : 4, &packet) == 0 && packet.len == len)
		return packet;
	return (struct gw_packet){ .data = data, .len = len };
}

/* Returns the length of the payload that the segment carries, behind `carried` bytes in segments before it. */
static uint32_t check_segment(const struct gw_split *split, unsigned i, size_t carried)
{
	uint8_t *header = new_bytes(split->header_len), *whole;
	const uint8_t *payload;
	uint32_t payload_len;

	gw_split_segment(split, i, header, &payload, &payload_len);
	require(payload == split->packet + split->header_len + carried && payload_len == gw_split_payload(split, i));
	whole = new_bytes(split->header_len + payload_len);
	gw_split_write(split, i, whole);
	require(memcmp(whole, header, split->header_len) == 0);
	require(memcmp(whole + split->header_len, payload, payload_len) == 0);
	free_bytes(header);
	free_bytes(whole);
	return payload_len;
}

static void check_split(const struct gw_split *split)
{
	size_t carried = 0;

	require(split->header_len <= GW_SPLIT_HEADER_MAX);
	for (unsigned i = 0; i < split->count; i++)
		if (i < CHECKED || i + CHECKED >= split->count)
			carried += check_segment(split, i, carried);
		else
			carried += gw_split_payload(split, i);
	require(split->header_len + carried == split->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct gw_vnet_header vnet = { .flags = take8(&input), .gso_type = take8(&input) };
	struct gw_packet known;
	struct gw_split split;
	uint8_t *packet;
	uint32_t len;
	int count;

	vnet.hdr_len = take16(&input);
	vnet.gso_size = take16(&input);
	vnet.csum_start = take16(&input);
	vnet.csum_offset = take16(&input);
	len = (uint32_t)take8(&input) << 16;
	len = (len | take16(&input)) % LONGEST;
	packet = take_bytes(&input, len);
	known = parsed(packet, len);
	count = gw_split_begin(&split, &vnet, &known, packet);
	if (count > 0) {
		require(split.count == (unsigned)count && split.packet == packet && split.len == len);
		check_split(&split);
		fuzz_passed += count > 1;
	}
	free_bytes(packet);
	return 0;
}
