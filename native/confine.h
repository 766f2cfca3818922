/* SPDX-License-Identifier: MIT-0 */
/*
 * confine.h - what threads of the packet path may not do.
 *
 * Theory of operation
 *
 * A thread of the packet path parses what anyone may have crafted.  Should a fault in it ever let a sender run code there, the
 * thread must be of little use: it gives up its capabilities, all rights to gain others (no_new_privs), and every system call
 * that neither the packet path nor Python's own thread needs.  A call that is not on the list fails, so that a C library that
 * wants another one reports an error instead of killing the appliance.  The kernel raises SIGSYS for it, whose handler counts
 * it (gw_refused_call) and has it return EPERM; or ENOSYS, where there are kernels without such a call.
 *
 * All of this is the calling thread's own: capabilities, no_new_privs and the filter belong to threads, not to processes.
 * Control threads run hooks, and stay as they are.
 */
#ifndef GW_CONFINE_H
#define GW_CONFINE_H

#include <stdint.h>

#include "gwlbtun.h"

/* What gw_confine() could do, as bits. */
#define GW_CONFINED_CAPABILITIES 1
#define GW_CONFINED_PRIVILEGES 2
#define GW_CONFINED_CALLS 4

/* Of its permitted capabilities, the calling thread uses those in the mask (a bit for each, as in <linux/capability.h>) and
 * no others, until it asks again.  0 or -errno. */
GW_EXPORT int gw_use_capabilities(uint64_t mask);

/* Confines the calling thread, for good: it keeps the capabilities in the mask, if it has them, and with `calls` those system
 * calls that the packet path needs.  Returns GW_CONFINED_ bits, since a kernel may lack seccomp. */
GW_EXPORT int gw_confine(uint64_t mask, int calls);

/* Any thread: the number of a system call that was refused since it was last told here, and how often; -1: none.  A number
 * that is no call of this architecture counts as 1024. */
GW_EXPORT int gw_refused_call(uint32_t *times);

#endif
