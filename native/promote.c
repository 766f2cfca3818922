/* SPDX-License-Identifier: MIT-0 */
/*
 * promote.c - which flows a U thread asks to have put into the kernel; promote.h tells how.
 */
#include "promote.h"

#include <string.h>

#include "bell.h"

static struct gw_promote_cell *find(struct gw_promote_set *set, uint32_t tag);
static struct gw_promote_cell *claim(struct gw_promote *promote, struct gw_promote_set *set, uint32_t now);
static uint32_t tag_of(uint64_t hash);
static bool is_stale(const struct gw_promote_cell *cell, uint32_t now);
static struct gw_promote_request *reserve(struct gw_promote *promote, uint32_t most);
static void publish(struct gw_promote *promote, struct gw_promotion *promotion);
static void wake(struct gw_promotion *promotion);

/* ---- The U thread ------------------------------------------------------------------------------------------------*/

void gw_promote_begin(struct gw_promote *promote, unsigned receivers)
{
	uint32_t sets = GW_PROMOTE_SETS;

	while (sets > GW_PROMOTE_LEAST && sets > GW_PROMOTE_SETS / receivers)
		sets /= 2;
	promote->mask = sets - 1;
}

bool gw_promote_has_asked(struct gw_promote *promote, uint64_t hash)
{
	const struct gw_promote_cell *cell = find(gw_promote_set(promote, hash), tag_of(hash));

	return cell && cell->asked > 0;
}

static struct gw_promote_cell *find(struct gw_promote_set *set, uint32_t tag)
{
	for (unsigned i = 0; i < GW_PROMOTE_CELLS; i++)
		if (set->cell[i].tag == tag && set->cell[i].left > 0)
			return &set->cell[i];
	return NULL;
}

static uint32_t tag_of(uint64_t hash)
{
	return (uint32_t)(hash >> 32);
}

static bool is_stale(const struct gw_promote_cell *cell, uint32_t now)
{
	return ((now - cell->seen) & 31) >= GW_PROMOTE_STALE_S;
}

struct gw_promote_cell *gw_promote_count(struct gw_promote *promote, uint64_t hash, uint32_t life, unsigned packets,
                                         bool anew, uint32_t now)
{
	struct gw_promote_set *set = gw_promote_set(promote, hash);
	struct gw_promote_cell *cell = find(set, tag_of(hash));

	if (!cell) {
		cell = claim(promote, set, now);
		anew = true;
	}
	if (!cell)
		return NULL;
	if (anew || cell->life != (uint8_t)life) {
		*cell = (struct gw_promote_cell){ .tag = tag_of(hash),
			                          .left = GW_PROMOTE_AFTER,
			                          .life = (uint8_t)life };
	} else if (cell->asked > 0 && is_stale(cell, now)) {
		/* It was in the kernel, and may be yet. */
		cell->left = GW_PROMOTE_AFTER;
		cell->asked = 1;
	}
	cell->seen = now & 31;
	if (packets >= cell->left)
		return cell;
	cell->left = (uint16_t)(cell->left - packets);
	return NULL;
}

/* A cell for a flow that has none; NULL: not this time. */
static struct gw_promote_cell *claim(struct gw_promote *promote, struct gw_promote_set *set, uint32_t now)
{
	for (unsigned i = 0; i < GW_PROMOTE_CELLS; i++)
		if (set->cell[i].left == 0 || is_stale(&set->cell[i], now))
			return &set->cell[i];
	/* By chance, since traffic that comes round and round could keep step with a counter (Knuth's MMIX). */
	promote->random = promote->random * 6364136223846793005u + 1442695040888963407u;
	if (promote->random >> 32 & (GW_PROMOTE_PUSH - 1))
		return NULL;
	return &set->cell[promote->random >> 40 & (GW_PROMOTE_CELLS - 1)];
}

void gw_promote_ask(struct gw_promote *promote, struct gw_promotion *promotion, struct gw_promote_cell *cell,
                    const struct gw_flow_key *key, const struct gw_flow_path *path, uint32_t life)
{
	struct gw_promote_request *request = reserve(promote, GW_PROMOTE_REQUESTS / 4 * 3);

	if (!request) {
		cell->left = 1;
		return;
	}
	memcpy(request->word, key->word, sizeof(request->word));
	memcpy(request->header, path->header, sizeof(request->header));
	request->origin = path->origin;
	request->life = life;
	request->kind = GW_PROMOTE_FLOW;
	publish(promote, promotion);
	cell->left = (uint16_t)(GW_PROMOTE_AGAIN << cell->asked);
	if (cell->asked < GW_PROMOTE_DOUBLINGS)
		cell->asked++;
}

/* NULL: the ring holds `most` already.  New flows leave room for changes: without it, all flows of an endpoint lose the kernel. */
static struct gw_promote_request *reserve(struct gw_promote *promote, uint32_t most)
{
	const uint32_t head = atomic_load_explicit(&promote->head, memory_order_relaxed);

	if (head - promote->known_tail >= most)
		promote->known_tail = atomic_load_explicit(&promote->tail, memory_order_acquire);
	if (head - promote->known_tail < most)
		return &promote->request[head % GW_PROMOTE_REQUESTS];
	atomic_store_explicit(&promote->lost, atomic_load_explicit(&promote->lost, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
	return NULL;
}

static void publish(struct gw_promote *promote, struct gw_promotion *promotion)
{
	const uint32_t head = atomic_load_explicit(&promote->head, memory_order_relaxed) + 1;

	atomic_store(&promote->head, head);
	/* A short sleep ends early where the ring might run over meanwhile. */
	if (head - promote->known_tail == GW_PROMOTE_REQUESTS / 2) {
		promote->known_tail = atomic_load_explicit(&promote->tail, memory_order_acquire);
		if (head - promote->known_tail == GW_PROMOTE_REQUESTS / 2)
			gw_bell_ring(promotion->bell);
	}
	wake(promotion);
}

/* K says that it sleeps, and then looks at the rings: one side sees the other. */
static void wake(struct gw_promotion *promotion)
{
	if (atomic_load(&promotion->sleeps) && atomic_exchange(&promotion->sleeps, false))
		gw_bell_ring(promotion->bell);
}

void gw_promote_change(struct gw_promote *promote, struct gw_promotion *promotion, const struct gw_flow_key *key,
                       uint32_t life)
{
	const unsigned slot = GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]);
	struct gw_promote_request *request = reserve(promote, GW_PROMOTE_REQUESTS);

	__atomic_fetch_add(&promotion->endpoints[slot].changing, 1, __ATOMIC_SEQ_CST);
	if (!request) {
		atomic_fetch_add(&promotion->untold[slot], 1);
		atomic_store(&promotion->overran, true);
		wake(promotion);
		return;
	}
	memcpy(request->word, key->word, sizeof(request->word));
	request->life = life;
	request->kind = GW_PROMOTE_CHANGED;
	publish(promote, promotion);
}

/* ---- K -----------------------------------------------------------------------------------------------------------*/

const struct gw_promote_request *gw_promote_peek(const struct gw_promote *promote)
{
	const uint32_t tail = atomic_load_explicit(&promote->tail, memory_order_relaxed);

	return atomic_load(&promote->head) == tail ? NULL : &promote->request[tail % GW_PROMOTE_REQUESTS];
}

void gw_promote_release(struct gw_promote *promote)
{
	atomic_store_explicit(&promote->tail, atomic_load_explicit(&promote->tail, memory_order_relaxed) + 1,
	                      memory_order_release);
}
