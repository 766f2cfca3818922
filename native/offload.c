/* SPDX-License-Identifier: MIT-0 */
/*
 * offload.c - merge packets into super-packets, split super-packets, and checksums.
 *
 * Theory of operation: pure functions over the caller's memory; no state, no allocation, no system calls.  Nothing here
 * may change what is seen on the wire, so merging and splitting are each defined by the kernel's segmentation of a
 * super-packet (tcp_gso_segment(), __udp_gso_segment(), inet_gso_segment()): gw_split_segment() does the same, and
 * gw_merge_join() takes only what it would restore.
 *
 *   - Segmentation repeats the first header, so that all that it does not vary must be equal: addresses, ports, TTL or
 *     hop limit, TOS or traffic class, flow label, DF, IP and TCP options, ACK number, window.
 *   - It cuts the payload in pieces of one size, of which the last may be shorter; TCP's sequence number grows with it.
 *   - It sets PSH on the last segment only.  Other flags than ACK mean that something happens: never merged.
 *   - It adds one to the IPv4 ID from segment to segment.  Here alone gw_split_segment() differs: with DF and an ID of 0
 *     all segments have 0, as many hosts send them.  The ID of such a datagram carries no meaning (RFC 6864, 4.1), so a
 *     super-packet of Linux's own may be split so, and packets that come with that ID may be merged, and leave with it.
 *   - It computes the checksums anew, and would turn wrong ones into right ones: only packets with the very checksum
 *     that it would compute are merged.  (In ones-complement 0xffff and 0 are equal; TCP and IPv4 come out as 0, UDP as
 *     0xffff.  UDP without a checksum would get one.)
 *
 * All sums are taken over packets as they lie in memory, and a folded one is stored as it is: ones-complement sums come
 * out right in either byte order (RFC 1071, 2(B)).
 */
#include "offload.h"

#include <arpa/inet.h>
#include <string.h>

#define PROTO_TCP 6
#define PROTO_UDP 17

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define TCP_HEADER 20u
#define UDP_HEADER 8u

#define IPV4_DF 0x4000u

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_CWR 0x80u

#define TCP_CSUM_OFFSET 16u
#define UDP_CSUM_OFFSET 6u

/* Bytes from which a loop in vectors is faster than one in words. */
#define VECTORS_PAY 128u

static uint16_t load16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t load32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* As it lies in memory: what sums are made of. */
static uint16_t native16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static void store16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static void store_native16(uint8_t *p, uint16_t value)
{
	memcpy(p, &value, sizeof(value));
}

static void store32(uint8_t *p, uint32_t value)
{
	store16(p, value >> 16);
	store16(p + 2, value);
}

/* ---- Checksums ----------------------------------------------------------------------------------------------------*/

static uint64_t load_word(const uint8_t *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word;
}

/* Up to 7 bytes, as if zeros followed. */
static uint64_t sum_tail(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;
	uint32_t word;
	uint8_t last[2] = { 0, 0 };

	if (len & 4) {
		memcpy(&word, p, sizeof(word));
		sum = word;
		p += 4;
	}
	if (len & 2) {
		sum += native16(p);
		p += 2;
	}
	if (len & 1) {
		last[0] = *p;
		sum += native16(last);
	}
	return sum;
}

static uint64_t add_carry(uint64_t a, uint64_t b)
{
	a += b;
	return a + (a < b);
}

/*
 * The sums of all words, modulo 2^64, and of their upper halves give that of the lower halves, with no carry to look
 * after in less than 2^32 words: a loop that compilers turn into vector instructions.
 */
static inline uint64_t sum_words(const uint8_t *p, size_t words)
{
	uint64_t all = 0, high = 0;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = load_word(p + 8 * i);

		all += word;
		high += word >> 32;
	}
	return add_carry(all - (high << 32), high);
}

static inline uint64_t sum_copy_words(uint8_t *restrict out, const uint8_t *restrict p, size_t words)
{
	uint64_t all = 0, high = 0;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = load_word(p + 8 * i);

		memcpy(out + 8 * i, &word, sizeof(word));
		all += word;
		high += word >> 32;
	}
	return add_carry(all - (high << 32), high);
}

