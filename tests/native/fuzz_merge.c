/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_merge.c - random bytes, more or less like packets, for gw_merge_...() and the sanitizers.
 *
 * Built and run by tests/test_merge.py, with the number of rounds and a seed.  Prints how many packets joined a run.
 */
#include <string.h>

#include "../../native/merge.h"
#include "hostile.h"

#define FRAMES 70u

/* How many packets it took. */
static unsigned write_out(struct gw_merge *merge)
{
	uint32_t room = merge->length;
	uint8_t *out = new_bytes(room);
	struct gw_vnet_header vnet;

	gw_merge_write(merge, &vnet, out);
	if (merge->count == 0 || merge->length > room)
		abort();
	free_bytes(out);
	return merge->count;
}

static unsigned fuzz_merge(void)
{
	struct gw_segment segment[FRAMES];
	struct gw_packet packet[FRAMES];
	uint8_t *data[FRAMES];
	struct gw_merge merge;
	unsigned joined = 0, count = 1 + random_below(FRAMES);
	uint32_t l4, len = random_below(3) ? random_below(200) : random_below(9000);
	bool tcp = random_below(2);

	for (unsigned i = 0; i < count; i++) {
		data[i] = new_packet(len, tcp, &l4);
		if (i && random_below(8)) {
			memcpy(data[i], data[i - 1], len);
			if (len > 6)
				data[i][5]++;
		}
		packet[i] = parsed(data[i], len);
		/* Verified, or none would pass: the checksums of random bytes are wrong. */
		segment[i] = (struct gw_segment){ &packet[i], packet[i].mergeable, random_below(4) };
	}
	for (unsigned i = 0, written; i < count; i += written) {
		gw_merge_start(&merge, &segment[i]);
		for (unsigned k = i + 1; k < count && gw_merge_join(&merge, &segment[k]); k++)
			;
		written = write_out(&merge);
		joined += written - 1;
	}
	for (unsigned i = 0; i < count; i++)
		free_bytes(data[i]);
	return joined;
}

int main(int argc, char **argv)
{
	return fuzz(argc, argv, fuzz_merge);
}
