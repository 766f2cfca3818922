/* SPDX-License-Identifier: MIT-0 */
/*
 * stress_handler.c - the whole shim under all of its threads, for the sanitizers, as any user.
 *
 * Takes the number of datagrams that each sender sends.  Senders play the load balancer on loopback, with packets that are
 * fine and packets that are not, of more ENI IDs than there may be endpoints.  A pair of sockets plays each queue of a TUN
 * device, and a thread for each endpoint plays Linux, which sends back what it gets.  The manager makes, reopens and takes
 * down endpoints all the time, and now and then has another handler take over, as a restart in place does; the watcher looks at
 * all that can be looked at.  Thread K runs beside them (kernel_player.h).  At the end every packet must be accounted for.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../native/gwlbtun.h"
#include "kernel_player.h"
#include "sender.h"

#define QUEUES 2u /* of each interface */
#define SENDERS 2u
#define ENDPOINTS 12u
#define MAX_FLOWS 4096u /* fewer than there are, so that some are evicted */

struct life {
	struct gw_endpoint *endpoint;
	uint64_t eni;
	int device[2][QUEUES], linux_end[2][QUEUES];
	pthread_t thread[2][QUEUES], linux_thread;
	_Atomic bool over;
};

struct queue {
	struct life *life;
	unsigned side, index;
};

static struct gw_handler *handler;
static int socket_of[RECEIVERS];
static _Atomic bool sent_all, done;
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER; /* what the watcher looks at stays meanwhile */
static pthread_mutex_t whole = PTHREAD_MUTEX_INITIALIZER; /* the handler, likewise; taken before the table */
static pthread_t receiver[RECEIVERS];
static int flows;         /* the memory file of the flow table */
static unsigned restarts; /* handlers that have taken over */
static struct life *lives[ENDPOINTS];
static uint64_t counted[GW_COUNTERS], received; /* by threads of endpoints that are gone; by receivers */

/* ---- Linux -------------------------------------------------------------------------------------------------------*/

/* Sends out of gwo what came by gwi, and now and then out of gwi. */
static void *play_linux(void *argument)
{
	static _Thread_local uint8_t frame[70000];
	struct life *life = argument;
	unsigned seed = (unsigned)life->eni + 1;

	while (!atomic_load(&life->over)) {
		struct pollfd gwi[QUEUES];

		for (unsigned i = 0; i < QUEUES; i++)
			gwi[i] = (struct pollfd){ .fd = life->linux_end[GW_GWI][i], .events = POLLIN };
		(void)poll(gwi, QUEUES, 1);
		for (unsigned i = 0; i < QUEUES; i++) {
			ssize_t len = recv(gwi[i].fd, frame, sizeof(frame), MSG_DONTWAIT);
			const unsigned side = rand_r(&seed) % 8 ? GW_GWO : GW_GWI;

			if (len > 0)
				(void)send(life->linux_end[side][(unsigned)rand_r(&seed) % QUEUES], frame, (size_t)len,
				           MSG_DONTWAIT);
		}
	}
	return NULL;
}

/* ---- The manager -------------------------------------------------------------------------------------------------*/

static void *run_queue(void *argument)
{
	struct queue *queue = argument;
	struct life *life = queue->life;

	require(gw_tunnel_run(life->endpoint, queue->side, queue->index, life->device[queue->side][queue->index]) ==
	                GW_STOPPED,
	        "a tunnel thread failed");
	free(queue);
	return NULL;
}

static void begin_queues(struct life *life)
{
	gw_endpoint_open(life->endpoint);
	player_on(life->endpoint, life->device[0]);
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++) {
			struct queue *queue = malloc(sizeof(*queue));

			*queue = (struct queue){ life, side, i };
			pthread_create(&life->thread[side][i], NULL, run_queue, queue);
		}
}

static void begin_threads(struct life *life)
{
	atomic_store(&life->over, false);
	pthread_create(&life->linux_thread, NULL, play_linux, life);
	begin_queues(life);
}

