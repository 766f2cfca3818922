# SPDX-License-Identifier: MIT-0
"""The hook scripts in network namespaces, by themselves and in gwlbtun: as root."""
from fixtures import instance, lab, root  # noqa: F401
