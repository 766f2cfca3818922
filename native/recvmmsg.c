/* SPDX-License-Identifier: MIT-0 */
/*
 * recvmmsg.c - the receivers: from the UDP socket to the frame rings.
 *
 * Theory of operation
 *
 * A U thread owns its struct gw_receiver, its socket and the producer's end of one ring in each endpoint.  It
 * blocks in recvmmsg for the first datagram and takes those that are there with it.  While it stands in for T threads
 * (relief.h) it blocks in poll, on their queues as well.  A datagram may be many (UDP_GRO): Geneve packets of one outer
 * flow, all of one size but the last.
 *
 * Each packet is checked for itself and becomes a struct frame.  Frames are worked off FRAMES at a time, in passes,
 * so that what one packet needs from memory is on its way while others are worked on: hash and ask for the bucket,
 * ask for the entry, learn the flow, and then hand over.  A packet of the same flow as the one before it, from the same
 * sender with the very same Geneve header, only follows: what was found out about the first holds for it.  Handing
 * over groups the frames by flow, in order, through a small hash table (linear in the number of frames), merges the
 * runs of each group into super-packets (offload.c) and copies them to the ring.  Fragments are not grouped, nor is
 * anything across them, for the parts of a datagram have different keys and shall stay in order.  What was written
 * to a ring is published at the end of the pass, or when it has come to PUBLISH_BYTES.
 *
 * A packet of an ENI ID without an endpoint is announced to the control thread and put into the waiting room (waiting.h);
 * the thread goes on.  When an endpoint has been published, the packets of its ID come out again ahead of later ones.
 *
 * `batch` is odd while the thread may hold endpoints that it found (handler.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "recvmmsg.h"
#include "clock.h"
#include "flow.h"
#include "geneve.h"
#include "offload.h"
#include "packet.h"
#include "relief.h"
#include "source.h"
#include "transmit.h"
#include "waiting.h"

#ifndef UDP_GRO
#define UDP_GRO 104 /* Linux 5.0 */
#endif

/* Datagrams taken with one recvmmsg, at most and at least; in between, as many as made up BATCH_BYTES last time, for what
 * is taken is gone through again and again and had better stay in the cache.  Small ones take much of it beside their
 * bytes: unless they merge, BATCH_UNMERGED are enough. */
#define BATCH 1024u
#define BATCH_UNMERGED 512u
#define BATCH_LEAST 4u
#define BATCH_BYTES (256u << 10)
#define FRAMES 1024u
/* Frames handed over before T threads of the same core are let in: some that are for them to write or to read; or any, for
 * Linux may have sent those threads something else. */
#define FRAMES_KEPT 128u
#define FRAMES_ALONE 2048u
/* What waits in a ring to be published before a pass is over: better read while it is in the cache. */
#define PUBLISH_BYTES (48u << 10)
#define GROUPS 2048u /* a power of two */
/* Not a power of two, so that the beginnings of all buffers do not compete for the same lines of the cache. */
#define DATAGRAM_ROOM (65536u + 320u)

/* What all rings of endpoints that are not up yet may hold, and what each ring may hold all the same: a sender that invents
 * ENI IDs must not get 4 MiB for each of them and each receiver. */
#define RINGS_NOT_UP_BYTES (256u << 20)
#define RING_LEAST (64u << 10)

/* How long a packet waits for an endpoint to be made, and how often the room is looked through for such packets. */
#define WAIT_NS 5000000000u
#define WAIT_LOOK_MS 250

/* How long a receiver that was told to stop goes on with what keeps coming in. */
#define DRAIN_NS 200000000u

#define NONE UINT16_MAX

struct frame {
	struct gw_endpoint *endpoint;
	const struct gw_origin *origin;
	const uint8_t *geneve;
	struct gw_packet packet;
	uint16_t geneve_len;
	uint16_t next; /* of its group */
	uint16_t tail; /* of a leader: the last of its group; of one that follows: its leader */
	uint16_t count; /* of a leader: it and those that follow it */
	bool follows;
	bool done; /* dropped, or in the group of another */
	struct gw_packet_keys keys; /* of one that does not follow: last, as the others leave it alone */
};

