/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_path.c - thread K; kernel_path.h tells what it does.
 */
#include "kernel_path.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bell.h"
#include "clock.h"
#include "handler.h"
#include "kernel_cycle.h"
#include "kernel_flows.h"
#include "kernel_slots.h"
#include "promote.h"

#define MS 1000000ull

/* The requests that K takes of a receiver before it looks after the rest. */
#define TAKE_MOST 256u

/* How often a sweep begins: as often as it takes this share of a core, but not more often than the first, nor so rarely that
 * flows could seem idle.  How often a slice of one does: at most, and while the map is full. */
#define SWEEP_NS (1000 * MS)
#define SWEEP_SHARE 50u
#define SLICE_NS (12 * MS)
#define CROWDED_NS (3 * MS)

/* Between two slices of a sweep that another thread does, for K to have a turn. */
#define TURN_US 200u

/* For how long at a time the programs may work, where they would outlive a process that is killed. */
#define LEASE_NS (3000 * MS)

/* Sleeps that are longer than this end when a U thread asks for something. */
#define NAP_NS (20 * MS)

/* How exactly it sleeps. */
#define SLACK_NS 1000ul

struct gw_kernel {
	struct gw_promotion promotion;
	struct gw_handler *handler;
	struct gw_kernel_globals *globals;
	struct gw_fence **fence; /* of each receiver, as are these */
	struct gw_promote **promote;
	_Atomic bool stop, leave;
	pthread_mutex_t lock;
	struct gw_kernel_counts counts;
	uint64_t lost_before; /* counts.lost of the K before */
	struct gw_kernel_slots slots;
	struct gw_kernel_cycle cycle;
	uint64_t wake_ns;
	uint64_t slice_ns; /* when the next slice of a sweep is due */
	uint64_t swept_ns; /* what the slices of this sweep have taken */
	struct gw_kernel_flows flows;
};

static bool equip(struct gw_kernel *kernel, const struct gw_kernel_setup *setup);
static void go_on(struct gw_kernel *kernel, const struct gw_kernel_counts *before);
static void withdraw(struct gw_kernel *kernel);
static void keep_time(struct gw_kernel_globals *globals, uint64_t now_ns);
static uint64_t step(struct gw_kernel *kernel);
static bool take_requests(struct gw_kernel *kernel, uint64_t now_ns);
static bool take_of(struct gw_kernel *kernel, unsigned receiver, uint64_t now_ns);
static void renew_overrun(struct gw_kernel *kernel);
static uint64_t sweep(struct gw_kernel *kernel, uint64_t now_ns);
static uint64_t slice_period(const struct gw_kernel *kernel);
static uint64_t sweep_period(const struct gw_kernel *kernel);
static void sleep_until(struct gw_kernel *kernel, uint64_t until_ns);
static bool has_requests(const struct gw_kernel *kernel);
static uint64_t sweep_tolerance(const struct gw_handler *handler);

/* ---- Made --------------------------------------------------------------------------------------------------------*/

struct gw_kernel *gw_kernel_new(struct gw_handler *handler, const struct gw_kernel_setup *setup)
{
	struct gw_kernel *kernel = aligned_alloc(64, (sizeof(*kernel) + 63) & ~(size_t)63);

	if (!kernel)
		return NULL;
	memset(kernel, 0, sizeof(*kernel));
	kernel->handler = handler;
	kernel->promotion.bell = -1;
	(void)pthread_mutex_init(&kernel->lock, NULL);
	if (!equip(kernel, setup)) {
		const int error = errno;

		gw_kernel_free(kernel);
		errno = error;
		return NULL;
	}
	return kernel;
}

static bool equip(struct gw_kernel *kernel, const struct gw_kernel_setup *setup)
{
	struct gw_handler *handler = kernel->handler;
	const unsigned receivers = handler->shared.receivers;

	kernel->globals = setup->globals;
	kernel->wake_ns = setup->wake_ns;
	kernel->promotion.endpoints = setup->endpoints;
	kernel->flows.map = setup->flows_fd;
	kernel->flows.flows = handler->shared.flows;
	kernel->flows.slots = &kernel->slots;
	kernel->flows.counts = &kernel->counts;
	kernel->flows.links.link = setup->links;
	kernel->flows.links.bell = setup->links_bell;
	kernel->flows.links.multiplier = handler->shared.multiplier;
	kernel->flows.links.count = &kernel->counts.links;
	kernel->fence = calloc(receivers, sizeof(struct gw_fence *));
	kernel->promote = calloc(receivers, sizeof(struct gw_promote *));
	kernel->promotion.untold = calloc(handler->endpoints.max, sizeof(_Atomic uint32_t));
	kernel->promotion.bell = gw_bell_new();
	if (!kernel->fence || !kernel->promote || !kernel->promotion.untold || kernel->promotion.bell < 0)
		return false;
	for (unsigned i = 0; i < receivers; i++) {
		kernel->fence[i] = gw_receiver_fence(handler->receiver[i]);
		kernel->promote[i] = gw_receiver_promote(handler->receiver[i]);
		/* What is left from another K is about another map. */
		while (gw_promote_peek(kernel->promote[i]))
			gw_promote_release(kernel->promote[i]);
	}
	if (!gw_kernel_slots_begin(&kernel->slots, &handler->shared, setup->endpoints, handler->endpoints.max) ||
	    !gw_kernel_cycle_begin(&kernel->cycle, &handler->shared, &kernel->slots, kernel->globals, &kernel->counts,
	                           kernel->fence))
		return false;
	if (setup->before)
		go_on(kernel, setup->before);
	return true;
}

