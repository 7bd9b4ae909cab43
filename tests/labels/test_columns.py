from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hand_made import KINDS, TEACHER, Images, describe, label_of, write_column
from smooth import jpeg

from must_jax.data.batching import Source
from must_jax.data.confidence import Threshold
from must_jax.data.image_sets import open_images
from must_jax.data.kinds import LabelKind, VectorLabel
from must_jax.data.sample import drawn
from must_jax.errors import UserError
from must_jax.inputs.sources import fingerprint_of
from must_jax.labels import manifest, verify
from must_jax.labels.columns import LabelColumn, open_column
from must_jax.labels.manifest import ImagesRecord, _checksum
from must_jax.labels.writer import ColumnWriter

READ_WITHOUT_MUST_JAX = """
import sys
import tensorflow_datasets as tfds
for folder in sys.argv[1:]:
    labels = tfds.builder_from_directory(folder).as_data_source("train")
    print(len(labels), labels[0]["present"], labels[4]["present"], *sorted(labels[0]))
assert not {"must_jax", "tensorflow"} & set(sys.modules)
"""


@pytest.mark.parametrize("task", KINDS)
def test_labels_come_back(task: str, tmp_path: Path) -> None:
    images = Images()
    write_column(tmp_path / task, task, images)
    column = open_column(tmp_path / task, images)
    assert (column.task, column.kind, len(column)) == (task, KINDS[task], 10)
    assert column.teacher == TEACHER
    for index in (0, 3, 4, 9):
        wanted, got = label_of(task, index), column[index]
        assert got["present"] == (index % 5 != 4)
        if not got["present"]:
            continue
        match task:
            case "classification":
                np.testing.assert_allclose(got["probs"], wanted["probs"], atol=1e-3)
            case "detection":
                np.testing.assert_array_equal(got["boxes_yxyx"], wanted["boxes_yxyx"][wanted["valid"] > 0])
            case "segmentation":
                np.testing.assert_array_equal(got["ids"], wanted["ids"])
            case "segmentation kept":  # its rule has a threshold of 0.5
                np.testing.assert_array_equal(got["ids"], np.where(wanted["confidence"] < 0.5, 255, wanted["ids"]))
                np.testing.assert_array_equal(got["confidence"], wanted["confidence"])
            case "depth":
                np.testing.assert_array_equal(got["valid"], wanted["valid"])
                np.testing.assert_allclose(got["depth"], wanted["depth"] * wanted["valid"], atol=1e-3)
            case "normals":
                assert np.all(np.sum(got["normals"] * wanted["normals"], -1) > np.cos(np.radians(1.25)))


def test_columns_are_tfds_datasets_for_a_process_without_must_jax(tmp_path: Path) -> None:
    for task in KINDS:
        write_column(tmp_path / task, task, Images())
    folders = [str(tmp_path / task) for task in KINDS]
    run = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_MUST_JAX, *folders], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "10 1 0 present probs"
    assert lines[3] == "10 1 0 depth offset present scale"
    assert lines[5] == "10 1 0 confidence ids present"
    assert len(lines) == len(KINDS)


def test_of_distributions_only_the_largest_probabilities_are_stored(tmp_path: Path) -> None:
    """As any program can read them; a column that was begun without this goes on as it is."""
    kinds = {name: VectorLabel(3, top_k).to_dict() for name, top_k in (("top", 1), ("all", 0))}
    for name, kind in kinds.items():
        writer = ColumnWriter(tmp_path / name, describe("classification", Images(6), kind=kind))
        with writer.shard(0) as labels:
            for index in range(4):
                labels.add(f"{index}.jpg", label_of("classification", index))
        writer = ColumnWriter(tmp_path / name, describe("classification", Images(6), kind=kinds["top"]))
        assert writer.missing() == [1]
        with writer.shard(1) as labels:
            for index in (4, 5):
                labels.add(f"{index}.jpg", label_of("classification", index))
        writer.finish()
    top, every = (LabelColumn(tmp_path / name) for name in kinds)
    plain = tfds.builder_from_directory(str(tmp_path / "top")).as_data_source("train")
    assert top.kind == every.kind == VectorLabel(3)
    for index in range(6):
        wanted = label_of("classification", index)["probs"]
        np.testing.assert_allclose(every[index]["probs"], wanted, rtol=1e-3)
        others = np.delete(wanted, wanted.argmax())
        assert plain[index]["classes"].tolist() == [wanted.argmax()]
        np.testing.assert_allclose(plain[index]["rest"], others.sum(), rtol=1e-6)
        spread = np.where(np.arange(3) == wanted.argmax(), wanted, others.mean())
        np.testing.assert_allclose(top[index]["probs"], spread, rtol=1e-3)


