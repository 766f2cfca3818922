/* SPDX-License-Identifier: MIT-0 */
/* bytes.h - numbers in network byte order, and the Internet checksum. */
#ifndef BENCH_GENERATOR_BYTES_H
#define BENCH_GENERATOR_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static inline void put64(uint8_t *at, uint64_t value)
{
	put32(at, (uint32_t)(value >> 32));
	put32(at + 4, (uint32_t)value);
}

static inline uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* RFC 1071. */
static inline uint32_t sum_bytes(const uint8_t *at, size_t length, uint32_t sum)
{
	for (; length > 1; at += 2, length -= 2)
		sum += (uint32_t)at[0] << 8 | at[1];
	if (length)
		sum += (uint32_t)at[0] << 8;
	return sum;
}

static inline uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

#endif
