/* SPDX-License-Identifier: MIT-0 */
/*
 * transmit.h - datagrams back to the load balancer, and the sockets that they leave by.
 */
#ifndef GW_TRANSMIT_H
#define GW_TRANSMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counters.h"
#include "flow_key.h"

/* The kernel finds a UDP socket by walking a chain of those whose ports are equal modulo the size of its table, a power of two
 * from 256 on.  A sender that chooses outer source ports chooses the ports that transmit.c binds: those of one class may be in
 * one chain. */
#define GW_PORT_CLASSES 256u

/* What all threads have in common that send to the load balancer. */
struct gw_outlets {
	unsigned offloads;            /* enum gw_offload */
	int raw_fd;                   /* a raw socket, or -1 */
	uint64_t multiplier;          /* of the hash of ways: odd, secret */
	_Atomic int receive_fd;       /* a copy of a receiver's socket, to send from port 6081 itself; -1 */
	_Atomic int64_t sockets_left; /* how many may be opened yet, over all threads */
	_Atomic unsigned sockets_of_class[GW_PORT_CLASSES]; /* that are open, by their port modulo GW_PORT_CLASSES */
};

struct gw_transmit;

/* One T thread's, which counts into counters.  NULL with errno. */
struct gw_transmit *gw_transmit_new(struct gw_outlets *outlets, struct gw_counters *counters);
void gw_transmit_free(struct gw_transmit *transmit);

/* Gives a socket what all datagrams to the load balancer have in common: the outer TTL, no fragments, a time-out. */
void gw_transmit_set_options(int fd);

/* The same for one that does nothing else, be it raw: besides, some megabytes for what the device has no room for yet, and
 * word of what a queueing discipline on the way out drops. */
void gw_transmit_prepare(int fd);

/* The most that gw_transmit_room(), and header bytes that gw_transmit_add() takes. */
#define GW_TRANSMIT_COPY_MAX 2048u

/*
 * Queues one datagram: the path's Geneve header, then len bytes, to be written where this says before the next call.  NULL:
 * it is too big, was dropped and counted.  May flush.
 */
uint8_t *gw_transmit_room(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t len);

/* The same, with header_len bytes of header, which are copied, and then payload_len of payload, which must stay where it is
 * until the next flush. */
void gw_transmit_add(struct gw_transmit *transmit, const struct gw_flow_path *path, const uint8_t *header,
                     size_t header_len, const uint8_t *payload, size_t payload_len);

/* Sends what is queued.  What cannot be sent is dropped and counted.  False if there was no room for it, even after a wait. */
bool gw_transmit_flush(struct gw_transmit *transmit);

/* Seconds after which a socket that was not used is closed. */
#ifndef GW_TRANSMIT_IDLE_S
#define GW_TRANSMIT_IDLE_S 60u
#endif

/* Closes the sockets that were idle for so long; to be called now and then.  True if any are left open. */
bool gw_transmit_age(struct gw_transmit *transmit);

#endif
