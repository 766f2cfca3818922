# SPDX-License-Identifier: MIT-0
"""`gwlbtun show` as a command: its words and options, what it asks, and what it prints when."""
import io
import re

import pytest

from command import run
from documents import ROOT, coded, rows
from gwlbtun.show import asker, command
from gwlbtun.show.command import main, make_parser
from gwlbtun.show.topics import TOPICS

ABOUT = {"gwlbtun": "9.9.9", "control": 1, "pid": 7}
ENDPOINT = {"endpoint": "vpce-1", "gwi": "gwi-1", "gwo": "gwo-1", "state": "up", "failure": "", "flowsV4": 1, "flowsV6": 2,
            "pktsToLinux": 10, "bytesToLinux": 1000, "pktsToGwlb": 9, "bytesToGwlb": 900, "queueBytes": 0, "queueDrops": 0,
            "secsSinceLastPacket": 1.5}


@pytest.fixture
def asked(monkeypatch):
    """What is asked; every answer is one endpoint, which carries 100 packets a look."""
    found = []

    def ask(request, path, pid):
        found.append((request, path, pid))
        row = {**ENDPOINT, "pktsToLinux": 100 * len(found)}
        lines = [{"healthy": False, "reasons": ["a thread\x1b is dead"], "notes": ["a setting\x1b is off"],
                  "flows": 3, "flowsBound": 5, "endpointsBound": 2},
                 {"row": row}] if request["ask"] == "endpoints" else [{"more": False}]
        return asker.Answer(ABOUT, lines, io.BytesIO())

    monkeypatch.setattr(command, "ask", ask)
    monkeypatch.setattr(command, "NICENESS", 0)
    return found


@pytest.mark.parametrize("arguments, why", [
    (["flow"], "invalid choice: 'flow'"), (["flows", "tidy"], "invalid choice: 'tidy'"),
    (["flows", "--port", "http"], "a port from"),
    (["flows", "--port", "65536"], "out of range"), (["flows", "--protocol", "nfs"], "no protocol 'nfs'"),
    (["flows", "--protocol", "256"], "no protocol"), (["flows", "--address", "10.0"], "neither an address nor a network"),
    (["flows", "--limit", "-1"], "out of range"), (["--port", "0"], "`show flows --port ...`"),
    (["threads", "--limit", "0"], "`show flows --limit ...`"), (["drops", "--fragments"], "`show flows --fragments ...`"),
    (["drops", "--endpoint", "x"], "not counted by endpoint"), (["flows", "dump", "--json"], "dump and --json"),
    (["--pid", "5", "--socket", "/x"], "--socket and --pid"), (["--pid", "0"], "a process ID from 1"),
    (["--unknown"], "--unknown"),
    (["flows", "dump", "dump"], "dump")])
def test_wrong_words_are_one_line(capsys, asked, arguments, why):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, errors = capsys.readouterr()
    assert (ended.value.code, out, asked) == (2, "", [])
    assert errors.startswith("gwlbtun show: ") and errors.count("\n") == 1 and why in errors


@pytest.mark.parametrize("arguments, request_", [
    ([], {"ask": "endpoints"}), (["threads", "dump", "--endpoint", "gwi-1"], {"ask": "threads", "endpoint": "gwi-1"}),
    (["flows"], {"ask": "flows", "limit": 100}), (["flows", "--limit", "0"], {"ask": "flows", "limit": 0}),
    (["flows", "--json"], {"ask": "flows"}), (["flows", "dump"], {"ask": "flows"}),
    (["flows", "dump", "--limit", "5"], {"ask": "flows", "limit": 5}),
    (["flows", "--json", "--address", "10.1.2.3/8", "--port", "0", "--protocol", "TCP", "--fragments"],
     {"ask": "flows", "address": "10.0.0.0/8", "port": 0, "protocol": 6, "fragments": True}),
    (["flows", "--json", "--address", "FD00::1", "--protocol", "0"],
     {"ask": "flows", "address": "fd00::1/128", "protocol": 0})])
def test_what_is_asked(capsys, asked, arguments, request_):
    assert main(arguments) == 0
    assert asked == [(request_, None, None)]
    main(["--socket", "/x"])
    main(["--pid", "5"])
    assert [each[1:] for each in asked[1:]] == [("/x", None), (None, 5)]


def test_what_people_get(capsys, asked):
    assert main([]) == 0
    assert capsys.readouterr().out == (
        "gwlbtun 9.9.9, process 7: unhealthy, 3 of at most 5 flows, at most 2 endpoints\n- a thread? is dead\n"
        "Note: a setting? is off\n"
        "ENDPOINT  GWI    GWO    STATE  FLOWS  TO LINUX  TO GWLB  IDLE\n"
        "vpce-1    gwi-1  gwo-1  up         3       100        9  1.5s\n")


@pytest.mark.parametrize("tty", [True, False])
def test_watch(capsys, asked, monkeypatch, tty):
    def sleep(seconds):
        if len(asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    monkeypatch.setattr(command.sys.stdout, "isatty", lambda: tty, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--watch"]) == 0
    out = capsys.readouterr().out
    looks = out.split(command.CLEAR)[1:] if tty else out.split("\n\n")[:-1]
    assert len(looks) == 2 and (command.CLEAR in out) == tty
    assert "IN/S" in looks[0] and looks[0].split()[-4:] == ["-"] * 4
    assert not looks[1].split()[-4].startswith("-")


def test_a_terminal_shows_what_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "3")
    assert command._fitted("1234567\n12\nthis scrolls\n") == "12345\n12\n"


def test_interrupted(asked, monkeypatch):
    monkeypatch.setattr(command, "ask", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main([]) == 130


def test_nobody_to_ask(tmp_path):
    done = run("show", "--socket", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gwlbtun: no gwlbtun answers at") and done.stderr.count("\n") == 1


def test_help_and_document_name_all_there_is():
    done = run("show", "--help")
    assert done.returncode == 0 and done.stderr == ""
    document = (ROOT / "docs" / "SHOW.md").read_text()
    fields = {coded(row[0])[0]: coded(row[1]) for row in rows(document.partition("## Fields")[2])
              if coded(row[0])}
    assert fields == {name: list(topic.fields) for name, topic in TOPICS.items()}
    for topic in TOPICS:
        assert topic in done.stdout
    for action in make_parser()._actions:
        for flag in action.option_strings:
            assert flag in done.stdout and action.help
    strange = set(re.findall(r"--[a-z]+", document)) - set(re.findall(r"--[a-z]+", done.stdout))
    assert strange == {"--system"}, "it is an option of groupadd"
