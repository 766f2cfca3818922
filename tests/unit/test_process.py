# SPDX-License-Identifier: MIT-0
"""What the kernel says of a process, and what is left where it says little."""
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gwlbtun import process


def test_it_is_of_this_process(tmp_path):
    """In a process of its own: threads that other tests have left may end, or open files, at any time."""
    program = "import pathlib, sys, test_process; test_process.see_how_it_grows(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, tmp_path], timeout=60, check=True,
                   env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def see_how_it_grows(tmp_path):
    before = process.usage()
    assert before["start_time_seconds"] <= time.time()
    assert before["max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with open(tmp_path / "file", "w", encoding="utf-8"):
        used = time.process_time() + 0.05
        while time.process_time() < used:
            pass
        after = process.usage()
    done.set()
    thread.join()
    assert after["open_fds"] == before["open_fds"] + 1
    assert after["threads"] == before["threads"] + 1
    assert after["cpu_seconds"] > before["cpu_seconds"]
    assert after["virtual_memory_bytes"] >= after["resident_memory_bytes"] > 1 << 20
    assert after["start_time_seconds"] == before["start_time_seconds"]


def test_a_kernel_without_a_count_of_descriptors_has_them_counted():
    program = """
import os
from gwlbtun import process
print(process.usage()["open_fds"])
stat = os.stat
os.stat = lambda path, **options: os.stat_result([0] * 10) if path == "/proc/self/fd" else stat(path, **options)
print(process.usage()["open_fds"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(process.__file__).parents[1], stdout=subprocess.PIPE,
                          text=True, timeout=60, check=True)
    known, counted = done.stdout.split()
    assert int(known) == int(counted) > 0


@pytest.mark.parametrize("found", [OSError("hidden"), "", "1 (a) S 1", "no number"])
def test_what_the_kernel_does_not_tell_is_missing(monkeypatch, found):
    def read_text(*arguments, **options):
        if isinstance(found, OSError):
            raise found
        return found
    monkeypatch.setattr(Path, "read_text", read_text)
    assert set(process.usage()) == {"max_fds"}


def test_a_limit_that_is_none_is_missing(monkeypatch):
    monkeypatch.setattr(process.resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "max_fds" not in process.usage()
