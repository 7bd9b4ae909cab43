"""Bytes an image and loss of precision of every label encoding, against raw float arrays.

python benchmarks/label_encoding.py [--model=runs/quickstart/student]

(a) Scenes rendered at 256x256 pixels, with their exact truth at stride 4, as the label stage stores maps.
(b) The photographs inside scikit-image's wheel, enlarged until the longer side has 640 pixels. Their maps are those of
    a model when its run is given, which then sees 640x640 pixels, whatever it was trained with. Without a model they
    come from the photograph's own luminance at stride 4: depth is proportional to it, normals are those of that
    surface, ids are eight steps of it. Such maps are rougher than what a model says, and need more bytes.

Distributions over 1000 classes are drawn (a softmax of normal logits), as are the 20 boxes of a photograph: their size
does not depend on the image. Raw arrays hold 4 bytes a number. Times are CPU milliseconds an image on one core. The
confidence that segmentation keeps on request is listed, and counts in no sum. Needs pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from must_jax import trained
from must_jax.data import encodings, scenes
from must_jax.data.augment import apply as place
from must_jax.data.augment import letterbox_geometry
from must_jax.data.encodings import Label
from must_jax.data.image_sets import decode_image
from must_jax.data.kinds import BoxesLabel, LabelKind, MapLabel, VectorLabel
from must_jax.labels.letterbox import cut_padding

CLASSES, BOXES, STRIDE = 1000, 20, 4
KEPT = "segmentation, confidence kept"
KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(CLASSES),
    "detection": BoxesLabel(BOXES),
    "segmentation": MapLabel("ids", "ids"),
    "depth": MapLabel("depth", "scalar", "m"),
    "normals": MapLabel("normals", "vector"),
    KEPT: MapLabel("ids", "ids", confidence=True),
}
SCENES, SCENE_SIZE, SIZE = 24, 256, 640
PHOTOGRAPHS = (  # all in the wheel but microscopy, astronomy, scans and drawings
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
GOAL_BYTES = 40_000  # an image of (b), all five tasks
GOALS = {  # loss -> its unit and the most that may be
    "depth": ("of the range, at most", 1 / 65535),
    "normals": ("degrees on average", 0.5),
    "detection": (f"px of {SIZE}, at most", 0.1),
    "classification": ("total variation, at most", 0.005),
}
REPEATS = 5

Labels = Mapping[str, Label]  # of one image, by task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a finished training run that makes the maps of (b)")
    args = parser.parse_args()
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("scikit-image is missing, whose photographs are labelled here; pip install -e '.[bench]'")
    cv2.setNumThreads(1)

    of_scenes, _ = report(f"(a) {SCENES} scenes, {SCENE_SIZE}x{SCENE_SIZE} pixels", scene_labels(), SCENE_SIZE)
    images = {name: photograph(Path(found.origin).parent / "data" / name) for name in PHOTOGRAPHS}
    labels = model_labels(args.model, images) if args.model else luminance_labels(images)
    maker = args.model or "their luminance"
    title = f"(b) {len(images)} photographs, longer side {SIZE} pixels, maps by {maker}"
    of_photographs, sizes = report(title, labels, SIZE)
    smallest, largest = min(images, key=sizes.__getitem__), max(images, key=sizes.__getitem__)
    print(f"from {sizes[smallest] / 1000:.1f} kB ({smallest}) to {sizes[largest] / 1000:.1f} kB ({largest})\n")

    mean, goal = sum(sizes.values()) / len(sizes), GOAL_BYTES / 1000
    print(f"all five tasks, (b): {mean / 1000:.1f} kB an image (goal: at most {goal:g}: {_met(mean, GOAL_BYTES)})")
    for task, (unit, goal) in GOALS.items():
        worst = max(of_scenes[task], of_photographs[task])
        print(f"{task}: {worst:.3g} {unit} (goal: {goal:.3g}: {_met(worst, goal)})")


def report(title: str, labels: Mapping[str, Labels], image_size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Prints a table. Returns the loss that a goal is set for by task, and the bytes of all five tasks by image."""
    print(f"{title}\n{'':30}{'full size':>10}{'stride 4':>10}{'stored':>9}{'share':>7}{'write':>9}{'read':>9}   loss")
    losses, totals, sizes = {}, np.zeros(5), dict.fromkeys(labels, 0.0)
    for task, kind in KINDS.items():
        rows, told = [], []
        for name, of_image in labels.items():
            row, decoded = measure(kind, of_image[task], image_size)
            rows.append(row)
            told.append(loss(kind, of_image[task], decoded))
            sizes[name] += row[2] * (task != KEPT)
        row = np.mean(rows, axis=0)
        totals += row * (task != KEPT)
        losses[task], text = summary(kind, np.array(told))
        _print_row(task, row, text)
    _print_row("all five tasks", totals, "")
    steps = np.median([_roughness(of_image["depth"]["depth"]) for of_image in labels.values()])
    print(f"half of all depths lie more than {steps:,.0f} of the 65,534 steps from the mean of their neighbours")
    return losses, sizes