def test_shards_are_named_as_tfds_names_them_and_listed_with_their_bytes(tmp_path: Path) -> None:
    column = write_column(tmp_path / "c", "detection", Images())
    shards = column.manifest.shards
    assert [shard.file for shard in shards] == [f"labels-train.array_record-{i:05d}-of-00003" for i in range(3)]
    assert [shard.count for shard in shards] == [4, 4, 2]
    assert all((tmp_path / "c" / shard.file).stat().st_size == shard.bytes for shard in shards)
    total = column.manifest.summary()
    assert (total.images, total.absent, total.empty) == (10, 2, 4)  # even indices have no valid box
    absent = [image for shard in shards for image in shard.absent]
    assert [(image.name, image.reason) for image in absent] == [("4.jpg", "cut off"), ("9.jpg", "cut off")]


def test_a_column_from_before_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scalars were 16-bit PNGs, distributions lists of numbers, and manifests said less."""
    scalar, number = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"), np.float32
    features = {
        "classification": {"probs": tfds.features.Tensor(shape=(3,), dtype=np.float16), "present": np.uint8},
        "depth": {"depth": scalar, "scale": number, "offset": number, "present": np.uint8},
    }

    def encode(kind: LabelKind, label: dict[str, np.ndarray]) -> dict[str, object]:
        present = {"present": int(label["present"])}
        if isinstance(kind, VectorLabel):
            return {"probs": label["probs"].astype(np.float16)} | present
        codes = np.rint(6000 * label["depth"] * label["valid"]).astype(np.uint16)
        return {"depth": cv2.imencode(".png", codes)[1].tobytes(), "scale": 1 / 6000, "offset": 0.0} | present

    for task, stored in features.items():
        folder = tmp_path / task
        with monkeypatch.context() as patch:
            kind = type(KINDS[task])
            patch.setattr(kind, "features", lambda self, stored=stored: stored)
            patch.setattr(kind, "encode", encode)
            serialize = tfds.features.FeaturesDict(stored).serialize_example
            patch.setattr(kind, "serialize", lambda self, record, serialize=serialize: serialize(record))
            write_column(folder, task, Images())
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["min_confidence"]
        manifest["kind"].pop("confidence", None)
        manifest["checksum"] = _checksum(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        got, wanted = LabelColumn(folder)[3], label_of(task, 3)
        if task == "depth":
            np.testing.assert_array_equal(got["valid"], wanted["valid"])
            np.testing.assert_allclose(got["depth"], wanted["depth"] * wanted["valid"], atol=1e-4)
        else:
            np.testing.assert_allclose(got["probs"], wanted["probs"], atol=1e-3)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (Images(11), "labels 10 images of photos, which has 11 now; .* first images.* label them in another --workdir"),
        (Images(11, "other"), "from those that photos has now; label them in another --workdir"),
    ],
)
def test_another_image_set_is_refused(images: Images, reason: str, tmp_path: Path) -> None:
    write_column(tmp_path / "c", "classification", Images())
    with pytest.raises(UserError, match=reason):
        open_column(tmp_path / "c", images)


def test_what_is_no_whole_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a label column, it has no manifest\.json"):
        LabelColumn(tmp_path / "nothing")
    folder = tmp_path / "c"
    write_column(folder, "classification", Images(), shards=2)
    with pytest.raises(UserError, match="is not finished, 2 of 3 shards are written; rerun the label stage"):
        LabelColumn(folder)
    write_column(folder, "classification", Images())
    shard = folder / "labels-train.array_record-00001-of-00003"
    whole = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(whole[:-1]), shard.unlink):
        damage()
        with pytest.raises(UserError, match=r"missing or truncated: labels-train\..*-00001-of-00003"):
            LabelColumn(folder)
    write_column(folder, "classification", Images())
    assert shard.read_bytes() == whole

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["teacher"]["learning_rate"] = "fast"
    for text, reason in (
        (json.dumps(manifest), r"is damaged at 'teacher\.learning_rate'"),
        ('{"schema_ver', "is damaged"),
        ("[]", "is damaged"),
        ('{"schema_version": 9}', "has schema version 9"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=reason):
            LabelColumn(folder)


def test_a_column_is_not_continued_with_another_description(tmp_path: Path) -> None:
    write_column(tmp_path / "c", "depth", Images(), shards=1)
    with pytest.raises(UserError, match="made with another 'rule'"):
        ColumnWriter(tmp_path / "c", describe("depth", Images(), rule={"threshold": 0.3}))


def test_a_part_of_a_part_is_one(tmp_path: Path) -> None:
    write_column(tmp_path / "c", "classification", Images())
    column = LabelColumn(tmp_path / "c")
    part = column.at(np.array([7, 6, 3])).at(np.array([1, 2]))
    assert len(part) == 2
    for index, position in enumerate((6, 3)):
        np.testing.assert_array_equal(part[index]["probs"], column[position]["probs"])


def test_a_column_is_read_with_another_threshold(tmp_path: Path) -> None:
    columns = {}
    for task in ("classification", "detection", "segmentation kept"):
        write_column(tmp_path / task, task, Images())
        columns[task] = LabelColumn(tmp_path / task)

    chosen = columns["classification"].at_least(0.6)
    tops = {i: label_of("classification", i)["probs"].max() for i in (0, 1, 2, 3, 5, 6, 7, 8)}
    assert {i: bool(chosen[i]["present"]) for i in tops} == {i: top >= 0.6 for i, top in tops.items()}
    assert 0 < sum(top >= 0.6 for top in tops.values()) < len(tops)

    for index in (1, 3):
        written = label_of("detection", index)
        kept = (written["valid"] > 0) & (written["scores"] >= 0.7)
        found = columns["detection"].at_least(0.7)[index]
        np.testing.assert_array_equal(found["boxes_yxyx"], written["boxes_yxyx"][kept])
        assert {len(found[name]) for name in ("classes", "scores", "valid")} == {kept.sum()}
        assert found["present"] == 1
        assert len(columns["detection"][index]["classes"]) == 2

    written = label_of("segmentation kept", 0)
    for threshold in (0.0, 0.2, 0.5, 0.9):  # below that of the rule, too
        ids = columns["segmentation kept"].at_least(threshold)[0]["ids"]
        np.testing.assert_array_equal(ids, np.where(written["confidence"] < threshold, 255, written["ids"]))


def test_a_column_is_read_with_a_threshold_of_a_single_class(tmp_path: Path) -> None:
    write_column(tmp_path / "boxes", "detection", Images())
    column, written = LabelColumn(tmp_path / "boxes").at_least({"b": 0.8}), LabelColumn(tmp_path / "boxes")
    for index in (i for i in range(10) if written[i]["present"]):
        kept = written[index]["scores"] >= np.where(written[index]["classes"] == 1, 0.8, 0.5)
        np.testing.assert_array_equal(column[index]["boxes_yxyx"], written[index]["boxes_yxyx"][kept])
    assert not column.is_as_made and LabelColumn(tmp_path / "boxes").at_least({"b": 0.5}).at_least(0.5).is_as_made
    for threshold, reason in (
        ({"b": 0.4}, r"min_confidence\.detection = 0\.5, 0\.4 for b cannot be applied, .* holds nothing below"),
        ({"bee": 0.6}, r"min_confidence\.detection names 'bee', which is not a class"),
    ):
        with pytest.raises(UserError, match=reason):
            written.at_least(threshold)


def test_a_rule_with_thresholds_by_class_is_applied_when_its_confidence_is_kept(tmp_path: Path) -> None:
    rule = {"min_confidence": 0.5, "min_confidences": {"a": 0.2, "c": 0.9}}
    writer = ColumnWriter(tmp_path, describe("segmentation kept", Images(3), **rule))
    with writer.shard(0) as labels:
        for index in range(3):
            labels.add(f"{index}.jpg", label_of("segmentation kept", index))
    writer.finish()
    column, left = LabelColumn(tmp_path), []
    for index in range(3):
        written = label_of("segmentation kept", index)
        least = np.array([0.2, 0.5, 0.9])[np.minimum(written["ids"], 2)]
        np.testing.assert_array_equal(
            column[index]["ids"], np.where(written["confidence"] < least, 255, written["ids"])
        )
        left.append((column[index]["ids"] != 255).mean())
    assert column.manifest.summary().covered == pytest.approx(sum(left))
    every = column.at_least(0.0)[0]["ids"]
    np.testing.assert_array_equal(every, label_of("segmentation kept", 0)["ids"])


def test_a_column_without_thresholds_by_class_says_what_it_has_always_said(tmp_path: Path) -> None:
    """Or checksums and digests of existing columns would change."""
    plain, other = (describe("detection", Images(), **some) for some in ({}, {"min_confidences": {"a": 0.7}}))
    assert "min_confidences" not in plain.to_json() and plain.labels != other.labels
    assert manifest.Manifest.model_validate_json(other.to_json()).threshold == Threshold(0.5, {"a": 0.7})


@pytest.mark.parametrize(
    ("task", "threshold", "reason"),
    [
        ("detection", 0.4, r"was labelled with a threshold of 0\.5 and holds nothing below; raise it to that"),
        (
            "segmentation",
            0.7,
            "holds labels without confidence; label again with keep_confidence, or remove this option",
        ),
        ("depth", 0.7, "holds labels without confidence; remove this option$"),
        ("normals", 0.7, "holds labels without confidence; remove this option$"),
    ],
)
def test_a_threshold_that_cannot_be_applied_is_refused(
    task: str, threshold: float, reason: str, tmp_path: Path
) -> None:
    write_column(tmp_path / task, task, Images())
    with pytest.raises(UserError, match=rf"^min_confidence\.{task} = {threshold} cannot be applied, .*{reason}"):
        LabelColumn(tmp_path / task).at_least(threshold)


def test_a_summary_counts_what_the_rule_leaves(tmp_path: Path) -> None:
    column = write_column(tmp_path, "segmentation kept", Images())
    shares = [(label_of("segmentation kept", i)["confidence"] >= 0.5).mean() for i in range(10) if i % 5 != 4]
    assert column.manifest.summary().covered == pytest.approx(sum(shares))
    assert 0.3 < np.mean(shares) < 0.7


def test_a_summary_counts_what_is_read(tmp_path: Path) -> None:
    """Also where a confidence lies so near the threshold that it is stored as the threshold itself."""
    images = Images(4)
    writer = ColumnWriter(tmp_path, describe("segmentation kept", images, min_confidence=0.6))
    confidence = np.linspace(0.55, 0.65, 1000, dtype=np.float32)[None]
    with writer.shard(0) as labels:
        for index in range(4):
            ids = np.ones_like(confidence, np.int32)
            labels.add(f"{index}.jpg", {"ids": ids, "confidence": confidence, "present": np.float32(1)})
    writer.finish()
    column = LabelColumn(tmp_path)
    read = sum(np.mean(column[index]["ids"] != 255) for index in range(4))
    assert column.manifest.summary().covered == read


def test_a_sample_is_read_from_columns_of_the_whole_set_and_of_larger_samples(tmp_path: Path) -> None:
    """Each image gets its own label, and columns whose images were taken otherwise are refused."""
    (tmp_path / "p").mkdir()
    for number in range(14):
        data = jpeg(16, 16)
        (tmp_path / f"p/{number:02d}.jpg").write_bytes(data[:100] if number == 3 else data)
    whole = open_images(f"folder:{tmp_path / 'p'}", "")
    nine, four = whole.taking(9), whole.taking(4)
    for name, images in (("whole", whole), ("nine", nine)):
        writer = ColumnWriter(tmp_path / name, describe("classification", images))
        for shard in writer.missing():
            with writer.shard(shard) as labels:
                for index in writer.manifest.shard_range(shard):
                    labels.add(images.name_of(index), label_of("classification", int(images.name_of(index)[:2])))
        writer.finish()
        for read in (whole, nine, four):
            if len(read) > len(images):
                with pytest.raises(UserError, match=r"labels a sample of 9 images .*, but 13 are .*; set take=9"):
                    open_column(tmp_path / name, read)
                continue
            column = open_column(tmp_path / name, read)
            assert len(column) == len(read)
            for index in range(len(read)):
                wanted = label_of("classification", int(read.name_of(index)[:2]))
                np.testing.assert_allclose(column[index]["probs"], wanted["probs"], atol=1e-3)
            assert [*verify.other_images(tmp_path / name, column.manifest, read)] == []
    unknown = whole.taking(4)
    unknown.numbers = np.where(unknown.numbers == unknown.numbers[1], 3, unknown.numbers)  # the unreadable one
    for name in ("whole", "nine"):
        with pytest.raises(UserError, match="labels different images"):
            open_column(tmp_path / name, unknown)
    first = {"name": whole.name, "length": 4, "digest": whole.digest}
    (tmp_path / "old").mkdir()
    description = describe("classification", whole).model_copy(update={"images": ImagesRecord(**first)})
    assert description.model_dump(mode="json")["images"] == first  # as written before there were samples
    write = ColumnWriter(tmp_path / "old", description)
    with write.shard(0) as labels:
        for index in range(4):
            labels.add(f"{index}.jpg", label_of("classification", index))
    write.finish()
    for read in (whole, four):
        with pytest.raises(UserError, match=r"labels 4 images .* which has 13 now; .* its first images"):
            open_column(tmp_path / "old", read)


@pytest.mark.parametrize("take", [4, 0])
@pytest.mark.parametrize("becomes_readable", [False, True])
def test_a_column_is_refused_once_other_photos_of_the_folder_can_be_read(
    take: int, becomes_readable: bool, tmp_path: Path
) -> None:
    """Names and sizes do not tell it. The number of images does, but of a sample: others take their place."""
    (tmp_path / "p").mkdir()
    for number in range(12):
        (tmp_path / f"p/{number:02d}.jpg").write_bytes(jpeg(16, 16))
    photo = tmp_path / f"p/{drawn(12, 4)[1]:02d}.jpg"
    good = photo.read_bytes()
    states = [good, b"x" * len(good)]
    photo.write_bytes(states[becomes_readable])
    before = open_images(f"folder:{tmp_path / 'p'}", "", take)
    write_column(tmp_path / "c", "classification", before)
    assert len(open_column(tmp_path / "c", before)) == len(before)
    photo.write_bytes(states[not becomes_readable])
    now = open_images(f"folder:{tmp_path / 'p'}", "", take)
    assert now.digest == before.digest
    assert (len(now) == len(before) == 4) == bool(take)
    with pytest.raises(UserError, match="different images.* readable" if take else r"labels 1\d images.* 1\d now"):
        open_column(tmp_path / "c", now)
    with pytest.raises(UserError, match="'images'"):
        ColumnWriter(tmp_path / "c", describe("classification", now))
    there = [fingerprint_of([Source(images, ())]) for images in (before, now)]
    assert there[0] != there[1]
