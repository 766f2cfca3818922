/* SPDX-License-Identifier: MIT-0 */
/*
 * tunnel.c - the T threads: from the frame rings to TUN, and from TUN back to the load balancer.
 *
 * Theory of operation
 *
 * Each T thread serves one queue of one interface of one endpoint.  On gwi it is the consumer of the rings of receivers
 * i, i + n, i + 2n, ... (i its index, n the number of T threads): each frame is one write.  On either interface it reads what
 * Linux sends, BATCH packets or an arena full at a time, looks up the flow of each, cuts super-packets into segments and
 * queues them for transmit.c, which sends at the end of the batch: nothing waits for company.
 *
 * A packet read lies in the arena behind its vnet header until the flush.  Its flow is found by its own key, or, for an
 * ICMP error that Linux made, by the key of the packet it quotes.  The first fragment of a datagram shows the way to the
 * later ones, which have no ports.
 *
 * With nothing to do, the thread sleeps in poll on its eventfd and its queue (handler.h tells how it is woken).
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "handler.h"
#include "offload.h"
#include "packet.h"
#include "transmit.h"

/* Packets read before they are sent, at most: the more are at hand, the more of them go to the same port of the load balancer,
 * and are one message. */
#define BATCH 512u
#define PACKET_ROOM (sizeof(struct gw_vnet_header) + 65536u)
#define ARENA_BYTES (8 * PACKET_ROOM)

/* Frames of a ring written before the thread looks at what Linux sends, and batches read before it looks at its rings:
 * what has been written may come back at once, and its way out goes before new work. */
#define WRITE_BATCH 64u
#define READ_BATCHES 4u

/* A thread that was told to stop reads what its queue holds, and not for ever. */
#define STOP_ROUNDS 64u

/* How long a gwo thread that has nothing left waits, at a time, for the last of gwi. */
#define STOP_WAIT_US 500

/* A packet up to this long is copied behind its Geneve header rather than sent from two places. */
#define COPY_MAX 256u
_Static_assert(COPY_MAX <= GW_TRANSMIT_HEADER_MAX && GW_SPLIT_HEADER_MAX <= GW_TRANSMIT_HEADER_MAX, "they fit");

struct loop {
	struct gw_endpoint *endpoint;
	struct gw_handler *handler;
	struct gw_counters *counters;
	struct gw_transmit *transmit;
	uint8_t *arena;
	unsigned side;
	unsigned thread;
	int fd;
	bool rung; /* the eventfd is to be read */
	int error; /* why the device is of no more use, or 0 */
};

/* ---- To Linux -----------------------------------------------------------------------------------------------------*/

/* 0, or the errno for which the device is of no more use. */
static int write_frame(struct gw_tunnel *tunnel, const struct gw_frame *frame)
{
	struct gw_counters *counters = &tunnel->counters;
	ssize_t written;

	do
		written = write(tunnel->fd, frame + 1, frame->len);
	while (written < 0 && errno == EINTR);
	if (written >= 0) {
		gw_count(counters, GW_frames_out, 1);
		gw_count(counters, GW_packets_out, frame->packets);
		gw_count(counters, GW_bytes_out, frame->bytes);
		return 0;
	}
	gw_count(counters, GW_tun_errors, 1);
	gw_count(counters, GW_drop_tun_write, frame->packets);
	return errno == EBADFD || errno == EBADF ? errno : 0;
}

int gw_tunnel_write(struct gw_tunnel *tunnel, struct gw_ring *ring, unsigned frames, bool *any)
{
	const struct gw_frame *frame;
	int error = 0;

	*any = false;
	for (unsigned n = 0; n < frames && (frame = gw_ring_peek(ring)) != NULL; n++) {
		int failed = write_frame(tunnel, frame);

		error = failed ? failed : error;
		gw_ring_release(ring, frame);
		*any = true;
	}
	if (*any)
		gw_set(&tunnel->counters, GW_last_out_ns, gw_now_ns());
	return error;
}

/* Writes what the rings of this thread hold, up to WRITE_BATCH frames each; true if there was any. */
static bool drain_rings(struct loop *loop)
{
	const struct gw_handler *handler = loop->handler;
	struct gw_tunnel *tunnel = &loop->endpoint->tunnel[loop->side][loop->thread];
	bool any = false;

	/* A U thread that lends a hand has it for some frames at most. */
	while (atomic_exchange_explicit(&tunnel->draining, true, memory_order_acquire))
		sched_yield();
	for (unsigned i = loop->thread; i < handler->receivers; i += handler->tunnel_threads) {
		bool wrote;
		int error = gw_tunnel_write(tunnel, &loop->endpoint->ring[i], WRITE_BATCH, &wrote);

		loop->error = error ? error : loop->error;
		any |= wrote;
	}
	atomic_store_explicit(&tunnel->draining, false, memory_order_release);
	return any;
}