struct message {
	struct gw_origin origin;
	uint32_t destination; /* as the outer header has it */
	uint32_t interface;
	uint32_t size; /* of each packet in it but the last */
};

struct gw_receiver {
	struct gw_counters counters;
	struct gw_gate gate;
	struct gw_relief relief;
	struct gw_shared *shared;
	struct gw_endpoints *endpoints;
	struct gw_admission *admission;
	unsigned index;
	int fd;
	unsigned wanted; /* datagrams in the next batch, at most */
	bool behind;     /* as many were there */
	unsigned kept;   /* frames handed over since the thread last gave its core away */
	bool left;       /* T threads have something to do with them */
	unsigned worked_off, written; /* frames of the last batch, and what they were merged to */
	/* The packet to be looked at next. */
	unsigned messages;
	unsigned at_message;
	uint32_t at_byte;
	struct gw_waiting waiting;
	unsigned publications; /* of endpoints, when the waiting room was last looked through for their packets */
	uint64_t stop_ns; /* when it was seen that the handler stops */
	struct gw_judge judge;
	unsigned frames;
	unsigned touched;
	struct frame frame[FRAMES];
	struct gw_endpoint *touched_endpoint[FRAMES]; /* whose rings were filled, each once */
	struct gw_segment segment[FRAMES];
	uint16_t group_head[GROUPS];
	struct message message[BATCH];
	struct mmsghdr header[BATCH];
	struct iovec iov[BATCH];
	struct sockaddr_in from[BATCH];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
	} control[BATCH];
	uint8_t data[BATCH][DATAGRAM_ROOM];
};

static void reset_header(struct gw_receiver *receiver, unsigned i)
{
	receiver->header[i].msg_hdr.msg_namelen = sizeof(receiver->from[i]);
	receiver->header[i].msg_hdr.msg_controllen = sizeof(receiver->control[i]);
}

