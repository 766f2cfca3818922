/* SPDX-License-Identifier: MIT-0 */
/*
 * recvmmsg.h - the receivers: from the UDP socket to what is checked.
 */
#ifndef GW_RECVMMSG_H
#define GW_RECVMMSG_H

#include "admission.h"
#include "counters.h"
#include "endpoint.h"
#include "fence.h"
#include "gate.h"
#include "promote.h"
#include "shared.h"
#include "waiting.h"

struct gw_intake;
struct gw_receiver;

/* Makes the receiver with that index; NULL with errno. */
struct gw_receiver *gw_receiver_new(struct gw_shared *shared, struct gw_endpoints *endpoints,
                                    struct gw_admission *admission, unsigned index);
void gw_receiver_free(struct gw_receiver *receiver);

/* What other threads see of it. */
const struct gw_counters *gw_receiver_counted(const struct gw_receiver *receiver);
struct gw_gate *gw_receiver_gate(struct gw_receiver *receiver);
struct gw_waiting *gw_receiver_waiting(struct gw_receiver *receiver);
struct gw_fence *gw_receiver_fence(struct gw_receiver *receiver);
struct gw_promote *gw_receiver_promote(struct gw_receiver *receiver);

/* Before it runs: where packets are put back. */
struct gw_intake *gw_receiver_intake(struct gw_receiver *receiver);

/* Control threads: what gw_receiver_stalled() does. */
unsigned gw_receiver_look(struct gw_receiver *receiver, int fd);

/* The U thread itself: what gw_receiver_run() does. */
int gw_receiver_work(struct gw_receiver *receiver, int fd);

#endif
