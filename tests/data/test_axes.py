"""Vectors of other frames in ours."""

from __future__ import annotations

import numpy as np
import pytest

from must_jax.data import axes


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("x,y,z", (1, 2, 3)),
        ("opengl", (1, -2, -3)),
        ("OpenGL", (1, -2, -3)),
        ("-x,-y,-z", (-1, -2, -3)),
        ("dsine", (-1, -2, -3)),
        ("-y,-z,x", (-2, -3, 1)),  # x forward, y left, z up, as robots have it
    ],
)
def test_vectors_come_out_in_our_axes(written: str, ours: tuple[int, ...]) -> None:
    vectors = np.broadcast_to(np.array([1, 2, 3], np.float32), (2, 4, 3))
    np.testing.assert_array_equal(axes.parse(written).to_ours(vectors), np.broadcast_to(np.float32(ours), (2, 4, 3)))


def test_there_are_48_frames_and_each_survives_being_written() -> None:
    every = list(axes.every())
    assert len({each.written for each in every}) == 48
    assert [axes.parse(each.written) for each in every] == every


@pytest.mark.parametrize("written", ["", "x,y", "x,y,y", "x,y,w", "right,down,forward", "x,y,z,x"])
def test_what_names_no_frame_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="opengl"):
        axes.parse(written)
