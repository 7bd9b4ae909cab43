from __future__ import annotations

import pytest
import tensorflow_datasets as tfds
from hand_made import KINDS, label_of

from must_jax.data import encodings
from must_jax.labels.budget import bytes_per_image


@pytest.mark.parametrize("map_hw", [(1, 1), (16, 16), (96, 64)])
@pytest.mark.parametrize("task", KINDS)
def test_a_record_needs_no_more_than_was_estimated_even_for_noise(task: str, map_hw: tuple[int, int]) -> None:
    features = tfds.features.FeaturesDict(encodings.features(KINDS[task]))
    for index in range(3):
        record = features.serialize_example(encodings.encode(KINDS[task], label_of(task, index, map_hw)))
        assert len(record) <= bytes_per_image(KINDS[task], map_hw)