#ifdef __x86_64__
/* Not every x86-64 has it, and it is faster by half. */
__attribute__((target("avx2"))) static uint64_t sum_words_avx2(const uint8_t *p, size_t words)
{
	return sum_words(p, words);
}

__attribute__((target("avx2"))) static uint64_t sum_copy_words_avx2(uint8_t *out, const uint8_t *p, size_t words)
{
	return sum_copy_words(out, p, words);
}
#endif

static uint64_t sum_many_words(const uint8_t *p, size_t words)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_words_avx2(p, words);
#endif
	return sum_words(p, words);
}

static uint64_t sum_copy_many_words(uint8_t *out, const uint8_t *p, size_t words)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_copy_words_avx2(out, p, words);
#endif
	return sum_copy_words(out, p, words);
}

uint64_t gw_sum(const void *data, size_t len, uint64_t sum)
{
	const uint8_t *p = data;

	if (len >= VECTORS_PAY) {
		sum = add_carry(sum, sum_many_words(p, len / 8));
		p += len - len % 8;
		len %= 8;
	}
	for (; len >= 8; len -= 8, p += 8)
		sum = add_carry(sum, load_word(p));
	return add_carry(sum, sum_tail(p, len));
}

uint64_t gw_sum_copy(void *out, const void *data, size_t len, uint64_t sum)
{
	size_t whole = len - len % 8;

	if (len < VECTORS_PAY) {
		memcpy(out, data, len);
		return gw_sum(data, len, sum);
	}
	sum = add_carry(sum, sum_copy_many_words(out, data, len / 8));
	memcpy((uint8_t *)out + whole, (const uint8_t *)data + whole, len - whole);
	return add_carry(sum, sum_tail((const uint8_t *)data + whole, len - whole));
}

uint16_t gw_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint64_t address_sum(const uint8_t *packet)
{
	return packet[0] >> 4 == 4 ? gw_sum(packet + 12, 8, 0) : gw_sum(packet + 8, 32, 0);
}

uint64_t gw_pseudo_sum(const uint8_t *packet, uint8_t protocol, uint32_t l4_len)
{
	return add_carry(address_sum(packet), (uint64_t)htons(protocol) + htonl(l4_len));
}

static uint16_t checksum_of(uint64_t sum)
{
	return (uint16_t)~gw_fold(sum);
}

static unsigned csum_offset(uint8_t protocol)
{
	return protocol == PROTO_TCP ? TCP_CSUM_OFFSET : UDP_CSUM_OFFSET;
}

/* ---- Merge --------------------------------------------------------------------------------------------------------*/

static bool inspect_ipv4(struct gw_segment *s)
{
	const uint8_t *ip = s->data;

	if (s->len < IPV4_HEADER)
		return false;
	s->l4_offset = (uint16_t)((ip[0] & 15u) * 4);
	s->protocol = ip[9];
	return s->l4_offset >= IPV4_HEADER && s->l4_offset <= s->len && load16(ip + 2) == s->len &&
	       (load16(ip + 6) & ~IPV4_DF) == 0;
}

static bool inspect_ipv6(struct gw_segment *s)
{
	if (s->len < IPV6_HEADER)
		return false;
	s->l4_offset = IPV6_HEADER;
	s->protocol = s->data[6];
	return load16(s->data + 4) == s->len - IPV6_HEADER;
}

static bool inspect_tcp(struct gw_segment *s)
{
	const uint8_t *tcp = s->data + s->l4_offset;
	unsigned header_len;

	if (s->len - s->l4_offset < TCP_HEADER)
		return false;
	header_len = (tcp[12] >> 4) * 4u;
	s->payload_offset = (uint16_t)(s->l4_offset + header_len);
	return header_len >= TCP_HEADER && (load16(tcp + 12) & 0x0fff & ~TCP_PSH) == TCP_ACK;
}

static bool inspect_udp(struct gw_segment *s)
{
	const uint8_t *udp = s->data + s->l4_offset;

	if (s->len - s->l4_offset < UDP_HEADER)
		return false;
	s->payload_offset = (uint16_t)(s->l4_offset + UDP_HEADER);
	return load16(udp + 4) == s->len - s->l4_offset && load16(udp + UDP_CSUM_OFFSET) != 0;
}

