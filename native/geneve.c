/* SPDX-License-Identifier: MIT-0 */
/*
 * geneve.c - parse and check a Geneve header.
 *
 * Theory of operation: pure functions over the caller's memory; any thread may call them.  What the options of each
 * cloud's load balancer mean stands in one table, which is all that another cloud would add to.  The checks run from the
 * outside in, and the first that fails names the drop.
 */
#include "geneve.h"

#include <string.h>

enum meaning { ENI, ATTACHMENT, COOKIE, MEANINGS };

#define CLASS_AWS 0x0108
#define TYPE_CRITICAL 0x80

static const struct known_option {
	uint16_t class;
	uint8_t type;
	uint8_t size; /* bytes of data */
	uint8_t meaning;
} known_options[] = {
	{ CLASS_AWS, 1, 8, ENI },
	{ CLASS_AWS, 2, 8, ATTACHMENT },
	{ CLASS_AWS, 3, 4, COOKIE },
};

static const struct known_option *find_option(unsigned class, unsigned type)
{
	for (size_t i = 0; i < sizeof(known_options) / sizeof(known_options[0]); i++)
		if (known_options[i].class == class && known_options[i].type == type)
			return &known_options[i];
	return NULL;
}

static uint64_t big_endian(const uint8_t *bytes, size_t len)
{
	uint64_t value = 0;

	for (size_t i = 0; i < len; i++)
		value = value << 8 | bytes[i];
	return value;
}

/* If an option comes twice, the first counts. */
static unsigned parse_options(const uint8_t *option, const uint8_t *end, struct gw_geneve *geneve)
{
	static const uint8_t missing[MEANINGS] = { GW_drop_no_eni, GW_drop_no_attachment, GW_drop_no_cookie };
	uint64_t value[MEANINGS] = { 0 };
	unsigned seen = 0;

	while (option < end) {
		unsigned class = (unsigned)option[0] << 8 | option[1];
		unsigned type = option[2];
		size_t size = (option[3] & 0x1fu) * 4;
		const struct known_option *known = find_option(class, type);

		if (size + 4 > (size_t)(end - option))
			return GW_drop_option_overrun;
		if (known) {
			if (size != known->size)
				return GW_drop_option_size;
			if (!(seen & 1u << known->meaning))
				value[known->meaning] = big_endian(option + 4, size);
			seen |= 1u << known->meaning;
		} else if (type & TYPE_CRITICAL) {
			return GW_drop_critical_option;
		}
		option += 4 + size;
	}
	for (unsigned meaning = 0; meaning < MEANINGS; meaning++)
		if (!(seen & 1u << meaning))
			return missing[meaning];
	geneve->eni = value[ENI];
	geneve->attachment = value[ATTACHMENT];
	geneve->cookie = (uint32_t)value[COOKIE];
	return 0;
}

unsigned gw_geneve_parse(const uint8_t *payload, size_t len, struct gw_geneve *geneve)
{
	unsigned protocol;

	if (len < GW_GENEVE_BASE)
		return GW_drop_header_short;
	if (payload[0] >> 6 != 0)
		return GW_drop_version;
	geneve->header_len = (uint16_t)(GW_GENEVE_BASE + (payload[0] & 0x3fu) * 4);
	if (geneve->header_len > len)
		return GW_drop_options_length;
	if (payload[1] & 0x80)
		return GW_drop_control;
	protocol = (unsigned)payload[2] << 8 | payload[3];
	if (protocol == 0x0800)
		geneve->family = 4;
	else if (protocol == 0x86dd)
		geneve->family = 6;
	else
		return GW_drop_protocol;
	/* The options are whole words, and so is each option: where one begins, at least 4 bytes remain. */
	return parse_options(payload + GW_GENEVE_BASE, payload + geneve->header_len, geneve);
}
