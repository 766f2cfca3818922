/* SPDX-License-Identifier: MIT-0 */
/*
 * fence.c - how thread K knows that what went up before a certain moment is through; fence.h proves it.
 */
#include "fence.h"

#include <poll.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55 /* Linux 4.12 */
#endif

/* Of <linux/sock_diag.h>: what SO_MEMINFO gives, and the first of it, the memory that datagrams in the queue take. */
#define MEMINFO_VARS 16u
#define MEMINFO_RMEM_ALLOC 0u

/* No datagram takes less of it than its sk_buff and skb_shared_info. */
#define DATAGRAM_LEAST 512u

/* No batch is larger: of datagrams (recvmmsg.c), of packets (tunnel.c). */
#define BATCH_MOST 1024u

static bool has_nothing(int fd);
static void find_holder(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel, struct gw_fence *const *fence);
static bool has_let_go(const struct gw_fence_queue *queue, const struct gw_tunnel *tunnel,
                       struct gw_fence *const *fence);
static uint32_t on_duty(const struct gw_tunnel *tunnel);

/* True also where nothing can be any more. */
static bool has_nothing(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	const int ready = poll(&pollfd, 1, 0);

	/* What is seen from here on is seen later than that. */
	__sync_synchronize();
	return ready == 0 || (ready > 0 && !(pollfd.revents & POLLIN));
}

/* ---- Sockets -----------------------------------------------------------------------------------------------------*/

void gw_fence_begin_socket(struct gw_fence_socket *socket, const struct gw_fence *fence)
{
	uint32_t memory[MEMINFO_VARS] = { 0 };
	socklen_t size = sizeof(memory);
	const int fd = atomic_load(&fence->fd);

	/* In this order, or what was taken in between would be counted twice. */
	const uint64_t taken = atomic_load(&fence->taken);

	__sync_synchronize();
	socket->state = GW_FENCE_WAITS;
	socket->bound = UINT64_MAX;
	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &size) == 0)
		socket->bound = taken + memory[MEMINFO_RMEM_ALLOC] / DATAGRAM_LEAST + BATCH_MOST;
}

bool gw_fence_socket_through(struct gw_fence_socket *socket, const struct gw_fence *fence)
{
	const int fd = atomic_load(&fence->fd);

	if (socket->state == GW_FENCE_THROUGH)
		return true;
	if (fd < 0)
		return false;
	if (atomic_load(&fence->taken) >= socket->bound) {
		socket->state = GW_FENCE_THROUGH;
	} else if (socket->state == GW_FENCE_EMPTY) {
		if (atomic_load(&fence->turn) != socket->turn)
			socket->state = GW_FENCE_THROUGH;
	} else if (has_nothing(fd)) {
		socket->turn = atomic_load(&fence->turn);
		socket->state = socket->turn & 1 ? GW_FENCE_THROUGH : GW_FENCE_EMPTY;
	}
	return socket->state == GW_FENCE_THROUGH;
}

/* ---- Rings -------------------------------------------------------------------------------------------------------*/

void gw_fence_begin_ring(struct gw_fence_ring *look, const struct gw_ring *ring)
{
	look->through = false;
	look->end = atomic_load(&ring->head);
}

bool gw_fence_ring_through(struct gw_fence_ring *look, const struct gw_ring *ring)
{
	const uint64_t tail = atomic_load(&ring->tail);
	const uint8_t generations = (uint8_t)(gw_ring_generation(tail) - gw_ring_generation(look->end));

	/* The consumer is in the same generation, or at the end of the one before it, or well past. */
	if (generations == 0)
		look->through |= gw_ring_count(tail) >= gw_ring_count(look->end);
	else if (generations != UINT8_MAX)
		look->through = true;
	return look->through;
}

/* ---- Queues ------------------------------------------------------------------------------------------------------*/

void gw_fence_begin_queue(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel)
{
	queue->state = GW_FENCE_WAITS;
	queue->bound = atomic_load(&tunnel->reads) + queue->length + BATCH_MOST;
}

bool gw_fence_queue_through(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel,
                            struct gw_fence *const *fence)
{
	if (queue->state == GW_FENCE_WAITS) {
		if (atomic_load(&tunnel->reads) >= queue->bound)
			queue->state = GW_FENCE_THROUGH;
		else if (has_nothing(queue->fd))
			find_holder(queue, tunnel, fence);
	} else if (queue->state == GW_FENCE_EMPTY && has_let_go(queue, tunnel, fence)) {
		queue->state = GW_FENCE_THROUGH;
	}
	return queue->state == GW_FENCE_THROUGH;
}

/* Notes who may have in hand what was taken out of the queue. */
static void find_holder(struct gw_fence_queue *queue, const struct gw_tunnel *tunnel, struct gw_fence *const *fence)
{
	int receiver;

	queue->who = on_duty(tunnel);
	queue->reads = atomic_load(&tunnel->reads);
	receiver = gw_duty_receiver(queue->who);
	queue->turn = receiver >= 0 ? atomic_load(&fence[receiver]->turn) : 0;
	if (queue->who == GW_DUTY_NOBODY || queue->who == GW_DUTY_ABSENT || queue->turn & 1)
		queue->state = GW_FENCE_THROUGH;
	else
		queue->state = GW_FENCE_EMPTY;
}

static bool has_let_go(const struct gw_fence_queue *queue, const struct gw_tunnel *tunnel,
                       struct gw_fence *const *fence)
{
	const int receiver = gw_duty_receiver(queue->who);

	return on_duty(tunnel) != queue->who || atomic_load(&tunnel->reads) != queue->reads ||
	       (receiver >= 0 && atomic_load(&fence[receiver]->turn) != queue->turn);
}

static uint32_t on_duty(const struct gw_tunnel *tunnel)
{
	const uint32_t who = atomic_load(&tunnel->duty.who);

	return who >= GW_DUTY_RECEIVER ? who & ~GW_DUTY_CALLED : who;
}
