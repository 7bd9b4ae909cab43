"""The whole method under a storm of kills, SIGTERMs and damaged files: what comes out is what a calm run makes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from command_line import CONFIGS, config
from processes import QUICK
from storm import KINDS, Damage, Process, Storm, Strike

from must_jax.data import scenes
from must_jax.files import _machine
from must_jax.main import read_config
from must_jax.runs.workdir import PREEMPTED_FILE, RESULT_FILE

SEED = 0
TASKS = ("classification", "depth")
STAGES = (*(f"teacher_{task}" for task in TASKS), "label", "student", "evaluate")
TRAININGS = (*STAGES[:2], "student")
MODEL = {"backbone": "resnet10", "width": 0.25, "pyramid_channels": 16, "head_channels": 16, "head_convs": 1}
RENDERED = ("teacher_classification", "unlabelled", "downstream_depth")
MOMENTS = {  # stage -> for each strike what appears or gets lines then; after how many at most, how much later at most
    "rendering": ([f"data/scenes/{name}_tiny/*1.0.0" for name in RENDERED], 1, 0.1),
    "training": ([f"run/{name}/metrics.jsonl" for name in TRAININGS], 5, 0.02),
    "saving": ([f"run/{name}/checkpoints/*" for name in TRAININGS], 1, 0.01),
    "labelling": (3 * ["run/label/columns/*/*.array_record*"], 6, 0.01),
    "evaluating": (3 * ["run/evaluate/runs.jsonl"], 2, 0.02),
}
TIMES = {"images_per_second", "data_wait_share", "compile_seconds"}  # of metrics
SHARD = "labels-train.array_record-*-of-?????"


def pipeline() -> list[str]:
    """The command: the smoke test's config, with two teachers and one downstream set."""
    stages = read_config(CONFIGS / "smoke.py")["stages"]
    stages = {name: stages[name] for name in STAGES}
    for name in TRAININGS:
        stages[name] |= {"steps": 30, "checkpoint_every": 4, "log_every": 1, "model": MODEL, "image_size": 32}
    stages["label"] |= {"teachers": [f"{{workdir}}/{name}" for name in STAGES[:2]], "batch_size": 1, "shard_images": 1}
    stages["label"]["accept_failed"] = TASKS
    columns = [f"{{workdir}}/label/columns/teacher_{task}-{task}" for task in TASKS]
    stages["student"] |= {
        "train": [{"images": "scenes/unlabelled_tiny:train", "labels": columns}],
        "tasks": {task: {} for task in TASKS},
        "accept_failed": TASKS,
    }
    frozen = stages["evaluate"]["transfers"][0]
    stages["evaluate"] |= {
        "inits": {"scratch": "", "teacher": "{workdir}/teacher_depth", "student": "{workdir}/student"},
        "downstream": {"depth": stages["evaluate"]["downstream"]["depth"]},
        "model": MODEL,
        "image_size": 32,
        "transfers": [frozen | {"inits": [], "learning_rates": [0.1, 0.2], "seeds": [0, 1, 2], "steps": 10}],
    }
    values = f"--config.stages={stages}"
    return ["-m", "must_jax.main", config("smoke"), values, "--config.devices=1", "--workdir=run"]


def environment(home: Path) -> dict[str, str]:
    """Programs are kept with the run, since those that a kill has torn would be found by other tests."""
    return {"SOURCE_DATE_EPOCH": "1767225600", "JAX_COMPILATION_CACHE_DIR": str(home / "programs"), **QUICK}


def strikes(rng: random.Random) -> list[Strike]:
    """At every stage one kill, and two others."""
    drawn = []
    for stage, (patterns, most, delay_s) in MOMENTS.items():
        kinds = ["kill", *rng.sample([kind for kind in KINDS if kind != "kill"], len(patterns) - 1)]
        for pattern, kind in zip(rng.sample(patterns, len(patterns)), kinds, strict=True):
            drawn.append(Strike(stage, pattern, kind, rng.randint(1, most), rng.uniform(0, delay_s)))
    return rng.sample(drawn, len(drawn))


