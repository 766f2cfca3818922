/* SPDX-License-Identifier: MIT-0 */
/*
 * floor.c - a handler that shows how cheap bulk traffic can be with the kernel's interfaces.
 *
 * Theory of operation
 *
 * It makes the same system calls on the same offloads as gwlbtun (recvmmsg with UDP_GRO, super-packets to and from TUN,
 * UDP_SEGMENT on connected sockets) and parses, merges and splits with gwlbtun's own native/packet.c, merge.c and split.c,
 * in one thread that never sleeps while there is work: no rings, no wake-ups, no switches.  It leaves out all else that a
 * handler needs: it knows one endpoint, believes every header, merges neighbours only, loses what follows a wrong checksum, and holds flows by
 * a hash alone, for ever.  So it is a handler for the generator's bulk workloads and for nothing else.
 *
 * Usage: floor HOOK RECEIVE_BUFFER_MB
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../native/merge.h"
#include "../native/split.h"
#include "devices.h"
#include "failure.h"
#include "geneve.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	BATCH = 128,
	BATCH_BYTES = 256 << 10, /* about as much as stays in the cache */
	ROOM = 65536 + 320,
	SEGMENTS = 64,
	MESSAGE_MAX = 65507,
	GENEVE_HEADER = 40, /* GWLB's */
	FLOWS = 1 << 16,    /* a power of two */
	READS = 8,
};

struct flow {
	uint64_t key; /* the same for both directions; 0: free */
	int fd;
	uint16_t port;
	uint16_t header_len;
	uint8_t header[MAX_HEADER];
};

static uint8_t datagram[BATCH][ROOM];
static struct mmsghdr header[BATCH];
static struct iovec data[BATCH];
static struct sockaddr_in from[BATCH];
static union {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct in_pktinfo))];
} control[BATCH];
static struct gw_packet packets[BATCH * SEGMENTS];
static struct gw_segment segment[BATCH * SEGMENTS];
static uint8_t frame[sizeof(struct gw_vnet_header) + GW_SUPER_PACKET_MAX];
static uint8_t returned[READS][ROOM];
static struct flow flows[FLOWS];
static const char *hook;
static int udp, gwi = -1, gwo = -1;

static void set(int fd, int level, int option, int value)
{
	if (setsockopt(fd, level, option, &value, sizeof(value)) < 0)
		fail("setsockopt");
}

/* ---- Flows --------------------------------------------------------------------------------------------------------*/

static uint64_t mix(const uint8_t *address, size_t size, const uint8_t *port)
{
	uint64_t words[2] = { 0, 0 };

	memcpy(words, address, size);
	words[0] = (words[0] ^ words[1] << 7 ^ (uint64_t)port[0] << 40 ^ (uint64_t)port[1] << 48) *
	           UINT64_C(0x9e3779b97f4a7c15);
	return words[0] ^ words[0] >> 29;
}

static struct flow *find_flow(const uint8_t *packet)
{
	const bool v4 = packet[0] >> 4 == 4;
	const size_t size = v4 ? 4 : 16;
	const uint8_t *addresses = packet + (v4 ? 12 : 8), *ports = packet + (v4 ? (packet[0] & 15) * 4 : 40);
	const uint64_t key = mix(addresses, size, ports) + mix(addresses + size, size, ports + 2);

	for (uint64_t at = key;; at++) {
		struct flow *flow = &flows[at % FLOWS];

		if (flow->key == 0)
			flow->key = key;
		if (flow->key == key)
			return flow;
	}
}

/* Remembers the way back. */
static void learn(const uint8_t *packet, const uint8_t *geneve, size_t geneve_len, const struct sockaddr_in *balancer,
                  struct in_addr own_address)
{
	struct flow *flow = find_flow(packet);
	struct sockaddr_in own = *balancer, peer = *balancer;

