"""The finished trainings of an evaluation, on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from must_jax.engine import distributed
from must_jax.files import write_text
from must_jax.reading import read_json_lines
from must_jax.runs import results
from must_jax.runs.results import RunRecord

RUNS_FILE = "runs.jsonl"


class Runs:
    """The finished training runs on disk: name -> measured values, one line each; every process has its own file."""

    def __init__(self, workdir: Path) -> None:
        number = distributed.position()
        self._path = workdir / (f"runs-{number}.jsonl" if number else RUNS_FILE)
        self._done: dict[str, RunRecord] = {}
        for path in {self._path, *workdir.glob(results.RUNS_FILES)}:
            done = read_json_lines(path, RunRecord)  # unreadable ones are measured again
            if path == self._path:
                write_text(path, "".join(map(_line, done)))
            self._done |= {each.run: each for each in done}

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def __getitem__(self, name: str) -> RunRecord:
        return self._done[name]

    def add(self, measured: Sequence[RunRecord]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, measured)))
            file.flush()
            os.fsync(file.fileno())
        self._done |= {each.run: each for each in measured}


def _line(run: RunRecord) -> str:
    return run.model_dump_json(exclude_unset=True) + "\n"