struct gw_receiver *gw_receiver_new(struct gw_shared *shared, struct gw_endpoints *endpoints,
                                    struct gw_admission *admission, unsigned index)
{
	/* Mapped: a buffer takes the memory that the largest datagram in it took. */
	struct gw_receiver *receiver = mmap(NULL, sizeof(*receiver), PROT_READ | PROT_WRITE,
	                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (receiver == MAP_FAILED)
		return NULL;
	if (!gw_gate_begin(&receiver->gate)) {
		munmap(receiver, sizeof(*receiver));
		return NULL;
	}
	if (!gw_waiting_begin(&receiver->waiting, shared->receivers, shared->multiplier)) {
		gw_receiver_free(receiver);
		return NULL;
	}
	receiver->shared = shared;
	receiver->endpoints = endpoints;
	receiver->admission = admission;
	receiver->relief.gate = &receiver->gate;
	receiver->relief.receiver = index;
	receiver->relief.alone = shared->receivers <= shared->tunnel_threads;
	receiver->index = index;
	receiver->fd = -1;
	receiver->wanted = BATCH;
	for (unsigned i = 0; i < BATCH; i++) {
		struct msghdr *header = &receiver->header[i].msg_hdr;

		receiver->iov[i] = (struct iovec){ receiver->data[i], DATAGRAM_ROOM };
		header->msg_iov = &receiver->iov[i];
		header->msg_iovlen = 1;
		header->msg_name = &receiver->from[i];
		header->msg_control = &receiver->control[i];
		reset_header(receiver, i);
	}
	return receiver;
}

void gw_receiver_free(struct gw_receiver *receiver)
{
	gw_waiting_end(&receiver->waiting);
	gw_gate_end(&receiver->gate);
	munmap(receiver, sizeof(*receiver));
}

const struct gw_counters *gw_receiver_counted(const struct gw_receiver *receiver)
{
	return &receiver->counters;
}

struct gw_gate *gw_receiver_gate(struct gw_receiver *receiver)
{
	return &receiver->gate;
}

struct gw_waiting *gw_receiver_waiting(struct gw_receiver *receiver)
{
	return &receiver->waiting;
}

static void trace(const struct gw_receiver *receiver, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                  uint64_t eni, unsigned reason)
{
	gw_trace_write_in(&receiver->shared->trace, origin, data, len, eni, reason);
}

/* ---- Handing over: from frames to rings ---------------------------------------------------------------------------*/

static void touch(struct gw_receiver *receiver, struct gw_endpoint *endpoint)
{
	struct gw_ring *ring = &endpoint->ring[receiver->index];

	/* What a ring says is checked against the list that it points into, so that it need not be reset. */
	if (ring->touched >= receiver->touched || receiver->touched_endpoint[ring->touched] != endpoint) {
		ring->touched = receiver->touched++;
		receiver->touched_endpoint[ring->touched] = endpoint;
	}
}

static void drop_run(struct gw_receiver *receiver, struct gw_ring *ring, const struct gw_merge *merge)
{
	gw_count(&receiver->counters, GW_drop_ring_full, merge->count);
	atomic_fetch_add_explicit(&ring->drops, merge->count, memory_order_relaxed);
	if (!gw_tracing(&receiver->shared->trace))
		return;
	for (unsigned i = 0; i < merge->count; i++) {
		const struct frame *frame = &receiver->frame[merge->segment[i] - receiver->segment];

		trace(receiver, frame->origin, frame->geneve, frame->geneve_len + frame->packet.len,
		      frame->endpoint->eni, GW_drop_ring_full);
	}
}

/* Rings share what memory they may take: all of them, and besides those of endpoints that are not up yet. */
static bool may_wait(const struct gw_receiver *receiver, const struct gw_endpoint *endpoint, size_t len)
{
	const struct gw_endpoints *table = endpoint->table;
	uint64_t bytes = atomic_load_explicit(&table->ring_bytes, memory_order_relaxed), rings, share;

	if (!atomic_load_explicit(&endpoint->up, memory_order_relaxed) && bytes > RINGS_NOT_UP_BYTES)
		bytes = RINGS_NOT_UP_BYTES;
	rings = (uint64_t)atomic_load_explicit(&table->count, memory_order_relaxed) * receiver->shared->receivers;
	share = bytes / (rings ? rings : 1);
	if (share >= GW_RING_BYTES)
		return true;
	return gw_ring_filled(&endpoint->ring[receiver->index]) + len <= (share > RING_LEAST ? share : RING_LEAST);
}

static void publish(struct gw_receiver *receiver, struct gw_endpoint *endpoint, uint64_t now)
{
	const unsigned thread = receiver->index % receiver->shared->tunnel_threads;

	gw_ring_publish(&endpoint->ring[receiver->index], now);
	receiver->left |= !gw_relief_hand_over(&receiver->relief, &endpoint->tunnel[GW_GWI][thread],
	                                       &endpoint->tunnel[GW_GWO][thread], receiver->behind);
}

/* As many packets of a run as can be one frame: merge->count tells. */
static void write_frame(struct gw_receiver *receiver, struct gw_endpoint *endpoint, struct gw_merge *merge)
{
	struct gw_ring *ring = &endpoint->ring[receiver->index];
	size_t len = sizeof(struct gw_vnet_header) + merge->length;
	struct gw_ring_record *frame = may_wait(receiver, endpoint, len) ? gw_ring_reserve(ring, len) : NULL;
	struct gw_vnet_header vnet;
	uint8_t *out;

	if (!frame) {
		drop_run(receiver, ring, merge);
		return;
	}
	out = (uint8_t *)(frame + 1);
	gw_merge_write(merge, &vnet, out + sizeof(vnet));
	memcpy(out, &vnet, sizeof(vnet));
	frame->packets = merge->count;
	frame->bytes = 0;
	for (unsigned i = 0; i < merge->count; i++)
		frame->bytes += merge->segment[i]->len;
	gw_ring_commit(ring, frame, sizeof(vnet) + merge->length);
	receiver->written++;
	touch(receiver, endpoint);
	if (gw_ring_unpublished(ring) >= PUBLISH_BYTES)
		publish(receiver, endpoint, gw_now_ns());
}

/* What tells the groups apart: a flow in one direction, in one endpoint (the key holds its slot). */
static bool same_group(const struct frame *a, const struct frame *b)
{
	return a->keys.own.hash == b->keys.own.hash && a->keys.reversed == b->keys.reversed &&
	       memcmp(a->keys.own.word, b->keys.own.word, sizeof(a->keys.own.word)) == 0;
}

/* Chains each run to the group of the runs of its flow before it, among the frames from `from` to `to`.  The leaders of
 * groups are left in order. */
static void group_frames(struct gw_receiver *receiver, unsigned from, unsigned to)
{
	memset(receiver->group_head, 0xff, sizeof(receiver->group_head));
	for (unsigned i = from; i < to; i++) {
		struct frame *frame = &receiver->frame[i], *leader;
		uint64_t at = frame->keys.own.hash + frame->keys.reversed;
		uint16_t first;

		if (frame->follows || frame->done)
			continue;
		/* Less than half full, so that probing is short; the hash is keyed. */
		while ((first = receiver->group_head[at % GROUPS]) != NONE &&
		       !same_group(&receiver->frame[first], frame))
			at++;
		if (first == NONE) {
			receiver->group_head[at % GROUPS] = (uint16_t)i;
			continue;
		}
		leader = &receiver->frame[first];
		receiver->frame[leader->tail].next = (uint16_t)i;
		leader->tail = frame->tail;
		frame->done = true;
	}
}

static void merge_group(struct gw_receiver *receiver, unsigned first)
{
	struct gw_endpoint *endpoint = receiver->frame[first].endpoint;
	unsigned next;

	for (unsigned i = first; i != NONE; i = next) {
		struct gw_merge merge;
		unsigned joined;

		gw_merge_start(&merge, &receiver->segment[i]);
		for (next = receiver->frame[i].next; next != NONE; next = receiver->frame[next].next)
			if (!gw_merge_join(&merge, &receiver->segment[next]))
				break;
		joined = merge.count;
		write_frame(receiver, endpoint, &merge);
		if (merge.count < joined) /* a wrong checksum ended it: go on from there */
			for (next = i; merge.count > 0; merge.count--)
				next = receiver->frame[next].next;
	}
}

static void inspect(struct gw_receiver *receiver, unsigned i)
{
	const struct gw_packet *packet = &receiver->frame[i].packet;
	struct gw_segment *segment = &receiver->segment[i];
	unsigned offload = packet->protocol == IPPROTO_TCP ? GW_OFFLOAD_MERGE_TCP : GW_OFFLOAD_MERGE_UDP;

	if (receiver->frames > 1 && receiver->shared->offloads & offload)
		gw_segment_inspect(segment, packet->data, packet->len);
	else
		*segment = (struct gw_segment){ .data = packet->data, .len = packet->len };
}

static void hand_over_span(struct gw_receiver *receiver, unsigned from, unsigned to)
{
	if (to - from > 1 && receiver->shared->offloads & (GW_OFFLOAD_MERGE_TCP | GW_OFFLOAD_MERGE_UDP))
		group_frames(receiver, from, to);
	for (unsigned i = from; i < to; i++)
		if (!receiver->frame[i].follows && !receiver->frame[i].done)
			merge_group(receiver, i);
}

static void hand_over(struct gw_receiver *receiver)
{
	unsigned from = 0;

	for (unsigned i = 0; i < receiver->frames; i++)
		inspect(receiver, i);
	for (unsigned i = 0; i < receiver->frames; i++)
		if (receiver->frame[i].packet.fragment) {
			hand_over_span(receiver, from, i);
			hand_over_span(receiver, i, i + 1);
			from = i + 1;
		}
	hand_over_span(receiver, from, receiver->frames);
}

static void publish_all(struct gw_receiver *receiver)
{
	uint64_t now = gw_now_ns();

	for (unsigned i = 0; i < receiver->touched; i++)
		publish(receiver, receiver->touched_endpoint[i], now);
	receiver->touched = 0;
}

/* T threads do not interrupt others (gwlbtun/tunnel.py): those of this core need to be let in, to read what was written
 * before their queues are full.  A receiver that finds nothing to receive sleeps, and need not. */
static void give_way(struct gw_receiver *receiver)
{
	bool due = receiver->behind || receiver->kept >= FRAMES_KEPT;

	if (receiver->kept < FRAMES_ALONE && !(receiver->left && due))
		return;
	sched_yield();
	receiver->kept = 0;
	receiver->left = false;
}

/* ---- Learning -----------------------------------------------------------------------------------------------------*/

static void set_path(const struct frame *frame, struct gw_flow_path *path)
{
	path->gwlb_address = frame->origin->gwlb_address;
	path->gwlb_port = frame->origin->gwlb_port;
	path->own_address = frame->origin->own_address;
	path->header_len = frame->geneve_len;
	path->header[(frame->geneve_len - 1) / 8] = 0;
	memcpy(path->header, frame->geneve, frame->geneve_len);
}

static void drop_unlearned(struct gw_receiver *receiver, struct frame *leader, unsigned reason)
{
	gw_count(&receiver->counters, reason, leader->count);
	leader->done = true;
	if (!gw_tracing(&receiver->shared->trace))
		return;
	for (unsigned i = 0; i < leader->count; i++) {
		const struct frame *frame = leader + i;

		trace(receiver, frame->origin, frame->geneve, frame->geneve_len + frame->packet.len,
		      frame->endpoint->eni, reason);
	}
}

static void learn(struct gw_receiver *receiver, struct frame *frame, uint32_t now)
{
	struct gw_flows *flows = receiver->shared->flows;
	struct gw_flow_path path;
	unsigned reason;

	set_path(frame, &path);
	reason = gw_flows_learn(flows, &frame->keys.own, &path, now);
	if (!reason && frame->keys.has_fragment && !frame->packet.later_fragment)
		reason = gw_flows_learn(flows, &frame->keys.fragment, &path, now);
	if (reason)
		drop_unlearned(receiver, frame, reason);
}

/* Works off the frames at hand. */
static void work_off(struct gw_receiver *receiver)
{
	const struct gw_flows *flows = receiver->shared->flows;
	uint32_t now = gw_now_s();

	for (unsigned i = 0; i < receiver->frames; i++) {
		struct gw_packet_keys *keys = &receiver->frame[i].keys;

		if (receiver->frame[i].follows)
			continue;
		gw_flow_hash(flows, &keys->own);
		gw_flows_prefetch_bucket(flows, &keys->own);
		if (keys->has_fragment)
			gw_flow_hash(flows, &keys->fragment);
	}
	for (unsigned i = 0; i < receiver->frames; i++)
		if (!receiver->frame[i].follows)
			gw_flows_prefetch_entry(flows, &receiver->frame[i].keys.own);
	for (unsigned i = 0; i < receiver->frames; i++)
		if (!receiver->frame[i].follows)
			learn(receiver, &receiver->frame[i], now);
	hand_over(receiver);
	publish_all(receiver);
	receiver->kept += receiver->frames;
	receiver->worked_off += receiver->frames;
	receiver->frames = 0;
	give_way(receiver);
}

/* ---- Judging ------------------------------------------------------------------------------------------------------*/

static bool same_origin(const struct gw_origin *a, const struct gw_origin *b)
{
	return a == b || (a->gwlb_port == b->gwlb_port && a->gwlb_address == b->gwlb_address && a->own_address == b->own_address);
}

/* A packet of the same origin as the one before it, and like that in all that it was judged by, joins its run. */
static bool follow(struct gw_receiver *receiver, const struct gw_origin *origin, const uint8_t *data, uint32_t len)
{
	struct frame *frame = &receiver->frame[receiver->frames], *previous = frame - 1, *leader;

	if (receiver->frames == 0 || len < previous->geneve_len || !same_origin(previous->origin, origin) ||
	    memcmp(data, previous->geneve, previous->geneve_len) != 0 ||
	    !gw_packet_follows(&previous->packet, data + previous->geneve_len, len - previous->geneve_len,
	                       &frame->packet))
		return false;
	leader = previous->follows ? &receiver->frame[previous->tail] : previous;
	frame->endpoint = leader->endpoint;
	frame->origin = origin;
	frame->geneve = data;
	frame->geneve_len = leader->geneve_len;
	frame->follows = true;
	frame->next = NONE;
	frame->tail = (uint16_t)(leader - receiver->frame);
	previous->next = (uint16_t)receiver->frames;
	leader->tail = (uint16_t)receiver->frames++;
	leader->count++;
	if (gw_tracing(&receiver->shared->trace))
		trace(receiver, origin, data, len, leader->endpoint->eni, 0);
	return true;
}

/* Drops the packet that has waited longest. */
static void drop_oldest(struct gw_receiver *receiver)
{
	const struct gw_waiting_packet *packet = gw_waiting_oldest(&receiver->waiting);
	unsigned reason = gw_admission_refusal(receiver->admission);

	gw_count(&receiver->counters, reason, 1);
	if (gw_tracing(&receiver->shared->trace))
		trace(receiver, &packet->origin, packet->data, packet->len, gw_waiting_eni(&receiver->waiting, packet), reason);
	gw_waiting_drop_oldest(&receiver->waiting);
}

/* Has a packet wait for an endpoint to be made. */
static void wait_for_endpoint(struct gw_receiver *receiver, uint64_t eni, const struct gw_origin *origin, const uint8_t *data,
                              uint32_t len)
{
	while (!gw_waiting_has_room(&receiver->waiting, eni, len))
		drop_oldest(receiver);
	gw_waiting_add(&receiver->waiting, eni, origin, data, len, gw_now_ns());
	gw_admission_announce(receiver->admission, &receiver->waiting, eni);
}

/* Judges a Geneve packet: it becomes a frame, waits or is dropped.  waited: it comes out of the waiting room. */
static void take_packet(struct gw_receiver *receiver, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                        bool waited)
{
	struct frame *frame = &receiver->frame[receiver->frames];
	struct gw_geneve geneve = { .eni = 0 };
	unsigned reason;

	if (follow(receiver, origin, data, len))
		return;
	reason = gw_geneve_parse(data, len, &geneve);
	if (!reason)
		reason = gw_packet_parse(data + geneve.header_len, len - geneve.header_len, geneve.family,
		                         &frame->packet);
	if (!reason) {
		frame->endpoint = gw_endpoints_find(receiver->endpoints, geneve.eni);
		if (waited) {
			/* It may be gone again. */
			reason = frame->endpoint ? 0 : GW_drop_endpoint_refused;
		} else if (!frame->endpoint && !gw_admission_allows(receiver->admission, geneve.eni)) {
			reason = GW_drop_endpoint_not_allowed;
		} else if (!frame->endpoint || gw_waiting_has(&receiver->waiting, geneve.eni)) {
			/* Even where an endpoint has just been published: behind those that wait already. */
			wait_for_endpoint(receiver, geneve.eni, origin, data, len);
			return;
		}
	}
	if (gw_tracing(&receiver->shared->trace))
		trace(receiver, origin, data, len, geneve.eni, reason);
	if (reason) {
		gw_count(&receiver->counters, reason, 1);
		return;
	}
	frame->origin = origin;
	frame->geneve = data;
	frame->geneve_len = geneve.header_len;
	frame->follows = frame->done = false;
	frame->next = NONE;
	frame->tail = (uint16_t)receiver->frames;
	frame->count = 1;
	gw_packet_keys(&frame->packet, frame->endpoint->slot, &frame->keys);
	receiver->frames++;
}

/* Takes the packets of endpoints that have been published since the last look out of the waiting room. */
static void end_waiting(struct gw_receiver *receiver)
{
	struct gw_waiting *waiting = &receiver->waiting;

	for (unsigned i = 0; i < GW_PARTIES; i++) {
		const struct gw_waiting_packet *packet;

		if (waiting->party[i].packets == 0 || !gw_endpoints_find(receiver->endpoints, waiting->party[i].eni))
			continue;
		while ((packet = gw_waiting_take(waiting, i)) != NULL) {
			if (receiver->frames == FRAMES)
				work_off(receiver);
			take_packet(receiver, &packet->origin, packet->data, packet->len, true);
		}
	}
	work_off(receiver);
}

/* Called while anything waits. */
static void look_after_waiting(struct gw_receiver *receiver)
{
	unsigned publications = atomic_load(&receiver->endpoints->publications);
	uint64_t now = gw_now_ns();
	const struct gw_waiting_packet *packet;

	if (publications != receiver->publications) {
		receiver->publications = publications;
		gw_gate_go_in(&receiver->gate);
		end_waiting(receiver);
		gw_gate_go_out(&receiver->gate);
	}
	while ((packet = gw_waiting_oldest(&receiver->waiting)) != NULL && now - packet->came_ns > WAIT_NS)
		drop_oldest(receiver);
}

/* ---- Receiving ----------------------------------------------------------------------------------------------------*/

static void read_control(struct gw_receiver *receiver, unsigned i)
{
	struct msghdr *header = &receiver->header[i].msg_hdr;
	struct message *message = &receiver->message[i];

	message->origin = (struct gw_origin){ .gwlb_address = receiver->from[i].sin_addr.s_addr,
		                              .gwlb_port = ntohs(receiver->from[i].sin_port) };
	message->destination = message->interface = 0;
	message->size = receiver->header[i].msg_len;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
			message->origin.own_address = info.ipi_spec_dst.s_addr;
			message->destination = info.ipi_addr.s_addr;
			message->interface = (uint32_t)info.ipi_ifindex;
		} else if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_GRO) {
			int size;

			memcpy(&size, CMSG_DATA(cmsg), sizeof(size));
			if (size > 0)
				message->size = (uint32_t)size;
		}
	}
}

