/* SPDX-License-Identifier: MIT-0 */
/*
 * waiting.c - packets of endpoints that are not there yet; waiting.h tells how it works.
 */
#include "waiting.h"

#include <string.h>
#include <sys/mman.h>

#define WRAP UINT32_MAX
#define TAKEN UINT16_MAX
#define ALIGN 16u
#define NONE UINT16_MAX

_Static_assert(GW_PARTIES < NONE, "the indices of parties leave room for NONE");

static struct gw_waiting_packet *packet_at(const struct gw_waiting *waiting, uint64_t position);
static uint64_t record_size(uint32_t len);
static uint64_t bytes_to_end(const struct gw_waiting *waiting, uint64_t position);
static struct gw_party *find_party(struct gw_waiting *waiting, uint64_t eni);
static uint16_t *bucket_of(struct gw_waiting *waiting, uint64_t eni);
static struct gw_party *make_party(struct gw_waiting *waiting, uint64_t eni);
static void leave_party(struct gw_waiting *waiting, const struct gw_waiting_packet *packet);

bool gw_waiting_begin(struct gw_waiting *waiting, unsigned rooms, uint64_t multiplier)
{
	size_t share = GW_WAITING_TOTAL / rooms & ~(size_t)4095;

	waiting->size = share > GW_WAITING_MOST    ? GW_WAITING_MOST
	                : share < GW_WAITING_LEAST ? GW_WAITING_LEAST
	                                           : share;
	waiting->bytes = mmap(NULL, waiting->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	                      -1, 0);
	if (waiting->bytes == MAP_FAILED) {
		waiting->bytes = NULL;
		return false;
	}
	waiting->multiplier = multiplier;
	memset(waiting->bucket, 0xff, sizeof(waiting->bucket));
	for (unsigned i = 0; i < GW_PARTIES; i++)
		waiting->party[i].next = i + 1 < GW_PARTIES ? (uint16_t)(i + 1) : NONE;
	return true;
}

/* ---- A packet comes ----------------------------------------------------------------------------------------------*/

bool gw_waiting_has(const struct gw_waiting *waiting, uint64_t eni)
{
	return gw_waiting_any(waiting) && find_party((struct gw_waiting *)(uintptr_t)waiting, eni) != NULL;
}

bool gw_waiting_has_room(const struct gw_waiting *waiting, uint64_t eni, uint32_t len)
{
	uint64_t to_end = bytes_to_end(waiting, waiting->head), size = record_size(len);

	/* A record is one piece.  If it does not fit before the end, it begins at the first byte. */
	if (to_end < size)
		size += to_end;
	return waiting->head - waiting->tail + size <= waiting->size &&
	       (waiting->free != NONE || gw_waiting_has(waiting, eni));
}

void gw_waiting_add(struct gw_waiting *waiting, uint64_t eni, const struct gw_origin *origin, const uint8_t *data,
                    uint32_t len, uint64_t now_ns)
{
	struct gw_party *party = gw_waiting_has(waiting, eni) ? find_party(waiting, eni) : make_party(waiting, eni);
	struct gw_waiting_packet *packet;

	if (bytes_to_end(waiting, waiting->head) < record_size(len)) {
		/* Less than a whole record may remain before the end, so only its length is read. */
		if (bytes_to_end(waiting, waiting->head) >= sizeof(*packet))
			packet_at(waiting, waiting->head)->len = WRAP;
		waiting->head += bytes_to_end(waiting, waiting->head);
	}
	packet = packet_at(waiting, waiting->head);
	packet->came_ns = now_ns;
	packet->origin = *origin;
	packet->len = len;
	packet->party = (uint16_t)(party - waiting->party);
	memcpy(packet->data, data, len);
	if (party->packets++ > 0)
		packet_at(waiting, party->last)->next = waiting->head;
	else
		party->first = waiting->head;
	party->last = waiting->head;
	waiting->head += record_size(len);
	/* Ordered before the thread looks at what has been published since. */
	atomic_fetch_add(&waiting->packets, 1);
}

static struct gw_waiting_packet *packet_at(const struct gw_waiting *waiting, uint64_t position)
{
	return (struct gw_waiting_packet *)(void *)(waiting->bytes + position % waiting->size);
}

