"""What cannot fit into memory is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest

from must_jax.config import ModelConfig
from must_jax.errors import UserError
from must_jax.models.api import build_model
from must_jax.stages import memory
from must_jax.stages.transfer import _joined


def test_features_of_many_large_images_are_refused(monkeypatch: pytest.MonkeyPatch):
    """At 640 pixels P3 alone has 80 * 80 * 256 numbers an image."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 64 * 2**30)
    trunk = build_model(ModelConfig(backbone="resnet50", pyramid_channels=256), {})
    memory.check_features("birds", trunk, 640, 1_000)
    with pytest.raises(UserError, match=r"the features of 10,000 examples of 640 x 640.*birds.* this machine has 64.0"):
        memory.check_features("birds", trunk, 640, 10_000)


def test_batches_are_joined_in_their_order():
    batches = [{"features": {"c5": np.full((2, 3), number, np.float32)}, "labels": np.arange(2)} for number in range(4)]
    joined = _joined(iter(batches), 4)
    np.testing.assert_array_equal(joined["features"]["c5"][:, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(joined["labels"], [0, 1] * 4)
