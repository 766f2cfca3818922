/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.h - what the handlers that gwlbtun is measured against have in common: an endpoint's devices, and as much of
 * Geneve as they read.  Each is one program of one file, so everything here is static.
 */
#ifndef BENCH_HANDLER_H
#define BENCH_HANDLER_H

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	GENEVE_PORT = 6081,
	MAX_HEADER = 72, /* of Geneve: GWLB's take 40 */
	INNER_MTU = 8500,
};

#define GWLB_CLASS 0x0108

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t value = 0;

	for (int i = 0; i < 8; i++)
		value = value << 8 | at[i];
	return value;
}

/* The ENI ID in a Geneve packet of GWLB, whose header takes *header bytes; 0 if it is none. */
static uint64_t parse(const uint8_t *packet, size_t length, size_t *header)
{
	uint64_t eni = 0;

	if (length < 8 || packet[0] >> 6)
		return 0;
	*header = 8 + (packet[0] & 63u) * 4;
	if (*header > length || *header > MAX_HEADER)
		return 0;
	for (size_t at = 8; at + 4 <= *header; at += 4 + (packet[at + 3] & 31u) * 4)
		if (get16(packet + at) == GWLB_CLASS && packet[at + 2] == 1 && at + 12 <= *header)
			eni = get64(packet + at + 4);
	return eni;
}

static void base60(char *text, uint64_t value)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX";
	char reversed[16];
	size_t length = 0;

	do {
		reversed[length++] = digits[value % 60];
		value /= 60;
	} while (value);
	while (length)
		*text++ = reversed[--length];
	*text = 0;
}

static int make_tun(const char *prefix, uint64_t eni, short flags, unsigned offloads, char *name)
{
	struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | flags)};
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	memcpy(request.ifr_name, prefix, 4);
	base60(request.ifr_name + 4, eni);
	if (control < 0 || fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ||
	    (offloads && ioctl(fd, TUNSETOFFLOAD, offloads) < 0))
		fail("TUN device");
	memcpy(name, request.ifr_name, IFNAMSIZ);
	request.ifr_mtu = INNER_MTU;
	if (ioctl(control, SIOCSIFMTU, &request) < 0)
		fail("SIOCSIFMTU");
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(control, SIOCSIFFLAGS, &request) < 0)
		fail("SIOCSIFFLAGS");
	close(control);
	return fd;
}

/* Makes gwi-X and gwo-X, up, and calls the hook as gwlbtun would.  flags and offloads: of TUNSETIFF and TUNSETOFFLOAD. */
static void make_devices(uint64_t eni, const char *hook, short flags, unsigned offloads, int *gwi_fd, int *gwo_fd)
{
	char gwi[IFNAMSIZ], gwo[IFNAMSIZ], command[512];

	*gwi_fd = make_tun("gwi-", eni, flags, offloads, gwi);
	*gwo_fd = make_tun("gwo-", eni, flags, offloads, gwo);
	snprintf(command, sizeof(command), "%s CREATE %s %s %017llx", hook, gwi, gwo, (unsigned long long)eni);
	if (system(command))
		fail(command);
}

#endif
