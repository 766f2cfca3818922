# SPDX-License-Identifier: MIT-0
"""A shim that is missing or wrong keeps the command from starting."""
from command import refused, run


def test_a_missing_shim(copy):
    (copy.parent / "native" / "gwlbtun.so").unlink()
    refused(run(program=copy), "has not been built", "run `make")


def test_a_stale_shim(copy):
    with open(copy.parent / "native" / "gwlbtun.h", "a", encoding="ascii") as header:
        header.write("/* changed */\n")
    refused(run(program=copy), "built from other sources", "run `make")


def test_a_shim_that_is_none(copy):
    (copy.parent / "native" / "gwlbtun.so").write_bytes(b"no object\n")
    refused(run(program=copy), "cannot be used", "run `make")
