/* SPDX-License-Identifier: MIT-0 */
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "../failure.h"
#include "bytes.h"
#include "packets.h"

#define FIRST_ENI UINT64_C(0x0be0c40000000001)
#define FIRST_ATTACHMENT UINT64_C(0xa77ac40000000001)

size_t packet_size;
struct head probe;

static struct head *heads; /* opt.flows * opt.burst, a flow's burst together */
static uint8_t *tail;      /* the payload after the identity */
static size_t head_size;   /* of what is used of head.bytes */
static size_t tail_size;
static size_t l4_offset;      /* in head.bytes */
static uint32_t segment_size; /* TCP payload of one packet */
static uint32_t flow_packets; /* of a short flow; 0: flows do not end */
static uint32_t next_flow;    /* the number of the next one */
static uint8_t own_mac[6];

static void advance_short(struct head *head);
static void begin_short(struct head *head, uint32_t sequence);
static void turn_round(struct head *head);
static void swap(uint8_t *fields, size_t size);

/* ---- Made ---------------------------------------------------------------------------------------------------------*/

static void set_sizes(void)
{
	size_t headers = (opt.family == 4 ? 20u : 40u) + (opt.tcp ? 20u : 8u);

	if (opt.size < headers + IDENT)
		usage("--size is too small for the inner headers");
	packet_size = GENEVE_HEADER + opt.size;
	head_size = OUTER + GENEVE_HEADER + headers + IDENT;
	tail_size = opt.size - headers - IDENT;
	l4_offset = OUTER + GENEVE_HEADER + (opt.family == 4 ? 20u : 40u);
	segment_size = opt.tcp ? (uint32_t)(IDENT + tail_size) : 0;
}

static uint32_t mix(uint32_t value)
{
	value = (value ^ value >> 16) * UINT32_C(0x7feb352d);
	value = (value ^ value >> 15) * UINT32_C(0x846ca68b);
	return value ^ value >> 16;
}

uint32_t port_of(uint32_t flow)
{
	return mix(flow) % opt.ports;
}

static uint8_t protocol(void)
{
	return opt.tcp ? IPPROTO_TCP : IPPROTO_UDP;
}

static void make_outer(uint8_t *ethernet, uint32_t flow, struct in_addr source)
{
	uint8_t *ip = ethernet + ETHERNET;
	uint8_t *udp = ip + 20;

	memcpy(ethernet, opt.target_mac, 6);
	memcpy(ethernet + 6, own_mac, 6);
	put16(ethernet + 12, ETHERTYPE_IP);

	ip[0] = 0x45;
	put16(ip + 2, (uint32_t)(20 + 8 + packet_size));
	put16(ip + 6, IP_DF);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	memcpy(ip + 12, &source, 4);
	memcpy(ip + 16, &opt.target, 4);
	put16(ip + 10, (uint16_t)~fold(sum_bytes(ip, 20, 0)));

	put16(udp, FIRST_PORT + port_of(flow));
	put16(udp + 2, GENEVE_PORT);
	put16(udp + 4, (uint32_t)(8 + packet_size));
}

static void make_geneve(uint8_t *geneve, uint32_t flow)
{
	uint32_t endpoint = flow == opt.flows && opt.probe_apart ? opt.endpoints : flow % opt.endpoints;

	geneve[0] = (GENEVE_HEADER - 8) / 4;
	put16(geneve + 2, opt.family == 4 ? ETHERTYPE_IP : ETHERTYPE_IPV6);
	put32(geneve + 8, 0x01080102); /* class 0x0108, type 1, 2 words: the ENI ID */
	put64(geneve + 12, FIRST_ENI + endpoint);
	put32(geneve + 20, 0x01080202);
	put64(geneve + 24, FIRST_ATTACHMENT + endpoint);
	put32(geneve + 32, 0x01080301);
	put32(geneve + 36, mix(flow ^ 0xc00c1e));
}

/* Returns the sum of its addresses. */
static uint32_t make_ip(uint8_t *ip, uint32_t flow)
{
	if (opt.family == 4) {
		ip[0] = 0x45;
		put16(ip + 2, opt.size);
		put16(ip + 6, IP_DF);
		ip[8] = 64;
		ip[9] = protocol();
		put32(ip + 12, 0x0a000000 | flow);
		put32(ip + 16, 0xac100001);
		return sum_bytes(ip + 12, 8, 0);
	}
	ip[0] = 0x60;
	put16(ip + 4, opt.size - 40);
	ip[6] = protocol();
	ip[7] = 64;
	put32(ip + 8, 0x20010db8);
	put32(ip + 20, flow);
	put32(ip + 24, 0x20010db8);
	put32(ip + 36, 1);
	return sum_bytes(ip + 8, 32, 0);
}

static void make_l4(uint8_t *l4, uint32_t flow, size_t size)
{
	put16(l4, 1024 + flow % 64000);
	put16(l4 + 2, 443);
	if (opt.tcp) {
		put32(l4 + 8, 1);
		l4[12] = 5 << 4;
		l4[13] = TH_ACK;
		put16(l4 + 14, 65535);
	} else {
		put16(l4 + 4, (uint32_t)size);
	}
}

