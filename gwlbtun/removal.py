# SPDX-License-Identifier: MIT-0
"""Deletes interfaces, many at once.

For one, Linux waits until no core uses it any more, some tens of milliseconds; for many it waits hardly longer. Threads that
come while interfaces are being deleted wait, and then one of them deletes those of all.
"""
import contextlib
import threading
from typing import List, Optional

from . import rtnetlink
from .netns import Namespace, inside
from .turns import Turn

MOST = 32  # threads at a time

_lock = threading.Lock()      # for what follows
_waiting: List[int] = []      # interfaces of our own namespace
_threads = 0
_deleting = threading.Lock()


def give_up(turn: Turn) -> None:
    """Before remove(): the next job may begin meanwhile, and bring more, unless there are many threads already."""
    if _threads < MOST:
        turn.end()


def remove(indices: List[int], namespace: Optional[Namespace]) -> None:
    """Returns when they are deleted, or cannot be. Those in another namespace than our own go by themselves."""
    if not indices:
        return
    if namespace:
        with contextlib.suppress(OSError), inside(namespace):
            rtnetlink.delete_links(indices)
        return
    global _threads, _waiting
    with _lock:
        _waiting += indices
        _threads += 1
    try:
        with _deleting:
            with _lock:
                every, _waiting = _waiting, []
            if every:  # otherwise another thread has deleted ours
                with contextlib.suppress(OSError):
                    rtnetlink.delete_links(every)
    finally:
        with _lock:
            _threads -= 1
