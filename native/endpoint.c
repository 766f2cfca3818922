/* SPDX-License-Identifier: MIT-0 */
/*
 * endpoint.c - an endpoint, and the table of endpoints; endpoint.h tells how U threads read the table while it changes.
 *
 * The functions stand in the order of an endpoint's life: made, published, found by packets, opened to Linux, looked at,
 * stopped, unpublished, freed.  All but gw_endpoints_find() and gw_tunnel_run() are called by control threads, and none but
 * these two is on the path of a packet.
 */
#include "endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bell.h"
#include "clock.h"
#include "flow.h"
#include "waiting.h"

static struct gw_endpoint *make(struct gw_endpoints *table, uint64_t eni, unsigned slot, uint64_t made_ns);
static int free_slot(const struct gw_endpoints *table);
static bool is_used(const struct gw_endpoints *table, unsigned slot);
static void take_slot(struct gw_endpoints *table, unsigned slot);
static bool equip(struct gw_endpoint *endpoint);
static size_t ring_memory_size(const struct gw_endpoint *endpoint);
static bool equip_tunnels(struct gw_endpoint *endpoint, unsigned side);
static bool equip_tunnel(struct gw_endpoint *endpoint, unsigned side, unsigned index);
static unsigned bucket_of(const struct gw_endpoints *table, uint64_t eni);
static void drop_rings(struct gw_endpoint *endpoint);
static void dismantle(struct gw_endpoint *endpoint);
static void give_slot(struct gw_endpoints *table, unsigned slot);

bool gw_endpoints_begin(struct gw_endpoints *table, struct gw_shared *shared, unsigned max)
{
	table->shared = shared;
	table->max = max;
	atomic_init(&table->ring_bytes, UINT64_MAX);
	table->slots_used = calloc((max + 63) / 64, sizeof(uint64_t));
	return table->slots_used != NULL;
}

void gw_endpoints_end(struct gw_endpoints *table)
{
	free(table->slots_used);
}

/* ---- Made --------------------------------------------------------------------------------------------------------*/

struct gw_endpoint *gw_endpoints_add(struct gw_endpoints *table, uint64_t eni)
{
	int slot = free_slot(table);

	if (slot < 0) {
		errno = ENOSPC;
		return NULL;
	}
	return make(table, eni, (unsigned)slot, gw_now_ns());
}

struct gw_endpoint *gw_endpoints_adopt(struct gw_endpoints *table, uint64_t eni, unsigned slot, uint64_t made_ns)
{
	if (slot >= table->max || is_used(table, slot) || gw_endpoints_find(table, eni)) {
		errno = EINVAL;
		return NULL;
	}
	return make(table, eni, slot, made_ns);
}

static struct gw_endpoint *make(struct gw_endpoints *table, uint64_t eni, unsigned slot, uint64_t made_ns)
{
	struct gw_endpoint *endpoint = calloc(1, sizeof(*endpoint));

	if (!endpoint)
		return NULL;
	take_slot(table, slot);
	endpoint->table = table;
	endpoint->eni = eni;
	endpoint->slot = slot;
	endpoint->made_ns = made_ns;
	if (!equip(endpoint)) {
		int error = errno;

		dismantle(endpoint);
		errno = error;
		return NULL;
	}
	gw_endpoint_publish(endpoint);
	return endpoint;
}

static int free_slot(const struct gw_endpoints *table)
{
	for (unsigned slot = 0; slot < table->max; slot++)
		if (!is_used(table, slot))
			return (int)slot;
	return -1;
}

static bool is_used(const struct gw_endpoints *table, unsigned slot)
{
	return table->slots_used[slot / 64] >> slot % 64 & 1;
}

static void take_slot(struct gw_endpoints *table, unsigned slot)
{
	table->slots_used[slot / 64] |= 1ull << slot % 64;
	atomic_fetch_add(&table->count, 1);
}

