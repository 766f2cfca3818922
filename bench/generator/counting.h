/* SPDX-License-Identifier: MIT-0 */
/*
 * counting.h - how much has returned, as the kernel counts it.
 *
 * Returned packets are not received: that would take time from the handler's core, which does the receiver's softirq work
 * on a veth pair.  Their addressee's MAC address is not this device's, so that the kernel drops them at its first look, and
 * the driver counts them by the device's own counters.
 */
#ifndef BENCH_GENERATOR_COUNTING_H
#define BENCH_GENERATOR_COUNTING_H

/* The frames and bytes the device has received so far, as JSON; a super-packet is one frame under one outer header. */
void print_returned(const char *name);

#endif
