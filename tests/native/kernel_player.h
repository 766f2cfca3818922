/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_player.h - plays the path in the kernel: thread K with its maps, and a thread that wants fences as programs do.
 *
 * The map is a real one where the user may have one; else K finds that all its calls are refused.
 */
#ifndef KERNEL_PLAYER_H
#define KERNEL_PLAYER_H

#include "../../native/gwlbtun.h"

void player_begin(struct gw_handler *handler, unsigned endpoints, unsigned flows);

/* While an endpoint is open; device: the descriptors of its queues. */
void player_on(struct gw_endpoint *endpoint, const int *device);
void player_off(struct gw_endpoint *endpoint);

/* Before gw_handler_expire(). */
void player_sweep(void);

/* When all endpoints are off.  Prints what K has done. */
void player_end(void);

#endif
