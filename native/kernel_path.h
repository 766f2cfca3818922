/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_path.h - thread K: which flows take the kernel, and when.
 *
 * Theory of operation
 *
 * K is a control thread.  It takes the requests of U threads (promote.h, kernel_flows.h), runs fence cycles while packets of
 * flows in the map go up (kernel_cycle.h), sweeps the map, and keeps the clock of the programs.  It sleeps as long as it can:
 * with an empty map until a U thread wakes it, else for a tenth of a second.
 *
 * Its lock is for control threads: those that switch endpoints on and off, and the one that lets flows expire, which must have
 * swept the map before.
 *
 * U threads find what they need by `promotion` in shared.h while K works.  It is taken away when K stops, and K returns when no
 * U thread uses it any more.
 *
 * For a restart in place K may leave all to the K of the next program: maps, programs and which endpoints are on.  Packets of flows
 * that are in the kernel take it meanwhile, and what goes up stays up, since nobody publishes what is through.  U threads rest
 * from before K leaves until the next K offers itself, so that none learns what no K hears of.
 */
#ifndef GW_KERNEL_PATH_H
#define GW_KERNEL_PATH_H

#include "gwlbtun.h"

#endif
