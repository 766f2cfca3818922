/* SPDX-License-Identifier: MIT-0 */
/*
 * relief.c - U threads that do the work of sleeping T threads; relief.h tells how.
 */
#include "relief.h"

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include "bell.h"

/* A T thread for which nothing has come for so long makes room for another. */
#define UNUSED_S 2u

/* ---- T threads ----------------------------------------------------------------------------------------------------*/

/* True if the duty was that, and is the other now. */
static bool change(struct gw_tunnel *tunnel, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong(&tunnel->duty, &from, to);
}

static bool has_work(const struct gw_tunnel *tunnel)
{
	return atomic_load(&tunnel->endpoint->stop) || !gw_tunnel_rings_empty(tunnel);
}

bool gw_duty_rest(struct gw_tunnel *tunnel)
{
	struct pollfd fds[2] = { { .fd = tunnel->bell, .events = POLLIN }, { .fd = tunnel->fd, .events = POLLIN } };

	atomic_store_explicit(&tunnel->cpu, sched_getcpu(), memory_order_relaxed);
	atomic_store(&tunnel->duty, GW_DUTY_NOBODY);
	if (has_work(tunnel) && change(tunnel, GW_DUTY_NOBODY, GW_DUTY_THREAD))
		return false;
	for (;;) {
		uint32_t duty = atomic_load(&tunnel->duty);

		if (duty == GW_DUTY_THREAD)
			return false;
		if (duty >= GW_DUTY_RECEIVER && !(duty & GW_DUTY_CALLED)) {
			(void)change(tunnel, duty, duty | GW_DUTY_CALLED);
			continue;
		}
		fds[1].revents = 0;
		/* No time-out: a timer for each sleep costs more than the rest of it. */
		(void)poll(fds, duty == GW_DUTY_NOBODY ? 2 : 1, -1);
		if (fds[0].revents)
			gw_bell_silence(tunnel->bell);
		if (change(tunnel, GW_DUTY_NOBODY, GW_DUTY_THREAD))
			return fds[1].revents != 0;
	}
}

void gw_duty_call(struct gw_tunnel *tunnel)
{
	for (;;) {
		uint32_t duty = atomic_load(&tunnel->duty);

		if (duty == GW_DUTY_THREAD)
			return;
		if (duty == GW_DUTY_NOBODY || duty == GW_DUTY_ABSENT) {
			if (change(tunnel, duty, GW_DUTY_THREAD)) {
				gw_bell_ring(tunnel->bell);
				return;
			}
		} else if (duty & GW_DUTY_CALLED || change(tunnel, duty, duty | GW_DUTY_CALLED)) {
			return;
		}
	}
}

void gw_duty_vacate(struct gw_tunnel *tunnel)
{
	atomic_store(&tunnel->duty, GW_DUTY_ABSENT);
	if (!gw_tunnel_rings_empty(tunnel))
		gw_duty_call(tunnel);
}

void gw_duty_recall(struct gw_tunnel *tunnel)
{
	uint32_t duty = atomic_load(&tunnel->duty);

	gw_duty_call(tunnel);
	if (duty >= GW_DUTY_RECEIVER)
		gw_receiver_call_off(tunnel->endpoint->handler->receiver[(duty - GW_DUTY_RECEIVER) / 2]);
}

/* ---- U threads ----------------------------------------------------------------------------------------------------*/

static uint32_t own_duty(const struct gw_relief *relief)
{
	return GW_DUTY_RECEIVER + 2 * relief->receiver;
}

bool gw_relief_begin(struct gw_relief *relief, struct gw_handler *handler, unsigned receiver)
{
	relief->handler = handler;
	relief->receiver = receiver;
	relief->bell = gw_bell_new();
	return relief->bell >= 0;
}

void gw_relief_end(struct gw_relief *relief)
{
	close(relief->bell);
}

/* Goes off duty.  The T thread is woken if there is work for it, or if it would not notice that there is. */
static void go_off(struct gw_relief *relief, struct gw_tunnel *tunnel)
{
	if (change(tunnel, own_duty(relief), GW_DUTY_NOBODY)) {
		if (!gw_tunnel_rings_empty(tunnel))
			gw_duty_call(tunnel);
		return;
	}
	atomic_store(&tunnel->duty, GW_DUTY_THREAD);
	gw_bell_ring(tunnel->bell);
}

static void remove_at(struct gw_relief *relief, unsigned i)
{
	unsigned last = atomic_load_explicit(&relief->count, memory_order_relaxed) - 1;

	go_off(relief, relief->tunnel[i]);
	relief->tunnel[i] = relief->tunnel[last];
	relief->used_s[i] = relief->used_s[last];
	atomic_store(&relief->count, last);
}

static unsigned find(const struct gw_relief *relief, const struct gw_tunnel *tunnel)
{
	unsigned i = 0;

	while (relief->tunnel[i] != tunnel)
		i++;
	return i;
}

/* Goes off duty, and has the T thread see to it. */
static void hand_back(struct gw_relief *relief, struct gw_tunnel *tunnel)
{
	/* In this order: once it is removed, nothing keeps the endpoint. */
	gw_duty_call(tunnel);
	remove_at(relief, find(relief, tunnel));
}

