"""The README of an export: what it is, how to load it, how much it differs, and under which licences."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from must_jax.data.augment import PADDING_RGB
from must_jax.errors import UserError
from must_jax.exporting import stablehlo
from must_jax.exporting.base import BACKBONE, LIBRARIES, MODEL, Network, Written
from must_jax.exporting.record import FileRecord
from must_jax.progress import counted
from must_jax.tasks.base import Task

README = "README.md"
_TOLD = 12  # classes of a task that are named
_FIELDS = {
    "probs": "f32[B, classes], or f32[B, H / 4, W / 4, classes]: probabilities, that of a map in each cell",
    "boxes_yxyx": "f32[B, n, 4]: top, left, bottom, right in fractions of the input, best first",
    "classes, scores, valid": "[B, n] of these boxes; valid = 0: there is no such box",
    "depth": "f32[B, H / 4, W / 4], in the unit above",
    "normals": "f32[B, H / 4, W / 4, 3]: unit vectors, x right, y down, z forward",
}
_BEFORE = "what the heads say, before softmax, boxes and non-maximum suppression"


def run_example(folder: Path, lines: str, name: str) -> str:
    """What the lines print, run in the folder by a Python that cannot load this package.

    Raises:
      UserError: they fail.
    """
    alone = f"import sys; sys.modules['must_jax'] = None  # it cannot be imported\n{lines}"
    done = subprocess.run([sys.executable, "-c", alone], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name} was written, but cannot be loaded by its example: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def card(network: Network, written: Written) -> str:
    """The README of a library's folder, with what hubs read of it."""
    return f"""---
library_name: {written.name}
license: {json.dumps(network.licence.lower())}
tags: [image-feature-extraction]
---
The backbone ({network.trained.config.backbone}) of a model that was trained with must_jax.

```python
{written.example}
```
"""


def text(network: Network, files: Mapping[str, FileRecord], today: datetime.date) -> str:
    """The README as Markdown."""
    return "\n".join(_lines(network, files, today)) + "\n"


def _lines(network: Network, files: Mapping[str, FileRecord], today: datetime.date) -> Iterator[str]:
    trained, (height, width) = network.trained, network.input_hw
    name = Path(trained.workdir).resolve().name
    yield f"# {name}: {trained.config.backbone} with {counted(len(trained.tasks), 'task')}"
    yield ""
    heads = f" and heads for {', '.join(trained.tasks)}" if trained.tasks else ""
    yield f"A backbone{heads}; trained with must_jax on images of {height} x {width} pixels, and exported on {today}."
    yield ""
    if trained.tasks:
        yield "## Tasks"
        yield ""
        yield from _table(("task", "kind", "what it says", "metrics of the run on its validation"), _tasks(network))
        yield ""
    for name, task in trained.tasks.items():
        if task.classes:
            more = f", and {len(task.classes) - _TOLD} more (`model.json`)" if len(task.classes) > _TOLD else ""
            yield f"Classes of {name}, from 0: {', '.join(task.classes[:_TOLD])}{more}."
            yield ""
    if fields := _fields(files):
        yield "What whole models return, each as TASK/FIELD with the images along the first axis:"
        yield ""
        yield from _table(("field", "meaning"), fields)
        yield ""
    yield "## Images"
    yield ""
    mean, std = network.normalisation.values()
    yield (
        f"The run saw RGB images fitted into {height} x {width} pixels, aspect kept, in the top left corner; the rest "
        f"is {PADDING_RGB}. Normalisation, of channels from 0 to 1: mean {mean}, std {std}."
    )
    if any(name in LIBRARIES for name in files):
        yield "The libraries' own preprocessing squeezes a photo into this size instead."
    if network.seen_hw != network.input_hw:
        rows, columns = network.seen_hw
        yield f"The backbone sees them resized to {rows} x {columns}."
    yield ""
    yield "## Files"
    for name, file in files.items():
        yield ""
        yield f"### {name}"
        yield ""
        yield from _about(name, file, today)
        yield ""
        yield f"```python\n{file.example}\n```"
        yield ""
        yield f"prints `{file.printed}`"
        yield ""
        yield from _differences(file)
    yield ""
    yield "## Licences"
    yield ""
    if not trained.licences:
        yield "The run recorded no licences of teachers, labels or weights."
        return
    yield "Of the teachers, labels and weights that the run was trained on:"
    yield ""
    yield from _table(
        ("of", "licence"), [(name, licence or "not known") for name, licence in sorted(trained.licences.items())]
    )


def _fields(files: Mapping[str, FileRecord]) -> list[tuple[str, str]]:
    """What there is to know of the outputs of whole models; those of no name in `_FIELDS` come last."""
    models = (file.parity.outputs for file in files.values() if file.holds == MODEL)
    given = {name.partition("/")[2] for outputs in models for name in outputs}
    told = [(names, meaning) for names, meaning in _FIELDS.items() if given & set(names.split(", "))]
    others = given - {name for names, _ in told for name in names.split(", ")}
    return [*told, (", ".join(sorted(others)), _BEFORE)] if others else told


def _tasks(network: Network) -> Iterator[Sequence[str]]:
    trained = network.trained
    for name, task in trained.tasks.items():
        metrics = {
            metric.partition("/")[2]: value
            for metric, value in trained.metrics.items()
            if metric.startswith(f"{name}/")
        }
        told = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        untrained = " (never trained)" if name in trained.untrained else ""
        yield name, task.kind + untrained, _meaning(task), told


def _meaning(task: Task) -> str:
    more = [f"{len(task.classes)} classes"] if task.classes else []
    return ", ".join([task.label.called, *([task.label.unit] if task.label.unit else []), *more])


def _about(name: str, file: FileRecord, today: datetime.date) -> Iterator[str]:
    what = "the backbone" if file.holds == BACKBONE else "the backbone, the pyramid and all heads"
    yield f"Holds {what}; {file.bytes / 2**20:.1f} MiB."
    if name.startswith("stablehlo"):
        until = stablehlo.expires(today)
        yield f"For {', '.join(stablehlo.PLATFORMS)}. Every jax reads it until {until}: export it anew by then."


def _differences(file: FileRecord) -> Iterator[str]:
    parity = file.parity
    yield f"Compared with the run on {parity.images:,} images:"
    yield ""
    rows = [(name, f"{each.largest:.1e}", f"{100 * each.differing:.2g} %") for name, each in parity.outputs.items()]
    yield from _table(("output", "largest difference, of its largest number", "numbers that differ"), rows)
    if parity.metrics:
        yield ""
        rows = [(name, f"{each.run:.4f}", f"{each.file:.4f}") for name, each in parity.metrics.items()]
        yield from _table(("metric", "run", "file"), rows)
    if file.latency:
        yield ""
        rows = [(str(each.batch_size), f"{1e3 * each.file_s:.1f}", f"{1e3 * each.run_s:.1f}") for each in file.latency]
        yield from _table(("images at a time", "file, ms", "must_jax, ms"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
