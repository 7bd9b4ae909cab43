"""Compile: the programs of another stage for TPUs that need not be present. Do they fit, and what is their top speed?

Nothing is run, so no data is read, and the inputs of the stage need not exist yet.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from must_jax.chips import Chip
from must_jax.compiling.ahead import Facts, OutOfMemory, Step, compile_ahead
from must_jax.compiling.programs import programs
from must_jax.compiling.topology import slice_devices
from must_jax.config import CompileConfig, EvaluateConfig, TrainConfig
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError, nearest
from must_jax.files import write_json, write_text
from must_jax.progress import Waiting, readable_bytes, say
from must_jax.runs.workdir import CONFIG_FILE, RESULT_FILE

FOLDER = "compile"  # in the workdir, which belongs to the run itself; with one folder per topology


def run(config: CompileConfig, workdir: Path) -> None:
    """Prints what the compiler reports for each program, and writes it to `compile/TOPOLOGY/result.json`.

    The compiled programs are stored beside it as text. Results of earlier calls are replaced, since sizes and options
    are tried in turn.

    Raises:
      UserError: no such chip or slice, no compiler for it, a batch that its chips cannot share evenly, a program that
        needs more memory than a chip has, and as `programs`.
    """
    target = config.compile
    chip, devices = slice_devices(target.topology)
    jax.config.update("jax_platforms", "cpu")  # nothing runs, so leave any accelerator here to others
    fsdp = config.of.fsdp if isinstance(config.of, TrainConfig) else 1
    mesh = make_mesh(len(devices), fsdp=fsdp, devices=devices)
    every = list(programs(config.of, mesh, target.classes))
    kinds = {step.name.split()[0] for step in every}
    for name in target.programs:
        if name not in kinds:
            raise UserError(
                f"config.compile.programs names '{name}', which this stage does not have; {nearest(name, kinds)}"
            )
    steps = [step for step in every if not target.programs or step.name.split()[0] in target.programs]

    folder = workdir / FOLDER / target.topology.replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    write_json(folder / CONFIG_FILE, config.model_dump(mode="json"))
    found = {}
    for number, step in enumerate(steps, start=1):
        with Waiting(f"[{number}/{len(steps)}] compiling '{step.name}' for {target.topology}"):
            try:
                facts, text = compile_ahead(step, chip, mesh.size)
            except OutOfMemory as error:
                raise UserError(_does_not_fit(config, step, mesh.size, str(error))) from None
        found[step.name] = facts
        write_text(folder / f"{step.name.replace(' ', '-')}.hlo.txt", text)
        _show(step.name, facts, chip, target.topology)
    result = {
        "topology": target.topology,
        "chips": mesh.size,
        "chip": dataclasses.asdict(chip),
        "programs": {name: _as_json(facts, chip) for name, facts in found.items()},
    }
    write_json(folder / RESULT_FILE, result)
    say(f"{folder / RESULT_FILE}: fits on {target.topology}: {', '.join(found)}")


def _does_not_fit(config: CompileConfig, step: Step, chips: int, why: str) -> str:
    of, each = config.of, step.images / chips
    where = "batch_size in config.transfers" if isinstance(of, EvaluateConfig) else "config.batch_size"
    knobs = [f"use fewer images per chip (now {each:g}: {where})"]
    if isinstance(of, TrainConfig) and step.name == "train":
        knobs += [
            "recompute activations (config.remat=heads,stage1,stage2)",
            "shard parameters and optimizer over chips (config.fsdp)",
        ]
    return (
        f"'{step.name}' does not fit on {config.compile.topology} ({why.rstrip('.')}); try in this order: "
        + ", ".join(knobs)
    )


def _as_json(facts: Facts, chip: Chip) -> dict[str, Any]:
    values = dataclasses.asdict(facts) | {
        "memory_bytes": facts.memory_bytes,
        "collectives": {kind: each._asdict() for kind, each in facts.collectives.items()},
        "bound_seconds": facts.seconds(chip),
        "collective_seconds": facts.collective_seconds(chip),
        "images_per_second_and_chip": facts.images_per_second(chip),
    }
    return values


def _show(name: str, facts: Facts, chip: Chip, topology: str) -> None:
    memory = Table("memory per chip", box=None, header_style="bold")
    memory.add_column("", justify="right")
    for kind, size in facts.memory.items():
        memory.add_row(kind, readable_bytes(size))
    memory.add_row("total", f"{readable_bytes(facts.memory_bytes)} of {readable_bytes(chip.memory_bytes)}: fits")

    by_operations, by_traffic = facts.flops / chip.peak_flops, facts.memory_traffic / chip.memory_bandwidth
    work = Table("work per chip and step", box=None, header_style="bold")
    for column in ("", "at best"):
        work.add_column(column, justify="right")
    work.add_row("floating-point operations", f"{facts.flops / 1e9:,.1f} GFLOP", _milliseconds(by_operations))
    work.add_row("memory read and written", readable_bytes(facts.memory_traffic), _milliseconds(by_traffic))
    for kind, each in facts.collectives.items():
        work.add_row(f"{kind}, {each.times} times", readable_bytes(each.bytes))
    if facts.collectives:
        work.add_row("total over the links", "", _milliseconds(facts.collective_seconds(chip)))

    limit = "operations" if by_operations >= by_traffic else "memory"
    console = Console(width=max(100, Console().width), highlight=False)
    console.print(
        f"[bold]{name}[/bold] on {topology}: {facts.images:g} images per chip, compiled "
        f"in {facts.compile_seconds:.0f} s",
        memory,
        work,
        f"a step takes at least {_milliseconds(facts.seconds(chip))} (by its {limit}): "
        f"at most {facts.images_per_second(chip):,.0f} images/s per chip",
        "",
        sep="\n",
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms"
