/* SPDX-License-Identifier: MIT-0 */
/*
 * tunnel.c - the work of T threads: from the rings to Linux, and from Linux back to the load balancer.
 *
 * Theory of operation
 *
 * Each T thread serves one queue of one interface of one endpoint.  On gwi it is the consumer of the rings of receivers
 * i, i + n, i + 2n, ... (i its index, n the number of T threads): each record is one write.  On either interface it reads
 * what Linux sends, BATCH packets or an arena full at a time, looks up the flow of each, cuts super-packets into segments and
 * queues them for transmit.c, which sends at the end of the batch: nothing waits for company.  A U thread may do all that in
 * its place while it sleeps (relief.h): what stands here belongs to the thread on duty.
 *
 * A packet read lies in the arena behind its vnet header until the flush.  Its flow is found by its own key, or, for an
 * ICMP error that Linux made, by the key of the packet it quotes.  The first fragment of a datagram shows the way to the
 * later ones, which have no ports.
 */
#include "tunnel.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "flow.h"
#include "geneve.h"
#include "packet.h"
#include "split.h"
#include "transmit.h"
#include "ways.h"

/* The most packets read before they are sent.  The more are at hand, the more share a port of the load balancer and one
 * message. */
#define BATCH 512u
#define PACKET_ROOM (sizeof(struct gw_vnet_header) + 65536u)
#define ARENA_BYTES (8 * PACKET_ROOM)

/* The most records of a ring, and bytes, to write before reading what Linux sends; and the most batches to read before
 * looking at the rings.  What was written may come back at once, and its way out goes before new work. */
#define WRITE_BATCH BATCH
#define WRITE_BYTES (256u << 10)
#define READ_BATCHES 4u

/* Rounds of WRITE_BATCH that a U thread writes for a T thread before it leaves the rest to that thread: twice what the U
 * thread can have put there since the last time. */
#define SERVE_ROUNDS 4u

/* A thread that must stop reads what its queue holds, but no longer than this. */
#define STOP_ROUNDS 256u

/* How long, at a time, an idle gwo thread waits for the last packets of gwi. */
#define STOP_WAIT_US 500

/* Up to this length, a packet is copied behind its Geneve header.  A segment has to be summed anyway, so this costs less
 * than letting the kernel gather two pieces. */
#define COPY_MAX 2048u
_Static_assert(COPY_MAX <= GW_TRANSMIT_COPY_MAX && GW_SPLIT_HEADER_MAX <= GW_TRANSMIT_COPY_MAX, "they fit");

static void run(struct gw_tunnel *tunnel);
static unsigned drain_rings(struct gw_tunnel *tunnel);
static unsigned write_records(struct gw_tunnel *tunnel, struct gw_ring *ring);
static int write_record(struct gw_tunnel *tunnel, const struct gw_ring_record *record);
static unsigned read_batch(struct gw_tunnel *tunnel, unsigned most, bool *more);
static void handle_packet(struct gw_tunnel *tunnel, const struct gw_vnet_header *vnet, uint8_t *data, size_t len,
                          uint32_t now);
static bool find_path(struct gw_tunnel *tunnel, const struct gw_packet *packet, struct gw_flow_path *path,
                      uint32_t now);
static bool find(struct gw_tunnel *tunnel, struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now);
static void trace(const struct gw_tunnel *tunnel, const uint8_t *data, size_t len, unsigned reason,
                  const struct gw_flow_path *path);
static void send_segments(struct gw_tunnel *tunnel, const struct gw_split *split, const struct gw_flow_path *path);
static void read_answers(struct gw_tunnel *out, unsigned records);

/* ---- The T thread ------------------------------------------------------------------------------------------------*/