def damages(home: Path) -> dict[str, Damage]:
    """What a crash or a bad disk leaves: by name, what does it if there is something to do it to."""
    run, rendered = home / "run", home / "data/scenes"

    def pick(rng: random.Random, paths: Iterable[Path]) -> Path | None:
        found = sorted(paths)
        return rng.choice(found) if found else None

    def unfinished(pattern: str) -> list[Path]:
        """Files of stages that are not through."""
        return [
            path
            for path in run.glob(f"*/{pattern}")
            if not (run / path.relative_to(run).parts[0] / RESULT_FILE).exists()
        ]

    def half_a_line_more(rng: random.Random, dead: int) -> bool:
        log = pick(rng, (path for path in unfinished("*.jsonl") if path.stat().st_size))
        if log:
            line = log.read_bytes().splitlines()[-1]
            with log.open("ab") as file:
                file.write(line[: rng.randrange(1, len(line))])
        return bool(log)

    def last_line_cut(rng: random.Random, dead: int) -> bool:
        logs = (*unfinished("runs.jsonl"), *unfinished("goodput.jsonl"))
        return cut(pick(rng, (path for path in logs if path.stat().st_size)), lambda size: size - rng.randint(1, 20))

    def temporary_file(rng: random.Random, dead: int) -> bool:
        patterns = ("*.json", "columns/*/manifest.json", f"columns/*/{SHARD}")
        of = pick(rng, (path for pattern in patterns for path in unfinished(pattern)))
        if of:
            of.with_name(f"{of.name}.tmp-{_machine()}-{dead}-0123abcd").write_bytes(of.read_bytes()[:100])
        return bool(of)

    def unfinished_checkpoint(rng: random.Random, dead: int) -> bool:
        whole = pick(rng, (path for path in unfinished("checkpoints/*") if path.name.isdigit()))
        if whole:
            half = whole.with_name(f"{int(whole.name) + 1}.orbax-checkpoint-tmp")
            shutil.copytree(whole, half, dirs_exist_ok=True)
            for file in half.rglob("*"):
                if file.is_file() and rng.random() < 0.5:
                    cut(file, lambda size: size // 2)
        return bool(whole)

    def half_a_shard(rng: random.Random, dead: int) -> bool:
        return cut(pick(rng, unfinished(f"columns/*/{SHARD}")), lambda size: size // 2)

    def torn_record(rng: random.Random, dead: int) -> bool:
        return cut(pick(rng, unfinished(f"columns/*/{SHARD}.json")), lambda size: rng.choice([0, size // 2]))

    def half_rendered(rng: random.Random, dead: int) -> bool:
        missing = (rendered / f"{name}_tiny" for name in RENDERED)
        folder = pick(rng, (folder for folder in missing if not (folder / "1.0.0").exists()))
        if folder:
            half = folder / "incomplete.ABCDEF_1.0.0"
            half.mkdir(parents=True, exist_ok=True)
            (half / "scenes-train.array_record-00000-of-00001").write_bytes(b"half")
        return bool(folder)

    def torn_marker(rng: random.Random, dead: int) -> bool:
        (run / PREEMPTED_FILE).write_bytes(rng.choice([b"", b"stopp", b"\xff\0"]))
        return True

    def torn_program(rng: random.Random, dead: int) -> bool:
        return cut(pick(rng, (home / "programs").glob("*-cache")), lambda size: rng.choice([0, size // 2]))

    return {
        "half a line more": half_a_line_more,
        "last line cut": last_line_cut,
        "temporary file": temporary_file,
        "unfinished checkpoint": unfinished_checkpoint,
        "half a shard": half_a_shard,
        "torn shard record": torn_record,
        "half-rendered images": half_rendered,
        "torn marker": torn_marker,
        "torn program": torn_program,
    }


def cut(path: Path | None, to: Callable[[int], int]) -> bool:
    """Shortens a file, if it is one."""
    if path is None:
        return False
    os.truncate(path, max(0, to(path.stat().st_size)))
    return True


def results(home: Path) -> dict[str, Any]:
    """What must not depend on the weather."""
    run = home / "run"
    columns = run / "label/columns"
    rows = {
        name: [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in (run / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in TRAININGS
    }
    return {
        "scorecard": json.loads((run / "evaluate/scorecard.json").read_text()),
        "columns": {str(path.relative_to(columns)): path.read_bytes() for path in columns.rglob("*") if path.is_file()},
        "digests": {name: json.loads((run / name / "model.json").read_text())["digest"] for name in TRAININGS},
        "metrics": rows,
    }


def test_in_a_storm_the_scorecard_is_that_of_a_calm_run(tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    process = Process(pipeline(), calm, environment(calm))
    assert process.end() == 0, process.said
    expected = results(calm)
    assert len({row["value"] for row in expected["scorecard"]}) > 3  # figures that a change would show in

    stormy.mkdir()
    shutil.copytree(calm / "programs", stormy / "programs")
    storm = Storm(strikes(random.Random(SEED)), damages(stormy), SEED)
    storm.rage(pipeline(), stormy, stormy / "run", environment(stormy))
    print(storm.table())

    assert results(stormy) == expected
    assert storm.struck.total() == storm.starts - 1 == 15
    assert {stage for stage, kind in storm.struck if kind == "kill"} == {*MOMENTS}
    assert all(storm.damaged.values()), storm.damaged
    assert not [path for path in stormy.rglob("*.orbax-checkpoint-tmp*")]
    assert not list((stormy / "data/scenes").glob("*/incomplete*"))


def test_processes_that_render_die_with_the_one_that_was_killed(tmp_path: Path) -> None:
    program = """
from must_jax.data.scenes import builder
chunks, builder._POOL_FROM = builder._rendered_chunks, 0
builder._rendered_chunks = lambda *of, **how: (print("rendered", flush=True) or chunk for chunk in chunks(*of, **how))
builder.prepare("teacher_normals", "data", {"train": 100_000})
"""
    process = Process(["-c", program], tmp_path, {})
    while process.is_running() and "rendered" not in process.said:
        time.sleep(0.01)
    assert len(process.group()) > 1
    process.popen.kill()
    assert process.end() == -signal.SIGKILL, process.said
    scenes.prepare("teacher_normals", tmp_path / "data", {"train": 3})  # the lock is free


def test_the_process_that_renders_ahead_dies_with_the_one_that_was_killed(tmp_path: Path) -> None:
    program = """
import time
from must_jax.data import scenes
with scenes.rendering_ahead(["unlabelled"], "data"):
    time.sleep(1000)
"""
    process = Process(["-c", program], tmp_path, {})
    while process.is_running() and not list(tmp_path.glob("data/scenes/unlabelled/incomplete*")):
        time.sleep(0.01)
    assert len(process.group()) > 1
    process.popen.kill()
    assert process.end() == -signal.SIGKILL, process.said
    scenes.prepare("unlabelled", tmp_path / "data", {"train": 3})  # the lock is free
