"""The cost of labelling an image set, from a sample that is labelled by the same code and then discarded."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from must_jax.config import InputConfig, LabelConfig
from must_jax.data.image_sets import ImageSet, evenly_spread, open_images
from must_jax.inputs.mistakes import check_config
from must_jax.labelling import teachers
from must_jax.labelling.asking import in_flight
from must_jax.labelling.one_pass import Writing, label, warm_up
from must_jax.labels.sizes import column_bytes, stored_records
from must_jax.progress import readable_bytes
from must_jax.teachers.base import Teacher
from must_jax.teachers.own import Own
from must_jax.trained import Trained

SAMPLE = 256  # images
LEAST_S = 10.0  # minimum time to measure a rate; in less, pipelines are still filling
MOST_PASSES = 64  # over the sample, to reach that time
FORWARD_S = 1.0  # the same for a single teacher
SPARE = 0.1  # of the memory, since never all of it is available

_DEFAULT = InputConfig()

Begin = Callable[[Path, ImageSet], list[Writing]]  # creates the columns of all teachers in a folder


@dataclass(frozen=True)
class Forecast:
    """What was measured on the sample, and the resulting forecast for the whole set.

    Attributes:
      images, shards: of the whole set.
      devices: number of devices the rates refer to.
      images_per_second: of the whole pass, from encoded images to records on disk.
      forward_per_second: by teacher, images/s of its network alone on a batch already on the devices.
      column_bytes: by column, for all shards.
      free_bytes: of the disk.
      largest_batch: an estimate; None if unknown.
      opening_seconds, compile_seconds, start_seconds: additional, at every start (programs are cached); the last one is
        that of worker processes.
    """

    images: int
    shards: int
    devices: int
    images_per_second: float
    forward_per_second: Mapping[str, float]
    column_bytes: Mapping[str, int]
    free_bytes: int
    largest_batch: int | None
    compile_seconds: float
    start_seconds: float
    opening_seconds: float = 0.0

    def seconds(self, chips: int) -> float:
        """Seconds for the whole set on `chips` devices, each as fast as these; a shard belongs to one worker."""
        alone = self.images / self.images_per_second
        if chips < self.devices:
            return alone * self.devices / chips
        return alone * math.ceil(self.shards / (chips // self.devices)) / self.shards

    def chip_hours(self, chips: int) -> float:
        return chips * self.seconds(chips) / 3600


def forecast(config: LabelConfig, workdir: Path) -> Forecast:
    """What labelling into the workdir would cost. Its contents do not matter, and are not changed.

    Raises:
      UserError: as `label.run`, except for the workdir and the disk.
    """
    check_config(config)
    loaded, alone = teachers.load(config), config.model_copy(update={"worker": "0/1"})
    began = time.monotonic()
    images = open_images(config.images, config.data_dir, config.take)
    opening_seconds = time.monotonic() - began
    beside = next(path for path in workdir.resolve().parents if path.is_dir())  # on the same disk
    measured = measure(
        images,
        lambda folder, sample: teachers.begin_columns(folder, loaded, sample, alone),
        config.batch_size,
        beside,
        config.input,
    )
    return dataclasses.replace(measured, opening_seconds=opening_seconds)


def measure(images: ImageSet, begin: Begin, batch_size: int, folder: Path, config: InputConfig = _DEFAULT) -> Forecast:
    """Labels a sample in a temporary folder inside `folder`, which should be on the disk for the labels.

    Raises:
      UserError: as `begin` and labelling.
    """
    with tempfile.TemporaryDirectory(prefix=".dry_run-", dir=folder) as scratch:
        writings = begin(Path(scratch) / "once", _sample(images))
        compile_seconds = warm_up(writings, batch_size)
        labelled = label(_sample(images), writings, batch_size, config)
        passes = min(math.ceil(LEAST_S / labelled.seconds), MOST_PASSES)
        if passes > 1:
            again = _sample(images, passes)
            labelled = label(again, begin(Path(scratch) / "again", again), batch_size, config)
        writers = [column.writer for writing in writings for column in writing.columns]
        shard_images = writers[0].manifest.shard_images
        sizes = {
            writer.folder.name: column_bytes(
                stored_records(writer.folder, writer.manifest), len(images), shard_images, Path(scratch)
            )
            for writer in writers
        }
    asked = [writing.teacher for writing in writings]
    models = [teacher.model for teacher in asked if isinstance(teacher, Own)]
    return Forecast(
        images=len(images),
        shards=math.ceil(len(images) / shard_images),
        devices=max(teacher.devices for teacher in asked),
        images_per_second=labelled.images_per_second,
        forward_per_second={teacher.name: forward_per_second([teacher], batch_size) for teacher in asked},
        column_bytes=sizes,
        free_bytes=shutil.disk_usage(folder).free,
        largest_batch=_largest_batch(models, batch_size, in_flight(asked)) if len(models) == len(asked) else None,
        compile_seconds=compile_seconds,
        start_seconds=labelled.start_seconds,
    )


def forward_per_second(teachers: Sequence[Teacher], batch_size: int, least_s: float = FORWARD_S) -> float:
    """Images per second through all the networks, on batches already on the devices; nothing is fetched."""
    starts = [teacher.forward(batch_size) for teacher in teachers]

    def forward() -> list[object]:
        return [start() for start in starts]

    running, count = jax.block_until_ready(forward()), 0
    began = time.perf_counter()
    while time.perf_counter() - began < least_s or count < 2:
        begun, running = running, forward()  # the devices always have the next batch
        jax.block_until_ready(begun)
        count += 1
    jax.block_until_ready(running)
    return batch_size * count / (time.perf_counter() - began)


def _sample(images: ImageSet, passes: int = 1) -> ImageSet:
    """Images evenly spread over the set, repeatedly."""
    chosen = evenly_spread(len(images), SAMPLE)
    return ImageSet(
        f"a sample of {images.name}",
        passes * len(chosen),
        lambda index: images.record(chosen[index % len(chosen)]),
        images.digest,
    )


def _largest_batch(models: Sequence[Trained], batch_size: int, in_flight: int) -> int | None:
    """An estimate from a line through the memory that XLA reports for two batch sizes.

    The larger one is the current size, which is known to compile. None if that is one image per device, since there is
    no smaller size.
    """
    mesh = models[0].mesh
    free = _free_bytes(mesh.devices.flat[0], mesh.size)
    rows = math.ceil(batch_size / mesh.size)
    if free is None or rows == 1:
        return None
    two = [mesh.size * (rows // 2), mesh.size * rows]
    kept, working = np.zeros(2), np.zeros(2)  # bytes at the two sizes
    for model in models:
        told = [model.memory(size) for size in two]
        if None in told:
            return None
        found = np.array(told, float)
        kept += in_flight * found[:, 0]
        working = np.maximum(working, found[:, 1])
    first, second = kept + working
    per_image = (second - first) / (two[1] - two[0])
    fitting = two[0] + ((1 - SPARE) * free - first) / max(per_image, 1.0)
    return max(0, int(fitting) // mesh.size * mesh.size)


def _free_bytes(device: jax.Device, devices: int) -> int | None:
    """Free memory of one device; for a CPU, its share of the machine's. None if it is not reported."""
    told = device.memory_stats() or {}
    if "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if device.platform != "cpu" or not meminfo.exists():
        return None
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 // devices


