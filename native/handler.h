/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.h - the whole: what stands for the process.
 *
 * It owns everything that the rooms below know by pointers, and nothing below knows it.
 */
#ifndef GW_HANDLER_H
#define GW_HANDLER_H

#include "admission.h"
#include "endpoint.h"
#include "gwlbtun.h"
#include "recvmmsg.h"
#include "shared.h"

struct gw_handler {
	struct gw_shared shared;
	struct gw_endpoints endpoints;
	struct gw_admission admission;
	struct gw_receiver **receiver;
	unsigned tcp_idle_s, udp_idle_s;
};

#endif
