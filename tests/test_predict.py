"""The command that looks at photographs, on those inside scikit-image's wheel."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import skimage
from made_teacher import HEADLINES, make_teacher
from photos import jpeg, write_files
from PIL import Image

import must_jax
from must_jax import predict, trained
from must_jax.data.kinds import DirectionsLabel, IdsLabel, Label, ScalarsLabel
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.inputs import memory
from must_jax.labels.formats.base import Photo
from must_jax.labels.formats.depth_png import DepthPng
from must_jax.labels.formats.id_png import IdPng
from must_jax.labels.formats.normal_png import NormalPng
from must_jax.labels.formats.png import PngMaps

ROOT = Path(__file__).parents[1]
PHOTOS = Path(skimage.__file__).parent / "data"
TASKS = ("classification", "detection", "segmentation", "depth", "normals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of all five tasks that has learnt nothing."""
    return make_teacher(tmp_path_factory.mktemp("model") / "run", TASKS, 64, HEADLINES)


def look(*arguments: object) -> int:
    return predict.main(["must_jax.predict", *map(str, arguments)])


def lines_of(out: Path) -> list[dict[str, Any]]:
    text = (out / "predictions.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n") and not (out / "predictions.jsonl.part").exists()
    return [json.loads(line) for line in text.splitlines()]


def test_every_photo_gets_a_picture_and_json_of_all_tasks(model: Path, tmp_path: Path):
    grey = tmp_path / "grey.tif"
    Image.fromarray(np.full((40, 90), 7, np.uint8)).save(grey)
    assert look(f"--model={model}", PHOTOS / "astronaut.png", f"--out={tmp_path}/out", grey) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{s}.{e}" for s in ("astronaut", "grey") for e in ("png", "json")),
        "predictions.jsonl",
    }

    answer = json.loads((tmp_path / "out/astronaut.json").read_text())
    assert set(answer["predictions"]) == set(TASKS)
    assert answer["image_hw"] == [512, 512]
    assert answer["photo"].endswith("astronaut.png")
    with Image.open(tmp_path / "out/astronaut.png") as picture:
        pixels = np.asarray(picture)
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 3  # the photo and five tasks, in two rows of three
    panels = [pixels[y * height :, x * width :][:height, :width] for y in range(2) for x in range(3)]
    assert all(panel.std() > 5 for panel in panels)
    assert len({panel.tobytes() for panel in panels}) == 6


NAMES = {  # of a photo -> how the names of its results begin, and how it is shown
    b"\xff\xfe\xe9.png": (b"\xff\xfe\xe9.", "\\xff\\xfe\\xe9.png"),
    "日本 é.png".encode(): ("日本 é.".encode(), "日本 é.png"),
    b"a\nb\x1b[31m.png": (b"a\nb\x1b[31m.", "a\\nb\\x1b[31m.png"),
    b"..png": (b"..", "..png"),
    b".png": (b".png.", ".png"),
    b"x" * 251 + b".png": (b"x" * 237 + b"-", "x" * 251 + ".png"),
    "é".encode() * 125 + b"x.png": ("é".encode() * 118 + b"-", "é" * 125 + "x.png"),
}


def test_photos_of_any_name(model: Path, tmp_path: Path, capsys):
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(io := BytesIO(), "PNG")
    (tmp_path / "in").mkdir()
    photos = [Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)) for name in NAMES]
    for photo in photos:
        photo.write_bytes(io.getvalue())
    assert look(f"--model={model}", f"--out={tmp_path}/out", *photos) == 0
    made = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()} - {b"predictions.jsonl"}
    assert len(made) == 2 * len(NAMES)
    assert len(lines_of(tmp_path / "out")) == len(NAMES)
    told = {}
    for name in made:
        if name.endswith(b".json"):
            answer = json.loads((tmp_path / "out" / os.fsdecode(name)).read_text(encoding="utf-8"))
            told[answer["photo"]] = name
    for written, shown in NAMES.values():
        name = told[f"{tmp_path}/in/{shown}"]
        assert name.startswith(written) and name.removesuffix(b".json") + b".png" in made
    assert f"{tmp_path}/in/{next(iter(NAMES.values()))[1]} -> " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, capsys, kind: str):
    photo = tmp_path / "photo.png"
    if kind == "pipe":
        os.mkfifo(photo)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(photo))
    else:
        photo.symlink_to(photo)
    assert look(f"--model={tmp_path}", photo) == 2
    assert capsys.readouterr().err == f"error: {photo} is not a readable file; name a photo\n"


