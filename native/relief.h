/* SPDX-License-Identifier: MIT-0 */
/*
 * relief.h - who does the work of a T thread: itself, or a U thread that relieves it while it sleeps.
 *
 * Theory of operation
 *
 * The work of a T thread is to write what its rings hold and to send on what its queue does.  It is done by who is on
 * duty there, and by nobody else at the time.  A T thread with nothing to do goes off duty and sleeps.  A U thread that has
 * something for it relieves it, as long as that is no loss: it writes its frames, reads what Linux sends, and returns that
 * to the load balancer itself, with no switch to another thread, which costs more than most packets do.  It stays on duty
 * then, and sleeps in poll on those queues and its socket, so that the kernel wakes nobody else for what comes out of them.
 * Where rings have several producers it only writes, and is off duty again.
 *
 * It is a loss when there is more to receive than was taken, and the T thread has a core of its own to run beside it.
 *
 * `duty` of a T thread is one of
 *
 *     GW_DUTY_THREAD         the T thread works, and looks at rings and queue once more before it sleeps
 *     GW_DUTY_NOBODY         it sleeps in poll on its bell and its queue
 *     GW_DUTY_ABSENT         it does not run yet; Python watches its bell and its queue, and starts it
 *     GW_DUTY_RECEIVER + 2i  U thread i works; with GW_DUTY_CALLED, the T thread is to be woken when i goes off duty: it
 *                            found itself relieved and sleeps on its bell alone, or another U thread has work for it
 *
 * Who publishes a frame looks at `duty` after it, and who goes off duty looks at the rings after it, all in one total order
 * (seq_cst): one of them sees the other.
 *
 * A U thread goes off duty everywhere when it is asked to (an endpoint is to go, or a T thread has sockets to close), and
 * whenever it returns to Python.  A T thread ends on duty only.
 */
#ifndef GW_RELIEF_H
#define GW_RELIEF_H

#include "handler.h"

enum { GW_DUTY_THREAD, GW_DUTY_NOBODY, GW_DUTY_ABSENT, GW_DUTY_RECEIVER = 4 };
#define GW_DUTY_CALLED 1u

/* ---- T threads ----------------------------------------------------------------------------------------------------*/

/* Goes off duty and sleeps until there is something to do, on duty again; true if the queue is to be read. */
bool gw_duty_rest(struct gw_tunnel *tunnel);

/* Anyone, after a store that the T thread shall see: it will be on duty, or look at what was stored before it sleeps. */
void gw_duty_call(struct gw_tunnel *tunnel);

/* Control threads: from now on its thread is to be started when there is something for it. */
void gw_duty_vacate(struct gw_tunnel *tunnel);

/* Control threads: it will be on duty soon, also where a U thread is now. */
void gw_duty_recall(struct gw_tunnel *tunnel);

/* ---- U threads ----------------------------------------------------------------------------------------------------*/

/* T threads that a U thread relieves at the same time: each makes its poll dearer. */
#define GW_RELIEVED_MAX 32u

struct gw_relief {
	struct gw_handler *handler;
	unsigned receiver;
	int bell;                /* rung when it is asked to go off duty */
	_Atomic uint32_t asked;  /* how often it was */
	_Atomic uint32_t obeyed; /* how many of those it is done with */
	_Atomic unsigned count;
	struct gw_tunnel *tunnel[GW_RELIEVED_MAX];
	uint32_t used_s[GW_RELIEVED_MAX];
};

/* False with errno. */
bool gw_relief_begin(struct gw_relief *relief, struct gw_handler *handler, unsigned receiver);
void gw_relief_end(struct gw_relief *relief);

/* Sees to it that the frames just published in the endpoint's ring of this U thread are written.  behind: there is more to
 * receive.  True if nothing was left to T threads. */
bool gw_relief_hand_over(struct gw_relief *relief, struct gw_endpoint *endpoint, bool behind);

/* Control threads: wakes the U thread from gw_relief_wait(). */
void gw_relief_ring(const struct gw_relief *relief);

/* True if it stands in for any T thread, and so must wait by gw_relief_wait(); goes off duty first where it was asked to. */
bool gw_relief_on_duty(struct gw_relief *relief);

/* Sleeps until there is something to do, no longer than timeout_ms (-1: for ever), and does it; true if there is something
 * to receive on fd. */
bool gw_relief_wait(struct gw_relief *relief, int fd, int timeout_ms);

/* Goes off duty everywhere. */
void gw_relief_leave(struct gw_relief *relief);

/* Control threads: has the U thread go off duty everywhere, soon.  The second waits for that, which is not for long. */
void gw_relief_ask(struct gw_relief *relief);
void gw_relief_await(struct gw_relief *relief);

#endif
