/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_leftover.c - the packets that another program has left in a memory file, which may be cut off or hold anything.
 *
 * Input: the file.  Nothing may be read beyond it, all that is taken back waits or is counted as dropped, and what this program
 * leaves in turn another one takes back, byte for byte.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../native/handler.h"
#include "../../native/leftover.h"
#include "input.h"

#define ENI 1u /* that has an endpoint */
#define RECEIVERS 2u

unsigned long fuzz_passed;

static struct gw_handler *make(void)
{
	struct gw_handler *handler = gw_handler_new(RECEIVERS, 1, 4, 16, 60, 60, 0, -1, -1);

	require(handler != NULL && gw_endpoint_new(handler, ENI) != NULL);
	return handler;
}

static void end(struct gw_handler *handler)
{
	struct gw_endpoint *endpoint = gw_endpoints_find(&handler->endpoints, ENI);

	gw_endpoint_unpublish(endpoint);
	gw_endpoint_forget(endpoint);
	gw_endpoint_free(endpoint);
	gw_handler_free(handler);
}

static int file_of(const uint8_t *bytes, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	require(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
	return fd;
}

static uint8_t *contents(int fd, size_t *size)
{
	struct stat status;
	uint8_t *bytes;

	require(fstat(fd, &status) == 0);
	*size = (size_t)status.st_size;
	bytes = new_bytes(*size);
	require(pread(fd, bytes, *size, 0) == (ssize_t)*size);
	return bytes;
}

static uint64_t dropped(const struct gw_handler *handler)
{
	uint64_t drops = 0;

	for (unsigned i = 0; i < RECEIVERS; i++)
		for (unsigned counter = GW_drop_source_loopback; counter < GW_COUNTERS; counter++)
			drops += gw_receiver_counters(handler, i)[counter];
	return drops;
}

/* Packets in the records of a file that can be records. */
static uint64_t packets_in(const uint8_t *bytes, size_t size)
{
	struct gw_leftover leftover;
	uint64_t packets = 0;

	for (size_t at = 0; size - at >= sizeof(leftover); at += sizeof(leftover) + leftover.len) {
		memcpy(&leftover, bytes + at, sizeof(leftover));
		if (leftover.len > size - at - sizeof(leftover) || leftover.len == 0 || leftover.packets > 65536 ||
		    (leftover.packets && leftover.len < 11))
			break;
		packets += leftover.packets ? leftover.packets : 1;
	}
	return packets;
}

static void leave_and_take_back(const struct gw_handler *handler)
{
	struct gw_handler *next = make();
	int first = file_of(NULL, 0), second = file_of(NULL, 0);
	size_t first_size, second_size;
	uint8_t *one, *other;

	require(gw_handler_leave(handler, first) == 0);
	require(gw_handler_take_back(next, first) == 0 && dropped(next) == 0);
	require(gw_handler_leave(next, second) == 0);
	one = contents(first, &first_size);
	other = contents(second, &second_size);
	require(first_size == second_size && memcmp(one, other, first_size) == 0);
	free_bytes(one);
	free_bytes(other);
	close(first);
	close(second);
	end(next);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_handler *handler = make();
	int fd = file_of(data, size), left = file_of(NULL, 0);
	uint64_t packets = packets_in(data, size);
	size_t left_size;
	uint8_t *bytes;

	gw_handler_take_back(handler, fd);
	require(gw_handler_leave(handler, left) == 0);
	bytes = contents(left, &left_size);
	require(packets_in(bytes, left_size) + dropped(handler) == packets);
	leave_and_take_back(handler);
	fuzz_passed += packets > 0;
	free_bytes(bytes);
	close(fd);
	close(left);
	end(handler);
	return 0;
}
