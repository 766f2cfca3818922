/* SPDX-License-Identifier: MIT-0 */
/*
 * generator.c - plays a Gateway Load Balancer that has much to send.
 *
 * Theory of operation
 *
 * All packets are made before any is sent: for each flow a burst of "heads" (outer Ethernet, IP, UDP and Geneve headers,
 * inner headers, and the flow's number and the packet's sequence number as the first payload bytes), while the rest of
 * the payload, the tail, is the same for all.  Before a head is sent again stamp() advances it: sequence number, TCP
 * sequence, IP ID, and the checksums from sums kept beside it.  A packet is thus a function of its flow and sequence
 * number, so that what returns can be compared with what was sent without having been stored.
 *
 * Packets leave in one of two ways:
 *
 *   single    Whole frames, outer UDP checksum zero as tunnels often have it, through one AF_PACKET socket by sendmmsg.
 *             The kernel of the receiver does not merge datagrams without a checksum (GRO).
 *   segment   A whole burst as one UDP_SEGMENT message, on a connected UDP socket per source port.  A veth pair carries it
 *             unsegmented, so the receiver sees what a network card's GRO would have made of it.
 *
 * As with GWLB the outer source port depends on the flow; here it is one of --ports (512) ports from 49152 on.
 *
 * Returned packets are not received here: that would take time from the handler's core, which does the receiver's softirq
 * work on a veth pair.  Their addressee's MAC address is not this device's, so that the kernel drops them at its first
 * look, and the driver counts them by the device's own counters.  Three exceptions:
 *
 *   probes    One packet in some milliseconds leaves from a second load balancer address, to which returned packets are
 *             delivered: compared byte for byte, and timed by the kernel's receive time stamp (SO_TIMESTAMPNS).
 *   verify    All that returns is captured (AF_PACKET), split where it is a super-packet, and compared byte for byte.
 *   ping      Probes one at a time, with nothing else under way.
 *
 * It takes commands on standard input, one a line, and answers each with one line of JSON on standard output.  "before",
 * "at_end" (of sending) and "after_grace" are the frames and bytes that the device had received by then.
 *
 *   run RATE MILLISECONDS PROBES STAMP   RATE in packets/s, 0: as fast as possible; PROBES per second; STAMP 1: time them
 *   each RATE                            sends until every flow has sent at least one burst more
 *   verify PACKETS RATE
 *   ping COUNT INTERVAL_US
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18 */
#endif
#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20 /* Linux 3.14 */
#endif
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23 /* Linux 4.20 */
#endif

enum {
	GENEVE_PORT = 6081,
	FIRST_PORT = 49152,
	MAX_PORTS = 16384,
	MAX_FLOWS = 1 << 24, /* a flow's number is the low 24 bits of its inner source address */
	MAX_ENDPOINTS = 4096,
	MAX_BURST = 64,
	MAX_PROBES = 1 << 20,

	ETHERNET = 14,
	OUTER = ETHERNET + 20 + 8,
	GENEVE = 40,
	IDENT = 8,
	HEAD = OUTER + GENEVE + 40 + 20 + IDENT, /* the largest: TCP over IPv6 */

	BATCH = 32,             /* messages per sendmmsg: enough to make the system call cheap, few enough to pace well */
	LATE_NS = 3000000,      /* when the sender itself was held up for longer, the time is given up, not made good */
	PING_TIMEOUT_NS = 100000000,
	GRACE_NS = 10000000,    /* what has not returned so long after the last packet left was not carried at that rate */
	DRAIN_NS = 300000000,   /* after the last packet was captured, how long to wait for another */
	SOCKET_BUFFER = 64 << 20,
	WORST_SAMPLES = 100000, /* latencies kept of one command */
};

#define FIRST_ENI UINT64_C(0x0be0c40000000001)
#define FIRST_ATTACHMENT UINT64_C(0xa77ac40000000001)
#define NS_PER_S UINT64_C(1000000000)

