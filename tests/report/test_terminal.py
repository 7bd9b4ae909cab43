"""Curves in characters."""

from __future__ import annotations

import math

from must_jax.report.terminal import beside, curve


def test_a_falling_line_in_plain_characters():
    assert curve([1, 2, 3, 4], [3, 2, 1, 0], 4, 4, ascii=True) == ["*   ", " *  ", "  * ", "   *"]


def test_a_falling_line_in_braille():
    """Two by four dots a character: a diagonal from the top left to the bottom right."""
    assert curve(range(8), range(8, 0, -1), 4, 2) == ["⠑⢄⠀⠀", "⠀⠀⠑⢄"]


def test_gaps_are_joined_and_steep_parts_too():
    assert curve([0, 4], [1, 1], 5, 1, ascii=True) == ["*****"]
    assert curve([0, 1], [0, 3], 2, 4, ascii=True) == [" *", " *", "* ", "* "]


def test_many_values_on_a_column_are_their_mean():
    assert curve(range(4), [0, 2, 5, 5], 2, 6, ascii=True) == [" *", " *", "* ", "* ", "* ", "  "]


def test_what_is_no_number_is_left_out():
    lines = curve([1, 2, 3], [2.0, math.nan, 1.0], 3, 2, ascii=True)
    assert lines == curve([1, 3], [2.0, 1.0], 3, 2, ascii=True)
    assert curve([1, 2], [math.nan, math.inf], 3, 2) == ["   ", "   "]


def test_a_single_value():
    assert curve([50], [0.7], 3, 2, ascii=True) == ["*  ", "   "]


def test_blocks_beside_each_other():
    assert beside([["a1", "a2"], ["b1", "b2"], ["c ", "c3"]], 2, 3) == ["a1   b1", "a2   b2", "", "c", "c3"]
