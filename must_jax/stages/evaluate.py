"""Evaluate: the scorecard. Every starting point on every downstream set, with the same steps and learning rates."""

from __future__ import annotations

import time
from pathlib import Path

from jax.sharding import Mesh

from must_jax.config import EvaluateConfig
from must_jax.engine import distributed
from must_jax.files import write_json
from must_jax.inputs import feeding, memory
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.named import mesh_of
from must_jax.inputs.sources import run_digest
from must_jax.models.api import build_model
from must_jax.progress import say
from must_jax.report import scorecard
from must_jax.reporting import overview
from must_jax.runs import results
from must_jax.runs.entries import Entry
from must_jax.runs.workdir import REPORT, RESULT_FILE, check, claim
from must_jax.scoring.cells import measure
from must_jax.scoring.opening import Point, Published, load_start, network_of, open_downstream


def run(config: EvaluateConfig, workdir: Path) -> None:
    """Writes `scorecard.json`, `scorecard.csv`, `result.json` and, last, `report/index.html` into the workdir.

    Finished training runs are in `runs.jsonl`, so an interrupted evaluation resumes with what is missing, and a
    finished one only repeats what starts from a retrained model.

    Raises:
      UserError: a starting point that is missing, unfinished or of another architecture, a downstream set that lacks
        images or labels of its task, a workdir of another config; all checked before any work.
    """
    check(workdir, config)
    if _is_finished(config, workdir):
        if distributed.is_first() and not (workdir / REPORT).exists():  # stopped just before
            mesh_of(config)
            _write_report(config, workdir)
        say(f"{workdir} is finished; nothing to do")
        return
    mesh = mesh_of(config)
    with distributed.linked():
        check_config(config)
        _evaluate(config, workdir, mesh)


def _evaluate(config: EvaluateConfig, workdir: Path, mesh: Mesh) -> None:
    starts = {name: load_start(name, folder, config.model, config.input_hw) for name, folder in config.inits.items()}
    asked, config = config, config.model_copy(update={"model": network_of(config.model, starts)})
    downstream = [open_downstream(name, values, config) for name, values in config.downstream.items()]
    if any(transfer.mode == "frozen" for transfer in config.transfers):
        trunk = build_model(config.model, {})
        for each in downstream:
            memory.check_features(
                f"config.downstream.{each.name}",
                trunk,
                each.input_hw,
                mesh.size * each.kept,
                config.feature_bytes,
                workdir,
            )
    if distributed.is_first():
        claim(workdir, asked)
    distributed.wait("claimed")

    if (readers := feeding.readers(config.input)) != feeding.THREADS:
        say(f"{workdir}: images read by {readers}, small sets by threads")
    began = time.monotonic()
    rows = measure(config, starts, downstream, mesh, workdir)
    if distributed.is_first():
        scorecard.write(rows, workdir)
        result = {
            "seconds": time.monotonic() - began,
            "starts": {name: _described(start, name in config.baselines) for name, start in starts.items()},
        }
        (workdir / REPORT).unlink(missing_ok=True)  # of an earlier scorecard
        write_json(workdir / RESULT_FILE, result)
        _write_report(config, workdir)
        for row in rows:
            if row.details and (remark := row.details.remark):
                say(f"look at {row.init}, {row.mode}, seed {row.seed}, on {row.dataset}: {remark}")
        say(f"{workdir}: {len(rows)} results in {workdir / scorecard.JSON_FILE}, see {workdir / REPORT}")
    distributed.wait("written")


def _write_report(config: EvaluateConfig, workdir: Path) -> None:
    name = workdir.resolve().name
    overview.write(name, [Entry(name, config, workdir)], workdir)


def _is_finished(config: EvaluateConfig, workdir: Path) -> bool:
    """Whether everything is measured, from the current starting points (those that still exist)."""
    if (told := results.read(workdir, results.EvaluateResult)) is None:
        return False
    now = {name: run_digest(folder) for name, folder in config.inits.items()}
    return all(
        digest is None or (name in told.starts and told.starts[name].digest == digest) for name, digest in now.items()
    )


def _described(start: Point, is_baseline: bool) -> dict[str, object]:
    if start is None:
        return {"tasks": [], "image_steps": 0, "digest": None}
    if isinstance(start, Published):  # runs are always compared with it: it is not random, and has no tasks of ours
        return {"tasks": [], "image_steps": 0, "digest": start.digest, "is_baseline": True}
    image_steps = start.settings["steps"] * start.settings["batch_size"]
    about = {"tasks": list(start.tasks), "image_steps": image_steps, "digest": start.digest}
    return {**about, "is_baseline": True} if is_baseline else about