int gw_tunnel_work(struct gw_tunnel *tunnel, int fd)
{
	gw_count(&tunnel->counters, GW_entries, 1);
	gw_duty_begin(&tunnel->duty);
	tunnel->fd = fd;
	tunnel->error = 0;
	tunnel->transmit = gw_transmit_new(&tunnel->shared->outlets, &tunnel->counters);
	if (!tunnel->transmit)
		return -errno;
	tunnel->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	                     -1, 0);
	if (tunnel->arena == MAP_FAILED) {
		tunnel->error = errno;
	} else {
		if (tunnel->side == GW_GWI)
			atomic_fetch_add(tunnel->writers, 1);
		run(tunnel);
		if (tunnel->side == GW_GWI)
			atomic_fetch_sub(tunnel->writers, 1);
		munmap(tunnel->arena, ARENA_BYTES);
	}
	gw_transmit_free(tunnel->transmit);
	return tunnel->error ? -tunnel->error : GW_STOPPED;
}

static void run(struct gw_tunnel *tunnel)
{
	bool readable = true;
	unsigned stop_rounds = 0;

	while (!tunnel->error) {
		/* Read before the rings: what came before the stop is still written, and what Linux makes of it is read. */
		bool stop = atomic_load(tunnel->duty.stop);
		bool written_all = tunnel->side == GW_GWI || atomic_load(tunnel->writers) == 0;
		bool wrote = tunnel->side == GW_GWI && drain_rings(tunnel) > 0;

		readable |= wrote || stop;
		for (unsigned i = 0; i < READ_BATCHES && readable; i++)
			(void)read_batch(tunnel, BATCH, &readable);
		if (stop && (wrote || readable ? ++stop_rounds == STOP_ROUNDS : written_all))
			return;
		if (stop && !wrote && !readable)
			usleep(STOP_WAIT_US);
		if (stop || wrote || readable)
			continue;
		atomic_store_explicit(&tunnel->sockets_open, gw_transmit_age(tunnel->transmit), memory_order_relaxed);
		readable = gw_duty_rest(&tunnel->duty, tunnel->fd);
	}
}

bool gw_tunnel_has_idle_sockets(const struct gw_tunnel *tunnel, uint64_t now_ns)
{
	return atomic_load_explicit(&tunnel->sockets_open, memory_order_relaxed) &&
	       gw_get(&tunnel->counters, GW_last_sent_ns) + GW_WAYS_IDLE_S * 1000000000ull <= now_ns;
}

unsigned gw_tunnel_look(struct gw_tunnel *tunnel, int fd, int *receiver)
{
	const struct gw_counters *counters = &tunnel->counters;
	const uint32_t who = atomic_load(&tunnel->duty.who);

	*receiver = gw_duty_receiver(who);
	return gw_progress_look(
		&tunnel->progress,
		who == GW_DUTY_THREAD || !gw_duty_rings_empty(&tunnel->duty) || gw_progress_readable(fd),
		gw_get(counters, GW_entries) + gw_get(counters, GW_batches) + gw_get(counters, GW_frames_out) +
			gw_get(counters, GW_tun_errors) + gw_get(counters, GW_receive_errors));
}

/* ---- To Linux ----------------------------------------------------------------------------------------------------*/

/* Writes what the rings of a T thread of gwi hold, up to WRITE_BATCH records or WRITE_BYTES each.  Returns the number of
 * records. */
static unsigned drain_rings(struct gw_tunnel *tunnel)
{
	unsigned records = 0;

	for (unsigned i = 0; i < tunnel->duty.rings; i++)
		records += write_records(tunnel, gw_duty_ring(&tunnel->duty, i));
	if (records > 0)
		gw_set(&tunnel->counters, GW_last_out_ns, gw_now_ns());
	return records;
}

/* Writes up to WRITE_BATCH records of a ring, or WRITE_BYTES.  Returns the number of records. */
static unsigned write_records(struct gw_tunnel *tunnel, struct gw_ring *ring)
{
	const struct gw_ring_record *record;
	unsigned records = 0, bytes = 0;

	while (records < WRITE_BATCH && bytes < WRITE_BYTES && (record = gw_ring_peek(ring)) != NULL) {
		int error = write_record(tunnel, record);

		tunnel->error = error ? error : tunnel->error;
		bytes += record->len;
		gw_ring_release(ring, record);
		records++;
	}
	return records;
}

