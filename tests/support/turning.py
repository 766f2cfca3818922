# SPDX-License-Identifier: MIT-0
"""What follows the kernel's reports, worked off as its thread would do it."""
import select
import time
from typing import Callable

WAIT_S = 60.0


def turn_until(condition: Callable[[], bool], *followers, timeout: float = WAIT_S) -> bool:
    """Has them hear and look whenever that is due, until the condition holds; False: it never did."""
    poll = select.poll()
    for follower in followers:
        poll.register(follower.fileno(), select.POLLIN)
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        due = min(follower.due() for follower in followers)
        ready = {fd for fd, _ in poll.poll(max(min(due - time.monotonic(), 0.1), 0) * 1000)}
        for follower in followers:
            if follower.fileno() in ready:
                follower.hear()
            follower.look()
    return True