void gw_segment_inspect(struct gw_segment *segment, const uint8_t *packet, uint32_t len)
{
	*segment = (struct gw_segment){ .data = packet, .len = len };
	if (len == 0 || len > GW_SUPER_PACKET_MAX)
		return;
	segment->ip_version = packet[0] >> 4;
	if (segment->ip_version == 4 ? !inspect_ipv4(segment) : segment->ip_version != 6 || !inspect_ipv6(segment))
		return;
	if (segment->protocol == PROTO_TCP ? !inspect_tcp(segment) :
	                                     segment->protocol != PROTO_UDP || !inspect_udp(segment))
		return;
	segment->mergeable = segment->payload_offset < len;
}

static uint32_t payload_of(const struct gw_segment *s)
{
	return s->len - s->payload_offset;
}

static bool has_psh(const struct gw_segment *s)
{
	return s->protocol == PROTO_TCP && s->data[s->l4_offset + 13] & TCP_PSH;
}

void gw_merge_start(struct gw_merge *merge, struct gw_segment *segment)
{
	merge->segment[0] = segment;
	merge->count = 1;
	merge->length = segment->len;
	merge->ended = !segment->mergeable || has_psh(segment);
}

/* Which bits of the fixed headers segmentation repeats.  It does not: lengths, IPv4 ID, checksums, sequence, PSH. */
static const uint8_t ipv4_repeated[IPV4_HEADER] = { 0xff, 0xff, 0,    0,    0,    0,    0xff, 0xff, 0xff, 0xff,
	                                            0,    0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t ipv6_repeated[8] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff };
static const uint8_t tcp_repeated[TCP_HEADER] = { 0xff, 0xff, 0xff, 0xff, 0,
	                                          0,    0,    0,    0xff, 0xff,
	                                          0xff, 0xff, 0xff, 0xff & ~TCP_PSH, 0xff,
	                                          0xff, 0,    0,    0xff, 0xff };
static const uint8_t udp_repeated[4] = { 0xff, 0xff, 0xff, 0xff };

/* What differs, by 4 bytes at a time; a mask of NULL: anywhere. */
static inline uint32_t difference(const uint8_t *a, const uint8_t *b, const uint8_t *mask, size_t len)
{
	uint32_t differs = 0;

	for (size_t i = 0; i < len; i += 4) {
		uint32_t x, y, m = UINT32_MAX;

		memcpy(&x, a + i, sizeof(x));
		memcpy(&y, b + i, sizeof(y));
		if (mask)
			memcpy(&m, mask + i, sizeof(m));
		differs |= (x ^ y) & m;
	}
	return differs;
}

/* In every field that segmentation repeats. */
static bool same_headers(const struct gw_segment *a, const struct gw_segment *b)
{
	const uint8_t *l4_a = a->data + a->l4_offset, *l4_b = b->data + b->l4_offset;
	uint32_t differs;

	if (a->ip_version != b->ip_version || a->l4_offset != b->l4_offset || a->payload_offset != b->payload_offset)
		return false;
	if (a->ip_version == 4) {
		differs = difference(a->data, b->data, ipv4_repeated, IPV4_HEADER);
		differs |= difference(a->data + IPV4_HEADER, b->data + IPV4_HEADER, NULL, a->l4_offset - IPV4_HEADER);
	} else {
		differs = difference(a->data, b->data, ipv6_repeated, sizeof(ipv6_repeated));
		differs |= difference(a->data + 8, b->data + 8, NULL, IPV6_HEADER - 8);
	}
	if (a->protocol == PROTO_UDP)
		return !(differs | difference(l4_a, l4_b, udp_repeated, sizeof(udp_repeated)));
	differs |= difference(l4_a, l4_b, tcp_repeated, TCP_HEADER);
	differs |= difference(l4_a + TCP_HEADER, l4_b + TCP_HEADER, NULL,
	                      (size_t)(a->payload_offset - a->l4_offset) - TCP_HEADER);
	return !differs;
}

/* By how much the IPv4 ID grows from segment to segment of a super-packet with this header. */
static unsigned id_step(const uint8_t *ip)
{
	return load16(ip + 4) == 0 && load16(ip + 6) & IPV4_DF ? 0 : 1;
}

