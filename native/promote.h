/* SPDX-License-Identifier: MIT-0 */
/*
 * promote.h - which flows a U thread asks to have put into the kernel.
 *
 * Theory of operation
 *
 * A U thread counts the packets of flows in a table of its own.  A flow that has shown GW_PROMOTE_AFTER of them is worth a
 * request to thread K (kernel_path.h), by a ring of which the U thread is the only producer and K the only consumer.  A flow
 * that goes on coming up asks again, each time after twice as many packets: K may have been out of room, and some packets
 * always come up.  One that comes up again after a while asks as at first.
 *
 * The table has sets of cells, each a cache line; the flow's hash, which is keyed, chooses the set, so nobody can aim at one.  A
 * flow that has no cell yet takes one whose owner has not come up for a while: it is in the kernel, or gone.  When there is
 * none, it takes any, but only one time in GW_PROMOTE_PUSH.  So a flood of flows of one packet neither asks for anything nor
 * drives out flows that live, and more flows than there are cells get there one after the other.
 *
 * A flow that the flow table did not have, or had under another path, is counted anew, as are all flows in a new life of
 * their endpoint.  One whose path is new may be in the kernel under its old header, and replies must not leave under that.
 * The programs see a new header themselves, but not in merged datagrams.  So a U thread that replaces a flow's path holds
 * the replies of all of its endpoint back from the kernel (`changing`, bpf/layout.h) before it hands the packet on, and tells K,
 * which lets go when the old entry is dead.  Should the ring have no room, all entries of the endpoint have to die.
 */
#ifndef GW_PROMOTE_H
#define GW_PROMOTE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bpf/layout.h"
#include "flow_key.h"

#define GW_PROMOTE_AFTER 4u
#define GW_PROMOTE_AGAIN 256u
#define GW_PROMOTE_DOUBLINGS 7u

#define GW_PROMOTE_SETS 32768u /* of all receivers, which share the flows, but each has */
#define GW_PROMOTE_LEAST 2048u
#define GW_PROMOTE_CELLS 8u /* of a set */
#define GW_PROMOTE_STALE_S 4u
#define GW_PROMOTE_PUSH 16u
#define GW_PROMOTE_REQUESTS 1024u

/* What K offers to U threads while it works (shared.h): they take it inside their gates. */
struct gw_promotion {
	struct gw_kernel_endpoint *endpoints;
	_Atomic uint32_t *untold; /* changes that found no room in a ring, by slot */
	_Atomic bool overran;     /* there may be some */
	int bell;                 /* wakes K */
	_Atomic bool sleeps;      /* K sleeps for long */
};

enum gw_promote_kind {
	GW_PROMOTE_FLOW,    /* put it into the kernel */
	GW_PROMOTE_CHANGED, /* its path may be another one now: only key and life are set */
};

struct gw_promote_request {
	uint64_t word[GW_KEY_WORDS]; /* of its key */
	uint8_t header[GW_KERNEL_HEADER];
	struct gw_origin origin;
	uint32_t life; /* of its endpoint */
	uint32_t kind; /* enum gw_promote_kind */
};

struct gw_promote_cell {
	uint32_t tag;
	uint16_t left;     /* packets until it asks; 0: nobody's */
	uint8_t life;      /* of its endpoint, as far as it fits */
	uint8_t asked : 3; /* times */
	uint8_t seen : 5;  /* gw_now_s() of its last packet, as far as it fits */
};
_Static_assert(sizeof(struct gw_promote_cell) * GW_PROMOTE_CELLS == 64, "a cache line");

struct gw_promote_set {
	_Alignas(64) struct gw_promote_cell cell[GW_PROMOTE_CELLS];
};

struct gw_promote {
	/* The U thread's. */
	_Alignas(64) _Atomic uint32_t head;
	uint32_t known_tail;
	_Atomic uint64_t lost; /* requests that found no room */
	uint32_t mask;         /* of the sets that are in use */
	uint64_t random;
	/* K's. */
	_Alignas(64) _Atomic uint32_t tail;
	_Alignas(64) struct gw_promote_request request[GW_PROMOTE_REQUESTS];
	struct gw_promote_set set[GW_PROMOTE_SETS];
};

/* ---- The U thread ------------------------------------------------------------------------------------------------*/

/* In zeroed memory.  receivers: how many there are. */
void gw_promote_begin(struct gw_promote *promote, unsigned receivers);

static inline struct gw_promote_set *gw_promote_set(struct gw_promote *promote, uint64_t hash)
{
	return &promote->set[hash >> 16 & promote->mask];
}

/* Whether a flow is known to have asked already: it may be in the kernel. */
bool gw_promote_has_asked(struct gw_promote *promote, uint64_t hash);

/* Counts packets of a flow, in that life of its endpoint.  anew: the flow table did not have it, or had another path.  now:
 * gw_now_s().  Returns its cell if it should ask now, else NULL. */
struct gw_promote_cell *gw_promote_count(struct gw_promote *promote, uint64_t hash, uint32_t life, unsigned packets,
                                         bool anew, uint32_t now);

/* Asks for a flow that gw_promote_count() gave the cell of. */
void gw_promote_ask(struct gw_promote *promote, struct gw_promotion *promotion, struct gw_promote_cell *cell,
                    const struct gw_flow_key *key, const struct gw_flow_path *path, uint32_t life);

/* Holds the endpoint back and tells K that a flow may have another path than in the map.  To be called before the packet is
 * handed on. */
void gw_promote_change(struct gw_promote *promote, struct gw_promotion *promotion, const struct gw_flow_key *key,
                       uint32_t life);

/* ---- K -----------------------------------------------------------------------------------------------------------*/

/* The oldest request, or NULL. */
const struct gw_promote_request *gw_promote_peek(const struct gw_promote *promote);

/* Gives back the request that gw_promote_peek() returned. */
void gw_promote_release(struct gw_promote *promote);

#endif