def show(forecast: Forecast, chips: int, batch_size: int) -> None:
    """Prints a forecast; `chips` as in `LabelConfig`."""
    needed, largest = sum(forecast.column_bytes.values()), forecast.largest_batch
    columns = _table("label column", "per image", "whole set")
    for name, size in (*forecast.column_bytes.items(), ("all", needed)):
        columns.add_row(name, readable_bytes(size / forecast.images), readable_bytes(size))
    rates = _table(f"on {forecast.devices} devices, in batches of {batch_size}", "images/s")
    for name, rate in forecast.forward_per_second.items():
        rates.add_row(f"{name}, its network alone", f"{rate:,.1f}")
    rates.add_row("all, from files to labels on disk", f"{forecast.images_per_second:,.1f}")
    hours = _table("chips", "hours", "chip-hours")
    for count in dict.fromkeys((forecast.devices, chips or forecast.devices)):
        hours.add_row(f"{count:,}", f"{forecast.seconds(count) / 3600:,.3f}", f"{forecast.chip_hours(count):,.3f}")
    fits = "unknown here" if largest is None else f"about {largest:,} images (estimate)"
    console = Console(width=max(100, Console().width), highlight=False)
    for part in (
        f"a forecast for {forecast.images:,} images; nothing was kept",
        columns,
        rates,
        hours,
        f"largest batch that fits: {fits}\n"
        f"disk: {readable_bytes(needed)} needed, {readable_bytes(forecast.free_bytes)} free\n"
        f"at a start: {forecast.opening_seconds:.1f} s to open the images, {forecast.compile_seconds:.1f} s to compile"
        f", {forecast.start_seconds:.1f} s to start workers",
    ):
        console.print(part, "", sep="\n")


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, header_style="bold")
    for name in others:
        table.add_column(name, justify="right")
    return table
