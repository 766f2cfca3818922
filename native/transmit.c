/* SPDX-License-Identifier: MIT-0 */
/*
 * transmit.c - datagrams back to the load balancer, and the sockets that they leave by.
 *
 * Theory of operation
 *
 * Each T thread has a struct gw_transmit of its own, so nothing here is shared but the count of sockets that the process
 * may still open.  Datagrams gather during a batch, chained by the socket they will leave by; a flush hands each socket
 * its chain with one sendmmsg, in which neighbours of one size are one message with UDP_SEGMENT.  Those may be of
 * different flows: the kernel only cuts the bytes.  Order within a socket, and so within a flow, is kept.
 *
 * A way back is our address, the load balancer's address and the source port that it chose (struct way).  It is served by
 *
 * - CONNECTED: a UDP socket bound to that address and port and connected to the load balancer's port 6081, made when it
 *   is first needed.  Being connected, it takes no traffic from anyone but GWLB's port 6081 to that port, and there is
 *   none.  When all are in use and none has been idle for SPARE_S seconds, further ways are served by RAW, for making a
 *   socket for every packet costs more than what it saves.  Without RAW it is the only way, and done, in place of the
 *   thread's own oldest.
 * - RAW: a raw socket, with IP and UDP header made here, where a port could not be bound, sockets have run out, or too many
 *   are bound to ports of one class (transmit.h).  What has no place in the table of ways gathers in `overflow`.  All threads
 *   share the raw socket, so nobody waits on it.
 * - RECEIVER: a receiver's own, where GWLB's source port is 6081 itself: a connected socket would take inbound traffic away
 *   from the receivers.
 * - BOUND: where there is no raw socket, one that is bound to a port and not connected, for all load balancer addresses that
 *   too many sockets of the port's class serve already.
 *
 * The last three name our address with each message (IP_PKTINFO), so that routing chooses their way by it, as it does for
 * connected sockets.
 *
 * What the way out refuses is taken apart: a message with UDP_SEGMENT that fails is sent datagram by datagram, and when
 * that works, UDP_SEGMENT is not tried again on this thread.
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
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18 */
#endif

#define OUTER_TTL 64
#define RAW_HEADER (sizeof(struct iphdr) + sizeof(struct udphdr))

#define DATAGRAMS 1024u          /* queued at most before a flush */
#define SCRATCH_BYTES (512u << 10)
#define WAYS 1024u               /* ways back that one thread remembers */
#define OVERFLOW WAYS
#define HASH_BUCKETS 2048u

/* Sockets that a thread may have whatever others have, where there is no raw socket to fall back on. */
#define WAYS_ASSURED 16u

#define SPARE_S 2u    /* a socket unused for so long makes room for another: not so short that most packets would open one */
#define RETRY_S 30u   /* after which a way served by RAW tries for a socket again */

/* UDP_MAX_SEGMENTS before Linux 6.9, and the most payload that fits an IPv4 datagram. */
#define SEGMENTS_MAX 64u
#define MESSAGE_BYTES_MAX 65507u

/* A flush waits so long at most, once, for room in the device's queue. */
#define SEND_TIMEOUT_US 10000

/* What a socket may hold of what the device has no room for yet, bytes. */
#define SEND_BUFFER (4 << 20)

/* Connected sockets for ports of one class, and of the class that port 6081 is in: receiving walks over them. */
#define CLASS_MAX 128u
#define CLASS_MAX_RECEIVING 16u

#define NONE UINT16_MAX

enum kind { FREE, CONNECTED, BOUND, RECEIVER, RAW };

struct peer {
	uint32_t gwlb_address; /* network byte order; 0 for a way that is BOUND: any */
	uint32_t own_address;
	uint16_t gwlb_port; /* host byte order */
};

struct way {
	struct peer peer;
	uint16_t next; /* in its hash chain */
	uint16_t first, last; /* queued datagrams */
	enum kind kind;
	int fd;
	uint32_t used_s;
	uint32_t made_s;
};

