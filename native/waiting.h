/* SPDX-License-Identifier: MIT-0 */
/*
 * waiting.h - packets of endpoints that are not there yet.
 *
 * Theory of operation
 *
 * A U thread that meets an unknown ENI ID announces it to the control thread, puts the packet here and goes on: it has
 * everybody else's traffic to carry.  The control thread judges the ID and may publish an endpoint.  The U thread then
 * takes the packets of that ID out again, in the order in which they came, ahead of all that came later.
 *
 * Each U thread has a room of its own, which only that thread touches: records in a ring of bytes, the oldest first.
 * Records of one ENI ID are a party; they are chained, and the party is found by its ID through a small hash table.  A
 * full room, of bytes or of parties, loses its oldest records, so a flood of invented IDs turns the room over but cannot
 * keep an endpoint out whose packets keep coming.
 *
 * Announcements are a ring of IDs with one producer (the U thread) and one consumer (the control thread).  An ID is
 * announced with each of its packets: the control thread counts them, and admits the liveliest first.  A full ring loses
 * the newest.
 */
#ifndef GW_WAITING_H
#define GW_WAITING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "origin.h"

/* Bytes of a room: 0.8 seconds of a flood of 20,000 small packets a second, or 5 ms of 6 Gbit/s.  With many receivers it
 * is less, so that all rooms together take no more than GW_WAITING_TOTAL, unless each would be below GW_WAITING_LEAST. */
#define GW_WAITING_MOST (4u << 20)
#define GW_WAITING_TOTAL (128u << 20)
#define GW_WAITING_LEAST (512u << 10)
#define GW_PARTIES_SHIFT 10
#define GW_PARTIES (1u << GW_PARTIES_SHIFT)
#define GW_ANNOUNCEMENTS 2048u

struct gw_waiting_packet {
	uint64_t next; /* position of the next record of its party */
	uint64_t came_ns;
	struct gw_origin origin;
	uint32_t len;   /* length of the Geneve packet behind it; WRAP: the next record is at the first byte */
	uint16_t party; /* TAKEN: it has been taken out already */
	uint8_t data[];
};

struct gw_party {
	uint64_t eni;
	uint64_t first, last; /* positions */
	uint32_t packets;     /* 0: the party is free */
	uint16_t next;        /* next in its hash chain, or among the free parties */
};

struct gw_waiting {
	uint8_t *bytes;
	size_t size;
	uint64_t head, tail; /* positions: bytes put in since the room was last empty, and bytes given back */
	uint64_t multiplier; /* of the hash of ENI IDs: odd, secret */
	uint16_t free;
	uint16_t bucket[GW_PARTIES];
	struct gw_party party[GW_PARTIES];
	_Atomic unsigned packets; /* control threads read whether any packets wait */
	/* Announcements. */
	_Alignas(64) _Atomic uint32_t announced; /* by the U thread */
	_Alignas(64) _Atomic uint32_t heard;     /* by the control thread */
	uint64_t announcement[GW_ANNOUNCEMENTS];
};

/* Makes a room of the given number.  False with errno. */
bool gw_waiting_begin(struct gw_waiting *waiting, unsigned rooms, uint64_t multiplier);
void gw_waiting_end(struct gw_waiting *waiting);

/* Announces a packet of this ID to the control thread. */
void gw_waiting_announce(struct gw_waiting *waiting, uint64_t eni);

/* Control thread: takes the next announced ID; false if there is none. */
bool gw_waiting_hear(struct gw_waiting *waiting, uint64_t *eni);

static inline bool gw_waiting_any(const struct gw_waiting *waiting)
{
	return atomic_load_explicit(&waiting->packets, memory_order_relaxed) > 0;
}

/* Whether a packet of this ID waits. */
bool gw_waiting_has(const struct gw_waiting *waiting, uint64_t eni);

/* Whether a packet of this ID and length fits.  If not, drop the oldest first. */
bool gw_waiting_has_room(const struct gw_waiting *waiting, uint64_t eni, uint32_t len);

/* Keeps a copy of a Geneve packet, which must fit. */
void gw_waiting_add(struct gw_waiting *waiting, uint64_t eni, const struct gw_origin *origin, const uint8_t *data,
                    uint32_t len, uint64_t now_ns);

/* The packet that has waited longest, or NULL.  It is valid until the next call. */
const struct gw_waiting_packet *gw_waiting_oldest(struct gw_waiting *waiting);
void gw_waiting_drop_oldest(struct gw_waiting *waiting);

/* While the U thread does not run: the packet at a position, which moves on to the next, or NULL.  The first position is the
 * tail. */
const struct gw_waiting_packet *gw_waiting_walk(const struct gw_waiting *waiting, uint64_t *position);

/* The ENI ID of a packet that waits. */
static inline uint64_t gw_waiting_eni(const struct gw_waiting *waiting, const struct gw_waiting_packet *packet)
{
	return waiting->party[packet->party].eni;
}

/* Takes out the next packet of a party (0 to GW_PARTIES - 1), or returns NULL.  It is valid until the next add or drop. */
const struct gw_waiting_packet *gw_waiting_take(struct gw_waiting *waiting, unsigned party);

#endif