/* A packet up to the end of its identity.  The sums are of all that the checksums cover but the fields stamp() sets. */
struct head {
	uint32_t sequence;
	uint16_t ip_sum;
	uint16_t l4_sum;
	uint8_t bytes[HEAD];
};

struct options {
	const char *device;
	struct in_addr source;
	struct in_addr probe_source;
	struct in_addr target;
	uint8_t target_mac[6];
	uint32_t flows;
	uint32_t endpoints;
	uint32_t ports;
	uint32_t size; /* of the inner packet */
	uint32_t burst;
	int family;
	bool tcp;
	bool segment;
};

static struct options opt = {.flows = 64, .endpoints = 1, .ports = 512, .size = 128, .burst = 1, .family = 4};

static struct head *heads;    /* flows * burst, a flow's burst together */
static struct head probe;     /* of a flow of its own, number opt.flows */
static uint8_t *tail;         /* the payload after the identity */
static size_t head_size;      /* of what is used of head.bytes */
static size_t tail_size;
static size_t l4_offset;      /* in head.bytes */
static size_t packet_size;    /* the outer UDP payload */
static uint32_t segment_size; /* TCP payload of one packet */
static uint8_t own_mac[6];
static uint32_t next_flow;

static int frame_fd = -1;
static int *port_fds;
static int probe_send_fd = -1;
static int probe_receive_fd = -1;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
	exit(1);
}

