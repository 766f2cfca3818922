/* SPDX-License-Identifier: MIT-0 */
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../failure.h"
#include "packets.h"
#include "sockets.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23 /* Linux 4.20 */
#endif

void set_option(int fd, int level, int name, int value, const char *what)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		fail(what);
}

int packet_socket(int protocol)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0)
		fail("AF_PACKET socket");
	if (protocol) {
		set_option(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
		set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER, "SO_RCVBUFFORCE");
	}
	at.sll_ifindex = (int)if_nametoindex(opt.device);
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		fail(opt.device);
	return fd;
}

int udp_socket(struct in_addr source, uint32_t port, bool connected)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = source };
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(GENEVE_PORT), .sin_addr = opt.target };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		fail("UDP socket");
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		fail("bind");
	if (connected && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		fail("connect");
	return fd;
}

void device_mac(uint8_t mac[6])
{
	struct ifreq request = { 0 };
	int fd = packet_socket(0);

	strncpy(request.ifr_name, opt.device, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		fail("SIOCGIFHWADDR");
	memcpy(mac, request.ifr_hwaddr.sa_data, 6);
	close(fd);
}