/* Acquires memory and descriptors.  On failure, dismantle() sees what is missing. */
static bool equip(struct gw_endpoint *endpoint)
{
	const unsigned receivers = endpoint->table->shared->receivers;
	const size_t rings = receivers * sizeof(struct gw_ring);

	endpoint->ring_memory = mmap(NULL, ring_memory_size(endpoint), PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (endpoint->ring_memory == MAP_FAILED) {
		endpoint->ring_memory = NULL;
		return false;
	}
	endpoint->ring = aligned_alloc(64, rings);
	if (!endpoint->ring)
		return false;
	memset(endpoint->ring, 0, rings);
	for (unsigned i = 0; i < receivers; i++)
		endpoint->ring[i].bytes = endpoint->ring_memory + (size_t)i * GW_RING_BYTES;
	return equip_tunnels(endpoint, GW_GWI) && equip_tunnels(endpoint, GW_GWO);
}

static size_t ring_memory_size(const struct gw_endpoint *endpoint)
{
	return (size_t)endpoint->table->shared->receivers * GW_RING_BYTES;
}

static bool equip_tunnels(struct gw_endpoint *endpoint, unsigned side)
{
	const unsigned threads = endpoint->table->shared->tunnel_threads;
	const size_t size = threads * sizeof(struct gw_tunnel);

	endpoint->tunnel[side] = aligned_alloc(64, size);
	if (!endpoint->tunnel[side])
		return false;
	memset(endpoint->tunnel[side], 0, size);
	for (unsigned i = 0; i < threads; i++)
		endpoint->tunnel[side][i].duty.bell = -1;
	for (unsigned i = 0; i < threads; i++)
		if (!equip_tunnel(endpoint, side, i))
			return false;
	return true;
}

static bool equip_tunnel(struct gw_endpoint *endpoint, unsigned side, unsigned index)
{
	struct gw_shared *shared = endpoint->table->shared;
	const unsigned threads = shared->tunnel_threads;
	struct gw_tunnel *tunnel = &endpoint->tunnel[side][index];

	tunnel->shared = shared;
	tunnel->eni = endpoint->eni;
	tunnel->slot = endpoint->slot;
	tunnel->side = side;
	tunnel->writers = &endpoint->writers;
	tunnel->answers = true;
	tunnel->duty.stop = &endpoint->stop;
	tunnel->duty.gate = shared->gate;
	/* Gives a T thread of gwi the rings of receivers index, index + threads, and so on.  One of gwo has none. */
	tunnel->duty.stride = threads;
	if (side == GW_GWI && index < shared->receivers) {
		tunnel->duty.ring = &endpoint->ring[index];
		tunnel->duty.rings = (shared->receivers - index + threads - 1) / threads;
	}
	tunnel->duty.bell = gw_bell_new();
	return tunnel->duty.bell >= 0;
}

/* ---- Adopted -----------------------------------------------------------------------------------------------------*/

unsigned gw_endpoint_slot(const struct gw_endpoint *endpoint)
{
	return endpoint->slot;
}

void gw_endpoint_resume(struct gw_endpoint *endpoint, uint64_t last_ns, uint64_t ring_drops, uint64_t flow_drops)
{
	struct gw_ring *ring = &endpoint->ring[0];

	atomic_store(&ring->last_ns, last_ns);
	atomic_store(&ring->drops, ring_drops);
	atomic_store(&ring->unlearned, flow_drops);
}

uint64_t gw_endpoints_forget_strays(struct gw_endpoints *table)
{
	return gw_flows_forget_others(table->shared->flows, table->slots_used);
}

/* ---- Published ---------------------------------------------------------------------------------------------------*/

void gw_endpoint_publish(struct gw_endpoint *endpoint)
{
	struct gw_endpoints *table = endpoint->table;
	_Atomic(struct gw_endpoint *) *head = &table->bucket[bucket_of(table, endpoint->eni)];

	if (endpoint->published)
		return;
	endpoint->published = true;
	atomic_store(&endpoint->next, atomic_load(head));
	atomic_store(head, endpoint);
	/* Receivers put a packet into their waiting room, and then look at the number: one side sees the other. */
	atomic_fetch_add(&table->publications, 1);
	for (unsigned i = 0; i < table->shared->receivers; i++)
		if (atomic_load(&table->shared->waiting[i]->packets) > 0)
			gw_gate_ring(table->shared->gate[i]);
}

/* Multiply and shift by an odd number that nobody knows: a sender that invents ENI IDs cannot aim at one bucket. */
static unsigned bucket_of(const struct gw_endpoints *table, uint64_t eni)
{
	return (unsigned)(eni * table->shared->multiplier >> 32 >> (32 - GW_ENDPOINT_BUCKETS_SHIFT));
}

struct gw_endpoint *gw_endpoints_find(const struct gw_endpoints *table, uint64_t eni)
{
	struct gw_endpoint *endpoint = atomic_load(&table->bucket[bucket_of(table, eni)]);

	while (endpoint && endpoint->eni != eni)
		endpoint = atomic_load(&endpoint->next);
	return endpoint;
}

/* ---- Opened: its T threads ---------------------------------------------------------------------------------------*/

void gw_endpoint_open(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->up, true);
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->table->shared->tunnel_threads; i++)
			gw_duty_vacate(&endpoint->tunnel[side][i].duty);
}

