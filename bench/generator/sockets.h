/* SPDX-License-Identifier: MIT-0 */
/* sockets.h - the kinds of socket that the generator opens.  What fails here ends the program. */
#ifndef BENCH_GENERATOR_SOCKETS_H
#define BENCH_GENERATOR_SOCKETS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum { SOCKET_BUFFER = 64 << 20 };

void set_option(int fd, int level, int name, int value, const char *what);

/* Frames of the device, those of the protocol received; 0: for sending only. */
int packet_socket(int protocol);

/* To the target's Geneve port, where it is connected. */
int udp_socket(struct in_addr source, uint32_t port, bool connected);

/* The device's own MAC address. */
void device_mac(uint8_t mac[6]);

#endif
