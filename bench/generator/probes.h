/* SPDX-License-Identifier: MIT-0 */
/*
 * probes.h - single packets from a second load balancer address.  The kernel delivers what returns to that address.
 *
 * The generator compares each probe that returns byte for byte.  If the command wants it, it times the probe by the kernel's
 * receive time stamp (SO_TIMESTAMPNS).
 */
#ifndef BENCH_GENERATOR_PROBES_H
#define BENCH_GENERATOR_PROBES_H

#include <stdbool.h>
#include <stdint.h>

/* After so long a probe is lost. */
#define PROBE_TIMEOUT_NS UINT64_C(100000000)

void open_probes(void);

/* A command begins: forgets what was counted before it. */
void probes_begin(bool timed);

void probe_send(void);

/* Takes one returned probe, if there is one. */
bool probe_receive(void);
void drain_probes(void);

/* Of the command under way. */
uint32_t probes_sent(void);
bool probes_all_back(void);

/* The command ends: prints the counts and times as JSON. */
void probes_end(void);

#endif
