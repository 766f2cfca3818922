/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_dump.h - the flow table as records, for people to see.
 */
#ifndef GW_FLOW_DUMP_H
#define GW_FLOW_DUMP_H

#include "flow.h"
#include "gwlbtun.h"

/* What gw_handler_dump_flows() does.  now: gw_now_s() of clock.h. */
unsigned gw_flow_dump(const struct gw_flows *flows, const struct gw_flow_filter *filter, uint32_t now,
                      uint32_t *position, struct gw_flow_record *record, unsigned room);

#endif