static _Noreturn void usage(const char *what)
{
	fprintf(stderr, "generator: %s\n", what);
	exit(2);
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static void put64(uint8_t *at, uint64_t value)
{
	put32(at, (uint32_t)(value >> 32));
	put32(at + 4, (uint32_t)value);
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* RFC 1071. */
static uint32_t sum_bytes(const uint8_t *at, size_t length, uint32_t sum)
{
	for (; length > 1; at += 2, length -= 2)
		sum += (uint32_t)at[0] << 8 | at[1];
	if (length)
		sum += (uint32_t)at[0] << 8;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* Makes the head its flow's packet of this sequence number. */
static void stamp(struct head *head, uint32_t sequence)
{
	uint8_t *ip = head->bytes + OUTER + GENEVE;
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

static uint32_t mix(uint32_t value)
{
	value = (value ^ value >> 16) * UINT32_C(0x7feb352d);
	value = (value ^ value >> 15) * UINT32_C(0x846ca68b);
	return value ^ value >> 16;
}

static uint32_t flow_port(uint32_t flow)
{
	return mix(flow) % opt.ports;
}

static void make_head(struct head *head, uint32_t flow, struct in_addr source)
{
	uint8_t *ethernet = head->bytes;
	uint8_t *outer_ip = ethernet + ETHERNET;
	uint8_t *outer_udp = outer_ip + 20;
	uint8_t *geneve = outer_udp + 8;
	uint8_t *ip = geneve + GENEVE;
	uint8_t *l4 = head->bytes + l4_offset;
	size_t l4_size = head_size + tail_size - l4_offset;
	uint32_t endpoint = flow % opt.endpoints;
	uint32_t sum;

	memset(head, 0, sizeof(*head));
	memcpy(ethernet, opt.target_mac, 6);
	memcpy(ethernet + 6, own_mac, 6);
	put16(ethernet + 12, ETHERTYPE_IP);

	outer_ip[0] = 0x45;
	put16(outer_ip + 2, (uint32_t)(20 + 8 + packet_size));
	put16(outer_ip + 6, IP_DF);
	outer_ip[8] = 64;
	outer_ip[9] = IPPROTO_UDP;
	memcpy(outer_ip + 12, &source, 4);
	memcpy(outer_ip + 16, &opt.target, 4);
	put16(outer_ip + 10, (uint16_t)~fold(sum_bytes(outer_ip, 20, 0)));
	put16(outer_udp, FIRST_PORT + flow_port(flow));
	put16(outer_udp + 2, GENEVE_PORT);
	put16(outer_udp + 4, (uint32_t)(8 + packet_size));

	geneve[0] = (GENEVE - 8) / 4;
	put16(geneve + 2, opt.family == 4 ? ETHERTYPE_IP : ETHERTYPE_IPV6);
	put32(geneve + 8, 0x01080102); /* class 0x0108, type 1, 2 words: the ENI ID */
	put64(geneve + 12, FIRST_ENI + endpoint);
	put32(geneve + 20, 0x01080202);
	put64(geneve + 24, FIRST_ATTACHMENT + endpoint);
	put32(geneve + 32, 0x01080301);
	put32(geneve + 36, mix(flow ^ 0xc00c1e));

	if (opt.family == 4) {
		ip[0] = 0x45;
		put16(ip + 2, opt.size);
		put16(ip + 6, IP_DF);
		ip[8] = 64;
		ip[9] = opt.tcp ? IPPROTO_TCP : IPPROTO_UDP;
		put32(ip + 12, 0x0a000000 | flow);
		put32(ip + 16, 0xac100001);
		sum = sum_bytes(ip + 12, 8, 0);
	} else {
		ip[0] = 0x60;
		put16(ip + 4, opt.size - 40);
		ip[6] = opt.tcp ? IPPROTO_TCP : IPPROTO_UDP;
		ip[7] = 64;
		put32(ip + 8, 0x20010db8);
		put32(ip + 20, flow);
		put32(ip + 24, 0x20010db8);
		put32(ip + 36, 1);
		sum = sum_bytes(ip + 8, 32, 0);
	}
	sum += (uint32_t)l4_size + (opt.tcp ? IPPROTO_TCP : IPPROTO_UDP);

	put16(l4, 1024 + flow % 64000);
	put16(l4 + 2, 443);
	if (opt.tcp) {
		put32(l4 + 8, 1);
		l4[12] = 5 << 4;
		l4[13] = TH_ACK;
		put16(l4 + 14, 65535);
	} else {
		put16(l4 + 4, (uint32_t)l4_size);
	}
	put32(head->bytes + head_size - IDENT, flow);
	sum = sum_bytes(l4, head_size - l4_offset, fold(sum));
	head->l4_sum = fold(sum_bytes(tail, tail_size, fold(sum)));
	if (opt.family == 4)
		head->ip_sum = fold(sum_bytes(ip, 20, 0));
}

static void set_sizes(void)
{
	size_t headers = (opt.family == 4 ? 20u : 40u) + (opt.tcp ? 20u : 8u);

	if (opt.size < headers + IDENT)
		usage("--size is too small for the inner headers");
	packet_size = GENEVE + opt.size;
	head_size = OUTER + GENEVE + headers + IDENT;
	tail_size = opt.size - headers - IDENT;
	l4_offset = OUTER + GENEVE + (opt.family == 4 ? 20u : 40u);
	segment_size = opt.tcp ? (uint32_t)(IDENT + tail_size) : 0;
}

static void make_packets(void)
{
	tail = malloc(tail_size + 1);
	heads = calloc((size_t)opt.flows * opt.burst, sizeof(*heads));
	if (!tail || !heads)
		fail("no memory for the packets");
	for (size_t i = 0; i < tail_size; i++)
		tail[i] = (uint8_t)mix((uint32_t)i);
	for (uint32_t flow = 0; flow < opt.flows; flow++) {
		struct head *burst = &heads[(size_t)flow * opt.burst];

		make_head(&burst[0], flow, opt.source);
		for (uint32_t i = 1; i < opt.burst; i++)
			burst[i] = burst[0];
		for (uint32_t i = 0; i < opt.burst; i++)
			stamp(&burst[i], i);
	}
	make_head(&probe, opt.flows, opt.probe_source);
	stamp(&probe, 0);
}

static void advance(uint32_t flow)
{
	struct head *burst = &heads[(size_t)flow * opt.burst];

	for (uint32_t i = 0; i < opt.burst; i++)
		stamp(&burst[i], burst[i].sequence + opt.burst);
}

/* ---- Sockets ------------------------------------------------------------------------------------------------------*/

static void set_option(int fd, int level, int name, int value, const char *what)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		fail(what);
}

static int packet_socket(int protocol)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol)};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0)
		fail("AF_PACKET socket");
	if (protocol) {
		set_option(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
		set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER, "SO_RCVBUFFORCE");
	}
	at.sll_ifindex = (int)if_nametoindex(opt.device);
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		fail(opt.device);
	return fd;
}

