# SPDX-License-Identifier: MIT-0
"""A restart in place that goes wrong at each of its steps: the old program goes on, or the new one with what it can have."""
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

import packets
from lab import CLIENT, ENI, SERVER
from restarts import Restartable, patched

pytestmark = pytest.mark.one_path  # tests/kernel has its own of the path in the kernel

EXECVE = "os.execve(words[0], "
WRITE = '        memory = state.write({**record, "descriptors": descriptors})\n'
EVERYTHING = "gwlbtun starts afresh"


def passes(restartable):
    """Packets go and come back, though some may be lost before."""
    endpoint, before = restartable.endpoint, len(restartable.endpoint.received)

    def back():
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], next(restartable.numbers), 2, b"x"))
        time.sleep(0.05)
        return len(endpoint.received) > before
    return restartable.lab.wait(back)


@pytest.mark.parametrize("place, fault, said", [
    (EXECVE, "os.execve(words[0] + '-gone', ", "FileNotFoundError"),
    ('memfile.held("gwlbtun-packets")', 'memfile.held("\\0")', "ValueError"),
])
def test_what_the_rehearsal_could_do_fails_when_it_matters(lab, tmp_path, copy, place, fault, said):
    patched(copy, "handover.py", place, fault)
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    interfaces, (descriptors, threads, _) = restartable.interfaces(), restartable.footprint()
    for _ in range(3):
        count = len(restartable.told())
        restartable.hang_up()
        assert lab.wait(lambda: any(f"it failed, and gwlbtun goes on as it was ({said}" in line
                                    for line in restartable.told()[count:])), restartable.daemon.log()
        restartable.exchange()
    assert restartable.interfaces() == interfaces and restartable.ran() == ["CREATE"]
    after = restartable.footprint()
    assert after[0] < descriptors + 3 and after[1] <= threads + 2, (descriptors, threads, after)
    assert restartable.daemon.drops() == {}
    assert restartable.daemon.stop() == 0 and restartable.interfaces() == []


def test_a_rehearsal_that_takes_long_is_no_pause(lab, tmp_path, copy):
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    patched(copy, "rehearsal.py", "def main(arguments: List[str]) -> int:\n",
            "def main(arguments: List[str]) -> int:\n    import time\n    time.sleep(4)\n    raise RuntimeError('slow')\n")
    restartable.refuse()
    begin = time.monotonic()
    assert lab.wait(lambda: restartable.daemon.health() and time.monotonic() > begin + 1.5)  # it has looked meanwhile
    assert "gwlbtun has not run" not in restartable.daemon.log()


def test_a_stop_in_the_last_moment_is_heard(lab, tmp_path, copy):
    patched(copy, "handover.py", "self._log.flush(LOG_S)", "os.kill(os.getpid(), signal.SIGTERM)")
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    restartable.hang_up()
    assert restartable.daemon.process.wait(60) == 0
    assert restartable.ran() == ["CREATE", "DESTROY"] and restartable.interfaces() == []


