"""Is a teacher read rightly? Asks it about 100 labelled images, and compares its answers with what other declarations
would make of them: another order of box corners, other axes, another unit, other classes, images shown otherwise.

Data: the test images of `scenes/teacher_depth`, rendered on first use, with their true depth; the run in
runs/teacher_depth.
Expected: runs/check/check.html and check.json; a line for each task, with the line of the config to change if another
reading is better. Labelling refuses a teacher that failed (`checked` in configs/label.py).
Cost: 20 seconds on two cores.

A model of others, on your own images with or without true labels (docs/teachers.md):
  python -m must_jax.main --config=configs/check.py --workdir=runs/my_check --config.images=folder:PATH \
      --config.teachers.0='{"model": "yolo.onnx", "tasks": {"detection": {}}}'
Only the true labels, whether their axes and depth can be what they are said to be: --config.teachers=none
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "stage": "check",
            "data_dir": "data",
            "images": "scenes/teacher_depth:test",
            "labels": ("truth",),
            "take": 100,
            "teachers": ("runs/teacher_depth",),
        }
    )
