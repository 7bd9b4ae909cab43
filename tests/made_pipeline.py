"""Pipelines of small stages, for tests that do not run them."""

from __future__ import annotations

from typing import Any

from must_jax.config import PipelineConfig

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
TRUTH = {"images": "scenes/teacher_depth_tiny:train"}
UNLABELLED = {"images": "scenes/unlabelled_tiny:train"}


def training(**values: Any) -> dict[str, Any]:
    return {"stage": "train", "train": [TRUTH], "tasks": {"depth": {}}, "model": MODEL, "steps": 2} | values


def named(**stages: dict[str, Any]) -> PipelineConfig:
    return PipelineConfig(title="mine", data_dir="somewhere", devices=2, stages=stages)


THREE = named(
    first=training(train=[{**UNLABELLED, "labels": ["{workdir}/third/columns/second-depth"]}]),
    second=training(init="{workdir}/first"),
    third={"stage": "label", "images": "scenes/unlabelled_tiny:train", "teachers": ["elsewhere/second"]},
)


DOWNSTREAM = {split: {"images": f"scenes/downstream_depth_tiny:{split}"} for split in ("train", "validation", "test")}
FROZEN = {"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1]}


def last(**values: Any) -> dict[str, Any]:
    """A scorecard with something wrong in it."""
    downstream = {"range": {"task": "depth", **DOWNSTREAM, **values.pop("set", {})}}
    given = {"inits": {"scratch": ""}, "downstream": downstream, "transfers": [FROZEN]}
    return {"stage": "evaluate", **given, **values}


HELD_OUT = {"images": "scenes/teacher_depth_tiny:validation"}


def label(**values: Any) -> dict[str, Any]:
    return {"stage": "label", **UNLABELLED, **values}


def audit(**values: Any) -> dict[str, Any]:
    return {"stage": "audit", "columns": ["{workdir}/third"], **UNLABELLED, **values}