@pytest.mark.parametrize("damage, said, hooks", [
    ("os.ftruncate(memory, 100)", EVERYTHING, 2),
    ("os.ftruncate(memory, 0)", EVERYTHING, 2),
    ("os.pwrite(memory, b'\\xff' * 50, 10)", EVERYTHING, 2),
    ("os.close(memory)", EVERYTHING, 2),
    ("memory = state.write({'takeover': state.VERSION})", "list of descriptors", 2),
    ("memory = state.write({**record, 'takeover': 99, 'descriptors': descriptors})", "in form 99", 2),
    ("descriptors.remove(self._flows_fd)", "the flow table cannot be taken over", 1),
    ("os.ftruncate(self._flows_fd, 8192)", "the flow table cannot be taken over", 1),
    ("os.pwrite(self._flows_fd, b'\\xfe' * 8, 0)", "the flow table cannot be taken over", 1),
    ("descriptors.remove(self._receivers[0].socket.fileno())", "the socket of a receiver", 1),
    ("os.close(descriptors.pop(descriptors.index(self._receivers[-1].socket.fileno())))", "the socket of a receiver", 1),
    ("descriptors.remove(self._endpoints.passing()[0].descriptors()[0])", "Cannot take over an endpoint", 2),
    ("os.close(self._endpoints.passing()[0].descriptors()[1])", "Cannot take over an endpoint", 2),
    ("descriptors.remove(self._server.socket.fileno())", "the health port", 1),
    ("os.write(record['packets_fd'], b'nothing that waits')", "", 1),
    ("record['receivers'][0]['counters'] = None", "the counters of a receiver", 1),
    ("record['endpoints']['each'][0]['state'] = 'asleep'", "Cannot take over an endpoint", 1),
    ("record['endpoints'] = 7", "what there is of endpoints", 2),
])
def test_what_cannot_be_taken_over_is_made_anew(lab, tmp_path, copy, damage, said, hooks):
    """There is no way back once the old program has gone: the new one takes what it can, and says what it cannot."""
    line = f"        {damage}\n"
    patched(copy, "handover.py", WRITE, WRITE + line if "memory" in damage else line + WRITE)
    restartable = Restartable(lab, tmp_path, "--udpthreads", 2, command=[sys.executable, copy])
    restartable.exchange()
    process = restartable.daemon.pid
    restartable.restart()
    assert said in restartable.daemon.log(), restartable.daemon.log()
    assert passes(restartable), restartable.daemon.log() + restartable.daemon.errors()
    assert restartable.daemon.pid == process and restartable.daemon.health()["healthy"]
    assert lab.wait(lambda: restartable.ran().count("CREATE") == hooks), restartable.daemon.log()
    assert len(restartable.interfaces()) == 2
    listening = restartable.lab.appliance.run("ss", "-lun", "sport", "=", ":6081").stdout
    assert listening.count(":6081 ") == 2, listening
    assert restartable.daemon.stop() == 0 and restartable.interfaces() == []


@pytest.mark.unsanitized(reason="a sanitizer needs more addresses than are left")
def test_too_little_memory_after_all(lab, tmp_path, copy):
    """The new program does not come up at all: it ends with a status that makes a supervisor start it again."""
    patched(copy, "handover.py", WRITE, WRITE + "        import resource\n"
            "        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n")
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    restartable.hang_up()
    assert restartable.daemon.process.wait(30) == 1
    lab.daemons.remove(restartable.daemon)
    assert "cannot set up the fast path" in restartable.daemon.errors() and restartable.interfaces() == []


# ---- The program that is executed is the one that was rehearsed


def test_files_that_change_during_the_rehearsal_are_rehearsed_again(lab, tmp_path, copy):
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    notes = copy.parent / "gwlbtun" / "notes.py"
    change = f"    import pathlib\n    open({str(tmp_path / 'rehearsed')!r}, 'a').write('x')\n"
    main = "def main(arguments: List[str]) -> int:\n"
    text = patched(copy, "rehearsal.py", main,
                   main + change + f"    once = pathlib.Path({str(tmp_path / 'rehearsed')!r}).read_text() == 'x'\n"
                   f"    once and pathlib.Path({str(notes)!r}).write_text({notes.read_text() + '# newer'!r})\n")
    restartable.restart()
    assert (tmp_path / "rehearsed").read_text() == "xx"
    restartable.exchange()
    (copy.parent / "gwlbtun" / "takeover" / "rehearsal.py").write_text(
        text.replace(main, main + f"    with open({str(notes)!r}, 'a') as file:\n        file.write('#')\n"))
    assert "change all the time" in restartable.refuse()
    restartable.exchange()
    assert restartable.ran() == ["CREATE"] and restartable.daemon.drops() == {}


