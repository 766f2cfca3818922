/* SPDX-License-Identifier: MIT-0 */
/*
 * stress_fence.c - what thread K tells the programs in the kernel to be through is through.
 *
 * Takes seconds, and a load: how many packets may be under way.  Where a busy machine has let nothing through by then, it goes
 * on until something is, for a minute at most.  This plays the programs: it lets packets go up on both ways,
 * sets `wanted`, and notes the time.  Whenever K has published a time, all that went up before it must have been written to
 * gwi, or sent to the load balancer, as the threads' counters have it.  What went up in an earlier life of the endpoint is
 * excepted: on a busy machine K may give up waiting for a thread, and lets all entries die.
 *
 * A pair of sockets plays each queue of a TUN device.  The load goes up and down, so that packets are handled by U threads in
 * relief, by T threads, and by both.
 *
 * Runs as any user: without a map every request is refused, but that concerns the flows only.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../native/bpf/layout.h"
#include "../../native/clock.h"
#include "../../native/endpoint.h"
#include "../../native/gwlbtun.h"

#define RECEIVERS 2u
#define QUEUES 2u /* of each interface */
#define FLOWS 64u
#define NOTED 4096u /* a power of two, more than can be under way */
#define PAYLOAD 8u
#define QUEUE_LENGTH 300u /* datagrams that a pair of sockets holds, at most */

static const uint8_t geneve[] = { 0x08, 0, 0x08, 0, 0, 0, 0, 0, 1, 8, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7,
	                          1,    8, 2,    2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 8, 3, 1, 9, 9, 9, 9 };
static const uint8_t udp4[] = { 0x45, 0, 0, 28 + PAYLOAD, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9,
	                        0,    9, 0, 8 + PAYLOAD,  0, 1 };

/* One way, or for the way in what goes to one receiver: what went up, and when. */
struct way {
	_Atomic uint64_t up;          /* packets */
	_Atomic uint64_t when[NOTED]; /* the n-th packet went up, by n */
	_Atomic uint32_t life[NOTED]; /* of the endpoint, then */
	_Atomic uint64_t through;     /* of them, those that K's word covered when it was last looked at */
	_Atomic uint64_t checks;
};

static struct gw_handler *handler;
static struct gw_endpoint *endpoint;
static struct gw_kernel *kernel;
static struct gw_kernel_endpoint shown[1];
static struct gw_kernel_link links[GW_KERNEL_LINKS];
static struct gw_kernel_globals globals;
static struct way in[RECEIVERS], out;
static int socket_of[RECEIVERS], device[2][QUEUES], linux_end[2][QUEUES];
static struct sockaddr_in address_of[RECEIVERS];
static unsigned most;
static _Atomic bool done;

static void require(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "stress_fence: %s\n", what);
	abort();
}

/* ---- What has become of packets ----------------------------------------------------------------------------------*/

static uint64_t of_tunnels(unsigned side, unsigned counter)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < QUEUES; i++)
		sum += __atomic_load_n(&gw_tunnel_counters(endpoint, side, i)[counter], __ATOMIC_ACQUIRE);
	return sum;
}

/* Of one receiver: T thread i of gwi serves receiver i. */
static uint64_t written(unsigned receiver)
{
	const uint64_t *counters = gw_tunnel_counters(endpoint, GW_GWI, receiver);

	return __atomic_load_n(&counters[GW_packets_out], __ATOMIC_ACQUIRE) +
	       __atomic_load_n(&counters[GW_drop_tun_write], __ATOMIC_ACQUIRE);
}

static uint64_t sent(void)
{
	return of_tunnels(GW_GWO, GW_packets_sent) + of_tunnels(GW_GWI, GW_packets_sent) +
	       of_tunnels(GW_GWO, GW_drop_send) + of_tunnels(GW_GWI, GW_drop_send) +
	       of_tunnels(GW_GWO, GW_drop_no_flow) + of_tunnels(GW_GWI, GW_drop_no_flow);
}

/* ---- Packets that go up ------------------------------------------------------------------------------------------*/

/* After the packet is where the threads find it. */
static void note(struct way *way)
{
	const uint64_t n = atomic_load(&way->up);

	__atomic_store_n(&shown[0].wanted, 1, __ATOMIC_SEQ_CST);
	atomic_store(&way->life[n % NOTED], __atomic_load_n(&shown[0].life, __ATOMIC_ACQUIRE));
	atomic_store(&way->when[n % NOTED], gw_now_ns());
	atomic_store(&way->up, n + 1);
}

static size_t write_inner(uint8_t *at, unsigned flow)
{
	memcpy(at, udp4, sizeof(udp4));
	memset(at + sizeof(udp4), 'x', PAYLOAD);
	at[21] = (uint8_t)flow;
	return sizeof(udp4) + PAYLOAD;
}

/* Few at a time, then many, then a rest. */
static void pace(unsigned *seed, unsigned n)
{
	if (n % 512 == 0)
		usleep((unsigned)rand_r(seed) % 3000);
	else if (n / 2048 % 2 == 0 && n % 4 == 0)
		usleep((unsigned)rand_r(seed) % 100);
}

