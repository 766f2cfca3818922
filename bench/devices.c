/* SPDX-License-Identifier: MIT-0 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices.h"
#include "failure.h"

enum { INNER_MTU = 8500 };

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
	struct ifreq request = { .ifr_flags = (short)(IFF_TUN | IFF_NO_PI | flags) };
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

void make_devices(uint64_t eni, const char *hook, short flags, unsigned offloads, int *gwi_fd, int *gwo_fd)
{
	char gwi[IFNAMSIZ], gwo[IFNAMSIZ], command[512];

	*gwi_fd = make_tun("gwi-", eni, flags, offloads, gwi);
	*gwo_fd = make_tun("gwo-", eni, flags, offloads, gwo);
	snprintf(command, sizeof(command), "%s CREATE %s %s %017llx", hook, gwi, gwo, (unsigned long long)eni);
	if (system(command))
		fail(command);
}