def measure(kind: LabelKind, label: Label, image_size: int) -> tuple[list[float], Label]:
    """Bytes raw at full size, raw as labelled, stored; milliseconds to write and to read; and the label read."""
    arrays = [value for name, value in label.items() if name not in ("present", "valid")]
    raw = sum(4 * value.size for value in arrays)
    full = raw
    if isinstance(kind, MapLabel):
        longer = max(label[kind.field].shape[:2])
        full = raw * (image_size / longer) ** 2
    features = tfds.features.FeaturesDict(encodings.features(kind))
    record = features.encode_example(encodings.encode(kind, label))
    stored = len(features.serialize_example(encodings.encode(kind, label)))
    write = _milliseconds(lambda: encodings.encode(kind, label))
    read = _milliseconds(lambda: encodings.decode(kind, record))
    return [full, raw, stored, write, read], encodings.decode(kind, record)


def loss(kind: LabelKind, label: Label, decoded: Label) -> tuple[float, float]:
    """What storing cost: of vectors mean and largest angle in degrees; of all others the largest error, twice."""
    match kind:
        case VectorLabel():
            error = 0.5 * np.abs(decoded["probs"].astype(np.float64) - label["probs"]).sum()
        case BoxesLabel():
            error = SIZE * np.abs(decoded["boxes_yxyx"] - label["boxes_yxyx"]).max()
        case MapLabel(content="scalar"):
            depth = label[kind.field].astype(np.float64)
            error = np.abs(decoded[kind.field] - depth).max() / np.ptp(depth)
        case MapLabel(content="vector"):
            chord = np.linalg.norm(decoded[kind.field].astype(np.float64) - label[kind.field], axis=-1)
            angles_deg = np.degrees(2 * np.arcsin(chord / 2))
            return float(angles_deg.mean()), float(angles_deg.max())
        case _:
            error = np.mean(decoded[kind.field] != label[kind.field])
            if kind.confidence:
                error = max(error, np.abs(decoded["confidence"] - label["confidence"]).max())
    return float(error), float(error)


def summary(kind: LabelKind, losses: np.ndarray) -> tuple[float, str]:
    """Over images: the loss that goals are set for, and how it is told."""
    largest = losses[:, 1].max()
    match kind:
        case VectorLabel():
            return largest, f"total variation {largest:.5f}"
        case BoxesLabel():
            return largest, f"{largest:.5f} px"
        case MapLabel(content="scalar"):
            return largest, f"1 / {1 / largest:,.0f} of the range"
        case MapLabel(content="vector"):
            return losses[:, 0].mean(), f"{losses[:, 0].mean():.3f}°, at most {largest:.2f}°"
    return largest, "none" if largest == 0 else f"{largest:.4f}"


def scene_labels() -> dict[str, Labels]:
    side, labels = SCENE_SIZE // STRIDE, {}
    for index in range(SCENES):
        rng = np.random.default_rng(index)
        scene = scenes.sample_scene(rng, scenes.TRAINING)
        truth = scenes.render(scene, scene.camera, side, side, rng)
        valid = np.ones((side, side), np.float32)
        boxes = {"boxes_yxyx": truth.boxes_yxyx, "classes": truth.box_items, "scores": np.ones(len(truth.box_items))}
        ids = truth.surfaces.astype(np.int32)
        labels[str(index)] = {
            "classification": distribution(rng),
            "detection": boxes,
            "segmentation": {"ids": ids},
            "depth": {"depth": truth.depth_m, "valid": valid},
            "normals": {"normals": truth.normals, "valid": valid},
            KEPT: {"ids": ids, "confidence": np.ones((side, side), np.float32)},
        }
    return labels


