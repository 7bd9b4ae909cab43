"""What the stages read, where other tests do not look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made import write_column

from must_jax.config import InputConfig, SourceConfig, TrainConfig
from must_jax.data.batching import Source, TruthReader, eval_batches
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import LabelKind
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.inputs import feeding
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.sources import check_unchanged, fingerprint_of, open_source
from must_jax.inputs.targets import build_tasks

IMAGES = "scenes/unlabelled_tiny:train"


def test_an_evaluation_sees_all_boxes(data_dir: Path):
    source = open_source(SourceConfig(images="scenes/teacher_detection_tiny:test"), str(data_dir), ["detection"])
    task = build_tasks({"detection": {}}, [source], max_boxes=1)["detection"]
    truth = TruthReader(source, ["detection"])
    assert task.label.max_boxes == 1
    assert max(truth(i)["detection"]["valid"].sum() for i in range(len(source.images))) > 1


@pytest.mark.parametrize(
    ("platform", "hosts", "workers"),
    [("cpu", "a", 0), ("gpu", "a", 12), ("tpu", "a", 12), ("gpu", "aab", 6), ("gpu", "a" * 20, 1)],
)
def test_accelerators_are_fed_by_a_process_for_every_core(
    platform: str, hosts: str, workers: int, monkeypatch: pytest.MonkeyPatch
):
    """Those of a run's processes that are on one host share its cores."""

    class Client:
        def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
            return [(f"{folder}{number}", host) for number, host in enumerate(hosts)]

    monkeypatch.setattr(feeding.jax, "default_backend", lambda: platform)
    monkeypatch.setattr(feeding, "cores", lambda: 12)
    monkeypatch.setattr(distributed, "processes", lambda: len(hosts))
    monkeypatch.setattr(distributed, "_client", Client)
    monkeypatch.setattr(distributed.socket, "gethostname", lambda: "a")
    assert feeding.reading(InputConfig(prefetch_bytes=5)) == InputConfig(workers=workers, prefetch_bytes=5)
    assert str(workers) in feeding.readers(InputConfig()) or not workers
    for chosen in (0, 3):
        assert feeding.reading(InputConfig(workers=chosen)).workers == chosen


def kinds_of(source: Source) -> dict[str, LabelKind]:
    return {column.task: column.kind for column in source.columns}


@pytest.fixture(scope="module")
def boxes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A column whose rule has a threshold of 0.5."""
    folder = tmp_path_factory.mktemp("columns") / "teacher-detection"
    write_column(folder, "detection", open_images(IMAGES, data_dir))
    return str(folder)


def test_a_threshold_reaches_the_batches_and_the_fingerprint(data_dir: Path, boxes: str):
    def opened(**min_confidence: Any) -> Source:
        source = SourceConfig(images=IMAGES, labels=("truth", boxes), min_confidence=min_confidence)
        return open_source(source, str(data_dir), ["detection"])

    def found(source: Source) -> float:
        batch = next(eval_batches(source, kinds_of(source), input_hw=(64, 64), batch_size=64))
        return batch["labels"]["detection"]["valid"].sum()

    plain, same, strict = opened(), opened(detection=0.5), opened(detection=0.75)
    assert 0 < found(strict) < found(plain) == found(same)
    assert fingerprint_of([plain]) == fingerprint_of([same])
    changed = dict(fingerprint_of([strict]).items() ^ fingerprint_of([plain]).items())
    assert changed == {"train.0.labels.0.min_confidence": 0.75}
    by_class = opened(detection={"a": 0.75})
    assert found(strict) < found(by_class) < found(plain)
    changed = dict(fingerprint_of([by_class]).items() ^ fingerprint_of([plain]).items())
    assert changed == {"train.0.labels.0.min_confidence": "0.5, 0.75 for a"}
    taken = open_source(SourceConfig(images=IMAGES, labels=(boxes,), take=5), str(data_dir), ["detection"])
    assert fingerprint_of([taken])["train.0.sampled"] == taken.images.which()  # which ones they are
    assert "train.0.sampled" not in fingerprint_of([plain])


def test_batches_have_no_confidence(data_dir: Path, tmp_path: Path):
    write_column(tmp_path / "kept", "segmentation kept", open_images(IMAGES, data_dir))
    source = open_source(
        SourceConfig(images=IMAGES, labels=(str(tmp_path / "kept"),)), str(data_dir), ["segmentation kept"]
    )
    batch = next(eval_batches(source, kinds_of(source), input_hw=(64, 64), batch_size=64))
    labels = batch["labels"]["segmentation kept"]
    assert set(labels) == {"ids", "present"}
    assert {0, 1, 2, 255} == set(np.unique(labels["ids"][0]))  # by the threshold of the rule


def test_a_threshold_without_a_column_is_refused(data_dir: Path, boxes: str):
    for labels, task in ((("truth",), "detection"), ((boxes,), "depth")):
        source = SourceConfig(images=IMAGES, labels=labels, min_confidence={task: 0.7})
        with pytest.raises(UserError, match=rf"min_confidence\.{task} is set, but {IMAGES} is read without"):
            open_source(source, str(data_dir), ["detection"])
    source = SourceConfig(images=IMAGES, labels=(boxes,), min_confidence={"detektion": 0.7})
    with pytest.raises(UserError, match="did you mean 'detection'"):
        check_config(TrainConfig(train=(source,), tasks={"detection": {}}))


def test_a_damaged_shard_counts_once_although_its_column_is_read_twice(data_dir: Path, tmp_path: Path):
    write_column(tmp_path / "column", "depth", open_images(IMAGES, data_dir))
    config = SourceConfig(images=IMAGES, labels=(str(tmp_path / "column"),))
    trained_on, validated_on = (open_source(config, str(data_dir), ["depth"]) for _ in range(2))
    shard = next((tmp_path / "column").glob("*.array_record-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"^{shard} has other bytes .* \(damaged shards in all: 1\)$"):
        check_unchanged([*trained_on.columns, *validated_on.columns])
