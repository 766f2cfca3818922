/* SPDX-License-Identifier: MIT-0 */
/*
 * counting.h - how much has returned, as the kernel counts it.
 *
 * The generator does not receive returned packets: that would take time from the handler's core, which does the receiver's
 * softirq work on a veth pair.  Their MAC address is not this device's, so the kernel drops them at its first look.  The
 * driver has counted them by then, in the device's own counters.
 */
#ifndef BENCH_GENERATOR_COUNTING_H
#define BENCH_GENERATOR_COUNTING_H

/* The frames and bytes the device has received so far, as JSON; a super-packet is one frame under one outer header. */
void print_returned(const char *name);

#endif
