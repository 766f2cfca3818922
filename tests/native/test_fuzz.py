# SPDX-License-Identifier: MIT-0
"""What the network and TUN hand to the parsers, in any shape: under AddressSanitizer and UBSan, and never a wrong result."""
import subprocess

import pytest

import programs

RUNS = {"flow_memory": 20_000, "geneve": 200_000, "keys": 200_000, "leftover": 2_000, "merge": 10_000,
        "split": 20_000}  # some seconds in all


def test_every_harness_is_run():
    assert sorted(RUNS) == programs.HARNESSES == sorted(path.name for path in programs.CORPUS.iterdir())


@pytest.mark.parametrize("name", programs.HARNESSES)
def test_no_input_does_harm(name):
    assert programs.fuzz(name, RUNS[name]) > RUNS[name] / 10, "hardly anything passed the checks: this test shows nothing"


def test_a_byte_read_beyond_an_input_is_found(tmp_path):
    """That memory ends where the input does: else the test above shows nothing."""
    source = tmp_path / "fuzz_beyond.c"
    source.write_text(f'#include "{programs.NATIVE}/input.h"\nunsigned long fuzz_passed;\n'
                      "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)\n"
                      "{ struct input input = { data, size }; return take_bytes(&input, size)[size] == 77; }\n")
    program = tmp_path / "beyond"
    subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-fsanitize=address", "-o", program, source,
                    programs.NATIVE / "fuzz_main.c"], check=True, timeout=60)
    done = subprocess.run([program, programs.CORPUS / "geneve", "-runs=1"], stderr=subprocess.PIPE, text=True, timeout=60,
                          check=False)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
