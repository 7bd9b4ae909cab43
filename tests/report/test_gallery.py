from __future__ import annotations

import numpy as np

from must_jax.report.gallery import LONGEST_PX, caption, thumbnail


def test_captions_are_short() -> None:
    boxes = [{"class": "cat", "score": 0.9, "box_yxyx": [0, 0, 1, 1]}] * 6
    assert caption({"boxes": boxes}) == ["6 boxes", *["cat 0.9"] * 4, "…"]
    assert caption({"unit": "m", "mean": [0.1, 0.2]}) == ["unit m", "mean (0.1, 0.2)"]


def test_thumbnails_keep_the_aspect_and_small_pictures() -> None:
    assert thumbnail(np.zeros((3000, 10, 3), np.uint8)).shape == (LONGEST_PX, 1, 3)
    assert thumbnail(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30, 3)
