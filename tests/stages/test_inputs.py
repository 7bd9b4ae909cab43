"""What the stages read, where other tests do not look."""

from __future__ import annotations

from pathlib import Path

from must_jax.config import SourceConfig
from must_jax.data.pipeline import eval_batches
from must_jax.stages import inputs


def test_an_evaluation_sees_all_boxes(data_dir: Path):
    source = inputs.open_source(SourceConfig(images="scenes/teacher_detection_tiny:test"), str(data_dir), ["detection"])
    task = inputs.build_tasks({"detection": {}}, [source], max_boxes=1)["detection"]
    kinds = inputs.true_kinds(source)
    batch = next(eval_batches(source, kinds, image_size=64, batch_size=16))
    assert task.label.max_boxes == 1
    assert batch["labels"]["detection"]["valid"].sum() > batch["mask"].sum()
