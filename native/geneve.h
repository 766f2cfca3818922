/* SPDX-License-Identifier: MIT-0 */
/*
 * geneve.h - what a Geneve header (RFC 8926) from a gateway load balancer says.
 */
#ifndef GW_GENEVE_H
#define GW_GENEVE_H

#include <stddef.h>
#include <stdint.h>

#include "gwlbtun.h"

#define GW_GENEVE_BASE 8u                       /* bytes before the options (RFC 8926 section 3.4) */
#define GW_GENEVE_MAX (GW_GENEVE_BASE + 63 * 4) /* 6 bits of option length, in 4-byte words */
#define GW_GENEVE_PORT 6081

struct gw_geneve {
	uint64_t eni;
	uint64_t attachment;
	uint32_t cookie;
	uint16_t header_len; /* base and options, bytes: 8 to GW_GENEVE_MAX */
	uint8_t family;      /* of the inner packet: 4 or 6 */
};

/* Checks the header at the start of a UDP payload of len bytes.  Returns 0 and fills *geneve, or returns the drop_ counter
 * of the first check that fails. */
unsigned gw_geneve_parse(const uint8_t *payload, size_t len, struct gw_geneve *geneve);

#endif