static void make_head(struct head *head, uint32_t flow, struct in_addr source)
{
	uint8_t *geneve = head->bytes + OUTER;
	uint8_t *ip = geneve + GENEVE_HEADER;
	uint8_t *l4 = head->bytes + l4_offset;
	size_t l4_size = head_size + tail_size - l4_offset;
	uint32_t sum;

	memset(head, 0, sizeof(*head));
	make_outer(head->bytes, flow, source);
	make_geneve(geneve, flow);
	sum = make_ip(ip, flow) + (uint32_t)l4_size + protocol();
	make_l4(l4, flow, l4_size);
	put32(head->bytes + head_size - IDENT, flow);
	sum = sum_bytes(l4, head_size - l4_offset, fold(sum));
	head->l4_sum = fold(sum_bytes(tail, tail_size, fold(sum)));
	if (opt.family == 4)
		head->ip_sum = fold(sum_bytes(ip, 20, 0));
}

void stamp(struct head *head, uint32_t sequence)
{
	uint8_t *ip = head->bytes + OUTER + GENEVE_HEADER;
	uint8_t *l4 = head->bytes + l4_offset;
	uint32_t tcp_sequence = sequence * segment_size;
	uint32_t sum = head->l4_sum + (sequence >> 16) + (sequence & 0xffff);
	uint16_t checksum;

	head->sequence = sequence;
	if (opt.family == 4) {
		put16(ip + 4, sequence & 0xffff);
		put16(ip + 10, (uint16_t)~fold(head->ip_sum + (sequence & 0xffff)));
	}
	put32(head->bytes + head_size - 4, sequence);
	if (opt.tcp) {
		put32(l4 + 4, tcp_sequence);
		put16(l4 + 16, (uint16_t)~fold(sum + (tcp_sequence >> 16) + (tcp_sequence & 0xffff)));
	} else {
		checksum = (uint16_t)~fold(sum);
		put16(l4 + 6, checksum ? checksum : 0xffff);
	}
}

void make_packets(const uint8_t mac[6])
{
	memcpy(own_mac, mac, sizeof(own_mac));
	set_sizes();
	tail = malloc(tail_size + 1);
	heads = calloc((size_t)opt.flows * opt.burst, sizeof(*heads));
	if (!tail || !heads)
		fail("no memory for the packets");
	for (size_t i = 0; i < tail_size; i++)
		tail[i] = (uint8_t)mix((uint32_t)i);
	for (uint32_t flow = 0; flow < opt.flows; flow++) {
		struct head *burst = burst_of(flow);

		make_head(&burst[0], flow, opt.source);
		for (uint32_t i = 1; i < opt.burst; i++)
			burst[i] = burst[0];
		for (uint32_t i = 0; i < opt.burst; i++)
			stamp(&burst[i], i);
	}
	make_head(&probe, opt.flows, opt.probe_source);
	stamp(&probe, 0);
}

/* ---- Sent ---------------------------------------------------------------------------------------------------------*/

struct head *burst_of(uint32_t flow)
{
	return &heads[(size_t)flow * opt.burst];
}

void frame_pieces(struct iovec pieces[2], struct head *head)
{
	pieces[0] = (struct iovec){ head->bytes, head_size };
	pieces[1] = (struct iovec){ tail, tail_size };
}

void payload_pieces(struct iovec pieces[2], struct head *head)
{
	pieces[0] = (struct iovec){ head->bytes + OUTER, head_size - OUTER };
	pieces[1] = (struct iovec){ tail, tail_size };
}

void advance(uint32_t flow)
{
	struct head *burst = burst_of(flow);

	if (flow_packets) {
		advance_short(burst);
		return;
	}
	for (uint32_t i = 0; i < opt.burst; i++)
		stamp(&burst[i], burst[i].sequence + opt.burst);
}

static void advance_short(struct head *head)
{
	if (head->sequence + 1 >= flow_packets) {
		begin_short(head, 0);
		return;
	}
	turn_round(head);
	stamp(head, head->sequence + 1);
}

static void begin_short(struct head *head, uint32_t sequence)
{
	make_head(head, next_flow, opt.source);
	stamp(head, sequence);
	next_flow = next_flow + 1 < MAX_FLOWS ? next_flow + 1 : opt.flows + 1;
}

static void turn_round(struct head *head)
{
	uint8_t *ip = head->bytes + OUTER + GENEVE_HEADER;
	uint8_t *l4 = head->bytes + l4_offset;

	if (opt.family == 4)
		swap(ip + 12, 4);
	else
		swap(ip + 8, 16);
	swap(l4, 2);
}

/* Two fields of that size, one behind the other. */
static void swap(uint8_t *fields, size_t size)
{
	uint8_t first[16];

	memcpy(first, fields, size);
	memcpy(fields, fields + size, size);
	memcpy(fields + size, first, size);
}

void shorten_flows(uint32_t packets, uint32_t first)
{
	if (opt.burst != 1 || opt.segment || !packets || first <= opt.flows || first >= MAX_FLOWS)
		usage("short: one packet or more, no bursts, and a first flow that is none of --flows");
	flow_packets = packets;
	next_flow = first;
	for (uint32_t place = 0; place < opt.flows; place++)
		begin_short(burst_of(place), place % packets);
}

/* ---- Returned -----------------------------------------------------------------------------------------------------*/

uint32_t flow_in(const uint8_t *data)
{
	return get32(data + head_size - OUTER - IDENT);
}

uint32_t sequence_in(const uint8_t *data)
{
	return get32(data + head_size - OUTER - 4);
}

bool same_packet(const uint8_t *data, size_t length, const struct head *of)
{
	struct head expected = *of;

	if (length != packet_size)
		return false;
	stamp(&expected, sequence_in(data));
	return !memcmp(data, expected.bytes + OUTER, head_size - OUTER) &&
	       !memcmp(data + head_size - OUTER, tail, tail_size);
}
