/* SPDX-License-Identifier: MIT-0 */
/*
 * gwlbtun.h - all that Python may call, and every struct it shares.
 *
 * Theory of operation
 *
 * One struct gw_handler stands for the process.  It owns the flow table, one receiver per U thread and the table of
 * endpoints, one per ENI ID.  Each endpoint owns one frame ring per receiver and the state of its T threads: as many on
 * gwi (which write the rings' frames to Linux and read what Linux sends there) as on gwo (which only read).
 *
 *     U thread i --ring[i]--> T thread (i mod tunnel_threads) of gwi --> Linux --> T threads of gwo and gwi --> GWLB
 *
 * Threads are made, named and pinned by Python.  A U thread calls gw_receiver_run() and a T thread gw_tunnel_run(); both
 * stay in C until they are told to stop or fail, so the interpreter never sees a packet.  ENI IDs without an endpoint are
 * announced to a control thread (gw_handler_listen), while their packets wait.  Everything else here is called from control
 * threads.  gw_endpoint_*() calls that change the table of endpoints (new, publish, unpublish, free) must not run at the
 * same time as each other: Python holds one lock around them.  All others may run at any time.
 *
 * File descriptors belong to Python, which opens and closes them; the shim only opens its eventfds and the sockets of ways.c.
 * Addresses and ports in arguments are in network byte order, all else in the host's.  Functions that return int give 0 or a
 * value of enum gw_status, or a negative errno.
 */
#ifndef GWLBTUN_H
#define GWLBTUN_H

#include <stdint.h>

#define GW_EXPORT __attribute__((visibility("default")))

struct gw_handler;
struct gw_endpoint;
struct gw_kernel;
struct gw_kernel_tally;

/* The SHA-256, in hex, of the sources this object was built from: Python compares it, to tell a stale object. */
GW_EXPORT const char *gw_build_id(void);

/* ---- Counters ------------------------------------------------------------------------------------------------------
 *
 * Each U and T thread has an array of GW_COUNTERS 64-bit values; anyone may read it at any time.  Not every thread uses every
 * counter.  A name that begins with drop_ is a reason for which a packet was lost, with a text for people.
 *
 *   packets_in, bytes_in   U: Geneve packets received, and their UDP payload.  T: inner packets read from Linux.
 *   packets_out, bytes_out T of gwi: inner packets handed to Linux.
 *   packets_sent, bytes_sent  T: inner packets returned to GWLB.
 *   last_in_ns, last_out_ns, last_sent_ns   CLOCK_MONOTONIC when packets_in, packets_out, packets_sent last grew; 0: never.
 *   entries                calls from Python into the run function (they must not grow with traffic).
 *   failures               T: how often an exception in Python has ended the thread, which is then started again.
 *   batches                recvmmsg calls that returned packets; for T, rounds that moved any.
 *   frames_out             writes to the TUN device: packets_out / frames_out packets were merged into one, on average.
 *   sends                  messages given to sendmmsg.
 *   receive_errors, send_errors, tun_errors   system calls that failed and were gone on from.
 */
