# SPDX-License-Identifier: MIT-0
"""Where daemon and `show` meet: who gets the path of the control socket, and who may not have it."""
import fcntl
import grp
import os
import socket
import stat
import threading
from unittest import mock

import pytest

from gwlbtun import StartError, rendezvous
from gwlbtun.rendezvous import claim, control_path, siblings, with_pid


@pytest.fixture
def path(tmp_path):
    tmp_path.chmod(0o700)
    return str(tmp_path / "control.sock")


@pytest.fixture
def log():
    return mock.Mock()


def beside(path):
    return with_pid(path, os.getpid())


def refused(path, log, why):
    with pytest.raises(StartError, match=why) as raised:
        claim(path, log)
    assert "--control" in str(raised.value)


def test_a_free_path_is_taken_and_given_back(path, log):
    ours = claim(path, log)
    assert ours.path == path and stat.S_ISSOCK(os.lstat(path).st_mode)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    ours.release()
    assert not os.path.exists(path)
    log.important.assert_not_called()


def test_nobody_else_may_ask_whatever_the_umask(path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "GROUP", "no-such-group")
    before = os.umask(0)
    try:
        ours = claim(path, log)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600 and ours.group is None
    ours.release()


def test_the_group_may_ask(path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "GROUP", grp.getgrgid(os.getegid()).gr_name)
    ours = claim(path, log)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660 and ours.group == os.getegid()
    ours.release()


def test_a_living_daemon_keeps_its_path(path, log):
    first = claim(path, log)
    second = claim(path, log)
    assert (first.path, second.path) == (path, beside(path))
    (line,), _ = log.important.call_args_list[0][0][1:], None
    assert path in line and beside(path) in line and f"show --pid {os.getpid()}" in line
    assert siblings(path) == sorted([path, beside(path)])
    refused(path, log, "other processes answer there")
    first.release()
    assert siblings(path) == [beside(path)]
    second.release()
    assert siblings(path) == []


def test_one_that_is_too_busy_to_answer_is_alive(path, log):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(path)
        ours = claim(path, log)
        assert ours.path == beside(path)
        ours.release()
        for each in waiting:
            each.close()


def test_what_a_killed_daemon_left_is_replaced(path, log):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
    old = os.lstat(path).st_ino
    assert os.path.exists(path)
    ours = claim(path, log)
    assert ours.path == path
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    assert old is not None
    ours.release()


def test_of_many_that_start_at_once_one_gets_a_stale_path(path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "LOCK_S", 60)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    got, lock = [], threading.Lock()

    def start():
        try:
            each = claim(path, log)
        except StartError:
            each = None
        with lock:
            got.append(each)

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.path for each in got if each) == sorted([path, beside(path)])
    for each in filter(None, got):
        each.release()


@pytest.mark.parametrize("make", [
    lambda path: open(path, "w").close(), os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/passwd", path),
    lambda path: os.symlink("nowhere", path)], ids=["file", "directory", "pipe", "link", "dangling"])
def test_what_is_no_socket_stays(path, log, make):
    make(path)
    before = os.lstat(path)
    refused(path, log, "not a socket")
    assert os.path.samestat(before, os.lstat(path))
    assert siblings(path) == [path], "it took another name, though somebody has asked for this one"


def test_a_link_to_a_stale_socket_is_not_followed(path, log, tmp_path):
    target = tmp_path / "target"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(target))
    os.symlink(target, path)
    refused(path, log, "not a socket")
    assert target.exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_where_others_rename_files_is_refused(path, log, mode):
    os.chmod(os.path.dirname(path), mode)
    refused(path, log, "others may rename files")
    os.chmod(os.path.dirname(path), 0o1777)
    claim(path, log).release()


def test_a_lock_that_somebody_holds_delays_no_start(path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "LOCK_S", 0.05)
    fd = os.open(os.path.dirname(path), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    refused(path, log, "holds a lock")
    os.close(fd)


def test_a_successor_at_the_same_path_is_left_alone(path, log):
    ours = claim(path, log)
    os.unlink(path)
    other = claim(path, log)
    assert other.path == path
    ours.release()
    assert os.path.exists(path)
    other.release()


def test_without_the_default_path_gwlbtun_goes_on(tmp_path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "DEFAULT_PATH", str(tmp_path / "nowhere" / "deeper" / "control.sock"))
    assert claim(rendezvous.DEFAULT_PATH, log) is None
    (_, line), _ = log.info.call_args
    assert "No such file or directory" in line and "--control" in line
    refused(str(tmp_path / "nowhere" / "control.sock"), log, "No such file")


def test_the_directory_of_the_default_path_is_made(tmp_path, log, monkeypatch):
    monkeypatch.setattr(rendezvous, "DEFAULT_PATH", str(tmp_path / "run" / "control.sock"))
    before = os.umask(0o077)
    try:
        ours = claim(rendezvous.DEFAULT_PATH, log)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "run").st_mode) == 0o755
    ours.release()
    claim(rendezvous.DEFAULT_PATH, log).release()


def test_paths():
    assert control_path("/run/gwlbtun/control.sock") == "/run/gwlbtun/control.sock"
    longest = "/" + "x" * 98
    assert control_path(longest) == longest and len(os.fsencode(with_pid(longest, 4_194_304))) == 107
    for text, why in [("control.sock", "absolute"), ("@abstract", "absolute"), ("/run/", "directory"), ("/", "directory"),
                      (longest + "x", "at most 99 bytes"), ("/" + "ä" * 50, "too long")]:
        with pytest.raises(ValueError, match=why):
            control_path(text)


@pytest.mark.parametrize("name", ["a b", "ünïcode", "\udcff", "new\nline", "no-extension", "two.dots.sock", "*?[", "$(id)"])
def test_odd_names(tmp_path, log, name):
    tmp_path.chmod(0o700)
    path = control_path(str(tmp_path / name))
    first, second = claim(path, log), claim(path, log)
    assert siblings(path) == sorted([path, beside(path)])
    first.release()
    second.release()
    assert siblings(path) == []
