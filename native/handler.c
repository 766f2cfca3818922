/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.c - the whole: made, asked and told by control threads, and freed.
 *
 * Theory of operation: the handler makes what all threads share, then a receiver for each U thread, and fills in what
 * endpoints must know of them.  Nothing here is on the path of a packet.
 */
#include "handler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "clock.h"
#include "flow.h"
#include "flow_dump.h"
#include "leftover.h"
#include "source.h"
#include "waiting.h"

static bool begin_shared(struct gw_shared *shared, unsigned max_flows, unsigned max_endpoints, int raw_fd,
                         int flows_fd);
static void begin_outlets(struct gw_shared *shared, int raw_fd);
static int64_t socket_budget(void);
static bool make_receivers(struct gw_handler *handler);
static void end_shared(struct gw_shared *shared);

const char *gw_build_id(void)
{
	return GW_BUILD_ID;
}

/* ---- Made --------------------------------------------------------------------------------------------------------*/

struct gw_handler *gw_handler_new(unsigned receivers, unsigned tunnel_threads, unsigned max_endpoints,
                                  unsigned max_flows, unsigned tcp_idle_s, unsigned udp_idle_s, unsigned offloads,
                                  int raw_fd, int flows_fd)
{
	struct gw_handler *handler;

	if (!receivers || !tunnel_threads || !max_endpoints || max_endpoints > GW_SLOTS_MAX || !tcp_idle_s ||
	    !udp_idle_s) {
		errno = EINVAL;
		return NULL;
	}
	handler = aligned_alloc(64, (sizeof(*handler) + 63) & ~(size_t)63);
	if (!handler)
		return NULL;
	memset(handler, 0, sizeof(*handler));
	handler->admission.bell = -1;
	handler->tcp_idle_s = tcp_idle_s;
	handler->udp_idle_s = udp_idle_s;
	handler->shared.receivers = receivers;
	handler->shared.tunnel_threads = tunnel_threads;
	handler->shared.offloads = offloads;
	if (!begin_shared(&handler->shared, max_flows, max_endpoints, raw_fd, flows_fd) ||
	    !gw_endpoints_begin(&handler->endpoints, &handler->shared, max_endpoints) ||
	    !gw_admission_begin(&handler->admission, handler->shared.waiting, receivers) || !make_receivers(handler)) {
		gw_handler_free(handler);
		return NULL;
	}
	return handler;
}

/* What is missing on failure is seen by end_shared(). */
static bool begin_shared(struct gw_shared *shared, unsigned max_flows, unsigned max_endpoints, int raw_fd,
                         int flows_fd)
{
	bool secret = getrandom(&shared->multiplier, sizeof(shared->multiplier), 0) == sizeof(shared->multiplier);

	shared->multiplier |= 1;
	begin_outlets(shared, raw_fd);
	shared->flows = gw_flows_open(max_flows, max_endpoints, flows_fd);
	shared->gate = calloc(shared->receivers, sizeof(struct gw_gate *));
	shared->waiting = calloc(shared->receivers, sizeof(struct gw_waiting *));
	return secret && shared->flows && shared->gate && shared->waiting;
}

static void begin_outlets(struct gw_shared *shared, int raw_fd)
{
	struct gw_outlets *outlets = &shared->outlets;

	outlets->offloads = shared->offloads;
	outlets->multiplier = shared->multiplier;
	outlets->raw_fd = raw_fd;
	if (raw_fd >= 0)
		gw_ways_prepare_raw(raw_fd);
	atomic_init(&outlets->sockets_left, socket_budget());
}

/* Each connected socket may hold a port that nobody else on the host can have then: well over half of the 28,232 that
 * Linux gives to clients (ip_local_port_range) must stay free, for DNS to begin with. */
#define SOCKETS_MAX 8192

/* Connected sockets may take half of the descriptors; TUN queues, hooks and the rest have the other. */
static int64_t socket_budget(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur / 2 > SOCKETS_MAX)
		return SOCKETS_MAX;
	return (int64_t)limit.rlim_cur / 2;
}

static bool make_receivers(struct gw_handler *handler)
{
	struct gw_shared *shared = &handler->shared;

	handler->receiver = calloc(shared->receivers, sizeof(struct gw_receiver *));
	if (!handler->receiver)
		return false;
	for (unsigned i = 0; i < shared->receivers; i++) {
		struct gw_receiver *receiver = gw_receiver_new(shared, &handler->endpoints, &handler->admission, i);

		if (!receiver)
			return false;
		handler->receiver[i] = receiver;
		shared->gate[i] = gw_receiver_gate(receiver);
		shared->waiting[i] = gw_receiver_waiting(receiver);
	}
	return true;
}

void gw_handler_receive_only(struct gw_handler *handler)
{
	handler->shared.receive_only = true;
}

void gw_handler_limit_rings(struct gw_handler *handler, uint64_t bytes)
{
	atomic_store(&handler->endpoints.ring_bytes, bytes);
}

/* ---- Whom to receive from ----------------------------------------------------------------------------------------*/

