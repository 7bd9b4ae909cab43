"""Counting cores, on every system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import must_jax
from must_jax.cores import ahead, cores, divided


def test_cores_where_the_system_does_not_tell_which_are_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7


def test_work_is_divided_into_parts_of_nearly_equal_length():
    for length, parts in ((0, 3), (1, 3), (2, 3), (7, 3), (9, 3)):
        ranges = divided(length, parts)
        assert [i for part in ranges for i in part] == list(range(length))
        assert len(ranges) == min(length, parts) and max(map(len, ranges), default=0) == -(-length // parts)


def test_so_many_are_begun_ahead_and_no_more():
    events = []

    def begin(item: str):
        events.append(f"begin {item}")
        return lambda: events.append(f"wait {item}") or item.upper()

    results = ahead("abcd", begin, 2)
    assert events == []
    assert next(results) == "A"
    assert events == ["begin a", "begin b", "begin c", "wait a"]
    assert list(results) == ["B", "C", "D"]
    assert events[4:] == ["begin d", "wait b", "wait c", "wait d"]


def test_nothing_else_counts_cores_by_a_function_that_macos_lacks():
    package = Path(must_jax.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "sched_getaffinity" in path.read_text()] == ["cores.py"]