static int udp_socket(struct in_addr source, uint32_t port, bool connected)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = source};
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(GENEVE_PORT), .sin_addr = opt.target};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		fail("UDP socket");
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		fail("bind");
	if (connected && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		fail("connect");
	return fd;
}

static void open_sockets(void)
{
	struct ifreq request = {0};

	frame_fd = packet_socket(0);
	set_option(frame_fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
	strncpy(request.ifr_name, opt.device, IFNAMSIZ - 1);
	if (ioctl(frame_fd, SIOCGIFHWADDR, &request) < 0)
		fail("SIOCGIFHWADDR");
	memcpy(own_mac, request.ifr_hwaddr.sa_data, 6);

	probe_send_fd = udp_socket(opt.probe_source, FIRST_PORT + flow_port(opt.flows), true);
	probe_receive_fd = udp_socket(opt.probe_source, GENEVE_PORT, false);
	set_option(probe_receive_fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER, "SO_RCVBUFFORCE");

	if (!opt.segment)
		return;
	port_fds = malloc(opt.ports * sizeof(*port_fds));
	if (!port_fds)
		fail("sockets");
	memset(port_fds, 0xff, opt.ports * sizeof(*port_fds));
	for (uint32_t flow = 0; flow < opt.flows; flow++) {
		int *fd = &port_fds[flow_port(flow)];

		if (*fd >= 0)
			continue;
		*fd = udp_socket(opt.source, FIRST_PORT + flow_port(flow), true);
		set_option(*fd, IPPROTO_UDP, UDP_SEGMENT, (int)packet_size, "UDP_SEGMENT");
	}
}

/* ---- Sending ------------------------------------------------------------------------------------------------------*/

/* The next flow's burst as one message.  Returns the packets sent: the burst, or 0 if the kernel had no room. */
static uint32_t send_segmented(void)
{
	struct iovec iov[2 * MAX_BURST];
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2 * opt.burst};
	uint32_t flow = next_flow;
	struct head *burst = &heads[(size_t)flow * opt.burst];

	for (uint32_t i = 0; i < opt.burst; i++) {
		iov[2 * i] = (struct iovec){burst[i].bytes + OUTER, head_size - OUTER};
		iov[2 * i + 1] = (struct iovec){tail, tail_size};
	}
	if (sendmsg(port_fds[flow_port(flow)], &message, 0) < 0) {
		if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
			fail("sendmsg");
		return 0;
	}
	advance(flow);
	next_flow = flow + 1 == opt.flows ? 0 : flow + 1;
	return opt.burst;
}

/* Up to `bursts` bursts, each of another flow, as single frames by one sendmmsg.  Returns the packets sent. */
static uint32_t send_single(uint32_t bursts)
{
	struct mmsghdr messages[BATCH + MAX_BURST];
	struct iovec iov[BATCH + MAX_BURST][2];
	uint32_t first = next_flow;
	uint32_t taken = 0, count = 0;
	int sent;

	memset(messages, 0, sizeof(messages));
	for (; taken < bursts && taken < opt.flows && count < BATCH; taken++) {
		struct head *burst = &heads[(size_t)next_flow * opt.burst];

		for (uint32_t i = 0; i < opt.burst; i++, count++) {
			iov[count][0] = (struct iovec){burst[i].bytes, head_size};
			iov[count][1] = (struct iovec){tail, tail_size};
			messages[count].msg_hdr = (struct msghdr){.msg_iov = iov[count], .msg_iovlen = 2};
		}
		next_flow = next_flow + 1 == opt.flows ? 0 : next_flow + 1;
	}
	for (uint32_t done = 0; done < count; done += (uint32_t)sent) {
		sent = sendmmsg(frame_fd, messages + done, count - done, 0);
		if (sent < 0 && errno != ENOBUFS && errno != EAGAIN)
			fail("sendmmsg");
		sent = sent < 0 ? 0 : sent;
	}
	for (uint32_t i = 0; i < taken; i++)
		advance((first + i) % opt.flows);
	return count;
}