int gw_tunnel_bell(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return endpoint->tunnel[side][thread].duty.bell;
}

int gw_tunnel_has_frames(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return !gw_duty_rings_empty(&endpoint->tunnel[side][thread].duty);
}

int gw_tunnel_run(struct gw_endpoint *endpoint, unsigned side, unsigned thread, int fd)
{
	return gw_tunnel_work(&endpoint->tunnel[side][thread], fd);
}

unsigned gw_tunnel_stalled(struct gw_endpoint *endpoint, unsigned side, unsigned thread, int fd, int *receiver)
{
	return gw_tunnel_look(&endpoint->tunnel[side][thread], fd, receiver);
}

void gw_endpoint_age(struct gw_endpoint *endpoint)
{
	const uint64_t now_ns = gw_now_ns();

	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->table->shared->tunnel_threads; i++) {
			struct gw_tunnel *tunnel = &endpoint->tunnel[side][i];

			if (gw_tunnel_has_idle_sockets(tunnel, now_ns))
				gw_duty_recall(&tunnel->duty); /* it closes them before it sleeps again */
		}
}

void gw_endpoint_stop(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->stop, true);
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->table->shared->tunnel_threads; i++)
			gw_duty_recall(&endpoint->tunnel[side][i].duty);
}

void gw_endpoint_close(struct gw_endpoint *endpoint)
{
	atomic_store(&endpoint->up, false);
	atomic_store(&endpoint->stop, false);
}

/* ---- Looked at ---------------------------------------------------------------------------------------------------*/

uint64_t gw_endpoint_last_ns(const struct gw_endpoint *endpoint)
{
	uint64_t last = endpoint->made_ns;

	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++) {
		uint64_t at = atomic_load_explicit(&endpoint->ring[i].last_ns, memory_order_relaxed);

		last = at > last ? at : last;
	}
	for (unsigned side = GW_GWI; side <= GW_GWO; side++)
		for (unsigned i = 0; i < endpoint->table->shared->tunnel_threads; i++) {
			uint64_t at = gw_get(&endpoint->tunnel[side][i].counters, GW_last_sent_ns);

			last = at > last ? at : last;
		}
	return last;
}

uint64_t gw_endpoint_ring_drops(const struct gw_endpoint *endpoint)
{
	uint64_t drops = 0;

	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++)
		drops += atomic_load_explicit(&endpoint->ring[i].drops, memory_order_relaxed);
	return drops;
}

