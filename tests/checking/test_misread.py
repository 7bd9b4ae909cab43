"""Every teacher that is read wrongly is found, with the line to change; none that is read rightly is accused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import made_models as models
import numpy as np
import pytest
from checks import config, corrected, of
from made_models import ITEMS, SHAPES, THINGS, Function, Seen


class Case(NamedTuple):
    """A teacher, its declaration, and how well it sees: noise of 0 is perfect, and 0.6 is poor."""

    name: str
    set_: str
    says: Callable[[Seen], Any]
    tasks: dict[str, Any]


def depth(name: str, says: Callable[[Seen], Any], **declared: Any) -> Case:
    return Case(name, "teacher_depth_tiny", says, {"depth": declared})


def normals(name: str, says: Callable[[Seen], Any], axes: str) -> Case:
    return Case(name, "teacher_normals_tiny", says, {"normals": {"axes": axes}})


def boxes(name: str, says: Callable[[Seen], Any], **declared: Any) -> Case:
    return Case(name, "teacher_detection_tiny", says, {"detection": {"classes": SHAPES, **declared}})


def regions(name: str, says: Callable[[Seen], Any], **declared: Any) -> Case:
    tasks = {"segmentation": {"classes": THINGS, "scores": "softmax", **declared}}
    return Case(name, "teacher_segmentation_tiny", says, tasks)


def classes(name: str, says: Callable[[Seen], Any], **declared: Any) -> Case:
    tasks = {"classification": {"classes": ITEMS, "scores": "softmax", **declared}}
    return Case(name, "teacher_classification_tiny", says, tasks)


def metres(noise: float, factor: float = 1.0) -> Callable[[Seen], Any]:
    return lambda seen: factor * models.depth(seen, noise)


def inverse(noise: float) -> Callable[[Seen], Any]:
    """As MiDaS: up to scale and shift, which differ from image to image."""
    return lambda seen: seen.rng.uniform(50, 200) / models.depth(seen, noise) + seen.rng.uniform(0, 20)


def turned(noise: float, *factors: int, order: tuple[int, int, int] = (0, 1, 2)) -> Callable[[Seen], Any]:
    return lambda seen: models.normals(seen, noise)[..., order] * np.array(factors)


def formed(noise: float, form: str) -> Callable[[Seen], Any]:
    """Boxes in another format than two corners, x before y, in pixels."""

    def says(seen: Seen) -> dict[str, np.ndarray]:
        said = models.boxes(seen, noise)
        x0, y0, x1, y1 = said["boxes"].T
        corners = {
            "yxyx": (y0, x0, y1, x1),
            "xywh": (x0, y0, x1 - x0, y1 - y0),
            "cxcywh": ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0),
            "fractions": (x0 / seen.hw[1], y0 / seen.hw[0], x1 / seen.hw[1], y1 / seen.hw[0]),
        }
        return {**said, "boxes": np.stack(corners[form], 1)}

    return says


def numbered(noise: float, first: int) -> Callable[[Seen], Any]:
    def says(seen: Seen) -> dict[str, np.ndarray]:
        said = models.boxes(seen, noise)
        return {**said, "classes": said["classes"] + first}

    return says


def ids(noise: float, first: int = 0) -> Callable[[Seen], Any]:
    return lambda seen: models.regions(seen, noise).argmax(-1) + first


def with_background(noise: float, first: bool) -> Callable[[Seen], Any]:
    def says(seen: Seen) -> np.ndarray:
        logits = models.regions(seen, noise)
        none = np.full((*logits.shape[:2], 1), -4.0)
        return np.concatenate([none, logits] if first else [logits, none], -1)

    return says


def even(scores: np.ndarray) -> np.ndarray:
    values = np.exp(scores - scores.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


RIGHT = [
    depth("perfect metres", metres(0), depth_kind="metric_m"),
    depth("noisy metres", metres(0.3), depth_kind="metric_m"),
    depth("all too far", metres(0.1, 1.15), depth_kind="metric_m"),
    depth("millimetres", metres(0.2, 1000), depth_kind="metric_m", metres_per_unit=0.001),
    depth("relative", metres(0.3, 0.05), depth_kind="relative"),
    depth("inverse", inverse(0.1), depth_kind="inverse_relative"),
    depth("poor and inverse", inverse(0.5), depth_kind="inverse_relative"),
    normals("perfect normals", turned(0, 1, 1, 1), "opencv"),
    normals("noisy normals", turned(0.3, 1, -1, -1), "opengl"),
    normals("all axes turned", turned(0.3, -1, -1, -1), "dsine"),
    boxes("perfect boxes", lambda seen: models.boxes(seen, 0)),
    boxes("noisy boxes", formed(0.3, "cxcywh"), boxes="cxcywh"),
    boxes("poor boxes", lambda seen: models.boxes(seen, 0.8)),
    boxes("boxes in fractions", formed(0.4, "fractions"), box_unit="fractions"),
    boxes("classes from 1", numbered(0.4, 1), first_class=1),
    regions("perfect regions", lambda seen: models.regions(seen, 0)),
    regions("poor regions", lambda seen: models.regions(seen, 0.55)),
    regions("ids from 1", ids(0.3, 1), first_class=1),
    classes("perfect classes", lambda seen: models.scores(seen, 0)),
    classes("noisy classes", lambda seen: models.scores(seen, 0.4)),
    classes("probabilities", lambda seen: even(models.scores(seen, 0.3)), scores="probabilities"),
]


@pytest.mark.parametrize("case", RIGHT, ids=[case.name for case in RIGHT])
def test_none_that_is_read_rightly_is_accused(case: Case, function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = case.says
    verdict = of(config(function, case.set_, data_dir, case.tasks), tmp_path / "run")
    assert (verdict.verdict, verdict.findings) == ("passed", ())
    assert len(verdict.tried) > 1


WRONG = [
    (depth("millimetres", metres(0.3, 1000), depth_kind="metric_m"), "metres_per_unit=0.001"),
    (depth("feet", metres(0.1, 1 / 0.3048), depth_kind="metric_m"), "metres_per_unit=0.3048"),
    (depth("KITTI's", metres(0.2, 256), depth_kind="metric_m"), "metres_per_unit=0.00390625"),
    (depth("metres", metres(0.2), depth_kind="metric_m", metres_per_unit=0.001), "metres_per_unit=1"),
    (depth("inverse as metres", inverse(0.3), depth_kind="metric_m"), "depth_kind=inverse_relative"),
    (depth("inverse as relative", inverse(0.5), depth_kind="relative"), "depth_kind=inverse_relative"),
    (depth("metres as inverse", metres(0.3), depth_kind="inverse_relative"), "depth_kind=metric_m"),
    (depth("relative as inverse", metres(0.3, 20), depth_kind="inverse_relative"), "depth_kind=relative"),
    (depth("relative as metres", metres(0.2, 7), depth_kind="metric_m"), "depth_kind=relative"),
    (normals("x", turned(0.3, -1, 1, 1), "opencv"), "axes=-x,y,z"),
    (normals("y", turned(0, 1, -1, 1), "opencv"), "axes=x,-y,z"),
    (normals("z", turned(0.3, 1, 1, -1), "opencv"), "axes=x,y,-z"),
    (normals("as OpenGL's", turned(0.3, -1, -1, -1), "opengl"), "axes=-x,-y,-z"),
    (normals("order", turned(0.2, 1, 1, 1, order=(0, 2, 1)), "opencv"), "axes=x,z,y"),
    (boxes("yxyx", formed(0.3, "yxyx")), "boxes=yxyx"),
    (boxes("xywh", formed(0.5, "xywh")), "boxes=xywh"),
    (boxes("cxcywh", formed(0.3, "cxcywh")), "boxes=cxcywh"),
    (boxes("corners as centres", lambda seen: models.boxes(seen, 0.5), boxes="cxcywh"), "boxes=xyxy"),
    (boxes("fractions", formed(0.3, "fractions")), "box_unit=fractions"),
    (boxes("pixels", lambda seen: models.boxes(seen, 0.3), box_unit="fractions"), "box_unit=pixels"),
    (boxes("classes from 1", numbered(0.3, 1), classes=(*SHAPES, "more")), "first_class=1"),
    (boxes("classes from 1, beyond the list", numbered(0.3, 1)), "first_class=1"),
    (boxes("classes from 0", numbered(0.5, 0), first_class=-1), "first_class=0"),
    (regions("ids from 1", ids(0.5, 1), classes=(*THINGS, "more")), "first_class=1"),
    (regions("background first", with_background(0.4, True), background=-1), "background=0"),
    (regions("background last", with_background(0.4, False), background=0), "background=-1"),
    (classes("softmax of probabilities", lambda seen: even(models.scores(seen, 0.3))), "scores=probabilities"),
]


@pytest.mark.parametrize(("case", "change"), WRONG, ids=[case.name for case, _ in WRONG])
def test_what_is_read_wrongly_is_found_and_the_line_that_is_named_puts_it_right(
    case: Case, change: str, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = case.says
    values = config(function, case.set_, data_dir, case.tasks)
    verdict = of(values, tmp_path / "run")
    [name] = case.tasks
    assert verdict.verdict == "failed"
    assert [each.line for each in verdict.failures] == [f"--config.teachers.0.tasks.{name}.{change}"]
    again = of(corrected(values, verdict.failures[0].line), tmp_path / "again")
    assert (again.verdict, again.findings) == ("passed", ())


@pytest.mark.parametrize(
    ("case", "moved"),
    [
        (regions("a", lambda seen: models.regions(seen, 0.4), classes=(*THINGS[1:], THINGS[0])), THINGS[0]),
        (classes("b", lambda seen: models.scores(seen, 0.3), classes=(ITEMS[-1], *ITEMS[:-1])), ITEMS[-1]),
    ],
    ids=["later", "earlier"],
)
def test_a_class_list_that_is_shifted_is_found(
    case: Case, moved: str, function: Function, data_dir: Path, tmp_path: Path
) -> None:
    function.says = case.says
    verdict = of(config(function, case.set_, data_dir, case.tasks), tmp_path / "run")
    [finding] = verdict.failures
    assert f"'{moved}'" in finding.reason and not finding.line


def test_a_function_that_expects_blue_first(function: Function, data_dir: Path, tmp_path: Path) -> None:
    function.says = lambda seen: models.boxes(seen, 0.2)
    function.noise_otherwise = lambda seen: models.boxes(seen, 1.0)
    tasks = {"detection": {"classes": SHAPES}}
    function.colour = "rgb"
    assert of(config(function, "teacher_detection_tiny", data_dir, tasks), tmp_path / "right").verdict == "passed"
    function.colour = "bgr"
    values = config(function, "teacher_detection_tiny", data_dir, tasks)
    [finding] = of(values, tmp_path / "wrong").failures
    assert finding.line == "--config.teachers.0.input.colour=bgr"
    assert of(corrected(values, finding.line), tmp_path / "again").verdict == "passed"
