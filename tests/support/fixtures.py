# SPDX-License-Identifier: MIT-0
"""What tests in network namespaces are given; the conftest.py beside them says which of it."""
import contextlib
import os
import resource

import pytest

import lab as laboratory
import netns
from faulty import hasty
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


@contextlib.contextmanager
def laboratory_in(directory):
    """A laboratory; at the end no packet may have come back wrong, and every daemon must stop cleanly."""
    made = Lab(directory)
    try:
        yield made
        statuses = [daemon.stop() for daemon in made.daemons]
        assert made.balancer.violations == []
        assert statuses == [0] * len(statuses), "".join(d.log() + d.errors() for d in made.daemons)
    finally:
        made.close()


@pytest.fixture
def lab(tmp_path):
    with laboratory_in(tmp_path) as made:
        yield made


@pytest.fixture
def impatient(tmp_path, monkeypatch):
    """Has daemons try again and tell sooner, so that tests need less time."""
    monkeypatch.setattr(laboratory, "PROGRAM", hasty(tmp_path))


@pytest.fixture
def started_by(monkeypatch):
    """Has daemons started by a command."""
    def start_by(*command):
        plain = laboratory.command_line
        monkeypatch.setattr(laboratory, "command_line", lambda *arguments: [*command, *plain(*arguments)])
    return start_by


@pytest.fixture
def instance():
    """A host for hook scripts to be run on by themselves."""
    with contextlib.ExitStack() as stack:
        made = Instance(stack)
        stack.callback(made.close)
        yield made
