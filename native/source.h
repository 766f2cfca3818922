/* SPDX-License-Identifier: MIT-0 */
/*
 * source.h - whether a datagram may come from where it came from.
 *
 * Theory of operation
 *
 * Nothing in a Geneve packet proves that the load balancer sent it.  What can be told is where its datagram came from: the
 * outer addresses, and the interface that it came in by.  Python knows what is loopback, which addresses and tunnel
 * interfaces are this host's own, and what the operator allows.  It makes one table of all that (gw_sources_set), which is
 * never changed, only replaced.
 *
 * A U thread takes the newest table at the beginning of each batch (gw_judge_begin), after recvmmsg returned: so an
 * interface that is in the table before it goes up has no datagram in a batch that is judged by an older one.  It holds the
 * table while it is inside its gate (gate.h), and the old table may be freed when all receivers have been outside.
 */
#ifndef GW_SOURCE_H
#define GW_SOURCE_H

#include <stdint.h>
#include <string.h>

#include "gwlbtun.h"

/* Addresses in network byte order. */
struct gw_source {
	uint32_t address;
	uint32_t destination; /* as the outer header has it */
	uint32_t own_address; /* the address to answer from; not the destination if that is a group */
	uint32_t interface;   /* index of the interface it came in by; 0: unknown */
};

/* Makes a table.  The arguments are those of gw_sources_set().  NULL with errno. */
struct gw_sources *gw_sources_new(const struct gw_source_range *range, unsigned ranges, const uint32_t *interface,
                                  unsigned interfaces, int uplinks);
void gw_sources_free(struct gw_sources *sources);

/* Returns 0, or the counter of the reason to drop the datagram. */
unsigned gw_sources_judge(const struct gw_sources *sources, const struct gw_source *source);

/* A U thread's, for one batch: a datagram that came by the same way as the one before it gets the same verdict. */
struct gw_judge {
	const struct gw_sources *sources;
	struct gw_source last;
	unsigned verdict;
};

static inline unsigned gw_judge_source(struct gw_judge *judge, const struct gw_source *source)
{
	if (memcmp(source, &judge->last, sizeof(*source)) != 0) {
		judge->last = *source;
		judge->verdict = gw_sources_judge(judge->sources, source);
	}
	return judge->verdict;
}

static inline void gw_judge_begin(struct gw_judge *judge, const struct gw_sources *sources)
{
	judge->sources = sources;
	judge->last = (struct gw_source){ .address = 0 };
	judge->verdict = gw_sources_judge(sources, &judge->last);
}

#endif