/* Takes the datagrams that are there, blocking for the first.  Their number; 0 to try again; -errno. */
static int receive(struct gw_receiver *receiver, int flags)
{
	int received;

	/* What the kernel wrote there last time. */
	for (unsigned i = 0; i < receiver->messages; i++)
		reset_header(receiver, i);
	receiver->messages = receiver->at_message = 0;
	received = recvmmsg(receiver->fd, receiver->header, receiver->wanted, flags, NULL);
	if (received >= 0)
		return received;
	switch (errno) {
	case EBADF:
	case ENOTSOCK:
	case EFAULT:
	case EINVAL:
		return -errno;
	case EINTR:
		return 0;
	case EAGAIN:
		return flags & MSG_DONTWAIT ? -EAGAIN : 0;
	default:
		/* Out of memory, say: not for ever, and no reason to spin. */
		gw_count(&receiver->counters, GW_receive_errors, 1);
		usleep(1000);
		return 0;
	}
}

/* What is to be known of a batch before it is worked off. */
static void take_batch(struct gw_receiver *receiver)
{
	bool merged = receiver->written < receiver->worked_off - receiver->worked_off / 16;
	uint64_t most = merged ? BATCH : BATCH_UNMERGED, bytes = 1, wanted;

	for (unsigned i = 0; i < receiver->messages; i++) {
		read_control(receiver, i);
		bytes += receiver->header[i].msg_len;
	}
	receiver->behind = receiver->messages == receiver->wanted;
	wanted = (uint64_t)BATCH_BYTES * receiver->messages / bytes;
	receiver->wanted = (unsigned)(wanted > most ? most : wanted < BATCH_LEAST ? BATCH_LEAST : wanted);
	receiver->worked_off = receiver->written = 0;
}

