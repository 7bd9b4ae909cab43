"""Going on with a finished training: whether it is finished for a config, and what it means to make it longer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from must_jax.config import TrainConfig, ValidationConfig
from must_jax.description import Description
from must_jax.engine.optimizers import learning_rates
from must_jax.engine.validations import is_stopped
from must_jax.errors import UserError
from must_jax.runs import workdir as folders


def is_complete(config: TrainConfig, told: Description) -> bool:
    """Whether the run that is described so has done all that the config asks for."""
    best = told.training.best
    stopped = best is not None and bool(config.best) and is_stopped(best.since, config.patience)
    return told.settings.steps >= config.steps or stopped


def changed(config: TrainConfig, workdir: Path, told: Description | None) -> tuple[str, ...]:
    """The keys that the config changes to make a finished run longer: `steps`, or none.

    Args:
      told: describes the finished run; None = it is not finished.

    Raises:
      UserError: fewer updates than were planned; more than were planned, but these are not done yet.
    """
    before = folders.told_before(workdir, "steps")
    if not isinstance(before, int) or before == config.steps:
        return ()
    if told is None or before != planned(told):
        raise UserError(
            f"{workdir} is a run of {before:,} updates that is not finished, and config.steps is {config.steps:,}; "
            f"finish it with --config.steps={before}, then raise config.steps to go on, or choose another --workdir"
        )
    if config.steps < before:
        raise UserError(
            f"{workdir} was trained for {before:,} updates, which config.steps = {config.steps:,} cannot undo; "
            f"set it to {before:,} or more, or choose another --workdir"
        )
    return ("steps",)


def end(config: TrainConfig, told: Description, idle: bool) -> str:
    """The end of the line about a complete run. `idle`: it was complete before."""
    best = told.training.best
    if best is None or told.settings.steps >= config.steps:
        return "; finished, nothing to do" * idle
    return (
        f"; finished, since {best.since} validations in a row were no better in {best.metric}; to go on up to step "
        f"{config.steps:,}, raise config.patience, or set it to 0"
    )


def planned(told: Description) -> int:
    """The updates that the finished run was to have."""
    return told.training.planned_steps or told.settings.steps


def schedule(config: TrainConfig, told: Description) -> str:
    """What happens to the schedule of a finished run that goes on."""
    done, before = told.settings.steps, planned(told)
    if before == config.steps:
        return f"goes on after step {done:,}, where it had been stopped, up to {config.steps:,}"
    last, following = (
        float(learning_rates(config.optimizer, steps, np.asarray(update)))
        for steps, update in ((before, done - 1), (config.steps, done))
    )
    return (
        f"goes on after step {done:,} up to {config.steps:,}, with its optimizer and heads; the learning rate jumps "
        f"from {last:.3g} to {following:.3g} and then falls to 0 again, so the result is not that of "
        f"{config.steps:,} updates from the start"
    )


def asked(config: TrainConfig, workdir: Path) -> list[dict[str, Any]]:
    """The validation of a config, as `model.json` records it."""
    found: list[dict[str, Any]] = folders.portable(
        workdir, [source.model_dump(mode="json") for source in config.validation]
    )
    return found


def is_measured(config: TrainConfig, workdir: Path, told: Description) -> bool:
    """Whether the finished run was validated as the config says; it cannot be without any validation."""
    if told.validation is not None:
        before = list(told.validation)
    else:  # an earlier version, in which `validation` could not change after the start, and was one source
        value = folders.told_before(workdir, "validation")
        stored = [value] if isinstance(value, Mapping) else value or []
        before = [ValidationConfig.model_validate(source).model_dump(mode="json") for source in stored]
    now = asked(config, workdir)
    return not now or not folders.differs(workdir, before, now)