static bool id_follows(const struct gw_merge *merge, const struct gw_segment *segment)
{
	const uint8_t *first = merge->segment[0]->data;

	return segment->ip_version == 6 ||
	       load16(segment->data + 4) == (uint16_t)(load16(first + 4) + merge->count * id_step(first));
}

static bool sequence_follows(const struct gw_merge *merge, const struct gw_segment *segment)
{
	const struct gw_segment *first = merge->segment[0];
	uint32_t carried = merge->length - first->payload_offset;

	return segment->protocol == PROTO_UDP ||
	       load32(segment->data + segment->l4_offset + 4) == load32(first->data + first->l4_offset + 4) + carried;
}

bool gw_merge_join(struct gw_merge *merge, struct gw_segment *segment)
{
	const struct gw_segment *first = merge->segment[0];

	if (merge->ended || !segment->mergeable || merge->count == GW_MERGE_MAX || !same_headers(first, segment) ||
	    payload_of(segment) > payload_of(first) || merge->length + payload_of(segment) > GW_SUPER_PACKET_MAX ||
	    !sequence_follows(merge, segment) || !id_follows(merge, segment))
		return false;
	merge->segment[merge->count++] = segment;
	merge->length += payload_of(segment);
	merge->ended = payload_of(segment) < payload_of(first) || has_psh(segment);
	return true;
}

/* Copies the payload; false if checksums are wrong, or not as segmentation would write them. */
static bool copy_payload(struct gw_segment *s, uint8_t *out)
{
	const uint8_t *l4 = s->data + s->l4_offset, *payload = s->data + s->payload_offset;
	uint64_t sum = gw_sum(l4, (size_t)(s->payload_offset - s->l4_offset),
	                      gw_pseudo_sum(s->data, s->protocol, s->len - s->l4_offset));
	bool right = gw_fold(gw_sum_copy(out, payload, payload_of(s), sum)) == 0xffff;

	if (s->ip_version == 4)
		right &= load16(s->data + 10) != 0xffff && gw_fold(gw_sum(s->data, s->l4_offset, 0)) == 0xffff;
	if (s->protocol == PROTO_TCP)
		right &= load16(l4 + TCP_CSUM_OFFSET) != 0xffff;
	return right;
}

static bool verify_and_copy(struct gw_segment *s, uint8_t *out)
{
	if (s->verified)
		memcpy(out, s->data + s->payload_offset, payload_of(s));
	else
		s->verified = s->mergeable = copy_payload(s, out);
	return s->verified;
}

/* Copies the packets of the run, without the headers of all but the first. */
static void copy_run(struct gw_merge *merge, uint8_t *out)
{
	struct gw_segment *first = merge->segment[0];
	const unsigned joined = merge->count;

	merge->count = 1;
	merge->length = first->len;
	if (joined == 1) {
		memcpy(out, first->data, first->len);
		return;
	}
	memcpy(out, first->data, first->payload_offset);
	if (!verify_and_copy(first, out + first->payload_offset))
		return;
	while (merge->count < joined && verify_and_copy(merge->segment[merge->count], out + merge->length))
		merge->length += payload_of(merge->segment[merge->count++]);
}

void gw_merge_write(struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out)
{
	const struct gw_segment *first = merge->segment[0], *last;
	uint8_t *l4 = out + first->l4_offset;
	uint32_t l4_len;

	memset(vnet, 0, sizeof(*vnet));
	copy_run(merge, out);
	if (merge->count == 1)
		return;
	last = merge->segment[merge->count - 1];
	l4_len = merge->length - first->l4_offset;
	if (first->ip_version == 4) {
		store16(out + 2, merge->length);
		store16(out + 10, 0);
		store_native16(out + 10, checksum_of(gw_sum(out, first->l4_offset, 0)));
	} else {
		store16(out + 4, l4_len);
	}
	if (first->protocol == PROTO_TCP) {
		l4[13] = last->data[last->l4_offset + 13];
		vnet->gso_type = first->ip_version == 4 ? GW_VNET_GSO_TCPV4 : GW_VNET_GSO_TCPV6;
	} else {
		store16(l4 + 4, l4_len);
		vnet->gso_type = GW_VNET_GSO_UDP_L4;
	}
	vnet->flags = GW_VNET_NEEDS_CSUM;
	vnet->hdr_len = first->payload_offset;
	vnet->gso_size = (uint16_t)payload_of(first);
	vnet->csum_start = first->l4_offset;
	vnet->csum_offset = (uint16_t)csum_offset(first->protocol);
	store_native16(l4 + vnet->csum_offset, gw_fold(gw_pseudo_sum(out, first->protocol, l4_len)));
}

