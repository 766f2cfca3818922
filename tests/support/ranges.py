# SPDX-License-Identifier: MIT-0
"""Networks as ranges of addresses."""
import ipaddress


def ranges(*texts):
    return [(int(network[0]), int(network[-1])) for network in map(ipaddress.IPv4Network, texts)]
