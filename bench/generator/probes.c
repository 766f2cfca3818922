/* SPDX-License-Identifier: MIT-0 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../failure.h"
#include "clock.h"
#include "packets.h"
#include "probes.h"
#include "sockets.h"

enum {
	MAX_PROBES = 1 << 20,
	WORST_SAMPLES = 100000, /* latencies kept of one command */
};

static int send_fd = -1;
static int receive_fd = -1;
static uint64_t *probe_sent_ns; /* by sequence number, CLOCK_REALTIME */
static uint32_t probe_first;    /* the first of the command under way */
static uint32_t probe_next;
static uint32_t probes_back;
static uint32_t probes_wrong;
static uint64_t *samples;
static size_t sample_count;

void open_probes(void)
{
	send_fd = udp_socket(opt.probe_source, FIRST_PORT + port_of(opt.flows), true);
	/* No checksum, as the load balancer sends: those with one never take the path in the kernel. */
	set_option(send_fd, SOL_SOCKET, SO_NO_CHECK, 1, "SO_NO_CHECK");
	receive_fd = udp_socket(opt.probe_source, GENEVE_PORT, false);
	set_option(receive_fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER, "SO_RCVBUFFORCE");
	probe_sent_ns = calloc(MAX_PROBES, sizeof(*probe_sent_ns));
	samples = calloc(WORST_SAMPLES, sizeof(*samples));
	if (!probe_sent_ns || !samples)
		fail("no memory");
}

static void time_stamps(bool on)
{
	set_option(receive_fd, SOL_SOCKET, SO_TIMESTAMPNS, on, "SO_TIMESTAMPNS");
}

void probes_begin(bool timed)
{
	time_stamps(timed);
	drain_probes();
	probe_first = probe_next;
	probes_back = 0;
	probes_wrong = 0;
	sample_count = 0;
}

void probe_send(void)
{
	struct iovec iov[2];
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };

	payload_pieces(iov, &probe);
	stamp(&probe, probe_next);
	probe_sent_ns[probe_next % MAX_PROBES] = now_ns(CLOCK_REALTIME);
	probe_next++;
	if (sendmsg(send_fd, &message, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
		fail("probe");
}

bool probe_receive(void)
{
	static uint8_t data[65536];
	union {
		char bytes[CMSG_SPACE(sizeof(struct timespec))];
		struct cmsghdr align;
	} control;
	struct sockaddr_in from;
	struct iovec iov = { data, sizeof(data) };
	struct msghdr message = { .msg_name = &from,
		                  .msg_namelen = sizeof(from),
		                  .msg_iov = &iov,
		                  .msg_iovlen = 1,
		                  .msg_control = control.bytes,
		                  .msg_controllen = sizeof(control.bytes) };
	ssize_t length = recvmsg(receive_fd, &message, MSG_DONTWAIT);
	struct cmsghdr *header;
	struct timespec stamped;
	uint32_t sequence;
	uint64_t received;

	if (length < 0)
		return false;
	if (!same_packet(data, (size_t)length, &probe) || from.sin_addr.s_addr != opt.target.s_addr ||
	    ntohs(from.sin_port) != FIRST_PORT + port_of(opt.flows)) {
		probes_wrong++;
		return true;
	}
	sequence = sequence_in(data);
	if (sequence - probe_first >= probe_next - probe_first)
		return true; /* of an earlier command: too late */
	probes_back++;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SO_TIMESTAMPNS || sample_count == WORST_SAMPLES)
		return true;
	memcpy(&stamped, CMSG_DATA(header), sizeof(stamped));
	received = timespec_ns(&stamped);
	samples[sample_count++] = received - probe_sent_ns[sequence % MAX_PROBES];
	return true;
}

void drain_probes(void)
{
	while (probe_receive())
		;
}

uint32_t probes_sent(void)
{
	return probe_next - probe_first;
}

bool probes_all_back(void)
{
	return probes_back + probes_wrong >= probes_sent();
}

static int compare_samples(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

static double percentile_us(double share)
{
	if (!sample_count)
		return 0;
	return (double)samples[(size_t)(share * (double)(sample_count - 1))] / 1000;
}

void probes_end(void)
{
	time_stamps(false);
	qsort(samples, sample_count, sizeof(*samples), compare_samples);
	printf("\"probes\": {\"sent\": %u, \"back\": %u, \"wrong\": %u, \"timed\": %zu, \"p50_us\": %.3f, \"p99_us\": "
	       "%.3f, "
	       "\"max_us\": %.3f}",
	       probes_sent(), probes_back, probes_wrong, sample_count, percentile_us(0.5), percentile_us(0.99),
	       percentile_us(1));
}