struct datagram {
	uint8_t *head; /* Geneve header and copied bytes, with RAW_HEADER bytes of room before */
	const uint8_t *payload;
	uint32_t head_len;
	uint32_t payload_len;
	struct peer peer;
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
	bool segment; /* UDP_SEGMENT works, as far as is known */
	bool waited;  /* in this flush, for room */
	bool sent;    /* something, in this flush */
	uint16_t hand;
	struct way *last; /* CONNECTED, and found last; or NULL */
	uint32_t now_s;
	uint32_t aged_s;
	unsigned open; /* connected sockets */
	unsigned datagrams;
	unsigned active;
	size_t scratch_used;
	uint16_t bucket[HASH_BUCKETS];
	uint16_t active_way[WAYS + 1];
	struct way way[WAYS + 1]; /* the last is the overflow */
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
	memset(transmit->bucket, 0xff, sizeof(transmit->bucket));
	transmit->way[OVERFLOW].kind = RAW;
	transmit->way[OVERFLOW].fd = outlets->raw_fd;
	transmit->way[OVERFLOW].first = NONE;
	return transmit;
}

static _Atomic unsigned *class_of(const struct gw_transmit *transmit, uint16_t port)
{
	return &transmit->outlets->sockets_of_class[port % GW_PORT_CLASSES];
}

static void close_way(struct gw_transmit *transmit, struct way *way)
{
	if (way->kind != CONNECTED && way->kind != BOUND)
		return;
	close(way->fd);
	transmit->open--;
	atomic_fetch_add(&transmit->outlets->sockets_left, 1);
	atomic_fetch_sub(class_of(transmit, way->peer.gwlb_port), 1);
}

void gw_transmit_free(struct gw_transmit *transmit)
{
	for (unsigned i = 0; i < WAYS; i++)
		close_way(transmit, &transmit->way[i]);
	munmap(transmit, sizeof(*transmit));
}

/* ---- Ways ---------------------------------------------------------------------------------------------------------*/

/* Under a secret: a sender that chooses source ports cannot aim at one bucket. */
static unsigned bucket_of(const struct gw_transmit *transmit, const struct peer *peer)
{
	uint64_t mixed = ((uint64_t)peer->gwlb_address << 16 ^ peer->gwlb_port ^ (uint64_t)peer->own_address << 20) *
	                 transmit->outlets->multiplier;

	return (unsigned)(mixed >> 40) % HASH_BUCKETS;
}

static bool same_peer(const struct peer *a, const struct peer *b)
{
	return a->gwlb_port == b->gwlb_port && a->gwlb_address == b->gwlb_address && a->own_address == b->own_address;
}

static void set_option(int fd, int level, int name, int value)
{
	/* Each of them is a refinement; without it the socket still does. */
	(void)setsockopt(fd, level, name, &value, sizeof(value));
}

