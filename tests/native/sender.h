/* SPDX-License-Identifier: MIT-0 */
/*
 * sender.h - a load balancer on loopback, for stress_handler.c: packets that are fine and packets that are not, of ENIS ENI IDs.
 */
#ifndef GW_TEST_SENDER_H
#define GW_TEST_SENDER_H

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define RECEIVERS 2u
#define DATAGRAMS_PER_PORT 500u
#define ENIS 16u
#define TOGETHER 8u /* packets in a datagram of a sender that lets the kernel cut it */
#define PAYLOAD 20u

static const uint8_t geneve[] = { 0x08, 0, 0x08, 0, 0, 0, 0, 0, 1, 8, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0,
	                          1,    8, 2,    2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 8, 3, 1, 9, 9, 9, 9 };
static const uint8_t udp4[] = { 0x45, 0, 0, 28 + PAYLOAD, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9,
	                        0,    9, 0, 8 + PAYLOAD,  0, 1 };
#define PACKET (sizeof(geneve) + sizeof(udp4) + PAYLOAD)

static unsigned datagrams; /* that each sender sends */
static struct sockaddr_in address_of[RECEIVERS];
static _Atomic bool judging;    /* most have been sent */
static _Atomic bool taken_over; /* a second handler is at work: until then, half is kept back */

static void require(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "stress_handler: %s\n", what);
	abort();
}

static void write_packet(uint8_t *at, unsigned *seed, bool right)
{
	uint8_t *inner = at + sizeof(geneve);
	const unsigned flow = (unsigned)rand_r(seed);

	memcpy(at, geneve, sizeof(geneve));
	memcpy(inner, udp4, sizeof(udp4));
	memset(inner + sizeof(udp4), 'x', PAYLOAD);
	at[19] = (uint8_t)((unsigned)rand_r(seed) % ENIS);
	inner[20] = (uint8_t)(flow >> 8 & 1);
	inner[21] = (uint8_t)flow;
	if (!right)
		at[(unsigned)rand_r(seed) % PACKET] = (uint8_t)rand_r(seed);
}

/* What is bound there need not be read. */
static int balancer_socket(uint16_t port)
{
	const struct sockaddr_in address = { .sin_family = AF_INET,
		                             .sin_port = htons(port),
		                             .sin_addr.s_addr = inet_addr("127.77.0.1") };
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);

	/* If another program has port 6081, what returns is refused. */
	require(bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 || port != 0, "no port");
	return fd;
}

static void *send_packets(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;
	const unsigned together = seed % 2 ? TOGETHER : 1;
	const int size = (int)PACKET;
	uint8_t datagram[TOGETHER * PACKET];
	int fd = -1;

	for (unsigned i = 0; i < datagrams; i++) {
		const struct sockaddr_in *to = &address_of[(unsigned)rand_r(&seed) % RECEIVERS];

		while (i == datagrams / 2 && !atomic_load(&taken_over))
			usleep(1000);
		if (i > datagrams / 8 * 7)
			atomic_store(&judging, true);
		if (i % DATAGRAMS_PER_PORT == 0) {
			close(fd);
			fd = balancer_socket(0);
			if (together > 1)
				require(setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) == 0,
				        "no UDP_SEGMENT");
		}
		for (unsigned k = 0; k < together; k++)
			write_packet(datagram + k * PACKET, &seed, rand_r(&seed) % 16 != 0);
		(void)sendto(fd, datagram, together * PACKET, 0, (const struct sockaddr *)to, sizeof(*to));
		if (i % 64 == 0)
			usleep(1000); /* or most would be lost before anybody saw them */
	}
	close(fd);
	return NULL;
}

#endif
