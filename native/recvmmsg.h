/* SPDX-License-Identifier: MIT-0 */
/*
 * recvmmsg.h - the receivers: from the UDP socket to what is checked.
 */
#ifndef GW_RECVMMSG_H
#define GW_RECVMMSG_H

#include "admission.h"
#include "counters.h"
#include "endpoint.h"
#include "gate.h"
#include "shared.h"
#include "waiting.h"

struct gw_receiver;

/* The receiver of that index; NULL with errno. */
struct gw_receiver *gw_receiver_new(struct gw_shared *shared, struct gw_endpoints *endpoints,
                                    struct gw_admission *admission, unsigned index);
void gw_receiver_free(struct gw_receiver *receiver);

/* What other threads see of it. */
const struct gw_counters *gw_receiver_counted(const struct gw_receiver *receiver);
struct gw_gate *gw_receiver_gate(struct gw_receiver *receiver);
struct gw_waiting *gw_receiver_waiting(struct gw_receiver *receiver);

/* The U thread itself: what gw_receiver_run() does. */
int gw_receiver_work(struct gw_receiver *receiver, int fd);

#endif
