"""Your own data from start to finish: import, teachers, labels of a pile of photos, audit, student, scorecard, report.

Data: yours. Copy this file, change what stands at its top, and run the copy; docs/own_data.md leads through it. It
works for one to five tasks: there is a teacher for each task that any of your sets has labels for.
  TRIAL=1 python -m must_jax.main --config=configs/mine.py --workdir=runs/trial     a few updates of everything
  python -m must_jax.main --config=configs/mine.py                                  the real run
Expected: runs/mine/report/index.html. Every mistake in any stage is told before the first one begins. If you change
this file later, the same command repeats only what depends on the change.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from must_jax.errors import UserError

# Your labelled sets: a name -> the photos, and where the labels of which tasks are. All formats and options:
# docs/label_store.md, True labels. Remove what you do not have; a task may have labels in several sets. Photos in tar
# files: "images": "tar:FILES".
SETS: dict[str, dict[str, Any]] = {
    "rooms": {
        "images": "folder:my_data/rooms",
        "labels": {
            "detection": {"format": "coco", "path": "my_data/instances.json"},
            "segmentation": {
                "format": "id_png",
                "path": "my_data/masks",
                "options": {"classes": ["wall", "floor", "furniture"], "ignore": [255]},
            },
            "depth": {"format": "depth_png", "path": "my_data/depth_mm", "options": {"unit": "mm"}},
            "normals": {"format": "normal_png", "path": "my_data/normals", "options": {"axes": "x,-y,-z"}},
        },
    },
    "places": {"images": "folder:my_data/places", "labels": {"classification": {"format": "class_folders"}}},
}

# The photos without labels that the student learns from: folder:PATH, or tar:FILES or parquet:FILES, to be imported.
PILE = "folder:my_data/pile"

# Size and length. These suit two CPU cores; for GPUs and TPUs see configs/student.py, "At the scale of the paper".
IMAGE_SIZE = 64  # pixels, a multiple of 32
MODEL = {
    "backbone": "resnet10",
    "width": 0.5,
    "pyramid_channels": 64,
    "head_channels": 32,
    "head_convs": 2,
    "head_padding": "edge",
}
BATCH_SIZE = 32
LEARNING_RATE = 0.1  # for BATCH_SIZE; change both by the same factor
TEACHER_STEPS, STUDENT_STEPS, TRANSFER_STEPS = 1000, 2000, 100
SEEDS = (0, 1, 2)  # of the scorecard

# Tasks that are to label, and be learnt by the student, although their teacher was refused as having hardly learnt.
ACCEPT_FAILED: tuple[str, ...] = ()

# Which part of each labelled set is for what. Sets are shuffled once, when they are imported, so parts are samples.
TEACHERS, VALIDATION = "train[:60%]", "train[60%:70%]"
HELD_OUT = {"train": "train[70%:80%]", "validation": "train[80%:85%]", "test": "train[85%:]"}

TRIAL = os.environ.get("TRIAL") == "1"  # a few updates of everything: whether all of it runs, in minutes
if TRIAL:
    BATCH_SIZE, TEACHER_STEPS, STUDENT_STEPS, TRANSFER_STEPS, SEEDS = 8, 4, 4, 2, (0,)


def get_config() -> ConfigDict:
    return ConfigDict(pipeline(SETS, PILE))


def pipeline(sets: dict[str, dict[str, Any]], pile: str) -> dict[str, Any]:
    """The stages, in order; one that reads a set, run or label column of another comes after it."""
    _check(sets)
    tasks = list(dict.fromkeys(task for each in sets.values() for task in each["labels"]))
    stages = {f"prepare_{name}": _prepare(name, **each, shuffle=True) for name, each in sets.items()}
    if not pile.startswith("folder:"):
        stages["prepare_pile"] = _prepare("pile", pile)
        pile = "pile:train"
    trained = {task: [name for name, each in sets.items() if task in each["labels"]] for task in tasks}
    for task, names in trained.items():
        train = [{"images": f"{name}:{TEACHERS}"} for name in names]
        stages[f"teacher_{task}"] = _train(train, _watched(names, {task: names}), [task], TEACHER_STEPS)
    take = 64 if TRIAL else 0
    stages["label"] = {
        "stage": "label",
        "images": pile,
        "take": take,
        "teachers": [f"{{workdir}}/teacher_{task}" for task in tasks],
        "accept_failed": tasks if TRIAL else ACCEPT_FAILED,
    }
    stages["audit"] = {
        "stage": "audit",
        "images": pile,
        "take": take,
        "columns": ["{workdir}/label"],
        "evaluation": [f"{name}:{HELD_OUT['test']}" for name in sets],
    }
    stages["student"] = _train(
        [{"images": pile, "take": take, "labels": ["{workdir}/label"]}],
        _watched([*sets], trained),
        tasks,
        STUDENT_STEPS,
    )
    stages["evaluate"] = _evaluate(trained)
    return {"stage": "pipeline", "title": "Own data", "data_dir": "data", "stages": stages}


def _check(sets: dict[str, dict[str, Any]]) -> None:
    if not sets:
        raise UserError("SETS is empty; name photos that have labels of at least one task")
    if "pile" in sets:
        raise UserError("SETS: 'pile' is the name of the photos without labels; give the set another name")
    for name, each in sets.items():
        if not each.get("labels"):
            raise UserError(
                f"SETS: '{name}' has no labels; add them, or remove it (photos without labels are the PILE)"
            )
        if each["images"].startswith("parquet:"):
            raise UserError(
                f"SETS: '{name}' is in Parquet files, which cannot be shuffled, so their parts would not be samples; "
                "write its photos to a folder or tar files (only the PILE can be Parquet)"
            )


def _prepare(name: str, images: str, labels: dict[str, Any] | None = None, shuffle: bool = False) -> dict[str, Any]:
    return {"stage": "prepare", "name": name, "images": images, "labels": labels or {}, "shuffle": shuffle}


def _watched(sets: list[str], trained: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A validation source for each set, with all of its tasks. Metrics of a task's second set have the set's name."""
    watched = []
    for name in sets:
        tasks = [task for task, names in trained.items() if name in names]
        is_second = any(trained[task][0] != name for task in tasks)
        watched.append({"images": f"{name}:{VALIDATION}", "tasks": tasks, "name": name if is_second else ""})
    return watched


