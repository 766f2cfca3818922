/* SPDX-License-Identifier: MIT-0 */
/*
 * progress.c - whether a thread of the packet path stands still while there is work for it; progress.h tells how.
 */
#include "progress.h"

#include <poll.h>

unsigned gw_progress_look(struct gw_progress *progress, bool waits, uint64_t done)
{
	progress->looks = waits && done == progress->done ? progress->looks + 1 : 0;
	progress->done = done;
	return progress->looks;
}

bool gw_progress_readable(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) > 0 && (pollfd.revents & POLLIN) != 0;
}
