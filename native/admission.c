/* SPDX-License-Identifier: MIT-0 */
/*
 * admission.c - which ENI IDs may have endpoints, and how the control thread hears of new ones; admission.h tells how.
 */
#include "admission.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "bell.h"
#include "gwlbtun.h"

static int compare_enis(const void *a, const void *b);
static unsigned hear(struct gw_admission *admission, uint64_t *eni, unsigned most);

bool gw_admission_begin(struct gw_admission *admission, struct gw_waiting **waiting, unsigned rooms)
{
	admission->waiting = waiting;
	admission->rooms = rooms;
	admission->bell = gw_bell_new();
	return admission->bell >= 0;
}

void gw_admission_end(struct gw_admission *admission)
{
	if (admission->bell >= 0)
		close(admission->bell);
	free(admission->allowed);
}

int gw_admission_allow(struct gw_admission *admission, const uint64_t *eni, unsigned enis)
{
	admission->allowed = calloc(enis ? enis : 1, sizeof(*eni));
	if (!admission->allowed)
		return -errno;
	for (unsigned i = 0; i < enis; i++)
		admission->allowed[i] = eni[i];
	admission->allowed_count = enis;
	return 0;
}

/* ---- U threads ---------------------------------------------------------------------------------------------------*/

bool gw_admission_allows(const struct gw_admission *admission, uint64_t eni)
{
	return !admission->allowed ||
	       bsearch(&eni, admission->allowed, admission->allowed_count, sizeof(eni), compare_enis) != NULL;
}

static int compare_enis(const void *a, const void *b)
{
	const uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

	return (one > other) - (one < other);
}

void gw_admission_announce(struct gw_admission *admission, struct gw_waiting *own, uint64_t eni)
{
	gw_waiting_announce(own, eni);
	if (atomic_load(&admission->sleeps) && atomic_exchange(&admission->sleeps, false))
		gw_bell_ring(admission->bell);
}

unsigned gw_admission_refusal(const struct gw_admission *admission)
{
	bool full = atomic_load_explicit(&admission->full, memory_order_relaxed);

	return full ? GW_drop_endpoints_full : GW_drop_endpoint_refused;
}

/* ---- The control thread ------------------------------------------------------------------------------------------*/

unsigned gw_admission_listen(struct gw_admission *admission, uint64_t *eni, unsigned most, int timeout_ms)
{
	struct pollfd bell = { .fd = admission->bell, .events = POLLIN };
	unsigned heard = hear(admission, eni, most);

	if (heard > 0)
		return heard;
	atomic_store(&admission->sleeps, true);
	heard = hear(admission, eni, most);
	if (heard == 0 && poll(&bell, 1, timeout_ms) > 0) {
		gw_bell_silence(admission->bell);
		heard = hear(admission, eni, most);
	}
	atomic_store(&admission->sleeps, false);
	return heard;
}

static unsigned hear(struct gw_admission *admission, uint64_t *eni, unsigned most)
{
	unsigned heard = 0;

	for (unsigned i = 0; i < admission->rooms; i++) {
		unsigned at = admission->next + i;
		struct gw_waiting *room = admission->waiting[at < admission->rooms ? at : at - admission->rooms];

		while (heard < most && gw_waiting_hear(room, &eni[heard]))
			heard++;
	}
	admission->next = admission->next + 1 < admission->rooms ? admission->next + 1 : 0;
	return heard;
}