#define GW_COUNTER_LIST(X)                                                                                            \
	X(packets_in, "")                                                                                             \
	X(bytes_in, "")                                                                                               \
	X(packets_out, "")                                                                                            \
	X(bytes_out, "")                                                                                              \
	X(packets_sent, "")                                                                                           \
	X(bytes_sent, "")                                                                                             \
	X(last_in_ns, "")                                                                                             \
	X(last_out_ns, "")                                                                                            \
	X(last_sent_ns, "")                                                                                           \
	X(entries, "")                                                                                                \
	X(failures, "")                                                                                               \
	X(batches, "")                                                                                                \
	X(frames_out, "")                                                                                             \
	X(sends, "")                                                                                                  \
	X(receive_errors, "")                                                                                         \
	X(send_errors, "")                                                                                            \
	X(tun_errors, "")                                                                                             \
	X(sockets_opened, "")                                                                                         \
	X(drop_source_loopback, "it came over loopback")                                                              \
	X(drop_source_own, "it came from an address of this host")                                                    \
	X(drop_source_refused, "it came from an address that --allow-from does not cover")                            \
	X(drop_destination, "it went to loopback, or to more hosts than this one")                                    \
	X(drop_interface, "it came in by an interface that is no uplink (gwi, gwo, or not in --uplink)")              \
	X(drop_header_short, "the Geneve header is cut short")                                                        \
	X(drop_version, "the Geneve version is not 0")                                                                \
	X(drop_control, "the O bit is set: a control packet")                                                         \
	X(drop_protocol, "the Geneve protocol type is neither IPv4 nor IPv6")                                         \
	X(drop_options_length, "the Geneve options run past the end of the packet")                                   \
	X(drop_option_overrun, "a Geneve option runs past the end of the options")                                    \
	X(drop_option_size, "an option of the load balancer has the wrong size")                                      \
	X(drop_critical_option, "an unknown Geneve option is marked critical")                                        \
	X(drop_no_eni, "the option with the endpoint's ENI ID is missing")                                            \
	X(drop_no_attachment, "the option with the attachment ID is missing")                                         \
	X(drop_no_cookie, "the option with the flow cookie is missing")                                               \
	X(drop_inner_truncated, "the inner packet is cut short")                                                      \
	X(drop_inner_mismatch, "the inner packet is not what the protocol type says")                                 \
	X(drop_datagram_truncated, "the datagram is larger than the receive buffer")                                  \
	X(drop_endpoint_not_allowed, "its endpoint is not in --allow-endpoint")                                       \
	X(drop_endpoints_full, "there are as many endpoints as there may be")                                         \
	X(drop_endpoint_refused, "its endpoint could not be made in time")                                            \
	X(drop_flows_full, "no room for a new flow")                                                                  \
	X(drop_overload, "more came than can be carried, and its endpoint has more than its share")                   \
	X(drop_kernel_strip, "the kernel had no memory to take the load balancer's header off")                       \
	X(drop_ring_full, "the queue to the tunnel thread is full")                                                   \
	X(drop_endpoint_gone, "its endpoint was taken down before Linux could take the packet")                       \
	X(drop_tun_write, "Linux did not take the packet (is the interface down?)")                                   \
	X(drop_not_ip, "what Linux sent is not an IP packet")                                                         \
	X(drop_no_flow, "what Linux sent belongs to no flow")                                                         \
	X(drop_no_return, "Linux sent it, and nothing goes back (--no-return)")                                       \
	X(drop_segmentation, "what Linux sent cannot be cut into segments")                                           \
	X(drop_kernel_wrap, "the kernel had no memory to put the load balancer's header back")                        \
	X(drop_too_big, "the packet does not fit the way out")                                                        \
	X(drop_send, "the packet could not be sent to the load balancer")

enum gw_counter {
#define GW_COUNTER_ENUM(name, text) GW_##name,
	GW_COUNTER_LIST(GW_COUNTER_ENUM)
#undef GW_COUNTER_ENUM
		GW_COUNTERS
};

/* The name and the text of a counter; NULL from GW_COUNTERS on. */
GW_EXPORT const char *gw_counter_name(unsigned counter);
GW_EXPORT const char *gw_counter_text(unsigned counter);

/* ---- The handler -------------------------------------------------------------------------------------------------*/

enum gw_status {
	GW_STOPPED = 1, /* asked to stop, and done */
};

/* What the fast path may use; Python probes what the kernel grants. */
enum gw_offload {
	GW_OFFLOAD_MERGE_TCP = 1, /* TUN takes TCP super-packets (TUN_F_TSO4, TUN_F_TSO6) */
	GW_OFFLOAD_MERGE_UDP = 2, /* TUN takes UDP super-packets (TUN_F_USO4, TUN_F_USO6; Linux 6.2) */
	GW_OFFLOAD_UDP_GSO = 4,   /* sockets send several datagrams in one (UDP_SEGMENT; Linux 4.18) */
};

/*
 * Makes the handler.  raw_fd: a raw IPv4 socket (IPPROTO_RAW) to fall back on, or -1.  tcp_idle_s, udp_idle_s: seconds after
 * which an idle flow is forgotten, of TCP and of all other protocols.  max_flows: bound of the flow table, of which only what is
 * used takes memory.  flows_fd: a memory file that the flow table is made in, or is in already if it is not empty; -1: none.
 * Returns NULL with errno set when there is no memory or an argument is 0; EINVAL also for a flow table of another layout or
 * of other bounds.
 */
