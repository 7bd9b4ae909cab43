"""Processes that end at a chosen moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def killed_at_rename(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the block, as Ctrl-C does, in place of its rename of this number, counted from 1."""
    rename, before = Path.rename, iter(range(number - 1))

    def killed(self: Path, target: Path) -> Path:
        if next(before, None) is None:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            yield
