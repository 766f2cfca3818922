/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_player.c - plays the path in the kernel; kernel_player.h tells what of it.
 */
#include "kernel_player.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../native/bpf/layout.h"

/* Of <linux/bpf.h>. */
#define MAP_CREATE 0
#define MAP_HASH 1u
#define MAP_NO_PREALLOC 1u

#define QUEUE_LENGTH 300u

static struct gw_kernel *kernel;
static struct gw_kernel_endpoint *shown;
static struct gw_kernel_link links[GW_KERNEL_LINKS];
static struct gw_kernel_globals globals;
static unsigned slots;
static int map = -1;
static pthread_t k, program;
static _Atomic bool over;

static int make_map(unsigned flows)
{
#ifdef __NR_bpf
	struct {
		uint32_t type, key, value, entries, flags;
		uint8_t rest[100];
	} attributes = { MAP_HASH, sizeof(struct gw_kernel_key), sizeof(struct gw_kernel_flow), flows, MAP_NO_PREALLOC,
		         { 0 } };

	return (int)syscall(__NR_bpf, MAP_CREATE, &attributes, 72);
#else
	(void)flows;
	return -1;
#endif
}

static void *work(void *argument)
{
	(void)argument;
	if (gw_kernel_work(kernel) != GW_STOPPED)
		abort();
	return NULL;
}

/* Lets packets go up; what is through must never be less than it was. */
static void *play_program(void *argument)
{
	uint64_t out = 0, in = 0;
	unsigned seed = 11;

	(void)argument;
	while (!atomic_load(&over)) {
		const unsigned slot = (unsigned)rand_r(&seed) % slots;
		const uint64_t out_now = __atomic_load_n(&globals.done_out_ns, __ATOMIC_ACQUIRE);
		const uint64_t in_now = __atomic_load_n(&globals.done_in_ns[0], __ATOMIC_ACQUIRE);

		if (out_now < out || in_now < in) {
			fprintf(stderr, "kernel_player: what was through is not\n");
			abort();
		}
		out = out_now;
		in = in_now;
		__atomic_store_n(&shown[slot].wanted, 1, __ATOMIC_RELAXED);
		usleep((unsigned)rand_r(&seed) % 2000);
	}
	return NULL;
}

void player_begin(struct gw_handler *handler, unsigned endpoints, unsigned flows)
{
	struct gw_kernel_setup setup = { .links = links, .globals = &globals, .links_bell = -1, .wake_ns = 1000000000 };

	slots = endpoints;
	memset(links, 0, sizeof(links));
	memset(&globals, 0, sizeof(globals));
	atomic_store(&over, false);
	shown = calloc(slots, sizeof(*shown));
	map = make_map(flows);
	setup.endpoints = shown;
	setup.flows_fd = map;
	kernel = gw_kernel_new(handler, &setup);
	if (!shown || !kernel)
		abort();
	pthread_create(&k, NULL, work, NULL);
	pthread_create(&program, NULL, play_program, NULL);
}

void player_on(struct gw_endpoint *endpoint, const int *device)
{
	if (gw_kernel_endpoint_on(kernel, endpoint, 1, device, QUEUE_LENGTH) != 0)
		abort();
}

void player_off(struct gw_endpoint *endpoint)
{
	gw_kernel_endpoint_off(kernel, endpoint);
}

void player_sweep(void)
{
	gw_kernel_sweep(kernel);
}

void player_end(void)
{
	const struct gw_kernel_counts *counts = gw_kernel_counted(kernel);

	atomic_store(&over, true);
	pthread_join(program, NULL);
	gw_kernel_stop(kernel);
	pthread_join(k, NULL);
	printf("K: %lu requests, %lu promoted, %lu replaced, %lu stale, %lu full, %lu refused, %lu changed, %lu swept "
	       "in %lu "
	       "sweeps, %lu fences, %lu unfenced, %lu resets\n",
	       (unsigned long)counts->requests, (unsigned long)counts->promoted, (unsigned long)counts->replaced,
	       (unsigned long)counts->stale, (unsigned long)counts->full, (unsigned long)counts->refused,
	       (unsigned long)counts->changed, (unsigned long)counts->swept, (unsigned long)counts->sweeps,
	       (unsigned long)counts->fences, (unsigned long)counts->unfenced, (unsigned long)counts->resets);
	for (unsigned i = 0; i < slots; i++)
		if (shown[i].changing) {
			fprintf(stderr, "kernel_player: an endpoint is held back for ever\n");
			abort();
		}
	gw_kernel_free(kernel);
	if (map >= 0)
		close(map);
	free(shown);
}
