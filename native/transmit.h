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

/* Makes the state of one T thread, which counts into counters.  NULL with errno. */
struct gw_transmit *gw_transmit_new(struct gw_outlets *outlets, struct gw_counters *counters);
void gw_transmit_free(struct gw_transmit *transmit);

/* The most bytes that gw_transmit_room() takes, and the most header bytes of gw_transmit_add(). */
#define GW_TRANSMIT_COPY_MAX 2048u

/* Queues one datagram: the flow's Geneve header and len bytes, to be written to the returned address before the next call.
 * NULL: it was too big, and has been dropped and counted.  May flush. */
uint8_t *gw_transmit_room(struct gw_transmit *transmit, const struct gw_flow_path *path, size_t len);

/* Like gw_transmit_room(), with header_len bytes of header, which are copied, and payload_len of payload, which must stay in
 * place until the next flush. */
void gw_transmit_add(struct gw_transmit *transmit, const struct gw_flow_path *path, const uint8_t *header,
                     size_t header_len, const uint8_t *payload, size_t payload_len);

/* Sends what is queued.  Drops and counts what cannot be sent.  False if there was no room for it, even after a wait. */
bool gw_transmit_flush(struct gw_transmit *transmit);

/* Closes the sockets that have been idle for GW_WAYS_IDLE_S; to be called now and then.  True if any stay open. */
bool gw_transmit_age(struct gw_transmit *transmit);

#endif
