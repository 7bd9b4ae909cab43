"""Opening image sets, and decoding whatever a folder of photos may hold."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from smooth import encoded, jpeg, picture
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import open_images, shared
from must_jax.data.kinds import BoxesLabel, VectorLabel
from must_jax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_folder(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.JPG").write_bytes(jpeg(30, 20))
    (tmp_path / "a.png").write_bytes(encoded(picture(5, 4), "PNG"))
    (tmp_path / "c.jpeg").write_bytes(jpeg(30, 20)[:300])
    (tmp_path / "notes.txt").write_text("no image")
    images = open_images(f"folder:{tmp_path}", "unused")
    assert [images.record(i)["name"] for i in range(len(images))] == ["a.png", "b/2.JPG"]
    assert decode_image(images.record(1)["image"]).shape == (30, 20, 3)
    assert [Path(path).name for path, _ in images.skipped] == ["c.jpeg"]
    assert "truncated" in images.skipped[0][1]
    assert images.labels == {}

    first = open_images(f"folder:{tmp_path}", "unused", take=1)
    assert len(first) == 1
    assert first.digest == images.digest
    with pytest.raises(IndexError):
        first.record(1)
    (tmp_path / "d.bmp").write_bytes(encoded(picture(5, 4), "BMP"))
    assert open_images(f"folder:{tmp_path}", "unused").digest != images.digest


def test_images_of_other_formats_are_named(tmp_path: Path):
    for name in ("a.HEIC", "b.nef", "c.svg", "d.txt", "e.json", "f.csv", "README"):
        (tmp_path / name).write_text("")
    for format in ("GIF", "AVIF", "PPM"):
        (tmp_path / f"z.{format}").write_bytes(encoded(picture(5, 4), format))
    (tmp_path / "z.jp2").write_bytes(encoded(picture(5, 4), "JPEG2000"))
    images = open_images(f"folder:{tmp_path}", "unused")
    assert sorted(images.record(i)["name"] for i in range(len(images))) == ["z.AVIF", "z.GIF", "z.PPM", "z.jp2"]
    assert [(Path(path).name, why) for path, why in images.skipped] == [
        (name, "format not read") for name in ("a.HEIC", "b.nef", "c.svg")
    ]


def test_scenes_hold_their_truth(data_dir: Path):
    images = open_images("scenes/teacher_depth_tiny:validation", data_dir)
    depth = images.labels["depth"]
    assert len(depth) == len(images) == 16
    label = depth[3]
    assert label["depth"].shape == decode_image(images.record(3)["image"]).shape[:2]
    assert label["valid"].all()
    assert 0.1 < label["depth"].min() < label["depth"].max() < 20
    other = open_images("scenes/teacher_depth_tiny:train", data_dir)
    assert other.digest != images.digest
    assert open_images("scenes/teacher_depth_tiny:train", data_dir, take=4).digest == other.digest


def test_the_digest_is_that_of_images_rendered_again(data_dir: Path, tmp_path: Path):
    """In another process, which TFDS lets write the fields of a record in another order."""
    images = open_images("scenes/teacher_depth_tiny:validation", data_dir)
    shutil.copytree(data_dir / "scenes/teacher_depth_tiny", tmp_path / "scenes/teacher_depth_tiny")
    (shard,) = tmp_path.rglob("scenes-validation.array_record*")
    reader = ArrayRecordReader(str(shard))
    before = reader.read_all()
    reader.close()
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for record in before:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        parts = [tf_example_pb2.Example(features={"feature": {name: fields[name]}}) for name in sorted(fields)[::-1]]
        after = b"".join(part.SerializeToString() for part in parts)  # which are merged when they are read
        assert after != tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
        writer.write(after)
    writer.close()
    again = open_images("scenes/teacher_depth_tiny:validation", tmp_path)
    assert again.record(0)["image"] == images.record(0)["image"]
    assert again.digest == images.digest


def test_a_sample_of_records(data_dir: Path):
    """Spread over the set, in its order, and part of every larger sample; also of slices of several splits."""
    for spec in ("train", "train[8:20]+validation[:4]+train[:10]"):
        whole = open_images(f"scenes/teacher_depth_tiny:{spec}", data_dir)
        few, more = whole.taking(5), open_images(f"scenes/teacher_depth_tiny:{spec}", data_dir, take=9)
        assert (len(few), len(more), few.sampled, more.sampled, whole.sampled) == (5, 9, True, True, False)
        assert few.digest == more.digest == whole.digest
        assert set(few.numbers) < set(more.numbers)
        assert list(more.numbers) == sorted(more.numbers) != list(range(9))
        for images in (few, more):
            assert shared(images, whole) == shared(whole, images) == len({*map(images.name_of, range(len(images)))})
            for index, number in enumerate(images.numbers.tolist()):
                assert images.record(index)["image"] == whole.record(number)["image"]
                assert images.name_of(index) == whole.name_of(number)
        assert not whole.taking(len(whole)).sampled
    part = open_images("scenes/teacher_depth_tiny:train[8:20]", data_dir, take=4)
    assert part.place is not None
    np.testing.assert_array_equal(part.place.positions, 8 + part.numbers)


def test_slices(data_dir: Path):
    whole = open_images("scenes/teacher_depth_tiny:train", data_dir)
    assert whole.place is not None
    np.testing.assert_array_equal(whole.place.positions, np.arange(len(whole)))
    for part, first, count in (("[:10]", 0, 10), ("[5:7]", 5, 2), ("[-4:]", len(whole) - 4, 4)):
        images = open_images(f"scenes/teacher_depth_tiny:train{part}", data_dir)
        assert len(images) == count
        assert images.record(0)["name"] == images.name_of(0) == whole.record(first)["name"]
        assert images.digest != whole.digest
        assert images.place is not None
        np.testing.assert_array_equal(images.place.positions, np.arange(first, first + count))
        assert images.place.folder == data_dir / "scenes/teacher_depth_tiny"
        again = images.place.whole()
        assert (again.name, again.digest, len(again)) == (whole.name, whole.digest, len(whole))
    assert open_images("scenes/teacher_depth_tiny:train[:2]+validation", data_dir).place is None


@pytest.mark.parametrize(
    ("some", "others", "count"),
    [
        ("train[:10]", "train[8:12]", 2),
        ("train[:10]", "train[10:12]", 0),
        ("train", "validation", 0),
        ("train[-3:]", "train", 3),
        ("train[:2]+train[4:6]", "validation + train[1:5]", 2),
        ("train[:10]+train[:10]", "train[:2]+train[1:3]", 3),
        ("train", "train", None),
    ],
)
def test_images_of_two_slices(data_dir: Path, some: str, others: str, count: int | None):
    sets = [open_images(f"scenes/teacher_depth_tiny:{split}", data_dir) for split in (some, others)]
    assert shared(*sets) == shared(*sets[::-1]) == (len(sets[0]) if count is None else count)
    taken = open_images(f"scenes/teacher_depth_tiny:{some}", data_dir, take=1)
    assert shared(taken, sets[0]) == 1


class Pets(tfds.core.GeneratorBasedBuilder):
    """A dataset of someone else, with TFDS's usual names."""

    VERSION = tfds.core.Version("2.10.0")
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "file_name": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["head", "tail", "paw"]),
                    "is_crowd": np.bool_,
                    "is_group_of": np.int8,
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for i in range(3):
            box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.3, xmax=0.4)
            flat = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.1, xmax=0.4)
            objects = [{"bbox": box, "label": 2, "is_crowd": False, "is_group_of": -1}] * i
            if i:
                objects.append({"bbox": box, "label": 1, "is_crowd": i == 1, "is_group_of": int(i == 2)})
                objects.append({"bbox": flat, "label": 0, "is_crowd": False, "is_group_of": 0})
            image = io.BytesIO(encoded(picture(8, 9), "PNG"))
            yield i, {"image": image, "file_name": f"{i}.png", "label": i - 1, "objects": objects}

    def _log_download_bytes(self) -> None:
        pass

    _log_download_done = _log_download_bytes


