"""Metrics on disk: `metrics.jsonl` for programs, TensorBoard event files for people. Needs no TensorFlow."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

METRICS_FILE = "metrics.jsonl"


class MetricWriter:
    """Appends to the metrics of a run that continues at update `start`; rows after it are dropped, they come again."""

    def __init__(self, workdir: Path, start: int = 0) -> None:
        path = workdir / METRICS_FILE
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= start]
        write_text(path, "".join(kept))
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
        """One row: values after `step` updates. What is not finite is null in JSON."""
        row = {"step": step, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def write_json(path: Path, value: Any) -> None:
    """Complete or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Complete or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _lines(path: Path) -> list[str]:
    """Complete lines; a kill can leave half a line at the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
