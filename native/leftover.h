/* SPDX-License-Identifier: MIT-0 */
/*
 * leftover.h - packets that are in memory when another program takes over, and go on in that one.
 *
 * Theory of operation: once all U and T threads have ended, packets may be left in two places: in waiting rooms, and in the rings
 * of endpoints that are not up or whose interface takes nothing.  They have been counted as received, so they must not vanish.
 * The program that goes writes them to a memory file, and keeps them in case that it goes on after all.  The program that comes
 * puts them where they would be, before any of its threads runs.  There may be other receivers and other endpoints: what finds no
 * place is counted as dropped.
 *
 * The file is a row of records, each with its bytes behind it.  A record that cannot be one ends it.
 */
#ifndef GW_LEFTOVER_H
#define GW_LEFTOVER_H

#include <stdint.h>

#include "endpoint.h"
#include "recvmmsg.h"

struct gw_leftover {
	uint64_t eni;
	uint64_t bytes;    /* of a frame's packets, before merging */
	uint32_t len;      /* of what is behind the record */
	uint32_t packets;  /* in a frame; 0: a Geneve packet that waits for its endpoint */
	uint32_t receiver; /* whose it was */
	uint32_t gwlb_address, own_address;
	uint16_t gwlb_port;
	uint16_t reserved;
};
_Static_assert(sizeof(struct gw_leftover) == 40, "programs of any build agree");

/* What gw_handler_leave() does. */
int gw_leftovers_write(const struct gw_endpoints *table, int fd);

/* What gw_handler_take_back() does. */
int gw_leftovers_read(const struct gw_endpoints *table, struct gw_receiver *const *receiver, int fd);

#endif
