/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_flow_memory.c - a flow table that another program has left, with bytes that no program would leave there.
 *
 * Input: what flows the table has, then changes to the memory file, each a kind of place, which one, and a value.  A table without
 * changes is taken over with all its flows; any other is refused, or serves without harm: no call reads or writes beyond the
 * memory, and each returns.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../native/flow.h"
#include "../../native/flow_dump.h"
#include "../../native/flow_memory.h"
#include "../../native/flow_pool.h"
#include "input.h"

#define MAX 40u
#define SLOTS 4u
#define FLOWS 32u
#define NOW 1000u
#define PAGE 4096u

enum place { HEAD, SLOT, BUCKET, ENTRY, ANYWHERE, SIZE, PLACES };

unsigned long fuzz_passed;

static void make_key(const struct gw_flows *flows, struct gw_flow_key *key, unsigned number)
{
	*key = (struct gw_flow_key){ .word = { number, 0, 7, 0,
		                               GW_KEY_WORD(number, number % 3 ? GW_PROTO_TCP : 17, 4,
		                                           number % 7 ? GW_KEY_FLOW : GW_KEY_FRAGMENT,
		                                           number % SLOTS) } };
	gw_flow_hash(flows, key);
}

static void make_path(struct gw_flow_path *path, unsigned number)
{
	*path = (struct gw_flow_path){ .origin = { number, 2, 3 },
		                       .header_len = number % 5 ? 40 : (uint16_t)(GW_GENEVE_MAX - number % 8) };
	path->header[0] = number;
}

static bool learn(struct gw_flows *flows, unsigned number)
{
	struct gw_flow_path path;
	struct gw_flow_key key;

	make_key(flows, &key, number);
	make_path(&path, number);
	return gw_flows_learn(flows, &key, &path, NOW + number) == 0;
}

static bool find(struct gw_flows *flows, unsigned number, struct gw_flow_path *path)
{
	struct gw_flow_key key;

	make_key(flows, &key, number);
	return gw_flows_find(flows, &key, path, NOW);
}

/* Some flows come, and some of those go. */
static unsigned fill(struct gw_flows *flows, struct input *input)
{
	const unsigned number = take8(input) % FLOWS;

	for (unsigned i = 0; i < number; i++)
		learn(flows, i);
	if (take8(input) % 4 == 0)
		gw_flows_forget(flows, take8(input) % SLOTS);
	return number;
}

static void write_at(int fd, uint64_t at, uint64_t value, unsigned width, uint64_t size)
{
	require(at + width > size || pwrite(fd, &value, width, (off_t)at) == (ssize_t)width);
}

/* One change; false if the input is used up. */
static bool change(int fd, const struct gw_flow_plan *plan, struct input *input)
{
	static const uint8_t widths[] = { 1, 2, 4, 8 };
	const enum place place = take8(input) % PLACES;
	const unsigned which = take16(input), width = widths[take8(input) % 4];
	const uint64_t value = take8(input) & 1 ? take8(input) : ~(uint64_t)take16(input) * 0x100000001ull;

	switch (place) {
	case HEAD:
		write_at(fd, which % 512, value, width, plan->size);
		break;
	case SLOT:
		write_at(fd, plan->slots_at + which % (SLOTS * 192), value, width, plan->size);
		break;
	case BUCKET:
		write_at(fd, plan->buckets_at + which % plan->buckets * 8 + (which >> 15) * 4, value, 4, plan->size);
		break;
	case ENTRY: /* its first words most often: links, clock, key and length */
		write_at(fd,
		         plan->entries_at + which % (MAX + 1) * sizeof(struct gw_flow_entry) +
		                 (which >> 8) % (which & 1 ? 128 : 72),
		         value, width, plan->size);
		break;
	case ANYWHERE:
		write_at(fd, (uint64_t)which % plan->size, value, width, plan->size);
		break;
	default:
		require(ftruncate(fd, (off_t)(which % 8 * PAGE / 2)) == 0);
	}
	return input->left > 0;
}

static void check_taken_over(struct gw_flows *flows, unsigned number)
{
	struct gw_flow_path path;

	for (unsigned i = 0; i < number; i++)
		require(!find(flows, i, &path) || (path.origin.gwlb_address == i && path.header[0] == i));
}

/* Whatever the entries hold, each call returns. */
static void use(struct gw_flows *flows)
{
	const uint64_t kept[] = { 3 };
	struct gw_flow_filter filter = { .fragments = 1 };
	struct gw_flow_count count[GW_FLOW_CLASSES];
	struct gw_flow_record record[16];
	struct gw_flow_path path;
	uint32_t position = 0;

	while (position != GW_DUMP_END)
		gw_flow_dump(flows, &filter, NOW, &position, record, 16);
	for (unsigned i = 0; i < 2 * FLOWS; i++) {
		find(flows, i, &path);
		learn(flows, i * 3);
		gw_flows_count(flows, i % SLOTS, count);
	}
	gw_flows_expire(flows, NOW + 50, 30, 20);
	gw_flows_forget_others(flows, kept);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		gw_flows_forget(flows, slot);
	gw_flows_entries(flows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct gw_flows *flows = gw_flows_open(MAX, SLOTS, fd);
	struct gw_flow_plan plan;
	bool changed;
	unsigned number;

	require(flows != NULL && pread(fd, &plan, sizeof(plan), 0) == (ssize_t)sizeof(plan));
	number = fill(flows, &input);
	gw_flows_free(flows);
	changed = input.left > 0;
	while (input.left > 0 && change(fd, &plan, &input))
		;
	flows = gw_flows_open(MAX, SLOTS, fd);
	require(flows ? true : changed && errno == EINVAL);
	if (flows) {
		if (!changed)
			check_taken_over(flows, number);
		use(flows);
		gw_flows_free(flows);
		fuzz_passed++;
	}
	close(fd);
	return 0;
}
