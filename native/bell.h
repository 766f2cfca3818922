/* SPDX-License-Identifier: MIT-0 */
/*
 * bell.h - a bell wakes a thread that sleeps in poll: an eventfd.
 *
 * Theory of operation: anyone may ring it.  It stays readable until the thread that it wakes silences it, so a ring before
 * the thread sleeps is not lost, and many rings are one.
 */
#ifndef GW_BELL_H
#define GW_BELL_H

/* The file descriptor of a new bell; -1 with errno. */
int gw_bell_new(void);

void gw_bell_ring(int bell);
void gw_bell_silence(int bell);

#endif
