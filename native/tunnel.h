/* SPDX-License-Identifier: MIT-0 */
/*
 * tunnel.h - the work of T threads: from the rings to Linux, and from Linux back to the load balancer.
 *
 * The thread on duty (duty.h) owns a struct gw_tunnel.  Other threads read its counters, its duty, and whether it has sockets
 * open.
 */
#ifndef GW_TUNNEL_H
#define GW_TUNNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "counters.h"
#include "duty.h"
#include "gwlbtun.h"
#include "shared.h"

/* One T thread's. */
struct gw_tunnel {
	struct gw_counters counters;
	struct gw_duty duty;
	/* Constant. */
	struct gw_shared *shared;
	uint64_t eni;
	unsigned slot;
	unsigned side;             /* enum gw_side */
	_Atomic unsigned *writers; /* T threads of gwi that run, of its endpoint */
	/* Set before the thread first sleeps. */
	int fd; /* its queue */
	struct gw_transmit *transmit;
	uint8_t *arena;            /* of the packets being read */
	int error;                 /* why the device is of no more use, or 0 */
	bool answers;              /* what is written to gwi came out here at once, last time */
	bool blocked;              /* the way to the load balancer had no room, last time, even after a wait */
	_Atomic bool sockets_open; /* to the load balancer */
};

/* The T thread itself: what gw_tunnel_run() does. */
int gw_tunnel_work(struct gw_tunnel *tunnel, int fd);

/* Control threads: whether it has sockets to the load balancer open that have been idle for long. */
bool gw_tunnel_has_idle_sockets(const struct gw_tunnel *tunnel, uint64_t now_ns);

/* U threads on duty: writes what the rings of a T thread of gwi hold.  With `out`, a T thread of gwo where the caller is on
 * duty as well, sends on what Linux makes of it at once; NULL: none.  False if there is work that a U thread should not wait
 * for: records are left, a device is of no more use, or the load balancer's way is blocked. */
bool gw_tunnel_serve(struct gw_tunnel *in, struct gw_tunnel *out);

/* U threads on duty: sends on some of what the queue holds.  False as above. */
bool gw_tunnel_read(struct gw_tunnel *tunnel);

#endif
