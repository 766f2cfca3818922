/* SPDX-License-Identifier: MIT-0 */
/*
 * recvmmsg.c - the receivers: batches of datagrams from the UDP socket.
 *
 * Theory of operation
 *
 * A U thread owns its struct gw_receiver and its socket.  It blocks in recvmmsg for the first datagram and takes those that
 * are there with it: a batch.  While it stands in for T threads (relief.h) it blocks in poll, on their queues as well.  A
 * datagram may be many (UDP_GRO): Geneve packets of one outer flow, all of one size but the last.
 *
 * A batch is taken in (intake.c) and handed over (handover.c) inside the receiver's gate (gate.h).  At the end of it the
 * thread holds nothing that it found, but the duties of the T threads that it stands in for.
 *
 * While packets wait for their endpoints, the thread looks after them between batches.
 */
#include "recvmmsg.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "handover.h"
#include "intake.h"
#include "progress.h"
#include "relief.h"

#ifndef UDP_GRO
#define UDP_GRO 104 /* Linux 5.0 */
#endif

/* The most and the fewest datagrams of one recvmmsg.  In between, a batch is as many as BATCH_BYTES held last time: a batch
 * is gone through several times and should stay in the cache.  Small datagrams need much of it beside their bytes, so
 * BATCH_UNMERGED are enough of them unless they merge. */
#define BATCH 1024u
#define BATCH_UNMERGED 512u
#define BATCH_LEAST 4u
#define BATCH_BYTES (256u << 10)

/* Not a power of two, or the beginnings of all buffers would compete for the same cache lines. */
#define DATAGRAM_ROOM (65536u + 320u)

/* How often the thread looks for packets that have waited too long. */
#define WAIT_LOOK_MS 250

/* How long a receiver goes on after it was told to stop while packets keep coming. */
#define DRAIN_NS 200000000u

struct gw_receiver {
	struct gw_counters counters;
	struct gw_gate gate;
	struct gw_fence fence;
	struct gw_relief relief;
	struct gw_progress progress; /* the control thread's that looks */
	struct gw_shared *shared;
	int fd;
	uint64_t stop_ns;  /* when it first saw that the handler stops */
	unsigned wanted;   /* the most datagrams of the next batch */
	unsigned received; /* datagrams in this one */
	unsigned next;     /* of them, those to take in */
	struct gw_intake intake;
	struct gw_handover handover;
	struct gw_promote promote;
	struct gw_datagram datagram[BATCH];
	struct mmsghdr header[BATCH];
	struct iovec iov[BATCH];
	struct sockaddr_in from[BATCH];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
	} control[BATCH];
	uint8_t data[BATCH][DATAGRAM_ROOM];
};

static void set_headers(struct gw_receiver *receiver);
static void reset_header(struct gw_receiver *receiver, unsigned i);
static int next_batch(struct gw_receiver *receiver);
static bool is_paused(const struct gw_receiver *receiver);
static bool drained_long_enough(struct gw_receiver *receiver);
static int receive(struct gw_receiver *receiver, int flags);
static void take_batch(struct gw_receiver *receiver);
static void read_datagram(struct gw_receiver *receiver, unsigned i);
static void set_wanted(struct gw_receiver *receiver);

/* ---- Made --------------------------------------------------------------------------------------------------------*/