void gw_transmit_set_options(int fd)
{
	const struct timeval timeout = { .tv_usec = SEND_TIMEOUT_US };

	set_option(fd, IPPROTO_IP, IP_TTL, OUTER_TTL);
	/* DF, and no trust in what ICMP says of the path: too big is what the interface cannot send. */
	set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

void gw_transmit_prepare(int fd)
{
	const int size = SEND_BUFFER;

	gw_transmit_set_options(fd);
	/* Without it, the kernel calls sent what a queueing discipline has dropped (ip(7)).  It also keeps what ICMP says of
	 * earlier datagrams, one message or two in the smallest of receive buffers. */
	set_option(fd, IPPROTO_IP, IP_RECVERR, 1);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* A UDP socket from own_address:gwlb_port to gwlb_address:6081, or, with no gwlb_address, to wherever is told with a message;
 * or -1. */
static int open_socket(const struct peer *peer)
{
	struct sockaddr_in own = { .sin_family = AF_INET,
		                   .sin_port = htons(peer->gwlb_port),
		                   .sin_addr.s_addr = peer->own_address };
	struct sockaddr_in gwlb = { .sin_family = AF_INET,
		                    .sin_port = htons(GW_GENEVE_PORT),
		                    .sin_addr.s_addr = peer->gwlb_address };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	/* Other T threads may have the same way back. */
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set_option(fd, SOL_SOCKET, SO_RCVBUF, 0);
	gw_transmit_prepare(fd);
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) ||
	    (peer->gwlb_address && connect(fd, (struct sockaddr *)&gwlb, sizeof(gwlb)))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void forget_way(struct gw_transmit *transmit, struct way *way)
{
	uint16_t *link = &transmit->bucket[bucket_of(transmit, &way->peer)];

	while (&transmit->way[*link] != way)
		link = &transmit->way[*link].next;
	*link = way->next;
	close_way(transmit, way);
	way->kind = FREE;
	if (transmit->last == way)
		transmit->last = NULL;
}

/* Without a raw socket a thread that has its share makes room for a socket by closing another of its own. */
static void close_another(struct gw_transmit *transmit)
{
	struct way *oldest = NULL;

	for (unsigned i = 0; i < WAYS; i++) {
		struct way *way = &transmit->way[i];

		if ((way->kind == CONNECTED || way->kind == BOUND) && way->first == NONE && (!oldest || way->used_s < oldest->used_s))
			oldest = way;
	}
	if (oldest)
		forget_way(transmit, oldest);
}

/* Takes one socket out of what the process may open. */
static bool take_socket(struct gw_transmit *transmit)
{
	_Atomic int64_t *left = &transmit->outlets->sockets_left;

	if (atomic_fetch_sub(left, 1) > 0)
		return true;
	if (transmit->outlets->raw_fd < 0) {
		if (transmit->open >= WAYS_ASSURED)
			close_another(transmit);
		return true;
	}
	atomic_fetch_add(left, 1);
	return false;
}

/* Whether another connected socket for this port would make a chain too long that the kernel walks. */
static bool is_crowded(const struct gw_transmit *transmit, uint16_t port)
{
	bool receiving = port % GW_PORT_CLASSES == GW_GENEVE_PORT % GW_PORT_CLASSES;

	return atomic_load_explicit(class_of(transmit, port), memory_order_relaxed) >=
	       (receiving ? CLASS_MAX_RECEIVING : CLASS_MAX);
}

static void make_connected(struct gw_transmit *transmit, struct way *way)
{
	way->kind = RAW;
	way->fd = transmit->outlets->raw_fd;
	/* Port 0 would bind to any. */
	if (way->peer.gwlb_port == 0 || (way->peer.gwlb_address && is_crowded(transmit, way->peer.gwlb_port)) ||
	    !take_socket(transmit))
		return;
	way->fd = open_socket(&way->peer);
	if (way->fd < 0) {
		way->fd = transmit->outlets->raw_fd;
		atomic_fetch_add(&transmit->outlets->sockets_left, 1);
		return;
	}
	way->kind = way->peer.gwlb_address ? CONNECTED : BOUND;
	transmit->open++;
	atomic_fetch_add(class_of(transmit, way->peer.gwlb_port), 1);
	gw_count(transmit->counters, GW_sockets_opened, 1);
}

/* A place for a new way: a free one, or that of one that has not been used for a while; NULL when all are in use. */
static struct way *make_room(struct gw_transmit *transmit)
{
	const bool raw = transmit->outlets->raw_fd >= 0;

	for (unsigned i = 0; i < (raw ? 8 : WAYS); i++) {
		struct way *way = &transmit->way[transmit->hand];

		transmit->hand = (uint16_t)((transmit->hand + 1) % WAYS);
		if (way->kind == FREE)
			return way;
		if (way->first == NONE && (!raw || transmit->now_s - way->used_s >= SPARE_S)) {
			forget_way(transmit, way);
			return way;
		}
	}
	return NULL;
}

static struct way *find_way(struct gw_transmit *transmit, const struct peer *peer)
{
	const uint32_t retry_s = transmit->outlets->raw_fd >= 0 ? RETRY_S : 1;
	uint16_t *head = &transmit->bucket[bucket_of(transmit, peer)];
	struct way *way;

	for (uint16_t i = *head; i != NONE; i = transmit->way[i].next) {
		way = &transmit->way[i];
		if (same_peer(&way->peer, peer)) {
			if (way->kind == RAW && way->first == NONE && transmit->now_s - way->made_s >= retry_s) {
				way->made_s = transmit->now_s;
				make_connected(transmit, way);
			}
			return way;
		}
	}
	if (peer->gwlb_address && peer->gwlb_port != GW_GENEVE_PORT && is_crowded(transmit, peer->gwlb_port)) {
		const struct peer any = { 0, peer->own_address, peer->gwlb_port };

		return transmit->outlets->raw_fd >= 0 ? NULL : find_way(transmit, &any);
	}
	way = make_room(transmit);
	if (!way)
		return NULL;
	way->peer = *peer;
	way->made_s = transmit->now_s;
	way->first = NONE;
	if (peer->gwlb_port == GW_GENEVE_PORT) {
		way->kind = RECEIVER;
		way->fd = atomic_load(&transmit->outlets->receive_fd);
	} else {
		make_connected(transmit, way);
	}
	way->next = *head;
	*head = (uint16_t)(way - transmit->way);
	return way;
}

bool gw_transmit_age(struct gw_transmit *transmit)
{
	uint32_t now = gw_now_s();

	if (now == transmit->aged_s)
		return transmit->open > 0;
	transmit->aged_s = now;
	for (unsigned i = 0; i < WAYS && transmit->open > 0; i++) {
		struct way *way = &transmit->way[i];

		if ((way->kind == CONNECTED || way->kind == BOUND) && now - way->used_s >= GW_TRANSMIT_IDLE_S)
			forget_way(transmit, way);
	}
	return transmit->open > 0;
}

/* ---- Sending ------------------------------------------------------------------------------------------------------*/

static void drop(struct gw_transmit *transmit, int error)
{
	gw_count(transmit->counters, error == EMSGSIZE ? GW_drop_too_big : GW_drop_send, 1);
}

static uint32_t datagram_size(const struct datagram *datagram)
{
	return datagram->head_len + datagram->payload_len;
}

static uint32_t inner_size(const struct datagram *datagram)
{
	return datagram_size(datagram) - datagram->geneve_len;
}

/* Adds a datagram to the pieces of a message; how many there are then.  The kernel takes few large ones faster. */
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

/* What the kernel must be told beside the bytes: where to, on a socket that is not connected, and how to cut them. */
static void set_control(struct gw_transmit *transmit, const struct way *way, unsigned index, uint32_t segment)
{
	struct msghdr *header = &transmit->header[index].msg_hdr;
	const struct peer *peer = &transmit->datagram[transmit->message[index].first].peer;
	struct sockaddr_in *name = &transmit->name[index];
	struct cmsghdr *cmsg;

	header->msg_flags = 0;
	header->msg_name = NULL;
	header->msg_namelen = 0;
	header->msg_control = &transmit->control[index];
	header->msg_controllen = sizeof(transmit->control[index]);
	cmsg = CMSG_FIRSTHDR(header);
	header->msg_controllen = 0;
	if (way->kind != CONNECTED) {
		const struct in_pktinfo info = { .ipi_spec_dst.s_addr = peer->own_address };

		*name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = peer->gwlb_address };
		/* A raw socket takes no port. */
		name->sin_port = way->kind == RAW ? 0 : htons(GW_GENEVE_PORT);
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

/* The IP and UDP headers of a datagram that leaves by the raw socket.  The kernel fills in the total length and the
 * header checksum (raw(7)); a UDP checksum of zero is right for Geneve over IPv4 (RFC 8926 section 3.3). */
static void prepend_raw_header(struct datagram *datagram)
{
	struct iphdr ip = { .version = 4,
		            .ihl = sizeof(ip) / 4,
		            .frag_off = htons(0x4000),
		            .ttl = OUTER_TTL,
		            .protocol = IPPROTO_UDP,
		            .saddr = datagram->peer.own_address,
		            .daddr = datagram->peer.gwlb_address };
	struct udphdr udp = { .uh_sport = htons(datagram->peer.gwlb_port),
		              .uh_dport = htons(GW_GENEVE_PORT),
		              .uh_ulen = htons((uint16_t)(sizeof(udp) + datagram_size(datagram))) };

	datagram->head -= RAW_HEADER;
	datagram->head_len += (uint32_t)RAW_HEADER;
	datagram->geneve_len = (uint16_t)(datagram->geneve_len + RAW_HEADER);
	memcpy(datagram->head, &ip, sizeof(ip));
	memcpy(datagram->head + sizeof(ip), &udp, sizeof(udp));
}

/* Writes the queue of a way as messages; returns how many. */
static unsigned make_messages(struct gw_transmit *transmit, const struct way *way)
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
			if (way->kind == RAW)
				prepend_raw_header(datagram);
			header->msg_iovlen = add_pieces(iov, header->msg_iovlen, datagram);
			message->datagrams++;
			at = datagram->next;
		} while (at != NONE && transmit->segment && way->kind != RAW && last == segment &&
		         same_peer(&transmit->datagram[message->first].peer, &transmit->datagram[at].peer) &&
		         datagram_size(&transmit->datagram[at]) <= segment && message->datagrams < SEGMENTS_MAX &&
		         bytes + datagram_size(&transmit->datagram[at]) <= MESSAGE_BYTES_MAX);
		iov += header->msg_iovlen;
		set_control(transmit, way, messages, message->datagrams > 1 ? segment : 0);
		messages++;
	}
	return messages;
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

/* One message that failed with UDP_SEGMENT, datagram by datagram. */
static void send_apart(struct gw_transmit *transmit, const struct way *way, unsigned index, int error, int flags)
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
			drop(transmit, errno);
		}
		single.first = datagram->next;
	}
	/* Else it was a datagram that was refused: before Linux 6.14, EINVAL is also for one that does not fit. */
	if (all_sent && (error == EIO || error == EINVAL || error == EOPNOTSUPP))
		transmit->segment = false;
}