@pytest.mark.parametrize("how", ["replaced", "written over"])
def test_a_dist_file_that_becomes_garbage_after_its_rehearsal(lab, tmp_path, onefile, how):
    """A cron job or a failing copy gets between the rehearsal and the restart."""
    mine = tmp_path / "gwlbtun"
    shutil.copy(onefile, mine)
    restartable = Restartable(lab, tmp_path, "--require-hook", command=[mine],
                              options=f"--endpoint vpce-{ENI:017x}")
    restartable.exchange()
    child = Path(f"/proc/{restartable.daemon.pid}/task/{restartable.daemon.pid}/children")
    count = len(restartable.told())
    restartable.hang_up()
    assert lab.wait(lambda: child.read_text().split())
    rehearsal = int(child.read_text().split()[0])
    os.kill(rehearsal, signal.SIGSTOP)
    if how == "replaced":
        (tmp_path / "garbage").write_text("#!/usr/bin/env python3\nraise SystemExit(9)\n")
        os.replace(tmp_path / "garbage", mine)
    else:
        mine.write_bytes(mine.read_bytes()[:2000])
    os.kill(rehearsal, signal.SIGCONT)
    assert lab.wait(lambda: len(restartable.told()) > count), restartable.daemon.log()
    assert restartable.daemon.process.poll() is None
    assert restartable.told()[-1].startswith("not now"), restartable.told()
    restartable.exchange()
    shutil.copy(onefile, mine)
    for _ in range(2):
        restartable.restart()
        restartable.exchange()
    words = Path(f"/proc/{restartable.daemon.pid}/cmdline").read_bytes().split(b"\0")
    assert os.path.basename(words[0]) == b"gwlbtun" and b"/proc/self/fd" not in b"".join(words)
    assert restartable.ran() == ["CREATE"]


# ---- What else may be going on


def test_no_restart_while_it_drains(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, "--drain", 15)
    restartable.exchange()
    restartable.daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: restartable.daemon.get()[0] == 503)
    restartable.hang_up()
    assert lab.wait(lambda: "SIGHUP: gwlbtun drains, so there is no restart in place." in restartable.daemon.log())
    restartable.exchange()
    assert restartable.daemon.process.wait(60) == 0 and restartable.told() == []
    assert restartable.ran() == ["CREATE", "DESTROY"]


def test_a_note_outlives_the_program_that_made_it(lab, tmp_path):
    restartable = Restartable(lab, tmp_path)
    lab.route()
    restartable.exchange()
    restartable.daemon.wait_patrolled()
    assert restartable.daemon.health()["notes"] == []
    lab.appliance.sysctl("net.ipv4.ip_forward", 0)
    assert lab.wait(lambda: restartable.daemon.health()["notes"])
    note = restartable.daemon.health()["notes"]
    restartable.restart()
    assert lab.wait(lambda: restartable.daemon.health()["notes"] == note), restartable.daemon.health()["notes"]
    lab.appliance.sysctl("net.ipv4.ip_forward", 1)
    assert lab.wait(lambda: restartable.daemon.health()["notes"] == [])


def test_few_descriptors_are_enough_for_a_restart(lab, tmp_path):
    """Each restart takes a handful beside those that pass over."""
    endpoints = 4
    restartable = Restartable(lab, tmp_path, command=["prlimit", "--nofile=200:200", sys.executable,
                                                      Path(__file__).resolve().parents[2] / "gwlbtun.py"])
    others = [lab.endpoint(ENI + 1 + number) for number in range(endpoints)]
    for endpoint in others:
        restartable.exchange(endpoint)
    for _ in range(3):
        restartable.restart()
        for endpoint in others:
            restartable.exchange(endpoint)
    assert restartable.ran() == ["CREATE"] * endpoints


def test_a_health_port_that_is_taken_later_stays_where_it_was(lab, tmp_path, copy):
    """It was free in the rehearsal, and is taken when the new program comes."""
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    with lab.appliance.entered():
        holder = socket.socket(socket.AF_INET6)
        holder.bind(("", 6))
        holder.listen()
    rehearsal = copy.parent / "gwlbtun" / "takeover" / "rehearsal.py"
    text = rehearsal.read_text()
    rehearsal.write_text(text.replace("            _try_health_port(", "            _untried = (", 1))
    with holder:
        restartable.restart("-p 6")
        assert "Health checks stay on" in restartable.daemon.log()
        assert restartable.daemon.health()["healthy"]
    restartable.exchange()