GW_EXPORT struct gw_handler *gw_handler_new(unsigned receivers, unsigned tunnel_threads, unsigned max_endpoints,
                                            unsigned max_flows, unsigned tcp_idle_s, unsigned udp_idle_s,
                                            unsigned offloads, int raw_fd, int flows_fd);

/* What a flow table in a memory file must have in common for this object to attach it: its layout in memory. */
GW_EXPORT uint64_t gw_flow_layout(void);

/* From now on nothing goes back: what Linux sends is read and dropped, and no flow is learned.  To be called before any thread
 * runs. */
GW_EXPORT void gw_handler_receive_only(struct gw_handler *handler);

/* Bounds what the rings of all endpoints may hold together, in bytes; each may hold 64 KiB all the same. */
GW_EXPORT void gw_handler_limit_rings(struct gw_handler *handler, uint64_t bytes);

/* Frees it.  Every thread must have returned and every endpoint been freed. */
GW_EXPORT void gw_handler_free(struct gw_handler *handler);

/* Tells all receivers to stop.  One blocked in recvmmsg wakes when Python calls shutdown(SHUT_RD) on its socket; what the
 * socket still holds is handled first. */
GW_EXPORT void gw_handler_stop(struct gw_handler *handler);

/* Tells all receivers to return at once, whatever their sockets and waiting rooms hold; or that they may run again.  A signal
 * wakes one that is blocked in recvmmsg. */
GW_EXPORT void gw_handler_pause(struct gw_handler *handler, int paused);

/* While no U and no T thread runs: writes the packets that wait in memory to a memory file, and keeps them.  0 or -errno. */
GW_EXPORT int gw_handler_leave(const struct gw_handler *handler, int fd);

/* Before any thread runs, when endpoints have been adopted: has the packets wait that another program has left in a file.  Those
 * for which there is no place are counted as dropped.  0 or -errno; EBADMSG when the file is damaged from some place on. */
GW_EXPORT int gw_handler_take_back(struct gw_handler *handler, int fd);

/* Forgets the flows of all slots that no endpoint has: those of endpoints that were not adopted.  Returns how many. */
GW_EXPORT uint64_t gw_handler_forget_strays(struct gw_handler *handler);

/* Forgets the flows that have been idle too long; to be called every second.  Returns how many. */
GW_EXPORT uint64_t gw_handler_expire(struct gw_handler *handler);

/* Entries of the flow table in use: flows, fragments, and what long headers take beside. */
GW_EXPORT uint64_t gw_handler_flow_entries(const struct gw_handler *handler);

/*
 * ENI IDs that have no endpoint, one for each packet that came for one: at most `most` of them, waiting up to timeout_ms for
 * the first.  Receivers lose the newest when nobody listens.  Returns how many.  Only one thread may listen.
 */
GW_EXPORT unsigned gw_handler_listen(struct gw_handler *handler, uint64_t *eni, unsigned most, int timeout_ms);

/* Whether there are as many endpoints as there may be: the reason under which packets of further ones are counted. */
GW_EXPORT void gw_handler_set_full(struct gw_handler *handler, int full);

/* ---- The flow table, shown -----------------------------------------------------------------------------------------
 *
 * Any thread may walk the table at any time, while others learn, find and expire.
 */

/* Which entries: those that meet every condition that is set.  A mask of zeros and a 0 set none. */
struct gw_flow_filter {
	uint64_t eni;        /* if by_eni */
	uint8_t address[16]; /* of either end, as far as mask goes; IPv4: in the first four bytes */
	uint8_t mask[16];
	uint16_t port;    /* if by_port: of either end, of TCP and UDP; host byte order */
	uint8_t family;   /* 4, 6, or 0 */
	uint8_t protocol; /* if by_protocol */
	uint8_t by_eni, by_port, by_protocol;
	uint8_t fragments; /* also datagrams in fragments, which are no flows */
};