	flow->header_len = (uint16_t)geneve_len;
	memcpy(flow->header, geneve, geneve_len);
	if (flow->port == balancer->sin_port)
		return;
	if (flow->port)
		close(flow->fd);
	flow->port = balancer->sin_port;
	flow->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	set(flow->fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(flow->fd, SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20);
	own.sin_addr = own_address;
	peer.sin_port = htons(GENEVE_PORT);
	if (bind(flow->fd, (struct sockaddr *)&own, sizeof(own)) < 0 ||
	    connect(flow->fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		fail("a socket to the load balancer");
}

/* ---- To Linux -----------------------------------------------------------------------------------------------------*/

static void write_frame(struct gw_merge *merge)
{
	struct gw_vnet_header vnet;

	gw_merge_write(merge, &vnet, frame + sizeof(vnet));
	memcpy(frame, &vnet, sizeof(vnet));
	if (write(gwi, frame, sizeof(vnet) + merge->length) < 0 && errno != EIO && errno != EINVAL)
		fail("write");
}

/* Adds the packets of a datagram to segment[].  Returns how many there are then. */
static unsigned take_datagram(unsigned i, unsigned segments)
{
	struct in_addr own_address = { 0 };
	size_t size = header[i].msg_len, geneve_len;
	const uint8_t *first = NULL;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header[i].msg_hdr); cmsg;
	     cmsg = CMSG_NXTHDR(&header[i].msg_hdr, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_GRO) {
			int value;

			memcpy(&value, CMSG_DATA(cmsg), sizeof(value));
			size = (size_t)value;
		} else if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
			own_address = info.ipi_spec_dst;
		}
	}
	for (size_t at = 0; at < header[i].msg_len; at += size) {
		const uint8_t *geneve = datagram[i] + at;
		size_t len = header[i].msg_len - at < size ? header[i].msg_len - at : size;
		uint64_t eni = parse(geneve, len, &geneve_len);

		if (!eni || len < geneve_len + 48)
			continue;
		if (gwi < 0)
			make_devices(eni, hook, IFF_VNET_HDR, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6, &gwi, &gwo);
		if (gw_packet_parse(geneve + geneve_len, len - geneve_len, geneve[geneve_len] >> 4 == 6 ? 6 : 4,
		                    &packets[segments]))
			continue;
		segment[segments] = (struct gw_segment){ &packets[segments], packets[segments].mergeable, false };
		segments++;
		/* The generator makes all packets of a datagram of one flow. */
		if (!first)
			learn(geneve + geneve_len, geneve, geneve_len, &from[i], own_address);
		first = geneve;
	}
	return segments;
}

/* Whether one more segment will still leave with the others, in one message. */
static bool fits_a_message(const struct gw_merge *merge)
{
	return (merge->count + 1) * (merge->segment[0]->packet->len + GENEVE_HEADER) <= MESSAGE_MAX;
}

static void from_balancer(void)
{
	static unsigned wanted = BATCH;
	struct gw_merge merge;
	unsigned segments = 0, bytes = 1;
	int received;

	for (unsigned i = 0; i < wanted; i++) {
		header[i].msg_hdr.msg_namelen = sizeof(from[i]);
		header[i].msg_hdr.msg_controllen = sizeof(control[i]);
	}
	received = recvmmsg(udp, header, wanted, MSG_DONTWAIT, NULL);
	if (received <= 0)
		return;
	for (unsigned i = 0; i < (unsigned)received; i++) {
		segments = take_datagram(i, segments);
		bytes += header[i].msg_len;
	}
	wanted = (unsigned)received * (unsigned)BATCH_BYTES / bytes;
	wanted = wanted > BATCH ? BATCH : wanted < 4 ? 4 : wanted;
	for (unsigned i = 0; i < segments; i++) {
		if (i == 0) {
			gw_merge_start(&merge, &segment[i]);
		} else if (!fits_a_message(&merge) || !gw_merge_join(&merge, &segment[i])) {
			write_frame(&merge);
			gw_merge_start(&merge, &segment[i]);
		}
	}
	if (segments)
		write_frame(&merge);
}

/* ---- From Linux ---------------------------------------------------------------------------------------------------*/