/* Takes up the work of another K.  Its first sweep finds out which flows there are. */
static void go_on(struct gw_kernel *kernel, const struct gw_kernel_counts *before)
{
	kernel->counts = *before;
	kernel->lost_before = before->lost;
	gw_kernel_links_resume(&kernel->flows.links, gw_now_ns());
	gw_kernel_flows_resume(&kernel->flows);
	for (unsigned i = 0; i < kernel->handler->shared.receivers; i++)
		gw_kernel_cycle_include(&kernel->cycle, i);
}

const struct gw_kernel_counts *gw_kernel_counted(const struct gw_kernel *kernel)
{
	return &kernel->counts;
}

/* ---- Endpoints ---------------------------------------------------------------------------------------------------*/

int gw_kernel_endpoint_on(struct gw_kernel *kernel, struct gw_endpoint *endpoint, uint32_t gwi, const int *queues,
                          uint32_t queue_length)
{
	int status;

	pthread_mutex_lock(&kernel->lock);
	status = gw_kernel_slot_on(&kernel->slots, endpoint, gwi, queues, queue_length);
	pthread_mutex_unlock(&kernel->lock);
	return status;
}

void gw_kernel_endpoint_off(struct gw_kernel *kernel, struct gw_endpoint *endpoint)
{
	pthread_mutex_lock(&kernel->lock);
	gw_kernel_slot_off(&kernel->slots, endpoint);
	pthread_mutex_unlock(&kernel->lock);
}

void gw_kernel_endpoint_aside(struct gw_kernel *kernel, struct gw_endpoint *endpoint, unsigned side, int aside)
{
	__atomic_store_n(&kernel->promotion.endpoints[endpoint->slot].aside[side], aside != 0, __ATOMIC_RELAXED);
}

/* ---- Thread K ----------------------------------------------------------------------------------------------------*/

int gw_kernel_work(struct gw_kernel *kernel)
{
	(void)prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0);
	gw_kernel_offer(kernel, true);
	while (!atomic_load(&kernel->stop)) {
		uint64_t next_ns;

		pthread_mutex_lock(&kernel->lock);
		next_ns = step(kernel);
		pthread_mutex_unlock(&kernel->lock);
		sleep_until(kernel, next_ns);
	}
	if (atomic_load(&kernel->leave)) {
		withdraw(kernel);
		/* What U threads have told is the last that K does. */
		pthread_mutex_lock(&kernel->lock);
		while (take_requests(kernel, gw_now_ns()))
			;
		pthread_mutex_unlock(&kernel->lock);
	} else {
		gw_kernel_offer(kernel, false);
	}
	atomic_store(&kernel->stop, false);
	atomic_store(&kernel->leave, false);
	return GW_STOPPED;
}

void gw_kernel_offer(struct gw_kernel *kernel, int on)
{
	keep_time(kernel->globals, gw_now_ns());
	if (on) {
		pthread_mutex_lock(&kernel->lock);
		gw_kernel_slots_settle(&kernel->slots);
		pthread_mutex_unlock(&kernel->lock);
	}
	__atomic_store_n(&kernel->globals->on, on != 0, __ATOMIC_RELEASE);
	if (on)
		atomic_store(&kernel->handler->shared.promotion, &kernel->promotion);
	else
		withdraw(kernel);
}

/* U threads work without K from now on. */
static void withdraw(struct gw_kernel *kernel)
{
	struct gw_shared *shared = &kernel->handler->shared;

	atomic_store(&shared->promotion, NULL);
	for (unsigned i = 0; i < shared->receivers; i++)
		gw_gate_await_epoch(shared->gate[i]);
	atomic_store(&shared->polls, false);
}

