"""A small whole world in one folder, and the commands that read it, in this process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet
import pytest
from command_line import call, config
from made_column import make_column
from made_teacher import HEADLINES, make_teacher
from photos import encoded, picture, write_files, write_tar
from true_sets import voc_xml, write_palette_png, write_png

from must_jax import predict, trained
from must_jax.data.image_sets import open_images
from must_jax.stages import train
from must_jax.training import building

PHOTOS = ("cat/0.png", "cat/1.jpg", "dog/2.jpg", "dog/3.png", "dog/4.webp")
SIDE = 32
HANGS_AFTER_S = 60  # of a command that is healthy takes a second; machines are shared
SHARDED = "--config.shard_images=2"
TRUE = {
    "coco": {"detection": {"format": "coco", "path": "truth/coco.json"}},
    "voc": {"detection": {"format": "voc", "path": "truth/voc"}},
    "masks": {"segmentation": {"format": "id_png", "path": "truth/masks", "options": {"classes": "a,b"}}},
    "depth": {"depth": {"format": "depth_png", "path": "truth/depth", "options": {"unit": "mm"}}},
    "classes": {"classification": {"format": "class_folders"}},
}


class Began(BaseException):
    """A training has got as far as its first update."""


class Hangs(BaseException):
    pass


def build(folder: Path) -> None:
    """Photos, truth of them in every kind of format, an image set, columns, a finished and an unfinished run."""
    with contextlib.chdir(folder):
        images = {name: picture(SIDE, SIDE, seed) for seed, name in enumerate(PHOTOS)}
        formats = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
        encodings = {name: encoded(image, formats[Path(name).suffix]) for name, image in images.items()}
        write_files(Path("photos"), encodings)
        write_tar(Path("packed/tar/1.tar"), [*encodings.items(), ("cat/0.cls", b"0")])
        Path("packed/parquet").mkdir()
        rows = [{"image": {"bytes": data, "path": name}} for name, data in encodings.items()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "packed/parquet/1.parquet")
        _write_truth(Path("truth"))
        assert call(config("prepare"), "--config.images=folder:photos", "--config.name=set", SHARDED) == 0
        prepared = open_images("set:train", "data")
        make_column(
            Path("runs/label/columns/teacher-classification"),
            "classification",
            prepared,
            lambda index: {"probs": np.roll(np.float32([0.5, 0.25, 0.25]), index)},
            classes=("a", "b", "c"),
        )
        make_column(
            Path("runs/label/columns/teacher-depth"),
            "depth",
            prepared,
            lambda index: {
                "depth": np.float32(np.arange(1, 65) + index).reshape(8, 8),
                "valid": np.ones((8, 8), np.float32),
            },
        )
        make_teacher(Path("runs/teacher"), ("classification", "depth"), SIDE, HEADLINES)
        with pytest.raises(Began):
            call(*TRAIN)


def _write_truth(folder: Path) -> None:
    folder.mkdir()
    boxes = [[0.0, 0.0, 16.0, 8.0], [4.25, 8.5, 20.0, 23.5], [1.0, 2.0, 30.0, 30.0], [2, 2, 8, 8], [9, 9, 9, 9]]
    content = {
        "images": [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(PHOTOS)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 3 + i % 2, "bbox": box, "area": 9.0, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 3, "name": "person"}, {"id": 4, "name": "car"}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for name in PHOTOS:
        stem = Path(name).with_suffix("")
        xml = folder / "voc" / f"{stem}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(voc_xml([("cat", (2, 3, 12, 20)), ("bus", (5, 6, 30, 31))], side=SIDE))
        write_palette_png(folder / "masks" / f"{stem}.png", rng.integers(0, 2, (SIDE, SIDE)))
        write_png(folder / "depth" / f"{stem}.png", rng.integers(500, 9000, (SIDE, SIDE)).astype(np.uint16))


MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
TRAIN = (
    config("student"),
    "--workdir=runs/begun",
    "--config.train=({'images': 'set:train', 'labels': 'runs/label'},)",
    "--config.validation=None",
    "--config.tasks={'classification': {}, 'depth': {}}",
    "--config.minimum={}",
    f"--config.model={MODEL}",
    f"--config.image_size={SIDE}",
    *("--config.batch_size=4", "--config.steps=8", "--config.optimizer.warmup_steps=1", "--config.devices=1"),
)


def stand_ins(patch: pytest.MonkeyPatch) -> None:
    """A training ends before its first update, with what it would begin with, and nothing is compiled twice."""
    models: dict[str, Any] = {}
    built = building.build

    def build_once(config: Any, tasks: Any, weights: Any, mesh: Any) -> Any:
        key = repr((config.model, sorted(tasks.items()), mesh))
        if key not in models:
            models[key] = built(config, tasks, weights, mesh)
        return models[key]

    def fit(step: Any, state: Any, batches: Iterator[Any], schedule: Any, updates: range, mesh: Any, recorder: Any):
        if not updates.start:
            recorder.checkpoints.save(1, state, {"clock": recorder.clock.state()})
            recorder.checkpoints.save(2, state, {"clock": recorder.clock.state()})
        raise Began(updates.start, digest(state), digest(next(batches)))

    def look(self: Any, image: Any) -> dict[str, Any]:
        raise Began(digest(self.variables), self.tasks, self.image_size)

    patch.setattr(building, "build", build_once)
    patch.setattr(building, "PendingProgram", lambda compiler, function, arguments: function)
    patch.setattr(train, "fit", fit)
    patch.setattr(trained.Trained, "predict", look)


def digest(tree: Any) -> str:
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sha.update(f"{jax.tree_util.keystr(path)} {np.asarray(leaf).dtype}{np.shape(leaf)}".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()[:16]


def resume() -> int:
    return call(*TRAIN)


def begin() -> int:
    return call(*TRAIN, "--workdir=runs/new")


def look() -> int:
    return predict.main(["must_jax.predict", "--model=runs/teacher", "--out=out", "photos/cat/0.png"])


def describe() -> int:
    return call(config("student"), "--config.stage=describe", "--workdir=runs/begun")


def verify() -> int:
    return call(config("labels"), "--config.action=verify", "--config.columns=runs/label", "--config.images=set:train")


def tell_labels() -> int:
    return call(config("labels"), "--config.action=describe", "--config.columns=runs/label")


def audit() -> int:
    flags = "--config.columns=runs/label", "--config.images=set:train", "--workdir=runs/audit"
    return call(config("audit"), "--config.evaluation=", *flags)


def prepare_again() -> int:
    return call(config("prepare"), "--config.images=folder:photos", "--config.name=set", SHARDED)


def prepare_new(kind: str = "folder", path: str = "photos") -> int:
    return call(config("prepare"), f"--config.images={kind}:{path}", "--config.name=new", SHARDED)


def import_truth(kind: str) -> int:
    return call(
        config("prepare"),
        "--config.images=folder:photos",
        "--config.name=set",
        SHARDED,
        f"--config.labels={TRUE[kind]}",
    )


COMMANDS: dict[str, Callable[[], int]] = {
    **{each.__name__: each for each in (resume, begin, look, describe)},
    **{each.__name__: each for each in (verify, tell_labels, audit, prepare_again, prepare_new)},
    **{f"prepare_{kind}": functools.partial(prepare_new, kind, f"packed/{kind}") for kind in ("tar", "parquet")},
    **{f"truth_{kind}": functools.partial(import_truth, kind) for kind in TRUE},
}


READS = {  # what is damaged -> the commands that read it
    "data/set/1.0.0": ("begin", "resume", "prepare_again", "verify", "audit", "truth_classes"),
    "runs/label": ("begin", "resume", "verify", "verify", "tell_labels", "audit"),
    "runs/teacher": ("look",),
    "runs/begun": ("resume", "resume", "describe"),
    "photos": ("prepare_new", "prepare_again", "look"),
    "packed/tar": ("prepare_tar",),
    "packed/parquet": ("prepare_parquet",),
    "truth/coco.json": ("truth_coco",),
    "truth/voc": ("truth_voc",),
    "truth/masks": ("truth_masks",),
    "truth/depth": ("truth_depth",),
}


def files_in(place: str) -> list[Path]:
    path = Path(place)
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def images_are_told_of() -> bool:
    """Whether a set that was prepared from `photos` holds all of them, byte for byte, but those that it names."""
    images = open_images("new:train", "data")
    held = {images.record(index)["name"]: images.record(index)["image"] for index in range(len(images))}
    named = {entry["name"] for entry in json.loads(Path("data/new/1.0.0/skipped.json").read_text())}
    there = {str(file.relative_to("photos")): file for file in Path("photos").rglob("*.*") if not file.is_dir()}
    return all(name in named or (name in held and held[name] == file.read_bytes()) for name, file in there.items())


def outcome(command: Callable[[], int]) -> tuple[Any, str]:
    """What comes of a command: its exit code, the start of a training, or what went wrong; and what it said."""
    said = io.StringIO()

    def hangs(number: int, frame: Any) -> None:
        raise Hangs(f"after {HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, hangs), signal.getsignal(signal.SIGTERM)
    signal.alarm(HANGS_AFTER_S)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return command(), said.getvalue()
    except Began as began:
        return began.args, said.getvalue()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGTERM, before[1])
