/* SPDX-License-Identifier: MIT-0 */
/*
 * remainder.c - what a flood leaves of a core: the least that any handler could lose to it.
 *
 * Theory of operation
 *
 * The kernel receives packets in soft interrupts, ahead of any thread of the core.  This program takes the handler's place and
 * does nothing for the packets: it has the port, and a socket without room, so that the kernel drops each where a socket can
 * drop it first.  Meanwhile it counts rounds of arithmetic.  How many it completes in a second, beside how many it completes
 * without traffic, is the share of the core that the packets leave.
 *
 * For each line on standard input it answers with the rounds so far.
 *
 * Usage: remainder
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "failure.h"
#include "geneve.h"

static _Atomic uint64_t rounds;

static void *answer(void *unused)
{
	char line[16];

	while (fgets(line, sizeof(line), stdin)) {
		printf("%llu\n", (unsigned long long)atomic_load_explicit(&rounds, memory_order_relaxed));
		fflush(stdout);
	}
	exit(0);
	return unused;
}

int main(void)
{
	const struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(GENEVE_PORT) };
	const int least = 1;
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	volatile uint64_t value = 1;
	pthread_t thread;

	if (udp < 0 || setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &least, sizeof(least)) < 0 ||
	    bind(udp, (const struct sockaddr *)&own, sizeof(own)) < 0 || pthread_create(&thread, NULL, answer, NULL))
		fail("start");
	for (;;) {
		for (unsigned i = 0; i < 1000; i++)
			value = value * UINT64_C(6364136223846793005) + 1;
		atomic_fetch_add_explicit(&rounds, 1, memory_order_relaxed);
	}
}
