# SPDX-License-Identifier: MIT-0
"""What an appliance may return of what it was sent, by what it does with packets."""
from typing import Optional

import packets


class Identical:
    """What an appliance that passes packets through returns: each packet once, as it was."""

    def fingerprint(self, packet: bytes) -> Optional[bytes]:
        """What a returned packet must have in common with one that was sent; None: it need not be one."""
        return packet

    def admits(self, packet: bytes) -> bool:
        """Whether the appliance may send a packet that it has not received."""
        return False


class AsLongAsIpSays(Identical):
    """What follows a packet in its datagram is no part of it: some of these packets lie about their length."""

    def fingerprint(self, packet):
        at, header = (2, 0) if packet[0] >> 4 == 4 else (4, 40)
        return packet[:header + int.from_bytes(packet[at:at + 2], "big")]


class Forwarded(Identical):
    """What a router returns: each packet once, one hop older, and ICMP errors of its own."""

    def fingerprint(self, packet: bytes) -> Optional[bytes]:
        if packet[0] >> 4 == 4:
            return packet[:8] + packet[9:10] + packet[12:]
        return packet[:7] + packet[8:]

    def admits(self, packet: bytes) -> bool:
        return packets.is_icmp_error(packets.parse(packet), packet)


class WellFormed(Identical):
    """What an appliance that translates or answers returns: anything right in itself, of the flow it came in."""

    def fingerprint(self, packet: bytes) -> Optional[bytes]:
        return None

    def admits(self, packet: bytes) -> bool:
        return True
