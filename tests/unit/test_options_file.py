# SPDX-License-Identifier: MIT-0
"""Options from files: @FILE, as people write such files, and what is wrong with some."""
import os

import pytest

from command import run
from gwlbtun import cli, optionsfile
from gwlbtun.checks import Address
from gwlbtun.settings import Settings


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file in the current directory, and returns how an argument names it."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="options"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"@{name}"
    return write


@pytest.mark.parametrize("text, words", [
    ("", []),
    ("-p 8080 -j", ["-p", "8080", "-j"]),
    ("-p\n8080\n-j\n", ["-p", "8080", "-j"]),
    ("# what is answered\n-p 8080  # and where\n\n\t-j", ["-p", "8080", "-j"]),
    ("# don't \"\n-j", ["-j"]),
    ("-c '/h.sh --a \"b c\"' -r \"/h.sh # 'x'\"", ["-c", "/h.sh --a \"b c\"", "-r", "/h.sh # 'x'"]),
    ("-c /a#b -r a\\ b\\#c \\#d", ["-c", "/a#b", "-r", "a b#c", "#d"]),
    ("--cmdnew='/a b'/c\"d e\"", ["--cmdnew=/a b/cd e"]),
    ("-c 'two\nlines' -j", ["-c", "two\nlines", "-j"]),
    ("-p \\\n  8080 \\\n-j\\\n", ["-p", "8080", "-j"]),
    ("-p '' -c \"\"", ["-p", "", "-c", ""]),
    ("-p 8080\r\n-j\r\n", ["-p", "8080", "-j"]),
    (b"\xef\xbb\xbf-j", ["-j"]),
    (b"-c /caf\xe9 # \xff", ["-c", os.fsdecode(b"/caf\xe9")]),
    ("-c /\u00e9", ["-c", "/\u00e9"]),
    ("--cmdnew=@hook", ["--cmdnew=@hook"]),
], ids=range(16))
def test_words_are_those_that_a_shell_would_see(file, text, words):
    assert optionsfile.expand([file(text)]) == words


def test_options_of_files_and_of_the_command_line_in_order(file):
    name = file("-i 100 -t 5\n-p 8080")
    assert cli.parse([name]) == Settings(flow_idle_s=100, endpoint_idle_s=5, health_port=Address("", 8080))
    assert cli.parse(["-i", "1", name, "-t", "6"]) == Settings(flow_idle_s=100, endpoint_idle_s=6,
                                                              health_port=Address("", 8080))


def test_files_may_name_others_beside_them(file, tmp_path):
    (tmp_path / "conf").mkdir()
    file("-i 100 @inner @inner", "conf/outer")
    file("-j", "conf/inner")
    assert optionsfile.expand(["@conf/outer", "-x"]) == ["-i", "100", "-j", "-j", "-x"]


@pytest.mark.parametrize("text, parts", [
    ("-j\n\n--bogus -x\n", ["options, line 3: unrecognized argument: --bogus"]),
    ("OPTIONS=\"-p 8080\"", ["options, line 1: unrecognized argument: OPTIONS=-p 8080"]),
    ("-j\n-i 10\n-i\nx", ["options, line 3: argument -i/--idle: 'x' is not a whole number"]),
    ("-j\n--idle=x\n-i 20", ["options, line 2: argument -i/--idle: 'x'"]),
    ("-j\n--idl 0", ["options, line 2: argument -i/--idle: 0 is out of range"]),
    ("-j\n-i0\n-i 5", ["options, line 2: argument -i/--idle: 0 is out of range"]),
    ("-j\n--udpt 3\n--tunthreads", ["options, line 3: argument --tunthreads: expected one argument"]),
    ("-j\n\n--ud 3", ["options, line 3: ambiguous option: --ud could match"]),
    ("-j\n-c 'x\ny", ["options, line 2: the word that begins here has a quote that is not closed"]),
    ("-j \\", ["options, line 1: the word that begins here has a quote"]),
    ("-j\n@nowhere", ["options, line 2: cannot read the options file nowhere: No such file or directory"]),
    ("-j\n@options", ["options, line 2: the options file options includes itself"]),
    ("-j\n@./options", ["options, line 2: the options file ./options includes itself"]),
    ("-j\n@", ["options, line 2: @ names no file"]),
    (b"\x7fELF\x02\x01\x01\0\0\0", ["cannot read the options file options: it is no text"]),
    (b"-j\n" * 30000, ["cannot read the options file options: it is larger than 65536 bytes"]),
    ("-j " * 10001, ["more than 10000 words"]),
], ids=range(17))
def test_what_is_wrong_is_one_line_that_names_file_and_place(file, text, parts):
    done = run(file(text))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr


def test_a_mistake_on_the_command_line_is_not_the_files(file):
    done = run(file("-i 10"), "--bogus", "-i", "x")
    assert "options, line" not in done.stderr and done.returncode == 2
    assert run(file("-i 10"), "--bogus").stderr == "gwlbtun: unrecognized arguments: --bogus (--help lists the options)\n"


@pytest.mark.parametrize("argument, reason", [
    ("@", "@ names no file"), ("@nowhere", "nowhere: No such file or directory"), ("@.", "Is a directory"),
    ("@/dev/zero", "it is no regular file"), ("@pipe", "it is no regular file"), ("@loop", "Too many levels of symbolic links"),
    ("@" + "x" * 300, "File name too long"), ("@options/x", "Not a directory"),
])
def test_a_file_that_cannot_be_read_is_one_line(file, tmp_path, argument, reason):
    file("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    done = run(argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr and done.stderr.startswith("gwlbtun: ")


def test_files_that_include_one_another_are_bounded(file):
    for number in range(optionsfile.DEPTH + 2):
        file(f"@{number + 1}", str(number))
    done = run("@0")
    assert done.returncode == 2 and "options files include one another" in done.stderr
    file("@b @b @b @b @b @b @b @b @b @b " * 20, "a")
    file("-j " * 100, "b")
    done = run("@a")
    assert done.returncode == 2 and "more than 10000 words" in done.stderr


def test_help_tells_of_files():
    assert "@FILE" in run("--help").stdout


def test_the_files_that_are_read_are_told_those_that_others_name_too(file, tmp_path):
    (tmp_path / "sites").mkdir()
    words = ["-j", file("@sites/one -p 1"), file("@nowhere", "last"), "@never"]
    (tmp_path / "sites" / "one").write_text("@two")
    (tmp_path / "sites" / "two").write_text("-s")
    assert optionsfile.files(words) == ["options", "sites/one", "sites/two", "last", "nowhere"]
