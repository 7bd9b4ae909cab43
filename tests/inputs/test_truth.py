"""True labels in every format: written from known labels, imported, read back from the column and in batches."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import true_sets
from true_sets import (
    BOXES_XYWH,
    CATEGORIES,
    NAMES,
    SIDE,
    blocks,
    imported,
    write_coco,
    write_images,
    write_palette_png,
    write_png,
)

from must_jax.config import AugmentConfig, PrepareConfig, SourceConfig, TruthConfig
from must_jax.data.batching import Source, eval_batches, train_batches
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.kinds import BoxesLabel, DirectionsLabel, IdsLabel, ScalarsLabel, VectorLabel, objects
from must_jax.data.preparing import prepare
from must_jax.data.sample import drawn
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.inputs import truth
from must_jax.inputs.sources import open_source
from must_jax.inputs.targets import build_tasks
from must_jax.labels import verify
from must_jax.labels.columns import LabelColumn
from must_jax.tasks import TASKS, build_task

Labels = Mapping[int, Mapping[str, np.ndarray]]  # by image; one that is not there has none


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return write_images(tmp_path / "images")


def in_batches(images: ImageSet, column: LabelColumn) -> Labels:
    """The labels as a training sees them, of the images that it sees as labelled."""
    task = build_task(column.task, column.classes)
    batches = train_batches(
        [Source(images, (column,))],
        {task.name: task.label},
        input_hw=(SIDE, SIDE),
        augment=AugmentConfig(flip=False),
        batch_size=len(images),
        seed=0,
    )
    batch = next(batches)
    assert sorted(batch["index"].tolist()) == list(range(len(images)))
    assert batch["mask"].all()
    labels = batch["labels"][task.name]
    rows = {int(index): row for row, index in enumerate(batch["index"])}
    return {
        index: {field: values[row] for field, values in labels.items()}
        for index, row in rows.items()
        if labels["present"][row]
    }


def test_class_folders(images: ImageSet, tmp_path: Path):
    column = imported(images, "classification", tmp_path / "c", format="class_folders")
    assert (column.kind, column.classes) == (VectorLabel(2), ("cat", "dog"))
    wanted = [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    np.testing.assert_array_equal([column[i]["probs"] for i in range(5)], wanted)
    seen = in_batches(images, column)
    np.testing.assert_array_equal([seen[i]["probs"] for i in range(5)], wanted)

    outer = imported(images, "classification", tmp_path / "o", format="class_folders", options={"level": 0})
    assert outer.classes == ("train",)
    given = {"classes": ("dog", "cow", "cat")}
    listed = imported(images, "classification", tmp_path / "l", format="class_folders", options=given)
    assert listed.classes == ("dog", "cow", "cat")
    np.testing.assert_array_equal(listed[0]["probs"], [0, 0, 1])


def test_names_that_are_no_text_are_imported(tmp_path: Path):
    """Of images, of folders that are classes, and of maps; as a folder and as an image set that was made of it."""
    names = [os.fsdecode(name) for name in (b"dog/caf\xe9.png", b"ch\xe2t/1.png", b"dog/2.png")]
    images = write_images(tmp_path / "images", tuple(names))
    spelt = [r"ch\xe2t/1.png", "dog/2.png", r"dog/caf\xe9.png"]
    for name in names[:2]:
        write_png(tmp_path / "depth" / name, np.full((SIDE, SIDE), 1000, np.uint16))
    config = PrepareConfig(name="photos", images=images.name, data_dir=str(tmp_path / "data"))
    for each in (images, prepare(config)):
        folder = tmp_path / each.name.replace("/", "_")
        assert [each.name_of(i) for i in range(3)] == spelt
        classes = imported(each, "classification", folder / "c", format="class_folders")
        assert classes.classes == (r"ch\xe2t", "dog")
        options = {"format": "depth_png", "path": str(tmp_path / "depth"), "options": {"unit": "mm"}}
        depth = imported(each, "depth", folder / "d", **options)
        assert [depth[i]["present"] for i in range(3)] == [1, 0, 1]
        assert verify.damage(folder / "d", depth.manifest) == []
        assert list(verify.other_images(folder / "d", depth.manifest, each)) == []
    (tmp_path / "depth" / names[0]).unlink()
    depth = imported(images, "depth", tmp_path / "absent", **options)
    assert [image.name for image in depth.manifest.absent()] == spelt[1:]


def test_coco(images: ImageSet, tmp_path: Path):
    column = imported(images, "detection", tmp_path / "c", format="coco", path=str(write_coco(tmp_path / "coco.json")))
    assert (column.kind, column.classes) == (BoxesLabel(2), ("person", "car", "dog"))
    assert column[3]["present"] == 1 and column[3]["ignore"].tolist() == [1]  # listed without a box, but for a crowd
    assert column[4]["present"] == 0

    # Back to COCO by hand.
    ids = list(CATEGORIES)
    for seen in ({i: column[i] for i in range(4)}, in_batches(images, column)):
        assert sorted(seen) == [0, 1, 2, 3]
        for i, label in seen.items():
            real = objects(label)
            y0, x0, y1, x1 = label["boxes_yxyx"][real].T * SIDE
            boxes_xywh = np.stack([x0, y0, x1 - x0, y1 - y0], 1)
            order = np.argsort([box[0] for _, box in BOXES_XYWH[i]], kind="stable")
            wanted = [BOXES_XYWH[i][k] for k in order]
            order = np.argsort(boxes_xywh[:, 0], kind="stable")
            assert [ids[k] for k in label["classes"][real][order]] == [category for category, _ in wanted]
            np.testing.assert_allclose(
                boxes_xywh[order] / SIDE, np.reshape([box for _, box in wanted], (-1, 4)) / SIDE, atol=1e-6
            )
            np.testing.assert_array_equal(label["scores"][real], 1)


def test_voc_boxes(images: ImageSet, tmp_path: Path):
    objects = {0: [("bus", (1, 1, 32, 8)), ("cat", (5, 9, 24.5, 32))], 1: [], 3: [("person", (32, 32, 32, 32))]}
    for i, boxes in objects.items():
        (tmp_path / "xml").mkdir(exist_ok=True)
        (tmp_path / f"xml/{Path(NAMES[i]).stem}.xml").write_text(true_sets.voc_xml(boxes))
    column = imported(images, "detection", tmp_path / "c", format="voc", path=str(tmp_path / "xml"))
    assert len(column.classes) == 20
    seen = in_batches(images, column)
    assert sorted(seen) == [0, 1, 3]
    for i in seen:
        for label in (column[i], seen[i]):
            real = label["valid"] > 0
            assert [column.classes[k] for k in label["classes"][real]] == [name for name, _ in objects[i]]
            wanted = [[(y0 - 1) / SIDE, (x0 - 1) / SIDE, y1 / SIDE, x1 / SIDE] for _, (x0, y0, x1, y1) in objects[i]]
            np.testing.assert_allclose(label["boxes_yxyx"][real], np.reshape(wanted, (-1, 4)), atol=1e-6)

    assert column[0]["ignore"].tolist() == [1, 0]  # the bus is difficult
    np.testing.assert_array_equal(seen[0]["ignore"][seen[0]["valid"] > 0], [1, 0])

    found = {"classes": (), "difficult": True}
    all_ = imported(images, "detection", tmp_path / "e", format="voc", path=str(tmp_path / "xml"), options=found)
    assert all_.classes == ("bus", "cat", "person")
    assert (all_[0]["classes"].tolist(), all_[0]["ignore"].tolist()) == ([0, 1], [0, 0])


def ids_of(index: int, classes: int) -> np.ndarray:
    """[8, 8] with all classes and 255."""
    ids = np.random.default_rng(index).integers(0, classes + 1, (8, 8))
    return np.where(ids == classes, 255, ids)


def assert_ids(images: ImageSet, column: LabelColumn, wanted: Mapping[int, np.ndarray]) -> None:
    """`wanted` [8, 8]; the column holds full size."""
    seen = in_batches(images, column)
    assert sorted(seen) == sorted(wanted)
    for i, ids in wanted.items():
        np.testing.assert_array_equal(column[i]["ids"], blocks(ids))
        np.testing.assert_array_equal(seen[i]["ids"], ids)


def test_voc_masks(images: ImageSet, tmp_path: Path):
    wanted = {i: ids_of(i, 21) for i in (0, 1, 2, 3)}
    for i, ids in wanted.items():
        write_palette_png(tmp_path / f"masks/{Path(NAMES[i]).stem}.png", blocks(ids))
    column = imported(images, "segmentation", tmp_path / "c", format="voc_masks", path=str(tmp_path / "masks"))
    assert column.kind == IdsLabel("ids")
    assert (len(column.classes), column.classes[0], column.classes[20]) == (21, "background", "tvmonitor")
    assert_ids(images, column, wanted)


@pytest.mark.parametrize(
    "options, codes",
    [
        ({}, {0: 0, 1: 1, 2: 2, 255: 255}),
        ({"offset": 1, "ignore": (0,)}, {0: 1, 1: 2, 2: 3, 255: 0}),
        ({"codes": {"road": (7, 9), "sky": (200,), "car": 5}, "ignore": (0, 255)}, {0: 9, 1: 200, 2: 5, 255: 0}),
    ],
)
def test_id_png(options: dict, codes: dict[int, int], images: ImageSet, tmp_path: Path):
    wanted = {i: ids_of(i, 3) for i in (0, 2, 4)}
    for i, ids in wanted.items():
        write_png(
            tmp_path / "masks" / NAMES[i].replace(".png", "_ids.png"), blocks(np.vectorize(codes.get)(ids)).astype("u1")
        )
    options = {"classes": ("road", "sky", "car"), "replace": ("", "_ids"), **options}
    column = imported(
        images, "segmentation", tmp_path / "c", format="id_png", path=str(tmp_path / "masks"), options=options
    )
    assert column.classes == ("road", "sky", "car")
    assert_ids(images, column, wanted)


def test_coco_panoptic(images: ImageSet, tmp_path: Path):
    wanted, annotations = {i: ids_of(i, 3) for i in (0, 1, 4)}, []
    for i, ids in wanted.items():
        # Two segments a class, by the pixel's column; ids that need all three channels.
        instance = np.where(ids == 255, 0, 70_001 * (ids + 1) + 300 * (np.arange(8) % 2))
        rgb = np.stack([instance % 256, instance // 256 % 256, instance // 256**2], -1)
        write_png(tmp_path / f"panoptic/{i}.png", blocks(rgb).astype(np.uint8))
        info = [
            {"id": int(id_), "category_id": list(CATEGORIES)[id_ // 70_001 - 1], "iscrowd": 0, "area": 1}
            for id_ in np.unique(instance[instance > 0])
        ]
        name = f"C:\\panoptic\\{i}.png" if i else f"{i}.png"  # some of them written on Windows
        annotations.append({"image_id": 100 + i, "file_name": name, "segments_info": info})
    file = tmp_path / "panoptic.json"
    file.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 100 + i, "file_name": Path(NAMES[i]).name, "width": 1, "height": 1} for i in range(5)
                ],
                "annotations": annotations,
                "categories": [{"id": id_, "name": name, "isthing": 1} for id_, name in CATEGORIES.items()],
            }
        )
    )
    column = imported(images, "segmentation", tmp_path / "c", format="coco_panoptic", path=str(file))
    assert column.classes == ("person", "car", "dog")
    assert_ids(images, column, wanted)


def test_depth_png(images: ImageSet, tmp_path: Path):
    rng = np.random.default_rng(0)
    codes = {i: rng.integers(400, 9000, (8, 8)).astype(np.uint16) for i in (0, 1, 2, 3)}
    codes[2][3:5] = 65535
    codes[3][:] = 65535
    for i, each in codes.items():
        write_png(tmp_path / "depth" / NAMES[i], blocks(each))
    options = {"unit": "mm", "invalid": 65535, "max_m": 10}
    column = imported(
        images, "depth", tmp_path / "c", format="depth_png", path=str(tmp_path / "depth"), options=options
    )
    assert column.kind == ScalarsLabel("depth", "m")
    assert (column.manifest.unit, column.manifest.source.options["invalid"]) == ("m", 65535)
    seen = in_batches(images, column)
    assert sorted(seen) == sorted(codes)
    for i, each in codes.items():
        valid = each < 65535
        for label, expand in ((column[i], blocks), (seen[i], lambda x: x)):
            np.testing.assert_array_equal(label["valid"], expand(valid))
            np.testing.assert_allclose(label["depth"], expand(each * valid / 1000), atol=0.0005)


@pytest.mark.parametrize("bits", [8, 16])
def test_normal_png(bits: int, images: ImageSet, tmp_path: Path):
    """Written with y up and z towards the camera, as most are."""
    rng, top, wanted = np.random.default_rng(0), 2**bits - 1, {}
    for i in (0, 1, 2):
        normals = rng.normal(size=(8, 8, 3)) - [0, 0, 1.5]
        normals[..., 2] = -np.abs(normals[..., 2])
        wanted[i] = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
        codes = np.rint((wanted[i] * [1, -1, -1] + 1) / 2 * top)
        codes[i] = (top + 1) // 2 if i else 0
        write_png(tmp_path / "normals" / NAMES[i], blocks(codes).astype(f"u{bits // 8}"))
    options = {"axes": "x,-y,-z"}
    column = imported(
        images, "normals", tmp_path / "c", format="normal_png", path=str(tmp_path / "normals"), options=options
    )
    assert column.kind == DirectionsLabel("normals")
    seen = in_batches(images, column)
    assert sorted(seen) == sorted(wanted)
    for i, normals in wanted.items():
        valid = np.arange(8) != i
        for label, expected in ((column[i], blocks(normals)), (seen[i], normals)):
            known = np.broadcast_to(valid.repeat(len(expected) // 8)[:, None], expected.shape[:2])
            np.testing.assert_array_equal(label["valid"], known)
            vectors = label["normals"] / np.maximum(np.linalg.norm(label["normals"], axis=-1, keepdims=True), 1e-6)
            cosine = np.sum(vectors * expected, -1)[known]
            assert np.degrees(np.arccos(np.minimum(cosine, 1))).mean() < 0.5  # what the store keeps of normals
            assert cosine.min() > np.cos(np.radians(1.2))


def test_columns_beside_a_dataset_are_its_truth(data_dir: Path, tmp_path: Path):
    """Of the whole split and of parts of it; the truth in the records comes first."""
    open_images("scenes/teacher_depth_tiny:train", data_dir)
    shutil.copytree(data_dir / "scenes/teacher_depth_tiny", tmp_path / "mine")
    whole = open_images("mine:train", tmp_path)
    names = [whole.name_of(i) for i in range(len(whole))]
    file = tmp_path / "coco.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)],
                "annotations": [
                    {"image_id": i, "category_id": 1, "bbox": [0, 0, i + 1, 64]} for i in range(len(names))
                ],
                "categories": [{"id": 1, "name": "width"}],
            }
        )
    )
    config = TruthConfig(format="coco", path=str(file))
    truth.write(whole, "detection", config, tmp_path / "mine" / COLUMNS / "detection")
    for spec, take, wanted in (
        ("mine:train", 0, range(len(whole))),
        ("mine:train", 3, drawn(len(whole), 3)),
        ("mine:train[5:9]", 0, range(5, 9)),
        ("mine:train[5:]", 2, 5 + drawn(len(whole) - 5, 2)),
        ("mine:train[7:9]+train[:2]", 0, [7, 8, 0, 1]),
        ("mine:train[-2:]", 0, range(len(whole) - 2, len(whole))),
    ):
        source = open_source(SourceConfig(images=spec, take=take), str(tmp_path), TASKS)
        stored, column = source.columns
        assert (stored.task, column.task) == ("depth", "detection")
        assert [round(64 * float(column[i]["boxes_yxyx"][0, 3])) - 1 for i in range(len(column))] == list(wanted)
        assert [source.images.record(i)["name"] for i in range(len(column))] == [names[k] for k in wanted]

    source = open_source(SourceConfig(images="mine:validation"), str(tmp_path), TASKS)
    assert [column.task for column in source.columns] == ["depth"]  # another split
    source = open_source(SourceConfig(images="mine:train"), str(tmp_path), ["depth"])
    with pytest.raises(
        UserError, match=r"labelled are: depth \(not read here, but stored with the images as 'truth': detection"
    ):
        build_tasks({"normals": {}}, [source], max_boxes=20)

    kinds = {"detection": column.kind}
    source = open_source(SourceConfig(images="mine:train[4:6]"), str(tmp_path), ["detection"])
    batch = next(eval_batches(source, kinds, input_hw=(64, 64), batch_size=2))
    np.testing.assert_allclose(batch["labels"]["detection"]["boxes_yxyx"][:, 0, 3], [5 / 64, 6 / 64], rtol=1e-6)

    manifest_file = tmp_path / "mine/columns/detection/manifest.json"
    manifest_file.write_text(manifest_file.read_text().replace(whole.digest, "0" * 16))
    with pytest.raises(UserError, match="changed after the labels were written; rerun the prepare stage"):
        open_source(SourceConfig(images="mine:train"), str(tmp_path), TASKS)
