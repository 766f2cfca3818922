/* SPDX-License-Identifier: MIT-0 */
/*
 * leftover.c - packets that are in memory when another program takes over; leftover.h tells where, and what becomes of them.
 *
 * The main thread does all of this, while no U and no T thread runs.
 */
#include "leftover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "intake.h"
#include "vnet.h"
#include "waiting.h"

#define LONGEST (65536u + sizeof(struct gw_vnet_header))
#define PACKETS_MOST 65536u

static bool write_waiting(const struct gw_waiting *waiting, unsigned receiver, FILE *file);
static bool write_rings(const struct gw_endpoint *endpoint, FILE *file);
static bool write_record(FILE *file, const struct gw_leftover *leftover, const void *data);
static FILE *open_copy(int fd, const char *mode);
static bool can_be(const struct gw_leftover *leftover);
static void put_back(const struct gw_endpoints *table, struct gw_receiver *receiver,
                     const struct gw_leftover *leftover, const uint8_t *data);

/* ---- Written -----------------------------------------------------------------------------------------------------*/

int gw_leftovers_write(const struct gw_endpoints *table, int fd)
{
	FILE *file = open_copy(fd, "wb");
	bool fine = file != NULL;

	if (!file)
		return -errno;
	/* Rings first: what is in them came before what waits for the same endpoint. */
	for (unsigned i = 0; fine && i < GW_ENDPOINT_BUCKETS; i++)
		for (const struct gw_endpoint *endpoint = atomic_load(&table->bucket[i]); fine && endpoint;
		     endpoint = atomic_load(&endpoint->next))
			fine = write_rings(endpoint, file);
	for (unsigned i = 0; fine && i < table->shared->receivers; i++)
		fine = write_waiting(table->shared->waiting[i], i, file);
	if (fclose(file) != 0 || !fine)
		return errno ? -errno : -EIO;
	return 0;
}

static bool write_rings(const struct gw_endpoint *endpoint, FILE *file)
{
	for (unsigned i = 0; i < endpoint->table->shared->receivers; i++) {
		const struct gw_ring *ring = &endpoint->ring[i];
		const struct gw_ring_record *record;
		uint64_t position = atomic_load(&ring->tail);

		while ((record = gw_ring_walk(ring, &position)) != NULL) {
			const struct gw_leftover leftover = { .eni = endpoint->eni,
				                              .bytes = record->bytes,
				                              .len = record->len,
				                              .packets = record->packets,
				                              .receiver = i };

			if (!write_record(file, &leftover, record + 1))
				return false;
		}
	}
	return true;
}

static bool write_waiting(const struct gw_waiting *waiting, unsigned receiver, FILE *file)
{
	const struct gw_waiting_packet *packet;
	uint64_t position = waiting->tail;

	while ((packet = gw_waiting_walk(waiting, &position)) != NULL) {
		const struct gw_leftover leftover = { .eni = gw_waiting_eni(waiting, packet),
			                              .len = packet->len,
			                              .receiver = receiver,
			                              .gwlb_address = packet->origin.gwlb_address,
			                              .own_address = packet->origin.own_address,
			                              .gwlb_port = packet->origin.gwlb_port };

		if (!write_record(file, &leftover, packet->data))
			return false;
	}
	return true;
}

static bool write_record(FILE *file, const struct gw_leftover *leftover, const void *data)
{
	return fwrite(leftover, sizeof(*leftover), 1, file) == 1 &&
	       (leftover->len == 0 || fwrite(data, leftover->len, 1, file) == 1);
}

/* The descriptor stays the caller's. */
static FILE *open_copy(int fd, const char *mode)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *file = copy < 0 ? NULL : fdopen(copy, mode);

	if (!file && copy >= 0)
		close(copy);
	return file;
}

/* ---- Read --------------------------------------------------------------------------------------------------------*/

int gw_leftovers_read(const struct gw_endpoints *table, struct gw_receiver *const *receiver, int fd)
{
	FILE *file = lseek(fd, 0, SEEK_SET) < 0 ? NULL : open_copy(fd, "rb");
	uint8_t *data = malloc(LONGEST);
	struct gw_leftover leftover;
	int status = -errno;

	if (file && data) {
		while (fread(&leftover, sizeof(leftover), 1, file) == 1 && can_be(&leftover) &&
		       fread(data, leftover.len, 1, file) == 1)
			put_back(table, receiver[leftover.receiver % table->shared->receivers], &leftover, data);
		status = feof(file) ? 0 : -EBADMSG;
	}
	free(data);
	if (file)
		fclose(file);
	return status;
}

static bool can_be(const struct gw_leftover *leftover)
{
	const size_t least = leftover->packets ? sizeof(struct gw_vnet_header) + 1 : 1;

	return leftover->len >= least && leftover->len <= LONGEST && leftover->packets <= PACKETS_MOST;
}

static void put_back(const struct gw_endpoints *table, struct gw_receiver *receiver,
                     const struct gw_leftover *leftover, const uint8_t *data)
{
	struct gw_intake *intake = gw_receiver_intake(receiver);
	const struct gw_origin origin = { leftover->gwlb_address, leftover->own_address, leftover->gwlb_port };
	struct gw_endpoint *endpoint;

	if (!leftover->packets) {
		gw_intake_put_back(intake, leftover->eni, &origin, data, leftover->len);
		return;
	}
	endpoint = gw_endpoints_find(table, leftover->eni);
	if (endpoint)
		gw_handover_put_back(intake->handover, endpoint, leftover->packets, leftover->bytes, data,
		                     leftover->len);
	else
		gw_count(intake->counters, GW_drop_endpoint_gone, leftover->packets);
}
