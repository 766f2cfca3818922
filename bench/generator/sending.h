/* SPDX-License-Identifier: MIT-0 */
/*
 * sending.h - packets on their way to the handler, in one of two ways:
 *
 *   single    Whole frames, outer UDP checksum zero as tunnels often have it, through one AF_PACKET socket by sendmmsg.
 *             The kernel of the receiver does not merge datagrams without a checksum (GRO).
 *   segment   A whole burst as one UDP_SEGMENT message, on a connected UDP socket per source port.  A veth pair carries it
 *             unsegmented, so the receiver sees what a network card's GRO would have made of it.
 *
 * As with GWLB the outer source port depends on the flow; here it is one of --ports (512) ports from 49152 on.
 */
#ifndef BENCH_GENERATOR_SENDING_H
#define BENCH_GENERATOR_SENDING_H

#include <stdint.h>

enum { BATCH = 32 }; /* messages per sendmmsg: enough to make the system call cheap, few enough to pace well */

/* Once the packets are made. */
void open_sending(void);

/* Sends up to `bursts` bursts of the flows whose turn it is.  Returns the packets sent. */
uint32_t send_bursts(uint32_t bursts);

#endif