/* What an entry is about.  All but flows go one way, from the first address to the second. */
enum gw_key_kind {
	GW_KEY_FLOW = 0,     /* ports: of the first address << 16 | of the second; or twice the ICMP echo identifier */
	GW_KEY_FRAGMENT = 1, /* ports: the identification of the datagram */
	GW_KEY_ICMP_ERROR = 2, /* ports: a digest of the flow it is about */
};

/* An entry as it was at one moment. */
struct gw_flow_record {
	uint8_t address[2][16]; /* of a flow: the lower first; IPv4: in the first four bytes */
	uint64_t eni;
	uint64_t attachment;
	uint32_t ports; /* see gw_key_kind */
	uint32_t cookie;
	uint32_t gwlb_address; /* network byte order, as own_address */
	uint32_t own_address;
	uint32_t idle_s; /* since its last packet */
	uint16_t gwlb_port;
	uint8_t family;
	uint8_t protocol;
	uint8_t kind; /* enum gw_key_kind */
	uint8_t reserved[7];
};

#define GW_DUMP_END 0xffffffffu

/*
 * A step of a walk through the flow table, which takes about a millisecond: writes records of entries that pass the filter, at
 * most `room`, and returns how many.  *position is 0 for the first step and GW_DUMP_END after the last.
 *
 * A walk finds each key that is there all the time, once.  What comes, goes or changes meanwhile it finds as it was before
 * or after.
 */
GW_EXPORT unsigned gw_handler_dump_flows(const struct gw_handler *handler, const struct gw_flow_filter *filter,
                                         uint32_t *position, struct gw_flow_record *record, unsigned room);

/* ---- Whom to receive from -------------------------------------------------------------------------------------------
 *
 * Datagrams and endpoints are judged before anything is made of them.  Until these are called, all may come.
 */

struct gw_sources;

/* From address `first` on, in host byte order, until the next range begins: 0, or the counter datagrams are dropped under. */
struct gw_source_range {
	uint32_t first;
	uint32_t verdict;
};

/*
 * From now on datagrams are judged by this: the ranges, ascending, the first from 0 on; and indices of interfaces,
 * ascending: the only ones that may be used if `uplinks`, else those that may not.  Both are copied.  *old is the table in
 * force before, or NULL: give it to gw_sources_retire().  0; -EINVAL or -ENOMEM, and nothing has changed.
 */
GW_EXPORT int gw_sources_set(struct gw_handler *handler, const struct gw_source_range *range, unsigned ranges,
                             const uint32_t *interface, unsigned interfaces, int uplinks, struct gw_sources **old);

/* Waits until no receiver uses it any more, which is not for long, and frees it. */
GW_EXPORT void gw_sources_retire(struct gw_handler *handler, struct gw_sources *old);

/* Only these ENI IDs, ascending, may have endpoints.  To be called once at most, before any receiver runs.  0 or -errno. */
GW_EXPORT int gw_endpoints_allow(struct gw_handler *handler, const uint64_t *eni, unsigned enis);

/* ---- Receivers: the U threads ------------------------------------------------------------------------------------*/

GW_EXPORT const uint64_t *gw_receiver_counters(const struct gw_handler *handler, unsigned receiver);

/*
 * Receives on fd, a UDP socket with IP_PKTINFO (and UDP_GRO where wanted), until the handler stops.
 * fd must be the same one on every call for this receiver.  Returns GW_STOPPED, or -errno when the socket is of no more use.
 */
GW_EXPORT int gw_receiver_run(struct gw_handler *handler, unsigned receiver, int fd);

/*
 * To be called about once a second, by one thread, with the socket of the receiver.  Returns for how many calls in a row there
 * has been work for the receiver, and it has done none.
 */
GW_EXPORT unsigned gw_receiver_stalled(struct gw_handler *handler, unsigned receiver, int fd);

/* ---- Endpoints ---------------------------------------------------------------------------------------------------*/

enum gw_side { GW_GWI = 0, GW_GWO = 1 };

/* Makes and publishes the endpoint of an ENI ID that has none published: from now on its frames gather in its rings.
 * NULL with errno: ENOSPC when there are max_endpoints (freed ones do not count), ENOMEM, EMFILE. */
