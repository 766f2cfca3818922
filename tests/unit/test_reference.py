# SPDX-License-Identifier: MIT-0
"""The manual page and bash's completion: made from the lists of options and subcommands, all of which they have."""
import dataclasses
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gwlbtun import cli
from gwlbtun.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["-h", "--version", *(flag for field in dataclasses.fields(Settings) for flag in field.metadata["flags"])]


def made(*arguments):
    return subprocess.run([sys.executable, ROOT / "tools" / "reference.py", *arguments], stdout=subprocess.PIPE, check=True,
                          universal_newlines=True, timeout=60).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("manual") / "gwlbtun.8"
    path.write_text(made("man", ROOT / "packaging" / "gwlbtun.8.in"))
    return path


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "gwlbtun"
    path.write_text(made("bash"))
    return path


# ---- The manual page


def test_it_has_every_option_and_subcommand(page):
    tags = re.findall(r"^\.It (.*)$", page.read_text(), re.MULTILINE)
    for option in OPTIONS:
        assert any(re.search(rf"\bFl (\\&)?{re.escape(option[1:])}( |$)", tag) for tag in tags), option
    for name in cli.SUBCOMMANDS:
        assert any(re.match(rf"Cm (\\&)?{name}( |$)", tag) for tag in tags), name
    assert not re.search(r"@[A-Z]+@", page.read_text())


@pytest.mark.debian
def test_mandoc_has_nothing_to_say(page):
    assert shutil.which("mandoc"), "there is no mandoc: on Debian, the package mandoc has it"
    said = subprocess.run(["mandoc", "-Tlint", page], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          universal_newlines=True, timeout=60).stdout.splitlines()
    # Whether it knows of the pages that this one refers to is the host's affair.
    assert [line for line in said if f"{page}:" in line and "referenced manual not found" not in line] == []
    shown = subprocess.run(["mandoc", "-Tascii", page], stdout=subprocess.PIPE, check=True, timeout=60).stdout
    text = re.sub(rb".\x08", b"", shown).decode()
    assert "-c FILE, --cmdnew FILE\n" in text and "-h, -?, --help\n" in text


# ---- Completion


def complete(completion, line, directory):
    """What bash offers for the last word of a line, split as bash does it."""
    words = [word for word in re.findall(r"=|[^\s=]+", line)] + [""] * line.endswith((" ", "="))
    if line.endswith("="):
        words.pop()
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gwlbtun; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-uc", script, "bash", completion, *words], cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=True, universal_newlines=True, timeout=60)
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.splitlines()))


@pytest.mark.parametrize("line, offered", [
    ("gwlbtun --tun", ["--tunaffinity", "--tunthreads"]),
    ("gwlbtun --offload ", ["all", "none", "tun", "udp-gro", "udp-gso"]),
    ("gwlbtun --offload=", ["all", "none", "tun", "udp-gro", "udp-gso"]),
    ("gwlbtun --offload=udp-gr", ["udp-gro"]),
    ("gwlbtun -j --offload udp-gro,t", ["udp-gro,tun"]),
    ("gwlbtun -j --logging g", ["geneve"]),
    ("gwlbtun -j --logging geneve=", []),
    ("gwlbtun -c ho", ["hook one.sh", "hook.sh"]),
    ("gwlbtun --cmdnew=ho", ["hook one.sh", "hook.sh"]),
    ("gwlbtun --uplink l", ["lo"]),
    ("gwlbtun -p ", []),
    ("gwlbtun -p 80 --port", ["--port"]),
    ("gwlbtun nothing", []),
])
def test_completion(completion, tmp_path, line, offered):
    for name in "hook.sh", "hook one.sh", "other", "-x":
        (tmp_path / name).touch()
    assert complete(completion, line, tmp_path) == offered


def test_it_offers_every_option_once(completion, tmp_path):
    offered = complete(completion, "gwlbtun -", tmp_path)
    long = [flag for flag in OPTIONS if flag.startswith("--")]
    assert set(long) <= set(offered) and len(offered) == len(set(offered))


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_it_offers_subcommands_and_their_options(completion, tmp_path, name):
    assert name in complete(completion, f"gwlbtun {name[:2]}", tmp_path)
    assert name not in complete(completion, f"gwlbtun -j {name[:2]}", tmp_path)
    assert "--help" in complete(completion, f"gwlbtun {name} --h", tmp_path)


def test_a_person_at_a_terminal_gets_it(completion, tmp_path):
    """In a bash that reads a line, with the key that completes it."""
    typed = (f"source {completion}\nbind 'set bell-style none'\n" 'gwlbtun() { echo "[$*]"; }\n'
             "gwlbtun --max-en\t5 --offl\tn\t\nexit\n")
    terminal, line = pty.openpty()
    with open(terminal, "wb", buffering=0) as keyboard:
        bash = subprocess.Popen(["bash", "--norc", "--noprofile", "-i"], stdin=line, stdout=line, stderr=line, cwd=tmp_path,
                                start_new_session=True, env={**os.environ, "TERM": "dumb"})
        os.close(line)
        keyboard.write(typed.encode())
        shown = b""
        while more := _read(terminal):
            shown += more
        assert bash.wait(60) == 0
    assert "[--max-endpoints 5 --offload none]" in shown.decode()


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # bash has ended
        return b""
