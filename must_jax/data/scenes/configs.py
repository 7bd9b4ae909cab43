"""The configs of the dataset: which scenes, which labels, how many images. Change sizes and label spaces here."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, LabelKind, ScalarsLabel, VectorLabel
from must_jax.data.scenes.domains import HELD_OUT, MATERIALS, TRAINING, UPSTREAM, Domain, sample_scene, single
from must_jax.data.scenes.renderer import Rendering, Scene, render

SEED = 0
SPLITS = ("train", "validation", "test")
MAX_BOXES = 20
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)

Groups = Mapping[str, tuple[str, ...]]  # class name -> the shapes, room surfaces or patterns that belong to it


@dataclass(frozen=True)
class Truth:
    """One task's ground truth: its kind of label, its classes in order, and how a rendering becomes a label."""

    kind: LabelKind
    make: Callable[[Scene, Rendering], dict[str, Any]]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SceneConfig:
    """Image i of a split shows a scene of `domains[i % len(domains)]`."""

    domains: tuple[Domain, ...]
    truths: Mapping[str, Truth]
    images: Mapping[str, int]  # split -> number
    image_size: int = 64


def _class_indices(groups: Groups) -> dict[str, int]:
    return {member: index for index, members in enumerate(groups.values()) for member in members}


def _shape(groups: Groups) -> Truth:
    indices = _class_indices(groups)

    def make(scene: Scene, rendering: Rendering) -> dict[str, Any]:
        return {"probs": np.eye(len(groups), dtype=np.float32)[indices[scene.items[0].shape]]}

    return Truth(VectorLabel(len(groups)), make, tuple(groups))


def _boxes(groups: Groups) -> Truth:
    indices = _class_indices(groups)

    def make(scene: Scene, rendering: Rendering) -> dict[str, Any]:
        classes = np.array([indices[scene.items[item].shape] for item in rendering.box_items], np.int32)
        return {"boxes_yxyx": rendering.boxes_yxyx, "classes": classes}

    return Truth(BoxesLabel(MAX_BOXES), make, tuple(groups))


def _ids(groups: Groups, names: Callable[[Scene], list[str]]) -> Truth:
    indices = _class_indices(groups)

    def make(scene: Scene, rendering: Rendering) -> dict[str, Any]:
        return {"ids": np.array([indices[name] for name in names(scene)], np.uint8)[rendering.surfaces]}

    return Truth(IdsLabel("ids"), make, tuple(groups))


def _things(scene: Scene) -> list[str]:
    return ["floor", "wall", "ceiling", *(item.shape for item in scene.items)]


def _patterns(scene: Scene) -> list[str]:
    return [surface.pattern for surface in (*scene.room_surfaces, *(item.surface for item in scene.items))]


def _depth(scene: Scene, rendering: Rendering) -> dict[str, Any]:
    return {"depth": rendering.depth_m, "valid": np.ones_like(rendering.depth_m)}


def _normals(scene: Scene, rendering: Rendering) -> dict[str, Any]:
    return {"normals": rendering.normals, "valid": np.ones_like(rendering.depth_m)}


def _each(names: tuple[str, ...]) -> Groups:
    return {name: (name,) for name in names}


_ROOM = _each(("floor", "wall", "ceiling"))
_GROUPS = {
    "round": ("sphere", "cylinder"),
    "boxy": ("cube", "hexagon"),
    "pointed": ("cone", "pyramid", "octahedron", "tent"),
}
_HELD_OUT_GROUPS = {
    "curved": ("dome", "barrel", "column"),
    "low": ("slab", "ramp"),
    "angular": ("frustum", "tetrahedron", "house"),
}
_DEPTH = {"depth": Truth(ScalarsLabel("depth", "m"), _depth)}
_NORMALS = {"normals": Truth(DirectionsLabel("normals"), _normals)}

_TEACHER = {"train": 2000, "validation": 300, "test": 100}
_DOWNSTREAM = {"train": 320, "validation": 150, "test": 400}
_TINY = {"train": 48, "validation": 16, "test": 16}


def _teacher(domain: Domain, truths: Mapping[str, Truth]) -> SceneConfig:
    return SceneConfig((domain,), truths, _TEACHER)


def _downstream(domain: Domain, truths: Mapping[str, Truth]) -> SceneConfig:
    return SceneConfig((domain,), truths, _DOWNSTREAM)


CONFIGS: dict[str, SceneConfig] = {
    "upstream": SceneConfig(
        (single(UPSTREAM),),
        {"classification": _shape(_each(UPSTREAM.shapes))},
        {"train": 16_000, "validation": 500, "test": 100},
    ),
    "teacher_classification": _teacher(single(TRAINING), {"classification": _shape(_each(TRAINING.shapes))}),
    "teacher_detection": _teacher(TRAINING, {"detection": _boxes(_GROUPS)}),
    "teacher_segmentation": _teacher(TRAINING, {"segmentation": _ids({**_ROOM, **_GROUPS}, _things)}),
    "teacher_depth": _teacher(TRAINING, _DEPTH),
    "teacher_normals": _teacher(TRAINING, _NORMALS),
    "unlabelled": SceneConfig((TRAINING, single(TRAINING), TRAINING), {}, {"train": 8000}),
    "downstream_classification": _downstream(single(HELD_OUT), {"classification": _shape(_each(HELD_OUT.shapes))}),
    "downstream_detection": _downstream(HELD_OUT, {"detection": _boxes(_HELD_OUT_GROUPS)}),
    "downstream_segmentation": _downstream(HELD_OUT, {"segmentation": _ids({**_ROOM, **_HELD_OUT_GROUPS}, _things)}),
    "downstream_materials": _downstream(MATERIALS, {"segmentation": _ids(_each(MATERIALS.item.patterns), _patterns)}),
    "downstream_depth": _downstream(HELD_OUT, _DEPTH),
    "downstream_normals": _downstream(HELD_OUT, _NORMALS),
}
CONFIGS |= {
    f"{name}_tiny": replace(config, images=_TINY if "test" in config.images else {"train": 64})
    for name, config in CONFIGS.items()
}


def render_image(name: str, split: str, index: int) -> tuple[Scene, Rendering]:
    """One image of a config: a function of (SEED, config, split, index) only."""
    config = CONFIGS[name]
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), SPLITS.index(split), index])
    scene = sample_scene(rng, config.domains[index % len(config.domains)])
    return scene, render(scene, scene.camera, config.image_size, config.image_size, rng)


def encode_examples(name: str, split: str, indices: range) -> list[dict[str, Any]]:
    """Rendered images with their labels, in the form that the dataset's TFDS features take."""
    examples = []
    for index in indices:
        scene, rendering = render_image(name, split, index)
        _, jpeg = cv2.imencode(".jpg", rendering.image[..., ::-1], _JPEG)
        example: dict[str, Any] = {"image": jpeg.tobytes(), "name": f"{name}-{split}-{index:06d}"}
        for task, truth in CONFIGS[name].truths.items():
            example[task] = truth.kind.encode(truth.make(scene, rendering))
        examples.append(example)
    return examples
