from __future__ import annotations

import numpy as np
from hand_made import KINDS

from must_jax.data.kinds import IGNORE_ID
from must_jax.labels.agreement import only_where_labelled


def test_pixels_that_a_label_leaves_out_do_not_count() -> None:
    label = {"ids": np.array([[0, IGNORE_ID]], np.int32)}
    truth = {"ids": np.array([[1, 2, 0, 1], [IGNORE_ID, 0, 2, 2]], np.int32)}
    known = only_where_labelled(KINDS["segmentation"], label, truth)["ids"]
    assert known.tolist() == [[1, 2, IGNORE_ID, IGNORE_ID], [IGNORE_ID, 0, IGNORE_ID, IGNORE_ID]]


def test_invalid_pixels_of_either_do_not_count() -> None:
    label = {"depth": np.ones((2, 1), np.float32), "valid": np.array([[1], [0]], np.float32)}
    truth = {"depth": np.ones((4, 2), np.float32), "valid": np.array([[1, 0]] * 4, np.float32)}
    valid = only_where_labelled(KINDS["depth"], label, truth)["valid"]
    assert valid.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


def test_what_is_no_map_counts_as_it_is() -> None:
    truth = {"probs": np.ones(3, np.float32)}
    assert only_where_labelled(KINDS["classification"], {}, truth) is truth