static bool make_room(struct gw_relief *relief, uint32_t now_s)
{
	if (relief->count < GW_RELIEVED_MAX)
		return true;
	for (unsigned i = 0; i < GW_RELIEVED_MAX; i++)
		if (now_s - relief->used_s[i] >= UNUSED_S) {
			remove_at(relief, i);
			return true;
		}
	return false;
}

static bool is_loss(const struct gw_tunnel *tunnel, bool behind)
{
	return behind && atomic_load_explicit(&tunnel->cpu, memory_order_relaxed) != sched_getcpu();
}

/* True if this thread is on duty there now, to stay. */
static bool stand_in(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind, uint32_t now_s)
{
	if ((atomic_load(&tunnel->duty) & ~GW_DUTY_CALLED) == own_duty(relief)) {
		if (is_loss(tunnel, behind)) {
			hand_back(relief, tunnel);
			return false;
		}
		relief->used_s[find(relief, tunnel)] = now_s;
		return true;
	}
	if (is_loss(tunnel, behind) || !make_room(relief, now_s) || !change(tunnel, GW_DUTY_NOBODY, own_duty(relief)))
		return false;
	/* Or it would stay in a poll that the kernel wakes for each packet, on its queue as well. */
	gw_bell_ring(tunnel->bell);
	relief->tunnel[relief->count] = tunnel;
	relief->used_s[relief->count] = now_s;
	atomic_store(&relief->count, relief->count + 1);
	return true;
}

/* Writes the frames for a T thread that sleeps, and is off duty again. */
static bool lend_a_hand(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind)
{
	if (is_loss(tunnel, behind) || !change(tunnel, GW_DUTY_NOBODY, own_duty(relief)))
		return false;
	/* What it leaves or cannot do is for the T thread to find out. */
	(void)gw_tunnel_serve(tunnel, NULL);
	go_off(relief, tunnel);
	return true;
}

bool gw_relief_hand_over(struct gw_relief *relief, struct gw_endpoint *endpoint, bool behind)
{
	const unsigned threads = relief->handler->tunnel_threads;
	struct gw_tunnel *in = &endpoint->tunnel[GW_GWI][relief->receiver % threads];
	struct gw_tunnel *out = &endpoint->tunnel[GW_GWO][relief->receiver % threads];
	const uint32_t now_s = gw_now_s(); /* one for both, or the second might take the place of the first */

	if (relief->handler->receivers > threads || !stand_in(relief, in, behind, now_s)) {
		if (!lend_a_hand(relief, in, behind))
			gw_duty_call(in);
		return false;
	}
	/* First, so that nobody wakes for what the writing sends there. */
	if (!stand_in(relief, out, behind, now_s))
		out = NULL;
	if (gw_tunnel_serve(in, out))
		return out != NULL;
	/* For the T threads to go on with, or to find out what is wrong, and to tell. */
	hand_back(relief, in);
	if (out)
		hand_back(relief, out);
	return false;
}

void gw_relief_ring(const struct gw_relief *relief)
{
	gw_bell_ring(relief->bell);
}

bool gw_relief_on_duty(struct gw_relief *relief)
{
	uint32_t asked = atomic_load(&relief->asked);

	if (asked != atomic_load_explicit(&relief->obeyed, memory_order_relaxed)) {
		gw_relief_leave(relief);
		atomic_store(&relief->obeyed, asked);
	}
	return relief->count > 0;
}

bool gw_relief_wait(struct gw_relief *relief, int fd, int timeout_ms)
{
	struct pollfd fds[GW_RELIEVED_MAX + 2] = { { .fd = fd, .events = POLLIN }, { .fd = relief->bell, .events = POLLIN } };
	unsigned count = relief->count;

	for (unsigned i = 0; i < count; i++)
		fds[i + 2] = (struct pollfd){ .fd = relief->tunnel[i]->fd, .events = POLLIN };
	if (poll(fds, count + 2, timeout_ms) < 0)
		return false;
	if (fds[1].revents)
		gw_bell_silence(relief->bell);
	/* From the last, as one that is handed back gives its place to that. */
	for (unsigned i = count; i-- > 0;)
		if (fds[i + 2].revents && !gw_tunnel_read(relief->tunnel[i]))
			hand_back(relief, relief->tunnel[i]);
	return fds[0].revents != 0;
}

void gw_relief_leave(struct gw_relief *relief)
{
	while (relief->count > 0)
		remove_at(relief, relief->count - 1);
}

void gw_relief_ask(struct gw_relief *relief)
{
	atomic_fetch_add(&relief->asked, 1);
	gw_bell_ring(relief->bell);
}

void gw_relief_await(struct gw_relief *relief)
{
	uint32_t asked;

	if (atomic_load(&relief->count) == 0)
		return;
	gw_relief_ask(relief);
	asked = atomic_load(&relief->asked);
	while (atomic_load(&relief->count) > 0 && (int32_t)(atomic_load(&relief->obeyed) - asked) < 0)
		usleep(100);
}
