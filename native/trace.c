/* SPDX-License-Identifier: MIT-0 */
/*
 * trace.c - records of single packets for the log; trace.h tells how it works.
 */
#include "trace.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CELLS 1024u
#define HEADERS_ONLY 512u

struct gw_trace_cell {
	_Atomic uint64_t ticket; /* the position that may write it; that + 1 when it may be read */
	struct gw_trace_record record;
};

int gw_trace_enable(struct gw_trace *trace, unsigned level)
{
	if (level > GW_TRACE_DUMP)
		return -EINVAL;
	if (level != GW_TRACE_OFF && !atomic_load_explicit(&trace->cells, memory_order_relaxed)) {
		struct gw_trace_cell *cells = mmap(NULL, CELLS * sizeof(*cells), PROT_READ | PROT_WRITE,
		                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (cells == MAP_FAILED)
			return -ENOMEM;
		for (unsigned i = 0; i < CELLS; i++)
			atomic_init(&cells[i].ticket, i);
		atomic_store_explicit(&trace->cells, cells, memory_order_release);
	}
	atomic_store_explicit(&trace->level, level, memory_order_release);
	return 0;
}

void gw_trace_write_in(struct gw_trace *trace, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                       uint64_t eni, unsigned reason)
{
	const struct gw_trace_record record = { .eni = eni,
		                                .event = GW_TRACE_IN,
		                                .counter = reason,
		                                .gwlb_address = origin->gwlb_address,
		                                .gwlb_port = origin->gwlb_port,
		                                .own_address = origin->own_address,
		                                .length = len };

	gw_trace_write(trace, &record, data);
}

void gw_trace_write(struct gw_trace *trace, const struct gw_trace_record *record, const void *data)
{
	struct gw_trace_cell *cells = atomic_load_explicit(&trace->cells, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&trace->tail, memory_order_relaxed);
	uint32_t limit = atomic_load_explicit(&trace->level, memory_order_relaxed) == GW_TRACE_DUMP ? GW_TRACE_DATA
	                                                                                            : HEADERS_ONLY;
	struct gw_trace_cell *cell;
	struct timespec now;

	if (!cells)
		return;
	for (;;) {
		uint64_t ticket;

		cell = &cells[tail % CELLS];
		ticket = atomic_load_explicit(&cell->ticket, memory_order_acquire);
		if (ticket == tail) {
			if (atomic_compare_exchange_weak_explicit(&trace->tail, &tail, tail + 1, memory_order_relaxed,
			                                          memory_order_relaxed))
				break;
		} else if (ticket < tail) {
			atomic_fetch_add_explicit(&trace->lost, 1, memory_order_relaxed);
			return;
		} else {
			tail = atomic_load_explicit(&trace->tail, memory_order_relaxed);
		}
	}
	memcpy(&cell->record, record, offsetof(struct gw_trace_record, data));
	clock_gettime(CLOCK_REALTIME, &now);
	cell->record.time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	cell->record.thread_id = (uint32_t)syscall(SYS_gettid);
	cell->record.captured = record->length < limit ? record->length : limit;
	memcpy(cell->record.data, data, cell->record.captured);
	atomic_store_explicit(&cell->ticket, tail + 1, memory_order_release);
}

bool gw_trace_take(struct gw_trace *trace, struct gw_trace_record *record)
{
	struct gw_trace_cell *cells = atomic_load_explicit(&trace->cells, memory_order_acquire);
	struct gw_trace_cell *cell;

	if (!cells)
		return false;
	cell = &cells[trace->head % CELLS];
	if (atomic_load_explicit(&cell->ticket, memory_order_acquire) != trace->head + 1)
		return false;
	memcpy(record, &cell->record, offsetof(struct gw_trace_record, data) + cell->record.captured);
	atomic_store_explicit(&cell->ticket, trace->head + CELLS, memory_order_release);
	trace->head++;
	return true;
}

void gw_trace_end(struct gw_trace *trace)
{
	struct gw_trace_cell *cells = atomic_load_explicit(&trace->cells, memory_order_relaxed);

	if (cells)
		munmap(cells, CELLS * sizeof(*cells));
}
