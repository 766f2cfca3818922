/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_keys.c - the keys of inner packets: both directions of a flow have one, and so has what follows a packet in its flow.
 *
 * Input: the length of the first packet, that packet, and another one.
 */
#include <stdbool.h>

#include "../../native/packet.h"
#include "input.h"

#define SLOT 3

unsigned long fuzz_passed;

static bool parse(const uint8_t *data, size_t len, struct gw_packet *packet)
{
	return len > 0 && gw_packet_parse(data, len, data[0] >> 4 == 6 ? 6 : 4, packet) == 0;
}

static bool equal(const struct gw_flow_key *a, const struct gw_flow_key *b)
{
	return memcmp(a->word, b->word, sizeof(a->word)) == 0;
}

static void check_parsed(const struct gw_packet *packet, size_t len)
{
	require(packet->len <= len && packet->l4_offset <= packet->len);
	require(packet->l4_offset >= (packet->family == 4 ? 20 : 40));
	require(!packet->later_fragment || packet->fragment);
	if (packet->mergeable)
		require(!packet->fragment && packet->payload_offset > packet->l4_offset &&
		        packet->payload_offset < packet->len);
}

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = a[i];

		a[i] = b[i];
		b[i] = byte;
	}
}

static bool has_ports(const struct gw_packet *packet)
{
	return (packet->protocol == GW_PROTO_TCP || packet->protocol == GW_PROTO_UDP) &&
	       packet->len >= packet->l4_offset + 4u;
}

/* The packet that answers this one, in place. */
static void turn_around(uint8_t *data, const struct gw_packet *packet)
{
	const size_t addresses = packet->family == 4 ? 12 : 8, size = packet->family == 4 ? 4 : 16;

	swap(data + addresses, data + addresses + size, size);
	if (has_ports(packet))
		swap(data + packet->l4_offset, data + packet->l4_offset + 2, 2);
}

/* Fragments and ICMP errors keep their direction. */
static void check_answer(uint8_t *data, size_t len, const struct gw_packet *packet, const struct gw_packet_keys *keys)
{
	struct gw_packet_keys answer_keys;
	struct gw_packet answer;

	if (packet->later_fragment || GW_KEY_KIND(keys->own.word[GW_KEY_WORDS - 1]) != GW_KEY_FLOW)
		return;
	turn_around(data, packet);
	require(parse(data, len, &answer));
	gw_packet_keys(&answer, SLOT, &answer_keys);
	require(equal(&answer_keys.own, &keys->own));
	require(!answer_keys.reversed || !keys->reversed);
	turn_around(data, packet);
}

static void check_next(const uint8_t *data, size_t len, const struct gw_packet *packet,
                       const struct gw_packet_keys *keys)
{
	struct gw_packet followed, next;
	struct gw_packet_keys next_keys;

	if (!gw_packet_follows(packet, data, len, &followed))
		return;
	require(parse(data, len, &next));
	require(followed.len == next.len && followed.l4_offset == next.l4_offset && !next.fragment);
	require(followed.payload_offset == next.payload_offset && followed.mergeable == next.mergeable);
	gw_packet_keys(&next, SLOT, &next_keys);
	require(equal(&next_keys.own, &keys->own) && next_keys.reversed == keys->reversed);
	require(!next_keys.has_quoted && !next_keys.has_fragment);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	const size_t len = take16(&input);
	uint8_t *first = take_bytes(&input, len), *second;
	const size_t second_len = input.left;
	struct gw_packet_keys keys;
	struct gw_packet packet;

	second = take_bytes(&input, second_len);
	if (parse(first, len, &packet)) {
		check_parsed(&packet, len);
		gw_packet_keys(&packet, SLOT, &keys);
		require(keys.has_fragment == packet.fragment);
		check_answer(first, len, &packet, &keys);
		check_next(second, second_len, &packet, &keys);
		fuzz_passed++;
	}
	free_bytes(first);
	free_bytes(second);
	return 0;
}
