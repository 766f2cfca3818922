# SPDX-License-Identifier: MIT-0
"""Tells when packets go in to an endpoint and none comes back: most often something is missing that lets Linux route them."""
from typing import Counter

from .logs import CORE, Log

SILENCE_S = 10.0  # since the endpoint has been up, after which a hint is due
SILENCE_PACKETS = 10


class Silence:
    """Watches one endpoint until it has spoken, or the hint has been given."""

    def __init__(self, gwi: str, log: Log):
        self.over = False  # there is nothing to tell any more
        self._gwi = gwi
        self._log = log

    def look(self, counters: Counter[str], up_ns: int) -> None:
        """counters: the endpoint's. up_ns: for how long it has been up."""
        if up_ns < SILENCE_S * 1e9:
            return
        if counters["packets_sent"]:
            self.over = True
        elif counters["packets_out"] >= SILENCE_PACKETS:
            self.over = True
            self._log.important(
                CORE, f"{counters['packets_out']} packets went in to Linux on {self._gwi}, and none has come back. If "
                      "they should, check: is there a create hook (-c) that routes or redirects them? Is "
                      "net.ipv4.ip_forward 1 (for IPv6, net.ipv6.conf.all.forwarding)? Is the policy of iptables' FORWARD "
                      "chain DROP (Docker sets it)? Is net.ipv4.conf.all.rp_filter 0? Is the EC2 source/destination check of "
                      "this instance off, if they leave by another interface?")
