"""Models of others as teachers: they label a folder of photographs in one pass, and a student learns all of it.

Data: photographs and models of yours. Copy this file, change what stands at its top, and run the copy;
docs/teachers.md leads through it, with those that docs/made_models.py makes.
  TRIAL=1 python -m must_jax.main --config=configs/mine.py --workdir=runs/trial     a few updates
  python -m must_jax.main --config=configs/mine.py                                  the real run
Expected: runs/mine/report/index.html; runs/mine/label/gallery.html shows the labels. If you change this file later,
the same command repeats only what depends on the change.
"""

import os

from ml_collections import ConfigDict

# The photographs: folder:PATH, or the name of a prepared set (configs/prepare.py).
PHOTOS = "folder:photos"

# What labels them: finished runs of must_jax ("runs/NAME"), or models of others with what has to be said about them:
# docs/teachers.md has a table of models, docs/config.md (teachers.0) has all keys.
TEACHERS = [
    {"model": "models/toys.onnx", "tasks": {"detection": {}}},
    {"model": "transformers:models/depth", "tasks": {"depth": {"depth_kind": "inverse_relative"}}},
    {
        "model": "python:my_teachers:regions",
        "licence": "mine",
        "tasks": {"colours": {"kind": "segmentation", "classes": ["dark", "grey", "warm", "cold"]}},
    },
]

# What the student learns: tasks of these teachers, by the names that they have above, with their kind and options.
TASKS = {"detection": {}, "depth": {"depth_kind": "inverse_relative"}, "colours": {"kind": "segmentation"}}

# Options of pseudo labels, such as thresholds: task -> option -> value; docs/config.md (tasks) has all.
RULES = {"detection": {"score_threshold": 0.5, "score_thresholds": {"dark thing": 0.7}}}

# Size and length. These suit two CPU cores; for GPUs and TPUs see configs/student.py, "At the scale of the paper".
IMAGE_SIZE = 64  # pixels, a multiple of 32; (height, width) if most photos are wide or tall
MODEL = {
    "backbone": "resnet10",
    "width": 0.5,
    "pyramid_channels": 64,
    "head_channels": 32,
    "head_convs": 2,
    "head_padding": "edge",
}
OPTIMIZER = {"learning_rate": 0.1, "clip_norm": 1.0}
BATCH_SIZE = 32
STEPS = 400

if os.environ.get("TRIAL") == "1":
    BATCH_SIZE, STEPS = 8, 4


def get_config() -> ConfigDict:
    label = {"stage": "label", "images": PHOTOS, "teachers": TEACHERS, "tasks": RULES}
    audit = {"stage": "audit", "images": PHOTOS, "columns": ["{workdir}/label"]}
    student = {
        "stage": "train",
        "train": [{"images": PHOTOS, "labels": ["{workdir}/label"]}],
        "tasks": TASKS,
        "image_size": IMAGE_SIZE,
        "augment": {"scale_min": 0.8, "scale_max": 1.25},
        "model": MODEL,
        "optimizer": {"warmup_steps": min(50, STEPS // 4), **OPTIMIZER},
        "batch_size": BATCH_SIZE,
        "steps": STEPS,
        "log_every": max(1, STEPS // 40),
    }
    stages = {"label": label, "audit": audit, "student": student}
    return ConfigDict({"stage": "pipeline", "title": "Teachers of others", "data_dir": "data", "stages": stages})
