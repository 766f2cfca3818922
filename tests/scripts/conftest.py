# SPDX-License-Identifier: MIT-0
"""The hook scripts in network namespaces, by themselves and in gwlbtun: as root."""
from fixtures import carried_by, instance, lab, pytest_generate_tests, root  # noqa: F401