def test_titled_pictures_of_different_sizes_fit_on_a_sheet():
    sheet = predict.side_by_side({"a": np.zeros((20, 30, 3), np.uint8), "b": np.full((50, 10, 3), 9, np.uint8)})
    assert (sheet == 0).all(-1).sum() >= 20 * 30
    assert (sheet == 9).all(-1).sum() == 50 * 10


def test_a_folder_keeps_its_structure_and_names_what_it_skips(model: Path, tmp_path: Path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "photos/predictions"
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "b/1.png", "b/1.bmp", "2.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(photos / name)
    (photos / "b/text.jpg").write_text("no image")
    command = (f"--model={model}", f"--out={out}", "--batch_size=2", photos)
    assert look(*command) == 0
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    names = ["2", "a/1", "b/1.bmp", "b/1.png"]
    assert made == {f"{n}.{e}" for n in names for e in ("png", "json")} | {"skipped.jsonl", "predictions.jsonl"}
    assert [line["name"] for line in lines_of(out)] == names
    said = capsys.readouterr().err
    assert f"skipped {photos}/b/text.jpg: " in said and "1 photo of 5" in said
    assert json.loads((out / "skipped.jsonl").read_text())["photo"] == f"{photos}/b/text.jpg"
    for name in ("a/1", "b/1.png"):
        photo = Path(json.loads((out / f"{name}.json").read_text())["photo"])
        alone = tmp_path / "alone" / photo.parent.name
        assert look(f"--model={model}", f"--out={alone}", photo) == 0
        assert (alone / "1.png").read_bytes() == (out / f"{name}.png").read_bytes()

    # Again: only what is missing or out of date, without taking results for photos.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    (out / "a/1.png").unlink()
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(photos / "2.png")
    (photos / "b/text.jpg").unlink()
    assert look(*command) == 0
    assert {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time} == {"1", "2"}
    assert lines_of(out) == [{"name": name} | json.loads((out / f"{name}.json").read_text()) for name in names]
    assert (out / "a/1.png").exists() and not (out / "skipped.jsonl").exists()
    assert "2 of 4 photos are done already" in capsys.readouterr().err


def test_without_pictures_there_are_lines_alone_and_an_interrupted_command_goes_on(
    model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    """With the numbers of each photo's JSON, whatever was killed; a folder of results without lines gets them."""
    write_files(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(5)} | {"bad.jpg": b"no image"})
    command = (f"--model={model}", f"--out={tmp_path}/out", "--batch_size=2", tmp_path / "photos", "--pictures=no")
    add = predict.Lines.add

    def killed_at_the_fourth(self: predict.Lines, name: str, value: dict[str, Any]) -> None:
        if name == "3":
            raise KeyboardInterrupt
        add(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(predict.Lines, "add", killed_at_the_fourth)
        assert look(*command) != 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.jsonl.part"]
    capsys.readouterr()
    assert look(*command) == 0
    assert "3 of 6 photos are done already" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.jsonl", "skipped.jsonl"}
    lines = lines_of(tmp_path / "out")
    assert [line["name"] for line in lines] == [*"01234"]

    with_pictures = [each for each in command if each != "--pictures=no"]
    assert look(*with_pictures) == 0
    told = [{"name": str(i)} | json.loads((tmp_path / f"out/{i}.json").read_text()) for i in range(5)]
    assert [{name: each[name] for name in each if name != "picture"} for each in told] == lines
    assert lines_of(tmp_path / "out") == told
    (tmp_path / "out/predictions.jsonl").unlink()
    capsys.readouterr()
    assert look(*with_pictures) == 0
    assert "5 of 6 photos are done already" in capsys.readouterr().err
    assert lines_of(tmp_path / "out") == told


def test_no_readable_photo_is_an_error(model: Path, tmp_path: Path, capsys):
    (tmp_path / "text.jpg").write_text("no image")
    assert look(f"--model={model}", f"--out={tmp_path}/out", tmp_path / "text.jpg") == 2
    assert f"{tmp_path}/text.jpg: an image cannot be read" in capsys.readouterr().err


def test_a_batch_too_large_for_the_memory_is_an_error(
    model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    """Which names the flag and a value that may do; known before anything is read, or told by the devices."""
    write_files(tmp_path / "photos", {f"{i}.jpg": jpeg(i) for i in range(4)})
    command = (f"--model={model}", f"--out={tmp_path}/out", "--batch_size=4", tmp_path / "photos")

    def refuses(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nAllocations: many")

    with monkeypatch.context() as patch:
        patch.setattr(trained, "put_batch", refuses)
        assert look(*command) == 2
        for devices, batch_size, sentence in (
            (1, 1, "one image .* memory; free some"),
            (2, 1, "one image .* each of 2 devices; free some"),  # which fill up the batch
            (2, 6, "6 images .* batch_size to 2 or less"),
        ):
            loaded = trained.load(model, make_mesh(devices))
            with pytest.raises(UserError, match=sentence):
                next(loaded.each(range(6), lambda _: np.zeros((9, 9, 3), np.uint8), lambda *_: None, batch_size))
    assert re.search(r"error: one image .* each of 4 devices", capsys.readouterr().err.splitlines()[-1])
    with monkeypatch.context() as patch:
        patch.setattr(memory, "memory_bytes", lambda: 1000)
        assert look(*command) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("lower --batch_size")
    assert look(*command) == 0


def test_features_are_those_of_the_model_and_are_written_once(model: Path, tmp_path: Path, capsys):
    photos, loaded = [PHOTOS / "coffee.png", PHOTOS / "astronaut.png"], must_jax.load(model)
    command = (f"--model={model}", f"--out={tmp_path}", "--levels=c5,p3", *photos)
    for kind in ("maps", "pooled"):
        assert look(*command, f"--features={kind}") == 0
        expected = loaded.features(photos, ["c5", "p3"], pooled=kind == "pooled")
        for row, photo in enumerate(photos):
            about = json.loads((tmp_path / f"{photo.stem}.json").read_text())
            assert about["features"]["strides"] == {"c5": 32, "p3": 8}
            with np.load(tmp_path / about["features"]["file"]) as found:
                assert set(found) == set(expected)
                for name in found:
                    np.testing.assert_allclose(found[name], expected[name][row], rtol=1e-4, atol=1e-4, err_msg=name)
    written = (tmp_path / "coffee.npz").stat().st_mtime_ns
    capsys.readouterr()
    assert look(*command, "--features=pooled") == 0
    assert "2 of 2 photos are done already" in capsys.readouterr().err
    assert (tmp_path / "coffee.npz").stat().st_mtime_ns == written
    plain = loaded.predict(photos[0])["depth"]["depth"]  # what is asked for besides does not change the answers
    assert about["predictions"] and json.loads((tmp_path / "coffee.json").read_text())["predictions"]["depth"][
        "max"
    ] == pytest.approx(float(plain.max()), rel=1e-3)


def test_options_change_what_is_found_and_an_empty_answer_is_said(model: Path, tmp_path: Path, capsys):
    photo, detection = PHOTOS / "coffee.png", "--tasks.detection"
    command = (f"--model={model}", f"--out={tmp_path}", photo)

    def boxes(*options: str) -> int:
        assert look(*command, *options) == 0
        return len(json.loads((tmp_path / "coffee.json").read_text())["predictions"]["detection"]["boxes"])

    most = [f"{detection}.score_threshold=0", f"{detection}.min_score=0"]
    assert boxes(*most, f"{detection}.max_detections=3", "--tasks.classification.top_k=2") == 3
    told = json.loads((tmp_path / "coffee.json").read_text())
    assert len(told["predictions"]["classification"]) == 2 and told["options"]["detection"]["max_detections"] == 3
    assert boxes(*most) > 3
    capsys.readouterr()
    assert boxes(f"{detection}.score_threshold=1") == 0
    said = capsys.readouterr().err
    assert "detection found nothing on 1 of 1 photo" in said and f"{detection}.score_threshold" in said
    assert boxes(f"{detection}.score_threshold=0.1", f"{detection}.min_score=0.99") == 0  # the higher one counts
    said = capsys.readouterr().err
    assert f"{detection}.min_score" in said and f"{detection}.score_threshold" not in said
    for wrong, named in (
        ("--tasks.detektion.score_threshold=0", "no task 'detektion'"),
        ("--tasks.detection.score=0", "no option 'score'"),
        ("--tasks.detection=0", "--tasks.detection=0 is unknown"),
        ("--features=pooled --levels=c6", "level 'c6'"),
        ("--levels=c5", "--features"),  # which would have no effect
        ("--map=png", "--map=png is unknown"),
    ):
        assert look(f"--model={model}", f"--out={tmp_path / 'none'}", photo, *wrong.split()) == 2
        assert named in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_maps_come_back_as_they_were_predicted(model: Path, tmp_path: Path, suffix: str):
    photo = PHOTOS / "coffee.png"
    assert look(f"--model={model}", f"--out={tmp_path}", f"--maps={suffix}", photo) == 0
    loaded = must_jax.load(model)
    labels, told = loaded.predict(photo), json.loads((tmp_path / "coffee.json").read_text())
    assert set(told["maps"]) == {"segmentation", "depth", "normals"}
    if suffix == "npy":
        found = {task: np.load(tmp_path / about["file"]) for task, about in told["maps"].items()}
        assert {task: str(map_.dtype) for task, map_ in found.items()} == {
            "segmentation": "uint8",
            "depth": "float32",
            "normals": "float32",
        }
        np.testing.assert_array_equal(found["segmentation"], labels["segmentation"]["ids"])
        np.testing.assert_array_equal(found["depth"], labels["depth"]["depth"])
        np.testing.assert_array_equal(found["normals"], labels["normals"]["normals"])
        return
    classes = loaded.tasks["segmentation"].classes
    unit, axes = told["maps"]["depth"]["unit"], told["maps"]["normals"]["axes"]
    read = {  # as an import reads a folder of them
        "segmentation": read_map(IdPng(classes=classes), tmp_path / "maps/segmentation", "coffee.png"),
        "depth": read_map(DepthPng(unit=unit), tmp_path / "maps/depth", "coffee.png"),
        "normals": read_map(NormalPng(axes=axes), tmp_path / "maps/normals", "coffee.png"),
    }
    np.testing.assert_array_equal(read["segmentation"]["ids"], labels["segmentation"]["ids"])
    np.testing.assert_allclose(read["depth"]["depth"], labels["depth"]["depth"], atol=0.0005 + 1e-6)
    np.testing.assert_allclose(read["normals"]["normals"], labels["normals"]["normals"], atol=1e-4)
    assert read["depth"]["valid"].all() and read["normals"]["valid"].all()


def read_map(form: PngMaps, folder: Path, name: str) -> Label:
    kinds = {"ids": IdsLabel("ids"), "scalars": ScalarsLabel("depth", "m")}
    kind = kinds.get(form.gives.split()[-1], DirectionsLabel("normals"))
    label = form.open(folder, [name], kind).label(Photo(name, None))
    assert label is not None
    return label


@pytest.mark.parametrize(
    ("photos", "sentence"),
    [
        (["missing.jpg"], "there is no photo missing.jpg; check its path"),
        (["good.png", "other/good.png"], "two photos would both become out/good.json"),
        (["out/good.png"], "the result would overwrite out/good.png; choose another folder with --out"),
        (["good.png"], "nothing"),  # the model
        (["empty"], "empty has no images"),
        (["--out=other", "other"], "results would lie among the photos of other"),
        (["--batch_size=0", "good.png"], "--batch_size is 0"),
    ],
)
def test_a_mistake_is_answered_before_any_work(
    photos: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for folder in (".", "other", "out"):
        Path(folder).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"{folder}/good.png")
    before = sorted(Path().rglob("*"))
    assert look("--model=runs/nothing", "--out=out", *photos) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_as_typed_in_a_shell(tmp_path: Path):
    command = [sys.executable, "-m", "must_jax.predict", "--model=runs/none", f"{tmp_path}/none.jpg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: there is no photo {tmp_path}/none.jpg; check its path\n")
