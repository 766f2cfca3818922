/* SPDX-License-Identifier: MIT-0 */
/*
 * gate.c - how control threads wait until a receiver has let go of what it found; gate.h tells how.
 */
#include "gate.h"

#include <unistd.h>

#include "bell.h"

/* The pause between two looks.  A receiver is inside for one batch, a thousand datagrams at most. */
#define LOOK_US 100

static void await_off_duty(struct gw_gate *gate);

bool gw_gate_begin(struct gw_gate *gate)
{
	gate->bell = gw_bell_new();
	return gate->bell >= 0;
}

void gw_gate_end(struct gw_gate *gate)
{
	close(gate->bell);
}

void gw_gate_ring(const struct gw_gate *gate)
{
	gw_bell_ring(gate->bell);
}

void gw_gate_call_off(struct gw_gate *gate)
{
	atomic_fetch_add(&gate->asked, 1);
	gw_bell_ring(gate->bell);
}

void gw_gate_await_epoch(const struct gw_gate *gate)
{
	uint32_t seen = atomic_load(&gate->epoch);

	if (seen & 1)
		while (atomic_load(&gate->epoch) == seen)
			usleep(LOOK_US);
}

void gw_gate_await(struct gw_gate *gate)
{
	gw_gate_await_epoch(gate);
	await_off_duty(gate);
}

static void await_off_duty(struct gw_gate *gate)
{
	uint32_t asked;

	if (atomic_load(&gate->held) == 0)
		return;
	gw_gate_call_off(gate);
	asked = atomic_load(&gate->asked);
	while (atomic_load(&gate->held) > 0 && (int32_t)(atomic_load(&gate->obeyed) - asked) < 0)
		usleep(LOOK_US);
}