static void *send_in(void *argument)
{
	const unsigned receiver = (unsigned)(uintptr_t)argument;
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned seed = receiver;
	uint8_t datagram[sizeof(geneve) + sizeof(udp4) + PAYLOAD];

	for (unsigned n = 0; !atomic_load(&done); n++) {
		while (atomic_load(&in[receiver].up) - written(receiver) >= most && !atomic_load(&done))
			usleep(20);
		memcpy(datagram, geneve, sizeof(geneve));
		(void)write_inner(datagram + sizeof(geneve), (unsigned)rand_r(&seed) % FLOWS);
		require(sendto(fd, datagram, sizeof(datagram), 0, (struct sockaddr *)&address_of[receiver],
		               sizeof(address_of[receiver])) > 0,
		        "cannot send");
		note(&in[receiver]);
		pace(&seed, n);
	}
	close(fd);
	return NULL;
}

/* Linux takes what comes by gwi, and sends by gwo and gwi. */
static void *send_out(void *argument)
{
	unsigned seed = 99;
	uint8_t frame[10 + sizeof(udp4) + PAYLOAD] = { 0 };

	(void)argument;
	for (unsigned n = 0; !atomic_load(&done); n++) {
		const unsigned side = rand_r(&seed) % 4 ? GW_GWO : GW_GWI;

		while (atomic_load(&out.up) - sent() >= most && !atomic_load(&done))
			usleep(20);
		(void)write_inner(frame + 10, (unsigned)rand_r(&seed) % FLOWS);
		if (send(linux_end[side][(unsigned)rand_r(&seed) % QUEUES], frame, sizeof(frame), MSG_DONTWAIT) > 0)
			note(&out);
		pace(&seed, n);
	}
	return NULL;
}

static void *drain(void *argument)
{
	static uint8_t frame[70000];

	(void)argument;
	while (!atomic_load(&done)) {
		struct pollfd gwi[QUEUES];

		for (unsigned i = 0; i < QUEUES; i++)
			gwi[i] = (struct pollfd){ .fd = linux_end[GW_GWI][i], .events = POLLIN };
		(void)poll(gwi, QUEUES, 1);
		for (unsigned i = 0; i < QUEUES; i++)
			while (recv(linux_end[GW_GWI][i], frame, sizeof(frame), MSG_DONTWAIT) > 0)
				;
	}
	return NULL;
}

/* Ends reliefs, so that T threads work as well. */
static void *recall(void *argument)
{
	unsigned seed = 5;

	(void)argument;
	while (!atomic_load(&done)) {
		gw_duty_recall(&endpoint->tunnel[(unsigned)rand_r(&seed) % 2][(unsigned)rand_r(&seed) % QUEUES].duty);
		usleep((unsigned)rand_r(&seed) % 1000);
	}
	return NULL;
}

/* ---- The check ---------------------------------------------------------------------------------------------------*/

/* published: read before; have: read after. */
static void check(struct way *way, uint64_t published, uint64_t have, const char *what)
{
	uint64_t n = atomic_load(&way->through);
	const uint64_t up = atomic_load(&way->up);

	while (n < up && atomic_load(&way->when[n % NOTED]) < published)
		n++;
	if (have < n && atomic_load(&way->life[(n - 1) % NOTED]) != __atomic_load_n(&shown[0].life, __ATOMIC_ACQUIRE))
		return;
	require(have >= n, what);
	if (n > atomic_load(&way->through))
		atomic_fetch_add(&way->checks, 1);
	atomic_store(&way->through, n);
}

static void *check_all(void *argument)
{
	(void)argument;
	while (!atomic_load(&done)) {
		uint64_t published = __atomic_load_n(&globals.done_out_ns, __ATOMIC_ACQUIRE);

		check(&out, published, sent(), "a packet of the way out had not been sent");
		for (unsigned i = 0; i < RECEIVERS; i++) {
			published = __atomic_load_n(&globals.done_in_ns[i], __ATOMIC_ACQUIRE);
			check(&in[i], published, written(i), "a packet of the way in had not been written");
		}
		usleep(20);
	}
	return NULL;
}

/* ---- All of them -------------------------------------------------------------------------------------------------*/

static void *receive(void *argument)
{
	const unsigned i = (unsigned)(uintptr_t)argument;

	require(gw_receiver_run(handler, i, socket_of[i]) == GW_STOPPED, "a receiver failed");
	return NULL;
}

static void *run_queue(void *argument)
{
	const unsigned n = (unsigned)(uintptr_t)argument;
	const struct sched_param none = { 0 };

	/* Whatever else runs keeps it waiting with packets in its hands. */
	require(sched_setscheduler(0, SCHED_IDLE, &none) == 0, "cannot be idle");
	require(gw_tunnel_run(endpoint, n / QUEUES, n % QUEUES, device[n / QUEUES][n % QUEUES]) == GW_STOPPED,
	        "a tunnel thread failed");
	return NULL;
}

static void *run_k(void *argument)
{
	(void)argument;
	require(gw_kernel_work(kernel) == GW_STOPPED, "K failed");
	return NULL;
}