/* Drops the datagram at hand with all packets in it. */
static void drop_datagram(struct gw_receiver *receiver, unsigned reason)
{
	const unsigned i = receiver->at_message;
	const uint32_t len = receiver->header[i].msg_len, size = receiver->message[i].size;
	uint32_t at = 0;

	do {
		const uint32_t packet = len - at < size ? len - at : size;

		gw_count(&receiver->counters, reason, 1);
		gw_count(&receiver->counters, GW_packets_in, 1);
		if (gw_tracing(&receiver->shared->trace))
			trace(receiver, &receiver->message[i].origin, receiver->data[i] + at, packet, 0, reason);
		at += packet;
	} while (at < len);
	gw_count(&receiver->counters, GW_bytes_in, len);
}

/* Whether the datagram at hand may come from where it came from; if not, it has been dropped. */
static bool let_in(struct gw_receiver *receiver)
{
	const struct message *message = &receiver->message[receiver->at_message];
	const struct gw_source source = { .address = message->origin.gwlb_address,
		                          .destination = message->destination,
		                          .own_address = message->origin.own_address,
		                          .interface = message->interface };
	unsigned reason = gw_judge_source(&receiver->judge, &source);

	if (reason)
		drop_datagram(receiver, reason);
	return reason == 0;
}

/* Works off the batch at hand. */
static void work_off_batch(struct gw_receiver *receiver)
{
	while (receiver->at_message < receiver->messages) {
		const struct message *message = &receiver->message[receiver->at_message];
		const struct mmsghdr *header = &receiver->header[receiver->at_message];
		uint32_t rest = header->msg_len - receiver->at_byte;
		uint32_t len = rest < message->size ? rest : message->size;

		if (receiver->at_byte == 0 && !let_in(receiver)) {
			receiver->at_message++;
			continue;
		}
		if (receiver->frames == FRAMES)
			work_off(receiver);
		if (header->msg_hdr.msg_flags & MSG_TRUNC) {
			gw_count(&receiver->counters, GW_drop_datagram_truncated, 1);
			len = rest;
		} else {
			gw_count(&receiver->counters, GW_packets_in, 1);
			gw_count(&receiver->counters, GW_bytes_in, len);
			take_packet(receiver, &message->origin, receiver->data[receiver->at_message] + receiver->at_byte, len,
			            false);
		}
		receiver->at_byte += len;
		if (receiver->at_byte >= header->msg_len) {
			receiver->at_message++;
			receiver->at_byte = 0;
		}
	}
	work_off(receiver);
}