/* ---- Split --------------------------------------------------------------------------------------------------------*/

/* As skb_checksum_help(): whatever the protocol, 0 becomes 0xffff. */
static bool complete_checksum(uint8_t *packet, size_t len, unsigned start, unsigned offset)
{
	uint16_t checksum;

	if (start + offset + sizeof(checksum) > len)
		return false;
	checksum = checksum_of(gw_sum(packet + start, len - start, 0));
	store_native16(packet + start + offset, checksum ? checksum : 0xffff);
	return true;
}

static bool find_ipv4(struct gw_split *s)
{
	if (s->len < IPV4_HEADER || load16(s->packet + 2) != s->len)
		return false;
	s->l4_offset = (uint16_t)((s->packet[0] & 15u) * 4);
	return s->l4_offset >= IPV4_HEADER && s->packet[9] == s->protocol;
}

/* Only csum_start tells where the extension headers end, if there are any. */
static bool find_ipv6(struct gw_split *s, const struct gw_vnet_header *vnet)
{
	if (s->len < IPV6_HEADER || load16(s->packet + 4) != s->len - IPV6_HEADER)
		return false;
	s->l4_offset = vnet->flags & GW_VNET_NEEDS_CSUM ? vnet->csum_start : IPV6_HEADER;
	return s->packet[6] == s->protocol ? s->l4_offset == IPV6_HEADER : s->l4_offset > IPV6_HEADER;
}

static bool find_headers(struct gw_split *s, const struct gw_vnet_header *vnet)
{
	unsigned header_len = UDP_HEADER;

	s->ip_version = s->packet[0] >> 4;
	switch (vnet->gso_type & ~GW_VNET_GSO_ECN) {
	case GW_VNET_GSO_TCPV4:
		s->protocol = PROTO_TCP;
		if (s->ip_version != 4)
			return false;
		break;
	case GW_VNET_GSO_TCPV6:
		s->protocol = PROTO_TCP;
		if (s->ip_version != 6)
			return false;
		break;
	case GW_VNET_GSO_UDP_L4:
		s->protocol = PROTO_UDP;
		break;
	default:
		return false;
	}
	if (s->ip_version == 4 ? !find_ipv4(s) : s->ip_version != 6 || !find_ipv6(s, vnet))
		return false;
	if (s->protocol == PROTO_TCP) {
		if (s->l4_offset + TCP_HEADER > s->len)
			return false;
		header_len = (s->packet[s->l4_offset + 12] >> 4) * 4u;
		if (header_len < TCP_HEADER)
			return false;
	}
	header_len += s->l4_offset;
	s->header_len = (uint16_t)header_len;
	return header_len < s->len && header_len <= GW_SPLIT_HEADER_MAX;
}

/* Takes the 16 bits at p out of the sum. */
static uint64_t without(uint64_t sum, const uint8_t *p)
{
	return add_carry(sum, (uint16_t)~native16(p));
}

/*
 * What is in the checksum field of a packet that needs one is the sum of its pseudo-header.  The addresses in that may
 * be others than the header's (RFC 8200, 8.1: where a routing header leads to), so only its length is replaced.
 */
static void sum_common(struct gw_split *s, bool needs_csum)
{
	const uint8_t *l4 = s->packet + s->l4_offset, *checksum = l4 + csum_offset(s->protocol);
	uint16_t l4_len = htons((uint16_t)(s->len - s->l4_offset));
	uint64_t sum;

	if (needs_csum)
		sum = (uint64_t)native16(checksum) + (uint16_t)~l4_len;
	else
		sum = gw_pseudo_sum(s->packet, s->protocol, 0);

	sum = without(gw_sum(l4, (size_t)(s->header_len - s->l4_offset), sum), checksum);
	if (s->protocol == PROTO_TCP) {
		sum = without(without(sum, l4 + 4), l4 + 6);
		sum = without(sum, l4 + 12);
	} else {
		sum = without(sum, l4 + 4);
	}
	s->l4_sum = gw_fold(sum);
	if (s->ip_version == 4) {
		sum = gw_sum(s->packet, s->l4_offset, 0);
		s->ip_sum = gw_fold(without(without(without(sum, s->packet + 2), s->packet + 4), s->packet + 10));
	}
}

