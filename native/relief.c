/* SPDX-License-Identifier: MIT-0 */
/*
 * relief.c - U threads that do the work of T threads that sleep; relief.h tells how.
 *
 * The functions stand in the order of a relief: begun when records are handed over, gone on with in poll, ended.
 */
#include "relief.h"

#include <poll.h>
#include <sched.h>

#include "bell.h"
#include "clock.h"

/* A T thread that had no work for this long makes room for another. */
#define UNUSED_S 2u

static bool stand_in(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind, uint32_t now_s);
static bool is_loss(const struct gw_tunnel *tunnel, bool behind);
static bool make_room(struct gw_relief *relief, uint32_t now_s);
static bool lend_a_hand(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind);
static void hand_back(struct gw_relief *relief, struct gw_tunnel *tunnel);
static unsigned find(const struct gw_relief *relief, const struct gw_tunnel *tunnel);
static void remove_at(struct gw_relief *relief, unsigned i);

bool gw_relief_hand_over(struct gw_relief *relief, struct gw_tunnel *in, struct gw_tunnel *out, bool behind)
{
	const uint32_t now_s = gw_now_s(); /* one check for both, or the second might take the place of the first */

	if (!relief->alone || !stand_in(relief, in, behind, now_s)) {
		if (!lend_a_hand(relief, in, behind))
			gw_duty_call(&in->duty);
		return false;
	}
	/* This comes first, so that nobody wakes for what the writing makes Linux send there. */
	if (!stand_in(relief, out, behind, now_s))
		out = NULL;
	if (gw_tunnel_serve(in, out))
		return out != NULL;
	/* The T threads go on with it, or find out what is wrong and report it. */
	hand_back(relief, in);
	if (out)
		hand_back(relief, out);
	return false;
}

/* True if this thread is on duty there now and stays so. */
static bool stand_in(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind, uint32_t now_s)
{
	struct gw_gate *gate = relief->gate;

	if (gw_duty_is_of(&tunnel->duty, relief->receiver)) {
		if (is_loss(tunnel, behind)) {
			hand_back(relief, tunnel);
			return false;
		}
		relief->used_s[find(relief, tunnel)] = now_s;
		return true;
	}
	if (is_loss(tunnel, behind) || !make_room(relief, now_s) || !gw_duty_take(&tunnel->duty, relief->receiver))
		return false;
	/* Otherwise it would stay in a poll that the kernel wakes for each packet on its queue. */
	gw_bell_ring(tunnel->duty.bell);
	relief->tunnel[gate->held] = tunnel;
	relief->used_s[gate->held] = now_s;
	atomic_store(&gate->held, gate->held + 1);
	return true;
}

static bool is_loss(const struct gw_tunnel *tunnel, bool behind)
{
	return behind && atomic_load_explicit(&tunnel->duty.cpu, memory_order_relaxed) != sched_getcpu();
}

static bool make_room(struct gw_relief *relief, uint32_t now_s)
{
	if (relief->gate->held < GW_RELIEVED_MAX)
		return true;
	for (unsigned i = 0; i < GW_RELIEVED_MAX; i++)
		if (now_s - relief->used_s[i] >= UNUSED_S) {
			remove_at(relief, i);
			return true;
		}
	return false;
}

/* Writes the records for a T thread that sleeps, and goes off duty again. */
static bool lend_a_hand(struct gw_relief *relief, struct gw_tunnel *tunnel, bool behind)
{
	if (is_loss(tunnel, behind) || !gw_duty_take(&tunnel->duty, relief->receiver))
		return false;
	/* The T thread finds what this thread leaves or cannot do. */
	(void)gw_tunnel_serve(tunnel, NULL);
	gw_duty_give_back(&tunnel->duty, relief->receiver);
	return true;
}

bool gw_relief_on_duty(struct gw_relief *relief)
{
	uint32_t asked;

	if (gw_gate_is_asked(relief->gate, &asked)) {
		gw_relief_leave(relief);
		gw_gate_obey(relief->gate, asked);
	}
	return relief->gate->held > 0;
}

bool gw_relief_wait(struct gw_relief *relief, int fd, int timeout_ms)
{
	const int bell = relief->gate->bell;
	struct pollfd fds[GW_RELIEVED_MAX + 2] = { { .fd = fd, .events = POLLIN }, { .fd = bell, .events = POLLIN } };
	unsigned count = relief->gate->held;
	int ready;

	for (unsigned i = 0; i < count; i++)
		fds[i + 2] = (struct pollfd){ .fd = relief->tunnel[i]->fd, .events = POLLIN };
	gw_fence_rest(relief->fence);
	ready = poll(fds, count + 2, timeout_ms);
	gw_fence_wake(relief->fence);
	if (ready < 0)
		return false;
	if (fds[1].revents)
		gw_bell_silence(bell);
	/* Backwards, since the last one takes the place of one that is handed back. */
	for (unsigned i = count; i-- > 0;)
		if (fds[i + 2].revents && !gw_tunnel_read(relief->tunnel[i]))
			hand_back(relief, relief->tunnel[i]);
	return fds[0].revents != 0;
}

/* Goes off duty and calls the T thread. */
static void hand_back(struct gw_relief *relief, struct gw_tunnel *tunnel)
{
	/* In this order: once it is removed, nothing holds the endpoint. */
	gw_duty_call(&tunnel->duty);
	remove_at(relief, find(relief, tunnel));
}

static unsigned find(const struct gw_relief *relief, const struct gw_tunnel *tunnel)
{
	unsigned i = 0;

	while (relief->tunnel[i] != tunnel)
		i++;
	return i;
}

static void remove_at(struct gw_relief *relief, unsigned i)
{
	unsigned last = atomic_load_explicit(&relief->gate->held, memory_order_relaxed) - 1;

	gw_duty_give_back(&relief->tunnel[i]->duty, relief->receiver);
	relief->tunnel[i] = relief->tunnel[last];
	relief->used_s[i] = relief->used_s[last];
	atomic_store(&relief->gate->held, last);
}

void gw_relief_leave(struct gw_relief *relief)
{
	while (relief->gate->held > 0)
		remove_at(relief, relief->gate->held - 1);
}
