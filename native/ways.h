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
#include "origin.h"

#define GW_WAYS 1024u /* that one thread remembers */
#define GW_WAY_BUCKETS 2048u
#define GW_NO_DATAGRAM UINT16_MAX

/* The kernel's table of UDP sockets has at least this many slots, and a power of two. */
#define GW_PORT_SLOTS 256u

/* What all threads that send to the load balancer share. */
struct gw_outlets {
	unsigned offloads;                    /* enum gw_offload */
	int raw_fd;                           /* a raw socket, or -1 */
	uint64_t multiplier;                  /* for the hash of ways: odd, secret */
	_Atomic int64_t sockets_left;         /* sockets that may still be opened, over all threads */
	_Atomic int connected[GW_PORT_SLOTS]; /* sockets by port, modulo GW_PORT_SLOTS */
};

enum gw_way_kind { GW_WAY_FREE, GW_WAY_CONNECTED, GW_WAY_DEAF, GW_WAY_RAW };

struct gw_way {
	struct gw_origin origin;
	uint16_t next;        /* in its hash chain */
	uint16_t first, last; /* transmit.c's queued datagrams */
	enum gw_way_kind kind;
	int fd; /* -1: datagrams for this way are dropped */
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
	struct gw_way way[GW_WAYS + 1]; /* the last is the overflow: RAW, for origins without a way of their own */
};

static inline struct gw_way *gw_ways_overflow(struct gw_ways *ways)
{
	return &ways->way[GW_WAYS];
}

/* Initializes zeroed memory. */
void gw_ways_begin(struct gw_ways *ways, struct gw_outlets *outlets, struct gw_counters *counters);
void gw_ways_end(struct gw_ways *ways);

/* Returns the way to an origin, made if need be.  NULL: every way has something queued or is in use. */
struct gw_way *gw_ways_find(struct gw_ways *ways, const struct gw_origin *origin, uint32_t now_s);

/* Seconds after which an unused socket is closed. */
#ifndef GW_WAYS_IDLE_S
#define GW_WAYS_IDLE_S 60u
#endif

/* Closes the sockets that have been unused for that long.  True if any stay open. */
bool gw_ways_age(struct gw_ways *ways, uint32_t now_s);

/* Prepares a raw socket, not yet bound, for sending only. */
void gw_ways_prepare_raw(int fd);

#endif
