# SPDX-License-Identifier: MIT-0
"""What all tests share."""
import contextlib
import os
import resource
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import netns  # noqa: E402
from lab import Lab  # noqa: E402
from scripts import Instance  # noqa: E402


def pytest_sessionstart():
    if os.geteuid() != 0:
        pytest.exit("the tests make network namespaces and TUN interfaces: run them as root", returncode=1)
    netns.sweep()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # as the daemon does


@pytest.fixture
def lab(tmp_path):
    """A laboratory; at the end no packet may have come back wrong, and every daemon must stop cleanly."""
    laboratory = Lab(tmp_path)
    try:
        yield laboratory
        statuses = [daemon.stop() for daemon in laboratory.daemons]
        assert laboratory.balancer.violations == []
        assert statuses == [0] * len(statuses), "".join(d.log() + d.errors() for d in laboratory.daemons)
    finally:
        laboratory.close()


@pytest.fixture
def instance():
    """A host for hook scripts to be run on by themselves."""
    with contextlib.ExitStack() as stack:
        made = Instance(stack)
        stack.callback(made.close)
        yield made
