"""Images a second that one core turns into training batches, against bare JPEG decoding of the same bytes by OpenCV.

python benchmarks/pipeline.py

Makes its data in a temporary folder: rendered photos of 500x375 with the labels of five tasks at a quarter of the size
(as teachers leave them), and 64x64 images with labels at full size. Rounds of the pipeline (one thread, batches of 32,
flips, scales from one bound to the other) and of decoding alternate in one process. Times are CPU seconds, so other
programs disturb little. An image that will be shown at less than half its size is decoded at half the size (or less),
which bare decoding never does; from 1.2 on every photo is decoded fully. Decoding labels counts as the pipeline's work.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from must_jax.config import AugmentConfig
from must_jax.data import encodings, scenes
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.data.pipeline import Source, train_batches

KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(8),
    "detection": BoxesLabel(20),
    "segmentation": MapLabel("ids", "ids"),
    "depth": MapLabel("depth", "scalar", "m"),
    "normals": MapLabel("normals", "vector"),
}
IMAGES, BATCH, ROUNDS = 64, 32, 5
SCALES = (0.7, 1.0), (0.7, 1.4), (1.2, 1.4)  # the longer side of the image as it is shown, in sides of the input
GOAL = 0.8  # of the speed of bare decoding
GRAIN = 7.0  # of 255: gives the renderings as many bytes as photographs of their size have (ImageNet: 110 kB)

Scales = tuple[float, float]


@dataclass(frozen=True)
class Size:
    name: str
    height: int
    width: int
    map_stride: int
    image_size: int  # of the network input
    batches: int  # a round


SIZES = [Size("photos", 375, 500, 4, 224, 8), Size("small", 64, 64, 1, 64, 20)]


class Rendered(tfds.core.GeneratorBasedBuilder):
    """Images with labels of all tasks."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=size.name) for size in SIZES]  # noqa: RUF012 (TFDS wants a list)
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {task: encodings.features(kind) for task, kind in KINDS.items()}
        tasks = {task: {"kind": encodings.kind_to_dict(kind), "classes": []} for task, kind in KINDS.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(), **labels}),
            metadata=tfds.core.MetadataDict(tasks=tasks),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        size = next(size for size in SIZES if size.name == self.builder_config.name)
        return ((index, example(index, size)) for index in range(IMAGES))

    def _log_download_bytes(self) -> None:
        """Replaces a message about downloading."""

    _log_download_done = _log_download_bytes


def example(index: int, size: Size) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    scene = scenes.sample_scene(rng, scenes.TRAINING)
    image = scenes.render(scene, scene.camera, size.height, size.width, rng).image
    image = np.clip(image + rng.normal(0, GRAIN, image.shape), 0, 255).astype(np.uint8)
    maps = scenes.render(scene, scene.camera, size.height // size.map_stride, size.width // size.map_stride)
    valid = np.ones(maps.surfaces.shape)
    labels = {
        "classification": {"probs": rng.dirichlet(np.ones(8))},
        "detection": {"boxes_yxyx": maps.boxes_yxyx, "classes": maps.box_items},
        "segmentation": {"ids": maps.surfaces},
        "depth": {"depth": maps.depth_m, "valid": valid},
        "normals": {"normals": maps.normals, "valid": valid},
    }
    jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
    return {"image": jpeg} | {task: encodings.encode(KINDS[task], label) for task, label in labels.items()}


def pipeline_seconds(source: Source, kinds: Mapping[str, LabelKind], size: Size, scales: Scales) -> float:
    """CPU seconds an image."""
    augment = AugmentConfig(scale_min=scales[0], scale_max=scales[1])
    options = {"image_size": size.image_size, "batch_size": BATCH, "seed": 0, "threads": 1}
    began = time.process_time()
    batches = train_batches([source], kinds, augment=augment, **options)
    for _ in itertools.islice(batches, size.batches):
        pass
    seconds = time.process_time() - began
    batches.close()
    time.sleep(0.3)  # until its thread has finished the batch it was making ahead
    return seconds / (size.batches * BATCH)


def decoding_seconds(jpegs: list[bytes], size: Size) -> float:
    """CPU seconds an image."""
    began = time.process_time()
    for jpeg in itertools.islice(itertools.cycle(jpegs), size.batches * BATCH):
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return (time.process_time() - began) / (size.batches * BATCH)


def main() -> None:
    tfds.disable_progress_bar()
    cv2.setNumThreads(1)
    print(f"{'images':18}{'labels':12}{'scales':>10}{'decoding/s':>12}{'pipeline/s':>12}{'share':>8}")
    with tempfile.TemporaryDirectory() as data_dir:
        for size in SIZES:
            Rendered(config=size.name, data_dir=data_dir).download_and_prepare(file_format="array_record")
            images = open_images(f"rendered/{size.name}:train", data_dir)
            source = Source(images, tuple(images.labels.values()))
            jpegs = [images.record(index)["image"] for index in range(len(images))]
            name = f"{size.width}x{size.height}, {statistics.mean(map(len, jpegs)) / 1000:.0f} kB"
            for labels, kinds in {"none": {}, "five tasks": KINDS}.items():
                shares = []
                for scales in SCALES:
                    rounds = []
                    for _ in range(ROUNDS + 1):
                        rounds.append((decoding_seconds(jpegs, size), pipeline_seconds(source, kinds, size, scales)))
                    decoding, pipeline = (statistics.median(times) for times in zip(*rounds[1:], strict=True))
                    shares.append(statistics.median(bare / whole for bare, whole in rounds[1:]))
                    row = f"{name:18}{labels:12}{scales[0]:>6} - {scales[1]}{1 / decoding:12.0f}{1 / pipeline:12.0f}"
                    print(f"{row}{shares[-1]:8.0%}", flush=True)
                verdict = "met" if min(shares) >= GOAL else "missed"
                print(f"{name}, {labels}: {min(shares):.0%} or more of bare decoding (goal {GOAL:.0%}: {verdict})")


if __name__ == "__main__":
    main()
