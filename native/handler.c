/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.c - the handler and its endpoints: made, published, unpublished and freed by control threads.
 *
 * Theory of operation: handler.h tells how U threads read the table of endpoints while it changes.  Nothing here is on
 * the path of a packet but gw_endpoint_find().
 */
#include "handler.h"
#include "bell.h"
#include "relief.h"
#include "source.h"
#include "transmit.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

const char *gw_build_id(void)
{
	return GW_BUILD_ID;
}

/* Each connected socket may hold a port that nobody else on the host can have then: well over half of the 28,232 that
 * Linux gives to clients (ip_local_port_range) must stay free, for DNS to begin with. */
#define SOCKETS_MAX 8192

/* Connected sockets may take half of the descriptors; TUN queues, hooks and the rest have the other. */
static int64_t socket_budget(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur / 2 > SOCKETS_MAX)
		return SOCKETS_MAX;
	return (int64_t)limit.rlim_cur / 2;
}

/* ---- The handler --------------------------------------------------------------------------------------------------*/

struct gw_handler *gw_handler_new(unsigned receivers, unsigned tunnel_threads, unsigned max_endpoints,
                                  unsigned max_flows, unsigned idle_s, unsigned offloads, int raw_fd)
{
	struct gw_handler *handler;

	if (!receivers || !tunnel_threads || !max_endpoints || max_endpoints > GW_SLOTS_MAX || !idle_s) {
		errno = EINVAL;
		return NULL;
	}
	handler = aligned_alloc(64, (sizeof(*handler) + 63) & ~(size_t)63);
	if (!handler)
		return NULL;
	memset(handler, 0, sizeof(*handler));
	handler->receivers = receivers;
	handler->tunnel_threads = tunnel_threads;
	handler->max_endpoints = max_endpoints;
	handler->idle_s = idle_s;
	handler->offloads = offloads;
	handler->raw_fd = raw_fd;
	if (raw_fd >= 0)
		gw_transmit_prepare(raw_fd);
	handler->control_bell = gw_bell_new();
	atomic_init(&handler->ring_bytes, UINT64_MAX);
	atomic_init(&handler->receive_fd, -1);
	atomic_init(&handler->sockets_left, socket_budget());
	handler->flows = gw_flows_new(max_flows, max_endpoints);
	handler->receiver = calloc(receivers, sizeof(struct gw_receiver *));
	handler->slots_used = calloc((max_endpoints + 63) / 64, sizeof(uint64_t));
	if (handler->control_bell < 0 || !handler->flows || !handler->receiver || !handler->slots_used ||
	    getrandom(&handler->multiplier, sizeof(handler->multiplier), 0) != sizeof(handler->multiplier))
		goto failed;
	handler->multiplier |= 1;
	for (unsigned i = 0; i < receivers; i++) {
		handler->receiver[i] = gw_receiver_new(handler, i);
		if (!handler->receiver[i])
			goto failed;
	}
	return handler;
failed:
	gw_handler_free(handler);
	return NULL;
}

void gw_handler_free(struct gw_handler *handler)
{
	int error = errno;

	if (handler->receiver)
		for (unsigned i = 0; i < handler->receivers; i++)
			if (handler->receiver[i])
				gw_receiver_free(handler->receiver[i]);
	if (handler->flows)
		gw_flows_free(handler->flows);
	if (handler->control_bell >= 0)
		close(handler->control_bell);
	if (atomic_load(&handler->receive_fd) >= 0)
		close(atomic_load(&handler->receive_fd));
	gw_trace_end(&handler->trace);
	gw_sources_free(atomic_load(&handler->sources));
	free(handler->allowed);
	free(handler->receiver);
	free(handler->slots_used);
	free(handler);
	errno = error;
}

void gw_handler_limit_rings(struct gw_handler *handler, uint64_t bytes)
{
	atomic_store(&handler->ring_bytes, bytes);
}

void gw_handler_set_full(struct gw_handler *handler, int full)
{
	atomic_store(&handler->full, full != 0);
}

void gw_handler_call_control(struct gw_handler *handler)
{
	if (atomic_load(&handler->control_sleeps) && atomic_exchange(&handler->control_sleeps, false))
		gw_bell_ring(handler->control_bell);
}

