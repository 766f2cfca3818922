# SPDX-License-Identifier: MIT-0
"""What tests in network namespaces are given; the conftest.py beside them says which of it."""
import contextlib
import http.client
import json
import os
import re
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


def pytest_generate_tests(metafunc):
    """Each test in a laboratory runs twice: threads carry all its packets, or known flows take the kernel."""
    if "lab" in metafunc.fixturenames:
        once = metafunc.definition.get_closest_marker("one_path")
        paths = laboratory.KERNEL_PATHS[:1] if once else laboratory.KERNEL_PATHS
        metafunc.parametrize("carried_by", paths, scope="module", indirect=True)


@pytest.fixture(scope="module", autouse=True)
def carried_by(request):
    """`off` or `auto`: --kernel-path of daemons that are started without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "kernel_path", getattr(request, "param", Lab.kernel_path))
        yield Lab.kernel_path


@contextlib.contextmanager
def laboratory_in(directory):
    """A laboratory; at the end no packet may have come back wrong, and every daemon must stop cleanly."""
    made = Lab(directory)
    try:
        yield made
        path_is_taken(made)
        statuses = [daemon.stop() for daemon in made.daemons]
        assert made.balancer.violations == []
        assert statuses == [0] * len(statuses), "".join(d.log() + d.errors() for d in made.daemons)
    finally:
        made.close()


# Why the path in the kernel may be out of use where the laboratory has it on: what a test has asked for.
LEFT_TO_THREADS = re.compile("|".join((
    "--kernel-path is off", "nothing goes back", "the log tells of single packets", "--offload leaves something out",
    "has a network namespace of its own", "something marks gwlbtun's sockets", "it takes the capability",
    "something forbids the system call", "there is no /sys", "there is no /proc", "gwlbtun is restarting")))


def path_is_taken(made):
    """Where the laboratory has known flows take the kernel, they can, unless the test has asked for something against it."""
    for daemon in made.daemons if made.kernel_path != "off" else ():
        with contextlib.suppress(OSError, http.client.HTTPException):  # it has ended, or does not answer
            ebpf = json.loads(daemon.get("/json")[2])["ebpf"]
            assert ebpf["active"] or LEFT_TO_THREADS.search(ebpf["reason"]), ebpf["reason"]


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