/* Returns 0, or the errno that makes the device useless. */
static int write_record(struct gw_tunnel *tunnel, const struct gw_ring_record *record)
{
	struct gw_counters *counters = &tunnel->counters;
	ssize_t written;

	do
		written = write(tunnel->fd, record + 1, record->len);
	while (written < 0 && errno == EINTR);
	if (written >= 0) {
		gw_count(counters, GW_frames_out, 1);
		gw_count(counters, GW_packets_out, record->packets);
		gw_count(counters, GW_bytes_out, record->bytes);
		return 0;
	}
	gw_count(counters, GW_tun_errors, 1);
	gw_count(counters, GW_drop_tun_write, record->packets);
	return errno == EBADFD || errno == EBADF ? errno : 0;
}

/* ---- From Linux --------------------------------------------------------------------------------------------------*/

/* Reads up to `most` packets, as many as fit, and sends them on.  Returns their number.  *more: there may be others. */
static unsigned read_batch(struct gw_tunnel *tunnel, unsigned most, bool *more)
{
	uint32_t now = 0;
	size_t at = 0;
	unsigned packets = 0;

	*more = true;
	while (packets < most && at + PACKET_ROOM <= ARENA_BYTES) {
		struct gw_vnet_header vnet;
		ssize_t len = read(tunnel->fd, tunnel->arena + at, PACKET_ROOM);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < (ssize_t)sizeof(vnet)) {
			if (len < 0 && (errno == EBADFD || errno == EBADF))
				tunnel->error = errno;
			else if (len < 0 &&
			         errno != EAGAIN) /* TUN could not hand out this packet; the next may be fine */
				gw_count(&tunnel->counters, GW_receive_errors, 1);
			*more = false;
			break;
		}
		if (packets++ == 0)
			now = gw_now_s();
		memcpy(&vnet, tunnel->arena + at, sizeof(vnet));
		handle_packet(tunnel, &vnet, tunnel->arena + at + sizeof(vnet), (size_t)len - sizeof(vnet), now);
		at += ((size_t)len + 63) & ~(size_t)63;
	}
	if (packets > 0) {
		tunnel->blocked = !gw_transmit_flush(tunnel->transmit);
		atomic_store_explicit(&tunnel->reads,
		                      atomic_load_explicit(&tunnel->reads, memory_order_relaxed) + packets,
		                      memory_order_release);
		gw_set(&tunnel->counters, GW_last_in_ns, gw_now_ns());
		gw_count(&tunnel->counters, GW_batches, 1);
		atomic_store_explicit(&tunnel->sockets_open, gw_transmit_age(tunnel->transmit), memory_order_relaxed);
	}
	return packets;
}

static void handle_packet(struct gw_tunnel *tunnel, const struct gw_vnet_header *vnet, uint8_t *data, size_t len,
                          uint32_t now)
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
		segments = gw_split_begin(&split, vnet, &packet, data);
		if (segments < 0)
			reason = GW_drop_segmentation;
		else if (tunnel->shared->receive_only)
			reason = GW_drop_no_return;
		else if (!find_path(tunnel, &packet, &path, now))
			reason = GW_drop_no_flow;
	}
	if (segments < 0)
		segments = 1;
	if (segments > 1)
		bytes += (uint64_t)(segments - 1) * split.header_len;
	gw_count(&tunnel->counters, GW_packets_in, (uint64_t)segments);
	gw_count(&tunnel->counters, GW_bytes_in, bytes);
	if (gw_tracing(&tunnel->shared->trace))
		trace(tunnel, data, len, reason, &path);
	if (reason)
		gw_count(&tunnel->counters, reason, (uint64_t)segments);
	else
		send_segments(tunnel, &split, &path);
}

