# SPDX-License-Identifier: MIT-0
"""Sockets that somebody gives a mark or binds to an interface as they are made, as `ip vrf exec` does: routes differ by it."""
import contextlib
import os
import struct

import pytest

from carrying import Carrying
from gwlbtun.kernel import bpf

_CGROUP_SOCK, _SOCK_CREATE = 9, 2
BOUND, MARK, PRIORITY = 0, 16, 20  # in struct bpf_sock


def _writes(field, value):
    """A program that has each new socket begin with a value in a field of struct bpf_sock."""
    return (struct.pack("<BBhi", 0xB7, 2, 0, value) + struct.pack("<BBhi", 0x63, 0x21, field, 0)
            + struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0))


@pytest.fixture
def group(monkeypatch, tmp_path):
    """Has a program work on the sockets of a control group, and returns the command that starts another in there."""
    with open("/proc/mounts", encoding="ascii") as mounts:
        mounted = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    name = f"gwlbtun-test-{os.getpid()}"
    path = f"{mounted}/{name}"
    with contextlib.ExitStack() as stack:
        os.mkdir(path)
        stack.callback(os.rmdir, path)
        directory = os.open(path, os.O_RDONLY)
        stack.callback(os.close, directory)

        def write(field, value):
            with monkeypatch.context() as patch:
                patch.setattr(bpf, "_PROG_TYPE_SCHED_CLS", _CGROUP_SOCK)
                program = bpf.program_load(_writes(field, value), "marks")
            stack.callback(os.close, program)
            stack.callback(os.close, bpf.link_create(program, directory, _SOCK_CREATE))
            # In the network namespace /sys is another one, without control groups.
            return ["sh", "-c", f'mount -t cgroup2 none {tmp_path} && echo $$ >{tmp_path}/{name}/cgroup.procs '
                                f'&& umount {tmp_path} && exec "$@"', "sh"]
        yield write


@pytest.mark.parametrize("field, value", [(BOUND, 1), (MARK, 77), (PRIORITY, 3)])
def test_the_threads_send_what_is_treated_so(group, lab, started_by, field, value):
    started_by(*group(field, value))
    ebpf = lab.start("--kernel-path", "auto", hook=None).health()["ebpf"]
    assert not ebpf["active"] and "marks gwlbtun's sockets" in ebpf["reason"]


def test_a_group_that_does_nothing_changes_nothing(group, lab, started_by):
    started_by(*group(MARK, 0))
    assert Carrying(lab).until_carried()
