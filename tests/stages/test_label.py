from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import CONFIGS
from label_runs import config_of, contents
from made_teacher import HEADLINES, make_teacher, redescribe
from photos import bad_files, good_files, jpeg, write_files

from must_jax import files, trained
from must_jax.config import LabelConfig, OptimizerConfig, PrepareConfig
from must_jax.data import image_sets
from must_jax.data.augment import letterbox_geometry, resized
from must_jax.data.decoding import decode_image
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.data.preparing import prepare
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.labelling import label_run, one_pass
from must_jax.labels.columns import LabelColumn, open_column
from must_jax.stages import label
from must_jax.tasks.depth import Depth


@pytest.fixture(scope="module")
def labelled(photos: Path, teachers: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("labelled")
    label.run(config_of(f"folder:{photos}", teachers), workdir)
    return workdir


def test_own_photos_are_labelled_to_the_end_and_all_accounted_for(labelled: Path, photos: Path) -> None:
    result = json.loads((labelled / "result.json").read_text())
    assert result["images"] == 8
    assert [Path(file["name"]).name for file in result["bad"]] == ["x text.jpg", "y empty.png", "z cut off.jpg"]
    assert set(result["columns"]) == {*(f"everything-{key.split('/')[0]}" for key in HEADLINES), "small-depth"}
    for name, told in result["columns"].items():
        column = open_column(labelled / "columns" / name, open_images(f"folder:{photos}", ""))
        assert (told["images"], told["absent"], len(column)) == (8, 0, 8)
        assert all(column[i]["present"] == 1 for i in range(8))
        assert told["bytes_per_image"] == sum(f.stat().st_size for f in column.folder.glob("*.array_record-*")) / 8
        assert column.teacher.learning_rate == OptimizerConfig().learning_rate
        assert column.teacher.batch_size == 16


@pytest.mark.parametrize("prepared", [False, True])
def test_seventeen_kinds_of_nasty_files_are_all_accounted_for(
    prepared: bool, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    """Labelled to the end, as a folder and as an image set that was made of it; each is labelled, or listed and why."""
    good, bad = good_files(), bad_files()
    assert len(good | bad) == 17
    folder, config = write_files(tmp_path / "nasty", good | bad), {"data_dir": str(tmp_path / "data")}
    images, listed = f"folder:{folder}", tmp_path / "run/result.json"
    if prepared:
        prepare(PrepareConfig(name="nasty", images=images, **config))
        images, listed = "nasty:train", tmp_path / "data/nasty/1.0.0/skipped.json"
    label.run(config_of(images, teachers, **config), tmp_path / "run")
    told = json.loads(listed.read_text(encoding="utf-8"))
    left_out = told if prepared else told["bad"]
    assert {Path(file["name"]).name for file in left_out} == {Path(name).name for name in bad}
    assert all(file["reason"] for file in left_out)
    opened = open_images(images, config["data_dir"])
    assert {opened.record(i)["name"] for i in range(len(opened))} == set(good)
    for path in (tmp_path / "run/columns").iterdir():
        column = open_column(path, opened)
        assert [column[i]["present"] for i in range(len(good))] == [1] * len(good)


def test_a_name_that_is_no_text_is_labelled_to_the_end(
    teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its image has labels, cannot be read from the beginning on, or no more when it is labelled."""
    names = [os.fsdecode(name) for name in (b"caf\xe9.jpg", b"g\xe2t\xe9.jpg", b"torn\xff.jpg", b"x.jpg")]
    write_files(tmp_path / "in", dict.fromkeys(names, jpeg()) | {names[2]: b"no image"})

    def opened(*args: Any) -> ImageSet:
        images = open_images(*args)
        (tmp_path / "in" / names[1]).write_bytes(b"")
        return images

    monkeypatch.setattr(label_run, "open_images", opened)
    label.run(config_of(f"folder:{tmp_path}/in", teachers[1:], gallery_images=3), tmp_path / "run")
    told = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert [Path(each["name"]).name for each in told["bad"]] == [r"torn\xff.jpg", r"g\xe2t\xe9.jpg"]
    column = LabelColumn(tmp_path / "run/columns/small-depth")
    assert [image.name for image in column.manifest.absent()] == [r"g\xe2t\xe9.jpg"]
    page = (tmp_path / "run/gallery.html").read_text(encoding="utf-8")
    assert all(name in page for name in (r"caf\xe9.jpg", r"g\xe2t\xe9.jpg", r"torn\xff.jpg"))


def test_maps_cover_the_photo_without_the_padding(labelled: Path) -> None:
    for name, side in (("everything-depth", 16), ("small-depth", 8)):
        column = LabelColumn(labelled / "columns" / name)
        wide, tall, thin = (column[i]["depth"].shape for i in (0, 1, 5))
        assert wide == tall[::-1] == (round(side * 100 / 150), side)
        assert thin == (1, side)
    ids = LabelColumn(labelled / "columns" / "everything-segmentation")[0]["ids"]
    assert ids.shape == (11, 16) and set(np.unique(ids)) <= {0, 1, 2, 255}


def test_labels_are_what_the_teacher_predicts(labelled: Path, teachers: tuple[str, ...], photos: Path) -> None:
    image = decode_image((photos / "b tall.png").read_bytes())
    fitted = resized(letterbox_geometry(image.shape[:2], (64, 64)), image)
    predicted = trained.load(teachers[0], make_mesh()).predict_batch(np.stack([fitted] * 4))
    stored = LabelColumn(labelled / "columns" / "everything-classification")[1]["probs"]
    np.testing.assert_allclose(stored, predicted["classification"]["probs"][0], atol=2e-3)


def test_the_gallery_is_one_file_with_pictures(labelled: Path) -> None:
    text = (labelled / "gallery.html").read_text()
    assert text.count("<img ") == 2 * (1 + 6) and "http" not in text
    assert "a wide.jpg" in text and "größe.png" in text
    assert all(name in text for name in ("x text.jpg", "y empty.png", "z cut off.jpg"))


WATCHED = """
import json, sys
opened = []
sys.addaudithook(lambda event, about: opened.append(str(about[0])) if event in ("open", "os.scandir") else None)
from must_jax import main
code = main.main(["must_jax.main", *sys.argv[1:]])
print(json.dumps({"code": code, "opened": opened, "modules": list(sys.modules)}))
"""


def test_a_finished_run_says_so_at_once(labelled: Path, photos: Path, teachers: tuple[str, ...]) -> None:
    """In a process of its own: without jax and networks, and without a look into a shard or a photo, but for those
    that could not be read before."""
    before = {path: path.stat().st_mtime_ns for path in labelled.rglob("*")}
    values = {"images": f"folder:{photos}", "teachers": ",".join(teachers), "batch_size": 4, "shard_images": 6}
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    command = [sys.executable, "-c", WATCHED, f"--config={CONFIGS}/label.py", *overrides, f"--workdir={labelled}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"{labelled} is finished; nothing to do"
    seen = json.loads(done.stdout)
    assert seen["code"] == 0 and not {"jax", "flax", "orbax", "matplotlib"} & set(seen["modules"])
    assert str(labelled / "result.json") in seen["opened"]
    kept = {*map(str, photos.rglob("*.*")), *map(str, labelled.rglob("*train.array_record-*"))}
    assert {Path(path).name[0] for path in kept & set(seen["opened"])} == {"x", "y", "z"}
    assert {path: path.stat().st_mtime_ns for path in labelled.rglob("*")} == before


def test_an_interrupted_run_goes_on_to_the_same_columns(
    labelled: Path, photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice while shards are committed, some columns having one that others lack."""
    config, whole = config_of(f"folder:{photos}", teachers), files.sha256

    def stop_after(count: int) -> Callable[[Path], str]:
        left = iter(range(count))

        def sha256(path: Path) -> str:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return whole(path)

        return sha256

    for count in (2, 5):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, "sha256", stop_after(count))
            label.run(config, tmp_path)
    label.run(config, tmp_path)
    wanted = {path.relative_to(labelled): path for path in (labelled / "columns").rglob("*") if path.is_file()}
    assert set(wanted) == {path.relative_to(tmp_path) for path in (tmp_path / "columns").rglob("*") if path.is_file()}
    for relative, path in wanted.items():
        if path.name != "manifest.json":  # has the time in it
            assert (tmp_path / relative).read_bytes() == path.read_bytes()


def test_an_image_that_breaks_while_labelling_is_absent_in_every_column(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(f"folder:{photos}", "")
    read = images.record
    monkeypatch.setattr(images, "record", lambda i: read(i) | {"image": b"gone"} if i == 2 else read(i))
    monkeypatch.setattr(label_run, "open_images", lambda *_: images)
    label.run(config_of(images.name, teachers, gallery_images=8), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [Path(file["name"]).name for file in result["bad"][3:]] == ["c grey.jpg"]
    for name, told in result["columns"].items():
        assert told["absent"] == 1
        column = LabelColumn(tmp_path / "columns" / name)
        assert [float(column[i]["present"]) for i in range(8)] == [1, 1, 0, 1, 1, 1, 1, 1]


class Late:
    """A prediction that fails when it is fetched."""

    def copy_to_host_async(self) -> None:
        pass

    def __array__(self, *_: object, **__: object) -> None:
        raise RuntimeError("out of luck")


@pytest.mark.parametrize("fails", ["raises", "raises late", "nan", "rule raises"])
def test_an_image_that_a_teacher_fails_on_is_absent_in_its_columns_only(
    fails, labelled: Path, photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    dispatch, tall = trained.Trained.dispatch, decode_image((photos / "b tall.png").read_bytes())
    fitted = resized(letterbox_geometry(tall.shape[:2], (32, 32)), tall)

    def failing(model: trained.Trained, images: np.ndarray) -> dict:
        predictions = dispatch(model, images)
        bad = [row for row, image in enumerate(images) if np.array_equal(image, fitted)]
        if bad and fails.startswith("raises"):
            return {"depth": {"depth": Late() if fails == "raises late" else np.asarray(Late())}}
        for row in bad:
            depth = np.array(predictions["depth"]["depth"])
            depth[row, 0, 0] = np.nan if fails == "nan" else 1e30
            predictions["depth"]["depth"] = jax.device_put(depth)
        return predictions

    def pseudo_label(task: Depth, prediction: dict) -> dict:
        if prediction["depth"].max() > 1e29:
            raise ZeroDivisionError("no rule for this")
        return rule(task, prediction)

    rule = Depth.pseudo_label
    monkeypatch.setattr(trained.Trained, "dispatch", failing)
    monkeypatch.setattr(Depth, "pseudo_label", pseudo_label)
    label.run(config_of(f"folder:{photos}", teachers), tmp_path)
    (bad,) = [file for file in json.loads((tmp_path / "result.json").read_text())["bad"] if "b tall" in file["name"]]
    reason = {"nan": "depth has non-finite values", "rule raises": "no rule for this"}
    assert reason.get(fails, "out of luck") in bad["reason"]
    failed = LabelColumn(tmp_path / "columns/small-depth")
    assert [float(failed[i]["present"]) for i in range(8)] == [1, 0, 1, 1, 1, 1, 1, 1]
    for shard in (labelled / "columns/everything-depth").glob("*array_record*"):  # the other teacher's are as ever
        assert (tmp_path / "columns/everything-depth" / shard.name).read_bytes() == shard.read_bytes()
    whole = LabelColumn(labelled / "columns/small-depth")
    for i in (0, 2, 3, 7):  # its neighbours in the batch have the same labels
        np.testing.assert_array_equal(failed[i]["depth"], whole[i]["depth"])


def test_the_gallery_names_an_image_that_is_gone_by_then(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    own = Path(shutil.copytree(photos, tmp_path / "own"))
    write_gallery = label_run._write_gallery

    def later(*args: Any) -> None:
        (own / "a wide.jpg").unlink()
        (own / "b tall.png").write_bytes(b"another")
        write_gallery(*args)

    monkeypatch.setattr(label_run, "_write_gallery", later)
    monkeypatch.setattr(image_sets, "_CACHED_RECORDS", 0)
    label.run(config_of(f"folder:{own}", teachers[1:], gallery_images=8), tmp_path / "run")
    page, said = (tmp_path / "run/gallery.html").read_text(), capsys.readouterr().err
    assert page.count("<img ") == 6 * 2 and page.count("Not shown: ") == 2 and "6 of them, spread over the set" in page
    for name, reason in (("a wide.jpg", "No such file or directory"), ("b tall.png", "an image cannot be read: ")):
        assert f"not shown in gallery.html: {name}, {reason}" in said
        assert name in page and f"Not shown: {reason}" in page


def test_a_further_teacher_adds_its_columns_and_touches_no_other(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, images = tmp_path / "run", f"folder:{photos}"
    label.run(config_of(images, teachers[1:], gallery_images=0), workdir)
    before = {path: path.stat().st_mtime_ns for path in (workdir / "columns").rglob("*")}
    label.run(config_of(images, teachers), workdir)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((workdir / "columns").iterdir())) == 6
    assert len(json.loads((workdir / "result.json").read_text())["columns"]) == 6
    for chosen in (teachers, teachers[:1], teachers[1:]):
        capsys.readouterr()
        label.run(config_of(images, chosen), workdir)
        assert "is finished" in capsys.readouterr().err
    shutil.rmtree(workdir / "columns/small-depth")
    label.run(config_of(images, teachers, gallery_images=0), workdir)
    assert (workdir / "columns/small-depth/manifest.json").exists()


def test_too_many_unreadable_images_end_the_run(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(f"folder:{photos}", "")
    monkeypatch.setattr(images, "record", lambda i: {"image": b"gone", "name": f"image {i}"})
    monkeypatch.setattr(label_run, "open_images", lambda *_: images)
    monkeypatch.setattr(one_pass, "MAX_BAD", 3)
    with pytest.raises(UserError, match=r"4 images of folder:.* cannot be labelled, e\.g\. image 3: "):
        label.run(config_of(images.name, teachers[1:]), tmp_path)
    assert not list((tmp_path / "columns").rglob("*array_record*"))


def test_unlabelled_images_count_and_are_listed_over_all_runs(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, broken = open_images(f"folder:{photos}", ""), {0, 1}
    read, names = images.record, [images.name_of(i) for i in range(8)]

    def record(index: int) -> dict[str, object]:
        if index == stop_at:
            raise KeyboardInterrupt
        return read(index) | ({"image": b"gone"} if index in broken else {})

    monkeypatch.setattr(images, "record", record)
    monkeypatch.setattr(label_run, "open_images", lambda *_: images)
    monkeypatch.setattr(one_pass, "MAX_BAD", 2)
    config = config_of(images.name, teachers[1:], shard_images=1, batch_size=1)
    stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        label.run(config, tmp_path)
    stop_at, written = -1, len(list(tmp_path.rglob("*array_record-*-of-00008")))
    assert 2 <= written < 7
    broken.add(7)
    with pytest.raises(UserError, match=r"3 images of folder:.* cannot be labelled, e\.g\. .*größe\.png: .*; repair"):
        label.run(config, tmp_path)
    broken.remove(7)
    label.run(config, tmp_path)
    broken.clear()
    broken.add(3)  # of another teacher
    label.run(config_of(images.name, teachers[:1], shard_images=1, batch_size=1), tmp_path)
    bad = [each["name"] for each in json.loads((tmp_path / "result.json").read_text())["bad"]]
    assert sorted(bad[3:]) == [names[0], names[1], names[3]]
    assert all(Path(name).name in (tmp_path / "gallery.html").read_text() for name in bad)


def test_a_lost_shard_of_a_finished_run_is_made_again(photos: Path, teachers: tuple[str, ...], tmp_path: Path) -> None:
    config = config_of(f"folder:{photos}", teachers[1:], gallery_images=0)
    label.run(config, tmp_path)
    shard = tmp_path / "columns" / "small-depth" / "labels-train.array_record-00001-of-00002"
    whole = shard.read_bytes()
    shard.unlink()
    label.run(config, tmp_path)
    assert shard.read_bytes() == whole


def test_what_is_written_needs_no_more_space(
    labelled: Path, photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what other columns take is of no use to those of this run."""
    workdir, config = Path(shutil.copytree(labelled, tmp_path / "run")), config_of(f"folder:{photos}", teachers)
    (workdir / "result.json").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("", (), {"free": 0})())
    monkeypatch.setattr(label_run, "claim", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # so far it gets
        label.run(config, workdir)
    (workdir / "columns/another-depth").mkdir()
    (workdir / "columns/another-depth/labels").write_bytes(bytes(10_000_000))
    (workdir / "columns/small-depth/labels-train.array_record-00001-of-00002").unlink()
    refused(r"labels of 8 images .* need about \d MiB, .* has 0 MiB free", config, workdir)


def test_labels_of_a_teacher_that_was_trained_anew_are_no_longer_finished(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(teachers[1], tmp_path / "small"))
    config, workdir = config_of(f"folder:{photos}", (str(teacher),), gallery_images=0), tmp_path / "run"
    label.run(config, workdir)
    redescribe(teacher / "model.json", digest="another")
    refused(rf"{workdir} was labelled by another small than the one now in {teacher}; choose", config, workdir)
    shutil.rmtree(teacher)  # no longer needed
    label.run(config, workdir)


def refused(match: str, config: LabelConfig, workdir: Path) -> None:
    before = contents(workdir)
    with pytest.raises(UserError, match=match):
        label.run(config, workdir)
    assert contents(workdir) == before  # before any work


def test_what_cannot_work_is_refused_before_any_work(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, workdir = f"folder:{photos}", tmp_path / "run"
    workdir.mkdir()
    refused("no run", config_of(images, (str(tmp_path / "nobody"),)), workdir)
    refused("two teachers are called 'small'", config_of(images, (teachers[1], teachers[1])), workdir)
    weak = make_teacher(tmp_path / "weak", ("depth",), 32, {"depth/delta1": 1.0})
    refused("hardly learnt depth: on its validation images delta1 is 1.0", config_of(images, (str(weak),)), workdir)
    broken = make_teacher(tmp_path / "broken", ("depth",), 32, {"depth/delta1": float("nan")})
    refused("hardly learnt depth: on its validation images delta1 is nan", config_of(images, (str(broken),)), workdir)
    rules = {"tasks": {"segmentation": {"confidence_treshold": 0.3}}}
    refused("did you mean 'confidence_threshold'", config_of(images, teachers, **rules), workdir)
    refused("did you mean 'depth'", config_of(images, teachers, tasks={"dept": {}}), workdir)
    refused("there is no folder", config_of("folder:/nowhere", teachers), workdir)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("", (), {"free": 100})())
    refused(r"need about \d MiB.* 0 MiB free", config_of(images, teachers), workdir)


def test_a_workdir_of_another_config_is_refused(labelled: Path, photos: Path, teachers: tuple[str, ...]) -> None:
    refused(
        r"config\.shard_images is 6 there and 7 here", config_of(f"folder:{photos}", teachers, shard_images=7), labelled
    )


def test_columns_by_another_rule_are_refused_and_nothing_is_written(
    labelled: Path, photos: Path, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    """Nor of the columns that come before them, and the folder's config stays that of its columns."""
    workdir = Path(shutil.copytree(labelled, tmp_path / "run"))
    shutil.rmtree(workdir / "columns/everything-classification")
    rules = {"segmentation": {"confidence_threshold": 0.9}}
    config = config_of(f"folder:{photos}", teachers, tasks=rules)
    refused("everything-segmentation holds labels made with another 'rule'", config, workdir)