int gw_endpoints_allow(struct gw_handler *handler, const uint64_t *eni, unsigned enis)
{
	return gw_admission_allow(&handler->admission, eni, enis);
}

int gw_sources_set(struct gw_handler *handler, const struct gw_source_range *range, unsigned ranges,
                   const uint32_t *interface, unsigned interfaces, int uplinks, struct gw_sources **old)
{
	struct gw_sources *sources = gw_sources_new(range, ranges, interface, interfaces, uplinks);

	if (!sources)
		return -errno;
	*old = atomic_exchange(&handler->shared.sources, sources);
	return 0;
}

void gw_sources_retire(struct gw_handler *handler, struct gw_sources *old)
{
	for (unsigned i = 0; old && i < handler->shared.receivers; i++)
		gw_gate_await_epoch(handler->shared.gate[i]);
	gw_sources_free(old);
}

/* ---- Receivers, and the endpoints of what they receive -----------------------------------------------------------*/

int gw_receiver_run(struct gw_handler *handler, unsigned receiver, int fd)
{
	return gw_receiver_work(handler->receiver[receiver], fd);
}

const uint64_t *gw_receiver_counters(const struct gw_handler *handler, unsigned receiver)
{
	return (const uint64_t *)gw_receiver_counted(handler->receiver[receiver])->value;
}

unsigned gw_receiver_stalled(struct gw_handler *handler, unsigned receiver, int fd)
{
	return gw_receiver_look(handler->receiver[receiver], fd);
}

unsigned gw_handler_listen(struct gw_handler *handler, uint64_t *eni, unsigned most, int timeout_ms)
{
	return gw_admission_listen(&handler->admission, eni, most, timeout_ms);
}

void gw_handler_set_full(struct gw_handler *handler, int full)
{
	atomic_store(&handler->admission.full, full != 0);
}

struct gw_endpoint *gw_endpoint_new(struct gw_handler *handler, uint64_t eni)
{
	return gw_endpoints_add(&handler->endpoints, eni);
}

struct gw_endpoint *gw_endpoint_adopt(struct gw_handler *handler, uint64_t eni, unsigned slot, uint64_t made_ns)
{
	return gw_endpoints_adopt(&handler->endpoints, eni, slot, made_ns);
}

uint64_t gw_handler_forget_strays(struct gw_handler *handler)
{
	return gw_endpoints_forget_strays(&handler->endpoints);
}

int gw_handler_leave(const struct gw_handler *handler, int fd)
{
	return gw_leftovers_write(&handler->endpoints, fd);
}

int gw_handler_take_back(struct gw_handler *handler, int fd)
{
	return gw_leftovers_read(&handler->endpoints, handler->receiver, fd);
}

/* ---- Flows -------------------------------------------------------------------------------------------------------*/

uint64_t gw_handler_flow_entries(const struct gw_handler *handler)
{
	return gw_flows_entries(handler->shared.flows);
}

unsigned gw_handler_dump_flows(const struct gw_handler *handler, const struct gw_flow_filter *filter,
                               uint32_t *position, struct gw_flow_record *record, unsigned room)
{
	return gw_flow_dump(handler->shared.flows, filter, gw_now_s(), position, record, room);
}

uint64_t gw_handler_expire(struct gw_handler *handler)
{
	return gw_flows_expire(handler->shared.flows, gw_now_s(), handler->tcp_idle_s, handler->udp_idle_s);
}

/* ---- Trace -------------------------------------------------------------------------------------------------------*/

int gw_trace_set(struct gw_handler *handler, unsigned level)
{
	return gw_trace_enable(&handler->shared.trace, level);
}

int gw_trace_read(struct gw_handler *handler, struct gw_trace_record *record)
{
	return gw_trace_take(&handler->shared.trace, record);
}

uint64_t gw_trace_lost(const struct gw_handler *handler)
{
	return atomic_load_explicit(&handler->shared.trace.lost, memory_order_relaxed);
}

/* ---- Paused ------------------------------------------------------------------------------------------------------*/

void gw_handler_pause(struct gw_handler *handler, int paused)
{
	atomic_store(&handler->shared.paused, paused != 0);
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

void gw_handler_stop(struct gw_handler *handler)
{
	atomic_store(&handler->shared.stop, true);
}

void gw_handler_free(struct gw_handler *handler)
{
	int error = errno;

	for (unsigned i = 0; handler->receiver && i < handler->shared.receivers; i++)
		if (handler->receiver[i])
			gw_receiver_free(handler->receiver[i]);
	free(handler->receiver);
	gw_admission_end(&handler->admission);
	gw_endpoints_end(&handler->endpoints);
	end_shared(&handler->shared);
	free(handler);
	errno = error;
}

static void end_shared(struct gw_shared *shared)
{
	if (shared->flows)
		gw_flows_free(shared->flows);
	gw_trace_end(&shared->trace);
	gw_sources_free(atomic_load(&shared->sources));
	free(shared->gate);
	free(shared->waiting);
}
