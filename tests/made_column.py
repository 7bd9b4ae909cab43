"""A column of whatever labels a test wants, over a real image set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hand_made import TEACHER, describe
from made_teacher import HEADLINES

from must_jax.data.image_sets import ImageSet
from must_jax.labels.writer import ColumnWriter


def make_column(
    folder: Path,
    task: str,
    images: ImageSet,
    label_of: Callable[[int], Mapping[str, Any]],
    metrics: Mapping[str, float] = HEADLINES,
    **changes: Any,
) -> Path:
    """`label_of` may leave `present` out, which is then 1; `changes` are of the manifest."""
    teacher = TEACHER.model_copy(update={"metrics": dict(metrics)})
    writer = ColumnWriter(folder, describe(task, images, 16, **{"rule": {}, "teacher": teacher, **changes}))
    for shard in writer.missing():
        with writer.shard(shard) as labels:
            for index in writer.manifest.shard_range(shard):
                labels.add(images.record(index)["name"], {"present": np.float32(1), **label_of(index)})
    writer.finish()
    return folder


def like_truth(images: ImageSet, task: str) -> dict[str, Any]:
    """What a column of that task has in common with the true labels of these images."""
    truth = images.labels[task]
    return {"kind": truth.kind.to_dict(), "classes": truth.classes}
