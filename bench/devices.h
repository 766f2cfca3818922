/* SPDX-License-Identifier: MIT-0 */
/* devices.h - an endpoint's devices, as the handlers that gwlbtun is compared with make them. */
#ifndef BENCH_DEVICES_H
#define BENCH_DEVICES_H

#include <stdint.h>

/* Makes gwi-X and gwo-X, up, and calls the hook as gwlbtun would.  flags and offloads: of TUNSETIFF and TUNSETOFFLOAD. */
void make_devices(uint64_t eni, const char *hook, short flags, unsigned offloads, int *gwi_fd, int *gwo_fd);

#endif
