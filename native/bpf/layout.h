/* SPDX-License-Identifier: MIT-0 */
/*
 * layout.h - what the programs in the kernel and the threads share: keys and values of the maps.
 *
 * Theory of operation: thread K (kernel_path.c) puts flows into the map, the programs use and stamp them, and the arrays lie in
 * memory that all of them map.  Each field says who writes it; nobody else does.  docs/KERNEL_PATH.md tells the protocol.
 *
 * clang compiles this for the machine of the kernel, gcc and clang for this one: fixed sizes, natural alignment, no padding left
 * to the compiler.
 */
#ifndef GW_BPF_LAYOUT_H
#define GW_BPF_LAYOUT_H

#ifdef __bpf__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

/* The only length of Geneve headers that the kernel handles: 8 bytes and AWS's three options. */
#define GW_KERNEL_HEADER 40u

/* Outer IPv4, UDP, Geneve. */
#define GW_KERNEL_OUTER (20u + 8u + GW_KERNEL_HEADER)

/* The longest inner packet that it handles, as that of Gateway Load Balancer: gwi's MTU, to which Linux held what a program
 * redirects before 5.12. */
#define GW_KERNEL_INNER_MAX 8500u

#define GW_KERNEL_KEY_WORDS 5u
#define GW_KERNEL_LINKS 1024u
#define GW_KERNEL_RECEIVERS 256u

/* Ways of a flow, as indices. */
enum { GW_KERNEL_WAY_IN, GW_KERNEL_WAY_OUT, GW_KERNEL_WAYS };

/* What leaves the kernel on its way in follows those before it through the backlog for this long.  K leaves an entry whose
 * way in has left (left_ns) in the map until this is over.  A way goes back to the kernel no earlier than after twice that. */
#define GW_KERNEL_DETOUR_NS 100000000ull

/* flows: by struct gw_kernel_key, which holds the words of struct gw_flow_key. */
struct gw_kernel_key {
	uint64_t word[GW_KERNEL_KEY_WORDS];
};

struct gw_kernel_way {
	uint64_t up_ns;   /* programs: when the last packet that fits went up to the threads; 0: unknown */
	uint64_t left_ns; /* programs: when the way left the kernel last */
	uint32_t kernel;  /* programs: packets go in the kernel */
	uint32_t reserved;
};

struct gw_kernel_flow {
	uint32_t gwlb_address; /* network byte order, as all that is compared with packets */
	uint32_t own_address;
	uint16_t gwlb_port;
	uint16_t link; /* in links */
	uint32_t life; /* of its endpoint; another one: the entry is dead.  programs: 0, when its header has changed */
	uint32_t receiver; /* the U thread whose socket gets what goes up */
	uint32_t seen_s;   /* programs: globals.now_s of the last packet that they carried */
	uint8_t header[GW_KERNEL_HEADER];
	struct gw_kernel_way way[GW_KERNEL_WAYS];
};

/* endpoints: by slot.  enis: the slot of an ENI ID (uint64_t to uint32_t).  interfaces: slot << 1 | enum gw_side of an interface
 * index (uint32_t to uint32_t). */
struct gw_kernel_endpoint {
	uint64_t eni;      /* as it stands in the header: network byte order */
	uint32_t gwi;      /* interface index */
	uint32_t life;     /* counts the endpoints that have had the slot, from 1 */
	uint32_t on;       /* 0: all goes up */
	uint32_t aside[2]; /* by enum gw_side: what leaves by that interface goes up */
	uint32_t wanted;   /* programs: set when a packet goes up that a fence would let in; K clears it */
	/* U threads: up by one (atomically) before a packet is handed on whose flow is in the map under another header; K: down
	 * by one when that entry is dead.  Replies go up meanwhile.  For what the programs cannot see: merged datagrams. */
	uint32_t changing;
	uint32_t reserved;
};

/* links: the way out for a pair of own and load balancer addresses.  Python writes them. */
struct gw_kernel_link {
	uint32_t gwlb_address;
	uint32_t own_address;
	uint32_t ifindex;
	uint32_t mtu;         /* of the interface, for the outer IPv4 packet */
	uint32_t valid;       /* 0: replies go up */
	uint8_t ethernet[14]; /* the header to send */
	uint8_t reserved[6];
};

/* globals: one. */
struct gw_kernel_globals {
	uint32_t now_s;                           /* K: gw_now_s() */
	uint32_t on;                              /* 0: all goes up */
	uint64_t done_out_ns;                     /* K: what went up by gwi and gwo before has been sent */
	uint64_t done_in_ns[GW_KERNEL_RECEIVERS]; /* K: what went up to this receiver before has been written to gwi */
	uint32_t cpus;                            /* Python, at the start: possible CPUs, the stride of tallies */
	uint32_t reserved;
	/* Python: until when the programs may carry packets (CLOCK_MONOTONIC), renewed every second, where they are filters of tc and
	 * outlive a process that is killed; 0: for as long as they are attached (TCX) */
	uint64_t lease_ns;
};

/* tallies: by slot * CPUs + CPU.  Inner packets and their bytes, as the threads count theirs. */
struct gw_kernel_tally {
	uint64_t in_packets;
	uint64_t in_bytes;
	uint64_t out_packets[2]; /* by enum gw_side */
	uint64_t out_bytes[2];
	uint32_t in_s; /* globals.now_s of the last packet */
	uint32_t out_s[2];
	uint32_t reserved;
};

/* reasons: by CPU. */
enum gw_kernel_reason {
	GW_KERNEL_IN_TOTAL,     /* packets that the program on an uplink has seen */
	GW_KERNEL_IN_CARRIED,   /* handed to gwi */
	GW_KERNEL_IN_UP,        /* for the load balancer's port, left to the threads */
	GW_KERNEL_IN_MALFORMED, /* of those: no Geneve header that the program can read */
	GW_KERNEL_IN_OTHER,     /* not for the load balancer's port */
	GW_KERNEL_OUT_TOTAL,    /* packets that the programs on gwi and gwo have seen */
	GW_KERNEL_OUT_CARRIED,
	GW_KERNEL_OUT_UP,
	GW_KERNEL_OUT_NO_FLOW, /* of those: not in the map */
	GW_KERNEL_OUT_NO_LINK, /* of those: the link is not valid, or too narrow */
	GW_KERNEL_CHANGES,     /* flows whose header has changed */
	GW_KERNEL_DETOURS,     /* of GW_KERNEL_IN_UP: sent through the backlog, behind those that took the kernel */
	GW_KERNEL_IN_LOST,     /* dropped: no memory in the midst of being changed */
	GW_KERNEL_OUT_LOST,    /* the same on the way out */
	GW_KERNEL_REASONS = 16
};

struct gw_kernel_reasons {
	uint64_t count[GW_KERNEL_REASONS];
};

#endif
