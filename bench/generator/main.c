/* SPDX-License-Identifier: MIT-0 */
/*
 * main.c - the generator: it plays a Gateway Load Balancer that has much to send.
 *
 * Theory of operation
 *
 * The generator makes the packets first (packets.h), and then sends them at a rate (pace.h) in one of two ways (sending.h).
 * It only counts what returns (counting.h), but for a few probes (probes.h).  A command can have it capture and compare
 * everything instead (capture.h).
 *
 * The generator takes commands on standard input, one a line, and answers each with one line of JSON on standard output.
 * "before", "at_end" (of sending) and "after_grace" are the frames and bytes that the device had received by then.
 *
 *   run RATE MILLISECONDS PROBES STAMP   RATE in packets/s, 0: as fast as possible; PROBES per second; STAMP 1: time them
 *   each RATE                            sends until every flow has sent at least one burst more
 *   verify PACKETS RATE                  captures and compares all that returns
 *   ping COUNT INTERVAL_US               probes one at a time, with nothing else under way
 *   short PACKETS FIRST                  from now on flows end after so many packets, and new ones, numbered from FIRST on,
 *                                        take their places
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "../failure.h"
#include "capture.h"
#include "clock.h"
#include "counting.h"
#include "options.h"
#include "pace.h"
#include "packets.h"
#include "probes.h"
#include "sending.h"
#include "sockets.h"

enum {
	GRACE_NS =
		10000000, /* what has not returned so long after the last packet left was not carried at that rate */
	DRAIN_NS = 300000000, /* after the last packet was captured, how long to wait for another */
};

static uint64_t since(uint64_t begin)
{
	return now_ns(CLOCK_MONOTONIC) - begin;
}

static void command_run(uint64_t rate, uint64_t milliseconds, uint64_t probes_per_s, bool timed)
{
	const struct pace pace = { .rate = rate,
		                   .duration_ns = milliseconds * 1000000,
		                   .packets = UINT64_MAX,
		                   .probes_per_s = probes_per_s,
		                   .each = drain_probes };
	struct paced done;
	uint64_t start, end;

	probes_begin(timed);
	printf("{");
	print_returned("before");
	start = now_ns(CLOCK_MONOTONIC);
	done = send_at(&pace);
	end = now_ns(CLOCK_MONOTONIC);
	print_returned("at_end");
	while (since(end) < GRACE_NS)
		probe_receive();
	print_returned("after_grace");
	while (!probes_all_back() && since(end) < PROBE_TIMEOUT_NS)
		probe_receive();
	probes_end();
	printf(", \"sent\": %llu, \"seconds\": %.6f, \"given_up_s\": %.6f}\n",
	       (unsigned long long)done.sent + probes_sent(), (double)(end - start) / 1e9,
	       (double)done.given_up_ns / 1e9);
}

static void command_each(uint64_t rate)
{
	const struct pace pace = { .rate = rate,
		                   .duration_ns = 60 * NS_PER_S,
		                   .packets = (uint64_t)opt.flows * opt.burst };
	uint64_t start = now_ns(CLOCK_MONOTONIC);
	struct paced done = send_at(&pace);

	printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)done.sent, (double)since(start) / 1e9);
}

static void command_verify(uint64_t packets, uint64_t rate)
{
	const struct pace pace = {
		.rate = rate, .duration_ns = 60 * NS_PER_S, .packets = packets, .each = drain_capture
	};
	struct paced done;

	capture_begin();
	done = send_at(&pace);
	for (uint64_t last = now_ns(CLOCK_MONOTONIC); since(last) < DRAIN_NS && captured.back < done.sent;)
		if (capture_receive())
			last = now_ns(CLOCK_MONOTONIC);
	printf("{\"sent\": %llu, \"back\": %llu, \"wrong\": %llu, \"out_of_order\": %llu}\n",
	       (unsigned long long)done.sent, (unsigned long long)captured.back, (unsigned long long)captured.wrong,
	       (unsigned long long)captured.out_of_order);
	capture_end();
}

static void command_ping(uint64_t count, uint64_t interval_us)
{
	const struct timespec pause = { (time_t)(interval_us / 1000000), (long)(interval_us % 1000000) * 1000 };

	probes_begin(true);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t start = now_ns(CLOCK_MONOTONIC);

		probe_send();
		while (!probe_receive() && since(start) < PROBE_TIMEOUT_NS)
			;
		if (interval_us)
			nanosleep(&pause, NULL);
	}
	printf("{");
	probes_end();
	printf("}\n");
}

static void command_short(uint64_t packets, uint64_t first)
{
	shorten_flows((uint32_t)packets, (uint32_t)first);
	printf("{\"places\": %u}\n", opt.flows);
}

static void serve(void)
{
	char line[256];
	unsigned long long a, b, c, d;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %llu %llu %llu %llu", &a, &b, &c, &d) == 4)
			command_run(a, b, c, d != 0);
		else if (sscanf(line, "each %llu", &a) == 1)
			command_each(a);
		else if (sscanf(line, "verify %llu %llu", &a, &b) == 2)
			command_verify(a, b);
		else if (sscanf(line, "ping %llu %llu", &a, &b) == 2)
			command_ping(a, b);
		else if (sscanf(line, "short %llu %llu", &a, &b) == 2)
			command_short(a, b);
		else
			usage("no such command");
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	uint8_t own_mac[6];

	parse_options(argc, argv);
	device_mac(own_mac);
	make_packets(own_mac);
	open_sending();
	open_probes();
	printf("{\"packet_size\": %zu, \"frame_overhead\": %d}\n", packet_size, OUTER);
	fflush(stdout);
	serve();
	return 0;
}