/* What ICMP said of an earlier datagram (icmp_err_convert in net/ipv4/icmp.c) is told to the next send on its socket, which
 * is then not made. */
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
	case EMSGSIZE:
		return true;
	default:
		return false;
	}
}

static void send_messages(struct gw_transmit *transmit, const struct way *way, unsigned messages)
{
	unsigned done = 0, refusals = 0;

	while (done < messages) {
		int flags = way->kind == RAW || transmit->waited ? MSG_DONTWAIT : 0;
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
		if ((way->kind == CONNECTED || way->kind == BOUND) && is_of_earlier(error) && refusals++ < 2)
			continue;
		refusals = 0;
		if (error == EAGAIN && flags == 0) {
			transmit->waited = true;
			flags = MSG_DONTWAIT;
		}
		/* No room on the way out, for all of it: it would not be there for the parts. */
		if (error == ENOBUFS)
			gw_count(transmit->counters, GW_drop_send, message->datagrams);
		else if (message->datagrams > 1)
			send_apart(transmit, way, done, error, flags);
		else
			drop(transmit, error);
		done++;
	}
}

bool gw_transmit_flush(struct gw_transmit *transmit)
{
	bool room;

	if (transmit->datagrams == 0)
		return true;
	for (unsigned i = 0; i < transmit->active; i++) {
		struct way *way = &transmit->way[transmit->active_way[i]];

		if (way->fd < 0)
			for (uint16_t at = way->first; at != NONE; at = transmit->datagram[at].next)
				drop(transmit, EBADF);
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

/* ---- Queueing -----------------------------------------------------------------------------------------------------*/

/* Where the copied bytes go, or NULL. */
static uint8_t *queue(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t copied, const uint8_t *payload,
                      size_t payload_len)
{
	struct peer peer = { path->gwlb_address, path->own_address, path->gwlb_port };
	struct datagram *datagram;
	struct way *way;
	uint16_t index;

	if (transmit->datagrams == DATAGRAMS ||
	    transmit->scratch_used + RAW_HEADER + path->header_len + copied > SCRATCH_BYTES)
		(void)gw_transmit_flush(transmit);
	if (transmit->datagrams == 0)
		transmit->now_s = gw_now_s();
	/* Segments of one super-packet come in a row. */
	if (transmit->last && same_peer(&transmit->last->peer, &peer))
		way = transmit->last;
	else
		way = find_way(transmit, &peer);
	if (!way && transmit->outlets->raw_fd < 0) {
		/* Each has something queued. */
		(void)gw_transmit_flush(transmit);
		way = find_way(transmit, &peer);
	}
	/* Nothing of this flow is queued elsewhere, for then its way would be known, and if it gets one later in the batch that
	 * is flushed after this: order is kept. */
	if (!way)
		way = &transmit->way[OVERFLOW];
	if (copied + payload_len + path->header_len > MESSAGE_BYTES_MAX) {
		drop(transmit, EMSGSIZE);
		return NULL;
	}
	/* Only there: elsewhere one begins where the other ends, so that those of a message can be one piece. */
	if (way->kind == RAW)
		transmit->scratch_used += RAW_HEADER;
	index = (uint16_t)transmit->datagrams++;
	datagram = &transmit->datagram[index];
	datagram->head = transmit->scratch + transmit->scratch_used;
	datagram->head_len = (uint32_t)(path->header_len + copied);
	datagram->geneve_len = path->header_len;
	datagram->payload = payload;
	datagram->payload_len = (uint32_t)payload_len;
	datagram->peer = peer;
	datagram->next = NONE;
	memcpy(datagram->head, path->header, path->header_len);
	transmit->scratch_used += datagram->head_len;
	way->used_s = transmit->now_s;
	if (way->first == NONE) {
		transmit->active_way[transmit->active++] = (uint16_t)(way - transmit->way);
		way->first = index;
	} else {
		transmit->datagram[way->last].next = index;
	}
	way->last = index;
	transmit->last = way->kind == CONNECTED ? way : NULL;
	return datagram->head + path->header_len;
}

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
