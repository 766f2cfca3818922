# SPDX-License-Identifier: MIT-0
"""Options that other gwlbtuns have: taken with a line that says why they have nothing to do here."""
import pytest

from command import run
from gwlbtun import cli
from gwlbtun.settings import Settings


def notes(capsys, *arguments):
    """What standard error says about the arguments, and the settings."""
    chosen = cli.parse(list(arguments))
    return capsys.readouterr().err.splitlines(), chosen


def test_reserve_reserves_nothing(capsys):
    lines, chosen = notes(capsys, "--reserve", "1,2,3,4,5,6", "--reserve", "vpce-00123456789ab0000:1,1,1,1,1,1")
    assert lines == ["gwlbtun: --reserve reserves nothing, as the flow table grows without a stall"]
    assert chosen.max_flows == Settings().max_flows


@pytest.mark.parametrize("reserve, flows", [
    (["500,500,0,0,0,1"], 1001), (["1:1000,0,0,0,0,0", "2:1,0,0,0,0,0"], 1001),
    (["1:1000,0,0,0,0,0", "1,0,0,0,0,0"], 1001), (["1000,0,0,0,0,0"], 1000),
    (["1:600,0,0,0,0,0", "600,0,0,0,0,0", "endpoints"], 1800),
])
def test_a_sum_beyond_the_bound_raises_it(capsys, reserve, flows):
    """One for each endpoint counts for those that are known: here 1, 2 and 3."""
    arguments = ["--max-flows", "1000"]
    for text in reserve:
        arguments += ["--endpoint", "1,2,3"] if text == "endpoints" else ["--reserve", text]
    (line,), chosen = notes(capsys, *arguments)
    assert chosen.max_flows == flows
    assert line.endswith(f"; --max-flows becomes {flows}" if flows > 1000 else "without a stall")


@pytest.mark.parametrize("text", [
    "1", "1,2,3,4,5", "1,2,3,4,5,6,7", "1,2,3,4,5,x", "-1,2,3,4,5,6", "1,2,3,4,5,", " 1,2,3,4,5,6", "1,2,3,4,5,6:1",
    "vpce-1:1,2,3,4,5,6", ":1,2,3,4,5,6", "1:2:1,2,3,4,5,6", "268435456,1,0,0,0,0", "9" * 30 + ",1,0,0,0,0", "٣,1,1,1,1,1",
])
def test_a_bad_reservation_is_one_clear_line(text):
    done = run("--reserve", text)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1 and "--reserve" in done.stderr


def test_reservations_beyond_what_can_be(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--reserve", "200000000,0,0,0,0,0", "--reserve", "1:200000000,0,0,0,0,0"])
    assert "--reserve asks for 400000000 flows: the most are 268435456" in capsys.readouterr().err


def test_no_flow_table_is_kept_when_nothing_goes_back(capsys):
    assert notes(capsys, "--no-return")[1].max_flows == 0


@pytest.mark.parametrize("arguments, said", [
    (["-e", "/usr/lib/gwlbtun/fast.o"], ["-e has no effect: gwlbtun brings its programs in eBPF with it (--kernel-path)"]),
    (["-I", "eth0"], []), (["--ebpf-interface=eth0", "--kernel-path", "require"], []),
    (["-I", "eth0", "--kernel-path", "off"], ["-I/--ebpf-interface has no effect while --kernel-path is off"]),
])
def test_the_fast_path_in_ebpf(capsys, arguments, said):
    assert notes(capsys, *arguments)[0] == [f"gwlbtun: {line}" for line in said]


def test_it_is_off_by_itself():
    assert (Settings().kernel_path, Settings().ebpf_interface) == ("auto", None)


def test_log_sections_of_others_are_accepted_with_a_line(capsys):
    lines, chosen = notes(capsys, "--logging", "core=info,EBPF=debug,os = debug")
    assert lines == [f"gwlbtun: --logging: gwlbtun logs nothing in section {section}" for section in ("os", "ebpf")]
    assert chosen.log_levels["ebpf"].name == "DEBUG"
    assert notes(capsys, "--logging", "all=debug")[0] == []


@pytest.mark.parametrize("arguments, parts", [
    (["--busypoll", "-1"], ["--busypoll", "microseconds from 0 to 1000000"]),
    (["--busypoll", "1000001"], ["--busypoll", "out of range"]),
    (["--log-format", "xml"], ["--log-format", "there is no format 'xml': give text or json"]),
    (["-I"], ["-I/--ebpf-interface", "expected one argument"]),
    (["-e"], ["-e", "expected one argument"]),
    (["-I", "eth0,eth1"], ["-I/--ebpf-interface", "is not the name of an interface"]),
    (["-I", "gwi-7"], ["-I/--ebpf-interface", "no load balancer sends through gwi-7"]),
    (["--kernel-path", "on"], ["--kernel-path", "'on' is none of off, auto, require"]),
    (["--kernel-path", "require", "--no-return"], ["--kernel-path require and --no-return contradict each other"]),
    (["--netns=1"], ["--netns", "ignored explicit argument"]),
])
def test_usage_errors_are_one_clear_line(arguments, parts):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
