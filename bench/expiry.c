/* SPDX-License-Identifier: MIT-0 */
/*
 * expiry.c - how long a packet waits for the flow table while a million idle flows expire.
 *
 * Theory of operation
 *
 * This measures gwlbtun's own table (native/flow.c), without the rest of gwlbtun.  The packet thread does what gwlbtun does
 * for a packet, on some flows that stay in use: it learns the flow on the way in and finds it on the way out.  The control
 * thread expires all other flows.  It does so on another core, while the packet thread works without a break and times each
 * packet.  Then it does so on the same core, while the packet thread sleeps until the next packet is due, every PACKET_NS,
 * and times from then.  The longest wait is shown beside that of as much time in which nothing expires, which is how long the
 * machine itself makes packets wait.
 *
 * Usage: expiry FLOWS ROUNDS CORE OTHER_CORE.  Prints one line of JSON; times by round.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "../native/clock.h"
#include "../native/flow.h"

enum { USED = 64, IDLE_S = 350, PACKET_NS = 100000, MAX_ROUNDS = 100 };

static struct gw_flows *flows;
static struct gw_flow_path way_back = { .origin.gwlb_port = 50000, .header_len = 40 };
static uint32_t clock_s = 1;

static struct {
	int core;
	bool paced;
	_Atomic bool stop;
	uint64_t longest_ns;
} packets;

static void sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)core, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("expiry: sched_setaffinity");
		exit(1);
	}
}

static void make_key(struct gw_flow_key *key, uint32_t number)
{
	*key = (struct gw_flow_key){ .word = { number } };
	key->word[GW_KEY_WORDS - 1] = GW_KEY_WORD(number, number % 2 ? GW_PROTO_TCP : GW_PROTO_UDP, 4, 0, 0);
	gw_flow_hash(flows, key);
}

static void learn(uint32_t number)
{
	struct gw_flow_key key;

	make_key(&key, number);
	if (gw_flows_learn(flows, &key, &way_back, clock_s)) {
		fprintf(stderr, "expiry: the table is full\n");
		exit(1);
	}
}

static void *carry_packets(void *unused)
{
	uint64_t due;

	(void)unused;
	pin(packets.core);
	prctl(PR_SET_TIMERSLACK, 1);
	due = gw_now_ns();
	for (uint32_t number = 0; !atomic_load_explicit(&packets.stop, memory_order_relaxed);
	     number = (number + 1) % USED) {
		struct gw_flow_path path;
		struct gw_flow_key key;
		uint64_t done, waited;

		if (packets.paced)
			sleep_until(due += PACKET_NS);
		learn(number);
		make_key(&key, number);
		if (!gw_flows_find(flows, &key, &path, clock_s)) {
			fprintf(stderr, "expiry: a flow in use is gone\n");
			exit(1);
		}
		done = gw_now_ns();
		waited = done - due;
		if (waited > packets.longest_ns)
			packets.longest_ns = waited;
		/* Packets that came due meanwhile have waited for the same thing. */
		due = packets.paced && waited < PACKET_NS ? due : done;
	}
	return NULL;
}

static void begin_packets(pthread_t *thread)
{
	packets.longest_ns = 0;
	atomic_store(&packets.stop, false);
	if (pthread_create(thread, NULL, carry_packets, NULL)) {
		fprintf(stderr, "expiry: no thread\n");
		exit(1);
	}
	sleep_until(gw_now_ns() + 10000000);
}

static double end_packets(pthread_t thread)
{
	atomic_store(&packets.stop, true);
	pthread_join(thread, NULL);
	return (double)packets.longest_ns / 1000;
}

static void print_times(const char *name, const double *times, unsigned rounds)
{
	printf("\"%s\": [", name);
	for (unsigned i = 0; i < rounds; i++)
		printf("%s%.1f", i ? ", " : "", times[i]);
	printf("]");
}

static void measure(const char *name, uint32_t idle, unsigned rounds, bool paced, int control_core)
{
	double sweep_ms[MAX_ROUNDS], expiring_us[MAX_ROUNDS], calm_us[MAX_ROUNDS];

	packets.paced = paced;
	pin(control_core);
	for (unsigned round = 0; round < rounds; round++) {
		pthread_t thread;
		uint64_t begin, length;

		for (uint32_t i = 0; i < idle; i++)
			learn(USED + i);
		clock_s += IDLE_S + 1;
		begin_packets(&thread);
		begin = gw_now_ns();
		if (gw_flows_expire(flows, clock_s, IDLE_S, IDLE_S) != idle) {
			fprintf(stderr, "expiry: not all have expired\n");
			exit(1);
		}
		length = gw_now_ns() - begin;
		expiring_us[round] = end_packets(thread);
		sweep_ms[round] = (double)length / 1000000;
		begin_packets(&thread);
		sleep_until(gw_now_ns() + length);
		calm_us[round] = end_packets(thread);
	}
	printf("\"%s\": {", name);
	print_times("sweep_ms", sweep_ms, rounds);
	printf(", ");
	print_times("expiring_us", expiring_us, rounds);
	printf(", ");
	print_times("calm_us", calm_us, rounds);
	printf("}");
}

int main(int argc, char **argv)
{
	uint32_t idle;
	unsigned rounds;

	if (argc != 5) {
		fprintf(stderr, "usage: expiry FLOWS ROUNDS CORE OTHER_CORE\n");
		return 2;
	}
	idle = (uint32_t)strtoul(argv[1], NULL, 10);
	rounds = (unsigned)strtoul(argv[2], NULL, 10);
	rounds = rounds < MAX_ROUNDS ? rounds : MAX_ROUNDS;
	packets.core = atoi(argv[3]);
	flows = gw_flows_new(idle + 2 * USED, 1);
	if (!flows) {
		perror("expiry: flow table");
		return 1;
	}
	printf("{\"flows\": %u, ", idle);
	measure("apart", idle, rounds, false, atoi(argv[4]));
	printf(", ");
	measure("together", idle, rounds, true, packets.core);
	printf("}\n");
	gw_flows_free(flows);
	return 0;
}
