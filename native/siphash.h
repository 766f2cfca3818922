/* SPDX-License-Identifier: MIT-0 */
/* siphash.h - SipHash-1-3 (Aumasson, Bernstein 2012) of whole words: one round a word, and three to finish.  Without the
 * secret, nobody can choose words whose hashes collide.  Every packet is hashed, hence inline. */
#ifndef GW_SIPHASH_H
#define GW_SIPHASH_H

#include <stdint.h>

static inline uint64_t gw_siphash_rotate(uint64_t value, unsigned bits)
{
	return value << bits | value >> (64 - bits);
}

static inline void gw_siphash_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = gw_siphash_rotate(v[1], 13) ^ v[0];
	v[3] = gw_siphash_rotate(v[3], 16) ^ v[2];
	v[0] = gw_siphash_rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = gw_siphash_rotate(v[1], 17) ^ v[2];
	v[3] = gw_siphash_rotate(v[3], 21) ^ v[0];
	v[2] = gw_siphash_rotate(v[2], 32);
}

static inline uint64_t gw_siphash(const uint64_t secret[2], const uint64_t *words, unsigned count)
{
	uint64_t v[4] = { secret[0] ^ 0x736f6d6570736575u, secret[1] ^ 0x646f72616e646f6du,
		          secret[0] ^ 0x6c7967656e657261u, secret[1] ^ 0x7465646279746573u };

	for (unsigned i = 0; i <= count; i++) {
		uint64_t word = i < count ? words[i] : (uint64_t)count * 8 << 56;

		v[3] ^= word;
		gw_siphash_round(v);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	gw_siphash_round(v);
	gw_siphash_round(v);
	gw_siphash_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
