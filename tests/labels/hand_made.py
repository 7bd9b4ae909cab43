"""Hand-made labels of every kind; run as a script, it writes a column and may be killed meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, LabelKind, MapLabel, ScalarsLabel, VectorLabel
from must_jax.data.sample import drawn
from must_jax.labels.manifest import ImagesRecord, Manifest, TeacherRecord
from must_jax.labels.writer import ColumnWriter

KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(3),
    "detection": BoxesLabel(4),
    "segmentation": IdsLabel("ids"),
    "depth": ScalarsLabel("depth", "m"),
    "normals": DirectionsLabel("normals"),
    "segmentation kept": IdsLabel("ids", confidence=True),
}
CLASSES = dict.fromkeys(("classification", "detection", "segmentation", "segmentation kept"), ("a", "b", "c"))
TEACHER = TeacherRecord(
    name="teacher",
    digest="0" * 64,
    learning_rate=0.1,
    batch_size=32,
    steps=10,
    image_size=64,
    metrics={"top1": 70.0},
)


class Images:
    """What a column needs to know of an image set."""

    which = ImageSet.which

    def __init__(self, length: int = 10, digest: str = "d1", take: int = 0) -> None:
        self.name, self.digest, self._whole, self.numbers = "photos", digest, length, drawn(length, take)
        self.sampled = len(self) < length

    def taking(self, take: int) -> Images:
        return Images(self._whole, self.digest, take)

    def __len__(self) -> int:
        return len(self.numbers)


def describe(task: str, images: Images, shard_images: int = 4, **changes: object) -> Manifest:
    description = Manifest.describe(
        KINDS[task],
        task=task,
        classes=CLASSES.get(task, ()),
        rule={"threshold": 0.5},
        min_confidence=0.5 if task in ("detection", "segmentation", "segmentation kept") else 0.0,
        preprocessing="letterbox to 64x64",
        images=ImagesRecord.of(images),
        teacher=TEACHER,
        shard_images=shard_images,
        must_jax="0.1.0",
        created="2026-01-01T00:00:00+00:00",
    )
    return description.model_copy(update=changes)


def label_of(task: str, index: int, map_hw: tuple[int, int] = (8, 12)) -> dict[str, np.ndarray]:
    """A function of task and index."""
    kind, rng = KINDS[task], np.random.default_rng(index)
    present = {"present": np.float32(1)}
    match kind:
        case VectorLabel():
            return {"probs": rng.dirichlet(np.ones(kind.size)).astype(np.float32)} | present
        case BoxesLabel():
            low, high = rng.random((4, 2), np.float32) / 2, 0.5 + rng.random((4, 2), np.float32) / 2
            return {
                "boxes_yxyx": np.concatenate([low, high], 1),
                "classes": rng.integers(0, 3, 4).astype(np.int32),
                "scores": 0.5 + rng.random(4, np.float32) / 2,
                "valid": np.array([1, 0, 1, 0], np.float32) * (index % 2),
                "ignore": np.zeros(4, np.float32),
            } | present
        case MapLabel(content="ids"):
            if kind.confidence:
                confidence = rng.integers(0, 256, map_hw).astype(np.float32) / 255
                return {"ids": rng.integers(0, 3, map_hw).astype(np.int32), "confidence": confidence} | present
            return {"ids": rng.choice([0, 1, 255], map_hw).astype(np.int32)} | present
        case MapLabel(content="scalar"):
            valid = (rng.random(map_hw) > 0.2).astype(np.float32)
            return {"depth": 1 + 9 * rng.random(map_hw, np.float32), "valid": valid} | present
        case MapLabel(content="vector"):
            normals = rng.normal(size=(*map_hw, 3)).astype(np.float32)
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            return {"normals": normals, "valid": np.ones(map_hw, np.float32)} | present


def write_column(
    folder: Path, task: str, images: Images, *, shards: int | None = None, map_hw: tuple[int, int] = (8, 12)
) -> ColumnWriter:
    """Writes what is missing, every fifth image without a label; with `shards`, only that many and no end."""
    writer = ColumnWriter(folder, describe(task, images))
    for shard in writer.missing()[:shards]:
        with writer.shard(shard) as labels:
            for index in writer.manifest.shard_range(shard):
                if index % 5 == 4:
                    labels.skip(f"{index}.jpg", "cut off")
                else:
                    labels.add(f"{index}.jpg", label_of(task, index, map_hw))
    if shards is None:
        writer.finish()
    return writer


if __name__ == "__main__":
    print("ready", flush=True)
    write_column(Path(sys.argv[1]), "normals", Images(40), map_hw=(96, 96))
