# SPDX-License-Identifier: MIT-0
"""The bounds of admission: what the host has, and a rate."""
from gwlbtun import admission
from gwlbtun.admission import Bucket


def test_a_control_group_short_of_threads_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("gwlbtun.capacity._groups", lambda: [tmp_path])
    monkeypatch.setattr("gwlbtun.capacity._looked", (-1.0, None))
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("91\n")
    assert "TasksMax" in admission.capacity.lack()
    monkeypatch.setattr("gwlbtun.capacity._looked", (-1.0, None))
    (tmp_path / "pids.current").write_text("50\n")
    assert admission.capacity.lack() is None
    monkeypatch.setattr("gwlbtun.capacity._looked", (-1.0, None))
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("990000\n")
    assert "MemoryMax" in admission.capacity.lack()
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    monkeypatch.setattr("gwlbtun.capacity._looked", (-1.0, None))
    assert admission.capacity.lack() is None


def test_a_rate_is_bounded(monkeypatch):
    now = 0.0
    monkeypatch.setattr(admission.time, "monotonic", lambda: now)
    bucket = Bucket(10.0, 5.0)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    now = 0.25
    assert [bucket.take() for _ in range(4)] == [True] * 2 + [False] * 2
    now = 100.0
    assert sum(bucket.take() for _ in range(20)) == 5
