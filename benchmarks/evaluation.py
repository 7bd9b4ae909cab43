"""Evaluation: what is fetched from the devices, and what an image costs the host.

python benchmarks/evaluation.py [--sides=640,1600] [--image-size=640] [--classes=150] [--images=8] [--tasks=...]

Random predictions stand for a network's, so that nothing but the measurement counts: heads at stride 4, `--classes`
classes, 100 boxes. The truths are ready in memory. Every row is of one task, or of all, and one side of the truth
(3/4 as high as wide). Bytes are those that `jax.device_get` takes from devices. CPU seconds are those of the process;
compilation and the predictions themselves are left out. On a CPU they include what the "device" does; cutting truths
into tiles is what the host does in any case. With --boxes=5000 also what the boxes of as many images take, 100 found
and 7 true ones of 80 classes (Linux).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from must_jax.engine.counting import Counting
from must_jax.engine.measuring import evaluate
from must_jax.engine.mesh import make_mesh, put_replicated, setup_devices
from must_jax.engine.step import make_predict_step
from must_jax.models.heads import detector_points
from must_jax.tasks import TASKS, build_task

MEASURED = [name for name, kind in TASKS.items() if not kind.self_supervised]

fetched = 0
cut_seconds = 0.0


def watch_fetches() -> None:
    """Counts the bytes of every array of a device that the host asks for."""
    inner = jax.device_get

    def device_get(tree: Any) -> Any:
        global fetched
        fetched += sum(x.nbytes for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))
        return inner(tree)

    jax.device_get = device_get


def watch_cuts() -> None:
    """Counts the time in which threads cut truths into tiles, which is what maps cost the host."""
    inner = Counting.cut

    def cut(*given: Any) -> Any:
        global cut_seconds
        began = time.thread_time()
        tiles = inner(*given)
        cut_seconds += time.thread_time() - began
        return tiles

    Counting.cut = cut


def outputs_of(task: Any, batch: int, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Raw outputs as a head gives them."""
    classes, side, cells = len(task.classes), size // 4, len(detector_points((size, size))[1])

    def maps(channels: int) -> np.ndarray:
        coarse = rng.normal(size=(batch, 8, 8, channels)).astype(np.float32) * 3
        return np.asarray(jax.image.resize(coarse, (batch, side, side, channels), "linear"))

    match task.name:
        case "classification":
            return {"logits": rng.normal(size=(batch, classes)).astype(np.float32)}
        case "detection":
            return {
                "class_logits": rng.normal(size=(batch, cells, classes)).astype(np.float32),
                "box_ltrb": rng.uniform(0.5, 4, (batch, cells, 4)).astype(np.float32),
                "centerness": rng.normal(size=(batch, cells)).astype(np.float32),
            }
        case "segmentation":
            return {"maps": maps(classes)}
        case "depth":
            return {"maps": maps(1) / 6}
    return {"maps": maps(3)}


