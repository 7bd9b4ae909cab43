"""The real command in processes of its own, which tests watch, signal and kill."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PLATFORMS = os.environ.get("MUST_JAX_TEST_PLATFORMS", "")  # jax's, of the processes alone: "cuda,cpu"; "" = the CPU
DEVICES = 1 if PLATFORMS else 2
_COMPILE_LESS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# The environment of processes that compile for longer than they run; all that are compared with each other have it, or
# none of them. Of processes that work together, jax keeps the programs of the first one alone.
QUICK = {} if PLATFORMS else {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_COMPILE_LESS}".strip()}
STEPS, EVERY = 40, 4
STUDENT = {  # small enough to begin within seconds
    "stage": "train",
    "devices": DEVICES,
    "train": [{"images": "scenes/teacher_depth_tiny:train"}],
    "validation": [{"images": "scenes/teacher_depth_tiny:validation"}],
    "validate_every": 16,
    "best": "depth/delta1",
    "tasks": {"depth": {}},
    "image_size": 32,
    "model": {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1},
    "optimizer": {"learning_rate": 0.02, "warmup_steps": 2, "clip_norm": 1.0, "ema_decay": 0.5},
    "batch_size": 8,
    "steps": STEPS,
    "log_every": 1,
    "checkpoint_every": EVERY,
}
TIMES = {"images_per_second", "data_wait_share", "compile_seconds", "mfu"}  # not the same in any two runs
GIVE_UP_S = 600  # a process that does not get anywhere fails its test


class Process:
    """`python -m must_jax.main ARGUMENTS`, or another program, at the head of a process group.

    Args:
      log: where its output goes.
      environment: in addition to this process's.
      program: in place of `-m must_jax.main`.
    """

    def __init__(
        self,
        log: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "must_jax.main"),
    ) -> None:
        self.log = log
        paths = {"PYTHONPATH": os.pathsep.join(sys.path), "SOURCE_DATE_EPOCH": "1767225600"}
        if PLATFORMS:
            paths["JAX_PLATFORMS"] = PLATFORMS
        with log.open("w") as output:
            self._popen = subprocess.Popen(
                [sys.executable, *program, *arguments],
                env=os.environ | paths | (environment or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Returns as soon as it is so; fails when the process ends before."""

        def is_so() -> object:
            if condition():
                return True
            assert self._popen.poll() is None, f"it ended with {self._popen.returncode} before:\n{self.output}"
            return False

        wait_until(is_so)

    def wait_for_line(self, pattern: str) -> None:
        self.wait_for(lambda: re.search(pattern, self.output))

    def send(self, number: int = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def send_group(self, number: int = signal.SIGTERM) -> None:
        os.killpg(self.pid, number)

    def end(self) -> int:
        """Waits for its end; returns the exit code."""
        try:
            return self._popen.wait(GIVE_UP_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None

    def finish(self, code: int = 0) -> str:
        """Waits for its end with this exit code; returns its last line, if it has said anything."""
        assert self.end() == code, self.output
        assert "Traceback" not in self.output, self.output
        return (self.output.splitlines() or [""])[-1]

    def kill(self) -> None:
        """Whatever is left of the group."""
        try:
            self.send_group(signal.SIGKILL)
        except ProcessLookupError:
            return
        self._popen.wait()


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < until, "that takes too long"
        time.sleep(0.005)


def group(count: int) -> list[dict[str, str]]:
    """The environments of processes that work together on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [common | {"JAX_PROCESS_ID": str(number)} for number in range(count)]


def rows(workdir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; none if it is not there."""
    path = workdir / name
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def updates(workdir: Path) -> int:
    """How many updates have been logged."""
    return max((row["step"] for row in rows(workdir)), default=0)


def saved(workdir: Path) -> list[int]:
    """The steps of complete checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def saving(workdir: Path) -> int:
    """How many files and folders there are of a checkpoint that is being written."""
    unfinished = (workdir / "checkpoints").glob("*tmp*")
    return sum(1 + len(folders) + len(files) for path in unfinished for _, folders, files in os.walk(path))


def values(workdir: Path) -> list[dict[str, Any]]:
    """All that is logged of a run but times."""
    logged = ({name: value for name, value in row.items() if name not in TIMES} for row in rows(workdir))
    return [measured(row) if any(name.startswith("validation/") for name in row) else row for row in logged]


def measured(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without the last digits of their f64 sums, which several processes add up in another order."""
    return {name: float(f"{value:.12g}") for name, value in metrics.items()}
