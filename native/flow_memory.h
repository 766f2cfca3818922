/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_memory.h - where the parts of the flow table lie, and the memory that they lie in.
 *
 * Theory of operation: the table lies in a memory file, if there is one, and survives the program that made it: another
 * program maps the file, wherever there is room, and goes on (docs/ARCHITECTURE.md, "Restart in place").  It may have been
 * built from other sources.  The plan is therefore the first thing in the table, and tells all on which both must agree.
 *
 * Whoever changes what an entry, a bucket, a slot or a key means, or the hash, counts GW_FLOW_LAYOUT up.
 */
#ifndef GW_FLOW_MEMORY_H
#define GW_FLOW_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_FLOW_LAYOUT 1u

struct gw_flow_plan {
	uint64_t layout;                           /* gw_flow_layout() */
	uint64_t size;                             /* bytes of all of it */
	uint64_t slots_at, buckets_at, entries_at; /* from the start, bytes */
	uint64_t buckets;
	uint32_t max; /* entries */
	uint32_t slots;
};

/* Plans a table behind a head of so many bytes.  False, with errno, when there cannot be such a table. */
bool gw_flow_plan(struct gw_flow_plan *plan, size_t head, uint32_t max, uint32_t slots);
bool gw_flow_plan_equals(const struct gw_flow_plan *one, const struct gw_flow_plan *other);

/* Maps so many bytes of a memory file; fd -1: of memory.  An empty file grows to that size, and is fresh: all zeros.  NULL with
 * errno, which is EINVAL for a file of another size. */
void *gw_flow_map(size_t size, int fd, bool *fresh);
void gw_flow_unmap(void *memory, size_t size);

#endif
