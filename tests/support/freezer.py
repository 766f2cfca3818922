# SPDX-License-Identifier: MIT-0
"""Stops single threads of another process, as no signal can: by ptrace(2)."""
import contextlib
import ctypes
import os
from typing import Iterable, Iterator

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None):
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of {thread}: {os.strerror(number)}")


@contextlib.contextmanager
def frozen(threads: Iterable[int]) -> Iterator[None]:
    """Within it, these threads do nothing at all; the caller must be the thread that leaves it."""
    stopped = []
    try:
        for thread in threads:
            _ptrace(PTRACE_SEIZE, thread)
            stopped.append(thread)
            _ptrace(PTRACE_INTERRUPT, thread)
            os.waitpid(thread, WALL)
        yield
    finally:
        for thread in stopped:
            with contextlib.suppress(OSError):  # the process has been ended
                _ptrace(PTRACE_DETACH, thread)
