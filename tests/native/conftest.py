# SPDX-License-Identifier: MIT-0
"""The shim, and the C parts by themselves: as any user."""
from command import copy  # noqa: F401
from onefile import built, onefile  # noqa: F401