struct gw_receiver *gw_receiver_new(struct gw_shared *shared, struct gw_endpoints *endpoints,
                                    struct gw_admission *admission, unsigned index)
{
	/* Mapped, so that a buffer takes only the memory that its largest datagram took. */
	struct gw_receiver *receiver = mmap(NULL, sizeof(*receiver), PROT_READ | PROT_WRITE,
	                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (receiver == MAP_FAILED)
		return NULL;
	if (!gw_gate_begin(&receiver->gate)) {
		munmap(receiver, sizeof(*receiver));
		return NULL;
	}
	if (!gw_waiting_begin(&receiver->intake.waiting, shared->receivers, shared->multiplier)) {
		gw_receiver_free(receiver);
		return NULL;
	}
	receiver->shared = receiver->intake.shared = receiver->handover.shared = shared;
	receiver->intake.counters = receiver->handover.counters = &receiver->counters;
	receiver->intake.gate = receiver->relief.gate = &receiver->gate;
	receiver->intake.endpoints = endpoints;
	receiver->intake.admission = admission;
	receiver->intake.handover = &receiver->handover;
	receiver->handover.relief = &receiver->relief;
	receiver->handover.promote = &receiver->promote;
	gw_promote_begin(&receiver->promote, shared->receivers);
	receiver->relief.fence = &receiver->fence;
	atomic_init(&receiver->fence.fd, -1);
	receiver->handover.receiver = receiver->relief.receiver = index;
	receiver->relief.alone = shared->receivers <= shared->tunnel_threads;
	receiver->wanted = BATCH;
	set_headers(receiver);
	return receiver;
}

static void set_headers(struct gw_receiver *receiver)
{
	for (unsigned i = 0; i < BATCH; i++) {
		struct msghdr *header = &receiver->header[i].msg_hdr;

		receiver->iov[i] = (struct iovec){ receiver->data[i], DATAGRAM_ROOM };
		header->msg_iov = &receiver->iov[i];
		header->msg_iovlen = 1;
		header->msg_name = &receiver->from[i];
		header->msg_control = &receiver->control[i];
		reset_header(receiver, i);
	}
}

static void reset_header(struct gw_receiver *receiver, unsigned i)
{
	receiver->header[i].msg_hdr.msg_namelen = sizeof(receiver->from[i]);
	receiver->header[i].msg_hdr.msg_controllen = sizeof(receiver->control[i]);
}

const struct gw_counters *gw_receiver_counted(const struct gw_receiver *receiver)
{
	return &receiver->counters;
}

struct gw_gate *gw_receiver_gate(struct gw_receiver *receiver)
{
	return &receiver->gate;
}

struct gw_waiting *gw_receiver_waiting(struct gw_receiver *receiver)
{
	return &receiver->intake.waiting;
}

struct gw_fence *gw_receiver_fence(struct gw_receiver *receiver)
{
	return &receiver->fence;
}

struct gw_promote *gw_receiver_promote(struct gw_receiver *receiver)
{
	return &receiver->promote;
}

struct gw_intake *gw_receiver_intake(struct gw_receiver *receiver)
{
	return &receiver->intake;
}

unsigned gw_receiver_look(struct gw_receiver *receiver, int fd)
{
	const struct gw_counters *counters = &receiver->counters;
	struct gw_gate *gate = &receiver->gate;
	const uint32_t epoch = atomic_load(&gate->epoch);
	const bool asked = atomic_load(&gate->held) > 0 && atomic_load(&gate->asked) != atomic_load(&gate->obeyed);

	return gw_progress_look(&receiver->progress, asked || epoch & 1 || gw_progress_readable(fd),
	                        epoch + gw_get(counters, GW_entries) + gw_get(counters, GW_batches) +
	                                gw_get(counters, GW_receive_errors));
}

/* ---- The U thread ------------------------------------------------------------------------------------------------*/

int gw_receiver_work(struct gw_receiver *receiver, int fd)
{
	int status;

	gw_count(&receiver->counters, GW_entries, 1);
	receiver->fd = fd;
	atomic_store(&receiver->fence.fd, fd);
	do {
		if (gw_waiting_any(&receiver->intake.waiting))
			gw_intake_look_at_waiting(&receiver->intake);
		status = next_batch(receiver);
		if (!status && receiver->next < receiver->received)
			take_batch(receiver);
	} while (!status);
	if (!is_paused(receiver))
		gw_intake_drop_waiting(&receiver->intake);
	gw_relief_leave(&receiver->relief);
	gw_fence_pass(&receiver->fence);
	atomic_store(&receiver->fence.fd, -1);
	return status;
}

/* Receives the next batch if there is one.  Returns 0, GW_STOPPED or -errno. */
static int next_batch(struct gw_receiver *receiver)
{
	bool stop = atomic_load_explicit(&receiver->shared->stop, memory_order_relaxed);
	bool on_duty = gw_relief_on_duty(&receiver->relief), waiting = gw_waiting_any(&receiver->intake.waiting);
	bool polls = on_duty || waiting || atomic_load_explicit(&receiver->shared->polls, memory_order_relaxed);
	int received;

	gw_fence_pass(&receiver->fence);
	if (is_paused(receiver) || (stop && drained_long_enough(receiver)))
		return GW_STOPPED;
	if (polls && !gw_relief_wait(&receiver->relief, receiver->fd, stop ? 0 : waiting ? WAIT_LOOK_MS : -1) && !stop)
		return 0;
	received = receive(receiver, stop || polls ? MSG_DONTWAIT : MSG_WAITFORONE);
	if (received < 0)
		return received != -EAGAIN ? received : stop ? GW_STOPPED : 0;
	/* A socket shut down for reading gives an empty datagram from nobody first: time to look at stop. */
	receiver->received = (unsigned)received;
	receiver->next = received > 0 && receiver->header[0].msg_hdr.msg_namelen == 0;
	return 0;
}

static bool is_paused(const struct gw_receiver *receiver)
{
	return atomic_load_explicit(&receiver->shared->paused, memory_order_relaxed);
}

/* A receiver that must stop goes on until its socket is empty, but no longer than DRAIN_NS. */
static bool drained_long_enough(struct gw_receiver *receiver)
{
	uint64_t now = gw_now_ns();

	if (receiver->stop_ns == 0)
		receiver->stop_ns = now;
	return now - receiver->stop_ns > DRAIN_NS;
}

/* Takes the datagrams that are there, and blocks for the first.  Returns their number, 0 to try again, or -errno. */
static int receive(struct gw_receiver *receiver, int flags)
{
	int received;

	/* Restores the sizes, which the kernel overwrote last time. */
	for (unsigned i = 0; i < receiver->received; i++)
		reset_header(receiver, i);
	receiver->received = receiver->next = 0;
	received = recvmmsg(receiver->fd, receiver->header, receiver->wanted, flags, NULL);
	if (received >= 0)
		return received;
	switch (errno) {
	case EBADF:
	case ENOTSOCK:
	case EFAULT:
	case EINVAL:
		return -errno;
	case EINTR:
		return 0;
	case EAGAIN:
		return flags & MSG_DONTWAIT ? -EAGAIN : 0;
	default:
		/* A shortage of memory, for example, which passes: no reason to end, nor to spin. */
		gw_count(&receiver->counters, GW_receive_errors, 1);
		usleep(1000);
		return 0;
	}
}

/* ---- A batch -----------------------------------------------------------------------------------------------------*/

static void take_batch(struct gw_receiver *receiver)
{
	for (unsigned i = 0; i < receiver->received; i++)
		read_datagram(receiver, i);
	set_wanted(receiver);
	gw_count(&receiver->counters, GW_batches, 1);
	gw_set(&receiver->counters, GW_last_in_ns, gw_now_ns());
	gw_gate_go_in(&receiver->gate);
	gw_intake_begin_batch(&receiver->intake);
	for (; receiver->next < receiver->received; receiver->next++)
		gw_intake_datagram(&receiver->intake, &receiver->datagram[receiver->next],
		                   receiver->data[receiver->next]);
	gw_handover_pass(&receiver->handover);
	gw_gate_go_out(&receiver->gate);
	gw_fence_took(&receiver->fence, receiver->received);
}

/* Reads what the kernel says of a datagram. */
static void read_datagram(struct gw_receiver *receiver, unsigned i)
{
	struct msghdr *header = &receiver->header[i].msg_hdr;
	struct gw_datagram *datagram = &receiver->datagram[i];

	*datagram = (struct gw_datagram){ .origin.gwlb_address = receiver->from[i].sin_addr.s_addr,
		                          .origin.gwlb_port = ntohs(receiver->from[i].sin_port),
		                          .len = receiver->header[i].msg_len,
		                          .size = receiver->header[i].msg_len,
		                          .truncated = (header->msg_flags & MSG_TRUNC) != 0 };
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
			datagram->origin.own_address = info.ipi_spec_dst.s_addr;
			datagram->destination = info.ipi_addr.s_addr;
			datagram->interface = (uint32_t)info.ipi_ifindex;
		} else if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_GRO) {
			int size;

			memcpy(&size, CMSG_DATA(cmsg), sizeof(size));
			if (size > 0)
				datagram->size = (uint32_t)size;
		}
	}
}

/* The most datagrams of the next batch, by the size of this one and by how far it merged. */
static void set_wanted(struct gw_receiver *receiver)
{
	struct gw_handover *handover = &receiver->handover;
	bool merged = handover->records < handover->packets - handover->packets / 16;
	uint64_t most = merged ? BATCH : BATCH_UNMERGED, bytes = 1, wanted;

	for (unsigned i = 0; i < receiver->received; i++)
		bytes += receiver->datagram[i].len;
	handover->behind = receiver->received == receiver->wanted;
	handover->packets = handover->records = 0;
	wanted = (uint64_t)BATCH_BYTES * receiver->received / bytes;
	receiver->wanted = (unsigned)(wanted > most ? most : wanted < BATCH_LEAST ? BATCH_LEAST : wanted);
}

/* ---- Gone --------------------------------------------------------------------------------------------------------*/

void gw_receiver_free(struct gw_receiver *receiver)
{
	gw_waiting_end(&receiver->intake.waiting);
	gw_gate_end(&receiver->gate);
	munmap(receiver, sizeof(*receiver));
}
