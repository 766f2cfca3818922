# SPDX-License-Identifier: MIT-0
"""What SIGHUP means: a new program in this process, or the end of the session that gwlbtun was started in."""
import os


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
        return True
    except OSError:
        return False


_TERMINAL = _has_terminal()  # now: once the session ends there is none any more


def ends_with_session(supervised: bool) -> bool:
    """Whether SIGHUP stops gwlbtun: somebody runs it at a terminal. supervised: systemd does."""
    return _TERMINAL and not supervised
