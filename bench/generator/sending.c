/* SPDX-License-Identifier: MIT-0 */
#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../failure.h"
#include "packets.h"
#include "sending.h"
#include "sockets.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18 */
#endif
#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20 /* Linux 3.14 */
#endif

static int frame_fd = -1;
static int *port_fds; /* by port_of(), for those that a flow has */
static uint32_t next_flow;

void open_sending(void)
{
	frame_fd = packet_socket(0);
	set_option(frame_fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
	if (!opt.segment)
		return;
	port_fds = malloc(opt.ports * sizeof(*port_fds));
	if (!port_fds)
		fail("sockets");
	memset(port_fds, 0xff, opt.ports * sizeof(*port_fds));
	for (uint32_t flow = 0; flow < opt.flows; flow++) {
		int *fd = &port_fds[port_of(flow)];

		if (*fd >= 0)
			continue;
		*fd = udp_socket(opt.source, FIRST_PORT + port_of(flow), true);
		set_option(*fd, IPPROTO_UDP, UDP_SEGMENT, (int)packet_size, "UDP_SEGMENT");
	}
}

/* The next flow's burst as one message.  Returns the packets sent: the burst, or 0 if the kernel had no room. */
static uint32_t send_segmented(void)
{
	struct iovec iov[2 * MAX_BURST];
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 * opt.burst };
	uint32_t flow = next_flow;
	struct head *burst = burst_of(flow);

	for (uint32_t i = 0; i < opt.burst; i++)
		payload_pieces(&iov[2 * i], &burst[i]);
	if (sendmsg(port_fds[port_of(flow)], &message, 0) < 0) {
		if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
			fail("sendmsg");
		return 0;
	}
	advance(flow);
	next_flow = flow + 1 == opt.flows ? 0 : flow + 1;
	return opt.burst;
}

/* Up to `bursts` bursts, each of another flow, as single frames by one sendmmsg. */
static uint32_t send_single(uint32_t bursts)
{
	struct mmsghdr messages[BATCH + MAX_BURST];
	struct iovec iov[BATCH + MAX_BURST][2];
	uint32_t first = next_flow;
	uint32_t taken = 0, count = 0;
	int sent;

	memset(messages, 0, sizeof(messages));
	for (; taken < bursts && taken < opt.flows && count < BATCH; taken++) {
		struct head *burst = burst_of(next_flow);

		for (uint32_t i = 0; i < opt.burst; i++, count++) {
			frame_pieces(iov[count], &burst[i]);
			messages[count].msg_hdr = (struct msghdr){ .msg_iov = iov[count], .msg_iovlen = 2 };
		}
		next_flow = next_flow + 1 == opt.flows ? 0 : next_flow + 1;
	}
	for (uint32_t done = 0; done < count; done += (uint32_t)sent) {
		sent = sendmmsg(frame_fd, messages + done, count - done, 0);
		if (sent < 0 && errno != ENOBUFS && errno != EAGAIN)
			fail("sendmmsg");
		sent = sent < 0 ? 0 : sent;
	}
	for (uint32_t i = 0; i < taken; i++)
		advance((first + i) % opt.flows);
	return count;
}

uint32_t send_bursts(uint32_t bursts)
{
	return opt.segment ? send_segmented() : send_single(bursts);
}
