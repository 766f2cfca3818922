/* SPDX-License-Identifier: MIT-0 */
/*
 * vnet.h - super-packets as TUN carries them, and the header that it puts before each.
 *
 * A super-packet is what a TUN device with IFF_VNET_HDR takes or gives in one write or read: one set of headers, the
 * payload of many segments, and before it a header that says how to cut it.
 */
#ifndef GW_VNET_H
#define GW_VNET_H

#include <stdint.h>

#include "ip.h"

/* struct virtio_net_hdr (virtio 1.2, 5.1.6; linux/virtio_net.h), in host byte order, as it is without TUNSETVNETLE. */
struct gw_vnet_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len; /* a hint: what TUN hands out may be more or less than the headers */
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset; /* from csum_start */
};

_Static_assert(sizeof(struct gw_vnet_header) == 10, "TUN reads and writes 10 bytes");

#define GW_VNET_NEEDS_CSUM 1
#define GW_VNET_GSO_NONE 0
#define GW_VNET_GSO_TCPV4 1
#define GW_VNET_GSO_TCPV6 4
#define GW_VNET_GSO_UDP_L4 5
#define GW_VNET_GSO_ECN 0x80

/*
 * By how much the IPv4 ID grows from segment to segment of a super-packet with this IP header.  The kernel adds one, always.
 * gwlbtun differs here alone: with DF and an ID of 0 all segments have 0, as many hosts send them.  The ID of such a datagram
 * carries no meaning (RFC 6864, 4.1), so a super-packet of Linux's own may be split so, and packets that come with that ID
 * may be merged, and leave with it.
 */
static inline unsigned gw_vnet_id_step(const uint8_t *ip)
{
	return gw_load16(ip + 4) == 0 && gw_load16(ip + 6) & GW_IPV4_DF ? 0 : 1;
}

#endif
