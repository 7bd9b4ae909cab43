"""Labelling images a second with five teachers, against the bare forward passes of the same networks.

python benchmarks/labelling.py [--preset=photos|quickstart] [--teachers=own|onnx|torch] [--rounds=3] [--images=N]

Five teachers, one a task, of different input sizes and with random weights, label a folder of JPEGs through the code
of the label stage, from files to committed shards. Bare are their jitted forward passes on batches that lie on the
devices, one teacher after the other, nothing fetched. Rounds of both alternate in one process. Leave the machine alone.

On a CPU the host's work takes its share of the same cores, so two more things are measured. With networks that answer
at once: the host's CPU time an image, and the rate that all cores feed. And with networks that let the time of another
device pass without using the cores: whether that would have to wait, at LOAD of the rate that the cores feed.

With --teachers=onnx, or torch, the same for one model of others (`foreign_teachers.py`; torch needs the extra
`interop`): bare is its own library on arrays that are ready to be fed, without anything of must_jax.

Random weights make maps without smooth regions, which take longer to encode than those of trained teachers.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from must_jax.config import InputConfig, LabelConfig, ModelConfig
from must_jax.cores import cores
from must_jax.data import scenes
from must_jax.data.fitting import Input
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.engine.mesh import make_mesh, setup_devices
from must_jax.labelling.asking import read, readers
from must_jax.labelling.forecasting import forward_per_second
from must_jax.labelling.one_pass import label, warm_up
from must_jax.labelling.teachers import begin_columns
from must_jax.models.api import build_model
from must_jax.progress import say
from must_jax.tasks import TASKS, build_task
from must_jax.teachers.base import Teacher
from must_jax.teachers.own import Own, owned
from must_jax.trained import Trained

GOAL = 0.9  # of the rate of the bare forward passes
GOAL_OF_OTHERS = 0.95  # the same for models of others, which are slower
OTHERS_HW, OTHERS_BATCH = (480, 640), 4
OTHERS_IMAGES = {"onnx": 128, "torch": 32}  # half a minute or so on two cores
LOAD = 0.7  # of the images/s that the cores feed
CLASSES = tuple(f"class {i}" for i in range(20))
HOST_IMAGES = 2048  # a round, where no network computes
RENDERED = 48  # different images
GRAIN = 7.0  # of 255: gives the renderings as many bytes as photographs of their size have


@dataclass(frozen=True)
class Preset:
    model: ModelConfig
    image_sizes: tuple[int, ...]  # of the teachers, in turn
    image_hw: tuple[int, int]
    batch_size: int
    images: int  # a round


PRESETS = {
    "photos": Preset(
        ModelConfig(backbone="resnet18", pyramid_channels=128, head_channels=128, head_convs=3),
        (224, 256),
        (375, 500),
        16,
        128,
    ),
    "quickstart": Preset(
        ModelConfig(backbone="resnet10", width=0.5, pyramid_channels=64, head_channels=32, head_convs=2),
        (64,),
        (64, 64),
        64,
        2048,
    ),
}


@dataclass(frozen=True, repr=False)
class Instant(Trained):
    """A teacher that answers at once, always the same."""

    answer: Any = None

    def dispatch(self, images: np.ndarray | jax.Array) -> Any:
        return self.answer

    def answers(self, batch_size: int) -> Any:
        return self.answer


class Late:
    """A prediction that is there at a certain time."""

    def __init__(self, array: jax.Array, at: float) -> None:
        self._array, self._at = array, at

    def copy_to_host_async(self) -> None:
        """Nothing to copy."""

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        time.sleep(max(0.0, self._at - time.perf_counter()))
        return np.asarray(self._array)


@dataclass
class Pace:
    """One device, which works on one batch after the other."""

    seconds: float  # a batch
    free_at: float = 0.0


@dataclass(frozen=True, repr=False)
class Paced(Instant):
    """As if the networks ran on another device."""

    pace: Pace = field(default_factory=lambda: Pace(0.0))

    def dispatch(self, images: np.ndarray | jax.Array) -> Any:
        self.pace.free_at = max(self.pace.free_at, time.perf_counter()) + self.pace.seconds
        return jax.tree.map(lambda array: Late(array, self.pace.free_at), self.answer)


def make_teachers(preset: Preset) -> dict[str, Trained]:
    mesh, teachers = make_mesh(0, [preset.batch_size]), {}
    for name, image_size in zip(
        (name for name in TASKS if not TASKS[name].self_supervised), itertools.cycle(preset.image_sizes)
    ):
        task = build_task(name, CLASSES if TASKS[name].has_classes else ())
        model = build_model(preset.model, {name: task.head(preset.model)})
        teachers[f"teacher_{name}"] = Trained(
            workdir=Path(name),
            model=model,
            variables=model.init(jax.random.key(0), (image_size, image_size)),
            config=preset.model,
            tasks={name: task},
            image_size=image_size,
            settings={"learning_rate": 0.1, "batch_size": 32, "steps": 1},
            metrics={},
            digest="0" * 64,
            mesh=mesh,
        )
    return teachers


def write_images(folder: Path, preset: Preset, count: int) -> None:
    jpegs = []
    for seed in range(min(RENDERED, count)):
        rng = np.random.default_rng(seed)
        scene = scenes.sample_scene(rng, scenes.TRAINING)
        image = scenes.render(scene, scene.camera, *preset.image_hw, rng).image
        image = np.clip(image + rng.normal(0, GRAIN, image.shape), 0, 255).astype(np.uint8)
        jpegs.append(cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes())
    for index, jpeg in zip(range(count), itertools.cycle(jpegs)):
        (folder / f"{index:06d}.jpg").write_bytes(jpeg)


def label_all(
    images: ImageSet, models: Mapping[str, Trained], batch_size: int, workers: int | None = None
) -> tuple[float, float]:
    """Wall seconds an image, and CPU seconds of this process."""
    return label_by(owned(models), images, batch_size, workers)


def label_by(
    teachers: Sequence[Teacher], images: ImageSet, batch_size: int, workers: int | None = None
) -> tuple[float, float]:
    config = LabelConfig(images=images.name, teachers=[each.name for each in teachers], batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder:
        writings = begin_columns(Path(folder), teachers, images, config)
        warm_up(writings, batch_size)
        used = time.process_time()
        seconds = label(images, writings, batch_size, InputConfig(workers=workers)).seconds
        return seconds / len(images), (time.process_time() - used) / len(images)


def read_all(images: ImageSet, models: Sequence[Trained], batch_size: int) -> float:
    """CPU seconds an image for files, decoding and letterboxing."""
    used = time.process_time()
    chunks = [range(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]
    with readers(images, chunks, [Own(model, "") for model in models], batch_size) as begin:
        for _ in read(begin, chunks):
            pass
    return (time.process_time() - used) / len(images)


def instant(model: Trained, images: np.ndarray) -> Instant:
    answer = jax.block_until_ready(model.dispatch(images))
    return Instant(**{each.name: getattr(model, each.name) for each in fields(Trained)}, answer=answer)


def paced(models: Mapping[str, Instant], batch_size: int, images_per_second: float) -> dict[str, Paced]:
    """Teachers on one device, which all of them together pass at this rate."""
    pace = Pace(batch_size / images_per_second / len(models))
    return {name: Paced(**vars(model), pace=pace) for name, model in models.items()}


def of_others(which: str, rounds: int, count: int) -> None:
    """Measures a model of others."""
    import foreign_teachers

    with tempfile.TemporaryDirectory() as folder:
        teacher = foreign_teachers.MADE[which](Path(folder))
        preset = Preset(ModelConfig(), (0,), OTHERS_HW, OTHERS_BATCH, count or OTHERS_IMAGES[which])
        (photos := Path(folder) / "photos").mkdir()
        write_images(photos, preset, preset.images)
        images = open_images(f"folder:{photos}", "")
        bare, whole = [forward_per_second([teacher], OTHERS_BATCH, least_s=10.0)], []
        for number in range(1, rounds + 1):
            whole.append(1 / label_by([teacher], images, OTHERS_BATCH)[0])
            bare.append(forward_per_second([teacher], OTHERS_BATCH, least_s=10.0))
            say(f"round {number}: bare {bare[-2]:.2f} and {bare[-1]:.2f}, labelling {whole[-1]:.2f} images/s")
    # Each between two bare measurements: a machine that slows down in the course of minutes does not count.
    around = (statistics.mean(pair) for pair in itertools.pairwise(bare))
    share = statistics.median(labelled / alone for labelled, alone in zip(whole, around, strict=True))
    print(
        f"{which}, {teacher.input.height}x{teacher.input.width} pixels, batches of {OTHERS_BATCH}, {len(images)} "
        f"images of {OTHERS_HW[1]}x{OTHERS_HW[0]}, {rounds} rounds, {cores()} cores"
    )
    print(f"bare forward passes  {statistics.median(bare):9.2f} images/s")
    print(f"labelling            {statistics.median(whole):9.2f} images/s")
    met = "met" if share >= GOAL_OF_OTHERS else "missed"
    print(f"labelling / bare: {share:.1%} (goal: at least {GOAL_OF_OTHERS:.0%}: {met})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="photos")
    parser.add_argument("--teachers", choices=("own", "onnx", "torch"), default="own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=0, help="images a round; 0 = as the preset says")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    setup_devices()
    if args.teachers != "own":
        of_others(args.teachers, args.rounds, args.images)
        return
    models, batch_size = make_teachers(preset), preset.batch_size
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), preset, HOST_IMAGES)
        more = open_images(f"folder:{folder}", "")
        images = open_images(f"folder:{folder}", "", args.images or preset.images)
        first = [range(min(batch_size, len(images)))]
        with readers(images, first, owned(models), batch_size) as begin:
            batch = next(read(begin, first))
        silent = {name: instant(model, batch.inputs[Input(*model.input_hw)]) for name, model in models.items()}

        bare, whole, host, fed, reading, waiting = [], [], [], [], [], []
        for number in range(1, args.rounds + 1):
            bare.append(1 / forward_per_second(owned(models), batch_size, least_s=10.0))
            whole.append(label_all(images, models, batch_size)[0])
            fed_s, used_s = label_all(more, silent, batch_size)
            host.append(used_s)
            fed.append(1 / fed_s)
            reading.append(read_all(more, list(models.values()), batch_size))
            rate = LOAD * fed[-1]
            waiting.append(1 / label_all(more, paced(silent, batch_size, rate), batch_size)[0] / rate)
            say(f"round {number}: bare {1 / bare[-1]:.1f}, labelling {1 / whole[-1]:.1f} images/s")
        share = statistics.median(b / w for b, w in zip(bare, whole, strict=True))
        bare_s, whole_s, host_s, reading_s = map(statistics.median, (bare, whole, host, reading))

    device = jax.devices()[0]
    sides = " and ".join(map(str, preset.image_sizes))
    print(
        f"{preset.model.backbone}, five teachers of {sides} pixels, batches of {batch_size}, {len(images)} images of "
        f"{preset.image_hw[1]}x{preset.image_hw[0]}, {args.rounds} rounds, {len(jax.devices())} {device.device_kind} "
        f"devices, {cores()} cores"
    )
    print(f"bare forward passes  {1 / bare_s:9.1f} images/s")
    print(f"labelling            {1 / whole_s:9.1f} images/s")
    print(
        f"the host's work      {1000 * host_s:9.2f} ms of CPU an image ({1000 * reading_s:.2f} reading, "
        f"{1000 * (host_s - reading_s):.2f} labels): one core feeds {1 / host_s:,.0f} images/s"
    )
    print(
        f"all cores feed       {statistics.median(fed):9,.0f} images/s; a device that takes {LOAD:.0%} of that works "
        f"{statistics.median(waiting):.0%} of the time"
    )
    if device.platform == "cpu":
        print(f"at best, as both share the cores: {bare_s / (bare_s + host_s / cores()):.0%} of bare")
    print(f"labelling / bare: {share:.0%} (goal: at least {GOAL:.0%}: {'met' if share >= GOAL else 'missed'})")


if __name__ == "__main__":
    main()
