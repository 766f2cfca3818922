/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_merge.c - packets merged, and split again: what comes out is what went in, to the last byte.
 *
 * Input: the number of packets, then for each how it is made from the one before (see next_packet()), and what that takes.
 */
#include <stdbool.h>

#include "../../native/checksum.h"
#include "../../native/merge.h"
#include "../../native/split.h"
#include "input.h"

#define FRAMES 70u
#define LONGEST 9000u

/* How a packet is made. */
enum {
	ANEW = 1,      /* of the bytes of the input; else from the packet before, as the next one of its flow */
	SHORTER = 2,   /* its payload is cut */
	EDITED = 4,    /* a byte is changed */
	RIGHT = 8,     /* checksums are made right */
	VERIFIED = 16, /* and known to be right */
};

struct made {
	uint8_t *data;
	uint32_t len;
	struct gw_packet packet;
	bool known; /* it is a packet */
};

unsigned long fuzz_passed;

static void parse(struct made *made)
{
	made->known = made->len > 0 &&
	              gw_packet_parse(made->data, made->len, made->data[0] >> 4 == 6 ? 6 : 4, &made->packet) == 0;
	if (!made->known)
		made->packet = (struct gw_packet){ .data = made->data, .len = made->len };
}

static void set_length(struct made *made, uint32_t len)
{
	const bool is_ipv4 = made->packet.family == 4;
	uint8_t *l4 = made->data + made->packet.l4_offset;

	made->len = len;
	gw_store16(made->data + (is_ipv4 ? 2 : 4), is_ipv4 ? len : len - GW_IPV6_HEADER);
	if (made->packet.protocol == GW_PROTO_UDP)
		gw_store16(l4 + 4, len - made->packet.l4_offset);
	parse(made);
}

/* As segmentation would write them. */
static void make_right(struct made *made)
{
	const struct gw_packet *packet = &made->packet;
	const uint32_t l4_len = packet->len - packet->l4_offset;
	uint8_t *l4 = made->data + packet->l4_offset, *field = l4 + gw_checksum_offset(packet->protocol);
	uint16_t sum;

	if (packet->family == 4) {
		gw_store16(made->data + 10, 0);
		gw_store_native16(made->data + 10, gw_checksum_of(gw_sum(made->data, packet->l4_offset, 0)));
	}
	gw_store16(field, 0);
	sum = gw_checksum_of(gw_sum(l4, l4_len, gw_pseudo_sum(made->data, packet->protocol, l4_len)));
	gw_store_native16(field, sum == 0 && packet->protocol == GW_PROTO_UDP ? UINT16_MAX : sum);
}

/* The next one of a flow: ID and sequence number go on. */
static void advance(struct made *made, const struct gw_packet *before)
{
	uint8_t *sequence = made->data + before->l4_offset + 4;
	const uint32_t next = gw_load32(sequence) + before->len - before->payload_offset;

	if (before->family == 4)
		gw_store16(made->data + 4, (uint16_t)(gw_load16(made->data + 4) + gw_vnet_id_step(made->data)));
	if (before->protocol == GW_PROTO_TCP) {
		gw_store32(sequence, next);
	}
}

static struct made next_packet(struct input *input, const struct made *before, struct gw_segment *segment)
{
	const unsigned how = take8(input);
	struct made made = { 0 };

	if (how & ANEW || !before || !before->known) {
		made.len = take16(input) % LONGEST;
		made.data = take_bytes(input, made.len);
	} else {
		made.len = before->len;
		made.data = new_bytes(made.len);
		memcpy(made.data, before->data, made.len);
		if (before->packet.mergeable)
			advance(&made, &before->packet);
	}
	parse(&made);
	if (how & SHORTER && made.packet.mergeable)
		set_length(&made, made.packet.payload_offset + 1 +
		                          take16(input) % (made.packet.len - made.packet.payload_offset));
	if (how & EDITED && made.len > 0) {
		const unsigned at = take16(input) % made.len;

		made.data[at] = take8(input);
		parse(&made);
	}
	if (how & RIGHT && made.packet.mergeable) {
		make_right(&made);
		parse(&made);
	}
	*segment = (struct gw_segment){ .mergeable = made.packet.mergeable,
		                        .verified = made.packet.mergeable && (how & RIGHT) && (how & VERIFIED) };
	return made;
}

/* Splits what was merged, and compares. */
static void check_split(const struct gw_merge *merge, const struct gw_vnet_header *vnet, uint8_t *super)
{
	struct gw_packet packet;
	struct gw_split split;

	require(gw_packet_parse(super, merge->length, super[0] >> 4, &packet) == 0 && packet.len == merge->length);
	require(gw_split_begin(&split, vnet, &packet, super) == (int)merge->count);
	for (unsigned i = 0; i < merge->count; i++) {
		const struct gw_packet *original = merge->segment[i]->packet;
		uint8_t *out = new_bytes(split.header_len + gw_split_payload(&split, i));

		require(split.header_len + gw_split_payload(&split, i) == original->len);
		gw_split_write(&split, i, out);
		require(memcmp(out, original->data, original->len) == 0);
		free_bytes(out);
	}
}

/* How many packets it took. */
static unsigned write_out(struct gw_merge *merge)
{
	const uint32_t room = merge->length;
	struct gw_vnet_header vnet;
	uint8_t *out = new_bytes(room);

	gw_merge_write(merge, &vnet, out);
	require(merge->count > 0 && merge->length <= room && merge->length <= GW_SUPER_PACKET_MAX);
	if (merge->count > 1)
		check_split(merge, &vnet, out);
	else
		require(memcmp(out, merge->segment[0]->packet->data, merge->length) == 0);
	fuzz_passed += merge->count - 1;
	free_bytes(out);
	return merge->count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_segment segment[FRAMES];
	struct made made[FRAMES];
	struct gw_merge merge;
	struct input input = { data, size };
	const unsigned count = 1 + take8(&input) % FRAMES;

	for (unsigned i = 0; i < count; i++) {
		made[i] = next_packet(&input, i > 0 ? &made[i - 1] : NULL, &segment[i]);
		segment[i].packet = &made[i].packet;
	}
	for (unsigned i = 0; i < count; i += write_out(&merge)) {
		gw_merge_start(&merge, &segment[i]);
		for (unsigned k = i + 1; k < count && gw_merge_join(&merge, &segment[k]); k++)
			;
	}
	for (unsigned i = 0; i < count; i++)
		free_bytes(made[i].data);
	return 0;
}
