/* SPDX-License-Identifier: MIT-0 */
/*
 * duty.c - who does the work of a T thread; duty.h tells how.
 *
 * The functions stand in the order of a T thread's life: absent until it is called, on duty, asleep, relieved, recalled.
 */
#include "duty.h"

#include <poll.h>
#include <sched.h>

#include "bell.h"

static bool change(struct gw_duty *duty, uint32_t from, uint32_t to);
static bool has_work(const struct gw_duty *duty);
static uint32_t word_of(unsigned receiver);

void gw_duty_vacate(struct gw_duty *duty)
{
	atomic_store(&duty->who, GW_DUTY_ABSENT);
	if (!gw_duty_rings_empty(duty))
		gw_duty_call(duty);
}

void gw_duty_call(struct gw_duty *duty)
{
	for (;;) {
		uint32_t who = atomic_load(&duty->who);

		if (who == GW_DUTY_THREAD)
			return;
		if (who == GW_DUTY_NOBODY || who == GW_DUTY_ABSENT) {
			if (change(duty, who, GW_DUTY_THREAD)) {
				gw_bell_ring(duty->bell);
				return;
			}
		} else if (who & GW_DUTY_CALLED || change(duty, who, who | GW_DUTY_CALLED)) {
			return;
		}
	}
}

/* Changes the duty from `from` to `to`; false if it was not `from`. */
static bool change(struct gw_duty *duty, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong(&duty->who, &from, to);
}

void gw_duty_begin(struct gw_duty *duty)
{
	atomic_store(&duty->who, GW_DUTY_THREAD);
}

bool gw_duty_rest(struct gw_duty *duty, int queue)
{
	struct pollfd fds[2] = { { .fd = duty->bell, .events = POLLIN }, { .fd = queue, .events = POLLIN } };

	atomic_store_explicit(&duty->cpu, sched_getcpu(), memory_order_relaxed);
	atomic_store(&duty->who, GW_DUTY_NOBODY);
	if (has_work(duty) && change(duty, GW_DUTY_NOBODY, GW_DUTY_THREAD))
		return false;
	for (;;) {
		uint32_t who = atomic_load(&duty->who);

		if (who == GW_DUTY_THREAD)
			return false;
		if (who >= GW_DUTY_RECEIVER && !(who & GW_DUTY_CALLED)) {
			(void)change(duty, who, who | GW_DUTY_CALLED);
			continue;
		}
		fds[1].revents = 0;
		/* Without a time-out: a timer costs more than the rest of a sleep. */
		(void)poll(fds, who == GW_DUTY_NOBODY ? 2 : 1, -1);
		if (fds[0].revents)
			gw_bell_silence(duty->bell);
		if (change(duty, GW_DUTY_NOBODY, GW_DUTY_THREAD))
			return fds[1].revents != 0;
	}
}

static bool has_work(const struct gw_duty *duty)
{
	return atomic_load(duty->stop) || !gw_duty_rings_empty(duty);
}

bool gw_duty_take(struct gw_duty *duty, unsigned receiver)
{
	return change(duty, GW_DUTY_NOBODY, word_of(receiver));
}

static uint32_t word_of(unsigned receiver)
{
	return GW_DUTY_RECEIVER + 2 * receiver;
}

bool gw_duty_is_of(const struct gw_duty *duty, unsigned receiver)
{
	return (atomic_load(&duty->who) & ~GW_DUTY_CALLED) == word_of(receiver);
}

void gw_duty_give_back(struct gw_duty *duty, unsigned receiver)
{
	if (change(duty, word_of(receiver), GW_DUTY_NOBODY)) {
		if (!gw_duty_rings_empty(duty))
			gw_duty_call(duty);
		return;
	}
	atomic_store(&duty->who, GW_DUTY_THREAD);
	gw_bell_ring(duty->bell);
}

void gw_duty_recall(struct gw_duty *duty)
{
	int receiver;

	gw_duty_call(duty);
	/* Only now: a U thread may have come on duty just before. */
	receiver = gw_duty_receiver(atomic_load(&duty->who));
	if (receiver >= 0)
		gw_gate_call_off(duty->gate[receiver]);
}
