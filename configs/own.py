"""Your own data from start to finish: import, teachers, labels of a pile of photos, audit, student, scorecard, report.

Data: yours. Copy this file, change what stands at its top, and run the copy; docs/own_data.md leads through it. It
works for one to five tasks: there is a teacher for each task that any of your sets has labels for.
  TRIAL=1 python -m must_jax.main --config=configs/mine.py --workdir=runs/trial     a few updates of everything
  python -m must_jax.main --config=configs/mine.py                                  the real run
Expected: runs/mine/report/index.html. Mistakes in any stage are told before the first one begins. If you change
this file later, the same command repeats only what depends on the change.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from must_jax.errors import UserError, nearest

# Your labelled sets: a name -> the photos, and where the labels of which tasks are. All formats and options:
# docs/label_store.md, True labels. Remove what you do not have; a task may have labels in several sets. Photos in tar
# files: "images": "tar:FILES". Test photos of their own are a set with "parts": {"test": (0, 100)}; see PARTS.
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
IMAGE_SIZE = 64  # pixels, a multiple of 32; (height, width) if most photos are wide or tall
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
SEEDS = (0, 1, 2)  # of the scorecard

# Updates of all teachers, of the student, and of each training of the scorecard. If a teacher has hardly learnt its
# task, give it more in a line of its own, "teacher_depth": 3000, and run the same command: finished trainings go on.
STEPS = {"teachers": 1000, "student": 2000, "transfer": 100}

# Tasks that are to label, and be learnt by the student, although their teacher was refused as having hardly learnt.
ACCEPT_FAILED: tuple[str, ...] = ()

# Which part of a labelled set is for what, in percent: teachers learn from the first, and they and the student are
# validated on the second. The scorecard trains its heads, chooses a learning rate, and tests on the others, which no
# model sees before. Sets are shuffled once, when they are imported, so parts are samples. A set may have "parts" of its
# own, and then has only those: {"validation": (0, 100)} is a set to validate on, {"test": (0, 100)} one to test on.
PARTS = {"teachers": (0, 60), "validation": (60, 70), "transfer": (70, 80), "tuning": (80, 85), "test": (85, 100)}

_PURPOSES = ("teachers", "validation", "transfer", "tuning", "test")

TRIAL = os.environ.get("TRIAL") == "1"  # a few updates of everything: whether all of it runs, in minutes
if TRIAL:
    BATCH_SIZE, STEPS, SEEDS = 8, {**dict.fromkeys(STEPS, 4), "transfer": 2}, (0,)


def get_config() -> ConfigDict:
    return ConfigDict(pipeline(SETS, PILE))


def pipeline(sets: dict[str, dict[str, Any]], pile: str) -> dict[str, Any]:
    """The stages, in order; one that reads a set, run or label column of another comes after it."""
    tasks = list(dict.fromkeys(task for each in sets.values() for task in each.get("labels", ())))
    _check(sets, tasks)
    stages = {f"prepare_{name}": _prepare(name, each["images"], each["labels"], True) for name, each in sets.items()}
    if not pile.startswith("folder:"):
        stages["prepare_pile"] = _prepare("pile", pile)
        pile = "pile:train"
    for task in tasks:
        train = [{"images": images} for images in _parts(sets, "teachers", task).values()]
        steps = STEPS.get(f"teacher_{task}", STEPS["teachers"])
        stages[f"teacher_{task}"] = _train(train, _watched(sets, [task]), [task], steps, STEPS["teachers"])
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
        "evaluation": [*_parts(sets, "test").values()],
    }
    learnt = [{"images": pile, "take": take, "labels": ["{workdir}/label"]}]
    stages["student"] = _train(learnt, _watched(sets, tasks), tasks, STEPS["student"], STEPS["student"])
    stages["evaluate"] = _evaluate(sets, tasks)
    return {"stage": "pipeline", "title": "Own data", "data_dir": "data", "stages": stages}


def _check(sets: dict[str, dict[str, Any]], tasks: list[str]) -> None:
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
        for part, ends in each.get("parts", PARTS).items():
            if part not in _PURPOSES:
                raise UserError(
                    f"SETS: '{name}' has the part '{part}', which is for nothing; {nearest(part, _PURPOSES)}"
                )
            if not 0 <= ends[0] < ends[1] <= 100:
                raise UserError(f"SETS: part '{part}' of '{name}' is {ends}; write (FROM, TO) in percent, as (0, 60)")
    known = {"student", "teachers", "transfer", *(f"teacher_{task}" for task in tasks)}
    for name in STEPS:
        if name not in known:
            raise UserError(f"STEPS names '{name}', which is not trained here; {nearest(name, known)}")
    for task in tasks:
        for part in _PURPOSES:
            if not _parts(sets, part, task):
                raise UserError(
                    f"SETS: no set with labels of {task} has the part '{part}'; add it to the parts of one, or remove "
                    "the labels of this task"
                )


def _prepare(name: str, images: str, labels: dict[str, Any] | None = None, shuffle: bool = False) -> dict[str, Any]:
    return {"stage": "prepare", "name": name, "images": images, "labels": labels or {}, "shuffle": shuffle}


def _parts(sets: dict[str, dict[str, Any]], part: str, task: str = "") -> dict[str, str]:
    """The sets that have this part, and labels of the task if one is given -> the images of the part."""
    found = {}
    for name, each in sets.items():
        if (ends := each.get("parts", PARTS).get(part)) and (not task or task in each["labels"]):
            first, last = (f"{end}%" if end not in (0, 100) else "" for end in ends)
            found[name] = f"{name}:train[{first}:{last}]" if first or last else f"{name}:train"
    return found


def _watched(sets: dict[str, dict[str, Any]], tasks: list[str]) -> list[dict[str, Any]]:
    """A validation source for each set, with all of its tasks. Metrics of a task's second set have the set's name."""
    of_task = {task: _parts(sets, "validation", task) for task in tasks}
    watched = []
    for name in sets:
        if measured := [task for task in tasks if name in of_task[task]]:
            is_second = any(next(iter(of_task[task])) != name for task in measured)
            images = of_task[measured[0]][name]
            watched.append({"images": images, "tasks": measured, "name": name if is_second else ""})
    return watched


def _optimizer(steps: int) -> dict[str, Any]:
    return {"learning_rate": LEARNING_RATE, "warmup_steps": min(50, steps // 4), "clip_norm": 1.0}


def _train(train: list[Any], validation: list[Any], tasks: list[str], steps: int, usual: int) -> dict[str, Any]:
    """`usual`: the warmup suits so many steps, so that a training can be made longer, and goes on."""
    return {
        "stage": "train",
        "train": train,
        "validation": validation,
        "validate_every": max(1, steps // 5),
        "tasks": {task: {} for task in tasks},
        "image_size": IMAGE_SIZE,
        "augment": {"scale_min": 0.8, "scale_max": 1.25},
        "model": MODEL,
        "optimizer": _optimizer(min(steps, usual)),
        "batch_size": BATCH_SIZE,
        "steps": steps,
        "log_every": max(1, steps // 40),
        "accept_failed": [task for task in tasks if TRIAL or task in ACCEPT_FAILED],
    }


def _evaluate(sets: dict[str, dict[str, Any]], tasks: list[str]) -> dict[str, Any]:
    """Every task on every set to test on, from scratch, each teacher and the student, on images none of them has seen.

    Heads are trained on the set itself; for one that has no part for that, on the first one that has.
    """
    several = any(len(_parts(sets, "test", task)) > 1 for task in tasks)
    downstream = {}
    for task in tasks:
        for name, test in _parts(sets, "test", task).items():
            transfer, tuning = (_parts(sets, part, task) for part in ("transfer", "tuning"))
            downstream[f"{name}_{task}" if several else task] = {
                "task": task,
                "train": {"images": transfer.get(name) or next(iter(transfer.values()))},
                "validation": {"images": tuning.get(name) or next(iter(tuning.values()))},
                "test": {"images": test},
            }
    runs = [*(f"teacher_{task}" for task in tasks), "student"]
    transfer = {
        "mode": "frozen",
        "steps": STEPS["transfer"],
        "batch_size": BATCH_SIZE,
        "learning_rates": [0.2] if TRIAL else [0.2, 0.6],
        "seeds": SEEDS,
        "optimizer": _optimizer(STEPS["transfer"]),
    }
    return {
        "stage": "evaluate",
        "inits": {"scratch": "", **{name: f"{{workdir}}/{name}" for name in runs}},
        "downstream": downstream,
        "transfers": [transfer],
        "model": MODEL,
        "image_size": IMAGE_SIZE,
    }