def test_tfds_datasets_of_others(data_dir: Path):
    tfds.disable_progress_bar()
    Pets(data_dir=data_dir).download_and_prepare(file_format="array_record")
    images = open_images("pets:train", data_dir)
    assert images.record(2)["name"] == "2.png"
    assert decode_image(images.record(0)["image"]).shape == (8, 9, 3)
    classes, boxes = images.labels["classification"], images.labels["detection"]
    assert (classes.kind, classes.classes) == (VectorLabel(2), ("cat", "dog"))
    assert isinstance(boxes.kind, BoxesLabel)
    assert boxes.classes == ("head", "tail", "paw")
    assert [classes[i]["present"] for i in range(3)] == [0, 1, 1]  # -1 is TFDS's "not known"
    np.testing.assert_array_equal(classes[2]["probs"], [0, 1])
    assert boxes[0]["boxes_yxyx"].shape == (0, 4)
    np.testing.assert_allclose(boxes[2]["boxes_yxyx"], [[0.1, 0.2, 0.3, 0.4]] * 3)  # one has no area
    np.testing.assert_array_equal(boxes[2]["classes"], [2, 2, 1])
    assert [boxes[i]["ignore"].tolist() for i in range(3)] == [[], [0, 1], [0, 0, 1]]  # -1 is "not known" again


@pytest.mark.parametrize(
    "spec, message",
    [
        ("folder:/does/not/exist", "/does/not/exist"),
        ("coco", "NAME/CONFIG:SPLIT"),
        ("coco:train", "coco; prepare it there"),
        ("scenes:train", "VERSION"),
        ("scenes/teacher_depht_tiny:train", "did you mean 'teacher_depth_tiny'"),
        ("scenes/teacher_depth_tiny:trian", "did you mean 'train'"),
        ("scenes/teacher_depth_tiny:train[:3]+vali", "no split .vali.; did you mean .validation."),
        ("scenes/teacher_depth_tiny:train[abc]", r"'train\[abc\]' selects no images"),
        ("scenes/teacher_depth_tiny:train[:99999]", "selects no images"),
        ("scenes/teacher_depth_tiny:train[3:3]", "selects no images"),
        ("scenes/teacher_depth_tiny:train[5:3]", "selects no images"),
        ("scenes/teacher_depth_tiny:train[:10]+train[5:3]", "selects no images"),
    ],
)
def test_mistakes_get_one_sentence(data_dir: Path, spec: str, message: str):
    open_images("scenes/teacher_depth_tiny:train", data_dir)
    with pytest.raises(UserError, match=message):
        open_images(spec, data_dir)


def test_a_folder_without_images_is_a_mistake(tmp_path: Path):
    with pytest.raises(UserError, match=r"no readable image in .* \(unreadable: 0\)"):
        open_images(f"folder:{tmp_path}", "unused")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError, match=r"unreadable: 1, the first is .*empty.jpg: .*the file is empty"):
        open_images(f"folder:{tmp_path}", "unused")
