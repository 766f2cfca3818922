# SPDX-License-Identifier: MIT-0
"""The counts of hooks, which become a histogram."""
import threading

from gwlbtun.hooktally import BOUNDS_S, HookTally


def test_each_run_counts_under_its_action_its_end_and_all_bounds_that_it_kept():
    tally = HookTally()
    for succeeded, seconds in (True, 0.0), (True, 0.01), (False, 0.011), (True, 60.0), (False, 60.1), (True, 1e6):
        tally.add("create", succeeded, seconds)
    tally.add("destroy", True, 0.3)
    create, destroy = tally.snapshot()["create"], tally.snapshot()["destroy"]
    assert (create["ok"], create["failed"], tally.failures) == (4, 2, 2)
    assert create["seconds"] == 1_000_120.121
    assert [bucket["le"] for bucket in create["buckets"]] == sorted(BOUNDS_S)
    counts = {bucket["le"]: bucket["count"] for bucket in create["buckets"]}
    assert (counts[0.01], counts[0.025], counts[30.0], counts[60.0]) == (2, 3, 3, 4)
    assert (destroy["ok"], destroy["failed"], destroy["seconds"]) == (1, 0, 0.3)
    assert [bucket["count"] for bucket in destroy["buckets"]] == [int(bound >= 0.3) for bound in BOUNDS_S]


def test_runs_that_end_at_the_same_time_all_count():
    tally = HookTally()
    threads = [threading.Thread(target=lambda: [tally.add("create", True, 0.001) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.snapshot()["create"]["ok"] == tally.snapshot()["create"]["buckets"][0]["count"] == 4000
