/* SPDX-License-Identifier: MIT-0 */
#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "../failure.h"
#include "options.h"

struct options opt = { .flows = 64, .endpoints = 1, .ports = 512, .size = 128, .burst = 1, .family = 4 };

static uint32_t number(const char *text, uint32_t least, uint32_t most, const char *what)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end || value < least || value > most)
		usage(what);
	return (uint32_t)value;
}

void parse_options(int argc, char **argv)
{
	static const struct option names[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "source", required_argument, NULL, 's' },
		{ "probe", required_argument, NULL, 'o' },
		{ "target", required_argument, NULL, 't' },
		{ "mac", required_argument, NULL, 'm' },
		{ "flows", required_argument, NULL, 'f' },
		{ "endpoints", required_argument, NULL, 'e' },
		{ "ports", required_argument, NULL, 'p' },
		{ "size", required_argument, NULL, 'l' },
		{ "burst", required_argument, NULL, 'b' },
		{ "ipv6", no_argument, NULL, '6' },
		{ "tcp", no_argument, NULL, 'T' },
		{ "segment", no_argument, NULL, 'S' },
		{ "probe-apart", no_argument, NULL, 'A' },
		{ NULL, 0, NULL, 0 },
	};
	uint8_t *mac = opt.target_mac;
	int name;

	while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (name) {
		case 'd':
			opt.device = optarg;
			break;
		case 's':
		case 'o':
		case 't':
			if (!inet_aton(optarg, name == 's'   ? &opt.source
			                       : name == 'o' ? &opt.probe_source
			                                     : &opt.target))
				usage("not an IPv4 address");
			break;
		case 'm':
			if (sscanf(optarg, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4,
			           mac + 5) != 6)
				usage("--mac: not a MAC address");
			break;
		case 'f':
			opt.flows = number(optarg, 1, MAX_FLOWS - 1, "--flows: 1 to 16777215");
			break;
		case 'e':
			opt.endpoints = number(optarg, 1, MAX_ENDPOINTS, "--endpoints: 1 to 4096");
			break;
		case 'p':
			opt.ports = number(optarg, 1, MAX_PORTS - 1, "--ports: 1 to 16383");
			break;
		case 'l':
			opt.size = number(optarg, 48, 8900, "--size: 48 to 8900");
			break;
		case 'b':
			opt.burst = number(optarg, 1, MAX_BURST, "--burst: 1 to 64");
			break;
		case '6':
			opt.family = 6;
			break;
		case 'T':
			opt.tcp = true;
			break;
		case 'S':
			opt.segment = true;
			break;
		case 'A':
			opt.probe_apart = true;
			break;
		default:
			exit(2);
		}
	}
	if (!opt.device || !opt.source.s_addr || !opt.probe_source.s_addr || !opt.target.s_addr)
		usage("--device, --source, --probe, --target and --mac are needed");
	if (opt.segment && opt.burst * (GENEVE_HEADER + opt.size) > 65507)
		usage("--burst: does not fit one UDP_SEGMENT message (65507 bytes)");
}