/* Sends as many segments, from `first` on, as fit one message.  Returns which one comes next. */
static unsigned send_some(const struct flow *flow, const struct gw_split *split, unsigned first)
{
	static uint8_t headers[SEGMENTS][MAX_HEADER + GW_SPLIT_HEADER_MAX];
	static struct iovec iov[2 * SEGMENTS];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} cmsg = { .bytes = { 0 } };
	struct msghdr message = { .msg_iov = iov };
	const uint16_t size = (uint16_t)(flow->header_len + split->header_len + split->gso_size);
	unsigned next = first;

	for (unsigned i = 0; next < split->count && i < SEGMENTS && (i + 1) * size <= MESSAGE_MAX; i++, next++) {
		const uint8_t *payload = split->packet;
		uint32_t len = split->len;

		memcpy(headers[i], flow->header, flow->header_len);
		if (split->header_len)
			gw_split_segment(split, next, headers[i] + flow->header_len, &payload, &len);
		iov[message.msg_iovlen++] = (struct iovec){ headers[i], (size_t)flow->header_len + split->header_len };
		iov[message.msg_iovlen++] = (struct iovec){ (void *)(uintptr_t)payload, len };
	}
	if (next - first > 1) {
		message.msg_control = &cmsg;
		message.msg_controllen = sizeof(cmsg);
		cmsg.align.cmsg_level = IPPROTO_UDP;
		cmsg.align.cmsg_type = UDP_SEGMENT;
		cmsg.align.cmsg_len = CMSG_LEN(sizeof(size));
		memcpy(CMSG_DATA(&cmsg.align), &size, sizeof(size));
	}
	if (sendmsg(flow->fd, &message, 0) < 0 && errno != ENOBUFS && errno != EAGAIN)
		fail("sendmsg");
	return next;
}

static void from_linux(void)
{
	for (unsigned i = 0; i < READS; i++) {
		uint8_t *packet = returned[i] + sizeof(struct gw_vnet_header);
		ssize_t len = read(gwo, returned[i], ROOM);
		const struct flow *flow;
		struct gw_vnet_header vnet;
		struct gw_packet parsed;
		struct gw_split split;

		if (len < (ssize_t)sizeof(vnet) + 48)
			return;
		memcpy(&vnet, returned[i], sizeof(vnet));
		if (gw_packet_parse(packet, (size_t)len - sizeof(vnet), packet[0] >> 4 == 6 ? 6 : 4, &parsed) ||
		    gw_split_begin(&split, &vnet, &parsed, packet) < 0)
			continue;
		flow = find_flow(packet);
		for (unsigned next = 0; flow->port && next < split.count;)
			next = send_some(flow, &split, next);
	}
}

int main(int argc, char **argv)
{
	const struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(GENEVE_PORT) };

	if (argc != 3) {
		fprintf(stderr, "usage: floor HOOK RECEIVE_BUFFER_MB\n");
		return 2;
	}
	hook = argv[1];
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (udp < 0)
		fail("socket");
	set(udp, SOL_SOCKET, SO_REUSEADDR, 1); /* connected sockets may come to have the port as well */
	set(udp, SOL_SOCKET, SO_RCVBUFFORCE, atoi(argv[2]) << 20);
	set(udp, IPPROTO_IP, IP_PKTINFO, 1);
	set(udp, IPPROTO_UDP, UDP_GRO, 1);
	if (bind(udp, (const struct sockaddr *)&own, sizeof(own)) < 0)
		fail("bind");
	for (unsigned i = 0; i < BATCH; i++) {
		data[i] = (struct iovec){ datagram[i], ROOM };
		header[i].msg_hdr = (struct msghdr){
			.msg_iov = &data[i], .msg_iovlen = 1, .msg_name = &from[i], .msg_control = &control[i]
		};
	}
	for (;;) {
		struct pollfd ready[2] = { { .fd = udp, .events = POLLIN }, { .fd = gwo, .events = POLLIN } };

		if (poll(ready, 2, -1) < 0)
			fail("poll");
		if (ready[0].revents)
			from_balancer();
		if (gwo >= 0)
			from_linux();
	}
}
