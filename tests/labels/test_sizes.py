from __future__ import annotations

from pathlib import Path

import pytest
from hand_made import KINDS, Images, write_column

from must_jax.labels.sizes import column_bytes, most_bytes, stored_records


@pytest.mark.parametrize("task", KINDS)
def test_bytes_of_a_column_from_its_own_records_are_exact(task: str, tmp_path: Path) -> None:
    column = write_column(tmp_path / task, task, Images(10))  # shards of 4, 4 and 2
    records = stored_records(column.folder, column.manifest)
    assert len(records) == 10
    real = sum(shard.bytes for shard in column.manifest.shards)
    assert column_bytes(records, 10, 4, tmp_path) == pytest.approx(real, rel=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [task]


def test_small_labels_take_more_than_their_records(tmp_path: Path) -> None:
    """Files come in blocks of 64 KiB, which a mean of bytes a record would not tell."""
    records = [b"label" * 20] * 8
    assert column_bytes(records, 100, 10, tmp_path) == 10 * column_bytes(records, 10, 10, tmp_path)
    assert column_bytes(records, 100, 10, tmp_path) > 5 * column_bytes(records, 100, 100, tmp_path)
    assert column_bytes(records, 105, 10, tmp_path) == 11 * column_bytes(records, 10, 10, tmp_path)


@pytest.mark.parametrize("map_hw", [(2, 2), (16, 16), (160, 160)])
def test_the_estimate_before_any_label_is_not_too_low(map_hw: tuple[int, int], tmp_path: Path) -> None:
    """Of maps that cannot be compressed."""
    for task, kind in KINDS.items():
        column = write_column(tmp_path / task, task, Images(10), map_hw=map_hw)
        real = sum(shard.bytes for shard in column.manifest.shards)
        assert real <= most_bytes(kind, map_hw, 10, 4), task