int gw_split_begin(struct gw_split *split, const struct gw_vnet_header *vnet, uint8_t *packet, size_t len)
{
	bool needs_csum = vnet->flags & GW_VNET_NEEDS_CSUM;

	*split = (struct gw_split){ .packet = packet, .len = (uint32_t)len, .count = 1 };
	if (len == 0 || len > IPV6_HEADER + UINT16_MAX)
		return -1;
	if (vnet->gso_type == GW_VNET_GSO_NONE)
		return !needs_csum || complete_checksum(packet, len, vnet->csum_start, vnet->csum_offset) ? 1 : -1;
	if (!find_headers(split, vnet) || vnet->gso_size == 0)
		return -1;
	if (needs_csum && (vnet->csum_start != split->l4_offset || vnet->csum_offset != csum_offset(split->protocol)))
		return -1;
	split->gso_size = vnet->gso_size;
	split->count = (split->len - split->header_len + split->gso_size - 1u) / split->gso_size;
	sum_common(split, needs_csum);
	return (int)split->count;
}

static uint64_t split_tcp(const struct gw_split *s, unsigned i, uint8_t *tcp)
{
	unsigned flags = tcp[13];

	if (i > 0)
		flags &= ~TCP_CWR;
	if (i < s->count - 1)
		flags &= ~(TCP_FIN | TCP_PSH);
	tcp[13] = (uint8_t)flags;
	store32(tcp + 4, load32(tcp + 4) + i * s->gso_size);
	return (uint64_t)native16(tcp + 4) + native16(tcp + 6) + native16(tcp + 12);
}

static uint64_t split_udp(uint8_t *udp, uint32_t l4_len)
{
	store16(udp + 4, l4_len);
	return native16(udp + 4);
}

static const uint8_t *payload_at(const struct gw_split *split, unsigned i)
{
	return split->packet + split->header_len + i * split->gso_size;
}

/* The header of segment i, given the sum of its payload. */
static void write_header(const struct gw_split *split, unsigned i, uint8_t *header, uint64_t payload_sum)
{
	uint32_t l4_len = split->header_len - split->l4_offset + gw_split_payload(split, i);
	uint8_t *l4 = header + split->l4_offset;
	uint16_t checksum;
	uint64_t sum;

	memcpy(header, split->packet, split->header_len);
	if (split->ip_version == 4) {
		store16(header + 2, split->l4_offset + l4_len);
		store16(header + 4, load16(header + 4) + i * id_step(header));
		sum = (uint64_t)split->ip_sum + native16(header + 2) + native16(header + 4);
		store_native16(header + 10, checksum_of(sum));
	} else {
		store16(header + 4, split->l4_offset - IPV6_HEADER + l4_len);
	}
	sum = (uint64_t)split->l4_sum + htons((uint16_t)l4_len);
	sum += split->protocol == PROTO_TCP ? split_tcp(split, i, l4) : split_udp(l4, l4_len);
	checksum = checksum_of(add_carry(sum, payload_sum));
	if (checksum == 0 && split->protocol == PROTO_UDP)
		checksum = 0xffff;
	store_native16(l4 + csum_offset(split->protocol), checksum);
}

void gw_split_write(const struct gw_split *split, unsigned i, uint8_t *out)
{
	uint32_t len = gw_split_payload(split, i);

	if (split->header_len == 0)
		memcpy(out, split->packet, len);
	else
		write_header(split, i, out, gw_sum_copy(out + split->header_len, payload_at(split, i), len, 0));
}

void gw_split_segment(const struct gw_split *split, unsigned i, uint8_t *header, const uint8_t **payload,
                      uint32_t *payload_len)
{
	*payload = payload_at(split, i);
	*payload_len = gw_split_payload(split, i);
	if (split->header_len > 0)
		write_header(split, i, header, gw_sum(*payload, *payload_len, 0));
}
