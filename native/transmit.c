/* SPDX-License-Identifier: MIT-0 */
/*
 * transmit.c - datagrams back to the load balancer.
 *
 * Theory of operation
 *
 * Each T thread has a struct gw_transmit of its own.  Datagrams gather during a batch, chained by the way they will leave by
 * (ways.h); a flush hands each way's socket its chain with one sendmmsg, in which neighbours of one size are one message
 * with UDP_SEGMENT.  Those may be of different flows: the kernel only cuts the bytes.  Order within a way, and so within
 * a flow, is kept.  What has no place in the table of ways gathers in its overflow.
 *
 * Whatever the socket, the route is the one for our own address as the source: a connected socket has it, and to others each
 * message says it.
 *
 * What the way out refuses is taken apart: a message with UDP_SEGMENT that fails is sent datagram by datagram, and when
 * that works, UDP_SEGMENT is not tried again on this thread.  What the device's queue had no room for is lost, and not tried
 * again: the message was one packet in it, whatever it held.
 */
#include "transmit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "clock.h"
#include "ways.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18 */
#endif

#define OUTER_TTL 64
#define RAW_HEADER (sizeof(struct iphdr) + sizeof(struct udphdr))

#define DATAGRAMS 1024u /* the most that may be queued before a flush */
#define SCRATCH_BYTES (512u << 10)
/* UDP_MAX_SEGMENTS before Linux 6.9, and the most payload that fits an IPv4 datagram. */
#define SEGMENTS_MAX 64u
#define MESSAGE_BYTES_MAX 65507u

/* How often a send is tried again that fails with an ICMP error about an earlier datagram. */
#define TRIES 8u
#define TRIES_TOO_BIG 2u /* with EMSGSIZE, which as a rule is about the very datagram */

#define NONE GW_NO_DATAGRAM

struct datagram {
	uint8_t *head; /* Geneve headers and copied bytes, each behind RAW_HEADER bytes of room */
	const uint8_t *payload;
	uint32_t head_len;
	uint32_t payload_len;
	struct gw_origin origin;
	uint16_t geneve_len;
	uint16_t next; /* of the same way */
};

struct message {
	uint16_t first; /* datagram */
	uint16_t datagrams;
};

struct gw_transmit {
	struct gw_outlets *outlets;
	struct gw_counters *counters;
	bool segment;        /* UDP_SEGMENT has not failed yet */
	bool waited;         /* it has waited for room, in this flush */
	bool sent;           /* something was refused, in this flush */
	struct gw_way *last; /* found last, and not RAW; or NULL */
	uint32_t now_s;
	unsigned datagrams;
	unsigned active;
	size_t scratch_used;
	uint16_t active_way[GW_WAYS + 1];
	struct gw_ways ways;
	struct datagram datagram[DATAGRAMS];
	struct message message[DATAGRAMS];
	struct mmsghdr header[DATAGRAMS];
	struct iovec iov[2 * DATAGRAMS];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(struct in_pktinfo))];
	} control[DATAGRAMS];
	struct sockaddr_in name[DATAGRAMS];
	uint8_t scratch[SCRATCH_BYTES];
};

static uint8_t *queue(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t copied,
                      const uint8_t *payload, size_t payload_len);
static unsigned make_messages(struct gw_transmit *transmit, const struct gw_way *way);
static size_t add_pieces(struct iovec *iov, size_t pieces, const struct datagram *datagram);
static void prepend_raw_header(struct datagram *datagram);
static void set_control(struct gw_transmit *transmit, const struct gw_way *way, unsigned index, uint32_t segment);
static void send_messages(struct gw_transmit *transmit, const struct gw_way *way, unsigned messages);
static bool is_of_earlier(int error);
static void send_apart(struct gw_transmit *transmit, const struct gw_way *way, unsigned index, int error, int flags);
static void count_sent(struct gw_transmit *transmit, const struct message *message);
static void drop(struct gw_transmit *transmit, int error, unsigned datagrams);
static uint32_t datagram_size(const struct datagram *datagram);
static uint32_t inner_size(const struct datagram *datagram);

