/* SPDX-License-Identifier: MIT-0 */
/*
 * layout.c - the constants and offsets that Python checks its own against when it loads us; constant, and so any thread's.
 */
#include "layout.h"

#include <stddef.h>

#include "flow_key.h"

#define NUMBER(name) #name, name
#define FIELD(name) "gw_trace_record." #name, offsetof(struct gw_trace_record, name)

static const struct {
	const char *name;
	unsigned value;
} layout[] = {
	{ NUMBER(GW_STOPPED) },
	{ NUMBER(GW_OFFLOAD_MERGE_TCP) },
	{ NUMBER(GW_OFFLOAD_MERGE_UDP) },
	{ NUMBER(GW_OFFLOAD_UDP_GSO) },
	{ NUMBER(GW_GWI) },
	{ NUMBER(GW_GWO) },
	{ NUMBER(GW_TRACE_OFF) },
	{ NUMBER(GW_TRACE_HEADERS) },
	{ NUMBER(GW_TRACE_DUMP) },
	{ NUMBER(GW_TRACE_IN) },
	{ NUMBER(GW_TRACE_OUT) },
	{ NUMBER(GW_TRACE_DATA) },
	{ NUMBER(GW_SLOTS_MAX) },
	{ FIELD(time_ns) },
	{ FIELD(eni) },
	{ FIELD(event) },
	{ FIELD(counter) },
	{ FIELD(thread_id) },
	{ FIELD(gwlb_address) },
	{ FIELD(own_address) },
	{ FIELD(gwlb_port) },
	{ FIELD(side) },
	{ FIELD(cookie) },
	{ FIELD(length) },
	{ FIELD(captured) },
	{ FIELD(reserved) },
	{ FIELD(data) },
	{ "gw_trace_record", sizeof(struct gw_trace_record) },
};

const char *gw_layout(unsigned index, unsigned *value)
{
	if (index >= sizeof(layout) / sizeof(layout[0]))
		return NULL;
	*value = layout[index].value;
	return layout[index].name;
}
