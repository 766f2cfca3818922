/* SPDX-License-Identifier: MIT-0 */
/*
 * input.h - what a fuzzer is given, taken as numbers and bytes.
 *
 * A harness defines fuzz_passed and LLVMFuzzerTestOneInput(), and nothing of it outlives a call.  Bytes are copied to an odd
 * address in memory that ends where they do, so that AddressSanitizer sees a single byte read beyond them.
 */
#ifndef GW_TEST_INPUT_H
#define GW_TEST_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Inputs that came through the checks of what is tested: with too few of them a run shows nothing. */
extern unsigned long fuzz_passed;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t left;
};

/* What is taken beyond the end is 0. */
static inline uint8_t take8(struct input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->data++;
}

static inline uint16_t take16(struct input *input)
{
	unsigned high = take8(input);

	return (uint16_t)(high << 8 | take8(input));
}

static inline uint8_t *new_bytes(size_t len)
{
	uint8_t *memory = malloc(len + 1);

	if (!memory)
		abort();
	return memory + 1;
}

static inline void free_bytes(uint8_t *bytes)
{
	free(bytes - 1);
}

/* len bytes of their own: the input's, as far as there are any, then others that tell one place from the next. */
static inline uint8_t *take_bytes(struct input *input, size_t len)
{
	size_t given = len < input->left ? len : input->left;
	uint8_t *bytes = new_bytes(len);

	if (given > 0)
		memcpy(bytes, input->data, given);
	for (size_t i = given; i < len; i++)
		bytes[i] = (uint8_t)(i * 37 + (i >> 8));
	input->data += given;
	input->left -= given;
	return bytes;
}

static inline void require(int holds)
{
	if (!holds)
		abort();
}

#endif
