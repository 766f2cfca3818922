/* SPDX-License-Identifier: MIT-0 */
/*
 * bell.c - a bell wakes a thread that sleeps in poll; bell.h tells how.
 */
#include "bell.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int gw_bell_new(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void gw_bell_ring(int bell)
{
	const uint64_t one = 1;
	ssize_t written = write(bell, &one, sizeof(one));

	/* EAGAIN: it rings already.  An eventfd has no other error here. */
	(void)written;
}

void gw_bell_silence(int bell)
{
	uint64_t rung;
	ssize_t got = read(bell, &rung, sizeof(rung));

	/* EAGAIN: it was silent. */
	(void)got;
}
