/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_memory.c - where the parts of the flow table lie, and the memory that they lie in; flow_memory.h tells why.
 */
#include "flow_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow_bucket.h"
#include "flow_evict.h"
#include "flow_key.h"
#include "flow_pool.h"
#include "gwlbtun.h"

static uint64_t to_page(uint64_t bytes);
static bool prepare_file(size_t size, int fd, bool *fresh);

/* The sizes tell of most changes by themselves; GW_FLOW_LAYOUT is for the others. */
uint64_t gw_flow_layout(void)
{
	uint64_t layout = GW_FLOW_LAYOUT;

	layout = layout << 12 | sizeof(struct gw_flow_entry);
	layout = layout << 8 | sizeof(struct gw_flow_bucket);
	layout = layout << 12 | sizeof(struct gw_flow_slot);
	layout = layout << 8 | GW_FLOW_CLASSES;
	return layout << 8 | GW_KEY_WORDS;
}

bool gw_flow_plan(struct gw_flow_plan *plan, size_t head, uint32_t max, uint32_t slots)
{
	if (max < 16 || max > 1u << 30 || slots == 0 || slots > GW_SLOTS_MAX) {
		errno = EINVAL;
		return false;
	}
	*plan = (struct gw_flow_plan){ .layout = gw_flow_layout(), .buckets = 1, .max = max, .slots = slots };
	while (plan->buckets < max)
		plan->buckets *= 2;
	plan->slots_at = to_page(head);
	plan->buckets_at = to_page(plan->slots_at + slots * sizeof(struct gw_flow_slot));
	plan->entries_at = to_page(plan->buckets_at + plan->buckets * sizeof(struct gw_flow_bucket));
	plan->size = to_page(plan->entries_at + ((uint64_t)max + 1) * sizeof(struct gw_flow_entry));
	return true;
}

static uint64_t to_page(uint64_t bytes)
{
	return (bytes + 4095) & ~(uint64_t)4095;
}

bool gw_flow_plan_equals(const struct gw_flow_plan *one, const struct gw_flow_plan *other)
{
	return one->layout == other->layout && one->size == other->size && one->slots_at == other->slots_at &&
	       one->buckets_at == other->buckets_at && one->entries_at == other->entries_at &&
	       one->buckets == other->buckets && one->max == other->max && one->slots == other->slots;
}

void *gw_flow_map(size_t size, int fd, bool *fresh)
{
	const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *memory;

	*fresh = true;
	if (fd >= 0 && !prepare_file(size, fd, fresh))
		return NULL;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, kind | MAP_NORESERVE, fd, 0);
	if (memory == MAP_FAILED)
		return NULL;
	/* Asks for huge pages, which the kernel may refuse: a million flows are touched at random, and TLB misses cost. */
	madvise(memory, size, MADV_HUGEPAGE);
	return memory;
}

static bool prepare_file(size_t size, int fd, bool *fresh)
{
	struct stat status;

	if (fstat(fd, &status))
		return false;
	*fresh = status.st_size == 0;
	if (*fresh)
		return ftruncate(fd, (off_t)size) == 0;
	if ((uint64_t)status.st_size == size)
		return true;
	errno = EINVAL;
	return false;
}

void gw_flow_unmap(void *memory, size_t size)
{
	munmap(memory, size);
}