static uint32_t send_bursts(uint32_t bursts)
{
	return opt.segment ? send_segmented() : send_single(bursts);
}

/* ---- Probes -------------------------------------------------------------------------------------------------------*/

static uint64_t *probe_sent_ns; /* by sequence number, CLOCK_REALTIME */
static uint32_t probe_first;    /* the first of the command under way */
static uint32_t probe_next;
static uint32_t probes_back;
static uint32_t probes_wrong;
static uint64_t *samples;
static size_t sample_count;

static void probes_begin(void)
{
	probe_first = probe_next;
	probes_back = 0;
	probes_wrong = 0;
	sample_count = 0;
}

static void probe_send(void)
{
	struct iovec iov[2] = {{probe.bytes + OUTER, head_size - OUTER}, {tail, tail_size}};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};

	stamp(&probe, probe_next);
	probe_sent_ns[probe_next % MAX_PROBES] = now_ns(CLOCK_REALTIME);
	probe_next++;
	if (sendmsg(probe_send_fd, &message, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
		fail("probe");
}

/* Is it, byte for byte, the head's flow's packet of the sequence number that it carries?  data: the UDP payload. */
static bool same_packet(const uint8_t *data, size_t length, const struct head *of)
{
	struct head expected = *of;

	if (length != packet_size)
		return false;
	stamp(&expected, get32(data + head_size - OUTER - 4));
	return !memcmp(data, expected.bytes + OUTER, head_size - OUTER) &&
	       !memcmp(data + head_size - OUTER, tail, tail_size);
}

/* Takes one returned probe, if there is one. */
static bool probe_receive(void)
{
	static uint8_t data[65536];
	union {
		char bytes[CMSG_SPACE(sizeof(struct timespec))];
		struct cmsghdr align;
	} control;
	struct sockaddr_in from;
	struct iovec iov = {data, sizeof(data)};
	struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1,
	                         .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
	ssize_t length = recvmsg(probe_receive_fd, &message, MSG_DONTWAIT);
	struct cmsghdr *header;
	struct timespec stamped;
	uint32_t sequence;
	uint64_t received;

	if (length < 0)
		return false;
	if (!same_packet(data, (size_t)length, &probe) || from.sin_addr.s_addr != opt.target.s_addr ||
	    ntohs(from.sin_port) != FIRST_PORT + flow_port(opt.flows)) {
		probes_wrong++;
		return true;
	}
	sequence = get32(data + head_size - OUTER - 4);
	if (sequence - probe_first >= probe_next - probe_first)
		return true; /* of an earlier command: too late */
	probes_back++;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SO_TIMESTAMPNS || sample_count == WORST_SAMPLES)
		return true;
	memcpy(&stamped, CMSG_DATA(header), sizeof(stamped));
	received = (uint64_t)stamped.tv_sec * NS_PER_S + (uint64_t)stamped.tv_nsec;
	samples[sample_count++] = received - probe_sent_ns[sequence % MAX_PROBES];
	return true;
}

