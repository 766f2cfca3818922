/* SPDX-License-Identifier: MIT-0 */
/*
 * source.c - the table that datagrams are judged by; source.h tells who holds it, and when.
 *
 * Theory of operation: both lists are sorted, so a datagram costs two binary searches, and only when it came another way
 * than the one before it.
 */
#include "source.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define LOOPBACK_INTERFACE 1u /* in every network namespace */
#define LOOPBACK_NETWORK 127u

struct gw_sources {
	bool uplinks; /* the listed interfaces are the only ones that may be used; else they are the ones that may not */
	unsigned ranges;
	unsigned interfaces;
	uint32_t *interface;
	struct gw_source_range range[];
};

static bool valid(const struct gw_source_range *range, unsigned ranges, const uint32_t *interface,
                  unsigned interfaces);
static bool listed(const struct gw_sources *sources, uint32_t interface);
static unsigned verdict_on(const struct gw_sources *sources, uint32_t address);

struct gw_sources *gw_sources_new(const struct gw_source_range *range, unsigned ranges, const uint32_t *interface,
                                  unsigned interfaces, int uplinks)
{
	struct gw_sources *sources;

	if (!valid(range, ranges, interface, interfaces)) {
		errno = EINVAL;
		return NULL;
	}
	sources = malloc(sizeof(*sources) + ranges * sizeof(*range) + interfaces * sizeof(*interface));
	if (!sources)
		return NULL;
	sources->uplinks = uplinks != 0;
	sources->ranges = ranges;
	sources->interfaces = interfaces;
	sources->interface = (uint32_t *)(sources->range + ranges);
	memcpy(sources->range, range, ranges * sizeof(*range));
	if (interfaces > 0)
		memcpy(sources->interface, interface, interfaces * sizeof(*interface));
	return sources;
}

static bool valid(const struct gw_source_range *range, unsigned ranges, const uint32_t *interface, unsigned interfaces)
{
	if (ranges == 0 || range[0].first != 0)
		return false;
	for (unsigned i = 0; i < ranges; i++)
		if (range[i].verdict >= GW_COUNTERS || (i > 0 && range[i].first <= range[i - 1].first))
			return false;
	for (unsigned i = 1; i < interfaces; i++)
		if (interface[i] <= interface[i - 1])
			return false;
	return true;
}

unsigned gw_sources_judge(const struct gw_sources *sources, const struct gw_source *source)
{
	if (!sources)
		return 0;
	if (source->interface == LOOPBACK_INTERFACE)
		return GW_drop_source_loopback;
	if (listed(sources, source->interface) != sources->uplinks)
		return GW_drop_interface;
	/* A datagram to a group or to everyone has another answering address than its destination. */
	if (source->destination != source->own_address || ntohl(source->destination) >> 24 == LOOPBACK_NETWORK)
		return GW_drop_destination;
	return verdict_on(sources, ntohl(source->address));
}

static bool listed(const struct gw_sources *sources, uint32_t interface)
{
	unsigned low = 0, high = sources->interfaces;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (sources->interface[middle] == interface)
			return true;
		if (sources->interface[middle] < interface)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* Finds the last range that begins at or before the address.  The first begins at 0. */
static unsigned verdict_on(const struct gw_sources *sources, uint32_t address)
{
	unsigned low = 0, high = sources->ranges;

	while (high - low > 1) {
		unsigned middle = low + (high - low) / 2;

		if (sources->range[middle].first <= address)
			low = middle;
		else
			high = middle;
	}
	return sources->range[low].verdict;
}

void gw_sources_free(struct gw_sources *sources)
{
	free(sources);
}
