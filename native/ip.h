/* SPDX-License-Identifier: MIT-0 */
/*
 * ip.h - the headers of IP, TCP and UDP: their numbers, and their fields, which may lie at any alignment.
 */
#ifndef GW_IP_H
#define GW_IP_H

#include <stdint.h>

#define GW_PROTO_TCP 6
#define GW_PROTO_UDP 17

#define GW_IPV4_HEADER 20u
#define GW_IPV6_HEADER 40u
#define GW_TCP_HEADER 20u
#define GW_UDP_HEADER 8u

#define GW_IPV4_DF 0x4000u

#define GW_TCP_FIN 0x01u
#define GW_TCP_PSH 0x08u
#define GW_TCP_ACK 0x10u
#define GW_TCP_CWR 0x80u

static inline uint32_t gw_load16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t gw_load32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void gw_store16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void gw_store32(uint8_t *p, uint32_t value)
{
	gw_store16(p, value >> 16);
	gw_store16(p + 2, value);
}

#endif