GW_EXPORT struct gw_endpoint *gw_endpoint_new(struct gw_handler *handler, uint64_t eni);

/* The same for an endpoint that another program has made: in its slot, with the flows that the flow table has there.  EINVAL when
 * the slot or the ENI ID is taken. */
GW_EXPORT struct gw_endpoint *gw_endpoint_adopt(struct gw_handler *handler, uint64_t eni, unsigned slot,
                                                uint64_t made_ns);

/* Before any thread runs: what gw_endpoint_last_ns(), _ring_drops() and _flow_drops() said in the other program. */
GW_EXPORT void gw_endpoint_resume(struct gw_endpoint *endpoint, uint64_t last_ns, uint64_t ring_drops,
                                  uint64_t flow_drops);

GW_EXPORT unsigned gw_endpoint_slot(const struct gw_endpoint *endpoint);

/* Unpublish: on return no receiver uses the endpoint any more, and its ENI ID is unknown again.  Publish undoes it. */
GW_EXPORT void gw_endpoint_publish(struct gw_endpoint *endpoint);
GW_EXPORT void gw_endpoint_unpublish(struct gw_endpoint *endpoint);

/*
 * Lets its frames go: until then they wait in its rings.  From now on the bell of a T thread that does not run yet rings when
 * there is something for it.
 */
GW_EXPORT void gw_endpoint_open(struct gw_endpoint *endpoint);

/* Tells its T threads to write what the rings hold, and stop. */
GW_EXPORT void gw_endpoint_stop(struct gw_endpoint *endpoint);

/* After its T threads have returned: it is as before gw_endpoint_open(), with its flows and what its rings hold. */
GW_EXPORT void gw_endpoint_close(struct gw_endpoint *endpoint);

/* Forgets its flows, which takes a look at every entry of the flow table, and counts what its rings still hold as lost: any
 * time after it was unpublished and its T threads have returned. */
GW_EXPORT void gw_endpoint_forget(struct gw_endpoint *endpoint);

/* Frees it.  Its flows must have been forgotten. */
GW_EXPORT void gw_endpoint_free(struct gw_endpoint *endpoint);

/* Wakes those of its T threads that sleep on sockets to the load balancer that have been idle for long, to close them; to
 * be called every second. */
GW_EXPORT void gw_endpoint_age(struct gw_endpoint *endpoint);

/* CLOCK_MONOTONIC of its newest packet from GWLB or returned to it, or of its making. */
GW_EXPORT uint64_t gw_endpoint_last_ns(const struct gw_endpoint *endpoint);

/* Packets lost because one of its rings was full, and because they were shed or the flow table had no room; bytes waiting in
 * its rings now. */
GW_EXPORT uint64_t gw_endpoint_ring_drops(const struct gw_endpoint *endpoint);
GW_EXPORT uint64_t gw_endpoint_flow_drops(const struct gw_endpoint *endpoint);
GW_EXPORT uint64_t gw_endpoint_ring_bytes(const struct gw_endpoint *endpoint);

/* Packets that a receiver has taken in for it so far, those lost on the way to its ring included. */
GW_EXPORT uint64_t gw_endpoint_arrived(const struct gw_endpoint *endpoint, unsigned receiver);

/* Whether a receiver sheds what it receives for it, that is, drops it before it costs much. */
GW_EXPORT void gw_endpoint_shed(struct gw_endpoint *endpoint, unsigned receiver, int shed);

/* Its flows are counted apart by family and protocol. */
enum gw_flow_class { GW_V4_TCP, GW_V4_UDP, GW_V4_OTHER, GW_V6_TCP, GW_V6_UDP, GW_V6_OTHER, GW_FLOW_CLASSES };

struct gw_flow_count {
	uint64_t size;      /* flows now, fragments not counted */
	uint64_t timed_out; /* since the endpoint was made */
	uint64_t evicted;   /* from the full table, since the endpoint was made */
};

/* Writes GW_FLOW_CLASSES counts, in the order of the classes. */
GW_EXPORT void gw_endpoint_count_flows(const struct gw_endpoint *endpoint, struct gw_flow_count *count);

/* ---- Tunnel threads ----------------------------------------------------------------------------------------------*/