static void end_queues(struct life *life)
{
	player_off(life->endpoint);
	gw_endpoint_stop(life->endpoint);
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++)
			pthread_join(life->thread[side][i], NULL);
}

static void end_threads(struct life *life)
{
	gw_endpoint_unpublish(life->endpoint);
	end_queues(life);
	atomic_store(&life->over, true);
	pthread_join(life->linux_thread, NULL);
	gw_endpoint_close(life->endpoint);
}

static struct life *begin_life(uint64_t eni)
{
	struct life *life = calloc(1, sizeof(*life));
	int pair[2];

	life->endpoint = gw_endpoint_new(handler, eni);
	if (!life->endpoint) {
		free(life);
		return NULL;
	}
	life->eni = eni;
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++) {
			require(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0, "no sockets");
			life->device[side][i] = pair[0];
			life->linux_end[side][i] = pair[1];
		}
	begin_threads(life);
	return life;
}

static void count_queues(const struct life *life)
{
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++)
			for (unsigned k = 0; k < GW_COUNTERS; k++)
				counted[k] += gw_tunnel_counters(life->endpoint, side, i)[k];
}

static void end_life(struct life *life)
{
	end_threads(life);
	gw_endpoint_forget(life->endpoint);
	count_queues(life);
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++) {
			close(life->device[side][i]);
			close(life->linux_end[side][i]);
		}
	gw_endpoint_free(life->endpoint);
	free(life);
}

/* ---- A restart in place ------------------------------------------------------------------------------------------*/

static void *receive(void *argument)
{
	const unsigned i = (unsigned)(uintptr_t)argument;

	require(gw_receiver_run(handler, i, socket_of[i]) == GW_STOPPED, "a receiver failed");
	return NULL;
}

static struct gw_handler *make_handler(void)
{
	return gw_handler_new(RECEIVERS, QUEUES, ENDPOINTS, MAX_FLOWS, 350, 1,
	                      GW_OFFLOAD_MERGE_TCP | GW_OFFLOAD_MERGE_UDP | GW_OFFLOAD_UDP_GSO, -1, flows);
}

static void count_receivers(void)
{
	for (unsigned i = 0; i < RECEIVERS; i++) {
		const uint64_t *counters = gw_receiver_counters(handler, i);

		received += counters[GW_packets_in];
		for (unsigned k = GW_drop_source_loopback; k < GW_COUNTERS; k++)
			counted[k] += counters[k];
	}
}

static void interrupt(int number)
{
	(void)number;
}

static void pause_receivers(void)
{
	gw_handler_pause(handler, true);
	for (unsigned i = 0; i < RECEIVERS; i++)
		while (pthread_tryjoin_np(receiver[i], NULL) != 0) {
			pthread_kill(receiver[i], SIGUSR1);
			usleep(200);
		}
}

/* The endpoint of the handler that goes becomes one of the handler that comes, with its flows. */
static void pass_over(struct life *life, struct gw_handler *next)
{
	struct gw_endpoint *old = life->endpoint;

	count_queues(life);
	life->endpoint = gw_endpoint_adopt(next, life->eni, gw_endpoint_slot(old), 1);
	require(life->endpoint != NULL, "an endpoint cannot be adopted");
	gw_endpoint_unpublish(old);
	gw_endpoint_free(old);
}