static int compare_samples(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

static double percentile_us(double share)
{
	if (!sample_count)
		return 0;
	return (double)samples[(size_t)(share * (double)(sample_count - 1))] / 1000;
}

static void print_probes(void)
{
	qsort(samples, sample_count, sizeof(*samples), compare_samples);
	printf("\"probes\": {\"sent\": %u, \"back\": %u, \"wrong\": %u, \"timed\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"max_us\": %.3f}",
	       probe_next - probe_first, probes_back, probes_wrong, sample_count, percentile_us(0.5), percentile_us(0.99),
	       percentile_us(1));
}

/* ---- Commands -----------------------------------------------------------------------------------------------------*/

/*
 * Sends at the rate (packets/s; 0: as fast as possible) until the time is over or the packets are sent, probes among
 * them, calling each() between batches.  Returns the packets sent, probes not counted.
 */
static uint64_t send_at_rate(uint64_t rate, uint64_t duration_ns, uint64_t packets, uint64_t probes_per_s,
                             void (*each)(void), uint64_t *given_up_ns)
{
	uint64_t start = now_ns(CLOCK_MONOTONIC);
	uint64_t begin = start;
	uint64_t sent = 0, paced = 0, now = start;
	uint64_t probe_interval = probes_per_s ? NS_PER_S / probes_per_s : 0;
	uint64_t next_probe = start + probe_interval;

	*given_up_ns = 0;
	while (now - begin < duration_ns && sent < packets) {
		uint64_t bursts = BATCH;

		if (probe_interval && now >= next_probe) {
			probe_send();
			next_probe = now + probe_interval;
		}
		if (rate) {
			/* The packets that are due by now, but never more than LATE_NS's worth at once. */
			uint64_t due = (uint64_t)((double)(now - start) * (double)rate / 1e9);
			uint64_t late;

			if (due < paced + opt.burst) {
				now = now_ns(CLOCK_MONOTONIC);
				continue;
			}
			late = (due - paced - opt.burst) * NS_PER_S / rate;
			if (late > LATE_NS) {
				start += late;
				*given_up_ns += late;
				continue;
			}
			bursts = (due - paced) / opt.burst;
		}
		bursts = send_bursts((uint32_t)(bursts < BATCH ? bursts : BATCH));
		sent += bursts;
		paced += bursts;
		if (each)
			each();
		now = now_ns(CLOCK_MONOTONIC);
	}
	return sent;
}

static void drain_probes(void)
{
	while (probe_receive())
		;
}

/* What this device has received so far, as the kernel counts it: a super-packet is one frame under one outer header. */
static void print_returned(const char *name)
{
	unsigned long long bytes = 0, frames = 0;
	size_t length = strlen(opt.device);
	char line[512];
	FILE *file = fopen("/proc/net/dev", "re");

	if (!file)
		fail("/proc/net/dev");
	while (fgets(line, sizeof(line), file)) {
		const char *at = line + strspn(line, " ");

		if (!strncmp(at, opt.device, length) && at[length] == ':')
			sscanf(at + length + 1, "%llu %llu", &bytes, &frames);
	}
	fclose(file);
	printf("\"%s\": [%llu, %llu], ", name, frames, bytes);
}

static void command_run(uint64_t rate, uint64_t milliseconds, uint64_t probes_per_s, bool timed)
{
	uint64_t start, sent, end, given_up;

	set_option(probe_receive_fd, SOL_SOCKET, SO_TIMESTAMPNS, timed, "SO_TIMESTAMPNS");
	drain_probes();
	probes_begin();
	printf("{");
	print_returned("before");
	start = now_ns(CLOCK_MONOTONIC);
	sent = send_at_rate(rate, milliseconds * 1000000, UINT64_MAX, probes_per_s, drain_probes, &given_up);
	end = now_ns(CLOCK_MONOTONIC);
	print_returned("at_end");
	while (now_ns(CLOCK_MONOTONIC) - end < GRACE_NS)
		probe_receive();
	print_returned("after_grace");
	while (probes_back + probes_wrong < probe_next - probe_first && now_ns(CLOCK_MONOTONIC) - end < PING_TIMEOUT_NS)
		probe_receive();
	set_option(probe_receive_fd, SOL_SOCKET, SO_TIMESTAMPNS, 0, "SO_TIMESTAMPNS");
	print_probes();
	printf(", \"sent\": %llu, \"seconds\": %.6f, \"given_up_s\": %.6f}\n",
	       (unsigned long long)(sent + (probe_next - probe_first)), (double)(end - start) / 1e9, (double)given_up / 1e9);
}

static void command_each(uint64_t rate)
{
	uint64_t start = now_ns(CLOCK_MONOTONIC), given_up;
	uint64_t sent = send_at_rate(rate, 60 * NS_PER_S, (uint64_t)opt.flows * opt.burst, 0, NULL, &given_up);

	printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
	       (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9);
}

static int capture_fd = -1;
static uint32_t *verify_next; /* by flow, the sequence number expected */
static uint64_t verify_back, verify_wrong, verify_out_of_order;

/* One returned frame: a packet, or many behind one outer header, which is as the kernel would repeat it for each. */
static void verify_frame(const uint8_t *frame, size_t length)
{
	const uint8_t *ip = frame + ETHERNET, *udp = ip + 20;
	uint32_t flow, sequence;

	if (length < OUTER + packet_size || (length - OUTER) % packet_size || ip[0] != 0x45 || ip[9] != IPPROTO_UDP ||
	    memcmp(ip + 12, &opt.target, 4)) {
		verify_wrong++;
		return;
	}
	for (size_t at = OUTER; at < length; at += packet_size) {
		const uint8_t *data = frame + at;
		struct head *of;

		verify_back++;
		flow = get32(data + head_size - OUTER - IDENT);
		sequence = get32(data + head_size - OUTER - 4);
		if (flow >= opt.flows) {
			verify_wrong++;
			continue;
		}
		of = &heads[(size_t)flow * opt.burst];
		if (memcmp(ip + 16, &opt.source, 4) || memcmp(udp, of->bytes + ETHERNET + 20, 4) || ip[8] != 64 ||
		    !same_packet(data, packet_size, of))
			verify_wrong++;
		else if (sequence != verify_next[flow])
			verify_out_of_order++;
		verify_next[flow] = sequence + 1;
	}
}

static uint8_t capture_buffer[1 << 18];

static bool verify_receive(void)
{
	ssize_t length = recv(capture_fd, capture_buffer, sizeof(capture_buffer), MSG_DONTWAIT | MSG_TRUNC);

	if (length < 0)
		return false;
	verify_frame(capture_buffer, (size_t)length < sizeof(capture_buffer) ? (size_t)length : 0);
	return true;
}

static void drain_capture(void)
{
	while (verify_receive())
		;
}

static void command_verify(uint64_t packets, uint64_t rate)
{
	uint64_t last, sent, given_up;

	capture_fd = packet_socket(ETHERTYPE_IP);
	verify_next = malloc(opt.flows * sizeof(*verify_next));
	if (!verify_next)
		fail("verify");
	for (uint32_t flow = 0; flow < opt.flows; flow++)
		verify_next[flow] = heads[(size_t)flow * opt.burst].sequence;
	verify_back = verify_wrong = verify_out_of_order = 0;
	sent = send_at_rate(rate, 60 * NS_PER_S, packets, 0, drain_capture, &given_up);
	for (last = now_ns(CLOCK_MONOTONIC); now_ns(CLOCK_MONOTONIC) - last < DRAIN_NS && verify_back < sent;)
		if (verify_receive())
			last = now_ns(CLOCK_MONOTONIC);
	printf("{\"sent\": %llu, \"back\": %llu, \"wrong\": %llu, \"out_of_order\": %llu}\n", (unsigned long long)sent,
	       (unsigned long long)verify_back, (unsigned long long)verify_wrong, (unsigned long long)verify_out_of_order);
	free(verify_next);
	close(capture_fd);
}

static void command_ping(uint64_t count, uint64_t interval_us)
{
	struct timespec pause = {(time_t)(interval_us / 1000000), (long)(interval_us % 1000000) * 1000};

	set_option(probe_receive_fd, SOL_SOCKET, SO_TIMESTAMPNS, 1, "SO_TIMESTAMPNS");
	drain_probes();
	probes_begin();
	for (uint64_t i = 0; i < count; i++) {
		uint64_t start = now_ns(CLOCK_MONOTONIC);

		probe_send();
		while (!probe_receive() && now_ns(CLOCK_MONOTONIC) - start < PING_TIMEOUT_NS)
			;
		if (interval_us)
			nanosleep(&pause, NULL);
	}
	set_option(probe_receive_fd, SOL_SOCKET, SO_TIMESTAMPNS, 0, "SO_TIMESTAMPNS");
	printf("{");
	print_probes();
	printf("}\n");
}

static void serve(void)
{
	char line[256];
	unsigned long long a, b, c, d;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %llu %llu %llu %llu", &a, &b, &c, &d) == 4)
			command_run(a, b, c, d != 0);
		else if (sscanf(line, "each %llu", &a) == 1)
			command_each(a);
		else if (sscanf(line, "verify %llu %llu", &a, &b) == 2)
			command_verify(a, b);
		else if (sscanf(line, "ping %llu %llu", &a, &b) == 2)
			command_ping(a, b);
		else
			usage("no such command");
		fflush(stdout);
	}
}

