/* SPDX-License-Identifier: MIT-0 */
/*
 * checksum.c - sums over packets, with and without copying them.
 *
 * Theory of operation: pure functions over the caller's memory; no state, no allocation, no system calls.  Any thread may
 * call them.
 *
 * All sums are taken over packets as they lie in memory, and a folded one is stored as it is: ones-complement sums come
 * out right in either byte order (RFC 1071, 2(B)).
 */
#include "checksum.h"

#include <arpa/inet.h>

/* From this many bytes on, a loop in vectors is faster than one in words. */
#define VECTORS_PAY 128u

static uint64_t sum_many_words(const uint8_t *p, size_t words);
static uint64_t sum_copy_many_words(uint8_t *out, const uint8_t *p, size_t words);
#ifdef __x86_64__
static uint64_t sum_words_avx2(const uint8_t *p, size_t words);
static uint64_t sum_copy_words_avx2(uint8_t *out, const uint8_t *p, size_t words);
#endif
static inline uint64_t sum_words(const uint8_t *p, size_t words);
static inline uint64_t sum_copy_words(uint8_t *restrict out, const uint8_t *restrict p, size_t words);
static uint64_t load_word(const uint8_t *p);
static uint64_t sum_tail(const uint8_t *p, size_t len);
static uint64_t address_sum(const uint8_t *packet);

extern inline uint16_t gw_fold(uint64_t sum);

uint64_t gw_sum(const void *data, size_t len, uint64_t sum)
{
	const uint8_t *p = data;

	if (len >= VECTORS_PAY) {
		sum = gw_sum_add(sum, sum_many_words(p, len / 8));
		p += len - len % 8;
		len %= 8;
	}
	for (; len >= 8; len -= 8, p += 8)
		sum = gw_sum_add(sum, load_word(p));
	return gw_sum_add(sum, sum_tail(p, len));
}

uint64_t gw_sum_copy(void *out, const void *data, size_t len, uint64_t sum)
{
	size_t whole = len - len % 8;

	if (len < VECTORS_PAY) {
		memcpy(out, data, len);
		return gw_sum(data, len, sum);
	}
	sum = gw_sum_add(sum, sum_copy_many_words(out, data, len / 8));
	memcpy((uint8_t *)out + whole, (const uint8_t *)data + whole, len - whole);
	return gw_sum_add(sum, sum_tail((const uint8_t *)data + whole, len - whole));
}

static uint64_t sum_many_words(const uint8_t *p, size_t words)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_words_avx2(p, words);
#endif
	return sum_words(p, words);
}

static uint64_t sum_copy_many_words(uint8_t *out, const uint8_t *p, size_t words)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_copy_words_avx2(out, p, words);
#endif
	return sum_copy_words(out, p, words);
}

#ifdef __x86_64__
/* Not every x86-64 has AVX2, which is faster by half. */
__attribute__((target("avx2"))) static uint64_t sum_words_avx2(const uint8_t *p, size_t words)
{
	return sum_words(p, words);
}

__attribute__((target("avx2"))) static uint64_t sum_copy_words_avx2(uint8_t *out, const uint8_t *p, size_t words)
{
	return sum_copy_words(out, p, words);
}
#endif

/* Adds up all words, modulo 2^64, and their upper halves.  The difference is the sum of the lower halves.  No carry needs
 * care in less than 2^32 words, so compilers turn the loop into vector instructions. */
static inline uint64_t sum_words(const uint8_t *p, size_t words)
{
	uint64_t all = 0, high = 0;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = load_word(p + 8 * i);

		all += word;
		high += word >> 32;
	}
	return gw_sum_add(all - (high << 32), high);
}

static inline uint64_t sum_copy_words(uint8_t *restrict out, const uint8_t *restrict p, size_t words)
{
	uint64_t all = 0, high = 0;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = load_word(p + 8 * i);

		memcpy(out + 8 * i, &word, sizeof(word));
		all += word;
		high += word >> 32;
	}
	return gw_sum_add(all - (high << 32), high);
}

static uint64_t load_word(const uint8_t *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word;
}

/* Adds up to 7 bytes, as if zeros followed. */
static uint64_t sum_tail(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;
	uint32_t word;
	uint8_t last[2] = { 0, 0 };

	if (len & 4) {
		memcpy(&word, p, sizeof(word));
		sum = word;
		p += 4;
	}
	if (len & 2) {
		sum += gw_native16(p);
		p += 2;
	}
	if (len & 1) {
		last[0] = *p;
		sum += gw_native16(last);
	}
	return sum;
}

uint64_t gw_pseudo_sum(const uint8_t *packet, uint8_t protocol, uint32_t l4_len)
{
	return gw_sum_add(address_sum(packet), (uint64_t)htons(protocol) + htonl(l4_len));
}

static uint64_t address_sum(const uint8_t *packet)
{
	return packet[0] >> 4 == 4 ? gw_sum(packet + 12, 8, 0) : gw_sum(packet + 8, 32, 0);
}

/* Like skb_checksum_help(): 0 becomes 0xffff, whatever the protocol. */
bool gw_checksum_complete(uint8_t *packet, size_t len, unsigned start, unsigned offset)
{
	uint16_t checksum;

	if (start + offset + sizeof(checksum) > len)
		return false;
	checksum = gw_checksum_of(gw_sum(packet + start, len - start, 0));
	gw_store_native16(packet + start + offset, checksum ? checksum : 0xffff);
	return true;
}
