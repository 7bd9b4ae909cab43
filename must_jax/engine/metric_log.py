"""Metrics of a run: `metrics.jsonl` for programs, TensorBoard event files for people (without TensorFlow)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pydantic
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from must_jax.files import write_text, writing
from must_jax.reading import read_json_lines

METRICS_FILE = "metrics.jsonl"
VALIDATION = "validation/"  # prefix of the names of what is measured on the validation images


class _Row(pydantic.RootModel[dict[str, int | float | None]]):
    @pydantic.model_validator(mode="after")
    def has_a_step(self) -> _Row:
        if not isinstance(step := self.root.get("step"), int) or step < 0:
            raise ValueError("a row says after how many updates")
        return self


class MetricWriter:
    """Appends to the metrics of a run that continues at update `start`.

    Drops what will be written again: rows after `start`, and, if it `validates` first, the validation at `start`.
    """

    def __init__(self, workdir: Path, start: int = 0, *, validates: bool = False) -> None:
        path = workdir / METRICS_FILE

        def is_kept(row: Mapping[str, Any]) -> bool:
            return row["step"] < start or (row["step"] == start and not (validates and _is_validation(row)))

        kept = [row for row in read_rows(workdir) if is_kept(row)]
        write_text(path, "".join(f"{json.dumps(row)}\n" for row in kept))
        self._rows = path.open("a", encoding="utf-8")
        self._events = EventFileWriter(str(workdir))
        again = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=start + 1, session_log=again))

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row: values after `step` updates. What is not finite becomes null in JSON."""
        row = {"step": step, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
        with writing(Path(self._rows.name)):
            self._rows.write(json.dumps(row) + "\n")
            self._rows.flush()
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a run so far. Any name other than "step" may be missing from a row."""
    return [row.root for row in read_json_lines(workdir / METRICS_FILE, _Row)]


def _is_validation(row: Mapping[str, Any]) -> bool:
    return any(name.startswith(VALIDATION) for name in row)
