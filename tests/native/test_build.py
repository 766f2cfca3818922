# SPDX-License-Identifier: MIT-0
"""The shim as make builds it: hardened, whatever the compiler, and as the user's own flags say."""
import re
import shutil
import subprocess

import pytest

from lab import PROGRAM

ROOT = PROGRAM.parent


def build(target, *arguments):
    """What make says when it builds, or would build, the shim there."""
    return subprocess.run(["make", "-C", ROOT, f"SHIM={target}", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, timeout=300, check=True).stdout


@pytest.fixture(scope="module", params=filter(shutil.which, ["gcc", "clang"]))
def shim(request, tmp_path_factory):
    target = tmp_path_factory.mktemp("build") / "shim.so"
    assert "warning" not in build(target, f"CC={request.param}", "CFLAGS=-O1")
    return target


def read(shim, what):
    return subprocess.run(["readelf", "-W", what, shim], stdout=subprocess.PIPE, universal_newlines=True, timeout=60,
                          check=True).stdout


def test_the_shim_has_nothing_to_overwrite_that_the_loader_uses(shim):
    assert re.search(r"BIND_NOW|FLAGS_1.*NOW", read(shim, "--dynamic"))
    segments = read(shim, "--program-headers")
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK.* RW +0x", segments)  # and not RWE


def test_functions_with_arrays_check_their_stack(shim):
    assert "__stack_chk_fail" in read(shim, "--dyn-syms")


@pytest.mark.parametrize("flags, fortified", [
    ("-O3 -g", True), ("-g -Os", True), ("-O0", False), ("-O2 -O0", False), ("-g", False),
    ("-O1 -fsanitize=thread", False), ("-O2 -Wp,-D_FORTIFY_SOURCE=3", False),
])
def test_the_library_checks_lengths_where_it_can(tmp_path, flags, fortified):
    assert ("-D_FORTIFY_SOURCE=2" in build(tmp_path / "shim.so", "--dry-run", f"CFLAGS={flags}")) == fortified


def test_flags_of_the_user_come_last(tmp_path):
    command = build(tmp_path / "shim.so", "--dry-run", "CFLAGS=-O1 -fno-stack-protector", "LDFLAGS=-Wl,-z,lazy")
    for first, last in ("-fstack-protector-strong", "-fno-stack-protector"), ("-z,now", "-z,lazy"):
        assert 0 < command.index(first) < command.index(last)
