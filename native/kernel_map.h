/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_map.h - the map of flows, by bpf(2).
 *
 * Control threads only: a thread of the packet path may not call bpf(2) (confine.h).
 */
#ifndef GW_KERNEL_MAP_H
#define GW_KERNEL_MAP_H

#include <stdint.h>

#include "bpf/layout.h"

/* 0 or -errno: -EEXIST, and -E2BIG or -ENOMEM when the map is full. */
int gw_kernel_map_add(int map, const struct gw_kernel_key *key, const struct gw_kernel_flow *flow);

/* Writes an entry that is there, or that may be. */
int gw_kernel_map_replace(int map, const struct gw_kernel_key *key, const struct gw_kernel_flow *flow);

/* 0, -ENOENT or another -errno. */
int gw_kernel_map_get(int map, const struct gw_kernel_key *key, struct gw_kernel_flow *flow);
int gw_kernel_map_remove(int map, const struct gw_kernel_key *key);

/* A step of a walk, from *position on, which is 0 at first: up to *count entries, and sets *count to how many it found.  0: there
 * may be more.  -ENOENT: these were the last.  -ENOSPC: there must be room for more.  Or another -errno. */
int gw_kernel_map_walk(int map, uint32_t *position, struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                       uint32_t *count);

#endif