static bool rings_empty(const struct loop *loop)
{
	for (unsigned i = loop->thread; i < loop->handler->receivers; i += loop->handler->tunnel_threads)
		if (gw_ring_waiting(&loop->endpoint->ring[i]) != 0)
			return false;
	return true;
}

/* ---- From Linux ---------------------------------------------------------------------------------------------------*/

static void trace(const struct loop *loop, const uint8_t *data, size_t len, unsigned reason,
                  const struct gw_flow_path *path)
{
	struct gw_trace_record record = { .eni = loop->endpoint->eni,
		                          .event = GW_TRACE_OUT,
		                          .counter = reason,
		                          .side = (uint16_t)loop->side,
		                          .length = (uint32_t)len };

	if (!reason) {
		struct gw_geneve geneve;

		record.gwlb_address = path->gwlb_address;
		record.gwlb_port = path->gwlb_port;
		record.own_address = path->own_address;
		if (!gw_geneve_parse((const uint8_t *)path->header, path->header_len, &geneve))
			record.cookie = geneve.cookie;
	}
	gw_trace_write(&loop->handler->trace, &record, data);
}

static bool find(struct loop *loop, struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now)
{
	gw_flow_hash(loop->handler->flows, key);
	return gw_flows_find(loop->handler->flows, key, path, now);
}

static bool find_path(struct loop *loop, const struct gw_packet *packet, struct gw_flow_path *path, uint32_t now)
{
	struct gw_packet_keys keys;

	gw_packet_keys(packet, loop->endpoint->slot, &keys);
	if (!find(loop, &keys.own, path, now) && !(keys.has_quoted && find(loop, &keys.quoted, path, now)))
		return false;
	if (packet->fragment && !packet->later_fragment) {
		gw_flow_hash(loop->handler->flows, &keys.fragment);
		/* With a full table only the datagram's later fragments are lost, and counted as they come. */
		(void)gw_flows_learn(loop->handler->flows, &keys.fragment, path, now);
	}
	return true;
}

static void send_segments(struct loop *loop, const struct gw_split *split, const struct gw_flow_path *path)
{
	if (split->header_len == 0) {
		bool copy = split->len <= COPY_MAX;

		gw_transmit_add(loop->transmit, path, split->packet, copy ? split->len : 0,
		                split->packet, copy ? 0 : split->len);
		return;
	}
	for (uint32_t i = 0; i < split->count; i++) {
		uint8_t header[GW_SPLIT_HEADER_MAX];
		const uint8_t *payload;
		uint32_t payload_len;

		gw_split_segment(split, i, header, &payload, &payload_len);
		gw_transmit_add(loop->transmit, path, header, split->header_len, payload, payload_len);
	}
}

static void handle_packet(struct loop *loop, const struct gw_vnet_header *vnet, uint8_t *data, size_t len, uint32_t now)
{
	struct gw_packet packet;
	struct gw_flow_path path;
	struct gw_split split;
	uint64_t bytes = len;
	unsigned reason = 0;
	int segments = 1;

	if (len == 0 || gw_packet_parse(data, len, data[0] >> 4 == 6 ? 6 : 4, &packet)) {
		reason = GW_drop_not_ip;
	} else {
		segments = gw_split_begin(&split, vnet, data, packet.len);
		if (segments < 0)
			reason = GW_drop_segmentation;
		else if (!find_path(loop, &packet, &path, now))
			reason = GW_drop_no_flow;
	}
	if (segments < 0)
		segments = 1;
	if (segments > 1)
		bytes += (uint64_t)(segments - 1) * split.header_len;
	gw_count(loop->counters, GW_packets_in, (uint64_t)segments);
	gw_count(loop->counters, GW_bytes_in, bytes);
	if (gw_tracing(&loop->handler->trace))
		trace(loop, data, len, reason, &path);
	if (reason)
		gw_count(loop->counters, reason, (uint64_t)segments);
	else
		send_segments(loop, &split, &path);
}

