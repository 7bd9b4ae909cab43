"""The columns of a label run, from the first check to the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from must_jax.config import LabelConfig
from must_jax.data.image_sets import ImageSet, evenly_spread, open_images
from must_jax.data.shards import COLUMNS
from must_jax.engine import distributed
from must_jax.files import write_json
from must_jax.inputs import feeding
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.named import mesh_of
from must_jax.labelling import misread, teachers
from must_jax.labelling.finished import finished_columns
from must_jax.labelling.one_pass import label, warm_up
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn
from must_jax.labels.manifest import Manifest
from must_jax.progress import counted, say
from must_jax.reading import read_json
from must_jax.runs import results
from must_jax.runs.workdir import RESULT_FILE, claim
from must_jax.tasks.base import Task

GALLERY = "gallery.html"


def make(config: LabelConfig, workdir: Path) -> None:
    """Writes the missing columns, or parts of them, then `gallery.html` and `result.json`; see `label.run`."""
    mesh_of(config)  # finds the other processes
    with distributed.linked():
        _make(config, workdir)
        distributed.wait("finished")


def _make(config: LabelConfig, workdir: Path) -> None:
    # Check everything first.
    check_config(config)
    if distributed.processes() > 1:
        config = config.model_copy(update={"worker": f"{distributed.position()}/{distributed.processes()}"})
    loaded = teachers.load(config)
    images = open_images(config.images, config.data_dir, config.take)
    teachers.check_columns(workdir, loaded, images, config)
    checked = misread.refuse(config, loaded, images, workdir)
    before = finished_columns(workdir)
    finished = {name: manifest.read(workdir / COLUMNS / name) for name in before}
    shared = config.worker_of[1] > 1
    claim(workdir, config, config.worker.replace("/", "-of-") if shared else "")

    if distributed.is_first():
        misread.remember(workdir, checked)
    begun = teachers.begin_columns(workdir, loaded, images, config)
    columns = [column for writing in begun for column in writing.columns]
    if distributed.is_first():
        _take_back(workdir, {column.writer.folder.name for column in columns if column.writer.missing()})
    compile_seconds = warm_up(begun, config.batch_size)
    say(f"{workdir}: {images.name} is read and labelled by {feeding.readers(config.input)}")
    labelled = label(images, begun, config.batch_size, config.input)
    distributed.wait("labelled")
    if not distributed.is_first():
        return
    if missing := max(len(column.writer.missing()) for column in columns):
        say(f"worker {config.worker} has labelled {labelled.images} images; others have {missing} shards to write")
        return
    # Shards of earlier runs or other workers may have been damaged since.
    verify.check_unchanged(
        (column.writer.folder, shard)
        for column in columns
        for index, shard in column.writer.written().items()
        if index not in column.missing
    )
    for column in columns:
        column.writer.finish()

    written = {column.writer.folder.name: column.writer.manifest for column in columns}
    others = [column for name, column in finished.items() if name not in written]
    absent = {(image.name, image.reason): None for each in (*written.values(), *others) for image in each.absent()}
    bad = [*images.skipped, *absent]
    result = {
        "images": len(images),
        "seconds": labelled.seconds,
        "start_seconds": labelled.start_seconds,
        "compile_seconds": compile_seconds,
        "images_per_second": labelled.images_per_second,
        "columns": before | {name: _figures(column) for name, column in written.items()},
        "bad": [{"name": name, "reason": reason} for name, reason in bad],
    }
    shown = [(column.task, LabelColumn(column.writer.folder)) for column in columns]
    _write_gallery(workdir / GALLERY, images, shown, bad, result, config.gallery_images)
    write_json(workdir / RESULT_FILE, result)
    skipped = f", {counted(len(images.skipped), 'file')} skipped" if images.skipped else ""
    why = f" ({': '.join(next(iter(absent)))})" if absent else ""
    say(
        f"{workdir}: {counted(len(images), 'image')} in {counted(len(columns), 'column')}, {len(absent):,} not labelled"
        f"{why}{skipped}; see {workdir / GALLERY}"
    )


def _take_back(workdir: Path, unfinished: set[str]) -> None:
    """Removes columns that have lost shards since they were finished from the result; and that, if it has no others."""
    file = workdir / RESULT_FILE
    if not file.exists():
        return
    told = read_json(file, dict[str, Any], results.ADVICE)
    left = {name: about for name, about in told["columns"].items() if name not in unfinished}
    if not left:
        file.unlink()
    elif left != told["columns"]:
        write_json(file, told | {"columns": left})


def _figures(column: Manifest) -> dict[str, Any]:
    """Figures of a finished column, for result.json."""
    size = sum(shard.bytes for shard in column.shards)
    return {
        "teacher": column.maker,
        "task": column.task,
        "bytes": size,
        "bytes_per_image": size / column.images.length,
        **column.summary().readable(column.classes),
    }


def _write_gallery(
    path: Path,
    images: ImageSet,
    columns: Sequence[tuple[Task, LabelColumn]],
    bad: Sequence[tuple[str, str]],
    result: Mapping[str, Any],
    count: int,
) -> None:
    from must_jax.report import gallery  # matplotlib takes a second to load

    rows = []
    for position in evenly_spread(len(images), count):
        labels = [(task, column[position]) for task, column in columns]
        if all(label["present"] for _, label in labels):
            name, image = images.name_of(position), gallery.opened(images, position)
            if isinstance(image, str):
                say(f"not shown in {path.name}: {name}, {image}")
                rows.append(gallery.Row(name, None, image, []))
                continue
            drawn = [(gallery.thumbnail(task.draw(image, label)), task.describe(label)) for task, label in labels]
            rows.append(gallery.Row(name, image.shape[:2], gallery.thumbnail(image), drawn))
    described = [
        gallery.Column(
            teacher=column.manifest.maker,
            task=task.name,
            metrics=column.manifest.teacher.metrics if column.manifest.teacher else {},
            rule=column.manifest.rule,
            images=len(column),
            absent=told["absent"],
            empty_share=told["empty_share"],
            bytes_per_image=told["bytes_per_image"],
        )
        for task, column in columns
        for told in [result["columns"][column.folder.name]]
    ]
    gallery.write(gallery.Gallery(images.name, len(images), result["seconds"], described, rows, bad), path)