static void keep_time(struct gw_kernel_globals *globals, uint64_t now_ns)
{
	__atomic_store_n(&globals->now_s, gw_now_s(), __ATOMIC_RELAXED);
	if (__atomic_load_n(&globals->lease_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&globals->lease_ns, now_ns + LEASE_NS, __ATOMIC_RELAXED);
}

/* Does all that is due.  Returns when something is due next; 0: at once. */
static uint64_t step(struct gw_kernel *kernel)
{
	const uint64_t now_ns = gw_now_ns();
	uint64_t next_ns = now_ns + kernel->wake_ns, cycle_ns, sweep_ns;
	bool more;

	keep_time(kernel->globals, now_ns);
	more = take_requests(kernel, now_ns);
	cycle_ns = gw_kernel_cycle_step(&kernel->cycle, now_ns);
	sweep_ns = sweep(kernel, now_ns);
	if (more)
		return 0;
	if (kernel->counts.entries == 0 && !kernel->flows.sweeping && gw_kernel_cycle_rests(&kernel->cycle, now_ns))
		return next_ns;
	if (next_ns > cycle_ns)
		next_ns = cycle_ns;
	return next_ns < sweep_ns ? next_ns : sweep_ns;
}

/* ---- Requests ----------------------------------------------------------------------------------------------------*/

/* True if there are more. */
static bool take_requests(struct gw_kernel *kernel, uint64_t now_ns)
{
	uint64_t lost = kernel->lost_before;
	bool more = false;

	renew_overrun(kernel);
	for (unsigned i = 0; i < kernel->handler->shared.receivers; i++) {
		more |= take_of(kernel, i, now_ns);
		lost += atomic_load_explicit(&kernel->promote[i]->lost, memory_order_relaxed);
	}
	__atomic_store_n(&kernel->counts.lost, lost, __ATOMIC_RELAXED);
	return more;
}

static bool take_of(struct gw_kernel *kernel, unsigned receiver, uint64_t now_ns)
{
	struct gw_promote *promote = kernel->promote[receiver];

	for (unsigned i = 0; i < TAKE_MOST; i++) {
		const struct gw_promote_request *request = gw_promote_peek(promote);

		if (!request)
			return false;
		gw_kernel_cycle_include(&kernel->cycle, receiver);
		if (gw_kernel_flows_take(&kernel->flows, receiver, request, now_ns))
			gw_kernel_cycle_hurry(&kernel->cycle, now_ns);
		gw_promote_release(promote);
	}
	return true;
}

/* Where changes could not be told, all entries of their endpoints die. */
static void renew_overrun(struct gw_kernel *kernel)
{
	struct gw_kernel_slots *slots = &kernel->slots;

	if (!atomic_load_explicit(&kernel->promotion.overran, memory_order_relaxed) ||
	    !atomic_exchange(&kernel->promotion.overran, false))
		return;
	for (unsigned slot = 0; slot < slots->max; slot++) {
		const uint32_t untold = atomic_exchange(&kernel->promotion.untold[slot], 0);

		if (untold == 0)
			continue;
		if (slots->by_slot[slot]) {
			gw_kernel_slot_renew(slots, slots->by_slot[slot]);
			__atomic_fetch_add(&kernel->counts.resets, 1, __ATOMIC_RELAXED);
		}
		__atomic_fetch_sub(&slots->shown[slot].changing, untold, __ATOMIC_SEQ_CST);
	}
}

/* ---- Sweeps ------------------------------------------------------------------------------------------------------*/

/* Returns when the next slice is due. */
static uint64_t sweep(struct gw_kernel *kernel, uint64_t now_ns)
{
	if (kernel->flows.crowded && !kernel->flows.sweeping && kernel->slice_ns > kernel->flows.began_ns + SWEEP_NS)
		kernel->slice_ns = kernel->flows.began_ns + SWEEP_NS;
	if (now_ns < kernel->slice_ns || (kernel->counts.entries == 0 && !kernel->flows.sweeping))
		return kernel->slice_ns > now_ns ? kernel->slice_ns : now_ns + SWEEP_NS;
	(void)gw_kernel_flows_sweep(&kernel->flows, now_ns);
	kernel->swept_ns += gw_now_ns() - now_ns;
	kernel->slice_ns = now_ns + slice_period(kernel);
	if (!kernel->flows.sweeping) {
		if (kernel->slice_ns < kernel->flows.began_ns + sweep_period(kernel))
			kernel->slice_ns = kernel->flows.began_ns + sweep_period(kernel);
		kernel->swept_ns = 0;
	}
	return kernel->slice_ns;
}

/* Also a sweep of a large map is through before flows could seem idle. */
static uint64_t slice_period(const struct gw_kernel *kernel)
{
	const uint64_t slices = kernel->counts.entries / GW_KERNEL_SLICE + 1;
	const uint64_t needed = kernel->flows.crowded ? CROWDED_NS : sweep_tolerance(kernel->handler) / 3 / slices;

	return needed < SLICE_NS ? needed : SLICE_NS;
}

/* A table that is nearly full drops the flows that seem idle for longest: it needs to know early which are not. */
static uint64_t sweep_period(const struct gw_kernel *kernel)
{
	const uint64_t most = sweep_tolerance(kernel->handler) / 2;
	const bool at_once = gw_flows_are_many(kernel->flows.flows) || kernel->flows.crowded;
	const uint64_t wanted = at_once ? 0 : kernel->swept_ns * SWEEP_SHARE;
	const uint64_t period = wanted < most ? wanted : most;

	return period > SWEEP_NS ? period : SWEEP_NS;
}

/* Also for the thread that lets flows expire, which takes turns with K. */
int gw_kernel_sweep(struct gw_kernel *kernel)
{
	const uint64_t now_ns = gw_now_ns(), tolerance = sweep_tolerance(kernel->handler);
	bool swept, works = true;

	do {
		pthread_mutex_lock(&kernel->lock);
		swept = kernel->counts.entries == 0 || now_ns - kernel->flows.complete_ns <= tolerance ||
		        kernel->flows.complete_ns > now_ns;
		if (!swept)
			works = gw_kernel_flows_sweep(&kernel->flows, gw_now_ns());
		pthread_mutex_unlock(&kernel->lock);
		if (!swept)
			usleep(TURN_US);
	} while (!swept && works);
	return works ? 0 : -EIO;
}

/* How old the beginning of the last sweep may be, for no flow to expire while the kernel carries it. */
static uint64_t sweep_tolerance(const struct gw_handler *handler)
{
	const unsigned idle_s = handler->tcp_idle_s < handler->udp_idle_s ? handler->tcp_idle_s : handler->udp_idle_s;

	return idle_s * 1000 * MS / 4;
}

unsigned gw_kernel_free_links(struct gw_kernel *kernel, uint64_t idle_ns)
{
	const uint64_t now_ns = gw_now_ns(), latest_ns = now_ns > idle_ns ? now_ns - idle_ns : 0;
	uint64_t since_ns;
	unsigned freed;

	pthread_mutex_lock(&kernel->lock);
	/* A sweep from beginning to end has found no flow of such a pair, or there is none at all. */
	since_ns = kernel->counts.entries == 0 ? now_ns : kernel->flows.complete_ns;
	if (since_ns > latest_ns)
		since_ns = latest_ns;
	freed = gw_kernel_links_free(&kernel->flows.links, since_ns);
	pthread_mutex_unlock(&kernel->lock);
	return freed;
}

/* ---- Asleep ------------------------------------------------------------------------------------------------------*/

static void sleep_until(struct gw_kernel *kernel, uint64_t until_ns)
{
	const uint64_t now_ns = gw_now_ns(), pause_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	const struct timespec pause = { .tv_sec = (time_t)(pause_ns / (1000 * MS)),
		                        .tv_nsec = (long)(pause_ns % (1000 * MS)) };
	struct pollfd bell = { .fd = kernel->promotion.bell, .events = POLLIN };

	if (pause_ns == 0) {
		sched_yield();
		return;
	}
	if (pause_ns > NAP_NS) {
		atomic_store(&kernel->promotion.sleeps, true);
		if (has_requests(kernel)) {
			atomic_store(&kernel->promotion.sleeps, false);
			return;
		}
	}
	if (ppoll(&bell, 1, &pause, NULL) > 0)
		gw_bell_silence(kernel->promotion.bell);
	atomic_store(&kernel->promotion.sleeps, false);
}

static bool has_requests(const struct gw_kernel *kernel)
{
	bool any = atomic_load(&kernel->promotion.overran);

	for (unsigned i = 0; i < kernel->handler->shared.receivers; i++)
		any |= gw_promote_peek(kernel->promote[i]) != NULL;
	return any;
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

void gw_kernel_stop(struct gw_kernel *kernel)
{
	atomic_store(&kernel->stop, true);
	gw_bell_ring(kernel->promotion.bell);
}

void gw_kernel_leave(struct gw_kernel *kernel)
{
	atomic_store(&kernel->leave, true);
	gw_kernel_stop(kernel);
}

void gw_kernel_free(struct gw_kernel *kernel)
{
	gw_kernel_slots_end(&kernel->slots);
	gw_kernel_cycle_end(&kernel->cycle);
	if (kernel->promotion.bell >= 0)
		close(kernel->promotion.bell);
	free(kernel->promotion.untold);
	free(kernel->fence);
	free(kernel->promote);
	(void)pthread_mutex_destroy(&kernel->lock);
	free(kernel);
}
