# SPDX-License-Identifier: MIT-0
"""Hooks: real shell scripts, well-behaved and otherwise."""
import os
import re
import resource
import threading
import time

import pytest

from gwlbtun import hooks, listener
from gwlbtun.hooks import Hook
from gwlbtun.identity import Identity
from gwlbtun.turns import Turns
from logbook import LINE

ENI = 0x076BC493B822CD32F


@pytest.fixture
def script(tmp_path):
    def write(text, name="hook.sh"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)
    return write


class Run(Hook):
    """A hook that has the one turn there is."""

    def run(self, stop=None):
        return super().run(Turns(1).take(), stop)


@pytest.fixture
def hook(book, monkeypatch):
    monkeypatch.setattr(hooks, "READER_S", 60)  # no line may come behind the end because the host is slow

    def make(command, action="CREATE"):
        return Run(book.log, command, action, Identity(ENI))
    return make


def important(book):
    book.log.stop()
    return [LINE.fullmatch(line)["text"] for line in book.lines() if LINE.fullmatch(line)["level"] == "important"]


def ended(pid):
    """Whether the process is gone, or a zombie that somebody else has to bury."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read_pid(path):
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_arguments(hook, script, tmp_path):
    command = script(f'printf "%s\\n" "$@" > {tmp_path}/arguments')
    assert hook(command).run()
    assert (tmp_path / "arguments").read_text().split() == ["CREATE", "gwi-e8WXgsTQDkf", "gwo-e8WXgsTQDkf",
                                                            "076bc493b822cd32f"]


def test_a_command_line_is_read_as_a_shell_reads_it(hook, script, tmp_path):
    command = script(f'printf "%s\\n" "$@" "$FROM" > "{tmp_path}/arguments"', "my hook.sh")
    assert hook(f"FROM=here '{command}' --rule \"two words\" $HOME", "DESTROY").run()
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "--rule", "two words", os.environ["HOME"], "DESTROY", "gwi-e8WXgsTQDkf", "gwo-e8WXgsTQDkf", "076bc493b822cd32f",
        "here"]


def test_output_goes_to_the_log_line_by_line(hook, script, book):
    assert hook(script("echo one; echo two >&2; echo; printf 'no end'")).run()
    book.wait_for("no end")
    assert [text.partition(": ")[2] for text in book.texts() if text.startswith("CREATE hook of gwi-e8WXgsTQDkf: ")] \
        == ["one", "two", "", "no end"]
    assert len(important(book)) == 4  # at the level that is shown by default


def test_hostile_output_forges_nothing(hook, script, book):
    assert hook(script(r"""printf '\033[31mred\r\377\0nul\nx%5000s\n' y""")).run()
    line = book.wait_for("\\udcff\\x00nul")
    assert line.endswith(": \\x1b[31mred\\x0d\\udcff\\x00nul")
    book.wait_for("y")
    assert all(LINE.fullmatch(line) and len(line) < listener.LINE_BYTES + 200 for line in book.lines())


@pytest.mark.parametrize("body, told", [
    ("exit 7", "ended with status 7"),
    ("kill -KILL $$", "SIGKILL"),
    ("kill -TERM $$; sleep 10", "SIGTERM"),
    ("sh -c 'kill -SEGV $$'; exit $?", "SIGSEGV"),
])
def test_failure_is_told_behind_the_lines_it_printed(hook, script, book, body, told):
    failing = hook(script("echo line\n" + body))
    assert not failing.run()
    first, *_, last = important(book)
    assert first == "CREATE hook of gwi-e8WXgsTQDkf: line"  # a shell may add a line of its own about the signal
    assert last == f"The CREATE hook of gwi-e8WXgsTQDkf {failing.failure}." and told in last


def test_a_missing_file_is_told(hook, script, book, tmp_path):
    command = script("exit 0")
    os.unlink(command)
    assert not hook(command).run()
    texts = important(book)
    assert "not found" in texts[0] and "ended with status 127" in texts[1]


def test_what_it_prints_is_bounded_and_ends_with_its_last_lines(hook, script, book):
    lines = listener.RUN_LINES + 50
    assert not hook(script(f"seq {lines}; exit 3")).run()
    *shown, count, failure = [text for text in important(book) if not text.startswith("    ")]
    title = "CREATE hook of gwi-e8WXgsTQDkf"
    assert shown == [f"{title}: {number + 1}" for number in range(listener.RUN_LINES)]
    assert count == f"{title}: 50 more lines are not shown."
    assert failure == f"The {title} ended with status 3; its last lines:"
    assert important(book)[-listener.KEPT_LINES:] == [
        f"    {number + 1}" for number in range(lines - listener.KEPT_LINES, lines)]


def test_one_that_prints_a_lot_and_succeeds_says_how_much_it_was(hook, script, book):
    assert hook(script(f"seq {listener.RUN_LINES + 5}")).run()
    book.wait_for("are not shown")  # its reader may be behind
    assert important(book)[listener.RUN_LINES:] == [
        "CREATE hook of gwi-e8WXgsTQDkf: 5 more lines are not shown."]


def test_what_it_leaves_in_the_background_prints_some_lines_a_second(hook, script, book, tmp_path):
    begin = time.monotonic()
    assert hook(script(f"seq {listener.RUN_LINES}\n(until [ -e {tmp_path}/go ]; do sleep 0.01; done; "
                       "yes | head -100000; sleep 1.5; echo last) &")).run()
    (tmp_path / "go").touch()
    book.wait_for(": last")
    texts = important(book)
    lines = [text for text in texts if text.endswith(": y")]
    assert len(lines) <= listener.LATER_LINES * (time.monotonic() - begin + 1)
    untold = sum(int(text.split(": ")[1].split()[0]) for text in texts if "are not shown" in text)
    assert len(lines) + untold == 100_000


def test_one_that_cannot_be_started_raises_and_leaves_nothing(hook, monkeypatch):
    highest, filling = max(map(int, os.listdir("/proc/self/fd"))), [os.dup(0)]
    while filling[-1] < highest:  # what ran before may have left gaps
        filling.append(os.dup(0))
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for short in range(4):  # of the pipe's two ends, then of the copies that posix_spawn makes, if any
        failing = hook("true")
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + short, hard))
        try:
            if short < 2:
                with pytest.raises(OSError):
                    failing.run()
            else:
                assert failing.run()  # without a descriptor to wait on it is waited for all the same
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for thread in threading.enumerate():
            if thread.name == "gwlbtun Hook":  # may still be closing its end of the pipe
                thread.join(60)
        assert os.dup(0) == lowest
        os.close(lowest)

    def no_room(worker):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(hooks.Worker, "start", no_room)
    with pytest.raises(RuntimeError):
        hook("true").run()
    assert os.dup(0) == lowest
    for descriptor in (*filling, lowest):
        os.close(descriptor)


def test_children_of_nobody_are_buried_and_hooks_are_not(hook, script, tmp_path):
    orphan = os.posix_spawn("/bin/true", ["true"], {})
    running = hook(script(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 3"))
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_for(lambda: hooks.reap() or not os.path.exists(f"/proc/{orphan}"))
    (tmp_path / "go").touch()
    while thread.is_alive():
        hooks.reap()
    assert running.failure == "ended with status 3"


def test_it_reads_nothing_and_has_a_session_of_its_own(hook, script, book):
    assert hook(script("cat; ps -o sid= -p $$; echo end")).run()
    book.wait_for(": end")
    session = int(book.texts()[-2].rpartition(" ")[2])
    assert session not in (0, os.getsid(0))


def test_signals_are_as_a_program_expects_them(hook, script):
    """Python ignores SIGPIPE and SIGXFSZ: that is not for hooks to inherit; what this test was started with is."""
    assert hook(script("""
