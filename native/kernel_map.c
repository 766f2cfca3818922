/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_map.c - the map of flows, by bpf(2).
 *
 * Headers of old build hosts do not know all of it, so the few facts of the ABI that it takes stand here.
 */
#include "kernel_map.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_bpf
#if defined(__x86_64__)
#define __NR_bpf 321
#else
#define __NR_bpf 280
#endif
#endif

enum { LOOKUP = 1, UPDATE = 2, DELETE = 3, LOOKUP_BATCH = 24 };
enum { ANY = 0, IF_NEW = 1 };

struct element {
	uint32_t map, reserved;
	uint64_t key, value, flags;
};

struct batch {
	uint64_t from, to, keys, values;
	uint32_t count, map;
	uint64_t element_flags, flags;
};

static int element(int command, int map, const struct gw_kernel_key *key, const void *flow, uint64_t flags);
static int call(int command, void *attributes, unsigned size);
static uint64_t address(const void *pointer);

int gw_kernel_map_add(int map, const struct gw_kernel_key *key, const struct gw_kernel_flow *flow)
{
	return element(UPDATE, map, key, flow, IF_NEW);
}

static int element(int command, int map, const struct gw_kernel_key *key, const void *flow, uint64_t flags)
{
	struct element attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map = (uint32_t)map;
	attributes.key = address(key);
	attributes.value = address(flow);
	attributes.flags = flags;
	return call(command, &attributes, sizeof(attributes));
}

static int call(int command, void *attributes, unsigned size)
{
	return syscall(__NR_bpf, command, attributes, size) < 0 ? -errno : 0;
}

static uint64_t address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

int gw_kernel_map_replace(int map, const struct gw_kernel_key *key, const struct gw_kernel_flow *flow)
{
	return element(UPDATE, map, key, flow, ANY);
}

int gw_kernel_map_get(int map, const struct gw_kernel_key *key, struct gw_kernel_flow *flow)
{
	return element(LOOKUP, map, key, flow, ANY);
}

int gw_kernel_map_remove(int map, const struct gw_kernel_key *key)
{
	return element(DELETE, map, key, NULL, ANY);
}

int gw_kernel_map_walk(int map, uint32_t *position, struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                       uint32_t *count)
{
	struct batch attributes;
	uint32_t next = 0;
	int status;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map = (uint32_t)map;
	attributes.from = *position ? address(position) : 0;
	attributes.to = address(&next);
	attributes.keys = address(key);
	attributes.values = address(flow);
	attributes.count = *count;
	status = call(LOOKUP_BATCH, &attributes, sizeof(attributes));
	*count = status == 0 || status == -ENOENT ? attributes.count : 0;
	*position = next;
	return status;
}
