/* SPDX-License-Identifier: MIT-0 */
/*
 * relief.h - U threads that do the work of T threads that sleep.
 *
 * Theory of operation
 *
 * A U thread that has something for a sleeping T thread relieves it, as long as that is no loss: it takes the T thread's duty
 * (duty.h), writes its records, reads what Linux sends, and returns that to the load balancer itself, with no switch to
 * another thread, which costs more than most packets do.  It stays on duty then, and sleeps in poll on those queues and its
 * socket, so that the kernel wakes nobody else for what comes out of them.  Where rings have several producers it only
 * writes, and is off duty again.
 *
 * It is a loss when there is more to receive than was taken, and the T thread has a core of its own to run beside it.
 *
 * All of it belongs to its U thread.  Control threads see through the gate (gate.h) how many T threads it stands in for, and
 * ask it to go off duty there.
 */
#ifndef GW_RELIEF_H
#define GW_RELIEF_H

#include <stdbool.h>
#include <stdint.h>

#include "fence.h"
#include "gate.h"
#include "tunnel.h"

/* The most T threads that a U thread relieves at a time.  Each makes its poll dearer. */
#define GW_RELIEVED_MAX 32u

struct gw_relief {
	struct gw_gate *gate; /* its `held` counts the T threads relieved */
	struct gw_fence *fence;
	unsigned receiver;
	bool alone; /* no other U thread fills the rings that this one fills */
	struct gw_tunnel *tunnel[GW_RELIEVED_MAX];
	uint32_t used_s[GW_RELIEVED_MAX];
};

/* Has the records written that were just published for `in`, a T thread of gwi.  `out` is its counterpart of gwo.  behind:
 * there is more to receive.  True if nothing was left to T threads. */
bool gw_relief_hand_over(struct gw_relief *relief, struct gw_tunnel *in, struct gw_tunnel *out, bool behind);

/* True if it stands in for any T thread, so that the receiver must sleep in gw_relief_wait().  Goes off duty first where it
 * was asked to. */
bool gw_relief_on_duty(struct gw_relief *relief);

/* Sleeps until there is work, at most timeout_ms (-1: for ever), and does it.  True if fd has something to receive. */
bool gw_relief_wait(struct gw_relief *relief, int fd, int timeout_ms);

/* Goes off duty everywhere. */
void gw_relief_leave(struct gw_relief *relief);

#endif