/* ---- Options ------------------------------------------------------------------------------------------------------*/

static uint32_t number(const char *text, uint32_t least, uint32_t most, const char *what)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end || value < least || value > most)
		usage(what);
	return (uint32_t)value;
}

static void parse_options(int argc, char **argv)
{
	static const struct option names[] = {
		{"device", required_argument, NULL, 'd'},  {"source", required_argument, NULL, 's'},
		{"probe", required_argument, NULL, 'o'},   {"target", required_argument, NULL, 't'},
		{"mac", required_argument, NULL, 'm'},     {"flows", required_argument, NULL, 'f'},
		{"endpoints", required_argument, NULL, 'e'}, {"ports", required_argument, NULL, 'p'},
		{"size", required_argument, NULL, 'l'},    {"burst", required_argument, NULL, 'b'},
		{"ipv6", no_argument, NULL, '6'},          {"tcp", no_argument, NULL, 'T'},
		{"segment", no_argument, NULL, 'S'},       {NULL, 0, NULL, 0},
	};
	uint8_t *mac = opt.target_mac;
	int name;

	while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (name) {
		case 'd':
			opt.device = optarg;
			break;
		case 's':
		case 'o':
		case 't':
			if (!inet_aton(optarg, name == 's' ? &opt.source : name == 'o' ? &opt.probe_source : &opt.target))
				usage("not an IPv4 address");
			break;
		case 'm':
			if (sscanf(optarg, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
				usage("--mac: not a MAC address");
			break;
		case 'f':
			opt.flows = number(optarg, 1, MAX_FLOWS - 1, "--flows: 1 to 16777215");
			break;
		case 'e':
			opt.endpoints = number(optarg, 1, MAX_ENDPOINTS, "--endpoints: 1 to 4096");
			break;
		case 'p':
			opt.ports = number(optarg, 1, MAX_PORTS - 1, "--ports: 1 to 16383");
			break;
		case 'l':
			opt.size = number(optarg, 48, 8900, "--size: 48 to 8900");
			break;
		case 'b':
			opt.burst = number(optarg, 1, MAX_BURST, "--burst: 1 to 64");
			break;
		case '6':
			opt.family = 6;
			break;
		case 'T':
			opt.tcp = true;
			break;
		case 'S':
			opt.segment = true;
			break;
		default:
			exit(2);
		}
	}
	if (!opt.device || !opt.source.s_addr || !opt.probe_source.s_addr || !opt.target.s_addr)
		usage("--device, --source, --probe, --target and --mac are needed");
	if (opt.segment && opt.burst * (GENEVE + opt.size) > 65507)
		usage("--burst: does not fit one UDP_SEGMENT message (65507 bytes)");
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	set_sizes();
	open_sockets();
	make_packets();
	probe_sent_ns = calloc(MAX_PROBES, sizeof(*probe_sent_ns));
	samples = calloc(WORST_SAMPLES, sizeof(*samples));
	if (!probe_sent_ns || !samples)
		fail("no memory");
	printf("{\"packet_size\": %zu, \"frame_overhead\": %d}\n", packet_size, OUTER);
	fflush(stdout);
	serve();
	return 0;
}
