"""Counting cores, on every system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import must_jax
from must_jax.cores import cores


def test_cores_where_the_system_does_not_tell_which_are_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7


def test_nothing_else_counts_cores_by_a_function_that_macos_lacks():
    package = Path(must_jax.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "sched_getaffinity" in path.read_text()] == ["cores.py"]
