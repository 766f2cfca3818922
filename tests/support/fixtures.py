# SPDX-License-Identifier: MIT-0
"""What tests in network namespaces are given; the conftest.py beside them says which of it."""
import contextlib
import os
import resource

import pytest

import netns
from lab import Lab
from scripts import Instance


@pytest.fixture(scope="session", autouse=True)
def root():
    if os.geteuid() != 0:
        pytest.exit("these tests make network namespaces and TUN interfaces: run them as root; "
                    "`make check` runs those that need no root", returncode=1)
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
