"""Curves and bars in characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a braille character, by row and column
BRAILLE = 0x2800
BLANK = f" {chr(BRAILLE)}"


def curve(
    steps: Sequence[float], values: Sequence[float], width: int, height: int, *, ascii: bool = False
) -> list[str]:
    """Draws a curve as lines of `width` characters, from top to bottom.

    It connects the means of the values in each column of dots.

    Values that are not finite are left out.

    Args:
      ascii: one character per dot, if braille, with eight dots per character, cannot be shown.
    """
    across, down = (1, 1) if ascii else (2, 4)
    columns, rows = width * across, height * down
    known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not known:
        return [" " * width] * height
    least, most = min(value for _, value in known), max(value for _, value in known)
    first, last = steps[0], steps[-1]
    fallen: dict[int, list[float]] = {}
    for step, value in known:
        fallen.setdefault(round((step - first) / max(last - first, 1) * (columns - 1)), []).append(value)
    row_of = {
        column: round((most - sum(found) / len(found)) / (most - least or 1) * (rows - 1))
        for column, found in sorted(fallen.items())
    }
    grid = [[False] * columns for _ in range(rows)]
    before: tuple[int, int] | None = None
    for column, row in row_of.items():
        for x, y in _line(before or (column, row), (column, row)):
            grid[y][x] = True
        before = column, row
    if ascii:
        return ["".join("*" if dot else " " for dot in line) for line in grid]
    return [
        "".join(
            chr(BRAILLE + sum(DOTS[y][x] for y in range(4) for x in range(2) if grid[top + y][left + x]))
            for left in range(0, columns, 2)
        )
        for top in range(0, rows, 4)
    ]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots from `start` to `end`."""
    (x, y), (to_x, to_y) = start, end
    length = max(abs(to_x - x), abs(to_y - y))
    return [
        (x + round(i * (to_x - x) / (length or 1)), y + round(i * (to_y - y) / (length or 1)))
        for i in range(length + 1)
    ]


def beside(blocks: Sequence[Sequence[str]], across: int, gap: int) -> list[str]:
    """Blocks of lines, all of one size, `across` of them side by side."""
    lines = []
    for start in range(0, len(blocks), across):
        row = blocks[start : start + across]
        lines += [(" " * gap).join(parts).rstrip(BLANK) for parts in zip(*row, strict=True)] + [""]
    return lines[:-1]
