"""What cannot fit into memory is refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from must_jax.config import ModelConfig
from must_jax.errors import UserError
from must_jax.inputs import memory
from must_jax.models.api import build_model
from must_jax.scoring.transfer import _joined


def test_features_beyond_memory_and_disk_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """At 640 pixels P3 alone has 80 * 80 * 256 numbers an image."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 8 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=150 * 2**30))
    trunk = build_model(ModelConfig(backbone="resnet50", pyramid_channels=256), {})

    def check(examples: int, room_bytes: int) -> None:
        memory.check_features("birds", trunk, (640, 640), examples, room_bytes, tmp_path)

    check(10_000, 4 * 2**30)  # 12 MB each: memory alone does not hold them
    for examples, room_bytes, lower in ((20_000, 4 * 2**30, "free"), (10_000, 9 * 2**30, "config.feature_bytes")):
        with pytest.raises(UserError, match=rf"the features of {examples:,} examples of 640 x 640.*birds.*{lower}"):
            check(examples, room_bytes)


def test_batches_are_joined_in_their_order():
    batches = [{"features": {"c5": np.full((2, 3), number, np.float32)}, "labels": np.arange(2)} for number in range(4)]
    joined = _joined(iter(batches), 4)
    np.testing.assert_array_equal(joined["features"]["c5"][..., 0], [[0, 0], [1, 1], [2, 2], [3, 3]])
    np.testing.assert_array_equal(joined["labels"], [[0, 1]] * 4)
