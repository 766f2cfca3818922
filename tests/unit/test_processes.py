# SPDX-License-Identifier: MIT-0
"""How the tests themselves are run: several modules at once, and none may leave anything behind."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[1] / "support"

MODULES = {
    "test_one.py": """
import os, time, pytest
@pytest.fixture(scope="module")
def made(record):
    yield
    record("undone")
def test_first(made, record): record("first")
@pytest.mark.alone
def test_alone(record): record("alone")
def test_last(made, record):
    record("last")
    time.sleep(float(os.environ.get("NAP", 0)))
""",
    "test_two.py": """
import os, warnings
def test_well(): pass
def test_word(): warnings.warn("a word")
def test_bad(): print("it said this"); assert not os.environ.get("BAD")
def test_dies(): assert not os.environ.get("DIES") or os.abort()
def test_after(): pass
""",
    "conftest.py": f"""
import os, sys, pathlib, pytest
sys.path[:0] = [{str(SUPPORT)!r}, {str(SUPPORT.parents[1])!r}]
pytest_plugins = ["leftovers", "processes"]
@pytest.fixture(scope="session")
def record():
    def write(word):
        with open("record", "a") as file:
            print(word, os.getpid(), file=file)
    return write
""",
    "pytest.ini": "[pytest]\nmarkers =\n    alone: x\n",
}


@pytest.fixture
def start(tmp_path):
    """Starts pytest with the modules, and more of them."""
    def start(*arguments, more="", **environment):
        for name, text in {**MODULES, "test_three.py": more}.items():
            (tmp_path / name).write_text(text)
        return subprocess.Popen([sys.executable, "-m", "pytest", "-q", *arguments], stdout=subprocess.PIPE, cwd=tmp_path,
                                stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return start


@pytest.fixture
def suite(start):
    """Runs it to its end; the exit status and what pytest says."""
    def run(*arguments, **options):
        process = start(*arguments, **options)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said
    return run


def test_all_run_and_the_totals_are_right(suite, tmp_path):
    status, said = suite("--processes=2")
    assert status == 0 and "8 passed, 1 warning in" in said and "UserWarning: a word" in said, said
    words = re.findall(r"(\w+) (\d+)", (tmp_path / "record").read_text())
    assert [word for word, _ in words] == ["first", "last", "undone", "alone"]
    assert len({pid for _, pid in words[:3]}) == 1 and words[3][1] != words[0][1]


def test_a_failure_is_shown_and_is_the_exit_status(suite):
    status, said = suite("--processes=2", BAD="1")
    assert status == 1 and "1 failed, 7 passed, 1 warning in" in said, said
    assert "it said this" in said and "assert not '1'" in said


def test_a_test_that_ends_its_process_has_failed_as_have_those_that_it_kept_from_running(suite):
    status, said = suite("--processes=2", DIES="1")
    assert status == 1 and "2 failed, 6 passed, 1 warning in" in said, said
    assert "test_two.py::test_dies did not run to its end" in said and "test_two.py::test_after did not" in said


def test_it_stops_when_it_is_told_to(suite):
    status, said = suite("--processes=2", "-x", BAD="1")
    assert status == 1 and "1 failed" in said and "test_after" not in said, said


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_an_interruption_undoes_what_fixtures_have_made(start, tmp_path, kill):
    process, record = start("--processes=2", NAP="10"), tmp_path / "record"
    while not record.exists() or "last" not in record.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED and "KeyboardInterrupt" in said, said
    assert re.findall(r"[a-z]+", record.read_text()) == ["first", "last", "undone"]


LEAVES = "import subprocess\ndef test_leaves(): subprocess.Popen(['sleep', '60'], start_new_session=True)\n"


def test_a_module_that_leaves_a_process_behind_fails(suite):
    status, said = suite("--processes=2", more=LEAVES, GWLBTUN_TESTS_PATIENCE_S="5")
    left = re.search(r"the tests of this module have left behind: process (\d+) sleep 60", said)
    os.kill(int(left[1]), 9)
    assert status == 1 and "9 passed, 1 warning, 1 error in" in said, said
