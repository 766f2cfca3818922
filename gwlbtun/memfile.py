# SPDX-License-Identifier: MIT-0
"""Files in memory, which nobody else sees and which vanish with their last descriptor."""
import contextlib
import os
from typing import Iterator

# Since Linux 6.3, which can refuse memory files without it (vm.memfd_noexec = 2). Mapping one needs no leave to execute it.
MFD_NOEXEC_SEAL = 0x8


def create(name: str) -> int:
    """Returns a descriptor. The name is for /proc alone. Raises OSError."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError:  # an older kernel
        return os.memfd_create(name, os.MFD_CLOEXEC)


@contextlib.contextmanager
def held(name: str) -> Iterator[int]:
    """A descriptor that is closed in the end. Raises OSError."""
    fd = create(name)
    try:
        yield fd
    finally:
        os.close(fd)
