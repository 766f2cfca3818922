/* SPDX-License-Identifier: MIT-0 */
/*
 * keys.c - prints the flow keys of inner packets, as the shim makes them, for what makes them elsewhere to be compared.
 *
 * Theory of operation: a packet is a line of hexadecimal digits on the standard input.  Its answer is a line: the words of
 * its own key, or nothing where it is refused.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../native/packet.h"

#define SLOT 3u

static size_t read_packet(const char *line, uint8_t *packet, size_t most)
{
	size_t len = 0;
	unsigned octet;

	while (len < most && sscanf(line + 2 * len, "%2x", &octet) == 1)
		packet[len++] = (uint8_t)octet;
	return len;
}

int main(void)
{
	static uint8_t data[65536];
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, stdin) > 0) {
		struct gw_packet_keys keys;
		struct gw_packet packet;
		size_t len = read_packet(line, data, sizeof(data));

		if (len && !gw_packet_parse(data, len, data[0] >> 4 == 6 ? 6 : 4, &packet)) {
			gw_packet_keys(&packet, SLOT, &keys);
			for (unsigned i = 0; i < GW_KEY_WORDS; i++)
				printf("%016llx", (unsigned long long)keys.own.word[i]);
		}
		printf("\n");
	}
	free(line);
	return 0;
}
