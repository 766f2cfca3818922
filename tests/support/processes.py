# SPDX-License-Identifier: MIT-0
"""Tests in several processes at once, as most of them wait rather than compute: pytest --processes=N.

pytest collects the tests and forks N helpers. A helper asks for a module, runs its tests, and tells what comes of each; pytest
reports that as if it had run the test itself. A test that is marked `alone` runs last, when no helper is left.
"""
import multiprocessing
import multiprocessing.connection
import os
import warnings
from multiprocessing.connection import Connection
from typing import Any, Dict, Iterator, List, Optional

import pytest

Modules = List[List[pytest.Item]]

_fork = multiprocessing.get_context("fork")  # a helper has all tests that were collected


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run the tests of N modules at once")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Optional[bool]:
    """None: pytest's own loop is to run all tests."""
    option = session.config.option
    if option.processes < 2 or option.collectonly or session.testsfailed:
        return None
    modules: Dict[str, List[pytest.Item]] = {}
    alone = []
    for item in session.items:
        if item.get_closest_marker("alone"):
            alone.append(item)
        else:
            modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    if len(modules) < 2:
        return None
    session.config._tmp_path_factory.getbasetemp()  # one for all
    _run_beside(session, list(modules.values()), option.processes)
    for test, following in zip(alone, [*alone[1:], None]):
        if not _stops(session):
            test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def _stops(session: pytest.Session) -> bool:
    return bool(session.shouldfail or session.shouldstop)


def _run_beside(session: pytest.Session, modules: Modules, count: int) -> None:
    left = {item.nodeid: item for module in modules for item in module}
    pending = iter(range(len(modules)))
    helpers: Dict[Connection, multiprocessing.Process] = {}
    for _ in range(count):
        ours, theirs = _fork.Pipe()
        helpers[ours] = _fork.Process(target=_help, args=(session, modules, theirs, [*helpers, ours]))
        helpers[ours].start()
        theirs.close()
    talking = list(helpers)
    try:
        while talking:
            for connection in multiprocessing.connection.wait(talking):
                try:
                    kind, said = connection.recv()
                    if kind == "next":
                        connection.send(None if _stops(session) else next(pending, None))
                except (EOFError, ConnectionError):  # it has ended
                    talking.remove(connection)
                    continue
                if kind == "ran":
                    _report(left.pop(said[0]), said[1])
                elif kind == "warned":
                    session.config.hook.pytest_warning_recorded.call_historic(kwargs=said)
                elif kind == "exit":
                    pytest.exit(*said)
    finally:
        for connection in helpers:
            connection.close()  # whoever still asks hears that there is nobody
        for process in helpers.values():
            process.join()
    statuses = [process.exitcode for process in helpers.values()]
    if any(statuses) or not _stops(session):
        for item in left.values():
            text = f"{item.nodeid} did not run to its end: the helpers ended with {statuses}"
            lost = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
            _report(item, [item.config.hook.pytest_report_to_serializable(config=item.config, report=lost)])
        assert left or not any(statuses), f"the helpers ended with {statuses}"


def _report(item: pytest.Item, reports: List[Dict[str, Any]]) -> None:
    hook, config = item.config.hook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=config, data=report))
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


# ---- In a helper ---------------------------------------------------------------------------------------------------------


def _help(session: pytest.Session, modules: Modules, connection: Connection, others: List[Connection]) -> None:
    for other in others:  # were they open here, nobody would hear that pytest has gone
        other.close()
    plugins = session.config.pluginmanager
    capture = plugins.get_plugin("capturemanager")
    capture.stop_global_capturing()  # by files that all processes share
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # one process alone writes to the terminal
    capture.start_global_capturing()
    plugins.register(_Teller(session.config, connection))
    tests = _asked_for(modules, connection)
    try:
        test = next(tests, None)
        while test and not _stops(session):
            following = next(tests, None)
            test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
            test = following
    except pytest.exit.Exception as exit:
        connection.send(("exit", (exit.msg, exit.returncode)))
    except (KeyboardInterrupt, EOFError, ConnectionError):
        pass  # whoever started it says what is to be said
    finally:
        plugins.get_plugin("runner").pytest_sessionfinish(session)  # undoes what is left of fixtures


def _asked_for(modules: Modules, connection: Connection) -> Iterator[pytest.Item]:
    while True:
        connection.send(("next", None))
        number = connection.recv()
        if number is None:
            return
        yield from modules[number]


class _Teller:
    """A plugin that tells what comes of tests, of each all at once."""

    def __init__(self, config: pytest.Config, connection: Connection):
        self._config = config
        self._connection = connection
        self._reports: List[Dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._connection.send(("ran", (nodeid, self._reports)))
        self._reports = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any) -> None:
        told = warnings.WarningMessage(Warning(str(warning_message.message)), warning_message.category,
                                       warning_message.filename, warning_message.lineno)
        self._connection.send(("warned", {"warning_message": told, "when": when, "nodeid": nodeid, "location": location}))
