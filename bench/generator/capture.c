/* SPDX-License-Identifier: MIT-0 */
#include <net/ethernet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../failure.h"
#include "capture.h"
#include "packets.h"
#include "sockets.h"

struct captured captured;

static int capture_fd = -1;
static uint32_t *expected; /* by flow, the sequence number that comes next */
static uint8_t buffer[1 << 18];

void capture_begin(void)
{
	capture_fd = packet_socket(ETHERTYPE_IP);
	expected = malloc(opt.flows * sizeof(*expected));
	if (!expected)
		fail("no memory for the capture");
	for (uint32_t flow = 0; flow < opt.flows; flow++)
		expected[flow] = burst_of(flow)->sequence;
	captured = (struct captured){ 0, 0, 0 };
}

/* One returned frame: a packet, or many behind one outer header.  The kernel would repeat that header for each. */
static void capture_frame(const uint8_t *frame, size_t length)
{
	const uint8_t *ip = frame + ETHERNET, *udp = ip + 20;
	uint32_t flow, sequence;

	if (length < OUTER + packet_size || (length - OUTER) % packet_size || ip[0] != 0x45 || ip[9] != IPPROTO_UDP ||
	    memcmp(ip + 12, &opt.target, 4)) {
		captured.wrong++;
		return;
	}
	for (size_t at = OUTER; at < length; at += packet_size) {
		const uint8_t *data = frame + at;
		struct head *of;

		captured.back++;
		flow = flow_in(data);
		sequence = sequence_in(data);
		if (flow >= opt.flows) {
			captured.wrong++;
			continue;
		}
		of = burst_of(flow);
		if (memcmp(ip + 16, &opt.source, 4) || memcmp(udp, of->bytes + ETHERNET + 20, 4) || ip[8] != 64 ||
		    !same_packet(data, packet_size, of))
			captured.wrong++;
		else if (sequence != expected[flow])
			captured.out_of_order++;
		expected[flow] = sequence + 1;
	}
}

bool capture_receive(void)
{
	ssize_t length = recv(capture_fd, buffer, sizeof(buffer), MSG_DONTWAIT | MSG_TRUNC);

	if (length < 0)
		return false;
	capture_frame(buffer, (size_t)length < sizeof(buffer) ? (size_t)length : 0);
	return true;
}

void drain_capture(void)
{
	while (capture_receive())
		;
}

void capture_end(void)
{
	free(expected);
	close(capture_fd);
}