uint64_t gw_endpoint_flow_drops(const struct gw_endpoint *endpoint)
{
	uint64_t drops = 0;

	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++)
		drops += atomic_load_explicit(&endpoint->ring[i].unlearned, memory_order_relaxed);
	return drops;
}

uint64_t gw_endpoint_arrived(const struct gw_endpoint *endpoint, unsigned receiver)
{
	const struct gw_ring *ring = &endpoint->ring[receiver];

	return atomic_load_explicit(&ring->packets, memory_order_relaxed) +
	       atomic_load_explicit(&ring->drops, memory_order_relaxed) +
	       atomic_load_explicit(&ring->unlearned, memory_order_relaxed);
}

void gw_endpoint_shed(struct gw_endpoint *endpoint, unsigned receiver, int shed)
{
	atomic_store_explicit(&endpoint->ring[receiver].shed, shed != 0, memory_order_relaxed);
}

uint64_t gw_endpoint_ring_bytes(const struct gw_endpoint *endpoint)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++)
		bytes += gw_ring_waiting(&endpoint->ring[i]);
	return bytes;
}

void gw_endpoint_count_flows(const struct gw_endpoint *endpoint, struct gw_flow_count *count)
{
	gw_flows_count(endpoint->table->shared->flows, endpoint->slot, count);
}

const uint64_t *gw_tunnel_counters(const struct gw_endpoint *endpoint, unsigned side, unsigned thread)
{
	return (const uint64_t *)endpoint->tunnel[side][thread].counters.value;
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

void gw_endpoint_unpublish(struct gw_endpoint *endpoint)
{
	struct gw_endpoints *table = endpoint->table;
	_Atomic(struct gw_endpoint *) *link = &table->bucket[bucket_of(table, endpoint->eni)];

	if (!endpoint->published)
		return;
	endpoint->published = false;
	while (atomic_load(link) != endpoint)
		link = &atomic_load(link)->next;
	atomic_store(link, atomic_load(&endpoint->next));
	for (unsigned i = 0; i < table->shared->receivers; i++)
		gw_gate_await(table->shared->gate[i]);
}

void gw_endpoint_forget(struct gw_endpoint *endpoint)
{
	gw_flows_forget(endpoint->table->shared->flows, endpoint->slot);
	drop_rings(endpoint);
}

/* Nobody else has a hand in its rings any more, nor in the counters of its T threads. */
static void drop_rings(struct gw_endpoint *endpoint)
{
	const struct gw_ring_record *record;

	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++)
		while ((record = gw_ring_peek(&endpoint->ring[i])) != NULL) {
			gw_count(&endpoint->tunnel[GW_GWI][0].counters, GW_drop_endpoint_gone, record->packets);
			gw_ring_release(&endpoint->ring[i], record);
		}
}

void gw_endpoint_free(struct gw_endpoint *endpoint)
{
	dismantle(endpoint);
}

/* Frees memory, descriptors and slot of an endpoint, which may lack all but the slot. */
static void dismantle(struct gw_endpoint *endpoint)
{
	for (unsigned side = GW_GWI; side <= GW_GWO; side++) {
		for (unsigned i = 0; endpoint->tunnel[side] && i < endpoint->table->shared->tunnel_threads; i++)
			if (endpoint->tunnel[side][i].duty.bell >= 0)
				close(endpoint->tunnel[side][i].duty.bell);
		free(endpoint->tunnel[side]);
	}
	free(endpoint->ring);
	if (endpoint->ring_memory)
		munmap(endpoint->ring_memory, ring_memory_size(endpoint));
	give_slot(endpoint->table, endpoint->slot);
	free(endpoint);
}

static void give_slot(struct gw_endpoints *table, unsigned slot)
{
	table->slots_used[slot / 64] &= ~(1ull << slot % 64);
	atomic_fetch_sub(&table->count, 1);
}
