"""Bytes an image and loss of precision of every label encoding, against raw float arrays.

python benchmarks/label_encoding.py [--model=runs/quickstart/student] [--others] [--distributions]

(a) Scenes rendered at 256x256 pixels, with their exact truth at stride 4, as the label stage stores maps.
(b) The same scenes at 640x640 pixels.
(c) The photographs inside scikit-image's wheel, enlarged until the longer side has 640 pixels. Their maps are those of
    a model when its run is given, which then sees 640x640 pixels, whatever it was trained with. Without a model they
    come from the photograph's own luminance at stride 4: depth is proportional to it, normals are those of that
    surface, ids are eight steps of it. Such maps are rougher than what a model says, and need more bytes.
    One of them, motorcycle_left.png, comes with the depth that a stereo rig measured, whose size is told as well.
(d) With --others: pictures of the depth and normals of (c) by other encodings that were considered, framing left out.
(e) With --distributions, and nothing else: distributions over many classes, whole and as their k largest probabilities
    with the rest spread evenly. They are drawn as a softmax of normal logits, whose deviation says how sure the teacher
    is. The divergence (Kullback-Leibler, in nats) is that of what a student reads from what the teacher said, and from
    what the rule makes of it, which is the part of storing.

Stored bytes are those of a record in an ArrayRecord shard of 1000 records, framing included.
Distributions over 1000 classes are drawn (a softmax of normal logits), as are the 20 boxes of a photograph: their size
does not depend on the image. Raw arrays hold 4 bytes a number. Times are CPU milliseconds an image on one core. The
confidence that segmentation keeps on request is listed, and counts in no sum. Needs pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import io
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from must_jax import trained
from must_jax.data import map_pictures, scenes
from must_jax.data.augment import letterbox_geometry, resized
from must_jax.data.decoding import decode_image
from must_jax.data.kinds import (
    BoxesLabel,
    DirectionsLabel,
    IdsLabel,
    Label,
    LabelKind,
    MapLabel,
    ScalarsLabel,
    VectorLabel,
)
from must_jax.data.kinds.values import SCALAR_STEPS
from must_jax.data.letterbox import content_of
from must_jax.tasks import build_task

CLASSES, BOXES, STRIDE = 1000, 20, 4
KEPT = "segmentation, confidence kept"
KINDS: dict[str, LabelKind] = {
    "classification": VectorLabel(CLASSES),
    "detection": BoxesLabel(BOXES),
    "segmentation": IdsLabel("ids"),
    "depth": ScalarsLabel("depth", "m"),
    "normals": DirectionsLabel("normals"),
    KEPT: IdsLabel("ids", confidence=True),
}
SCENES, SCENE_SIZE, SIZE = 24, 256, 640
STEREO = "motorcycle_disp.npz"  # disparity in pixels of motorcycle_left.png (Scharstein et al. 2014)
STEREO_M, STEREO_OFFSET = (
    0.193001 * 994.978,
    31.086,
)  # baseline * focal length, doffs: depth_m = M / (disparity + OFFSET)
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
GOAL_BYTES = 40_000  # an image of SIZE pixels, all five tasks
GOALS = {  # loss -> its unit and the most that may be
    "depth": ("of the range, at most", 1 / 65535),
    "normals": ("degrees on average", 0.5),
    "detection": (f"px of {SIZE}, at most", 0.1),
    "classification": ("total variation, at most", 0.005),
}
SHARD, REPEATS = 1000, 5
MANY, DEVIATIONS, KEEP, DRAWN = (1000, 21_841), (3.0, 5.0, 8.0), (0, 10, 20, 50, 100, 250), 50

Labels = Mapping[str, Label]  # of one image, by task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a finished training run that makes the maps of (c)")
    parser.add_argument("--others", action="store_true", help="print table (d), too")
    parser.add_argument("--distributions", action="store_true", help="print table (e) alone")
    args = parser.parse_args()
    if args.distributions:
        report_distributions()
        return
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("scikit-image is missing, whose photographs are labelled here; pip install -e '.[bench]'")
    cv2.setNumThreads(1)

    data = Path(found.origin).parent / "data"
    small, _ = report(f"(a) {SCENES} scenes, {SCENE_SIZE}x{SCENE_SIZE} pixels", scene_labels(SCENE_SIZE), SCENE_SIZE)
    large, of_scenes = report(f"(b) {SCENES} scenes, {SIZE}x{SIZE} pixels", scene_labels(SIZE), SIZE)
    print()
    images = {name: photograph(data / name) for name in PHOTOGRAPHS}
    labels = model_labels(args.model, images) if args.model else luminance_labels(images)
    maker = args.model or "their luminance"
    title = f"(c) {len(images)} photographs, longer side {SIZE} pixels, maps by {maker}"
    photographs, sizes = report(title, labels, SIZE)
    smallest, largest = min(images, key=sizes.__getitem__), max(images, key=sizes.__getitem__)
    print(f"from {sizes[smallest] / 1000:.1f} kB ({smallest}) to {sizes[largest] / 1000:.1f} kB ({largest})")
    stereo = measured_depth(data / STEREO)
    height, width = stereo["depth"].shape
    size = len(KINDS["depth"].encode(stereo)["depth"])
    print(f"depth of motorcycle_left.png as measured by stereo, {width}x{height} cells: {size:,} bytes\n")
    if args.others:
        report_others(labels)

    for what, found_sizes in {"exact maps (b)": of_scenes, f"maps by {maker} (c)": sizes}.items():
        mean = sum(found_sizes.values()) / len(found_sizes)
        print(f"{what}: {mean / 1000:.1f} kB an image (goal: at most {GOAL_BYTES / 1000:g}: {_met(mean, GOAL_BYTES)})")
    for task, (unit, goal) in GOALS.items():
        worst = max(small[task], large[task], photographs[task])
        print(f"{task}: {worst:.3g} {unit} (goal: {goal:.3g}: {_met(worst, goal)})")


def report(title: str, labels: Mapping[str, Labels], image_size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Prints a table. Returns the loss that a goal is set for by task, and the bytes of all five tasks by image."""
    print(f"{title}\n{'':30}{'full size':>10}{'stride 4':>10}{'stored':>9}{'share':>7}{'write':>9}{'read':>9}   loss")
    losses, totals, sizes = {}, np.zeros(5), dict.fromkeys(labels, 0.0)
    for task, kind in KINDS.items():
        features = tfds.features.FeaturesDict(kind.features())
        rows, told, records = [], [], []
        for of_image in labels.values():
            label = of_image[task]
            stored = kind.encode(label)
            encoded = features.encode_example(stored)  # what a reader gets, images not yet decoded
            write = _milliseconds(functools.partial(kind.encode, label))
            read = _milliseconds(functools.partial(kind.decode, encoded))
            records.append(features.serialize_example(stored))
            rows.append([*raw_bytes(kind, label, image_size), len(records[-1]), write, read])
            told.append(loss(kind, label, kind.decode(encoded)))
        row = np.mean(rows, axis=0)
        framing = bytes_on_disk(records) - row[2]
        row[2] += framing
        losses[task], text = summary(kind, np.array(told))
        _print_row(task, row, text)
        if task != KEPT:
            totals += row
            sizes = {name: sizes[name] + len(record) + framing for name, record in zip(labels, records, strict=True)}
    _print_row("all five tasks", totals, "")
    steps = np.median([_roughness(of_image["depth"]["depth"]) for of_image in labels.values()])
    print(f"half of all depths are over {steps:,.0f} of {SCALAR_STEPS:,} steps off their neighbours' mean")
    return losses, sizes