def _optimizer(steps: int) -> dict[str, Any]:
    return {"learning_rate": LEARNING_RATE, "warmup_steps": min(50, steps // 4), "clip_norm": 1.0}


def _train(train: list[Any], validation: list[Any], tasks: list[str], steps: int) -> dict[str, Any]:
    return {
        "stage": "train",
        "train": train,
        "validation": validation,
        "validate_every": max(1, steps // 5),
        "tasks": {task: {} for task in tasks},
        "image_size": IMAGE_SIZE,
        "augment": {"scale_min": 0.8, "scale_max": 1.25},
        "model": MODEL,
        "optimizer": _optimizer(steps),
        "batch_size": BATCH_SIZE,
        "steps": steps,
        "log_every": max(1, steps // 40),
        "accept_failed": [task for task in tasks if TRIAL or task in ACCEPT_FAILED],
    }


def _evaluate(trained: dict[str, list[str]]) -> dict[str, Any]:
    """Every task of every set, from scratch, each teacher and the student, on images that none of them has seen."""
    several = max(map(len, trained.values())) > 1
    downstream = {
        f"{name}_{task}" if several else task: {
            "task": task,
            **{split: {"images": f"{name}:{part}"} for split, part in HELD_OUT.items()},
        }
        for task, names in trained.items()
        for name in names
    }
    runs = [*(f"teacher_{task}" for task in trained), "student"]
    transfer = {
        "mode": "frozen",
        "steps": TRANSFER_STEPS,
        "batch_size": BATCH_SIZE,
        "learning_rates": [0.2] if TRIAL else [0.2, 0.6],
        "seeds": SEEDS,
        "optimizer": _optimizer(TRANSFER_STEPS),
    }
    return {
        "stage": "evaluate",
        "inits": {"scratch": "", **{name: f"{{workdir}}/{name}" for name in runs}},
        "downstream": downstream,
        "transfers": [transfer],
        "model": MODEL,
        "image_size": IMAGE_SIZE,
    }