/* The eventfd that becomes readable when a T thread that does not run is needed; the endpoint's own. */
GW_EXPORT int gw_tunnel_bell(const struct gw_endpoint *endpoint, unsigned side, unsigned thread);

/* Whether its rings hold frames. */
GW_EXPORT int gw_tunnel_has_frames(const struct gw_endpoint *endpoint, unsigned side, unsigned thread);

GW_EXPORT const uint64_t *gw_tunnel_counters(const struct gw_endpoint *endpoint, unsigned side, unsigned thread);

/*
 * Serves one queue of one interface: fd, a TUN queue with IFF_VNET_HDR (header of 10 bytes), made non-blocking by
 * Python.  Returns GW_STOPPED after gw_endpoint_stop(), or -errno when the device is of no more use (EBADFD: it has
 * been deleted).
 */
GW_EXPORT int gw_tunnel_run(struct gw_endpoint *endpoint, unsigned side, unsigned thread, int fd);

/* As gw_receiver_stalled(), for a T thread that runs and its queue.  *receiver: the one that is on duty for it, or -1. */
GW_EXPORT unsigned gw_tunnel_stalled(struct gw_endpoint *endpoint, unsigned side, unsigned thread, int fd,
                                     int *receiver);

/* ---- The path in the kernel ----------------------------------------------------------------------------------------
 *
 * Thread K, a control thread, keeps the maps that the programs of native/bpf work with; docs/KERNEL_PATH.md has the
 * protocol.  Python makes the maps, attaches the programs, and owns all that native/bpf/layout.h does not give to K.
 */

/* What Python has made.  All of it stays until gw_kernel_free(). */
struct gw_kernel_setup {
	void *endpoints;    /* struct gw_kernel_endpoint, by slot: as many as there may be endpoints */
	void *links;        /* struct gw_kernel_link, GW_KERNEL_LINKS of them */
	void *globals;      /* struct gw_kernel_globals */
	int32_t flows_fd;   /* the map */
	int32_t links_bell; /* an eventfd, rung when K has put a pair of addresses into links; -1: none */
	uint64_t wake_ns;   /* the longest that K may sleep */
	const struct gw_kernel_counts *before; /* of the K whose work this one goes on with; or NULL */
};

/* What K has done, and how much there is now.  Anyone may read it at any time. */
struct gw_kernel_counts {
	uint64_t entries;  /* in the map, about */
	uint64_t links;    /* places there that have been used so far */
	uint64_t requests; /* of U threads */
	uint64_t promoted; /* flows put into the map */
	uint64_t replaced; /* of those: it had another entry of the flow */
	uint64_t stale;    /* requests for a path that was not the flow's any more, or of an endpoint that had gone */
	uint64_t full;     /* requests for which the map, or links, had no room */
	uint64_t refused;  /* map calls that the kernel refused for another reason */
	uint64_t changed;  /* entries that died as the flow table had another path for their flow, or none */
	uint64_t swept;    /* entries deleted by sweeps */
	uint64_t sweeps;
	uint64_t fences;   /* cycles */
	uint64_t unfenced; /* cycles in which a thread did not get through in time */
	uint64_t resets;   /* endpoints whose entries all died: a thread got stuck, or a ring ran over */
	uint64_t lost;     /* requests that found K's ring full; they are made again */
};

/* Makes it, at rest.  NULL with errno. */
GW_EXPORT struct gw_kernel *gw_kernel_new(struct gw_handler *handler, const struct gw_kernel_setup *setup);

/* Switches the programs on, and has U threads tell K of their flows, before any of them runs; or not any longer. */
GW_EXPORT void gw_kernel_offer(struct gw_kernel *kernel, int on);

/* Thread K: works until gw_kernel_stop() or gw_kernel_leave(), and returns GW_STOPPED.  Meanwhile all is on.  It may be called
 * again. */
GW_EXPORT int gw_kernel_work(struct gw_kernel *kernel);
GW_EXPORT void gw_kernel_stop(struct gw_kernel *kernel);

/* As gw_kernel_stop(), but programs go on with the flows that they have.  Until there is a K again no U thread may run. */
GW_EXPORT void gw_kernel_leave(struct gw_kernel *kernel);

