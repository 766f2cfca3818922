/* SPDX-License-Identifier: MIT-0 */
/*
 * helpers.h - what the kernel gives to the programs: numbers and structures that never change, from <linux/bpf.h>.
 *
 * The host that compiles may have old headers of the kernel, or none that clang finds for its machine "bpf".
 */
#ifndef GW_BPF_HELPERS_H
#define GW_BPF_HELPERS_H

#include "layout.h"

#define PROGRAM(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define NULL ((void *)0)

#define BE16(value) __builtin_bswap16((uint16_t)(value)) /* x86-64 and arm64 are little-endian */

/* A field at a time: the kernel does not let two be written at once. */
#define SET(field, value) (*(volatile __typeof__(field) *)&(field) = (value))

/* struct __sk_buff.  data and data_end are pointers that the verifier makes of these fields when they are loaded. */
struct packet {
	uint32_t len;
	uint32_t pkt_type;
	uint32_t mark;
	uint32_t queue_mapping;
	uint32_t protocol;
	uint32_t vlan_present;
	uint32_t vlan_tci;
	uint32_t vlan_proto;
	uint32_t priority;
	uint32_t ingress_ifindex;
	uint32_t ifindex;
	uint32_t tc_index;
	uint32_t cb[5];
	uint32_t hash;
	uint32_t tc_classid;
	uint32_t data;
	uint32_t data_end;
	uint32_t napi_id;
	uint32_t family;
	uint32_t remote_ip4;
	uint32_t local_ip4;
	uint32_t remote_ip6[4];
	uint32_t local_ip6[4];
	uint32_t remote_port;
	uint32_t local_port;
	uint32_t data_meta;
	uint64_t flow_keys;
	uint64_t tstamp;
	uint32_t wire_len;
	uint32_t gso_segs;
	void *sk;
	uint32_t gso_size;
};

#define PACKET_HOST 0

/* Verdicts.  UNSPEC leaves the packet to whatever program or filter comes next. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

#define BPF_F_INGRESS 1u
#define BPF_ADJ_ROOM_MAC 1u
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 0x2u
#define BPF_F_ADJ_ROOM_ENCAP_L4_UDP 0x10u
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 0x100u /* Linux 6.3 */

static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static uint64_t (*const ktime_ns)(void) = (void *)5;
static uint32_t (*const processor)(void) = (void *)8;
static long (*const store_bytes)(struct packet *packet, uint32_t offset, const void *from, uint32_t len,
                                 uint64_t flags) = (void *)9;
static long (*const redirect)(uint32_t ifindex, uint64_t flags) = (void *)23;
static long (*const load_bytes)(const struct packet *packet, uint32_t offset, void *to, uint32_t len) = (void *)26;
static long (*const change_proto)(struct packet *packet, uint16_t proto, uint64_t flags) = (void *)31;
static long (*const pull_data)(struct packet *packet, uint32_t len) = (void *)39;
static void (*const forget_hash)(struct packet *packet) = (void *)41;
static long (*const change_head)(struct packet *packet, uint32_t len, uint64_t flags) = (void *)43;
static long (*const adjust_room)(struct packet *packet, int difference, uint32_t mode, uint64_t flags) = (void *)50;

/* Maps, whose descriptors are filled in where their addresses are loaded. */
extern const char flows[], endpoints[], enis[], interfaces[], links[], globals[], tallies[], reasons[];

#endif
