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
#include "progress.h"
#include "shared.h"

/* The state of one T thread. */
struct gw_tunnel {
	struct gw_counters counters;
	struct gw_duty duty;
	/* Constant. */
	struct gw_shared *shared;
	uint64_t eni;
	unsigned slot;
	unsigned side;             /* enum gw_side */
	_Atomic unsigned *writers; /* of its endpoint: T threads of gwi that run */
	/* Set before the thread first sleeps. */
	int fd; /* its queue */
	struct gw_transmit *transmit;
	uint8_t *arena;              /* for the packets being read */
	int error;                   /* the errno that made the device useless, or 0 */
	bool answers;                /* last time, what it wrote to gwi came out here at once */
	bool blocked;                /* last time, the way to the load balancer had no room, even after a wait */
	_Atomic bool sockets_open;   /* to the load balancer */
	_Atomic uint64_t reads;      /* packets read from the queue, and flushed (fence.h) */
	struct gw_progress progress; /* the control thread's that looks */
};

/* The T thread itself: what gw_tunnel_run() does. */
int gw_tunnel_work(struct gw_tunnel *tunnel, int fd);

/* Control threads: whether any of its sockets to the load balancer have been idle for long. */
bool gw_tunnel_has_idle_sockets(const struct gw_tunnel *tunnel, uint64_t now_ns);

/* Control threads: what gw_tunnel_stalled() does. */
unsigned gw_tunnel_look(struct gw_tunnel *tunnel, int fd, int *receiver);

/* U threads on duty: writes what the rings of a T thread of gwi hold.  If the caller is on duty for `out` as well, a T
 * thread of gwo, sends on at once what Linux makes of it; else out is NULL.  False if work is left that a U thread should
 * not wait for: records, a useless device, or a blocked way to the load balancer. */
bool gw_tunnel_serve(struct gw_tunnel *in, struct gw_tunnel *out);

/* U threads on duty: sends on some of what the queue holds.  False as above. */
bool gw_tunnel_read(struct gw_tunnel *tunnel);

#endif
