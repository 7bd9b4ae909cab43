"""Replay: repeats one training update in this process, to find out which of its values are not finite. Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from must_jax import trained
from must_jax.config import ReplayConfig
from must_jax.data.batching import Batch
from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.fit import fit
from must_jax.engine.mesh import put_batch
from must_jax.engine.recorder import Recorder
from must_jax.engine.skipped import Skipped
from must_jax.engine.state import State
from must_jax.engine.step import RNG, image_forward, key_of, make_gradients
from must_jax.errors import UserError
from must_jax.inputs.named import mesh_of
from must_jax.progress import Progress, say
from must_jax.runs.workdir import check
from must_jax.training.building import Training, prepare

DEPTH = 2  # of the names by which parameters are grouped: "backbone/stage1_1"
SHOWN = 10  # images


def run(config: ReplayConfig, workdir: Path) -> None:
    """Resumes from the newest checkpoint before the update, in this process, and prints its findings.

    Raises:
      UserError: a workdir of another config, or without a checkpoint before the update.
    """
    check(workdir, config.of)
    if not 0 <= config.replay < config.of.steps:
        raise UserError(f"config.replay is {config.replay}, but the updates are 0 to {config.of.steps - 1}")
    of = config.of.model_copy(update={"fsdp": 1})
    mesh = mesh_of(of)
    training = prepare(of, mesh)
    state = training.state()
    start, folder = 0, workdir / trained.CHECKPOINTS
    if folder.is_dir():
        with Checkpoints(folder, training.fingerprint(), read_only=True) as checkpoints:
            start = max((step for step in checkpoints.steps() if step <= config.replay), default=0)
            if start:
                state, _ = checkpoints.restore(start, state)
    say(f"from {'the checkpoint of step ' + str(start) if start else 'the beginning'} to update {config.replay}")
    batches = training.batches(start)
    with Progress("replaying", config.replay, start=start, scale=of.batch_size) as progress:
        recorder = Recorder(skipped=Skipped(of.steps), progress=progress)
        state = fit(training.step, state, batches, training.schedule, range(start, config.replay), mesh, recorder)
    batch = next(batches)
    for part in described(training, state, config.replay, batch, put_batch(mesh, batch)):
        Console(highlight=False).print(part)


def described(training: Training, state: State, update: int, batch: Batch, placed: Any) -> Iterator[Any]:
    """What to print about update number `update`, of `state` with `batch`, which is on the devices as `placed`."""
    forward = image_forward(training.model)
    key = key_of(training.schedule(update))

    def examined(params: Any, stats: Any, batch: Any) -> Any:
        outputs, _ = forward({"params": params, "stats": stats}, {**batch, RNG: key}, True)
        gradients = make_gradients(
            forward, training.tasks, training.config.input_hw, training.weights, training.config.accumulate
        )
        grads, _, averages = gradients(params, stats, batch, key)
        return jax.tree.map(_finite_rows, outputs), grads, averages

    finite, grads, averages = jax.device_get(jax.jit(examined)(state["params"], state["stats"], placed))
    losses = Table("term", "mean", "weight", title="loss", title_justify="left")
    for name, average in averages.items():
        mean = average.total / average.count if average.count else float("nan")
        losses.add_row(name, f"{mean:.5g}" if average.count else "no label", f"{average.count:g}")
    yield losses
    norms = Table("parameters", "norm of the gradient", "not finite", title="gradient", title_justify="left")
    for name, leaves in _by_part(grads).items():
        bad = sum(int((~np.isfinite(leaf)).sum()) for leaf in leaves)
        norm = np.sqrt(sum(float(np.square(leaf.astype(np.float64)).sum()) for leaf in leaves))
        norms.add_row(name, f"{norm:.5g}", f"{bad:,} of {sum(leaf.size for leaf in leaves):,}" if bad else "")
    yield norms
    culprits = [
        f"{image}: {', '.join(found)}"
        for row, image in enumerate(training.examples(update))
        if (found := _not_finite(batch, finite, row))
    ]
    if not culprits:
        yield "all labels and outputs are finite"
    yield from culprits[:SHOWN]
    if len(culprits) > SHOWN:
        yield f"and {len(culprits) - SHOWN} more"


def _finite_rows(x: jax.Array) -> jax.Array:
    """bool[B]: whether all values of each example are finite."""
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def _by_part(grads: Any) -> Mapping[str, list[np.ndarray]]:
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        parts.setdefault("/".join(str(key.key) for key in path[:DEPTH]), []).append(leaf)
    return parts


def _not_finite(batch: Batch, outputs: Any, row: int) -> list[str]:
    """The labels and outputs of one example that are not finite."""
    labels = {
        f"label {jax.tree_util.keystr(path, simple=True, separator='/')}": np.isfinite(values[row]).all()
        for path, values in jax.tree_util.tree_leaves_with_path(batch["labels"])
    }
    made = {
        f"output {jax.tree_util.keystr(path, simple=True, separator='/')}": finite[row]
        for path, finite in jax.tree_util.tree_leaves_with_path(outputs)
    }
    return [name for name, finite in (labels | made).items() if not finite]
