"""A Python function as a teacher, from a config to columns."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from must_jax.config import TeacherConfig
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labels import manifest
from must_jax.labels.columns import LabelColumn
from must_jax.parsing import parse
from must_jax.stages import label
from must_jax.teachers import function, loading

MODULE = '''
import numpy as np

def everything(images):
    """Answers that can be computed from the pixels of each image alone."""
    return [one(image) for image in images]

def one(image):
    assert image.dtype == np.uint8 and image.ndim == 3
    h, w = image.shape[:2]
    red = (image[..., 0] > 200) & (image[..., 1] < 60)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]] if len(rows) else np.zeros((0, 4))
    slope = np.stack([np.zeros((h, w)), np.zeros((h, w)), np.full((h, w), 2.0)], -1)
    return {
        "boxes": {"boxes": box, "scores": np.full(len(box), 0.75), "classes": np.full(len(box), 2)},
        "kinds": np.array([0.7, 0.2, 0.1]),
        "parts": np.where(red, 1, 0),
        "far": np.linspace(1000, 3000, h)[:, None] * np.ones((1, w)),
        "facing": slope,
    }

def only_depth(images):
    return [np.full(image.shape[:2], 2.5) for image in images]

def half_known(images):
    """Depth is not known on the left, and normals at the top; a depth of 0 is none, either."""
    answers = []
    for image in images:
        h, w = image.shape[:2]
        right, low = np.tile(np.arange(w) >= w // 2, (h, 1)), np.tile(np.arange(h)[:, None] >= h // 2, (1, w))
        depth = np.where(np.arange(h)[:, None] < 12, 0.0, 2.0) * np.ones((1, w))
        normals = np.where(low[..., None], [0.0, 0.0, -1.0], 0.0)
        answers.append({"depth": {"depth": depth, "valid": right}, "normals": normals})
    return answers

def broken(images):
    if any((image[:4, :4] == 7).all() for image in images):
        raise ZeroDivisionError("seven")
    return [np.full(image.shape[:2], np.nan if image[0, 0, 0] == 9 else 1.5) for image in images]

CALLS = []
def logits(images):
    """Of ten classes, at every pixel."""
    CALLS.append(len(images))
    return [np.eye(10, dtype=np.float32)[image[..., 0] % 10] * 9 for image in images]

def too_few(images):
    return [np.ones(image.shape[:2]) for image in images][1:]

def exits(images):
    raise SystemExit(3)

def too_sure(images):
    return [{"boxes": [[0, 0, 8, 8]], "scores": [7.5], "classes": [0]} for image in images]

def columns_of_boxes(images):
    return [{"boxes": np.ones((4, 3)), "scores": np.full(3, 0.9), "classes": np.zeros(3)} for image in images]

def part_of_a_class(images):
    return [{"boxes": [[0, 0, 8, 8]], "scores": [0.9], "classes": [0.7]} for image in images]

def a_share_at_every_pixel(images):
    return [np.full(image.shape[:2], 0.7) for image in images]
'''
TASKS = {
    "boxes": {"kind": "detection", "classes": ("a", "b", "c")},
    "kinds": {"kind": "classification", "classes": ("x", "y", "z")},
    "parts": {"kind": "segmentation", "classes": ("rest", "red")},
    "far": {"kind": "depth", "depth_kind": "metric_m", "metres_per_unit": 0.001},
    "facing": {"kind": "normals", "axes": "opengl"},
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"made_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate([(40, 60), (61, 33), (48, 48)]):
        image = np.full((height, width, 3), 90 + i, np.uint8)
        if i < 2:
            image[8:24, 12:28] = (10, 10, 250)  # BGR
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return f"folder:{folder}"


def run(model: str, photos: str, workdir: Path, tasks: dict, **more: object) -> None:
    teacher = {"model": model, "tasks": tasks, **more}
    values = {"stage": "label", "images": photos, "teachers": [teacher], "gallery_images": 0, "batch_size": 2}
    label.run(parse(values), workdir)


def test_every_kind_of_answer_becomes_its_label(module: str, photos: str, tmp_path: Path) -> None:
    run(f"python:{module}:everything", photos, tmp_path / "run", TASKS, licence="mine")
    columns = {name: LabelColumn(tmp_path / "run" / COLUMNS / f"everything-{name}") for name in TASKS}
    for i, (height, width) in enumerate([(40, 60), (61, 33), (48, 48)]):
        boxes = columns["boxes"][i]
        if i < 2:
            expected = np.array([[8 / height, 12 / width, 24 / height, 28 / width]])
            np.testing.assert_allclose(boxes["boxes_yxyx"], expected, atol=1e-6)
            assert boxes["classes"].tolist() == [2] and boxes["scores"].tolist() == [0.75]
        else:
            assert boxes["present"] == 1 and not len(boxes["classes"])
        np.testing.assert_allclose(columns["kinds"][i]["probs"], [0.7, 0.2, 0.1], atol=1e-3)
        ids = columns["parts"][i]["ids"]
        assert ids.shape == (round(height / 4), round(width / 4))  # a quarter of the image's own pixels
        rows, cells = ((np.arange(n) + 0.5) * side / n for n, side in zip(ids.shape, (height, width), strict=True))
        inside = ((rows > 8) & (rows < 24))[:, None] & ((cells > 12) & (cells < 28))[None]
        np.testing.assert_array_equal(ids, inside & (i < 2))
        depth = columns["far"][i]["depth"]
        np.testing.assert_allclose(depth[:, 0], 1 + 2 * (rows - 0.5) / (height - 1), atol=0.01)
        assert columns["far"][i]["valid"].all()
        np.testing.assert_allclose(
            columns["facing"][i]["normals"], np.broadcast_to([0, 0, -1], (*ids.shape, 3)), atol=0.02
        )
    about = manifest.read(columns["far"].folder)
    assert (about.task, about.task_kind, about.unit, about.maker) == ("far", "depth", "m", "everything")
    assert about.teacher.licence == "mine"
    assert about.teacher.declared["tasks"]["far"]["metres_per_unit"] == 0.001


def test_what_is_not_known_is_not_labelled(module: str, photos: str, tmp_path: Path) -> None:
    tasks = {"depth": {"depth_kind": "metric_m"}, "normals": {"axes": "opencv"}}
    run(f"python:{module}:half_known", photos, tmp_path / "run", tasks)
    depth, normals = (LabelColumn(tmp_path / "run" / COLUMNS / f"half_known-{name}")[2] for name in tasks)
    assert depth["valid"].shape == normals["valid"].shape == (12, 12)  # of 48 x 48 pixels
    assert depth["valid"][3:, 6:].all() and depth["valid"].sum() == 9 * 6
    np.testing.assert_allclose(depth["depth"][3:, 6:], 2, rtol=0.01)
    assert normals["valid"][7:].all() and not normals["valid"][:5].any()


def test_a_finished_run_knows_itself_and_another_reading_is_named(
    module: str, photos: str, tmp_path: Path, capsys
) -> None:
    model, tasks, workdir = f"python:{module}:only_depth", {"depth": {"depth_kind": "metric_m"}}, tmp_path / "run"
    run(model, photos, workdir, tasks)
    capsys.readouterr()
    run(model, photos, workdir, tasks, threads=1)  # which changes no label
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(UserError, match="otherwise read"):
        run(model, photos, workdir, {"depth": {"depth_kind": "metric_m", "metres_per_unit": 0.01}})
    (tmp_path / f"{module}.py").write_text(MODULE + "\n# changed\n")
    with pytest.raises(UserError, match="otherwise read"):
        run(model, photos, workdir, tasks)


def test_what_fails_on_single_images_is_named_by_teacher_and_image(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        value = {4: 7, 9: 9}.get(i, 50)
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.full((16, 16, 3), value, np.uint8))
    run(f"python:{module}:broken", f"folder:{folder}", tmp_path / "run", {"depth": {"depth_kind": "metric_m"}})
    absent = manifest.read(tmp_path / "run" / COLUMNS / "broken-depth").absent()
    assert {each.name: each.reason for each in absent} == {
        "04.png": "broken: ZeroDivisionError: seven",
        "09.png": "broken: FloatingPointError: its depth has non-finite values",
    }


@pytest.mark.parametrize(
    ("name", "tasks", "said"),
    [
        ("too_few", {"depth": {"depth_kind": "metric_m"}}, r"TypeError: it returned no list of 1 answers"),
        ("exits", {"depth": {"depth_kind": "metric_m"}}, r"sys.exit\(3\)"),
        ("too_sure", {"detection": {"classes": ["a"]}}, r"scores from 7.5 to 7.5"),
        ("columns_of_boxes", {"detection": {"classes": ["a"]}}, r"\[4, 3\]"),
        ("part_of_a_class", {"detection": {"classes": ["a"]}}, r"whole numbers"),
        ("a_share_at_every_pixel", {"segmentation": {"classes": ["a", "b"]}}, r"whole numbers"),
    ],
)
def test_a_function_that_never_answers_rightly_ends_the_run_with_its_name(
    name: str, tasks: dict, said: str, module: str, photos: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{name} .* none of its .* can be read: .*{said}"):
        run(f"python:{module}:{name}", photos, tmp_path / "run", tasks)


@pytest.mark.parametrize(
    ("model", "tasks", "named"),
    [
        ("python:no_such_module:f", {"depth": {"depth_kind": "metric_m"}}, "no_such_module"),
        ("python:MODULE:only_deph", {"depth": {"depth_kind": "metric_m"}}, "did you mean 'only_depth'"),
        ("python:MODULE", {"depth": {"depth_kind": "metric_m"}}, "FUNCTION"),
        ("python:MODULE:only_depth", {}, "tasks"),
        ("python:MODULE:only_depth", {"depth": {}}, "tasks.depth.depth_kind"),
        ("python:MODULE:only_depth", {"normals": {}}, "tasks.normals.axes"),
        ("python:MODULE:only_depth", {"normals": {"axes": "x,x,z"}}, "x,x,z"),
        ("python:MODULE:only_depth", {"segmentation": {}}, "tasks.segmentation.classes"),
        ("python:MODULE:only_depth", {"near": {"depth_kind": "metric_m"}}, "near"),
        ("best.pt", {}, "best.pt"),
        ("onnx:best.pt", {"depth": {}}, "safetensors"),
        ("onnx:none.onnx", {"depth": {}}, "none.onnx"),
    ],
)
def test_mistakes_are_named_before_any_work(
    module: str, photos: str, tmp_path: Path, model: str, tasks: dict, named: str
):
    with pytest.raises(UserError) as error:
        run(model.replace("MODULE", module), photos, tmp_path / "run", tasks)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run" / COLUMNS).exists()


@pytest.mark.parametrize(
    ("most", "declared", "calls"),
    [(2**30, 0, [2, 1]), (4 * 10 * (40 * 60 + 61 * 33), 0, [2, 1]), (4 * 10 * 40 * 61, 0, [1, 1, 1]), (1, 2, [2, 1])],
)
def test_maps_of_many_classes_are_asked_for_a_few_at_a_time(
    most: int,
    declared: int,
    calls: list[int],
    module: str,
    photos: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(function, "ANSWER_BYTES", most)
    tasks = {"parts": {"kind": "segmentation", "classes": tuple("abcdefghij"), "scores": "softmax"}}
    run(f"python:{module}:logits", photos, tmp_path / "run", tasks, batch_size=declared)
    checked, noise = 2 * 2, 1  # two photos, as the third shows nothing, and their mirror images
    assert sys.modules[module].CALLS[checked + noise :] == calls
    column = LabelColumn(tmp_path / "run" / COLUMNS / "logits-parts")
    assert [int(column[i]["ids"][-1, -1]) for i in range(3)] == [0, 1, 2]  # 90, 91, 92


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "undefined", "x = ("])
def test_a_module_that_cannot_be_imported_is_named(code: str, module: str, tmp_path: Path) -> None:
    """Itself, or the package that it is in, which is imported before its file is looked for."""
    package = tmp_path / f"{module}_package"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (package / "inner.py").write_text(MODULE)
    for name in (package.name, f"{package.name}.inner"):
        declared = TeacherConfig(model=f"python:{name}:only_depth", tasks={"depth": {"depth_kind": "metric_m"}})
        with pytest.raises(UserError, match=f"{name} cannot be imported: .*Sy|{name} cannot be imported: NameError"):
            loading.load(declared, {}, None)  # type: ignore[arg-type]  # no mesh


def test_a_package_that_lacks_a_library_is_not_taken_for_a_missing_module(module: str, tmp_path: Path) -> None:
    package = tmp_path / f"{module}_package"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_library")
    (package / "inner.py").write_text(MODULE)
    for name, named in ((f"{package.name}.inner", "no_such_library"), (f"{module}_packages.inner", "no module")):
        declared = TeacherConfig(model=f"python:{name}:only_depth", tasks={"depth": {"depth_kind": "metric_m"}})
        with pytest.raises(UserError, match=f"{name}.*{named}|{named}.*{name}"):
            loading.load(declared, {}, None)  # type: ignore[arg-type]  # no mesh