/* Reads up to BATCH packets and sends them on; true if there may be more. */
static bool read_batch(struct loop *loop)
{
	uint32_t now = 0;
	size_t at = 0;
	unsigned packets = 0;
	bool more = true;

	while (packets < BATCH && at + PACKET_ROOM <= ARENA_BYTES) {
		struct gw_vnet_header vnet;
		ssize_t len = read(loop->fd, loop->arena + at, PACKET_ROOM);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < (ssize_t)sizeof(vnet)) {
			if (len < 0 && (errno == EBADFD || errno == EBADF))
				loop->error = errno;
			else if (len < 0 && errno != EAGAIN) /* a packet that TUN could not hand out: the next may do */
				gw_count(loop->counters, GW_receive_errors, 1);
			more = false;
			break;
		}
		if (packets++ == 0)
			now = gw_flows_now();
		memcpy(&vnet, loop->arena + at, sizeof(vnet));
		handle_packet(loop, &vnet, loop->arena + at + sizeof(vnet), (size_t)len - sizeof(vnet), now);
		at += ((size_t)len + 63) & ~(size_t)63;
	}
	if (packets > 0) {
		gw_transmit_flush(loop->transmit);
		gw_set(loop->counters, GW_last_in_ns, gw_now_ns());
		gw_count(loop->counters, GW_batches, 1);
	}
	return more;
}

/* ---- The loop -----------------------------------------------------------------------------------------------------*/

/* Sleeps until there is something to do; true if the queue is to be read. */
static bool sleep_until_needed(struct loop *loop)
{
	struct gw_tunnel *tunnel = &loop->endpoint->tunnel[loop->side][loop->thread];
	struct pollfd fds[2] = { { .fd = tunnel->eventfd, .events = POLLIN }, { .fd = loop->fd, .events = POLLIN } };
	uint64_t rung;

	/* Not when it woke us, for then there is something more urgent to do.  It rings for a sleep that has ended. */
	if (loop->rung && read(tunnel->eventfd, &rung, sizeof(rung)) > 0)
		loop->rung = false;
	atomic_store_explicit(&tunnel->sockets_open, gw_transmit_age(loop->transmit), memory_order_relaxed);
	atomic_store_explicit(&tunnel->cpu, sched_getcpu(), memory_order_relaxed);
	atomic_store(&tunnel->sleeping, true);
	if ((loop->side == GW_GWI && !rings_empty(loop)) || atomic_load(&loop->endpoint->stop)) {
		atomic_store(&tunnel->sleeping, false);
		return false;
	}
	/* No time-out: a timer for each sleep costs more than the rest of it. */
	(void)poll(fds, 2, -1);
	atomic_store(&tunnel->sleeping, false);
	loop->rung |= fds[0].revents != 0;
	return fds[1].revents != 0;
}

static void run(struct loop *loop)
{
	_Atomic unsigned *writers = &loop->endpoint->writers;
	bool readable = true;
	unsigned stop_rounds = 0;

	while (!loop->error) {
		/* Before the rings are looked at: what came before the stop is still written, and what Linux makes of it read. */
		bool stop = atomic_load(&loop->endpoint->stop);
		bool written_all = loop->side == GW_GWI || atomic_load(writers) == 0;
		bool wrote = loop->side == GW_GWI && drain_rings(loop);

		readable |= wrote || stop;
		for (unsigned i = 0; i < READ_BATCHES && readable; i++)
			readable = read_batch(loop);
		if (stop && !wrote && (readable ? ++stop_rounds == STOP_ROUNDS : written_all))
			return;
		if (stop && !wrote && !readable)
			usleep(STOP_WAIT_US);
		if (stop || wrote || readable)
			continue;
		readable = sleep_until_needed(loop);
	}
}

int gw_tunnel_run(struct gw_endpoint *endpoint, unsigned side, unsigned thread, int fd)
{
	struct loop loop = { .endpoint = endpoint,
		             .handler = endpoint->handler,
		             .counters = &endpoint->tunnel[side][thread].counters,
		             .side = side,
		             .thread = thread,
		             .fd = fd };

	gw_count(loop.counters, GW_entries, 1);
	endpoint->tunnel[side][thread].fd = fd;
	loop.transmit = gw_transmit_new(endpoint->handler, loop.counters);
	if (!loop.transmit)
		return -errno;
	loop.arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
	                  0);
	if (loop.arena == MAP_FAILED) {
		loop.error = errno;
	} else {
		if (side == GW_GWI)
			atomic_fetch_add(&endpoint->writers, 1);
		run(&loop);
		if (side == GW_GWI)
			atomic_fetch_sub(&endpoint->writers, 1);
		munmap(loop.arena, ARENA_BYTES);
	}
	gw_transmit_free(loop.transmit);
	return loop.error ? -loop.error : GW_STOPPED;
}
