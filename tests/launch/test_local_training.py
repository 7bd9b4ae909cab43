"""`local.sh` with a real training: the only difference that a kill makes is the time that it takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launchers import LAUNCH, ROOT, wait_for
from processes import QUICK

TINY = (
    f"--config={ROOT}/configs/teacher_classification.py",
    "--config.train.0.images=scenes/teacher_classification_tiny:train",
    "--config.validation=None",
    *("--config.steps=6", "--config.batch_size=8", "--config.optimizer.warmup_steps=1", "--config.minimum={}"),
    *("--config.model.backbone=resnet10", "--config.model.width=0.125"),
    *("--config.model.pyramid_channels=8", "--config.model.head_channels=8", "--config.model.head_convs=1"),
    *("--config.checkpoint_every=1", "--config.log_every=1"),
)


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "must_jax.main", f"--workdir={folder / name}", f"--config.data_dir={folder}/data")
    flags = ("--processes=2", "--grace=20", f"--logs={folder}/{name}-logs")
    return subprocess.Popen(
        [LAUNCH / "local.sh", *flags, "--", *command, *TINY],
        cwd=ROOT,
        env={**os.environ, **QUICK, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def pythons(argument: str) -> Iterator[int]:
    """The Python processes that were started with this argument; not the shells around them."""
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if argument in line and "python" in Path(line[0]).name:
            yield int(folder.name)


def test_a_killed_training_ends_with_the_losses_of_an_undisturbed_one(tmp_path: Path):
    calm = start(tmp_path, "calm")
    err = calm.communicate()[1]
    assert calm.returncode == 0, err
    assert "start again" not in err

    killed = start(tmp_path, "killed")
    wait_for(lambda: (tmp_path / "killed" / "checkpoints" / "2").exists(), "a checkpoint")
    os.kill(min(pythons(f"--workdir={tmp_path / 'killed'}")), signal.SIGKILL)
    err = killed.communicate()[1]
    assert killed.returncode == 0, err
    assert "ended with 137" in err
    assert len(losses(tmp_path / "calm")) == 6
    assert losses(tmp_path / "killed") == losses(tmp_path / "calm")