struct gw_transmit *gw_transmit_new(struct gw_outlets *outlets, struct gw_counters *counters)
{
	/* Mapped, so that a thread that sends little takes little memory. */
	struct gw_transmit *transmit = mmap(NULL, sizeof(*transmit), PROT_READ | PROT_WRITE,
	                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (transmit == MAP_FAILED)
		return NULL;
	transmit->outlets = outlets;
	transmit->counters = counters;
	transmit->segment = outlets->offloads & GW_OFFLOAD_UDP_GSO;
	gw_ways_begin(&transmit->ways, outlets, counters);
	return transmit;
}

/* ---- Queued ------------------------------------------------------------------------------------------------------*/

uint8_t *gw_transmit_room(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t len)
{
	return queue(transmit, path, len, NULL, 0);
}

void gw_transmit_add(struct gw_transmit *transmit, const struct gw_flow_path *path, const uint8_t *header,
                     size_t header_len, const uint8_t *payload, size_t payload_len)
{
	uint8_t *place = queue(transmit, path, header_len, payload, payload_len);

	if (place)
		memcpy(place, header, header_len);
}

/* Where the copied bytes go, or NULL. */
static uint8_t *queue(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t copied,
                      const uint8_t *payload, size_t payload_len)
{
	const struct gw_origin *origin = &path->origin;
	struct datagram *datagram;
	struct gw_way *way;
	uint16_t index;

	if (copied + payload_len + path->header_len > MESSAGE_BYTES_MAX) {
		drop(transmit, EMSGSIZE, 1);
		return NULL;
	}
	if (transmit->datagrams == DATAGRAMS ||
	    transmit->scratch_used + RAW_HEADER + path->header_len + copied > SCRATCH_BYTES)
		(void)gw_transmit_flush(transmit);
	if (transmit->datagrams == 0)
		transmit->now_s = gw_now_s();
	/* Segments of one super-packet come in a row. */
	if (transmit->last && gw_same_origin(&transmit->last->origin, origin))
		way = transmit->last;
	else
		way = gw_ways_find(&transmit->ways, origin, transmit->now_s);
	if (!way && transmit->outlets->raw_fd < 0) {
		/* Each of these has something queued. */
		(void)gw_transmit_flush(transmit);
		way = gw_ways_find(&transmit->ways, origin, transmit->now_s);
	}
	/* Nothing of this flow is queued elsewhere: its way would be known.  A way that it gets later in the batch is
	 * flushed after this, so order is kept. */
	if (!way)
		way = gw_ways_overflow(&transmit->ways);
	/* Only there.  Elsewhere one begins where the other ends, and several can be one piece of a message. */
	if (way->kind == GW_WAY_RAW)
		transmit->scratch_used += RAW_HEADER;
	index = (uint16_t)transmit->datagrams++;
	datagram = &transmit->datagram[index];
	datagram->head = transmit->scratch + transmit->scratch_used;
	datagram->head_len = (uint32_t)(path->header_len + copied);
	datagram->geneve_len = path->header_len;
	datagram->payload = payload;
	datagram->payload_len = (uint32_t)payload_len;
	datagram->origin = *origin;
	datagram->next = NONE;
	memcpy(datagram->head, path->header, path->header_len);
	transmit->scratch_used += datagram->head_len;
	way->used_s = transmit->now_s;
	if (way->first == NONE) {
		transmit->active_way[transmit->active++] = (uint16_t)(way - transmit->ways.way);
		way->first = index;
	} else {
		transmit->datagram[way->last].next = index;
	}
	way->last = index;
	transmit->last = way->kind != GW_WAY_RAW ? way : NULL;
	return datagram->head + path->header_len;
}

/* ---- Sent --------------------------------------------------------------------------------------------------------*/

bool gw_transmit_flush(struct gw_transmit *transmit)
{
	bool room;

	if (transmit->datagrams == 0)
		return true;
	for (unsigned i = 0; i < transmit->active; i++) {
		struct gw_way *way = &transmit->ways.way[transmit->active_way[i]];

		if (way->fd < 0)
			for (uint16_t at = way->first; at != NONE; at = transmit->datagram[at].next)
				drop(transmit, EBADF, 1);
		else
			send_messages(transmit, way, make_messages(transmit, way));
		way->first = NONE;
	}
	if (transmit->sent)
		gw_set(transmit->counters, GW_last_sent_ns, gw_now_ns());
	room = !transmit->waited;
	transmit->sent = transmit->waited = false;
	transmit->active = transmit->datagrams = 0;
	transmit->scratch_used = 0;
	return room;
}

/* Writes the queue of a way as messages; returns how many. */
static unsigned make_messages(struct gw_transmit *transmit, const struct gw_way *way)
{
	struct iovec *iov = transmit->iov;
	unsigned messages = 0;
	uint16_t at = way->first;

	while (at != NONE) {
		struct message *message = &transmit->message[messages];
		struct msghdr *header = &transmit->header[messages].msg_hdr;
		uint32_t segment = datagram_size(&transmit->datagram[at]), bytes = 0, last;

		header->msg_iov = iov;
		header->msg_iovlen = 0;
		message->first = at;
		message->datagrams = 0;
		do {
			struct datagram *datagram = &transmit->datagram[at];

			last = datagram_size(datagram);
			bytes += last;
			if (way->kind == GW_WAY_RAW)
				prepend_raw_header(datagram);
			header->msg_iovlen = add_pieces(iov, header->msg_iovlen, datagram);
			message->datagrams++;
			at = datagram->next;
		} while (at != NONE && transmit->segment && way->kind != GW_WAY_RAW && last == segment &&
		         datagram_size(&transmit->datagram[at]) <= segment && message->datagrams < SEGMENTS_MAX &&
		         bytes + datagram_size(&transmit->datagram[at]) <= MESSAGE_BYTES_MAX);
		iov += header->msg_iovlen;
		set_control(transmit, way, messages, message->datagrams > 1 ? segment : 0);
		messages++;
	}
	return messages;
}

/* Adds a datagram to the pieces of a message, and returns their number.  The kernel takes few large ones faster. */
static size_t add_pieces(struct iovec *iov, size_t pieces, const struct datagram *datagram)
{
	struct iovec *last = pieces > 0 ? &iov[pieces - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == datagram->head)
		last->iov_len += datagram->head_len;
	else
		iov[pieces++] = (struct iovec){ datagram->head, datagram->head_len };
	if (datagram->payload_len > 0)
		iov[pieces++] = (struct iovec){ (void *)(uintptr_t)datagram->payload, datagram->payload_len };
	return pieces;
}

/* The IP and UDP headers of a datagram that leaves by the raw socket.  The kernel fills in the total length and the
 * header checksum (raw(7)); a UDP checksum of zero is right for Geneve over IPv4 (RFC 8926 section 3.3). */
static void prepend_raw_header(struct datagram *datagram)
{
	struct iphdr ip = { .version = 4,
		            .ihl = sizeof(ip) / 4,
		            .frag_off = htons(0x4000),
		            .ttl = OUTER_TTL,
		            .protocol = IPPROTO_UDP,
		            .saddr = datagram->origin.own_address,
		            .daddr = datagram->origin.gwlb_address };
	struct udphdr udp = { .uh_sport = htons(datagram->origin.gwlb_port),
		              .uh_dport = htons(GW_GENEVE_PORT),
		              .uh_ulen = htons((uint16_t)(sizeof(udp) + datagram_size(datagram))) };

	datagram->head -= RAW_HEADER;
	datagram->head_len += (uint32_t)RAW_HEADER;
	datagram->geneve_len = (uint16_t)(datagram->geneve_len + RAW_HEADER);
	memcpy(datagram->head, &ip, sizeof(ip));
	memcpy(datagram->head + sizeof(ip), &udp, sizeof(udp));
}

/* The control data of a message: destination and source address on a socket that is not connected, and the size of segments. */
static void set_control(struct gw_transmit *transmit, const struct gw_way *way, unsigned index, uint32_t segment)
{
	struct msghdr *header = &transmit->header[index].msg_hdr;
	const struct gw_origin *origin = &transmit->datagram[transmit->message[index].first].origin;
	struct sockaddr_in *name = &transmit->name[index];
	struct cmsghdr *cmsg;

	header->msg_flags = 0;
	header->msg_name = NULL;
	header->msg_namelen = 0;
	header->msg_control = &transmit->control[index];
	header->msg_controllen = sizeof(transmit->control[index]);
	cmsg = CMSG_FIRSTHDR(header);
	header->msg_controllen = 0;
	if (way->kind != GW_WAY_CONNECTED) {
		struct in_pktinfo info = { .ipi_spec_dst.s_addr = origin->own_address };

		*name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = origin->gwlb_address };
		/* A raw socket has no port. */
		name->sin_port = way->kind == GW_WAY_RAW ? 0 : htons(GW_GENEVE_PORT);
		header->msg_name = name;
		header->msg_namelen = sizeof(*name);
		cmsg->cmsg_level = IPPROTO_IP;
		cmsg->cmsg_type = IP_PKTINFO;
		cmsg->cmsg_len = CMSG_LEN(sizeof(info));
		memcpy(CMSG_DATA(cmsg), &info, sizeof(info));
		header->msg_controllen += CMSG_SPACE(sizeof(info));
		cmsg = (struct cmsghdr *)(void *)((char *)cmsg + CMSG_SPACE(sizeof(info)));
	}
	if (segment) {
		uint16_t size = (uint16_t)segment;

		cmsg->cmsg_level = IPPROTO_UDP;
		cmsg->cmsg_type = UDP_SEGMENT;
		cmsg->cmsg_len = CMSG_LEN(sizeof(size));
		memcpy(CMSG_DATA(cmsg), &size, sizeof(size));
		header->msg_controllen += CMSG_SPACE(sizeof(size));
	}
	if (header->msg_controllen == 0)
		header->msg_control = NULL;
}