def label_of(task: Any, hw: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    classes = len(task.classes)
    cells = np.arange(hw[0])[:, None] * 16 // hw[0], np.arange(hw[1])[None] * 16 // hw[1]
    valid = np.ones(hw, np.float32)
    valid[: hw[0] // 20] = 0
    fields: dict[str, Any] = {}
    match task.name:
        case "classification":
            fields = {"probs": np.eye(classes, dtype=np.float32)[rng.integers(classes)]}
        case "detection":
            low = rng.uniform(0, 0.8, (100, 2)).astype(np.float32)
            ones = (np.arange(100) < 20).astype(np.float32)
            boxes = np.concatenate([low, low + np.float32(0.1)], 1)
            fields = {"boxes_yxyx": boxes, "classes": rng.integers(0, classes, 100).astype(np.int32)}
            fields |= {"scores": ones, "valid": ones, "ignore": 0 * ones}
        case "segmentation":
            fields = {"ids": rng.integers(0, classes, (16, 16)).astype(np.int32)[cells]}
        case "depth":
            fields = {"depth": rng.uniform(1, 8, (16, 16)).astype(np.float32)[cells], "valid": valid}
        case "normals":
            vectors = rng.normal(size=(16, 16, 3)).astype(np.float32)
            fields = {"normals": (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))[cells], "valid": valid}
    return fields | {"present": np.float32(1)}


def measure(names: list[str], side: int, options: argparse.Namespace) -> dict[str, Any]:
    """One evaluation of `images` images, after one that compiles."""
    rng, size, mesh = np.random.default_rng(0), options.image_size, make_mesh(0, [options.batch])
    classes = [f"class {i}" for i in range(options.classes)]
    tasks = {name: build_task(name, classes if TASKS[name].has_classes else ()) for name in names}
    outputs = {name: outputs_of(task, options.batch, size, rng) for name, task in tasks.items()}
    predict = make_predict_step(lambda variables, batch, train: (batch["outputs"], {}), tasks, (size, size), mesh)
    hw = (side * 3 // 4, side)
    labels = [{name: label_of(task, hw, rng) for name, task in tasks.items()} for _ in range(options.batch)]
    about = {"mask": np.ones(options.batch), "content_hw": np.tile([size * 3 // 4, size], (options.batch, 1))}
    placed = jax.device_put(outputs, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names)))

    def once(images: int) -> Any:
        batches = (
            {"outputs": placed, **about, "index": np.arange(options.batch)} for _ in range(images // options.batch)
        )
        return evaluate(
            predict, put_replicated(mesh, {}), batches, lambda index: labels[index], tasks, (size, size), mesh
        )

    global fetched, cut_seconds
    once(options.batch)
    fetched, cut_seconds, began, cpu = 0, 0.0, time.perf_counter(), time.process_time()
    found = once(options.images)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.process_time()
    for _ in range(options.images // options.batch):
        jax.block_until_ready(predict({}, {"outputs": placed}))
    return {
        "bytes": fetched / options.images,
        "seconds": seconds / options.images,
        "cpu_seconds": (cpu - (time.process_time() - began)) / options.images,
        "cut_seconds": cut_seconds / options.images,
        "metrics": found.metrics,
    }


def resident_bytes(name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


def boxes_of(images: int) -> dict[str, Any]:
    """Memory and time of average precision over this many images."""
    rng, classes = np.random.default_rng(0), 80
    metrics = build_task("detection", [str(index) for index in range(classes)]).metrics()
    before, began = resident_bytes("VmRSS"), time.process_time()
    for _ in range(images):
        low = rng.uniform(0, 0.7, (107, 2)).astype(np.float32)
        boxes, of_class = (
            np.concatenate([low, low + np.float32(0.3)], 1),
            rng.integers(0, classes, 107).astype(np.int32),
        )
        scores, ones = rng.random(107).astype(np.float32), np.ones(107, np.float32)
        box = {"boxes_yxyx": boxes, "classes": of_class, "scores": scores, "valid": ones, "ignore": 0 * ones}
        found, truth = ({key: value[some] for key, value in box.items()} for some in (slice(7, None), slice(0, 7)))
        metrics.update(found, truth | {"present": np.float32(1)})
    kept, updates = resident_bytes("VmRSS") - before, time.process_time() - began
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    result, seconds = metrics.result(), time.process_time() - began - updates
    peak = resident_bytes("VmHWM") - before
    figures = {"kept_bytes": kept, "peak_bytes": peak, "update_seconds": updates, "result_seconds": seconds}
    return {"images": images, **figures, "ap50": result["ap50"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="640,1600")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tasks", default=f"{','.join(MEASURED)},all")
    parser.add_argument("--boxes", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON line for each row, with the metrics")
    options = parser.parse_args()
    setup_devices()
    watch_fetches()
    watch_cuts()
    print(f"{jax.device_count()} {jax.default_backend()} devices, {options.image_size} px, {options.classes} classes")
    print(f"{'task':16}{'truth':>12}{'fetched/image':>16}{'s/image':>10}{'CPU s/image':>13}{'for cutting':>13}")
    for side in map(int, options.sides.split(",")):
        for name in filter(None, options.tasks.split(",")):
            found = measure(MEASURED if name == "all" else [name], side, options)
            truth = f"{side * 3 // 4} x {side}"
            row = f"{name:16}{truth:>12}{found['bytes']:>16,.0f}{found['seconds']:>10.4f}{found['cpu_seconds']:>13.4f}"
            row += f"{found['cut_seconds']:>13.4f}"
            print(json.dumps({"task": name, "side": side, **found}) if options.json else row, flush=True)
    if options.boxes:
        print(json.dumps(boxes_of(options.boxes)))


if __name__ == "__main__":
    main()