/* Frees it.  K must have returned, and every endpoint must be off.  Before gw_handler_free(). */
GW_EXPORT void gw_kernel_free(struct gw_kernel *kernel);

GW_EXPORT const struct gw_kernel_counts *gw_kernel_counted(const struct gw_kernel *kernel);

/* The endpoint's flows may take the kernel: writes endpoints[slot], under a new life; or under the one that it has, if another K
 * has left the slot on for that endpoint.  After gw_endpoint_open().  gwi: its interface index.  queues: the descriptors of its
 * queues, all of gwi and then all of gwo, by thread; they must stay open until it is off.  queue_length: how many packets one of
 * them can hold at most, ever.  0 or -errno. */
GW_EXPORT int gw_kernel_endpoint_on(struct gw_kernel *kernel, struct gw_endpoint *endpoint, uint32_t gwi,
                                    const int *queues, uint32_t queue_length);

/* Everything goes up again, and all its entries are dead.  Before gw_endpoint_stop().  K looks at it no more on return. */
GW_EXPORT void gw_kernel_endpoint_off(struct gw_kernel *kernel, struct gw_endpoint *endpoint);

/* What leaves by that side goes up, or not any longer.  Any time; it outlives off and on. */
GW_EXPORT void gw_kernel_endpoint_aside(struct gw_kernel *kernel, struct gw_endpoint *endpoint, unsigned side,
                                        int aside);

/* Before gw_handler_expire(), which so forgets no flow that the kernel carries.  The caller needs K's rights: bpf(2) on a map. */
GW_EXPORT int gw_kernel_sweep(struct gw_kernel *kernel);

/* Gives up pairs in links that no flow in the map has had for so long.  Only whoever writes links may call it.  Their number. */
GW_EXPORT unsigned gw_kernel_free_links(struct gw_kernel *kernel, uint64_t idle_ns);

/* Adds up what the CPUs have counted for a slot: tallies as in native/bpf/layout.h, with so many CPUs each. */
GW_EXPORT void gw_kernel_tallied(const struct gw_kernel_tally *tallies, unsigned slot, unsigned cpus,
                                 struct gw_kernel_tally *sum);

/* ---- Trace: what the packet-level log sections are made of -------------------------------------------------------*/

#define GW_TRACE_DATA 2048

enum gw_trace_level {
	GW_TRACE_OFF = 0,
	GW_TRACE_HEADERS = 1, /* each record holds the first 512 bytes of its packet */
	GW_TRACE_DUMP = 2,    /* each record holds the first GW_TRACE_DATA bytes */
};

enum gw_trace_event {
	GW_TRACE_IN = 1,  /* from GWLB: data is the UDP payload, Geneve header first */
	GW_TRACE_OUT = 2, /* from Linux: data is the inner packet */
};

struct gw_trace_record {
	uint64_t time_ns;      /* CLOCK_REALTIME */
	uint64_t eni;          /* 0 where it is not known */
	uint32_t event;        /* enum gw_trace_event */
	uint32_t counter;      /* the drop_ counter it was counted under; 0: it was passed on */
	uint32_t thread_id;    /* gettid() of the thread it describes */
	uint32_t gwlb_address; /* outer source of IN, outer destination of OUT; network byte order, 0: not known */
	uint32_t own_address;  /* the other end */
	uint16_t gwlb_port;    /* the outer source port that GWLB chose; host byte order */
	uint16_t side;         /* OUT: enum gw_side */
	uint32_t cookie;       /* of the flow it was matched to (OUT) */
	uint32_t length;       /* of the whole packet */
	uint32_t captured;     /* how much of it data holds */
	uint32_t reserved;
	uint8_t data[GW_TRACE_DATA];
};

/* Sets how much is traced from now on, for the whole process. */
GW_EXPORT int gw_trace_set(struct gw_handler *handler, unsigned level);

/* Takes the oldest record, if any: 1 or 0.  Only one thread may read. */
GW_EXPORT int gw_trace_read(struct gw_handler *handler, struct gw_trace_record *record);

/* Records lost so far because the reader had fallen behind. */
GW_EXPORT uint64_t gw_trace_lost(const struct gw_handler *handler);

#endif
