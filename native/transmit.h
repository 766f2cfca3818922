/* SPDX-License-Identifier: MIT-0 */
/*
 * transmit.h - datagrams back to the load balancer.
 */
#ifndef GW_TRANSMIT_H
#define GW_TRANSMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counters.h"
#include "flow_key.h"

struct gw_outlets;
struct gw_transmit;

/* One T thread's, which counts into counters.  NULL with errno. */
struct gw_transmit *gw_transmit_new(struct gw_outlets *outlets, struct gw_counters *counters);
void gw_transmit_free(struct gw_transmit *transmit);

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

/* Closes the sockets that were idle for GW_WAYS_IDLE_S; to be called now and then.  True if any are left open. */
bool gw_transmit_age(struct gw_transmit *transmit);

#endif
