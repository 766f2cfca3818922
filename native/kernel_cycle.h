/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_cycle.h - fence cycles: K tells the programs what is through.
 *
 * Theory of operation
 *
 * A program that lets a packet go up sets `wanted` of its endpoint and then stamps the flow's way with the time.  The way may
 * change over to the kernel when what went up before is through: when its stamp is older than `done` (bpf/layout.h).
 *
 * A cycle takes the time t0, and lets GRACE_NS go by, so that what was stamped before t0 lies in a socket or in a queue.  Then it
 * has that looked at until it is through (fence.h).  No proof is in GRACE_NS: a virtual CPU may stand still for longer just there.
 * The kernel's own grace period would be one, by membarrier(2), but takes 16 ms.  A flow would need a pause that long to change
 * over, as each packet that goes up must be through.
 *
 * The way out: K collects the endpoints that are wanted, and looks at all of their queues.  A packet's `wanted` may be cleared by
 * one cycle and its stamp be older than the t0 of the next, so each cycle is also about the endpoints of the one before it.
 *
 * The way in, for each receiver that has flows in the kernel: K looks at its socket, and then at its rings to all endpoints.
 * With a long queue in the socket that takes longer than a cycle; the receiver then joins the next cycle after it.
 *
 * A thread that does not get through ends a cycle without its number, after some time.  An endpoint where this happens again
 * and again gets a new life: its entries die, and nobody waits for it any more.  While the records in one of its rings do not move,
 * none of its flows may take the kernel.
 *
 * The cost goes down where cycles are in vain, as for flows of which some packets always go up: the pause between two grows.
 */
#ifndef GW_KERNEL_CYCLE_H
#define GW_KERNEL_CYCLE_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/layout.h"
#include "fence.h"
#include "gwlbtun.h"
#include "kernel_slots.h"
#include "shared.h"

enum gw_kernel_cycle_state { GW_CYCLE_OVER, GW_CYCLE_GRACE, GW_CYCLE_AWAITS };

enum gw_kernel_receiver_state { GW_RECEIVER_OVER, GW_RECEIVER_SOCKET, GW_RECEIVER_RINGS };

struct gw_kernel_receiver {
	struct gw_fence *fence;
	bool asked; /* it has flows in the kernel, perhaps */
	enum gw_kernel_receiver_state state;
	uint64_t t0;       /* of the cycle that it is about */
	uint64_t rings_ns; /* since when its rings are looked at */
	struct gw_fence_socket socket;
};

struct gw_kernel_cycle {
	struct gw_shared *shared;
	struct gw_kernel_slots *slots;
	struct gw_kernel_globals *globals;
	struct gw_kernel_counts *counts;
	struct gw_fence **fence; /* of each receiver */
	struct gw_kernel_receiver *receiver;
	enum gw_kernel_cycle_state state;
	bool stuck; /* some endpoint is */
	uint64_t t0;
	uint64_t awaits_ns; /* since when it awaits threads */
	uint64_t begin_ns;  /* when the next one may begin */
	uint64_t next_ns;   /* when the next step is due */
	uint64_t look_ns;   /* the pause between looks, and between cycles */
	uint64_t pace_ns;
	uint64_t lively_ns; /* until when it looks often */
};

/* In zeroed memory.  fence: of each receiver, kept.  False: no memory. */
bool gw_kernel_cycle_begin(struct gw_kernel_cycle *cycle, struct gw_shared *shared, struct gw_kernel_slots *slots,
                           struct gw_kernel_globals *globals, struct gw_kernel_counts *counts,
                           struct gw_fence **fence);
void gw_kernel_cycle_end(struct gw_kernel_cycle *cycle);

/* A receiver has asked for a flow; one has been put into the map. */
void gw_kernel_cycle_include(struct gw_kernel_cycle *cycle, unsigned receiver);
void gw_kernel_cycle_hurry(struct gw_kernel_cycle *cycle, uint64_t now_ns);

/* Does what is due, and returns when the next step is. */
uint64_t gw_kernel_cycle_step(struct gw_kernel_cycle *cycle, uint64_t now_ns);

/* True if nothing was wanted for a while, so that it need not be looked at while the map is empty. */
bool gw_kernel_cycle_rests(const struct gw_kernel_cycle *cycle, uint64_t now_ns);

#endif
