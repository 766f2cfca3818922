/* SPDX-License-Identifier: MIT-0 */
/*
 * ways.c - the ways back to the load balancer, and the sockets that serve them.
 *
 * Theory of operation
 *
 * A way back is our address, the load balancer's address and the source port that it chose.  Each T thread has ways of
 * its own, so nothing here is shared but two counts of the sockets that the process may still open.  A way is
 *
 * - CONNECTED: by a UDP socket bound to that address and port and connected to the load balancer's port 6081, made when it
 *   is first needed.  Being connected, it takes no traffic from anyone but GWLB's port 6081 to that port, and there is
 *   none.  It is the fastest, for the kernel looks up the route once.
 * - DEAF: by a UDP socket with that port at some loopback address, to which the network cannot send.  It hears nothing,
 *   neither datagrams nor ICMP errors.  Each message says where to and from which of our addresses (IP_PKTINFO).
 *   So goes what leaves from port 6081 itself, for a connected socket would take inbound traffic away from the
 *   receivers; and what would make the port's slot in the kernel's table too full.
 * - RAW: by the one raw socket, with IP and UDP header made by transmit.c, where a port could not be bound or sockets
 *   have run out.  All threads share it.
 *
 * The kernel finds the receiver of a datagram in a hash table of 256 slots or more, in which the sockets of one address
 * are in one slot if their ports are the same modulo the number of slots.  A sender that chooses source ports could have
 * thousands of connected sockets in the slot of port 6081, and each packet received would walk past all of them.  So there
 * are at most SLOT_MAX for all ports that are the same modulo 256.  Deaf sockets are not counted, since their addresses
 * are random, and so are their slots.
 *
 * When all ways are in use and none has been idle for SPARE_S seconds, further ones have no place, for making a socket for
 * every packet costs more than what it saves.  Without a raw socket it is the only way, and done, in place of the
 * thread's own oldest.
 */
#include "ways.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "geneve.h"

#ifndef IP_FREEBIND
#define IP_FREEBIND 15
#endif

#define OUTER_TTL 64

/* Connected sockets whose ports are the same modulo GW_PORT_SLOTS. */
#define SLOT_MAX 32

/* The sockets that a thread may always have, where no raw socket can replace them. */
#define WAYS_ASSURED 16u

/* A socket that has been unused for this long makes room for another.  A shorter time would open one for most packets. */
#define SPARE_S 2u

#define RETRY_S 30u /* a way served by RAW tries for a socket again after this */

/* The longest that a flush waits, once, for room in the device's queue. */
#define SEND_TIMEOUT_US 10000

/* Bytes that a socket may hold while the device has no room for them. */
#define SEND_BUFFER (4 << 20)

#define NONE UINT16_MAX

static uint16_t *bucket_of(struct gw_ways *ways, const struct gw_origin *origin);
static uint64_t mix(const struct gw_ways *ways, const struct gw_origin *origin);
static struct gw_way *make_room(struct gw_ways *ways, uint32_t now_s);
static void make_socket(struct gw_ways *ways, struct gw_way *way);
static bool connect_way(struct gw_ways *ways, struct gw_way *way);
static _Atomic int *slot_of(const struct gw_ways *ways, const struct gw_origin *origin);
static bool take_socket(struct gw_ways *ways);
static void close_another(struct gw_ways *ways);
static bool deafen_way(struct gw_ways *ways, struct gw_way *way);
static int open_connected(const struct gw_origin *origin);
static int open_deaf(uint64_t random, uint16_t port);
static int new_socket(void);
static struct sockaddr_in nowhere(uint64_t random, uint16_t port);
static void prepare(int fd);
static void set_option(int fd, int level, int name, int value);
static void forget_way(struct gw_ways *ways, struct gw_way *way);
static void close_way(struct gw_ways *ways, struct gw_way *way);
static bool has_socket(const struct gw_way *way);

void gw_ways_begin(struct gw_ways *ways, struct gw_outlets *outlets, struct gw_counters *counters)
{
	struct gw_way *overflow = gw_ways_overflow(ways);

	ways->outlets = outlets;
	ways->counters = counters;
	memset(ways->bucket, 0xff, sizeof(ways->bucket));
	overflow->kind = GW_WAY_RAW;
	overflow->fd = outlets->raw_fd;
	overflow->first = NONE;
}

void gw_ways_prepare_raw(int fd)
{
	struct sockaddr_in deaf = nowhere(0, 0);

	prepare(fd);
	set_option(fd, IPPROTO_IP, IP_FREEBIND, 1);
	(void)bind(fd, (struct sockaddr *)&deaf, sizeof(deaf));
}