static unsigned hear(struct gw_handler *handler, uint64_t *eni, unsigned most)
{
	unsigned heard = 0;

	for (unsigned i = 0; i < handler->receivers; i++) {
		struct gw_receiver *receiver = handler->receiver[(handler->listen_next + i) % handler->receivers];

		while (heard < most && gw_receiver_hear(receiver, &eni[heard]))
			heard++;
	}
	handler->listen_next = (handler->listen_next + 1) % handler->receivers;
	return heard;
}

unsigned gw_handler_listen(struct gw_handler *handler, uint64_t *eni, unsigned most, int timeout_ms)
{
	struct pollfd bell = { .fd = handler->control_bell, .events = POLLIN };
	unsigned heard = hear(handler, eni, most);

	if (heard > 0)
		return heard;
	atomic_store(&handler->control_sleeps, true);
	heard = hear(handler, eni, most);
	if (heard == 0 && poll(&bell, 1, timeout_ms) > 0) {
		gw_bell_silence(handler->control_bell);
		heard = hear(handler, eni, most);
	}
	atomic_store(&handler->control_sleeps, false);
	return heard;
}

void gw_handler_stop(struct gw_handler *handler)
{
	atomic_store(&handler->stop, true);
}

uint64_t gw_handler_expire(struct gw_handler *handler)
{
	return gw_flows_expire(handler->flows, gw_now_s(), handler->idle_s);
}

uint64_t gw_handler_flow_entries(const struct gw_handler *handler)
{
	return gw_flows_entries(handler->flows);
}

const uint64_t *gw_receiver_counters(const struct gw_handler *handler, unsigned receiver)
{
	return (const uint64_t *)gw_receiver_count(handler->receiver[receiver])->value;
}

unsigned gw_trace_record_size(void)
{
	return sizeof(struct gw_trace_record);
}

int gw_trace_set(struct gw_handler *handler, unsigned level)
{
	return gw_trace_enable(&handler->trace, level);
}

int gw_trace_read(struct gw_handler *handler, struct gw_trace_record *record)
{
	return gw_trace_take(&handler->trace, record);
}

uint64_t gw_trace_lost(const struct gw_handler *handler)
{
	return atomic_load_explicit(&handler->trace.lost, memory_order_relaxed);
}

/* ---- Whom to receive from ------------------------------------------------------------------------------------------*/

int gw_sources_set(struct gw_handler *handler, const struct gw_source_range *range, unsigned ranges,
                   const uint32_t *interface, unsigned interfaces, int uplinks, struct gw_sources **old)
{
	struct gw_sources *sources = gw_sources_new(range, ranges, interface, interfaces, uplinks);

	if (!sources)
		return -errno;
	*old = atomic_exchange(&handler->sources, sources);
	return 0;
}

void gw_sources_retire(struct gw_handler *handler, struct gw_sources *old)
{
	for (unsigned i = 0; old && i < handler->receivers; i++)
		gw_receiver_await_batch(handler->receiver[i]);
	gw_sources_free(old);
}

int gw_endpoints_allow(struct gw_handler *handler, const uint64_t *eni, unsigned enis)
{
	handler->allowed = calloc(enis ? enis : 1, sizeof(*eni));
	if (!handler->allowed)
		return -errno;
	for (unsigned i = 0; i < enis; i++)
		handler->allowed[i] = eni[i];
	handler->allowed_count = enis;
	return 0;
}

static int compare_enis(const void *a, const void *b)
{
	const uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

	return (one > other) - (one < other);
}

bool gw_endpoint_allowed(const struct gw_handler *handler, uint64_t eni)
{
	return !handler->allowed ||
	       bsearch(&eni, handler->allowed, handler->allowed_count, sizeof(eni), compare_enis) != NULL;
}

/* ---- The table of endpoints ---------------------------------------------------------------------------------------*/

/* Multiply and shift by an odd number that nobody knows, so that who invents ENI IDs cannot aim at one bucket. */
static unsigned bucket_of(const struct gw_handler *handler, uint64_t eni)
{
	return (unsigned)(eni * handler->multiplier >> 32 >> (32 - GW_ENDPOINT_BUCKETS_SHIFT));
}

struct gw_endpoint *gw_endpoint_find(const struct gw_handler *handler, uint64_t eni)
{
	struct gw_endpoint *endpoint = atomic_load(&handler->bucket[bucket_of(handler, eni)]);

	while (endpoint && endpoint->eni != eni)
		endpoint = atomic_load(&endpoint->next);
	return endpoint;
}

