"""Is a strong checkpoint improved by self-training? Teachers and student start from it, as in the paper's last part.

A checkpoint is trained for long on one upstream set of `scenes`: by its labels (START=supervised), or without them by
SimCLR (START=simclr). Five teachers start from it, each with a labelled set of another domain; they label a third set,
of which a student, which starts from it too, learns all tasks. The scorecard then compares scratch, the checkpoint
itself (`start`), the teachers and the student on six sets of a domain that none of them has seen.

  BACKBONE=resnet START=supervised python -m must_jax.main --config=configs/strong.py --workdir=runs/resnet_supervised
  BACKBONE=vit START=simclr TRIAL=1 python -m must_jax.main --config=configs/strong.py --workdir=runs/trial

BACKBONE: resnet or vit. START: supervised or simclr. SEED: of all trainings before the scorecard, 0 by default.
TRIAL=1: a few updates on a few dozen images, to see that everything runs; its figures mean nothing.
A run that is stopped goes on with the same command. docs/results.md has the question, the rules and the figures.
Data: rendered into `data/` on first use; nothing is downloaded.
"""

import json
import os
import re
from typing import Any

from ml_collections import ConfigDict

from configs import quickstart
from configs.quickstart import TASKS
from must_jax.errors import UserError, nearest

NETWORKS = {
    "resnet": quickstart.MODEL | {"backbone": "resnet18"},
    "vit": {key: value for key, value in quickstart.MODEL.items() if key != "width"}
    | {"backbone": "vit_tiny_patch16_224"},
}
OPTIMIZERS = {
    "resnet": {"name": "sgd", "weight_decay": 4e-5, "clip_norm": 1.0},
    "vit": {"name": "adamw", "weight_decay": 0.05, "clip_norm": 1.0},
}
# Learning rates: of the start, of what starts from it, of frozen transfer, of fine-tuning.
RATES: dict[str, tuple[float, float, tuple[float, ...], tuple[float, ...]]] = {
    "resnet": (0.1, 0.05, (0.2, 0.6), (0.06, 0.2)),
    "vit": (1e-3, 5e-4, (0.003, 0.01), (3e-4, 1e-3)),
}
# Images of an update, updates.
STARTS = {"supervised": (32, 8000), "simclr": (64, 6000)}
TEACHER, STUDENT = (16, 900), (16, 3200)


def get_config() -> ConfigDict:
    backbone, start = _chosen("BACKBONE", NETWORKS), _chosen("START", STARTS)
    stages = {"start": _start(backbone, start)}
    stages |= {f"teacher_{task}": _teacher(backbone, task) for task in TASKS}
    stages |= {"label": quickstart.label("{workdir}").to_dict(), "student": _student(backbone)}
    stages["evaluate"] = _evaluate(backbone)
    title = f"A strong checkpoint: {backbone}, {start}"
    config = {"stage": "pipeline", "title": title, "data_dir": "data", "stages": stages}
    return ConfigDict(_trial(config) if os.environ.get("TRIAL") == "1" else config)


def _chosen(variable: str, known: dict[str, Any]) -> str:
    """The value of an environment variable; by default the first that is known."""
    value = os.environ.get(variable) or next(iter(known))
    if value not in known:
        raise UserError(f"{variable}={value} is not known; {nearest(value, known)}")
    return value


def _start(backbone: str, start: str) -> dict[str, Any]:
    return {
        **_training(backbone, *STARTS[start], RATES[backbone][0]),
        "train": [{"images": "scenes/upstream:train"}],
        "validation": [{"images": "scenes/upstream:validation"}],
        "tasks": {"classification" if start == "supervised" else "simclr": {}},
    }


def _teacher(backbone: str, task: str) -> dict[str, Any]:
    return {
        **_training(backbone, *TEACHER, RATES[backbone][1]),
        "train": [{"images": f"scenes/teacher_{task}:train"}],
        "validation": [{"images": f"scenes/teacher_{task}:validation"}],
        "tasks": {task: {}},
        "init": "{workdir}/start",
    }


def _student(backbone: str) -> dict[str, Any]:
    return {
        **_training(backbone, *STUDENT, RATES[backbone][1]),
        "train": [{"images": "scenes/unlabelled:train", "labels": ["{workdir}/label"]}],
        "tasks": {task: {} for task in TASKS},
        "init": "{workdir}/start",
    }


def _training(backbone: str, batch_size: int, steps: int, learning_rate: float) -> dict[str, Any]:
    return {
        "stage": "train",
        "seed": int(os.environ.get("SEED") or 0),
        "image_size": quickstart.IMAGE_SIZE,
        "augment": quickstart.AUGMENT,
        "model": NETWORKS[backbone],
        "optimizer": OPTIMIZERS[backbone] | {"learning_rate": learning_rate, "warmup_steps": steps // 20},
        "batch_size": batch_size,
        "devices": 1,
        "steps": steps,
        "log_every": 50,
        "checkpoint_every": 500,
    }


def _evaluate(backbone: str) -> dict[str, Any]:
    _, _, frozen, finetune = RATES[backbone]
    common = {
        "steps": 100,
        "batch_size": 16,
        "seeds": [0, 1, 2],
        "optimizer": OPTIMIZERS[backbone] | {"warmup_steps": 10},
        "augment": quickstart.AUGMENT,
    }
    runs = {name: f"{{workdir}}/{name}" for name in ("start", *(f"teacher_{task}" for task in TASKS), "student")}
    return {
        **quickstart.evaluate("{workdir}").to_dict(),
        "inits": {"scratch": "", **runs},
        "baselines": ["start"],
        "transfers": [
            {"mode": "frozen", "learning_rates": frozen, **common},
            {"mode": "finetune", "learning_rates": finetune, **common},
        ],
        "model": NETWORKS[backbone],
    }


def _trial(config: dict[str, Any]) -> dict[str, Any]:
    config = json.loads(re.sub(r'"scenes/(\w+):', r'"scenes/\1_tiny:', json.dumps(config)))
    for stage in config["stages"].values():
        if stage["stage"] == "train":
            stage |= {"steps": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 2}
            stage["optimizer"]["warmup_steps"] = 1
    # Otherwise the gate would refuse what has not learnt.
    config["stages"]["label"] |= {"accept_failed": TASKS, "batch_size": 16, "shard_images": 16, "gallery_images": 4}
    config["stages"]["student"]["accept_failed"] = TASKS
    evaluate = config["stages"]["evaluate"]
    evaluate["downstream"] = {name: evaluate["downstream"][name] for name in ("classification", "materials")}
    for transfer in evaluate["transfers"]:
        transfer |= {"learning_rates": transfer["learning_rates"][:1], "seeds": [0], "steps": 2, "batch_size": 8}
        transfer |= {"inits": ["scratch", "start", "student"]}
        transfer["optimizer"]["warmup_steps"] = 1
    return config