static void restart(void)
{
	const int packets = memfd_create("packets", MFD_CLOEXEC);
	struct gw_handler *next;

	pause_receivers();
	for (unsigned i = 0; i < ENDPOINTS; i++)
		if (lives[i])
			end_queues(lives[i]);
	player_end();
	require(gw_handler_leave(handler, packets) == 0, "the packets cannot be left");
	next = make_handler();
	require(next != NULL, "the flow table cannot be taken over");
	count_receivers();
	for (unsigned i = 0; i < ENDPOINTS; i++)
		if (lives[i])
			pass_over(lives[i], next);
	gw_handler_free(handler);
	handler = next;
	player_begin(handler, ENDPOINTS, MAX_FLOWS);
	require(gw_handler_forget_strays(handler) == 0 && gw_handler_take_back(handler, packets) == 0,
	        "packets or flows are lost");
	close(packets);
	for (unsigned i = 0; i < ENDPOINTS; i++)
		if (lives[i])
			begin_queues(lives[i]);
	for (unsigned i = 0; i < RECEIVERS; i++)
		pthread_create(&receiver[i], NULL, receive, (void *)(uintptr_t)i);
	restarts++;
	atomic_store(&taken_over, true);
}

/* ---- What happens ------------------------------------------------------------------------------------------------*/

static void admit(uint64_t eni)
{
	struct life **place = NULL;

	for (unsigned i = 0; i < ENDPOINTS; i++) {
		if (lives[i] && lives[i]->eni == eni)
			return;
		if (!lives[i])
			place = &lives[i];
	}
	gw_handler_set_full(handler, place == NULL);
	if (place)
		*place = begin_life(eni);
}

static void *manage(void *argument)
{
	unsigned seed = 7;

	(void)argument;
	for (unsigned turn = 1; !atomic_load(&sent_all); turn++) {
		uint64_t eni[64];
		const unsigned announced = gw_handler_listen(handler, eni, 64, 5);
		struct life **chosen = &lives[(unsigned)rand_r(&seed) % ENDPOINTS];

		pthread_mutex_lock(&table);
		for (unsigned i = 0; i < announced; i++)
			admit(eni[i]);
		if (*chosen && rand_r(&seed) % 8 == 0) {
			end_life(*chosen);
			*chosen = NULL;
		} else if (*chosen && rand_r(&seed) % 8 == 0) {
			end_threads(*chosen);
			gw_endpoint_publish((*chosen)->endpoint);
			begin_threads(*chosen);
		}
		pthread_mutex_unlock(&table);
		if (turn % 2 == 0) {
			pthread_mutex_lock(&whole);
			restart();
			pthread_mutex_unlock(&whole);
		}
	}
	return NULL;
}

/* ---- The watcher -------------------------------------------------------------------------------------------------*/

static void look_at(struct life *life)
{
	struct gw_flow_count count[GW_FLOW_CLASSES];
	int by;

	gw_endpoint_count_flows(life->endpoint, count);
	gw_endpoint_age(life->endpoint);
	(void)(gw_endpoint_ring_bytes(life->endpoint) + gw_endpoint_ring_drops(life->endpoint) +
	       gw_endpoint_flow_drops(life->endpoint) + gw_endpoint_last_ns(life->endpoint));
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < QUEUES; i++) {
			(void)gw_tunnel_stalled(life->endpoint, side, i, life->device[side][i], &by);
			(void)gw_tunnel_has_frames(life->endpoint, side, i);
		}
}

/* No table lets anything come over loopback: what comes from now on is dropped. */
static void change_sources(bool uplinks)
{
	static const struct gw_source_range all = { 0, 0 };
	static const uint32_t loopback = 1, none = 1u << 20;
	struct gw_sources *old;

	require(gw_sources_set(handler, &all, 1, uplinks ? &loopback : &none, 1, uplinks, &old) == 0, "no sources");
	gw_sources_retire(handler, old);
}

