"""Near-duplicates: images of one set that also occur in another, at any size, in any format, or mirrored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import imagehash
import numpy as np
import PIL.Image

from must_jax.cores import cores
from must_jax.data.decoding import decode_reduced
from must_jax.data.image_sets import ImageSet

HASH_SIDE = 16  # frequencies in each direction; with the usual 8, unrelated images of one kind of scene look alike
_LONGEST = 128  # pixels along the longer side that decoding keeps at least; the hash uses 64 x 64
_FLATTEST = 2.0  # standard deviation of grey levels below which an image looks like any other
_TOGETHER = 64  # images that a thread takes at a time
_CELLS = 2**20  # comparisons that a thread makes at once

Advance = Callable[[int], None]


class Hashes(NamedTuple):
    """Perceptual hashes of a set's images; those that are blank or cannot be read have none.

    Attributes:
      bits: u64[n, 4], the hashes.
      positions: i64[n], positions of the images in their set.
      mirrored: bool[n], whether the hash is that of the mirrored image.
    """

    bits: np.ndarray
    positions: np.ndarray
    mirrored: np.ndarray


class Pair(NamedTuple):
    """Images at `position` in the first set and `other` in the second; `distance`: bits of their hashes that differ."""

    position: int
    other: int
    mirrored: bool
    distance: int


def hash_images(images: ImageSet, advance: Advance, mirror: bool = False) -> Hashes:
    """Perceptual hashes of all images: the signs of their lowest frequencies ("pHash").

    Args:
      advance: called with the number of images done since its last call.
      mirror: hash each image both as it is and mirrored.
    """
    ways = (False, True) if mirror else (False,)

    def part(start: int) -> Hashes:
        positions = range(start, min(start + _TOGETHER, len(images)))
        greys = ((position, _grey(images, position)) for position in positions)
        return _gathered(
            [(_hash(grey, way), position, way) for position, grey in greys if grey is not None for way in ways]
        )

    parts: list[Hashes] = []
    with ThreadPoolExecutor(cores()) as pool:
        starts = range(0, len(images), _TOGETHER)
        for start, hashes in zip(starts, pool.map(part, starts), strict=True):
            parts.append(hashes)
            advance(min(_TOGETHER, len(images) - start))
    return Hashes(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def near(images: Hashes, others: Hashes, most: int) -> list[Pair]:
    """For each image, the nearest of the others if at most `most` bits differ; in the order of `images`."""
    if not len(others.bits):
        return []
    rows = max(1, _CELLS // len(others.bits))

    def part(start: int) -> list[Pair]:
        ours = images.bits[start : start + rows]
        distance = np.zeros((len(ours), len(others.bits)), np.uint16)
        for word in range(ours.shape[1]):
            distance += np.bitwise_count(ours[:, None, word] ^ others.bits[None, :, word])
        nearest = distance.argmin(1)
        least = distance[np.arange(len(ours)), nearest]
        return [
            Pair(int(images.positions[start + i]), int(others.positions[j]), bool(others.mirrored[j]), int(least[i]))
            for i, j in ((i, nearest[i]) for i in np.flatnonzero(least <= most))
        ]

    with ThreadPoolExecutor(cores()) as pool:
        return [pair for pairs in pool.map(part, range(0, len(images.bits), rows)) for pair in pairs]


def _gathered(hashes: list[tuple[np.ndarray, int, bool]]) -> Hashes:
    """A list of (bits, position, mirrored) -> arrays, 40 MB for a million images."""
    bits, positions, mirrored = zip(*hashes, strict=True) if hashes else ((), (), ())
    return Hashes(
        np.array(bits, np.uint64).reshape(-1, HASH_SIDE**2 // 64),
        np.array(positions, np.int64),
        np.array(mirrored, bool),
    )


def _grey(images: ImageSet, position: int) -> PIL.Image.Image | None:
    """An image in grey; None if it is blank or cannot be read."""
    try:
        image, _ = decode_reduced(images.record(position)["image"], _LONGEST)
    except Exception:  # labelling reports the images that cannot be read
        return None
    grey = PIL.Image.fromarray(image).convert("L")
    return grey if np.asarray(grey).std() >= _FLATTEST else None


def _hash(grey: PIL.Image.Image, mirrored: bool) -> np.ndarray:
    """The hash of an image, u64[4]."""
    shown = grey.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else grey
    return np.packbits(imagehash.phash(shown, hash_size=HASH_SIDE).hash).view(np.uint64)
