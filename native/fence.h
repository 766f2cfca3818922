/* SPDX-License-Identifier: MIT-0 */
/*
 * fence.h - how thread K knows that what went up before a certain moment is through.
 *
 * Theory of operation
 *
 * A packet that goes up lies in a U thread's socket, in its hands, in a ring, and then has been written to gwi; or in a queue
 * of gwi or gwo, in the hands of who is on duty there, and then has been sent.  K may let the flow take the kernel when that is
 * over.  K finds out by looking; U and T threads do nothing for it but to keep a few words up to date.  So a thread that stands
 * still, has ended, or never ran cannot hold K up: it is only not through.
 *
 * Each proof has two parts, in this order: where packets wait was empty at a moment A, or as many were taken out as were in
 * it; then, at a moment after A, nobody has in hand what was taken out before A.
 *
 * Socket.  A U thread's `turn` changes at each batch boundary, when the thread holds no packet (those that wait for an endpoint
 * to be made are of endpoints that are not in the kernel, and stay ahead of later ones).  It is odd while the thread rests in
 * poll, and even from before it receives again.  K sees the socket empty (A), and then an odd turn, or two turns that differ.
 * What was taken out before A was taken out by the U thread, under an even turn, which lasts until it has been handed over.  Or,
 * with a socket that is never empty: the memory that its queue holds bounds the datagrams in it, and K sees `taken`, which the
 * thread counts up after they have been handed over, grow by as many and those of a batch in hand.
 *
 * A U thread that sleeps in recvmmsg keeps an even turn.  It therefore sleeps in poll while `polls` (shared.h) is set, as it
 * does when it is on duty for T threads.  The next packet gets it there.
 *
 * Ring.  K notes where the U thread's records end, after its socket is through, and sees the consumer get there.  A record is
 * released after it has been written.  Positions do not go back but to a new generation, which begins when all is consumed.
 *
 * Queue.  K sees the queue empty (A), and then, in duty.h's words, that nobody is on duty; or that the thread on duty has changed
 * or has flushed a batch since A (`reads` counts when it has); or that a U thread is on duty whose turn is odd, or has changed
 * since A.  Who took a packet out before A was on duty then and stays so until it has flushed it.  Or, with a queue that is never
 * empty: `reads` grows by what a queue can hold and a batch in hand.
 *
 * What a processor does out of order is kept in place by full barriers: K's, between looking at a socket or a queue and at a
 * word; the threads', between the word and the system call that takes packets out.
 */
#ifndef GW_FENCE_H
#define GW_FENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"
#include "tunnel.h"

/* ---- The U thread ------------------------------------------------------------------------------------------------*/

struct gw_fence {
	_Alignas(64) _Atomic uint32_t turn;
	_Atomic int fd;         /* its socket; -1: it does not run */
	_Atomic uint64_t taken; /* datagrams that have been handed over */
};

/* At a batch boundary. */
static inline void gw_fence_pass(struct gw_fence *fence)
{
	atomic_store_explicit(&fence->turn, atomic_load_explicit(&fence->turn, memory_order_relaxed) + 2,
	                      memory_order_release);
}

/* Before poll and after it. */
static inline void gw_fence_rest(struct gw_fence *fence)
{
	atomic_store_explicit(&fence->turn, atomic_load_explicit(&fence->turn, memory_order_relaxed) + 1,
	                      memory_order_release);
}

static inline void gw_fence_wake(struct gw_fence *fence)
{
	atomic_store_explicit(&fence->turn, atomic_load_explicit(&fence->turn, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
	__sync_synchronize();
}

/* When a batch has been handed over. */
static inline void gw_fence_took(struct gw_fence *fence, unsigned datagrams)
{
	atomic_store_explicit(&fence->taken, atomic_load_explicit(&fence->taken, memory_order_relaxed) + datagrams,
	                      memory_order_release);
}

/* ---- K -----------------------------------------------------------------------------------------------------------*/

enum gw_fence_state { GW_FENCE_WAITS, GW_FENCE_EMPTY, GW_FENCE_THROUGH };

struct gw_fence_socket {
	enum gw_fence_state state;
	uint32_t turn;  /* seen after it was empty */
	uint64_t bound; /* `taken`, when all that was there has been handed over */
};

void gw_fence_begin_socket(struct gw_fence_socket *socket, const struct gw_fence *fence);
bool gw_fence_socket_through(struct gw_fence_socket *socket, const struct gw_fence *fence);

struct gw_fence_ring {
	bool through;
	uint64_t end;
};

void gw_fence_begin_ring(struct gw_fence_ring *look, const struct gw_ring *ring);
bool gw_fence_ring_through(struct gw_fence_ring *look, const struct gw_ring *ring);

struct gw_fence_queue {
	/* Constant. */
	int fd;
	uint32_t length; /* the most packets that it can hold */
	/* A look. */
	enum gw_fence_state state;
	uint32_t who, turn; /* on duty, and the U thread's turn, seen after it was empty */
	uint64_t reads;     /* likewise */
	uint64_t bound;
};

/* fence: of each receiver. */
void gw_fence_begin_queue(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel);
bool gw_fence_queue_through(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel,
                            struct gw_fence *const *fence);

#endif