static void open_socket(unsigned i)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	const int on = 1, room = 1 << 20;

	socket_of[i] = socket(AF_INET, SOCK_DGRAM, 0);
	require(bind(socket_of[i], (struct sockaddr *)&address, len) == 0, "no port");
	require(getsockname(socket_of[i], (struct sockaddr *)&address, &len) == 0, "no address");
	setsockopt(socket_of[i], SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	setsockopt(socket_of[i], IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
	address_of[i] = address;
}

static void open_devices(void)
{
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++) {
			int pair[2];

			require(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0, "no sockets");
			device[side][i] = pair[0];
			linux_end[side][i] = pair[1];
		}
}

static bool all_seen(void)
{
	for (unsigned i = 0; i < RECEIVERS; i++)
		if (!atomic_load(&in[i].checks))
			return false;
	return atomic_load(&out.checks) > 0;
}

/* Idle threads may never run on a machine that others keep busy: in that case they become ordinary ones, where root runs this. */
static void wait_until_seen(pthread_t *tunnel, unsigned seconds)
{
	const struct sched_param none = { 0 };

	sleep(seconds);
	if (all_seen())
		return;
	for (unsigned i = 0; i < 2 * QUEUES; i++)
		(void)pthread_setschedparam(tunnel[i], SCHED_OTHER, &none);
	for (unsigned i = 0; i < 60 && !all_seen(); i++)
		sleep(1);
}

static void report(const char *name, const struct way *way)
{
	printf("%s: %lu packets, %lu of them through, seen %lu times\n", name, (unsigned long)atomic_load(&way->up),
	       (unsigned long)atomic_load(&way->through), (unsigned long)atomic_load(&way->checks));
	require(atomic_load(&way->checks) > 0, "nothing was ever through");
}

int main(int argc, char **argv)
{
	const struct gw_kernel_setup setup = { .endpoints = shown,
		                               .links = links,
		                               .globals = &globals,
		                               .flows_fd = -1,
		                               .links_bell = -1,
		                               .wake_ns = 1000000000 };
	pthread_t receiver[RECEIVERS], tunnel[2 * QUEUES], sender[RECEIVERS], k, others[4];
	const unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 2;

	most = argc > 2 ? (unsigned)atoi(argv[2]) : 100;
	require(most < NOTED / 2, "more than can be noted");
	handler = gw_handler_new(RECEIVERS, QUEUES, 1, 4096, 350, 120, 0, -1, -1);
	require(handler != NULL, "no handler");
	endpoint = gw_endpoint_new(handler, 7);
	require(endpoint != NULL, "no endpoint");
	open_devices();
	for (unsigned i = 0; i < RECEIVERS; i++)
		open_socket(i);
	gw_endpoint_open(endpoint);
	kernel = gw_kernel_new(handler, &setup);
	require(kernel != NULL, "no K");
	require(gw_kernel_endpoint_on(kernel, endpoint, 1, device[0], QUEUE_LENGTH) == 0, "not on");
	pthread_create(&k, NULL, run_k, NULL);
	for (unsigned i = 0; i < 2 * QUEUES; i++)
		pthread_create(&tunnel[i], NULL, run_queue, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < RECEIVERS; i++)
		pthread_create(&receiver[i], NULL, receive, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < RECEIVERS; i++)
		pthread_create(&sender[i], NULL, send_in, (void *)(uintptr_t)i);
	pthread_create(&others[0], NULL, send_out, NULL);
	pthread_create(&others[1], NULL, drain, NULL);
	pthread_create(&others[2], NULL, check_all, NULL);
	pthread_create(&others[3], NULL, recall, NULL);
	wait_until_seen(tunnel, seconds);
	atomic_store(&done, true);
	for (unsigned i = 0; i < RECEIVERS; i++)
		pthread_join(sender[i], NULL);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(others[i], NULL);
	gw_handler_stop(handler);
	for (unsigned i = 0; i < RECEIVERS; i++) {
		shutdown(socket_of[i], SHUT_RD);
		pthread_join(receiver[i], NULL);
	}
	gw_kernel_endpoint_off(kernel, endpoint);
	gw_kernel_stop(kernel);
	pthread_join(k, NULL);
	gw_endpoint_unpublish(endpoint);
	gw_endpoint_stop(endpoint);
	for (unsigned i = 0; i < 2 * QUEUES; i++)
		pthread_join(tunnel[i], NULL);
	gw_endpoint_close(endpoint);
	for (unsigned i = 0; i < RECEIVERS; i++)
		report("in", &in[i]);
	report("out", &out);
	printf("%lu cycles, %lu of them in vain, %lu resets\n", (unsigned long)gw_kernel_counted(kernel)->fences,
	       (unsigned long)gw_kernel_counted(kernel)->unfenced, (unsigned long)gw_kernel_counted(kernel)->resets);
	gw_kernel_free(kernel);
	gw_endpoint_forget(endpoint);
	gw_endpoint_free(endpoint);
	gw_handler_free(handler);
	return 0;
}
