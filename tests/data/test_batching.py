"""Batches: order, determinism, mixing, padding, broken images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from must_jax.config import AugmentConfig, InputConfig
from must_jax.data import batching
from must_jax.data.batching import Batch, Source, eval_batches, train_batches
from must_jax.data.image_sets import ImageSet, Truth, open_images
from must_jax.data.kinds import BoxesLabel, IdsLabel, LabelKind, ScalarsLabel, VectorLabel
from must_jax.errors import UserError

KINDS = {"size": VectorLabel(2), "things": BoxesLabel(3), "range": ScalarsLabel("depth", "m")}
AUGMENT = AugmentConfig(scale_min=0.7, scale_max=1.4)


def image_set(name: str, count: int, tasks: tuple[str, ...], broken: tuple[int, ...] = ()) -> ImageSet:
    """Images of one grey each, 10 * index; sizes differ from image to image."""
    records: list[dict[str, Any]] = []
    for i in range(count):
        height, width = 16 + i, 24 - i
        png = cv2.imencode(".png", np.full((height, width, 3), 10 * i, np.uint8))[1].tobytes()
        labels = {
            "size": {"probs": np.eye(2)[i % 2], "present": i % 3 > 0},
            "things": {"boxes_yxyx": np.full((i, 4), [0.1, 0.1, 0.6, 0.7]), "classes": np.arange(i)},
            "range": {
                "depth": np.full((height // 2, width // 2), 1.0 + i),
                "valid": np.ones((height // 2, width // 2)),
            },
        }
        encoded = {task: KINDS[task].encode(labels[task]) for task in tasks}
        records.append({"image": b"broken" if i in broken else png, "name": f"{i}", **encoded})
    truth = {task: Truth(KINDS[task], (), task, functools.partial(KINDS[task].decode)) for task in tasks}
    return ImageSet(name, count, records.__getitem__, name, truth)


def source(*args: Any, **options: Any) -> Source:
    images = image_set(*args, **options)
    return Source(images, tuple(images.labels.values()))


def train(sources: list[Source], count: int, **options: Any) -> list[Batch]:
    options = {"input_hw": (16, 16), "augment": AUGMENT, "batch_size": 4, "seed": 3} | options
    return list(itertools.islice(train_batches(sources, KINDS, **options), count))


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def leaves(batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
    return ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(batch))


def test_the_layout_of_a_batch():
    batch = train([source("a", 5, ("size", "things", "range"))], 1)[0]
    layout = {path: (leaf.shape, str(leaf.dtype)) for path, leaf in leaves(batch)}
    assert layout == {
        "['image']": ((4, 16, 16, 3), "uint8"),
        "['index']": ((4,), "int32"),
        "['mask']": ((4,), "float32"),
        "['labels']['size']['probs']": ((4, 2), "float32"),
        "['labels']['size']['present']": ((4,), "float32"),
        "['labels']['things']['boxes_yxyx']": ((4, 3, 4), "float32"),
        "['labels']['things']['classes']": ((4, 3), "int32"),
        "['labels']['things']['scores']": ((4, 3), "float32"),
        "['labels']['things']['valid']": ((4, 3), "float32"),
        "['labels']['things']['ignore']": ((4, 3), "float32"),
        "['labels']['things']['present']": ((4,), "float32"),
        "['labels']['range']['depth']": ((4, 4, 4), "float32"),
        "['labels']['range']['valid']": ((4, 4, 4), "float32"),
        "['labels']['range']['present']": ((4,), "float32"),
    }


def test_image_and_labels_belong_together():
    for batch in train([source("a", 7, ("size", "things", "range"))], 10):
        for i, image, labels in zip(batch["index"], batch["image"], zip_labels(batch), strict=True):
            assert 10 * i in image
            assert labels["size"]["present"] == float(i % 3 > 0)
            assert labels["things"]["present"] == 1  # also without a box
            assert labels["things"]["valid"].sum() <= min(i, 3)
            seen = labels["range"]["valid"] > 0
            np.testing.assert_allclose(labels["range"]["depth"][seen], 1 + i, rtol=1e-6)


def zip_labels(batch: Batch) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch["labels"]) for i in range(len(batch["mask"]))]


def test_every_start_gives_exactly_the_batches_from_there():
    sources = [source("a", 7, ("size", "range")), source("b", 5, ("things",))]
    undisturbed = train(sources, 13)
    for start in range(12):
        assert_equal(train(sources, 2, start_step=start, threads=1 + start % 3), undisturbed[start : start + 2])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_slices_of_hosts_are_the_examples_of_one_host_in_the_same_positions(hosts: int):
    """Of training from any start, and of evaluation with a padded last batch."""
    sources = [source("a", 7, ("size", "range"), broken=(3,)), source("b", 5, ("things",))]
    options = {"input_hw": (16, 16), "batch_size": 4}
    slices = np.split(np.arange(4), hosts)
    for start in (0, 5):
        one = train(sources, 3, start_step=start)
        many = [train(sources, 3, start_step=start, rows=rows) for rows in slices]
        assert_equal([joined(parts) for parts in zip(*many, strict=True)], one)
    one = list(eval_batches(sources[0], KINDS, **options))
    many = [eval_batches(sources[0], KINDS, rows=rows, **options) for rows in slices]
    assert_equal([joined(parts) for parts in zip(*many, strict=True)], one)


def joined(parts: tuple[Batch, ...]) -> Batch:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def test_an_epoch_holds_every_image_once_and_orders_differ():
    sources = [source("a", 7, ("size",)), source("b", 5, ("things",))]
    batches = train(sources, 9)  # three epochs of twelve
    from_a = np.concatenate([batch["labels"]["things"]["present"] == 0 for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    epochs = [tuple(zip(from_a[i : i + 12], index[i : i + 12], strict=True)) for i in (0, 12, 24)]
    everything = {(True, i) for i in range(7)} | {(False, i) for i in range(5)}
    assert [set(epoch) for epoch in epochs] == [everything] * 3
    assert len(set(epochs)) == 3


def test_augmentation_differs_from_epoch_to_epoch_and_seed_to_seed():
    one = [source("a", 1, ("range",))]
    images = [batch["image"] for batch in train(one, 4, batch_size=1)]
    assert len({image.tobytes() for image in images}) > 1
    several = [source("a", 9, ("range",))]
    assert (train(several, 1)[0]["index"] != train(several, 1, seed=4)[0]["index"]).any()


def test_a_batch_may_be_larger_than_the_data():
    batch = train([source("a", 3, ("size",))], 1, batch_size=8)[0]
    assert sorted(batch["index"][:3]) == [0, 1, 2]


def test_the_first_column_with_a_label_wins():
    images = image_set("a", 6, ("size",))

    class Teacher:
        task, kind, classes = "size", VectorLabel(2), ()

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            return {"probs": np.float32([0.5, 0.5]), "present": np.float32(index < 4)}

    batch = next(eval_batches(Source(images, (images.labels["size"], Teacher())), KINDS, input_hw=(8, 8), batch_size=6))
    np.testing.assert_array_equal(batch["labels"]["size"]["present"], [1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch["labels"]["size"]["probs"][:3], [[0.5, 0.5], [0, 1], [1, 0]])
    batch = next(eval_batches(Source(images, (Teacher(), images.labels["size"])), KINDS, input_hw=(8, 8), batch_size=6))
    np.testing.assert_array_equal(batch["labels"]["size"]["probs"][3:], [[0.5, 0.5], [1, 0], [0, 1]])


def test_evaluation_sees_each_image_once_whole_and_in_order():
    batches = list(eval_batches(source("a", 7, ("range",)), KINDS, input_hw=(16, 16), batch_size=4))
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in batches]), [*range(7), -1])
    np.testing.assert_array_equal(np.concatenate([batch["mask"] for batch in batches]), [1] * 7 + [0])
    np.testing.assert_array_equal(batches[1]["labels"]["range"]["present"], [1, 1, 1, 0])
    label = batches[0]["labels"]["range"]
    assert label["depth"].shape == (4, 16, 16)
    width = round(16 * 16 / 24)  # image 0 has 16 rows and 24 columns
    np.testing.assert_array_equal(label["valid"][0], np.repeat([1, 0], [width, 16 - width])[:, None] * np.ones(16))
    strided = next(eval_batches(source("a", 7, ("range",)), KINDS, input_hw=(16, 16), batch_size=4, map_stride=4))
    assert strided["labels"]["range"]["depth"].shape == (4, 4, 4)


def test_a_malformed_label_costs_one_image():
    images = image_set("a", 3, ("things",))

    class Teacher:
        task, kind, classes = "things", KINDS["things"], ()

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            label = dict(images.labels["things"][index])
            return label | ({"boxes_yxyx": np.zeros((5, 3), np.float32)} if index == 1 else {})

    heard: list[str] = []
    both = Source(images, (Teacher(),))
    batches = eval_batches(both, KINDS, input_hw=(16, 16), batch_size=3, on_bad=lambda name, why: heard.append(name))
    assert next(batches)["mask"].tolist() == [1, 0, 1]
    assert heard == ["a[1]"]


def test_a_broken_image_is_masked_and_reported():
    heard: list[tuple[str, str]] = []
    broken = source("a", 5, ("size", "things", "range"), broken=(1, 4))
    batch = next(
        eval_batches(broken, KINDS, input_hw=(16, 16), batch_size=5, on_bad=lambda name, why: heard.append((name, why)))
    )
    np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(batch["index"], range(5))
    for task in KINDS:
        assert not batch["labels"][task]["present"][[1, 4]].any()
    assert [name for name, _ in heard] == ["a[1]", "a[4]"]
    assert "cannot be read" in heard[0][1]
    assert {*np.concatenate([b["index"][b["mask"] == 0] for b in train([broken], 10)])} == {1, 4}


@pytest.mark.parametrize(
    "kind, message",
    [(VectorLabel(3), "size=2.*size=3"), (IdsLabel("ids"), "IdsLabel"), (BoxesLabel(3), "BoxesLabel")],
)
def test_labels_of_another_kind_are_a_mistake(kind: LabelKind, message: str):
    a = source("a", 5, ("size",))
    with pytest.raises(UserError, match=message):
        train_batches([a], {"size": kind}, input_hw=(16, 16), augment=AUGMENT, batch_size=2, seed=0)


def test_a_column_that_is_too_short_is_a_mistake():
    short = image_set("a", 3, ("size",))
    with pytest.raises(UserError, match="3 of 5"):
        train([Source(image_set("b", 5, ()), (short.labels["size"],))], 1)


def test_scenes_from_disk_are_the_same_for_any_number_of_threads_and_workers(data_dir: Path):
    images = open_images("scenes/teacher_normals_tiny:train", data_dir)
    kinds = {task: column.kind for task, column in images.labels.items()}
    options = {"input_hw": (32, 32), "augment": AUGMENT, "batch_size": 16, "seed": 0, "start_step": 3}
    configs = {(0, 1): 2**31, (0, 8): 2**31, (1, 3): 2**31, (2, 2): 1}  # the last one shares batches
    made = [
        train_batches(
            [Source(images, tuple(images.labels.values()))],
            kinds,
            config=InputConfig(workers=workers, prefetch_bytes=prefetch_bytes),
            threads=threads,
            **options,
        )
        for (workers, threads), prefetch_bytes in configs.items()
    ]
    for _ in range(8):
        one, *others = map(next, made)
        for other in others:
            assert_equal(other, one)
    for each in made:
        each.close()


@pytest.mark.parametrize("few", [12, 11])
def test_few_images_are_read_by_threads(few: int, monkeypatch: pytest.MonkeyPatch):
    """Three batches of four: validations, and trainings whose end is known."""
    source = Source(image_set("twelve", 12, ()), ())
    read: list[tuple[int | None, int]] = []

    def prefetched(*arguments: Any) -> Iterator[Any]:
        read.append((arguments[3].workers, len(arguments[1])))
        return iter(())

    monkeypatch.setattr(batching, "FEW", few)
    monkeypatch.setattr(batching, "prefetched", prefetched)
    options = {"input_hw": (32, 32), "batch_size": 4, "config": InputConfig(workers=2)}
    eval_batches(source, {}, **options)
    train_batches([source], {}, seed=0, augment=AUGMENT, start_step=2, stop_step=5, **options)
    assert read == [(0 if few == 12 else 2, 3)] * 2


def test_what_workers_cannot_read_is_masked_and_reported(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A photo of a folder that goes away after it was opened."""
    monkeypatch.setattr(batching, "FEW", 0)
    for i in range(6):
        cv2.imwrite(f"{tmp_path}/{i}.png", np.full((20, 20, 3), 40 * i, np.uint8))
    images = open_images(f"folder:{tmp_path}", data_dir)
    (tmp_path / "4.png").unlink()
    heard: list[tuple[str, str]] = []
    options = {"input_hw": (32, 32), "batch_size": 6, "config": InputConfig(workers=2)}
    (batch,) = eval_batches(Source(images, ()), KINDS, on_bad=lambda *each: heard.append(each), **options)
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(batch["image"][:4, 0, 0, 0], [0, 40, 80, 120])
    assert [what for what, _ in heard] == [f"folder:{tmp_path}[4]"]
    assert "No such file" in heard[0][1]