def raw_bytes(kind: LabelKind, label: Label, image_size: int) -> tuple[float, float]:
    """Of plain arrays of the label: with maps at the image's size, and as they are."""
    raw = sum(4 * value.size for name, value in label.items() if name not in ("present", "valid"))
    if not isinstance(kind, MapLabel):
        return raw, raw
    return raw * (image_size / max(label[kind.field].shape[:2])) ** 2, raw


def bytes_on_disk(records: Sequence[bytes]) -> float:
    """Of a record in a shard of the label stage's usual length."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in itertools.islice(itertools.cycle(records), SHARD):
            writer.write(record)
        writer.close()
        return path.stat().st_size / SHARD


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


def report_distributions() -> None:
    """Prints table (e)."""
    head = f"{'stored':>8}{'write':>9}{'read':>9}{'divergence':>12}{'by storing':>13}{'top 1':>7}"
    print(f"(e) {f'{DRAWN} distributions each':39}{head}")
    for classes, deviation in itertools.product(MANY, DEVIATIONS):
        drawn = [distribution(np.random.default_rng(index), classes, deviation) for index in range(DRAWN)]
        surest = np.mean([label["probs"].max() for label in drawn])
        for keep in KEEP:
            task = build_task("classification", [str(i) for i in range(classes)], {"top_k": keep})
            features, rows, records = tfds.features.FeaturesDict(task.answer.features()), [], []
            for label in drawn:
                ruled = task.pseudo_label(label)
                records.append(_written(task.answer, ruled))
                encoded = features.encode_example(task.answer.encode(ruled))
                read = task.answer.decode(encoded)["probs"]
                write_ms = _milliseconds(lambda: _written(task.answer, ruled), repeats=2)  # noqa: B023
                read_ms = _milliseconds(functools.partial(task.answer.decode, encoded), repeats=2)
                of_all, of_storing = divergence(label["probs"], read), divergence(ruled["probs"], read)
                rows.append((write_ms, read_ms, of_all, of_storing, read.argmax() == label["probs"].argmax()))
            write_ms, read_ms, of_all, of_storing, same = np.mean(rows, axis=0)
            which = f"{classes:6,} classes, the surest {surest:4.0%}, " + (f"top_k {keep}" if keep else "all")
            figures = f"{bytes_on_disk(records):8,.0f}{write_ms:6.2f} ms{read_ms:6.2f} ms"
            print(f"{which:43}{figures}{of_all:12.2g}{of_storing:13.1g}{same:7.0%}", flush=True)


def _written(kind: LabelKind, label: Label) -> bytes:
    return kind.serialize(kind.encode(label))


def divergence(said: np.ndarray, read: np.ndarray) -> float:
    """Kullback-Leibler's, in nats, of distributions f32[K]; what is read as 0 counts as the least that 16 bits hold."""
    said, read = said.astype(np.float64) / said.sum(dtype=np.float64), np.maximum(read.astype(np.float64), 2.0**-25)
    known = said > 0
    return float((said[known] * np.log(said[known] / (read / read.sum())[known])).sum())