static void *watch(void *argument)
{
	static struct gw_trace_record trace;
	const struct gw_flow_filter filter = { .fragments = 1 };

	(void)argument;
	for (unsigned turn = 0; !atomic_load(&done); turn++) {
		struct gw_flow_record record[64];

		pthread_mutex_lock(&whole);
		for (unsigned i = 0; i < RECEIVERS; i++)
			(void)gw_receiver_stalled(handler, i, socket_of[i]);
		pthread_mutex_lock(&table);
		for (unsigned i = 0; i < ENDPOINTS; i++)
			if (lives[i])
				look_at(lives[i]);
		pthread_mutex_unlock(&table);
		for (uint32_t position = 0; position != GW_DUMP_END;)
			(void)gw_handler_dump_flows(handler, &filter, &position, record, 64);
		require(gw_handler_flow_entries(handler) <= MAX_FLOWS, "more flows than there may be");
		player_sweep();
		gw_handler_expire(handler);
		if (atomic_load(&judging))
			change_sources(turn % 2);
		require(gw_trace_set(handler, turn % 3) == 0, "no trace");
		while (gw_trace_read(handler, &trace))
			require(trace.captured <= GW_TRACE_DATA, "a record longer than it may be");
		pthread_mutex_unlock(&whole);
		usleep(2000);
	}
	return NULL;
}

/* ---- All of them -------------------------------------------------------------------------------------------------*/

static void open_socket(unsigned i)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	const int on = 1;

	socket_of[i] = socket(AF_INET, SOCK_DGRAM, 0);
	require(bind(socket_of[i], (struct sockaddr *)&address, len) == 0, "no port");
	require(getsockname(socket_of[i], (struct sockaddr *)&address, &len) == 0, "no address");
	setsockopt(socket_of[i], IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
	setsockopt(socket_of[i], IPPROTO_UDP, UDP_GRO, &on, sizeof(on));
	address_of[i] = address;
}

static uint64_t drops(unsigned first, unsigned last)
{
	uint64_t sum = 0;

	for (unsigned i = first; i <= last; i++)
		sum += counted[i];
	return sum;
}

int main(int argc, char **argv)
{
	const struct sigaction without_restart = { .sa_handler = interrupt };
	pthread_t sender[SENDERS], manager, watcher;
	const int returned = balancer_socket(6081);

	datagrams = argc > 1 ? (unsigned)atoi(argv[1]) : 20000;
	sigaction(SIGUSR1, &without_restart, NULL);
	flows = memfd_create("flows", MFD_CLOEXEC);
	handler = make_handler();
	require(handler != NULL, "no handler");
	player_begin(handler, ENDPOINTS, MAX_FLOWS);
	for (unsigned i = 0; i < RECEIVERS; i++) {
		open_socket(i);
		pthread_create(&receiver[i], NULL, receive, (void *)(uintptr_t)i);
	}
	pthread_create(&manager, NULL, manage, NULL);
	pthread_create(&watcher, NULL, watch, NULL);
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_create(&sender[i], NULL, send_packets, (void *)(uintptr_t)(i + 1));
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(sender[i], NULL);
	atomic_store(&sent_all, true);
	pthread_join(manager, NULL);
	gw_handler_stop(handler);
	for (unsigned i = 0; i < RECEIVERS; i++) {
		shutdown(socket_of[i], SHUT_RD);
		pthread_join(receiver[i], NULL);
	}
	atomic_store(&done, true);
	pthread_join(watcher, NULL);
	for (unsigned i = 0; i < ENDPOINTS; i++)
		if (lives[i])
			end_life(lives[i]);
	player_end();
	count_receivers();
	for (unsigned i = 0; i < RECEIVERS; i++)
		close(socket_of[i]);
	gw_handler_free(handler);
	close(returned);
	close(flows);
	printf("restarts %u, received %lu, to Linux %lu, from Linux %lu, returned %lu\n", restarts,
	       (unsigned long)received, (unsigned long)counted[GW_packets_out], (unsigned long)counted[GW_packets_in],
	       (unsigned long)counted[GW_packets_sent]);
	require(received == counted[GW_packets_out] + drops(GW_drop_source_loopback, GW_drop_tun_write),
	        "a packet from the load balancer is missing");
	require(counted[GW_packets_in] == counted[GW_packets_sent] + drops(GW_drop_not_ip, GW_drop_send),
	        "a packet from Linux is missing");
	return 0;
}
