/* SPDX-License-Identifier: MIT-0 */
/*
 * ring.h - records on their way from one U thread to one T thread.
 *
 * Theory of operation: a ring of bytes with a single producer and a single consumer, in memory that the endpoint owns.
 * A record is a header of 16 bytes and then a frame, what one write to the TUN device carries: a vnet header and a packet.
 *
 * The producer reserves room, fills it, commits, and publishes now and then; what was committed is invisible until
 * then.  The consumer peeks at the oldest record and releases it when done with it.  Each side stores only its own
 * position and keeps a copy of the other's.
 *
 * A position is a generation and a count of bytes within it.  When the producer finds everything consumed it starts a new
 * generation at the ring's first byte: a quiet ring uses the same few cache lines, and pages, over and over.  The consumer
 * follows when it sees the new generation; since it had consumed all of the last one, nothing is skipped.
 */
#ifndef GW_RING_H
#define GW_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of a ring.  A receiver can fill it in one slice of CPU time before the T thread on the same core gets its own.  It
 * has room for that, and for a short wait for a hook. */
#define GW_RING_BYTES (4u << 20)

/* The header of a record, in bytes.  Each record starts at a multiple of it. */
#define GW_RING_ALIGN 16u

struct gw_ring_record {
	uint32_t len;     /* bytes behind it; GW_RING_WRAP: the next record is at the ring's first byte */
	uint32_t packets; /* inner packets merged in it */
	uint64_t bytes;   /* their bytes before merging */
};
_Static_assert(sizeof(struct gw_ring_record) == GW_RING_ALIGN, "records are aligned");

#define GW_RING_WRAP UINT32_MAX

struct gw_ring {
	/* The producer's. */
	_Alignas(64) _Atomic uint64_t head; /* published */
	uint64_t filled;                    /* committed */
	uint64_t known_tail;
	_Atomic uint64_t packets;   /* in all records so far */
	_Atomic uint64_t drops;     /* packets, which the caller counts */
	_Atomic uint64_t unlearned; /* packets whose flow found no room, or that were shed; the caller counts them */
	_Atomic uint64_t last_ns;   /* when it was last published */
	uint32_t touched;           /* the caller's list of rings to publish */
	_Atomic bool shed;          /* the caller sheds what is for it */
	/* The consumer's. */
	_Alignas(64) _Atomic uint64_t tail;
	uint64_t known_head;
	/* Constant. */
	_Alignas(64) uint8_t *bytes;
};

#define GW_RING_GENERATION_SHIFT 56

static inline uint64_t gw_ring_count(uint64_t position)
{
	return position & ((1ull << GW_RING_GENERATION_SHIFT) - 1);
}

static inline uint64_t gw_ring_generation(uint64_t position)
{
	return position >> GW_RING_GENERATION_SHIFT;
}

static inline uint64_t gw_ring_used(uint64_t head, uint64_t tail)
{
	uint64_t start = gw_ring_generation(head) == gw_ring_generation(tail) ? gw_ring_count(tail) : 0;

	return gw_ring_count(head) - start;
}

static inline struct gw_ring_record *gw_ring_at(const struct gw_ring *ring, uint64_t position)
{
	return (struct gw_ring_record *)(void *)(ring->bytes + (gw_ring_count(position) & (GW_RING_BYTES - 1)));
}

/* Producer: bytes that committed records hold. */
static inline uint64_t gw_ring_filled(const struct gw_ring *ring)
{
	return gw_ring_used(ring->filled, atomic_load_explicit(&ring->tail, memory_order_acquire));
}

/* Producer: bytes that are committed and not published. */
static inline uint64_t gw_ring_unpublished(const struct gw_ring *ring)
{
	return gw_ring_used(ring->filled, atomic_load_explicit(&ring->head, memory_order_relaxed));
}

/* Producer: reserves room for a record of at most len bytes, which go behind the header returned.  NULL: the ring is full. */
struct gw_ring_record *gw_ring_reserve(struct gw_ring *ring, size_t len);

/* Producer: commits the record reserved last, of len bytes or fewer than were reserved.  Its packets and bytes are set. */
void gw_ring_commit(struct gw_ring *ring, struct gw_ring_record *record, size_t len);

/* Producer: shows the consumer what was committed. */
void gw_ring_publish(struct gw_ring *ring, uint64_t now_ns);

/* Consumer: returns the oldest record, or NULL. */
const struct gw_ring_record *gw_ring_peek(struct gw_ring *ring);

/* Consumer: gives back the record that gw_ring_peek() returned. */
void gw_ring_release(struct gw_ring *ring, const struct gw_ring_record *record);

/* While neither side runs: the record at a position, which moves on to the next, or NULL.  The first position is the tail. */
const struct gw_ring_record *gw_ring_walk(const struct gw_ring *ring, uint64_t *position);

/* Anyone: bytes that published records hold. */
static inline uint64_t gw_ring_waiting(const struct gw_ring *ring)
{
	/* In this order, or a third thread could see a tail beyond the head. */
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_seq_cst);

	return head == tail ? 0 : gw_ring_used(head, tail);
}

#endif
