# SPDX-License-Identifier: MIT-0
"""The settings: what each check takes and refuses, and what follows from them."""
import dataclasses
import os

import pytest

from gwlbtun import checks
from gwlbtun.logs import CORE, GENEVE, TUNNEL, UDP, Level
from gwlbtun.settings import Place, Settings


@pytest.fixture
def host_with(monkeypatch):
    def give(*online):
        monkeypatch.setattr(checks, "online_cores", lambda: frozenset(online))
    return give


@pytest.mark.parametrize("text, chosen", [
    ("0", (0,)), ("1-2,4,7-8", (1, 2, 4, 7, 8)), ("3,1", (3, 1)), ("1,1,0-1", (1, 0)), ("2-2", (2,)),
])
def test_cores(host_with, text, chosen):
    host_with(*range(9))
    assert checks.cores(256)(text) == chosen


@pytest.mark.parametrize("text, complaint", [
    ("", "neither"), ("a", "neither"), ("1,", "neither"), ("-1", "neither"), ("1-", "neither"), ("1--2", "neither"),
    ("1 ", "neither"), ("٣", "neither"), ("2-1", "backwards"), ("9", "no core 9"), ("0-99999999", "no core 99999999"),
    ("5", "offline"),
])
def test_cores_there_are_not(host_with, text, complaint):
    host_with(*(core for core in range(9) if core != 5))
    with pytest.raises(ValueError, match=complaint) as raised:
        checks.cores(256)(text)
    assert "from 0 to 8" in str(raised.value)


def test_more_cores_than_threads_may_be(host_with):
    host_with(*range(300))
    assert len(checks.cores(256)("0-255")) == 256
    with pytest.raises(ValueError, match="at most 256"):
        checks.cores(256)("0-256")


def test_online_cores_are_those_of_the_host():
    assert os.sched_getaffinity(0) <= checks.online_cores()


@pytest.mark.parametrize("text", ["0", "86401", "-1", "", "x", "1.5", "1e3", "0x10", " 5", "٣", "9" * 30])
def test_numbers_out_of_range(text):
    with pytest.raises(ValueError, match="give seconds from 1 to 86400"):
        checks.whole_number(1, 86_400, "seconds")(text)


def test_numbers_within():
    check = checks.whole_number(0, 65_535, "a port")
    assert [check("0"), check("65535"), check("007")] == [0, 65535, 7]


@pytest.mark.parametrize("text, host, port", [
    ("8080", "", 8080), ("10.0.0.5:8080", "10.0.0.5", 8080), ("[fd00::5]:8080", "fd00::5", 8080),
    ("[FD00:0::5]:1", "fd00::5", 1), ("0.0.0.0:65535", "0.0.0.0", 65535), ("[::]:8080", "::", 8080),
    ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080), ("[::ffff:10.0.0.5]:8080", "10.0.0.5", 8080),
])
def test_addresses(text, host, port):
    assert checks.address(text) == (host, port)


@pytest.mark.parametrize("text", [
    "fd00::5:8080", "::", "[::1]", "[10.0.0.5]:8080", "localhost:8080", "10.0.0:8080", ":8080", "[]:8080", "*:8080",
    "10.0.0.5 :8080", "10.0.0.5/8:8080", "[::1:8080", "http://10.0.0.5:8080",
])
def test_no_addresses(text):
    with pytest.raises(ValueError, match=r"has no address: .*10\.0\.0\.5:8080 or \[fd00::5\]:8080"):
        checks.address(text)


@pytest.mark.parametrize("text", ["0", "10.0.0.5:0", "[fd00::5]:0", "10.0.0.5:65536", "10.0.0.5:", "[::1]:x", "10.0.0.5:+1"])
def test_addresses_with_no_port(text):
    with pytest.raises(ValueError, match="give a port from 1 to 65535"):
        checks.address(text)


def test_commands(tmp_path):
    script = tmp_path / "hook.sh"
    with pytest.raises(ValueError, match="there is no"):
        checks.command(str(script))
    script.write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="cannot be executed.*chmod"):
        checks.command(str(script))
    script.chmod(0o755)
    assert checks.command(f"{script} --verbose 'an argument'") == f"{script} --verbose 'an argument'"
    assert checks.command("echo hello") == "echo hello"
    spaced = tmp_path / "my hook"
    spaced.write_text("#!/bin/sh\n")
    spaced.chmod(0o755)
    checks.command(f"'{spaced}'")
    for text, complaint in [("", "empty"), ("'unclosed", "quotation"), (str(tmp_path), "directory")]:
        with pytest.raises(ValueError, match=complaint):
            checks.command(text)


def test_offloads():
    assert checks.offload_list("none") == frozenset()
    assert checks.offload_list("all") == Settings().offload == frozenset({"udp-gro", "tun", "udp-gso"})
    assert checks.offload_list("TUN,udp-gso") == {"tun", "udp-gso"}
    for text in ("", "tun,", "none,tun", "gro"):
        with pytest.raises(ValueError, match="there is no offload"):
            checks.offload_list(text)


def test_log_levels():
    assert set(Settings().log_levels.values()) == {Level.IMPORTANT}
    assert set(Settings(debug=True).log_levels.values()) == {Level.DEBUG}
    dumped = Settings(hex_dumps=True, logging="geneve=info").log_levels
    assert [dumped[section] for section in (CORE, UDP, GENEVE, TUNNEL)] \
        == [Level.IMPORTANT, Level.DEBUGDETAIL, Level.INFO, Level.DEBUGDETAIL]


def test_threads_by_number():
    places = Settings(udp_threads=1024, tunnel_threads=2)
    assert [place.name for place in places.tunnel_places] == ["gwlbtun T000", "gwlbtun T001"]
    assert places.udp_places[-1] == Place("gwlbtun U1023", 1023, None)
    assert all(len(place.name) <= 15 for place in places.udp_places)


def test_threads_by_core_win_over_their_number():
    chosen = Settings(udp_threads=8, udp_affinity=(3, 1), tunnel_threads=8, tunnel_affinity=(12,))
    assert chosen.udp_places == [Place("gwlbtun UA003", 3, 3), Place("gwlbtun UA001", 1, 1)]
    assert chosen.tunnel_places == [Place("gwlbtun TA012", 12, 12)]


def test_as_many_threads_as_cores_the_process_may_use():
    usable = len(os.sched_getaffinity(0))
    assert len(Settings().udp_places) == len(Settings().tunnel_places) == usable


def test_a_drain_of_which_no_health_check_tells_is_worth_a_line():
    drains = Settings(drain_s=30)
    line, = drains.reconciled()[1]
    assert line.startswith("--drain: without a health port")
    assert dataclasses.replace(drains, health_port=checks.address("8080")).reconciled()[1] == []
