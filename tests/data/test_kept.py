"""Streams of batches that are kept: the same ones as made anew, and within the memory that is allowed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from must_jax.data.kept import KeptBatches, Room

SIZE = np.zeros(10, np.int32).nbytes


class Streams:
    """Endless ones of arrays; `made` lists which batches of them were made."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []

    def __call__(self, key: str, start: int) -> Iterator[dict[str, Any]]:
        for k in itertools.count(start):
            self.made.append((key, k))
            yield {"image": np.full(10, 100 * ord(key) + k, np.int32)}


def read(batches: KeptBatches[str], key: str, count: int) -> list[int]:
    return [batch["image"][0] - 100 * ord(key) for batch in itertools.islice(batches(key), count)]


@pytest.mark.parametrize("room", [0, 1, 3, 100])
def test_they_are_the_same_every_time(room: int):
    batches = KeptBatches(Streams(), room * SIZE)
    for key, count in [("a", 4), ("b", 2), ("a", 6), ("b", 5), ("a", 4), ("b", 1)]:
        assert read(batches, key, count) == list(range(count))


def test_what_is_kept_is_not_made_again():
    streams = Streams()
    batches = KeptBatches(streams)
    for count in (3, 2, 5):
        read(batches, "a", count)
    assert streams.made == [("a", k) for k in range(5)]


def test_no_more_is_kept_than_there_is_room_for():
    streams = Streams()
    batches = KeptBatches(streams, 4 * SIZE)
    read(batches, "a", 3)
    for _ in range(2):
        streams.made.clear()
        read(batches, "b", 3)
    assert streams.made == [("b", 1), ("b", 2)]
    streams.made.clear()
    read(batches, "a", 4)
    assert streams.made == [("a", 3)]


@pytest.mark.parametrize("room", [0, 5, 100])
def test_one_stream_is_read_twice_at_a_time(room: int):
    batches = KeptBatches(Streams(), room * SIZE)
    first = batches("a")
    assert next(first)["image"][0] == 9700
    assert read(batches, "a", 4) == list(range(4))
    assert [batch["image"][0] - 9700 for batch in itertools.islice(first, 6)] == list(range(1, 7))
    assert read(batches, "a", 9) == list(range(9))


def test_arrays_beyond_the_room_lie_in_files_without_names(tmp_path: Path):
    room = Room(2 * SIZE, tmp_path)
    arrays = [room.empty((10,), np.dtype(np.int32)) for _ in range(3)]
    assert [isinstance(array, np.memmap) for array in arrays] == [False, False, True]
    assert not list(tmp_path.iterdir())  # nothing is left, however the process ends
    for number, array in enumerate(arrays):
        array[:] = number
    assert [array.tolist() for array in arrays] == [[number] * 10 for number in range(3)]


def test_room_is_free_again_once_the_last_view_of_an_array_is_gone(tmp_path: Path):
    room = Room(SIZE, tmp_path)
    array = room.empty((10,), np.dtype(np.int32))
    view = array.reshape(2, 5)
    del array
    assert isinstance(room.empty((10,), np.dtype(np.int32)), np.memmap)
    del view
    assert not isinstance(room.empty((10,), np.dtype(np.int32)), np.memmap)
