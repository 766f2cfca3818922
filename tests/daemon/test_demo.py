# SPDX-License-Identifier: MIT-0
"""gwlbtun demo: what it shows, and that nothing of it is left, whatever ends it."""
import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from xml.etree import ElementTree

import pytest

from command import PROGRAM
from machine import Machine

RECORDING = PROGRAM.parent / "docs" / "demo.svg"
APPLIANCE = "gwlbtun-demo-appliance"
LABELS = ["gwlbtun", "ping", "page", "page", "forgery", "bulk TCP", "sums"]


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def copy(tmp_path_factory):
    """The project, to be changed."""
    there = tmp_path_factory.mktemp("there")
    for name in "gwlbtun", "native":
        shutil.copytree(PROGRAM.parent / name, there / name)
    shutil.copy(PROGRAM, there)
    return there


def verdicts(output):
    """Sign and label of each line that has one."""
    return re.findall(r"^  ([✓✗]) (.{11})", output, re.MULTILINE)


def good(output):
    return verdicts(output) == [("✓", f"{label:<11}") for label in LABELS]


def read_until(process, text):
    """Reads what it prints up to the line with the text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended before {text!r}: {process.stderr.read()}")


# ---- What it shows


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run, which has left its machine as it was."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    try:
        yield machine.demo()
        assert machine.is_as_before()
    finally:
        machine.close()


def test_it_shows_what_passes_and_what_is_dropped_and_why(done):
    assert (done.returncode, done.stderr) == (0, "")
    assert good(done.stdout), done.stdout
    assert re.search(r"bulk TCP +[\d,]+ Mbit/s for", done.stdout)
    sent, returned, dropped = (int(figure.replace(",", "")) for figure in re.search(
        r"sums +([\d,]+) packets to gwlbtun, ([\d,]+) back, ([\d,]+) dropped: none is missing", done.stdout).groups())
    assert sent == returned + dropped > 1000 > dropped > 0
    # Whoever carried them; the endpoint's line is a moment older.
    counted = int(re.search(r"^ +([\d,]+) packets back from Linux", done.stdout, re.MULTILINE)[1].replace(",", ""))
    assert 0.9 * returned < counted <= returned
    assert re.search(r"^ +1 by gwlbtun +source_refused: ", done.stdout, re.MULTILINE)
    assert re.search(r"^ +[12] by nftables +the rule `counter drop` of chain forward", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\033" not in done.stdout


def test_the_recording_shows_what_it_prints_now(done):
    """Figures aside."""
    def form(line):
        return re.sub(r"[\d,.]*\d", "0", " ".join(line.split()))

    recorded = ["".join(text.itertext()) for text in ElementTree.parse(RECORDING).iterfind("{*}text")]
    printed = ["$ sudo ./gwlbtun.py demo", *filter(str.strip, done.stdout.splitlines())]
    assert list(map(form, recorded)) == list(map(form, printed)), \
        "record it again: tools/record.py docs/demo.svg '$ sudo ./gwlbtun.py demo' ./gwlbtun.py demo"


def test_two_at_once_do_not_disturb_each_other(machine):
    demos = [machine.start() for _ in range(2)]
    for process in demos:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, ""), output
        assert good(output), output
    assert machine.is_as_before()


def test_kept_it_stays_up_until_it_is_told_to_end_and_what_it_says_can_be_tried(machine):
    process = machine.start("--keep")
    read_until(process, "It stays up")
    tried = []
    for line in process.stdout:
        tried.append(line)
        if "health" in line:
            break
    tried.append(process.stdout.readline())
    commands = [line.split() for line in tried if not line.startswith("  #")]
    assert len(commands) == 8
    ping, page, blocked, listing, insertion, *dumps, health = commands

    def run(*argv):
        return machine.run(*argv, timeout=60)

    assert machine.run("ls", "/run/sysctl.d").returncode  # no hook has told the host's systemd of its interface
    assert " 1 received" in run(*ping, "-c1").stdout
    assert "The firewall lets this page through." in run(*page).stdout
    assert run(*blocked).returncode == 28  # curl's: a time-out
    assert "counter packets" in run(*listing).stdout
    assert run(*insertion).returncode == 0
    assert "Nobody outside sees this." in run(*blocked).stdout
    assert "gwlbtun is healthy" in run(*health).stdout
    for dump in dumps:
        watcher = subprocess.Popen(machine.inside(*dump, "-c1", "-l"), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert any("listening on" in line for line in watcher.stderr)
        run(*ping, "-c1")
        assert "ICMP echo request" in watcher.communicate(timeout=60)[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert machine.is_as_before()


# ---- What ends it


POINTS = None, "Everything here", "is ready", "answers", "passes", "blocked", "refused"
ENDS = [*((signal.SIGINT, point) for point in POINTS),
        (signal.SIGTERM, "answers"), (signal.SIGHUP, "answers"), (signal.SIGQUIT, "answers")]


def reach(machine, process, point):
    """Waits until a demo has printed that; None: until it has begun to make something."""
    if point:
        read_until(process, point)
        return
    while not machine.names():
        assert process.poll() is None


@pytest.mark.parametrize("number, point", ENDS)
def test_a_signal_takes_everything_down(machine, number, point):
    process = machine.start()
    reach(machine, process, point)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output + errors
    assert "everything has been taken down" in errors
    assert machine.is_as_before()


def test_impatience_makes_no_difference(machine):
    process = machine.start()
    read_until(process, "passes")
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert machine.is_as_before()


def test_ctrl_c_in_a_terminal_reaches_all_processes_and_does_no_harm(machine):
    """The terminal sends the signal to the whole process group, and somebody keeps the keys down."""
    for point in None, "answers":
        process = machine.start()
        reach(machine, process, point)
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.0005)
        errors = process.stderr.read()
        assert process.returncode == 128 + signal.SIGINT, errors
        assert "everything has been taken down" in errors
        assert machine.is_as_before()


@pytest.mark.parametrize("arguments", [[], ["--keep"]])
def test_a_terminal_that_goes_away_takes_everything_down(machine, arguments):
    ours, theirs = pty.openpty()
    process = machine.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: fcntl.ioctl(
        theirs, termios.TIOCSCTTY, 0))
    os.close(theirs)
    shown = b""
    while b"page" not in shown:
        shown += os.read(ours, 65536)
    assert b"\033[32m" in shown
    os.close(ours)
    assert process.wait(60) != 0
    assert machine.is_as_before()


def test_a_reader_that_goes_away_takes_everything_down(machine):
    process = machine.start("--keep")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""
    assert machine.is_as_before()


def test_what_a_killed_demo_has_left_goes_when_the_next_one_starts(machine):
    other, killed = machine.start("--keep"), machine.start()
    read_until(other, "is ready")
    read_until(killed, "refused")
    killed.kill()
    killed.wait()
    assert len(machine.names()) == 8
    done = machine.demo()
    assert done.returncode == 0 and good(done.stdout), done.stdout + done.stderr
    assert len(machine.names()) == 4  # those of the other one, which goes on
    other.send_signal(signal.SIGTERM)
    assert other.wait(60) == 0
    assert "It stays up" in other.stdout.read()
    assert machine.is_as_before()


def interrupted_after(process, text):
    """What it has printed when it is interrupted after that."""
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT, printed
    return printed


def test_names_of_others_are_left_alone(machine):
    for name in "gwlbtun-demo", "gwlbtun-demo-x-client", "gwlbtun-demos-client", "my-gwlbtun-demo-client":
        machine.run("ip", "netns", "add", name)
    machine.run("mkdir", "/run/gwlbtun-demo-notes", "/run/gwlbtun-demo0")
    machine.run("touch", "/run/gwlbtun-demo")
    machine.run("ln", "-s", "/etc", "/run/gwlbtun-demo2")
    before = machine.run("sh", "-c", "ip netns; ls /run").stdout
    interrupted_after(machine.start(), "is ready")
    assert machine.run("sh", "-c", "ip netns; ls /run").stdout == before


def test_nohup_is_respected(machine):
    process = machine.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    read_until(process, "is ready")
    process.send_signal(signal.SIGHUP)
    interrupted_after(process, "is blocked")


def test_where_nothing_but_ascii_can_be_shown_it_says_the_same(machine):
    environment = {**machine.environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    printed = interrupted_after(machine.start(env=environment), "passes")
    assert printed.isascii()
    assert re.findall(r"^  (ok    |FAILED) (.{11})", printed, re.MULTILINE) == [
        ("ok    ", f"{label:<11}") for label in LABELS[:3]]


# ---- What goes wrong


def test_a_step_that_fails_is_shown_and_takes_everything_down(machine, copy):
    rules = copy / "gwlbtun" / "demo" / "hook" / "firewall.nft"
    rules.write_text(rules.read_text().replace("\ncounter drop", "\naccept"))
    done = machine.demo(program=copy / "gwlbtun.py")
    assert done.returncode == 1
    assert verdicts(done.stdout)[-2][0] == "✗" and "8080/ is not blocked" in done.stdout
    assert "The log of gwlbtun ends with" in done.stdout
    assert machine.is_as_before()


def test_a_hook_that_fails_is_shown(machine, copy):
    (copy / "gwlbtun" / "demo" / "hook" / "create-firewall.sh").write_text("echo out of order; exit 1\n")
    done = machine.demo(program=copy / "gwlbtun.py")
    assert done.returncode == 1
    assert "✗ ping" in done.stdout and "the hook has failed" in done.stdout and "out of order" in done.stdout
    assert machine.is_as_before()


def test_a_daemon_that_ends_is_shown(machine):
    process = machine.start()
    read_until(process, "passes")
    pids = machine.run("ip", "netns", "pids", APPLIANCE).stdout.split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")
    assert "✗ " in output and "Traceback" not in output
    assert machine.is_as_before()


def refused(done, *parts):
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gwlbtun demo: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_what_is_missing_is_named_with_its_package(machine, tmp_path):
    for name in "flock", "mount", "awk", "ip":
        shutil.copy(shutil.which(name), tmp_path)
    hide = "mount -t tmpfs none /usr/sbin; mount -t tmpfs none /sbin; exec \"$@\""
    done = machine.run("unshare", "-m", "sh", "-c", hide, "sh", "env", f"PATH={tmp_path}", sys.executable, PROGRAM, "demo")
    refused(done, "nft is missing", "sudo apt-get install -y nftables on Debian", "sudo dnf install -y nftables on Amazon")
    for name in list(tmp_path.iterdir()):
        name.unlink()


@pytest.mark.unsanitized(reason="the user may not open the sanitized Python")
def test_without_root_it_says_so(machine):
    done = machine.run("setpriv", "--reuid=65534", "--inh-caps=-all", sys.executable, PROGRAM, "demo")
    refused(done, "must run as root", "sudo")


def test_without_the_tun_device_it_says_so(machine):
    machine.run("mount", "-t", "tmpfs", "none", "/dev/net")
    refused(machine.demo(), "/dev/net/tun cannot be opened (No such file or directory)", "modprobe tun")


def test_without_the_right_to_make_namespaces_it_says_so(machine):
    done = machine.run("setpriv", "--bounding-set=-sys_admin", sys.executable, PROGRAM, "demo")
    refused(done, "no network namespace can be made here", "--privileged")
    assert machine.is_as_before()


def test_without_the_shim_it_says_so(machine, copy):
    (copy / "native" / "gwlbtun.so").unlink()
    refused(machine.demo(program=copy / "gwlbtun.py"), "has not been built", "make")
    assert machine.is_as_before()
