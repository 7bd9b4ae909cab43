"""Inverse depth from a column to a student that is measured, labels and is audited on metres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from made_column import make_column
from made_teacher import SMALL

from must_jax import description
from must_jax.config import AuditConfig, LabelConfig
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import ScalarsLabel
from must_jax.labels import judging
from must_jax.labels.columns import LabelColumn
from must_jax.parsing import parse
from must_jax.stages import audit, label, train

SCENES, UNIT = "scenes/teacher_depth_tiny", "inverse_relative"


def test_a_student_of_inverse_depth_is_measured_on_metres(data_dir: Path, tmp_path: Path) -> None:
    images = open_images(f"{SCENES}:train", data_dir)
    kind, truth = ScalarsLabel("depth", UNIT), images.labels["depth"]

    def inverse(index: int) -> dict[str, Any]:
        """With a scale and a shift that no one knows, as a teacher of that kind gives it."""
        found = kind.converted(truth[index], "m")
        return found | {"depth": np.float32(3 + index) * found["depth"] + np.float32(index)}

    column = make_column(tmp_path / "columns/seer-depth", "depth", images, inverse, kind=kind.to_dict(), unit=UNIT)
    config = parse(
        {
            "stage": "train",
            "data_dir": str(data_dir),
            "train": [{"images": images.name, "labels": [str(column)]}],
            "validation": {"images": f"{SCENES}:validation"},
            "tasks": {"depth": {"depth_kind": UNIT}},
            "image_size": 64,
            "model": SMALL.model_dump(),
            "batch_size": 16,
            "steps": 40,
            "optimizer": {"name": "adamw", "learning_rate": 3e-3},
            "best": "depth/delta1",
        }
    )
    train.run(config, tmp_path / "student")
    told = description.read(tmp_path / "student")
    assert {"depth/delta1", "depth/abs_rel", "depth/chance"} == told.metrics.keys()
    assert told.metrics["depth/delta1"] > told.metrics["depth/chance"] + 5
    train.run(config, tmp_path / "student")  # finished, with the same data

    given = {"images": images.name, "data_dir": str(data_dir)}
    label.run(LabelConfig(teachers=[str(tmp_path / "student")], **given), tmp_path / "label")
    made = LabelColumn(tmp_path / "label/columns/student-depth")
    assert made.manifest.unit == UNIT and made.manifest.rule == {"depth_kind": UNIT}
    audit.run(AuditConfig(columns=[str(tmp_path / "label")], **given), tmp_path / "audit")
    audited = judging.read(made.folder, made.manifest)
    assert audited and audited.verdict == "passed"