/* ---- Found, or made ----------------------------------------------------------------------------------------------*/

struct gw_way *gw_ways_find(struct gw_ways *ways, const struct gw_origin *origin, uint32_t now_s)
{
	const uint32_t retry_s = ways->outlets->raw_fd >= 0 ? RETRY_S : 1;
	uint16_t *head = bucket_of(ways, origin);
	struct gw_way *way;

	for (uint16_t i = *head; i != NONE; i = ways->way[i].next) {
		way = &ways->way[i];
		if (gw_same_origin(&way->origin, origin)) {
			if (way->kind == GW_WAY_RAW && way->first == NONE && now_s - way->made_s >= retry_s) {
				way->made_s = now_s;
				make_socket(ways, way);
			}
			return way;
		}
	}
	way = make_room(ways, now_s);
	if (!way)
		return NULL;
	way->origin = *origin;
	way->made_s = now_s;
	way->first = NONE;
	make_socket(ways, way);
	way->next = *head;
	*head = (uint16_t)(way - ways->way);
	return way;
}

static uint16_t *bucket_of(struct gw_ways *ways, const struct gw_origin *origin)
{
	return &ways->bucket[(unsigned)(mix(ways, origin) >> 40) % GW_WAY_BUCKETS];
}

/* The secret keeps a sender that chooses source ports from aiming at one bucket. */
static uint64_t mix(const struct gw_ways *ways, const struct gw_origin *origin)
{
	return ((uint64_t)origin->gwlb_address << 16 ^ origin->gwlb_port ^ (uint64_t)origin->own_address << 20) *
	       ways->outlets->multiplier;
}

/* Finds a place for a new way: a free one, or that of a way that has been unused for a while.  NULL: all are in use. */
static struct gw_way *make_room(struct gw_ways *ways, uint32_t now_s)
{
	const bool raw = ways->outlets->raw_fd >= 0;

	for (unsigned i = 0; i < (raw ? 8 : GW_WAYS); i++) {
		struct gw_way *way = &ways->way[ways->hand];

		ways->hand = (uint16_t)((ways->hand + 1) % GW_WAYS);
		if (way->kind == GW_WAY_FREE)
			return way;
		if (way->first == NONE && (!raw || now_s - way->used_s >= SPARE_S)) {
			forget_way(ways, way);
			return way;
		}
	}
	return NULL;
}

/* ---- Its socket --------------------------------------------------------------------------------------------------*/

static void make_socket(struct gw_ways *ways, struct gw_way *way)
{
	way->kind = GW_WAY_RAW;
	way->fd = ways->outlets->raw_fd;
	/* The kernel would choose a port in place of 0. */
	if (way->origin.gwlb_port == 0 || !take_socket(ways))
		return;
	if (connect_way(ways, way) || deafen_way(ways, way)) {
		ways->open++;
		gw_count(ways->counters, GW_sockets_opened, 1);
		return;
	}
	way->kind = GW_WAY_RAW;
	way->fd = ways->outlets->raw_fd;
	atomic_fetch_add(&ways->outlets->sockets_left, 1);
}

static bool connect_way(struct gw_ways *ways, struct gw_way *way)
{
	_Atomic int *slot = slot_of(ways, &way->origin);

	if (way->origin.gwlb_port == GW_GENEVE_PORT)
		return false;
	if (atomic_fetch_add(slot, 1) < SLOT_MAX) {
		way->kind = GW_WAY_CONNECTED;
		way->fd = open_connected(&way->origin);
		if (way->fd >= 0)
			return true;
	}
	atomic_fetch_sub(slot, 1);
	return false;
}

static _Atomic int *slot_of(const struct gw_ways *ways, const struct gw_origin *origin)
{
	return &ways->outlets->connected[origin->gwlb_port % GW_PORT_SLOTS];
}

/* Counts one socket against what the process may open. */
static bool take_socket(struct gw_ways *ways)
{
	_Atomic int64_t *left = &ways->outlets->sockets_left;

	if (atomic_fetch_sub(left, 1) > 0)
		return true;
	if (ways->outlets->raw_fd < 0) {
		if (ways->open >= WAYS_ASSURED)
			close_another(ways);
		return true;
	}
	atomic_fetch_add(left, 1);
	return false;
}

/* Without a raw socket, a thread that has its share closes another of its sockets to make room. */
static void close_another(struct gw_ways *ways)
{
	struct gw_way *oldest = NULL;

	for (unsigned i = 0; i < GW_WAYS; i++) {
		struct gw_way *way = &ways->way[i];

		if (has_socket(way) && way->first == NONE && (!oldest || way->used_s < oldest->used_s))
			oldest = way;
	}
	if (oldest)
		forget_way(ways, oldest);
}

