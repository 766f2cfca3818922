# SPDX-License-Identifier: MIT-0
"""The path in the kernel, in network namespaces: as root."""
import kernelpath
import pytest
from command import copy  # noqa: F401
from fixtures import impatient, lab, root, started_by  # noqa: F401


@pytest.fixture
def world():
    made = kernelpath.World()
    yield made
    made.close()
