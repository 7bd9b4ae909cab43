from __future__ import annotations

import numpy as np
from hand_made import KINDS

from must_jax.data.kinds import IGNORE_ID


def test_pixels_that_a_label_leaves_out_do_not_count() -> None:
    label = {"ids": np.array([[0, IGNORE_ID]], np.int32), "present": np.float32(1)}
    truth = {"ids": np.array([[1, 2, 0, 1], [IGNORE_ID, 0, 2, 2]], np.int32)}
    resized, known = KINDS["segmentation"].compared(label, truth)
    assert known["ids"].tolist() == [[1, 2, IGNORE_ID, IGNORE_ID], [IGNORE_ID, 0, IGNORE_ID, IGNORE_ID]]
    assert resized["ids"].tolist() == [[0, 0, IGNORE_ID, IGNORE_ID]] * 2


def test_invalid_pixels_of_either_do_not_count() -> None:
    """Nor do those between valid and invalid ones; the others are interpolated."""
    depth, rows = np.tile(np.arange(8, dtype=np.float32), (8, 1)), np.arange(8)[:, None]
    label = {"depth": depth, "valid": np.tile((rows < 4).astype(np.float32), (1, 8)), "present": np.float32(1)}
    truth = {"depth": np.ones((16, 16), np.float32), "valid": np.tile(np.arange(16) != 3, (16, 1)).astype(np.float32)}
    resized, known = KINDS["depth"].compared(label, truth)
    np.testing.assert_allclose(resized["depth"][0, 1:-1], np.arange(0.25, 7, 0.5), atol=1e-6)
    assert known["valid"][0].tolist() == truth["valid"][0].tolist()
    assert known["valid"][:, 0].tolist() == [1] * 7 + [0] * 9


def test_vectors_stay_unit_vectors() -> None:
    label = {
        "normals": np.array([[[1, 0, 0], [0, 0, -1]]], np.float32),
        "valid": np.ones((1, 2), np.float32),
        "present": np.float32(1),
    }
    truth = {"normals": np.zeros((3, 4, 3), np.float32), "valid": np.ones((3, 4), np.float32)}
    resized, _ = KINDS["normals"].compared(label, truth)
    np.testing.assert_allclose(np.linalg.norm(resized["normals"], axis=-1), np.ones((3, 4)), atol=1e-6)


def test_what_is_no_map_counts_as_it_is() -> None:
    label, truth = {"probs": np.zeros(3, np.float32)}, {"probs": np.ones(3, np.float32)}
    assert KINDS["classification"].compared(label, truth) == (label, truth)