static bool deafen_way(struct gw_ways *ways, struct gw_way *way)
{
	way->kind = GW_WAY_DEAF;
	/* Threads that share a way should not share an address. */
	way->fd = open_deaf((mix(ways, &way->origin) + (uintptr_t)way) * ways->outlets->multiplier,
	                    way->origin.gwlb_port);
	return way->fd >= 0;
}

/* Returns a UDP socket from own_address:gwlb_port to gwlb_address:6081, or -1. */
static int open_connected(const struct gw_origin *origin)
{
	struct sockaddr_in own = { .sin_family = AF_INET,
		                   .sin_port = htons(origin->gwlb_port),
		                   .sin_addr.s_addr = origin->own_address };
	struct sockaddr_in gwlb = { .sin_family = AF_INET,
		                    .sin_port = htons(GW_GENEVE_PORT),
		                    .sin_addr.s_addr = origin->gwlb_address };
	int fd = new_socket();

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) || connect(fd, (struct sockaddr *)&gwlb, sizeof(gwlb))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Returns a UDP socket with the port that hears nothing, or -1. */
static int open_deaf(uint64_t random, uint16_t port)
{
	struct sockaddr_in deaf = nowhere(random, port);
	int fd = new_socket();

	if (fd < 0)
		return -1;
	set_option(fd, IPPROTO_IP, IP_FREEBIND, 1); /* lo may be down */
	/* The receivers hold the port at all addresses.  At an address of its own, the socket is not in their group. */
	if (port == GW_GENEVE_PORT)
		set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (bind(fd, (struct sockaddr *)&deaf, sizeof(deaf))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Returns a UDP socket for the load balancer's port, not yet bound; or -1. */
static int new_socket(void)
{
	struct timeval timeout = { .tv_usec = SEND_TIMEOUT_US };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	prepare(fd);
	/* Other T threads may have the same way. */
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set_option(fd, IPPROTO_IP, IP_TTL, OUTER_TTL);
	/* Sets DF and distrusts ICMP about the path: a packet is too big only if the interface cannot send it. */
	set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	return fd;
}

/* Chooses a loopback address at random, away from those in common use.  No packet from the network can be for it. */
static struct sockaddr_in nowhere(uint64_t random, uint16_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
		                     .sin_port = htons(port),
		                     .sin_addr.s_addr = htonl(0x7f400000u | (uint32_t)(random >> 42)) };
}

/* Options of all sockets that only send. */
static void prepare(int fd)
{
	const int size = SEND_BUFFER;

	set_option(fd, SOL_SOCKET, SO_RCVBUF, 0);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	/* Makes the kernel report what the device's queue did not take.  The receive buffer bounds the ICMP errors that it
	 * keeps as well. */
	set_option(fd, IPPROTO_IP, IP_RECVERR, 1);
}

static void set_option(int fd, int level, int name, int value)
{
	/* Each of these is a refinement: the socket works without it. */
	(void)setsockopt(fd, level, name, &value, sizeof(value));
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

bool gw_ways_age(struct gw_ways *ways, uint32_t now_s)
{
	if (now_s == ways->aged_s)
		return ways->open > 0;
	ways->aged_s = now_s;
	for (unsigned i = 0; i < GW_WAYS && ways->open > 0; i++) {
		struct gw_way *way = &ways->way[i];

		if (has_socket(way) && now_s - way->used_s >= GW_WAYS_IDLE_S)
			forget_way(ways, way);
	}
	return ways->open > 0;
}

void gw_ways_end(struct gw_ways *ways)
{
	for (unsigned i = 0; i < GW_WAYS; i++)
		close_way(ways, &ways->way[i]);
}

static void forget_way(struct gw_ways *ways, struct gw_way *way)
{
	uint16_t *link = bucket_of(ways, &way->origin);

	while (&ways->way[*link] != way)
		link = &ways->way[*link].next;
	*link = way->next;
	close_way(ways, way);
	way->kind = GW_WAY_FREE;
}

static void close_way(struct gw_ways *ways, struct gw_way *way)
{
	if (!has_socket(way))
		return;
	close(way->fd);
	if (way->kind == GW_WAY_CONNECTED)
		atomic_fetch_sub(slot_of(ways, &way->origin), 1);
	ways->open--;
	atomic_fetch_add(&ways->outlets->sockets_left, 1);
}

static bool has_socket(const struct gw_way *way)
{
	return way->kind == GW_WAY_CONNECTED || way->kind == GW_WAY_DEAF;
}
