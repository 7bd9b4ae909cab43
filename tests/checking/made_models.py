"""Models of others that know the truth of rendered images, as well as they are told to, and say it in their own terms.

They are functions of pixels alone, as real ones are: also of mirrored images, and of images whose channels are swapped,
which they see badly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.scenes import CONFIGS, Rendering, render_image
from must_jax.data.scenes.configs import SPLITS

SHAPES = CONFIGS["teacher_detection_tiny"].truths["detection"].classes
THINGS = CONFIGS["teacher_segmentation_tiny"].truths["segmentation"].classes
ITEMS = CONFIGS["teacher_classification_tiny"].truths["classification"].classes
ALL = "train+validation+test"


@dataclass(frozen=True)
class Seen:
    """What there is to see in an image; normals x right, y down, z forward; boxes y0, x0, y1, x1 in pixels."""

    hw: tuple[int, int]
    depth_m: np.ndarray
    normals: np.ndarray
    labels: Mapping[str, Any]
    seed: Sequence[int]

    @property
    def rng(self) -> np.random.Generator:
        """Of this image: a model says the same about it every time."""
        return np.random.default_rng(self.seed)

    @property
    def mirrored(self) -> Seen:
        labels = dict(self.labels)
        if "detection" in labels:
            boxes = labels["detection"]["boxes_yxyx"].copy()
            boxes[:, [1, 3]] = 1 - boxes[:, [3, 1]]
            labels["detection"] = {**labels["detection"], "boxes_yxyx": boxes}
        if "segmentation" in labels:
            labels["segmentation"] = {"ids": labels["segmentation"]["ids"][:, ::-1]}
        normals = self.normals[:, ::-1] * np.array([-1, 1, 1], np.float32)
        return Seen(self.hw, self.depth_m[:, ::-1], normals, labels, self.seed)


class Rendered:
    """All images of a config of scenes, by their pixels."""

    def __init__(self, images: ImageSet, config: str) -> None:
        self._known: dict[bytes, tuple[Seen, bool, bool]] = {}
        for index in range(len(images)):
            record = images.record(index)
            _, split, number = record["name"].rsplit("-", 2)
            assert split in SPLITS
            scene, rendering = render_image(config, split, int(number))
            self._add(decode_image(record["image"]), self._seen(config, scene, rendering), index)

    def _seen(self, config: str, scene: Any, rendering: Rendering) -> dict[str, Any]:
        labels = {task: truth.make(scene, rendering) for task, truth in CONFIGS[config].truths.items()}
        return {"depth_m": rendering.depth_m, "normals": rendering.normals, "labels": labels}

    def _add(self, pixels: np.ndarray, seen: Mapping[str, Any], index: int) -> None:
        for flip in (1, -1):
            for order in (1, -1):
                shown = np.ascontiguousarray(pixels[:, ::flip, ::order])
                known = Seen(pixels.shape[:2], seed=[index, flip + 1, order + 1], **seen)
                self._known[shown.tobytes()] = (known if flip == 1 else known.mirrored, order == 1, flip == 1)

    def __call__(self, image: np.ndarray) -> tuple[Seen, bool]:
        """What is to be seen in it, and whether its channels are red, green, blue."""
        seen, rgb, _ = self._known[image.tobytes()]
        return seen, rgb


Model = Callable[[Seen, float], Any]  # (what is to be seen, noise: 0 = none, 1 = it hardly sees anything) -> answer


def depth(seen: Seen, noise: float) -> np.ndarray:
    """Metres."""
    rng = seen.rng
    bumps = cv2.resize(rng.normal(0, 1, (6, 6)).astype(np.float32), seen.hw[::-1], interpolation=cv2.INTER_CUBIC)
    return seen.depth_m * np.exp(noise * bumps + noise * rng.normal(0, 0.3))


def normals(seen: Seen, noise: float) -> np.ndarray:
    """In our axes; noise makes them lean towards the camera, as weak models do."""
    bumps = seen.rng.normal(0, 1, (*seen.hw, 3)).astype(np.float32)
    vectors = (1 - noise) * seen.normals + noise * (bumps + np.array([0, 0, -1], np.float32))
    vectors[..., 2] = np.minimum(vectors[..., 2], -0.01)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def boxes(seen: Seen, noise: float) -> dict[str, np.ndarray]:
    """x0, y0, x1, y1 in pixels."""
    true, rng = seen.labels["detection"], seen.rng
    kept = rng.uniform(size=len(true["classes"])) > noise / 2
    found = true["boxes_yxyx"][kept] * np.array([*seen.hw, *seen.hw])
    found = found + noise * rng.normal(0, 0.15, found.shape) * np.tile(found[:, 2:] - found[:, :2], 2)
    classes = true["classes"][kept]
    wrong = rng.uniform(size=len(classes)) < noise / 2
    classes = np.where(wrong, rng.integers(0, len(SHAPES), len(classes)), classes)
    more = int(rng.poisson(3 * noise))
    corner = rng.uniform(0, 0.7, (more, 2))
    false = np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (more, 2))], 1) * np.array([*seen.hw, *seen.hw])
    scores = np.concatenate([rng.uniform(0.4, 1, len(classes)), rng.uniform(0.1, 0.8, more)])
    return {
        "boxes": np.concatenate([found, false])[:, [1, 0, 3, 2]],
        "scores": scores,
        "classes": np.concatenate([classes, rng.integers(0, len(SHAPES), more)]),
    }


def regions(seen: Seen, noise: float) -> np.ndarray:
    """Logits."""
    ids = seen.labels["segmentation"]["ids"]
    sure = np.eye(len(THINGS), dtype=np.float32)[ids]
    bumps = seen.rng.normal(0, 1, (8, 8, len(THINGS))).astype(np.float32)
    bumps = np.stack([cv2.resize(bumps[..., k], seen.hw[::-1]) for k in range(len(THINGS))], -1)
    return 6 * ((1 - noise) * sure + 1.5 * noise * bumps)


def scores(seen: Seen, noise: float) -> np.ndarray:
    """Logits."""
    true = seen.labels["classification"]["probs"]
    return 6 * ((1 - noise) * true + noise * seen.rng.normal(0, 1, len(true)))


@dataclass
class Function:
    """A function as a teacher: `python:MODULE:answers`.

    Attributes:
      says: task -> answer, from what is to be seen.
      colour: the order of channels in which it sees well.
    """

    module: str
    rendered: Rendered | None = None
    says: Callable[[Seen], Any] = lambda seen: None
    noise_otherwise: Callable[[Seen], Any] | None = None
    colour: str = "rgb"

    def answers(self, images: Sequence[np.ndarray]) -> list[Any]:
        found = []
        for image in images:
            assert self.rendered
            seen, rgb = self.rendered(image)
            well = rgb == (self.colour == "rgb")
            says = self.says if well or self.noise_otherwise is None else self.noise_otherwise
            found.append(says(seen))
        return found

    @property
    def model(self) -> str:
        return f"python:{self.module}:answers"


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    name = f"made_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{name}.py").write_text("def answers(images):\n    return CURRENT.answers(images)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    made = Function(name)
    vars(importlib.import_module(name))["CURRENT"] = made
    yield made
    sys.modules.pop(name, None)


_RENDERED: dict[str, Rendered] = {}


def rendered(config: str, data_dir: Path) -> Rendered:
    """Each config once in a process."""
    if config not in _RENDERED:
        _RENDERED[config] = Rendered(open_images(f"scenes/{config}:{ALL}", data_dir), config)
    return _RENDERED[config]
