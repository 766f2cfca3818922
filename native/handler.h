/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.h - what the threads of the fast path share: the handler, its receivers and its endpoints.
 *
 * Theory of operation
 *
 * Endpoints are found by ENI ID in a hash table of chains that only control threads change (one at a time, gwlbtun.h)
 * and U threads read without a lock.  An unpublished endpoint stays linked to its successor, so that a reader who stands
 * on it walks on; it may be freed once every receiver has passed a batch boundary.  A receiver's `batch` is odd from
 * before it looks at the table until it lets go of what it found; unpublishing waits for each that is odd to change.
 *
 * What belongs to a T thread is used by who is on duty there: that thread, or a U thread that relieves it (relief.h).
 */
#ifndef GW_HANDLER_H
#define GW_HANDLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "counters.h"
#include "flow.h"
#include "gwlbtun.h"
#include "ring.h"
#include "trace.h"

struct gw_receiver;
struct gw_transmit;

/* One T thread's. */
struct gw_tunnel {
	struct gw_counters counters;
	struct gw_endpoint *endpoint;
	unsigned side; /* enum gw_side */
	unsigned index;
	int bell; /* an eventfd, which wakes it */
	_Atomic uint32_t duty; /* relief.h */
	_Atomic int cpu; /* on which it went to sleep */
	_Atomic bool sockets_open; /* to the load balancer */
	/* Of who is on duty; set before the thread first sleeps. */
	int fd; /* its queue */
	struct gw_transmit *transmit;
	uint8_t *arena; /* of the packets being read */
	int error; /* why the device is of no more use, or 0 */
	bool answers; /* what is written to gwi came out here at once, last time */
	bool blocked; /* the way to the load balancer had no room, last time, even after a wait */
};

struct gw_endpoint {
	_Atomic(struct gw_endpoint *) next; /* in its chain */
	struct gw_handler *handler;
	uint64_t eni;
	uint64_t made_ns;
	unsigned slot;
	_Atomic bool stop;
	_Atomic bool up; /* opened: its frames go to Linux */
	_Atomic unsigned writers; /* T threads of gwi that run */
	bool published;
	struct gw_tunnel *tunnel[2]; /* by enum gw_side; handler->tunnel_threads of them */
	struct gw_ring *ring;        /* one per receiver */
	uint8_t *ring_memory;
};

/* The kernel finds a UDP socket by walking a chain of those whose ports are equal modulo the size of its table, a power of two
 * from 256 on.  A sender that chooses outer source ports chooses the ports that transmit.c binds: those of one class may be in
 * one chain. */
#define GW_PORT_CLASSES 256u

#define GW_ENDPOINT_BUCKETS_SHIFT 10
#define GW_ENDPOINT_BUCKETS (1u << GW_ENDPOINT_BUCKETS_SHIFT)

struct gw_handler {
	unsigned receivers;
	unsigned tunnel_threads;
	unsigned max_endpoints;
	unsigned idle_s;
	unsigned offloads;
	int raw_fd;
	uint64_t multiplier; /* of the hash of ENI IDs: odd, secret */
	struct gw_flows *flows;
	struct gw_receiver **receiver;
	uint64_t *slots_used; /* a bit per slot */
	uint64_t *allowed; /* ENI IDs that may have endpoints, ascending; NULL: all */
	unsigned allowed_count;
	_Atomic(struct gw_sources *) sources; /* source.h */
	struct gw_trace trace;
	_Atomic bool stop;
	_Atomic int receive_fd;      /* a copy of a receiver's socket, to send from port 6081 itself; -1 */
	_Atomic int64_t sockets_left; /* how many transmit.c may open yet, over all threads */
	_Atomic unsigned sockets_of_class[GW_PORT_CLASSES]; /* that are open, by their port modulo GW_PORT_CLASSES */
	_Atomic unsigned endpoints;
	_Atomic unsigned publications; /* of endpoints, so far */
	_Atomic uint64_t ring_bytes;   /* what all rings may hold */
	_Atomic bool full;             /* no further endpoint is made */
	int control_bell;              /* an eventfd: ENI IDs have been announced */
	_Atomic bool control_sleeps;
	unsigned listen_next; /* the control thread's: whose announcements it hears first */
	_Atomic(struct gw_endpoint *) bucket[GW_ENDPOINT_BUCKETS];
};

/* U threads, inside a batch: the published endpoint of an ENI ID, or NULL. */
struct gw_endpoint *gw_endpoint_find(const struct gw_handler *handler, uint64_t eni);

/* Whether an ENI ID may have an endpoint. */
bool gw_endpoint_allowed(const struct gw_handler *handler, uint64_t eni);

/* tunnel.c, for who is on duty: writes what the rings of a T thread of gwi hold.  With `out`, a T thread of gwo where the
 * caller is on duty as well, sends on what Linux makes of it at once; NULL: none.  False if there is more than a U thread had
 * better do: frames are left, a device is of no more use, or the load balancer's way is blocked. */
bool gw_tunnel_serve(struct gw_tunnel *in, struct gw_tunnel *out);

/* tunnel.c, for who is on duty: sends on some of what the queue holds.  False as above. */
bool gw_tunnel_read(struct gw_tunnel *tunnel);

/* Whether there is no frame for a T thread; always so on gwo. */
static inline bool gw_tunnel_rings_empty(const struct gw_tunnel *tunnel)
{
	const struct gw_handler *handler = tunnel->endpoint->handler;

	if (tunnel->side == GW_GWO)
		return true;
	for (unsigned i = tunnel->index; i < handler->receivers; i += handler->tunnel_threads)
		if (gw_ring_waiting(&tunnel->endpoint->ring[i]) != 0)
			return false;
	return true;
}

/* recvmmsg.c: memory of one receiver; NULL with errno. */
struct gw_receiver *gw_receiver_new(struct gw_handler *handler, unsigned index);
void gw_receiver_free(struct gw_receiver *receiver);
const struct gw_counters *gw_receiver_count(const struct gw_receiver *receiver);

/* recvmmsg.c: waits until the receiver has passed a batch boundary, or is between batches. */
void gw_receiver_await_batch(struct gw_receiver *receiver);

/* recvmmsg.c: waits until the receiver has let go of what it found in the table of endpoints, and of their T threads. */
void gw_receiver_quiesce(struct gw_receiver *receiver);

/* recvmmsg.c: an endpoint has been published, for which packets may wait. */
void gw_receiver_tell_published(struct gw_receiver *receiver);

/* recvmmsg.c, for the control thread: the next ENI ID announced by this receiver; false if there is none. */
bool gw_receiver_hear(struct gw_receiver *receiver, uint64_t *eni);

/* U threads: an ENI ID has been announced. */
void gw_handler_call_control(struct gw_handler *handler);

/* recvmmsg.c: has the receiver go off duty for T threads, soon. */
void gw_receiver_call_off(struct gw_receiver *receiver);

#endif
