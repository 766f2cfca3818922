# SPDX-License-Identifier: MIT-0
"""A tunnel handler for Gateway Load Balancer: the control plane. The fast path is in native/."""

__version__ = "1.2.0"


class StartError(Exception):
    """The environment keeps gwlbtun from running. The text is one line: what is wrong, and how to mend it."""