static uint64_t record_size(uint32_t len)
{
	return (sizeof(struct gw_waiting_packet) + len + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

static uint64_t bytes_to_end(const struct gw_waiting *waiting, uint64_t position)
{
	return waiting->size - position % waiting->size;
}

static struct gw_party *find_party(struct gw_waiting *waiting, uint64_t eni)
{
	uint16_t at = *bucket_of(waiting, eni);

	while (at != NONE && waiting->party[at].eni != eni)
		at = waiting->party[at].next;
	return at == NONE ? NULL : &waiting->party[at];
}

/* Multiply by an odd number that nobody knows, and take the highest bits, on which all bits of the ID have an effect: a
 * sender that invents IDs cannot aim at one bucket. */
static uint16_t *bucket_of(struct gw_waiting *waiting, uint64_t eni)
{
	return &waiting->bucket[eni * waiting->multiplier >> (64 - GW_PARTIES_SHIFT)];
}

static struct gw_party *make_party(struct gw_waiting *waiting, uint64_t eni)
{
	uint16_t *bucket = bucket_of(waiting, eni), at = waiting->free;
	struct gw_party *party = &waiting->party[at];

	waiting->free = party->next;
	party->eni = eni;
	party->packets = 0;
	party->next = *bucket;
	*bucket = at;
	return party;
}

/* ---- It is announced ---------------------------------------------------------------------------------------------*/

void gw_waiting_announce(struct gw_waiting *waiting, uint64_t eni)
{
	uint32_t at = atomic_load_explicit(&waiting->announced, memory_order_relaxed);

	if (at - atomic_load_explicit(&waiting->heard, memory_order_acquire) == GW_ANNOUNCEMENTS)
		return;
	waiting->announcement[at % GW_ANNOUNCEMENTS] = eni;
	/* Ordered before the thread looks whether the control thread sleeps. */
	atomic_store_explicit(&waiting->announced, at + 1, memory_order_seq_cst);
}

bool gw_waiting_hear(struct gw_waiting *waiting, uint64_t *eni)
{
	uint32_t at = atomic_load_explicit(&waiting->heard, memory_order_relaxed);

	if (at == atomic_load_explicit(&waiting->announced, memory_order_seq_cst))
		return false;
	*eni = waiting->announcement[at % GW_ANNOUNCEMENTS];
	atomic_store_explicit(&waiting->heard, at + 1, memory_order_release);
	return true;
}

/* ---- It goes: its endpoint is there, or it has waited too long ---------------------------------------------------*/

const struct gw_waiting_packet *gw_waiting_take(struct gw_waiting *waiting, unsigned party)
{
	struct gw_waiting_packet *packet;

	if (waiting->party[party].packets == 0)
		return NULL;
	packet = packet_at(waiting, waiting->party[party].first);
	leave_party(waiting, packet);
	packet->party = TAKEN;
	return packet;
}

const struct gw_waiting_packet *gw_waiting_oldest(struct gw_waiting *waiting)
{
	while (waiting->tail != waiting->head) {
		const struct gw_waiting_packet *packet = packet_at(waiting, waiting->tail);

		if (bytes_to_end(waiting, waiting->tail) < sizeof(*packet) || packet->len == WRAP)
			waiting->tail += bytes_to_end(waiting, waiting->tail);
		else if (packet->party == TAKEN)
			waiting->tail += record_size(packet->len);
		else
			return packet;
	}
	/* An empty room starts over at its first byte, so a quiet one touches little memory. */
	waiting->tail = waiting->head = 0;
	return NULL;
}

void gw_waiting_drop_oldest(struct gw_waiting *waiting)
{
	const struct gw_waiting_packet *packet = gw_waiting_oldest(waiting);

	if (!packet)
		return;
	/* It is the oldest of all, and so the first of its party. */
	leave_party(waiting, packet);
	waiting->tail += record_size(packet->len);
}

/* Its first packet goes.  The last one to go frees the party. */
static void leave_party(struct gw_waiting *waiting, const struct gw_waiting_packet *packet)
{
	struct gw_party *party = &waiting->party[packet->party];
	uint16_t *link = bucket_of(waiting, party->eni);

	atomic_fetch_sub(&waiting->packets, 1);
	party->first = packet->next;
	if (--party->packets > 0)
		return;
	while (&waiting->party[*link] != party)
		link = &waiting->party[*link].next;
	*link = party->next;
	party->next = waiting->free;
	waiting->free = (uint16_t)(party - waiting->party);
}

const struct gw_waiting_packet *gw_waiting_walk(const struct gw_waiting *waiting, uint64_t *position)
{
	while (*position != waiting->head) {
		const struct gw_waiting_packet *packet = packet_at(waiting, *position);

		if (bytes_to_end(waiting, *position) < sizeof(*packet) || packet->len == WRAP) {
			*position += bytes_to_end(waiting, *position);
			continue;
		}
		*position += record_size(packet->len);
		if (packet->party != TAKEN)
			return packet;
	}
	return NULL;
}

void gw_waiting_end(struct gw_waiting *waiting)
{
	if (waiting->bytes)
		munmap(waiting->bytes, waiting->size);
}