static void send_messages(struct gw_transmit *transmit, const struct gw_way *way, unsigned messages)
{
	unsigned done = 0, refusals = 0;

	while (done < messages) {
		int flags = way->kind == GW_WAY_RAW || transmit->waited ? MSG_DONTWAIT : 0;
		int sent = sendmmsg(way->fd, &transmit->header[done], messages - done, flags);
		const struct message *message = &transmit->message[done];
		int error = errno;

		if (sent > 0) {
			for (int i = 0; i < sent; i++)
				count_sent(transmit, &transmit->message[done + (unsigned)i]);
			done += (unsigned)sent;
			refusals = 0;
			continue;
		}
		if (error == EINTR)
			continue;
		gw_count(transmit->counters, GW_send_errors, 1);
		if (way->kind == GW_WAY_CONNECTED && is_of_earlier(error) &&
		    ++refusals < (error == EMSGSIZE ? TRIES_TOO_BIG : TRIES))
			continue;
		refusals = 0;
		if (error == EAGAIN && flags == 0) {
			transmit->waited = true;
			flags = MSG_DONTWAIT;
		}
		if (message->datagrams > 1 && error != ENOBUFS)
			send_apart(transmit, way, done, error, flags);
		else
			drop(transmit, error, message->datagrams);
		done++;
	}
}

