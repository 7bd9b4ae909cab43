"""What a training run starts from: a finished run (`config.init`), weights of others (`config.model.weights`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from must_jax import trained
from must_jax.config import ModelConfig, TrainConfig
from must_jax.errors import UserError
from must_jax.models.api import TRUNK, Variables, same_head, transfer
from must_jax.progress import say
from must_jax.tasks.base import Task
from must_jax.trained import Trained
from must_jax.weights import files
from must_jax.weights.files import Found

_NEEDED = {  # part of a network -> what must be the same in both models for it to be taken; heads may differ
    "backbone": ("backbone", "width", "mean", "std"),
    "fpn": ("width", "pyramid_channels"),
}


def needed(config: TrainConfig) -> tuple[str, ...]:
    """The keys of `config.model` that must be the same in both runs."""
    return tuple(dict.fromkeys(key for part in config.init_parts for key in _NEEDED.get(part, ())))


def opened(config: TrainConfig) -> tuple[ModelConfig, Trained | None, Found | None]:
    """The network, with the normalisation of what it starts from; that run; and those weights.

    Raises:
      UserError: they do not exist, are damaged, or of another network; both have a backbone.
    """
    run = trained.load(config.init, to_train=True) if config.init else None
    found = files.read(config.model.weights) if config.model.weights else None
    if run:
        check(config, run)
    if run and found and "backbone" in config.init_parts:
        raise UserError(
            f"both config.init={config.init} and config.model.weights={config.model.weights} have a backbone; remove "
            "one of them, or 'backbone' from config.init_parts"
        )
    if found:
        return config.model.normalised_as(found.mean, found.std), run, found
    if run and "backbone" in config.init_parts:
        return config.model.normalised_as(run.config.mean, run.config.std), run, None
    return config.model, run, None


def check(config: TrainConfig, run: Trained) -> None:
    """Raises UserError if the run's backbone or pyramid has another shape, with the keys to set."""
    if differ := config.model.differing(run.config, needed(config)):
        told = ", ".join(
            f"{key} is {there} there and {getattr(config.model, key)} here" for key, there in differ.items()
        )
        keys = " ".join(f"--config.model.{key}={there}" for key, there in differ.items())
        raise UserError(f"config.init={Path(config.init)} has another network: {told}; set {keys}")


def taken(config: TrainConfig, run: Trained, tasks: Mapping[str, Task], fresh: Variables) -> tuple[Variables, set[str]]:
    """The variables to start with, of the network of `fresh`. Says which parts come from `run`, and which are new.

    Returns:
      The variables; and the tasks whose heads come from `run`, which has trained them.

    Raises:
      UserError: as for `check`.
    """
    new = {name: why for name, task in tasks.items() if (why := _why_new(config, run, task, fresh))}
    heads = set() if "heads" not in config.init_parts else tasks.keys() - new.keys()
    try:
        variables = transfer(fresh, run.variables, config.init_parts, heads)
    except UserError as error:
        raise UserError(f"config.init={Path(config.init)}: {error}") from None
    parts = [part for part in TRUNK if part in config.init_parts]
    parts += [f"the head of {name}" for name in tasks if name in heads]
    fresh_parts = [part for part in TRUNK if part not in config.init_parts]
    fresh_parts += [f"the head of {name} ({new[name]})" for name in tasks if name in new]
    say(f"taken from {config.init}: {', '.join(parts) or 'nothing'}; new: {', '.join(fresh_parts) or 'nothing'}")
    return variables, heads - {*run.untrained}


def _why_new(config: TrainConfig, run: Trained, task: Task, fresh: Variables) -> str:
    """Why the head is not taken; "" if it is."""
    if "heads" not in config.init_parts:
        return "init_parts has no heads"
    if (there := run.tasks.get(task.name)) is None:
        return "not a task there"
    if there.kind != task.kind:
        return f"a task of kind {there.kind} there"
    if there.classes != task.classes:
        return "other classes there"
    if getattr(there.label, "unit", "") != getattr(task.label, "unit", ""):
        return "another unit there"
    return "" if same_head(fresh, run.variables, task.name) else "another shape there"
