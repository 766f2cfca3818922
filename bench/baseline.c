/* SPDX-License-Identifier: MIT-0 */
/*
 * baseline.c - the handler that gwlbtun is compared with.
 *
 * Theory of operation
 *
 * It handles packets one at a time, as tunnel handlers commonly do: select, one recvmsg, one write to the TUN device;
 * select, one read from it, one sendto on a raw socket.  One thread receives, and one for each endpoint reads what Linux
 * returns.  With "loop" a single thread does all that, which saves the switches between threads and the locks.  The baseline
 * checks little, reads nothing from gwi and never forgets a flow: a full handler of its kind costs more.
 *
 * The first packet of an ENI ID makes the endpoint: it creates devices gwi-X and gwo-X, and calls the hook as gwlbtun does.
 *
 * Usage: baseline threads|loop HOOK RECEIVE_BUFFER_MB
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices.h"
#include "failure.h"
#include "geneve.h"

enum {
	OUTER = 20 + 8,
	MAX_ENDPOINTS = 256,
	MAX_FLOWS = 1 << 21, /* a power of two */
	BUFFER = 65536,
};

struct flow_key {
	/* The lower address and port first, so that both directions are one flow. */
	uint8_t low[16], high[16];
	uint16_t low_port, high_port;
	uint16_t endpoint;
	uint8_t protocol;
	uint8_t used;
};

struct flow {
	struct flow_key key;
	struct in_addr balancer, own;
	uint16_t port;
	uint16_t header_length;
	uint8_t header[MAX_HEADER];
};

struct endpoint {
	uint64_t eni;
	int gwi, gwo;
};

/* What a thread waits for: the UDP socket (endpoint NULL) or an endpoint's gwo. */
struct source {
	int fd;
	const struct endpoint *endpoint;
};

struct loop {
	struct source sources[1 + MAX_ENDPOINTS];
	unsigned count;
};

static struct flow *flows;
static pthread_mutex_t flows_lock = PTHREAD_MUTEX_INITIALIZER;
static struct endpoint endpoints[MAX_ENDPOINTS]; /* only the receiving thread uses the table */
static unsigned endpoint_count;
static struct loop main_loop;
static const char *hook;
static bool threads;
static int raw = -1;

/* ---- Flows --------------------------------------------------------------------------------------------------------*/

static bool flow_key(struct flow_key *key, const uint8_t *packet, size_t length, unsigned endpoint)
{
	size_t size, header;
	const uint8_t *source, *ports;
	uint16_t source_port = 0, destination_port = 0;
	int order;

	memset(key, 0, sizeof(*key));
	if (length >= 20 && packet[0] >> 4 == 4) {
		size = 4;
		source = packet + 12;
		header = (packet[0] & 15u) * 4;
		key->protocol = packet[9];
	} else if (length >= 40 && packet[0] >> 4 == 6) {
		size = 16;
		source = packet + 8;
		header = 40;
		key->protocol = packet[6];
	} else {
		return false;
	}
	if ((key->protocol == IPPROTO_TCP || key->protocol == IPPROTO_UDP) && length >= header + 4) {
		ports = packet + header;
		source_port = get16(ports);
		destination_port = get16(ports + 2);
	}
	order = memcmp(source, source + size, size);
	if (!order)
		order = source_port < destination_port ? -1 : 1;
	memcpy(order < 0 ? key->low : key->high, source, size);
	memcpy(order < 0 ? key->high : key->low, source + size, size);
	key->low_port = order < 0 ? source_port : destination_port;
	key->high_port = order < 0 ? destination_port : source_port;
	key->endpoint = (uint16_t)endpoint;
	key->used = 1;
	return true;
}

/* The flow of this key, or the free place where it belongs; NULL when there is none. */
static struct flow *find_flow(const struct flow_key *key)
{
	uint64_t hash = 0, words[sizeof(*key) / 8];

	_Static_assert(sizeof(*key) % 8 == 0, "hashed by whole words");
	memcpy(words, key, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / 8; i++)
		hash = (hash ^ words[i] ^ hash >> 32) * UINT64_C(0x9e3779b97f4a7c15);
	hash ^= hash >> 32;
	for (uint64_t i = 0; i < MAX_FLOWS; i++) {
		struct flow *flow = &flows[(hash + i) % MAX_FLOWS];

		if (!flow->key.used || !memcmp(&flow->key, key, sizeof(*key)))
			return flow;
	}
	return NULL;
}

/* ---- Endpoints ----------------------------------------------------------------------------------------------------*/

static void *serve(void *argument);

static void add_source(const struct source *source)
{
	struct loop *loop = threads && source->endpoint ? calloc(1, sizeof(*loop)) : &main_loop;
	pthread_t thread;

	if (!loop)
		fail("no memory");
	loop->sources[loop->count++] = *source;
	if (loop == &main_loop)
		return;
	errno = pthread_create(&thread, NULL, serve, loop);
	if (errno)
		fail("thread");
}

static struct endpoint *find_endpoint(uint64_t eni)
{
	struct endpoint *endpoint;

	for (unsigned i = 0; i < endpoint_count; i++)
		if (endpoints[i].eni == eni)
			return &endpoints[i];
	if (endpoint_count == MAX_ENDPOINTS)
		return NULL;
	endpoint = &endpoints[endpoint_count++];
	endpoint->eni = eni;
	make_devices(eni, hook, 0, 0, &endpoint->gwi, &endpoint->gwo);
	add_source(&(struct source){ endpoint->gwo, endpoint });
	return endpoint;
}

