# SPDX-License-Identifier: MIT-0
"""The daemon and its parts in network namespaces: as root."""
from command import copy  # noqa: F401
from fixtures import carried_by, impatient, lab, pytest_generate_tests, root, started_by  # noqa: F401
from onefile import built, onefile  # noqa: F401
