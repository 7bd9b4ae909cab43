"""The whole method at small scale: five teachers, their pseudo labels, a student, the six-task scorecard and a report.

Data: the built-in `scenes`, rendered into `data/` on first use; nothing is downloaded. Each teacher sees one
labelled set, the student sees a separate unlabelled set, and the scorecard uses held-out shapes, textures and cameras.
Expected: runs/quickstart/report/index.html, in which the student beats training from scratch on all six tasks and, with
frozen features, the mean of the single teachers on at least four. A teacher that has not learnt (`MINIMUM`, in percent)
stops the run.
Measured (docs/performance.md): 15 minutes on two cores; the student beats scratch on all six tasks, and the mean of the
teachers on six frozen and four fine-tuned; the other two are within noise.

The other configs are the individual stages of this one, with the same settings; they pass results through `runs/`.
"""

from typing import Any

from ml_collections import ConfigDict

TASKS = ("classification", "detection", "segmentation", "depth", "normals")
MINIMUM = {
    "classification": {"classification/top1": 60.0},
    "detection": {"detection/ap50": 40.0},
    "segmentation": {"segmentation/miou": 50.0},
    "depth": {"depth/delta1": 85.0},
    "normals": {"normals/within_11_25": 50.0},
}
DOWNSTREAM = {task: task for task in TASKS} | {"materials": "segmentation"}  # set -> its task

IMAGE_SIZE = 64
MODEL = {
    "backbone": "resnet10",
    "width": 0.5,
    "pyramid_channels": 32,
    "head_channels": 32,
    "head_convs": 2,
    "head_padding": "edge",
}
OPTIMIZER = {
    "name": "sgd",
    "learning_rate": 0.1,
    "warmup_steps": 50,
    "momentum": 0.9,
    "weight_decay": 4e-5,
    "clip_norm": 1.0,
    "ema_decay": 0.0,
}
AUGMENT = {"flip": True, "scale_min": 0.8, "scale_max": 1.25}


def get_config() -> ConfigDict:
    stages = {f"teacher_{task}": teacher(task) for task in TASKS}
    stages |= {"label": label("{workdir}"), "student": student("{workdir}"), "evaluate": evaluate("{workdir}")}
    return ConfigDict({"stage": "pipeline", "title": "must_jax quick start", "data_dir": "data", "stages": stages})


def teacher(task: str) -> ConfigDict:
    """One task, trained on ground truth."""
    return ConfigDict(
        {
            **_training(steps=900),
            "train": ({"images": f"scenes/teacher_{task}:train"},),
            "validation": ({"images": f"scenes/teacher_{task}:validation"},),
            "tasks": {task: {}},
            "minimum": MINIMUM[task],
        }
    )


def label(runs: str) -> ConfigDict:
    """All teachers under the folder `runs` label the unlabelled set."""
    return ConfigDict(
        {
            "stage": "label",
            "data_dir": "data",
            "images": "scenes/unlabelled:train",
            "teachers": tuple(f"{runs}/teacher_{task}" for task in TASKS),
            "batch_size": 64,
            "shard_images": 1024,
            "gallery_images": 32,
        }
    )


def student(runs: str) -> ConfigDict:
    """All tasks at once, trained on the label columns that `label` wrote under the folder `runs`."""
    columns = tuple(f"{runs}/label/columns/teacher_{task}-{task}" for task in TASKS)
    return ConfigDict(
        {
            **_training(steps=1600),
            "train": ({"images": "scenes/unlabelled:train", "labels": columns},),
            "tasks": {task: {} for task in TASKS},
        }
    )


def evaluate(runs: str) -> ConfigDict:
    """The six downstream sets from every starting point under the folder `runs`, and from scratch."""
    inits = {name: f"{runs}/{name}" for name in (*(f"teacher_{task}" for task in TASKS), "student")}
    return ConfigDict(
        {
            "stage": "evaluate",
            "data_dir": "data",
            "inits": {"scratch": "", **inits},
            "downstream": {name: _downstream(name, task) for name, task in DOWNSTREAM.items()},
            "transfers": (
                _transfer("frozen", steps=100, batch_size=16, learning_rates=(0.2, 0.6)),
                _transfer("finetune", steps=50, batch_size=16, learning_rates=(0.2,)),
            ),
            "model": MODEL,
            "image_size": IMAGE_SIZE,
        }
    )


def _training(steps: int) -> dict[str, Any]:
    return {
        "stage": "train",
        "seed": 0,
        "data_dir": "data",
        "image_size": IMAGE_SIZE,
        "augment": AUGMENT,
        "model": MODEL,
        "optimizer": OPTIMIZER,
        "batch_size": 16,
        "devices": 1,  # of so small a batch, several devices would each have too little
        "steps": steps,
        "log_every": 50,
        "checkpoint_every": 500,
        "init": "",
    }


def _downstream(name: str, task: str) -> dict[str, Any]:
    splits = {split: {"images": f"scenes/downstream_{name}:{split}"} for split in ("train", "validation", "test")}
    return {"task": task, **splits, "options": {}}


def _transfer(mode: str, steps: int, batch_size: int, learning_rates: tuple[float, ...]) -> dict[str, Any]:
    return {
        "mode": mode,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rates": learning_rates,
        "seeds": (0, 1, 2),
        "optimizer": {**OPTIMIZER, "warmup_steps": 10},
        "augment": AUGMENT,
    }
