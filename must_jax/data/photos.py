"""The photos of a folder: which of them can be read, and their names in little memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from must_jax.cores import cores
from must_jax.data import folders
from must_jax.data.decoding import Ranges, Values, check_image
from must_jax.data.folders import Listing
from must_jax.data.known import Known
from must_jax.data.sample import in_order
from must_jax.errors import UserError
from must_jax.progress import Progress, counted, say

_CHECKED_TOGETHER = 8  # files for each core
_MANY = 10_000  # files whose first check takes minutes
_SAVED_EVERY_S = 60.0


class Names(Sequence[str]):
    """Names of files in a third of the memory of a list."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]])


class Checked(NamedTuple):
    """What was found out about the photos of a folder.

    Attributes:
      readable: i32[n], ascending numbers of readable photos in the listing: all of them, or as many as were wanted.
      skipped: path of each photo that cannot be read, among those that were looked at, and why.
      told: what is strange about their values; "" = nothing.
    """

    readable: np.ndarray
    skipped: list[tuple[str, str]]
    told: str


def check(spec: str, folder: Path, listing: Listing, take: int = 0) -> Checked:
    """Finds the readable photos by decoding them, except for those that an earlier start found to be readable.

    Args:
      take: how many readable photos are wanted; 0 = all.
    """
    names, known = [name for name, _ in listing.images], Known(folder)
    is_readable, low, high = known.look_up(listing.keys)
    low, high = low.copy(), high.copy()
    is_sampled, together = 0 < take < len(names), _CHECKED_TOGETHER * cores()

    def looked_at(places: range) -> np.ndarray:
        return in_order(len(names), places) if is_sampled else np.arange(places.start, places.stop)

    wanted = min(take or len(names), len(names))
    problems: dict[int, str] = {}
    before = 0 if take else int(np.count_nonzero(is_readable))
    if (unknown := wanted - before) > _MANY and not take:
        say(
            f"{spec}: {counted(unknown, 'photo')} are decoded, to find those that cannot be read; "
            "later starts only decode those that have changed, or could not be read"
        )
    found, end, saved_s = 0, 0, time.monotonic()
    try:
        with (
            Progress(f"checking {spec}", total=wanted, start=before) as progress,
            ThreadPoolExecutor(cores()) as pool,
        ):
            for start in range(0, len(names), together):
                end = min(start + together, len(names))
                chunk = looked_at(range(start, end))
                new = chunk[~is_readable[chunk]].tolist()
                results = pool.map(_check, (folder / names[number] for number in new)) if new else ()
                for number, result in zip(new, results, strict=True):
                    if isinstance(result, str):
                        problems[number] = result
                    else:
                        is_readable[number], (low[number], high[number]) = True, result
                        known.add(int(listing.keys[number]), *result)
                good = min(int(np.count_nonzero(is_readable[chunk])), wanted - found)
                found += good
                progress.advance(good if take else len(new))  # in place of a bad one, the next one is taken
                if time.monotonic() - saved_s > _SAVED_EVERY_S:
                    known.save(listing.keys)
                    saved_s = time.monotonic()
                if take and found >= take:
                    break
    finally:
        known.save(listing.keys)
    seen = looked_at(range(end))
    readable = np.sort(seen[is_readable[seen]][:wanted]).astype(np.int32)
    ranges = Ranges()
    ranges.add_all(lambda row: folders.printable(names[readable[row]]), low[readable], high[readable])
    skipped = [(folders.printable(str(folder / names[number])), problems[number]) for number in sorted(problems)]
    return Checked(readable, skipped, ranges.told())


def _check(path: Path) -> Values | str:
    """The range of an image's values, or why it cannot be read."""
    try:
        return check_image(path.read_bytes())
    except (UserError, OSError) as error:
        return str(error)