def report_others(labels: Mapping[str, Labels]) -> None:
    """Prints table (d)."""
    print(f"(d) other encodings of the same maps\n{'':44}{'bytes':>8}{'write':>9}{'read':>9}")
    for task, encoders in OTHERS.items():
        kind = KINDS[task]
        for name, encode in encoders.items():
            rows = []
            for of_image in labels.values():
                label = of_image[task]
                values = label[task] if "components" in name else map_pictures.codes(kind.encode(label)[task])
                data = np.frombuffer(encode(values), np.uint8)
                write = _milliseconds(functools.partial(encode, values), repeats=2)
                read = _milliseconds(functools.partial(cv2.imdecode, data, cv2.IMREAD_UNCHANGED))
                rows.append((len(data), write, read))
            size, write, read = np.mean(rows, axis=0)
            print(f"{task + ': ' + name:44}{size:8,.0f}{write:6.2f} ms{read:6.2f} ms", flush=True)
    print()


def _opencv(suffix: str, values: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(values), options)[1].tobytes()


def _png_before(values: np.ndarray) -> bytes:
    return _opencv(".png", values, cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def _png_smallest(values: np.ndarray) -> bytes:
    """By any filter and strategy."""
    filters = (cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_ALL_FILTERS)
    strategies = cv2.IMWRITE_PNG_STRATEGY_DEFAULT, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, cv2.IMWRITE_PNG_STRATEGY_RLE
    options = [
        (cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, filter_, cv2.IMWRITE_PNG_STRATEGY, strategy)
        for filter_ in filters
        for strategy in strategies
    ]
    return min((_opencv(".png", values, *each) for each in options), key=len)


def _planes(codes: np.ndarray) -> np.ndarray:
    """u16[h, w] -> u8[2 h, w], high bytes above low ones."""
    return np.concatenate([codes >> 8, codes & 255]).astype(np.uint8)


def _differences(codes: np.ndarray) -> np.ndarray:
    """Of each code to what those left, above and above left make one expect, modulo 65536, small ones near 32768."""
    return np.diff(np.diff(codes, axis=0, prepend=np.uint16(0)), axis=1, prepend=np.uint16(0)) + np.uint16(32768)


def _components(vectors: np.ndarray) -> np.ndarray:
    return (128 + np.rint(127 * vectors)).astype(np.uint8)


def _webp(values: np.ndarray, *, quality: int = 0, method: int = 1) -> bytes:
    if values.ndim == 2:
        values = np.stack([values >> 8, values & 255, np.zeros_like(values)], -1).astype(np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(values).save(out, "WEBP", lossless=True, quality=quality, method=method)
    return out.getvalue()


OTHERS: dict[str, dict[str, Callable[[np.ndarray], bytes]]] = {
    "depth": {
        "WebP, as stored": map_pictures.webp,
        "WebP, more effort": functools.partial(_webp, quality=75, method=3),
        "WebP of differences": lambda codes: _webp(_differences(codes)),
        "16-bit PNG, as before": _png_before,
        "16-bit PNG, smallest": _png_smallest,
        "PNG of two planes, smallest": lambda codes: _png_smallest(_planes(codes)),
        "PNG of two planes of differences": lambda codes: _png_smallest(_planes(_differences(codes))),
        "JPEG 2000": lambda codes: _opencv(".jp2", codes, cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000),
    },
    "normals": {
        "WebP, as stored": map_pictures.webp,
        "PNG of two planes, smallest": lambda codes: _png_smallest(_planes(codes)),
        "PNG of three components, as before": lambda vectors: _png_before(_components(vectors)),
        "WebP of three components": lambda vectors: _webp(_components(vectors)),
    },
}


def scene_labels(size: int) -> dict[str, Labels]:
    side, labels = size // STRIDE, {}
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


def measured_depth(path: Path) -> Label:
    """A measured depth map at stride 4 of SIZE pixels; cells that are not wholly known are invalid."""
    disparity = np.load(path)["arr_0"]
    known = np.isfinite(disparity)
    depth_m = np.where(known, STEREO_M / (np.where(known, disparity, 1) + STEREO_OFFSET), 0).astype(np.float32)
    size = tuple(round(side * SIZE / STRIDE / max(disparity.shape)) for side in reversed(disparity.shape))
    cells, share = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (depth_m, known.astype(np.float32)))
    return {"depth": cells, "valid": (share > 0.999).astype(np.float32)}


def model_labels(run: str, images: Mapping[str, np.ndarray]) -> dict[str, Labels]:
    """Maps as the label stage stores them, by a model that sees SIZE pixels."""
    model = dataclasses.replace(trained.load(run), image_size=SIZE)
    labels = {}
    for index, (name, image) in enumerate(images.items()):
        geometry = letterbox_geometry(image.shape[:2], (SIZE, SIZE))
        content_hw = geometry.y.out_length, geometry.x.out_length
        predicted = model.predict_batch(resized(geometry, image)[None])
        maps: dict[str, Label] = {}
        for task in (task for task in model.tasks.values() if isinstance(task.label, MapLabel)):
            rule = task.model_copy(update={"keep_confidence": True} if task.label.content == "ids" else {})
            label = rule.pseudo_label({key: value[0] for key, value in predicted[task.name].items()})
            maps[task.name] = rule.label.cut_padding(label, content_of(content_hw, (SIZE, SIZE)))
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


def distribution(rng: np.random.Generator, classes: int = CLASSES, deviation: float = 3.0) -> Label:
    exponentials = np.exp(rng.normal(0, deviation, classes))
    return {"probs": (exponentials / exponentials.sum()).astype(np.float32)}


def _roughness(depth: np.ndarray) -> float:
    """Median distance of a cell from the mean of those above, below, left and right, in steps of the encoding."""
    around = (depth[:-2, 1:-1] + depth[2:, 1:-1] + depth[1:-1, :-2] + depth[1:-1, 2:]) / 4
    return float(np.median(np.abs(depth[1:-1, 1:-1] - around)) / np.ptp(depth) * SCALAR_STEPS)


def _milliseconds(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """CPU time of the fastest of some calls."""
    times = []
    for _ in range(repeats):
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