/* Once a receiver is to stop, it goes on until its socket is empty, or DRAIN_NS if that never happens. */
static bool drained_long_enough(struct gw_receiver *receiver)
{
	uint64_t now = gw_now_ns();

	if (receiver->stop_ns == 0)
		receiver->stop_ns = now;
	return now - receiver->stop_ns > DRAIN_NS;
}

static void set_up(struct gw_receiver *receiver, int fd)
{
	int none = -1, copy;

	receiver->fd = fd;
	if (atomic_load(&receiver->shared->outlets.receive_fd) >= 0)
		return;
	/* What leaves from port 6081 itself needs a receiver's socket: a copy, so that it stays that one for as long as anyone
	 * sends. */
	gw_transmit_set_options(fd);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy >= 0 && !atomic_compare_exchange_strong(&receiver->shared->outlets.receive_fd, &none, copy))
		close(copy);
}

/* Takes the next batch, if there is one: 0, GW_STOPPED or -errno. */
static int next_batch(struct gw_receiver *receiver)
{
	bool stop = atomic_load_explicit(&receiver->shared->stop, memory_order_relaxed);
	bool on_duty = gw_relief_on_duty(&receiver->relief), waiting = gw_waiting_any(&receiver->waiting);
	bool polls = on_duty || waiting;
	int received;

	if (stop && drained_long_enough(receiver))
		return GW_STOPPED;
	if (polls && !gw_relief_wait(&receiver->relief, receiver->fd, stop ? 0 : waiting ? WAIT_LOOK_MS : -1) && !stop)
		return 0;
	received = receive(receiver, stop || polls ? MSG_DONTWAIT : MSG_WAITFORONE);
	if (received < 0)
		return received != -EAGAIN ? received : stop ? GW_STOPPED : 0;
	/* A socket shut down for reading gives an empty datagram from nobody first: time to look at stop. */
	receiver->messages = (unsigned)received;
	receiver->at_message = received > 0 && receiver->header[0].msg_hdr.msg_namelen == 0;
	receiver->at_byte = 0;
	if (receiver->at_message < receiver->messages) {
		take_batch(receiver);
		gw_count(&receiver->counters, GW_batches, 1);
	}
	return 0;
}

int gw_receiver_work(struct gw_receiver *receiver, int fd)
{
	int status;

	gw_count(&receiver->counters, GW_entries, 1);
	if (receiver->fd != fd)
		set_up(receiver, fd);
	do {
		if (gw_waiting_any(&receiver->waiting))
			look_after_waiting(receiver);
		status = next_batch(receiver);
		if (status || receiver->at_message == receiver->messages)
			continue;
		gw_set(&receiver->counters, GW_last_in_ns, gw_now_ns());
		gw_gate_go_in(&receiver->gate);
		gw_judge_begin(&receiver->judge, atomic_load(&receiver->shared->sources));
		work_off_batch(receiver);
		gw_gate_go_out(&receiver->gate);
	} while (!status);
	while (gw_waiting_oldest(&receiver->waiting))
		drop_oldest(receiver);
	gw_relief_leave(&receiver->relief);
	return status;
}
