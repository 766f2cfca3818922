# SPDX-License-Identifier: MIT-0
"""A thread's life: what its maker is told, and when."""
import threading

import pytest

from gwlbtun.worker import Worker


def test_a_thread_is_listed_before_it_does_its_work(book):
    listed, seen, done = [], [], threading.Event()

    def body():
        seen.append(list(listed))
        done.set()

    worker = Worker(book.log, "W000", body, begun=lambda: listed.append(worker.name))
    worker.start()
    assert listed == ["W000"]
    assert done.wait(30)
    worker.join()
    assert seen == [["W000"]]


@pytest.mark.parametrize("fails", [False, True])
def test_only_a_thread_that_has_failed_says_so(book, fails):
    order = []

    def body():
        order.append("work")
        if fails:
            raise ValueError("no luck")

    worker = Worker(book.log, "W000", body, begun=lambda: order.append("begun"), failed=lambda: order.append("failed"))
    worker.start()
    worker.join()
    assert order == ["begun", "work"] + ["failed"] * fails
    assert worker.failure == ("ValueError: no luck" if fails else None)