/* The kernel reports an ICMP error about an earlier datagram to the next send on the socket, and does not send
 * (icmp_err_convert in net/ipv4/icmp.c, and EPROTO). */
static bool is_of_earlier(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case ENONET:
	case EOPNOTSUPP:
	case EPROTO:
	case EMSGSIZE:
		return true;
	default:
		return false;
	}
}

/* Sends a message that failed with UDP_SEGMENT, datagram by datagram. */
static void send_apart(struct gw_transmit *transmit, const struct gw_way *way, unsigned index, int error, int flags)
{
	struct message *message = &transmit->message[index];
	struct msghdr *header = &transmit->header[index].msg_hdr;
	struct message single = { message->first, 1 };
	struct iovec iov[2];
	bool all_sent = true;

	set_control(transmit, way, index, 0);
	header->msg_iov = iov;
	for (unsigned i = 0; i < message->datagrams; i++) {
		const struct datagram *datagram = &transmit->datagram[single.first];

		header->msg_iovlen = add_pieces(iov, 0, datagram);
		if (sendmsg(way->fd, header, flags) >= 0) {
			count_sent(transmit, &single);
		} else {
			all_sent = false;
			gw_count(transmit->counters, GW_send_errors, 1);
			drop(transmit, errno, 1);
		}
		single.first = datagram->next;
	}
	/* Otherwise a datagram itself was refused: before Linux 6.14, EINVAL also means one that does not fit. */
	if (all_sent && (error == EIO || error == EINVAL || error == EOPNOTSUPP))
		transmit->segment = false;
}

static void count_sent(struct gw_transmit *transmit, const struct message *message)
{
	uint16_t at = message->first;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < message->datagrams; i++) {
		bytes += inner_size(&transmit->datagram[at]);
		at = transmit->datagram[at].next;
	}
	gw_count(transmit->counters, GW_packets_sent, message->datagrams);
	gw_count(transmit->counters, GW_bytes_sent, bytes);
	gw_count(transmit->counters, GW_sends, 1);
	transmit->sent = true;
}

static void drop(struct gw_transmit *transmit, int error, unsigned datagrams)
{
	gw_count(transmit->counters, error == EMSGSIZE ? GW_drop_too_big : GW_drop_send, datagrams);
}

static uint32_t datagram_size(const struct datagram *datagram)
{
	return datagram->head_len + datagram->payload_len;
}

static uint32_t inner_size(const struct datagram *datagram)
{
	return datagram_size(datagram) - datagram->geneve_len;
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

bool gw_transmit_age(struct gw_transmit *transmit)
{
	transmit->last = NULL;
	return gw_ways_age(&transmit->ways, gw_now_s());
}

void gw_transmit_free(struct gw_transmit *transmit)
{
	gw_ways_end(&transmit->ways);
	munmap(transmit, sizeof(*transmit));
}