void gw_endpoint_publish(struct gw_endpoint *endpoint)
{
	_Atomic(struct gw_endpoint *) *head = &endpoint->handler->bucket[bucket_of(endpoint->handler, endpoint->eni)];

	if (endpoint->published)
		return;
	endpoint->published = true;
	atomic_store(&endpoint->next, atomic_load(head));
	atomic_store(head, endpoint);
	/* Receivers put a packet into their waiting room, and then look at the number: one side sees the other. */
	atomic_fetch_add(&endpoint->handler->publications, 1);
	for (unsigned i = 0; i < endpoint->handler->receivers; i++)
		gw_receiver_tell_published(endpoint->handler->receiver[i]);
}

void gw_endpoint_unpublish(struct gw_endpoint *endpoint)
{
	struct gw_handler *handler = endpoint->handler;
	_Atomic(struct gw_endpoint *) *link = &handler->bucket[bucket_of(handler, endpoint->eni)];

	if (!endpoint->published)
		return;
	endpoint->published = false;
	while (atomic_load(link) != endpoint)
		link = &atomic_load(link)->next;
	atomic_store(link, atomic_load(&endpoint->next));
	for (unsigned i = 0; i < handler->receivers; i++)
		gw_receiver_quiesce(handler->receiver[i]);
}

/* ---- Endpoints ----------------------------------------------------------------------------------------------------*/

static size_t ring_memory_size(const struct gw_handler *handler)
{
	return (size_t)handler->receivers * GW_RING_BYTES;
}

static int take_slot(struct gw_handler *handler)
{
	for (unsigned slot = 0; slot < handler->max_endpoints; slot++)
		if (!(handler->slots_used[slot / 64] >> slot % 64 & 1)) {
			handler->slots_used[slot / 64] |= 1ull << slot % 64;
			atomic_fetch_add(&handler->endpoints, 1);
			return (int)slot;
		}
	return -1;
}

static void give_slot(struct gw_handler *handler, unsigned slot)
{
	handler->slots_used[slot / 64] &= ~(1ull << slot % 64);
	atomic_fetch_sub(&handler->endpoints, 1);
}

/* Memory and descriptors; what is missing on failure is seen by dismantle(). */
static bool equip(struct gw_endpoint *endpoint)
{
	const struct gw_handler *handler = endpoint->handler;
	size_t tunnels = handler->tunnel_threads * sizeof(struct gw_tunnel);
	size_t rings = handler->receivers * sizeof(struct gw_ring);

	endpoint->ring_memory = mmap(NULL, ring_memory_size(handler), PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (endpoint->ring_memory == MAP_FAILED) {
		endpoint->ring_memory = NULL;
		return false;
	}
	endpoint->ring = aligned_alloc(64, rings);
	if (!endpoint->ring)
		return false;
	memset(endpoint->ring, 0, rings);
	for (unsigned i = 0; i < handler->receivers; i++)
		endpoint->ring[i].bytes = endpoint->ring_memory + (size_t)i * GW_RING_BYTES;
	for (unsigned side = GW_GWI; side <= GW_GWO; side++) {
		endpoint->tunnel[side] = aligned_alloc(64, tunnels);
		if (!endpoint->tunnel[side])
			return false;
		memset(endpoint->tunnel[side], 0, tunnels);
		for (unsigned i = 0; i < handler->tunnel_threads; i++)
			endpoint->tunnel[side][i].bell = -1;
		for (unsigned i = 0; i < handler->tunnel_threads; i++) {
			struct gw_tunnel *tunnel = &endpoint->tunnel[side][i];

			tunnel->endpoint = endpoint;
			tunnel->side = side;
			tunnel->index = i;
			tunnel->answers = true;
			tunnel->bell = gw_bell_new();
			if (tunnel->bell < 0)
				return false;
		}
	}
	return true;
}

/* Memory, descriptors and slot of an endpoint that may lack any of them but the last. */
static void dismantle(struct gw_endpoint *endpoint)
{
	struct gw_handler *handler = endpoint->handler;

	for (unsigned side = GW_GWI; side <= GW_GWO; side++) {
		for (unsigned i = 0; endpoint->tunnel[side] && i < handler->tunnel_threads; i++)
			if (endpoint->tunnel[side][i].bell >= 0)
				close(endpoint->tunnel[side][i].bell);
		free(endpoint->tunnel[side]);
	}
	free(endpoint->ring);
	if (endpoint->ring_memory)
		munmap(endpoint->ring_memory, ring_memory_size(handler));
	give_slot(handler, endpoint->slot);
	free(endpoint);
}

struct gw_endpoint *gw_endpoint_new(struct gw_handler *handler, uint64_t eni)
{
	struct gw_endpoint *endpoint;
	int slot = take_slot(handler);

	if (slot < 0) {
		errno = ENOSPC;
		return NULL;
	}
	endpoint = calloc(1, sizeof(*endpoint));
	if (!endpoint) {
		give_slot(handler, (unsigned)slot);
		return NULL;
	}
	endpoint->handler = handler;
	endpoint->eni = eni;
	endpoint->slot = (unsigned)slot;
	endpoint->made_ns = gw_now_ns();
	if (!equip(endpoint)) {
		int error = errno;

		dismantle(endpoint);
		errno = error;
		return NULL;
	}
	gw_endpoint_publish(endpoint);
	return endpoint;
}

void gw_endpoint_forget(struct gw_endpoint *endpoint)
{
	gw_flows_forget(endpoint->handler->flows, endpoint->slot);
}

void gw_endpoint_free(struct gw_endpoint *endpoint)
{
	dismantle(endpoint);
}

void gw_endpoint_stop(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->stop, true);
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->handler->tunnel_threads; i++)
			gw_duty_recall(&endpoint->tunnel[side][i]);
}