def photograph(path: Path) -> np.ndarray:
    """u8[h, w, 3], the longer side of SIZE pixels."""
    image = decode_image(path.read_bytes())
    height, width = (round(side * SIZE / max(image.shape[:2])) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def model_labels(run: str, images: Mapping[str, np.ndarray]) -> dict[str, Labels]:
    """Maps as the label stage stores them, by a model that sees SIZE pixels."""
    model = dataclasses.replace(trained.load(run), image_size=SIZE)
    labels = {}
    for index, (name, image) in enumerate(images.items()):
        geometry = letterbox_geometry(image.shape[:2], SIZE)
        content_hw = geometry.y.out_length, geometry.x.out_length
        predicted = model.predict_batch(place(geometry, image, {}, {}, 0)[0][None])
        maps: dict[str, Label] = {}
        for task in (task for task in model.tasks.values() if isinstance(task.label, MapLabel)):
            rule = task.model_copy(update={"keep_confidence": True} if task.label.content == "ids" else {})
            label = rule.pseudo_label({key: value[0] for key, value in predicted[task.name].items()})
            maps[task.name] = cut_padding(rule.label, label, content_hw, SIZE)
        labels[name] = drawn(index) | maps | {KEPT: maps["segmentation"]}
        labels[name]["segmentation"] = {"ids": maps["segmentation"]["ids"]}
    return labels


def luminance_labels(images: Mapping[str, np.ndarray]) -> dict[str, Labels]:
    """The stand-in for a model's maps; see the top."""
    labels = {}
    for index, (name, image) in enumerate(images.items()):
        size = math.ceil(image.shape[1] / STRIDE), math.ceil(image.shape[0] / STRIDE)
        gray = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)
        luminance = cv2.resize(gray, size, interpolation=cv2.INTER_AREA) / 256
        slope_y, slope_x = np.gradient(8 * luminance)
        normals = np.stack([slope_x, slope_y, -np.ones_like(luminance)], -1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        valid = np.ones_like(luminance)
        ids = (8 * luminance).astype(np.int32)
        labels[name] = drawn(index) | {
            "segmentation": {"ids": ids},
            "depth": {"depth": 1 + 9 * luminance, "valid": valid},
            "normals": {"normals": normals, "valid": valid},
            KEPT: {"ids": ids, "confidence": np.abs(2 * (8 * luminance - ids) - 1)},
        }
    return labels


def drawn(index: int) -> dict[str, Label]:
    rng = np.random.default_rng(index)
    low, high = np.sort(rng.random((2, BOXES, 2), np.float32), axis=0)
    scores = rng.uniform(0.5, 1, BOXES).astype(np.float32)
    boxes = {"boxes_yxyx": np.concatenate([low, high], 1), "classes": rng.integers(0, 80, BOXES), "scores": scores}
    return {"classification": distribution(rng), "detection": boxes}


def distribution(rng: np.random.Generator) -> Label:
    exponentials = np.exp(rng.normal(0, 3, CLASSES))
    return {"probs": (exponentials / exponentials.sum()).astype(np.float32)}


def _roughness(depth: np.ndarray) -> float:
    """Median distance of a cell from the mean of those above, below, left and right, in steps of the encoding."""
    around = (depth[:-2, 1:-1] + depth[2:, 1:-1] + depth[1:-1, :-2] + depth[1:-1, 2:]) / 4
    return float(np.median(np.abs(depth[1:-1, 1:-1] - around)) / np.ptp(depth) * 65534)


def _milliseconds(call: Callable[[], Any]) -> float:
    """CPU time of the fastest of some calls."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1000 * min(times)


def _print_row(name: str, row: Sequence[float], loss: str) -> None:
    full, raw, stored, write, read = row
    figures = f"{full:10,.0f}{raw:10,.0f}{stored:9,.0f}{stored / raw:7.1%}{write:6.2f} ms{read:6.2f} ms"
    print(f"{name:30}{figures}   {loss}", flush=True)


def _met(value: float, goal: float) -> str:
    return "met" if value <= goal else f"missed by {value / goal - 1:.0%}"


if __name__ == "__main__":
    main()
