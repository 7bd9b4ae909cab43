"""What pipeline.py reads: rendered photos with the labels of five tasks, in TFDS datasets that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import scenes
from must_jax.data.batching import Source
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, LabelKind, ScalarsLabel, VectorLabel

KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(8),
    "detection": BoxesLabel(20),
    "segmentation": IdsLabel("ids"),
    "depth": ScalarsLabel("depth", "m"),
    "normals": DirectionsLabel("normals"),
}
BATCH = 32
REPEATED = 16  # so that hardly any record is still in memory when it is read again
SCALES = (0.7, 1.0), (0.7, 1.4), (1.2, 1.4)  # the longer side of the image as it is shown, in sides of the input
GRAIN = 7.0  # of 255: gives the renderings as many bytes as photographs of their size have (ImageNet: 110 kB)


@dataclass(frozen=True)
class Size:
    name: str
    height: int
    width: int
    map_stride: int
    image_size: int  # of the network input


DECODED = [Size("photos", 375, 500, 4, 224), Size("small", 64, 64, 1, 64)]
LARGE = Size("large", 480, 640, 4, 640)


class Rendered(tfds.core.GeneratorBasedBuilder):
    """Images with labels of all tasks."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def __init__(self, size: Size, images: int, data_dir: str) -> None:
        self._size, self._images = size, images
        super().__init__(config=tfds.core.BuilderConfig(name=size.name), data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {task: kind.features() for task, kind in KINDS.items()}
        tasks = {task: {"kind": kind.to_dict(), "classes": []} for task, kind in KINDS.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(), **labels}),
            metadata=tfds.core.MetadataDict(tasks=tasks),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        examples = [example(index, self._size) for index in range(self._images)]
        return enumerate(REPEATED * examples)

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
    return {"image": jpeg} | {task: KINDS[task].encode(label) for task, label in labels.items()}


def opened(size: Size, data_dir: str, images: int) -> Source:
    """An image set of so many different images, repeated."""
    Rendered(size, images, data_dir).download_and_prepare(file_format="array_record")
    return reopened(size, data_dir)


def reopened(size: Size, data_dir: str) -> Source:
    images = open_images(f"rendered/{size.name}:train", data_dir)
    return Source(images, tuple(images.labels.values()))


def jpegs_of(source: Source) -> list[bytes]:
    """The different ones."""
    return [source.images.record(index)["image"] for index in range(len(source.images) // REPEATED)]