for mask in $(awk '/^SigIgn/ { print $2 }' /proc/self/status); do
    [ $((0x$mask & 0x1001000)) = 0 ] || exit 1
done
for mask in $(awk '/^SigBlk/ { print $2 }' /proc/self/status); do
    [ $((0x$mask & 0x7fffffff)) = 0 ] || exit 1
done""")).run()


def test_no_descriptor_is_inherited(hook, script, book):
    with open(os.devnull) as file:
        os.dup2(file.fileno(), 200, inheritable=False)
    try:
        assert hook("ls /proc/self/fd; echo end").run()
    finally:
        os.close(200)
    book.wait_for(": end")
    shown = [text.rpartition(" ")[2] for text in book.texts()]
    assert "2" in shown and "200" not in shown


def test_what_it_leaves_in_the_background_holds_nobody_up(hook, script, book, tmp_path):
    command = script(f"""
(while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo from the background) &
echo done
""")
    assert hook(command).run()
    assert not (tmp_path / "go").exists()
    (tmp_path / "go").touch()
    book.wait_for("from the background")


def test_a_long_one_is_mentioned_at_growing_intervals(hook, script, book, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "FIRST_REMINDER_S", 0.1)
    command = script(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    thread = threading.Thread(target=hook(command).run)
    thread.start()
    line = book.wait_for("The CREATE hook of gwi-e8WXgsTQDkf has been running for ")
    assert re.search(r"for \d+ s; its endpoint waits\.$", line)
    (tmp_path / "go").touch()
    thread.join(60)
    assert not thread.is_alive()


def test_one_that_ends_after_a_stop_is_not_hurried(hook, script):
    stop = threading.Event()
    stop.set()
    running = hook(script("sleep 0.5"))
    assert running.run(stop)
    assert not running.terminated


def test_one_that_outlives_a_stop_is_terminated_with_all_it_started(hook, script, book, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "GRACE_S", 0.1)
    stop = threading.Event()
    running = hook(script(f"sleep 1000 & echo $! > {tmp_path}/pid; wait"))
    result = []
    thread = threading.Thread(target=lambda: result.append(running.run(stop)))
    thread.start()
    child = read_pid(tmp_path / "pid")
    stop.set()
    thread.join(60)
    assert result == [False] and running.terminated
    wait_for(lambda: ended(child))
    assert any("still runs. gwlbtun terminates it" in text for text in important(book))


def test_one_that_ignores_sigterm_is_killed(hook, script, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "GRACE_S", 0.1)
    monkeypatch.setattr(hooks, "KILL_S", 0.1)
    stop = threading.Event()
    running = hook(script(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"))
    thread = threading.Thread(target=running.run, args=(stop,))
    thread.start()
    deaf = read_pid(tmp_path / "pid")
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    wait_for(lambda: ended(deaf))


def test_one_that_is_terminated_has_time_to_tidy_up(hook, script, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "GRACE_S", 0.1)
    monkeypatch.setattr(hooks, "KILL_S", 60)
    stop = threading.Event()
    running = hook(script(f"trap 'sleep 0.3; touch {tmp_path}/tidy; exit' TERM; echo $$ > {tmp_path}/pid; "
                          "while :; do sleep 0.01; done"))
    thread = threading.Thread(target=running.run, args=(stop,))
    thread.start()
    read_pid(tmp_path / "pid")
    stop.set()
    thread.join(60)
    assert (tmp_path / "tidy").exists()


def test_kill_all(hook, script, tmp_path):
    threads = []
    for number in range(3):
        running = hook(script(f"echo $$ > {tmp_path}/{number}\nexec sleep 1000", f"{number}.sh"), "DESTROY")
        threads.append(threading.Thread(target=running.run))
        threads[-1].start()
    pids = [read_pid(tmp_path / str(number)) for number in range(3)]
    hooks.kill_all()
    for thread, pid in zip(threads, pids):
        thread.join(60)
        assert not thread.is_alive()
        wait_for(lambda: ended(pid))
