# SPDX-License-Identifier: MIT-0
"""What one program leaves to the next at a restart in place of the path in the kernel: descriptors of maps, programs, links.

They last as long as somebody has them open, so packets of known flows take the kernel while the process is being replaced. The
next program goes on with them if it would make the very same. Whatever it does not take is closed, and that detaches the
programs.
"""
import contextlib
import hashlib
import os
from typing import Any, Callable, Dict, List, Mapping

from ..layout import KernelCounts
from ..settings import Settings
from ..takeover.state import Json, slots
from . import layout, programs, wanted

FORM = 1  # counts what a record means


def signature(settings: Settings) -> str:
    """What both programs must agree on: the programs in the kernel, what is in the maps and how large these are, and who may
    send to gwlbtun, and for which endpoints, as packets of flows in maps are not judged again.

    Empty: these settings leave all to the threads.
    """
    if wanted.unwanted(settings):
        return ""
    structs = {name: [(field[0], getattr(struct, field[0]).offset, getattr(struct, field[0]).size) for field in struct._fields_]
               for name, struct in layout.STRUCTS.items()}
    meant = [FORM, programs.text(), sorted(layout.constants().items()), sorted(structs.items()), settings.max_flows,
             slots(settings), settings.allow_from, sorted(settings.allow_endpoints), settings.uplinks]
    return hashlib.sha256(repr(meant).encode()).hexdigest()


def record(signed: str, ipv6: bool, maps: Mapping[str, int], loaded: Mapping[str, int], links: List[int],
           counts: Mapping[str, int]) -> Json:
    """What the next program gets. ipv6: whether packets of IPv6 are carried; counts: of thread K."""
    return {"signature": signed, "ipv6": ipv6, "maps": dict(maps), "programs": dict(loaded), "links": links,
            "counts": dict(counts)}


class Bequest:
    """What the program before has left. It owns the descriptors until taken()."""

    def __init__(self, given: Json, take: Callable[[Any], int]):
        """given: a record. take(): a descriptor that is there; it raises ValueError. Raises whatever a record may cause that is
        none."""
        self.maps: Dict[str, int] = {}
        self.programs: Dict[str, int] = {}
        self.links: List[int] = []
        try:
            self.signature, self.ipv6 = str(given["signature"]), bool(given["ipv6"])
            self.counts = {field[0]: int(given["counts"][field[0]]) for field in KernelCounts._fields_}
            for found, numbers in (self.maps, given["maps"]), (self.programs, given["programs"]):
                for name, number in numbers.items():
                    found[name] = take(number)
            for number in given["links"]:
                with contextlib.suppress(ValueError):  # that program is not attached, and is again
                    self.links.append(take(number))
        except Exception:
            self.close()
            raise

    @property
    def _all(self) -> List[int]:
        return [*self.maps.values(), *self.programs.values(), *self.links]

    def taken(self) -> None:
        """The descriptors are somebody else's now."""
        self.maps, self.programs, self.links = {}, {}, []

    def close(self) -> None:
        """All that it owns. Links first: the programs must not be there without their maps' keeper."""
        for fd in reversed(self._all):
            os.close(fd)
        self.taken()
