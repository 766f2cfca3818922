/* SPDX-License-Identifier: MIT-0 */
/*
 * ways.h - the ways back to the load balancer, and the sockets that serve them.
 */
#ifndef GW_WAYS_H
#define GW_WAYS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "counters.h"

#define GW_WAYS 1024u /* that one thread remembers */
#define GW_WAY_BUCKETS 2048u
#define GW_NO_DATAGRAM UINT16_MAX

/* The kernel's table of UDP sockets has at least so many slots, and a power of two. */
#define GW_PORT_SLOTS 256u

/* What all threads have in common that send to the load balancer. */
struct gw_outlets {
	unsigned offloads;                    /* enum gw_offload */
	int raw_fd;                           /* a raw socket, or -1 */
	uint64_t multiplier;                  /* of the hash of ways: odd, secret */
	_Atomic int64_t sockets_left;         /* how many may be opened yet, over all threads */
	_Atomic int connected[GW_PORT_SLOTS]; /* sockets by port, modulo GW_PORT_SLOTS */
};

struct gw_peer {
	uint32_t gwlb_address; /* network byte order */
	uint32_t own_address;
	uint16_t gwlb_port; /* host byte order */
};

enum gw_way_kind { GW_WAY_FREE, GW_WAY_CONNECTED, GW_WAY_DEAF, GW_WAY_RAW };

struct gw_way {
	struct gw_peer peer;
	uint16_t next;        /* in its hash chain */
	uint16_t first, last; /* queued datagrams, of transmit.c */
	enum gw_way_kind kind;
	int fd; /* -1: what would go by it is dropped */
	uint32_t used_s;
	uint32_t made_s;
};

struct gw_ways {
	struct gw_outlets *outlets;
	struct gw_counters *counters;
	uint16_t hand;
	uint32_t aged_s;
	unsigned open; /* sockets of its own */
	uint16_t bucket[GW_WAY_BUCKETS];
	struct gw_way way[GW_WAYS + 1]; /* the last is the overflow: RAW, for peers that have no way of their own */
};

static inline bool gw_same_peer(const struct gw_peer *a, const struct gw_peer *b)
{
	return a->gwlb_port == b->gwlb_port && a->gwlb_address == b->gwlb_address && a->own_address == b->own_address;
}

static inline struct gw_way *gw_ways_overflow(struct gw_ways *ways)
{
	return &ways->way[GW_WAYS];
}

/* Fills in what is all zeros. */
void gw_ways_begin(struct gw_ways *ways, struct gw_outlets *outlets, struct gw_counters *counters);
void gw_ways_end(struct gw_ways *ways);

/* The way to a peer, made if need be; NULL when each way has something queued or is in use. */
struct gw_way *gw_ways_find(struct gw_ways *ways, const struct gw_peer *peer, uint32_t now_s);

/* Seconds after which a socket that was not used is closed. */
#ifndef GW_WAYS_IDLE_S
#define GW_WAYS_IDLE_S 60u
#endif

/* Closes the sockets that have not been used for so long.  True if any are left open. */
bool gw_ways_age(struct gw_ways *ways, uint32_t now_s);

/* Makes a raw socket, which is not bound yet, one that only sends. */
void gw_ways_prepare_raw(int fd);

#endif