static bool find_path(struct gw_tunnel *tunnel, const struct gw_packet *packet, struct gw_flow_path *path,
                      uint32_t now)
{
	struct gw_packet_keys keys;

	gw_packet_keys(packet, tunnel->slot, &keys);
	if (!find(tunnel, &keys.own, path, now) && !(keys.has_quoted && find(tunnel, &keys.quoted, path, now)))
		return false;
	if (packet->fragment && !packet->later_fragment) {
		gw_flow_hash(tunnel->shared->flows, &keys.fragment);
		/* With a full table only the later fragments are lost, and counted as they come. */
		(void)gw_flows_learn(tunnel->shared->flows, &keys.fragment, path, now);
	}
	return true;
}

static bool find(struct gw_tunnel *tunnel, struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now)
{
	gw_flow_hash(tunnel->shared->flows, key);
	return gw_flows_find(tunnel->shared->flows, key, path, now);
}

static void trace(const struct gw_tunnel *tunnel, const uint8_t *data, size_t len, unsigned reason,
                  const struct gw_flow_path *path)
{
	struct gw_trace_record record = { .eni = tunnel->eni,
		                          .event = GW_TRACE_OUT,
		                          .counter = reason,
		                          .side = (uint16_t)tunnel->side,
		                          .length = (uint32_t)len };

	if (!reason) {
		struct gw_geneve geneve;

		record.gwlb_address = path->origin.gwlb_address;
		record.gwlb_port = path->origin.gwlb_port;
		record.own_address = path->origin.own_address;
		if (!gw_geneve_parse((const uint8_t *)path->header, path->header_len, &geneve))
			record.cookie = geneve.cookie;
	}
	gw_trace_write(&tunnel->shared->trace, &record, data);
}

static void send_segments(struct gw_tunnel *tunnel, const struct gw_split *split, const struct gw_flow_path *path)
{
	for (uint32_t i = 0; i < split->count; i++) {
		const uint32_t len = split->header_len + gw_split_payload(split, i);

		if (len <= COPY_MAX) {
			uint8_t *room = gw_transmit_room(tunnel->transmit, path, len);

			if (room)
				gw_split_write(split, i, room);
		} else {
			uint8_t header[GW_SPLIT_HEADER_MAX];
			const uint8_t *payload;
			uint32_t payload_len;

			gw_split_segment(split, i, header, &payload, &payload_len);
			gw_transmit_add(tunnel->transmit, path, header, split->header_len, payload, payload_len);
		}
	}
}

/* ---- For a T thread that sleeps ----------------------------------------------------------------------------------*/

bool gw_tunnel_serve(struct gw_tunnel *in, struct gw_tunnel *out)
{
	unsigned records, rounds = 0;

	if (out)
		out->blocked = false;
	while (rounds++ < SERVE_ROUNDS && (records = drain_rings(in)) > 0)
		if (out && out->answers)
			read_answers(out, records);
	return !in->error && gw_duty_rings_empty(&in->duty) && (!out || (!out->error && !out->blocked));
}

/* Sends on as many packets as records were written.  If that many came out, there is no need to look for more now. */
static void read_answers(struct gw_tunnel *out, unsigned records)
{
	bool more = true, any = false;

	while (records > 0 && more) {
		unsigned packets = read_batch(out, records < BATCH ? records : BATCH, &more);

		any |= packets > 0;
		records -= packets;
	}
	out->answers = any;
}

bool gw_tunnel_read(struct gw_tunnel *tunnel)
{
	bool more = true;

	tunnel->blocked = false;
	for (unsigned i = 0; i < READ_BATCHES && more; i++)
		if (read_batch(tunnel, BATCH, &more) > 0)
			tunnel->answers = true;
	return !tunnel->error && !tunnel->blocked;
}