/* ---- Packets ------------------------------------------------------------------------------------------------------*/

static void from_balancer(int udp)
{
	static _Thread_local uint8_t packet[BUFFER];
	union {
		char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
		struct cmsghdr align;
	} control;
	struct sockaddr_in from;
	struct iovec iov = { packet, sizeof(packet) };
	struct msghdr message = { .msg_name = &from,
		                  .msg_namelen = sizeof(from),
		                  .msg_iov = &iov,
		                  .msg_iovlen = 1,
		                  .msg_control = control.bytes,
		                  .msg_controllen = sizeof(control.bytes) };
	ssize_t length = recvmsg(udp, &message, MSG_DONTWAIT);
	struct in_pktinfo info;
	struct cmsghdr *cmsg;
	struct endpoint *endpoint;
	struct flow_key key;
	struct flow *flow;
	size_t header;
	uint64_t eni;

	if (length < 0)
		return;
	cmsg = CMSG_FIRSTHDR(&message);
	eni = parse(packet, (size_t)length, &header);
	endpoint = eni ? find_endpoint(eni) : NULL;
	if (!cmsg || !endpoint ||
	    !flow_key(&key, packet + header, (size_t)length - header, (unsigned)(endpoint - endpoints)))
		return;
	memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
	pthread_mutex_lock(&flows_lock);
	flow = find_flow(&key);
	if (flow) {
		flow->key = key;
		flow->balancer = from.sin_addr;
		flow->own = info.ipi_addr;
		flow->port = from.sin_port;
		flow->header_length = (uint16_t)header;
		memcpy(flow->header, packet, header);
	}
	pthread_mutex_unlock(&flows_lock);
	if (write(endpoint->gwi, packet + header, (size_t)length - header) < 0 && errno != EIO && errno != EINVAL)
		fail("write");
}

static void from_linux(const struct endpoint *endpoint)
{
	static _Thread_local uint8_t buffer[OUTER + MAX_HEADER + BUFFER];
	uint8_t *inner = buffer + OUTER + MAX_HEADER, *outer;
	ssize_t length = read(endpoint->gwo, inner, BUFFER);
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct flow_key key;
	struct flow *found, flow;
	size_t payload;
	uint16_t ports[2], udp_length;

	if (length < 0 || !flow_key(&key, inner, (size_t)length, (unsigned)(endpoint - endpoints)))
		return;
	pthread_mutex_lock(&flows_lock);
	found = find_flow(&key);
	if (found)
		flow = *found;
	pthread_mutex_unlock(&flows_lock);
	if (!found || !flow.key.used)
		return;
	payload = flow.header_length + (size_t)length;
	outer = inner - flow.header_length - OUTER;
	memset(outer, 0, OUTER); /* the kernel fills in length, ID and checksum of the IP header */
	outer[0] = 0x45;
	outer[8] = 64;
	outer[9] = IPPROTO_UDP;
	memcpy(outer + 12, &flow.own, 4);
	memcpy(outer + 16, &flow.balancer, 4);
	ports[0] = flow.port;
	ports[1] = htons(GENEVE_PORT);
	memcpy(outer + 20, ports, 4);
	udp_length = htons((uint16_t)(8 + payload));
	memcpy(outer + 24, &udp_length, 2);
	memcpy(outer + OUTER, flow.header, flow.header_length);
	to.sin_addr = flow.balancer;
	if (sendto(raw, outer, OUTER + payload, 0, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != ENOBUFS &&
	    errno != EMSGSIZE)
		fail("sendto");
}

/* Waits for any of the loop's sources, serves one that is ready, each in its turn, and waits again. */
static void *serve(void *argument)
{
	const struct loop *loop = argument;
	unsigned turn = 0;

	for (;;) {
		fd_set ready;
		int highest = 0;

		FD_ZERO(&ready);
		for (unsigned i = 0; i < loop->count; i++) {
			FD_SET(loop->sources[i].fd, &ready);
			highest = highest > loop->sources[i].fd ? highest : loop->sources[i].fd;
		}
		if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
			fail("select");
		do
			turn = (turn + 1) % loop->count;
		while (!FD_ISSET(loop->sources[turn].fd, &ready));
		if (loop->sources[turn].endpoint)
			from_linux(loop->sources[turn].endpoint);
		else
			from_balancer(loop->sources[turn].fd);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(GENEVE_PORT) };
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int receive_buffer;
	int on = 1;

	if (argc != 4) {
		fprintf(stderr, "usage: baseline threads|loop HOOK RECEIVE_BUFFER_MB\n");
		return 2;
	}
	threads = !strcmp(argv[1], "threads");
	hook = argv[2];
	receive_buffer = atoi(argv[3]) << 20;
	raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	flows = calloc(MAX_FLOWS, sizeof(*flows));
	if (!flows || udp < 0 || raw < 0 || setsockopt(udp, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) < 0 ||
	    setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof(receive_buffer)) < 0 ||
	    bind(udp, (struct sockaddr *)&own, sizeof(own)) < 0)
		fail("start");
	add_source(&(struct source){ udp, NULL });
	serve(&main_loop);
	return 1;
}