void gw_endpoint_open(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->up, true);
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->handler->tunnel_threads; i++)
			gw_duty_vacate(&endpoint->tunnel[side][i]);
}

void gw_endpoint_close(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->up, false);
	atomic_store(&endpoint->stop, false);
}

void gw_endpoint_age(struct gw_endpoint *endpoint)
{
	const uint64_t then = gw_now_ns() - GW_TRANSMIT_IDLE_S * 1000000000ull;

	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->handler->tunnel_threads; i++) {
			struct gw_tunnel *tunnel = &endpoint->tunnel[side][i];

			if (atomic_load_explicit(&tunnel->sockets_open, memory_order_relaxed) &&
			    gw_get(&tunnel->counters, GW_last_sent_ns) <= then)
				gw_duty_recall(tunnel); /* it closes them before it sleeps again */
		}
}

uint64_t gw_endpoint_last_ns(const struct gw_endpoint *endpoint)
{
	uint64_t last = endpoint->made_ns;

	for (unsigned i = 0; i < endpoint->handler->receivers; i++) {
		uint64_t at = atomic_load_explicit(&endpoint->ring[i].last_ns, memory_order_relaxed);

		last = at > last ? at : last;
	}
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->handler->tunnel_threads; i++) {
			uint64_t at = gw_get(&endpoint->tunnel[side][i].counters, GW_last_sent_ns);

			last = at > last ? at : last;
		}
	return last;
}

uint64_t gw_endpoint_ring_drops(const struct gw_endpoint *endpoint)
{
	uint64_t drops = 0;

	for (unsigned i = 0; i < endpoint->handler->receivers; i++)
		drops += atomic_load_explicit(&endpoint->ring[i].drops, memory_order_relaxed);
	return drops;
}

uint64_t gw_endpoint_ring_bytes(const struct gw_endpoint *endpoint)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < endpoint->handler->receivers; i++)
		bytes += gw_ring_waiting(&endpoint->ring[i]);
	return bytes;
}

uint64_t gw_endpoint_flows(const struct gw_endpoint *endpoint, unsigned family)
{
	return gw_flows_count(endpoint->handler->flows, endpoint->slot, family);
}

uint64_t gw_endpoint_flows_timed_out(const struct gw_endpoint *endpoint, unsigned family)
{
	return gw_flows_timed_out(endpoint->handler->flows, endpoint->slot, family);
}

uint64_t gw_endpoint_flows_evicted(const struct gw_endpoint *endpoint, unsigned family)
{
	return gw_flows_evicted(endpoint->handler->flows, endpoint->slot, family);
}

int gw_tunnel_bell(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return endpoint->tunnel[side][thread].bell;
}

int gw_tunnel_has_frames(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return !gw_tunnel_rings_empty(&endpoint->tunnel[side][thread]);
}

const uint64_t *gw_tunnel_counters(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return (const uint64_t *)endpoint->tunnel[side][thread].counters.value;
}
