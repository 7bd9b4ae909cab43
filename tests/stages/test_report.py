"""The report of runs: of a pipeline, of some of its stages, of any others, finished or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from must_jax import trained
from must_jax.config import PipelineConfig, PrepareConfig, ReportConfig
from must_jax.engine.metric_log import METRICS_FILE
from must_jax.errors import UserError
from must_jax.report.html import Report
from must_jax.reporting import overview, pictures
from must_jax.runs.entries import Entry
from must_jax.runs.pipelines import TIMES_FILE
from must_jax.runs.workdir import REPORT
from must_jax.stages import pipeline, report

MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, "head_convs": 1}
TRUTH = {"images": "scenes/teacher_depth_tiny:train"}


def training(**values: Any) -> dict[str, Any]:
    return {"stage": "train", "train": [TRUTH], "tasks": {"depth": {}}, "model": MODEL, "steps": 2} | values


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pipeline of a teacher of depth, a model of two tasks, and a scorecard."""
    home = tmp_path_factory.mktemp("pipeline")
    splits = {split: {"images": f"scenes/downstream_depth_tiny:{split}"} for split in ("train", "validation", "test")}
    validation = {"images": "scenes/teacher_depth_tiny:validation"}
    both = [TRUTH, {"images": "scenes/teacher_normals_tiny:train"}]
    frozen = {"mode": "frozen", "steps": 2, "batch_size": 8, "learning_rates": [0.1], "seeds": [0, 1]}
    stages = {
        "teacher": training(batch_size=8, log_every=1, validation=validation, minimum={"depth/delta1": 0.0}),
        "student": training(batch_size=8, log_every=1, train=both, tasks={"depth": {}, "normals": {}}),
        "evaluate": {
            "stage": "evaluate",
            "inits": {"scratch": "", "teacher": "{workdir}/teacher", "student": "{workdir}/student"},
            "downstream": {"range": {"task": "depth", **splits}},
            "transfers": [frozen],
            "model": MODEL,
        },
    }
    pipeline.run(PipelineConfig(title="mine", data_dir=str(home / "data"), stages=stages), home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def contents(finished: Path) -> Report:
    (finished / TIMES_FILE).write_text('{"teacher": 61.0}')
    return overview.collect("mine", report.entries_of(finished), 20)


def test_the_report_of_a_real_pipeline(finished: Path, contents: Report):
    text = (finished / "report/index.html").read_text()
    assert "student beats scratch on" in text
    found = contents
    assert [(stage.name, stage.finished, stage.steps, stage.image_steps) for stage in found.stages] == [
        ("teacher", True, 2, 16),
        ("student", True, 2, 16),
        ("evaluate", True, None, None),
    ]
    assert found.stages[0].seconds == 61.0
    assert found.stages[0].parameters and found.stages[0].images_per_second
    assert {check.metric: check.minimum for check in found.checks} == {
        "depth/delta1": 0.0,
        "depth/abs_rel": None,
        "depth/rmse": None,
        "depth/chance": None,
    }
    assert {curve.title: list(curve.series) for curve in found.curves} == {
        "teacher": ["loss"],
        "student": ["loss", "depth", "normals"],
    }
    assert found.curves[0].series["loss"][0] == [1, 2]
    assert found.starts["student"].tasks == ("depth", "normals")
    assert len(found.rows) == 3 * 2


def test_pictures_show_the_truth_beside_every_model(contents: Report):
    together, depth, normals = contents.galleries
    assert list(together.rows) == ["image", "depth", "normals"]
    assert list(depth.rows) == ["image", "ground truth", "teacher", "student"]
    assert list(normals.rows) == ["image", "ground truth", "student"]
    assert "Held-out images of scenes/teacher_depth_tiny:validation" in depth.note
    assert "Training images of scenes/teacher_normals_tiny:train" in normals.note
    assert {len(images) for gallery in (together, depth, normals) for images in gallery.rows.values()} == {6}


def test_the_worst_and_best_images_are_those_of_lowest_and_highest_metric(contents: Report):
    """Of the model of several tasks, on images that are held out if there are any."""
    titles = ["depth: worst of student", "depth: best of student"]
    worst, best = (each for each in contents.extremes if each.title in titles)
    values = [[float(caption.split()[1].rstrip(",")) for caption in each.captions] for each in (worst, best)]
    assert values[0] == sorted(values[0]) and values[1] == sorted(values[1], reverse=True)
    assert max(values[0]) < max(values[1]) and min(values[0]) < min(values[1])
    assert all("delta1" in caption and "teacher_depth_tiny" in caption for caption in worst.captions)
    for gallery in (worst, best):
        assert list(gallery.rows) == ["image", "ground truth", "student"]
        assert {len(images) for images in gallery.rows.values()} == {len(gallery.captions)}


def test_an_image_alone_is_measured_as_an_evaluation_does(finished: Path, contents: Report):
    (entry,) = report.entries_of(finished / "teacher")
    model = trained.load(entry.workdir)
    task = model.tasks["depth"]
    truth = pictures._truth(entry.config, "depth")["depth"]
    ranked = {position: value for value, position in pictures._ranked(model, task, truth.source, 1000)}
    assert len(ranked) == len(truth.source.images)
    for example in pictures._examples(truth.source, "depth", [0, 1]):
        assert example is not None
        measured = task.metrics()  # its images fill the input, and the rule of depth leaves nothing out
        measured.update(model.predict(example.image)["depth"], example.label)
        assert measured.result()["delta1"] == pytest.approx(ranked[example.position], abs=1e-3)


def test_what_lies_behind_the_metrics_is_shown(contents: Report):
    validated, compared = contents.details
    told = ("teacher", "depth", "scenes/teacher_depth_tiny:validation")
    assert (validated.title, validated.task, validated.images) == told
    assert validated.details.curves
    assert (compared.title, compared.images) == ("evaluate: range, frozen, seed 0", "scenes/downstream_depth_tiny:test")
    assert all(curve.series.keys() == {"scratch", "teacher", "student"} for curve in compared.details.curves)


def test_any_runs_make_a_report(finished: Path, tmp_path: Path):
    """In the workdir of the command, which need not be a run. No model is run for 0 images."""
    runs = [str(finished / name) for name in ("student", "evaluate")]
    report.run(ReportConfig.model_validate({"stage": "report", "runs": runs, "ranked_images": 0}), tmp_path / "new")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path("new") / REPORT]
    text = (tmp_path / "new" / REPORT).read_text()
    assert "student beats scratch on" in text and "student, evaluate" in text
    assert 'id="pictures"' not in text and 'id="columns"' not in text


def test_an_evaluation_has_a_report_of_its_own(finished: Path):
    text = (finished / "evaluate" / REPORT).read_text()
    assert 'id="scorecard"' in text and "downstream_depth_tiny:test" in text and 'id="pictures"' not in text


def copied(run: Path, to: Path, *, without: tuple[str, ...] = ()) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(*without, ".lock"))
    return to


def test_images_that_are_gone_are_told_and_the_rest_is_shown(finished: Path, tmp_path: Path):
    run = copied(finished / "teacher", tmp_path / "run")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace("scenes/teacher_depth_tiny", "gone/away"))
    found = overview.collect("mine", report.entries_of(run), 10)
    assert "gone/away" in found.missing[0] and not found.galleries
    assert found.checks and found.stages[0].finished


def test_a_run_that_is_not_finished_shows_what_there_is(finished: Path, tmp_path: Path):
    run = copied(finished / "teacher", tmp_path / "run", without=("model.json", "result.json", "validation.json"))
    rows = [{"step": step, "validation/depth/delta1": 10.0 * step} for step in (1, 2)]
    rows += [{"step": step, "validation/depth/delta1@street": 5.0} for step in (1, 2)]
    with (run / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    found = overview.collect("mine", report.entries_of(run), 10)
    assert (found.stages[0].finished, found.stages[0].state) == (False, "stopped")
    assert found.curves and not found.galleries and not found.checks
    (curve,) = found.validations
    assert curve.series["street"] == ([1, 2], [5.0, 5.0]) and curve.series["delta1"][1][-2:] == [10.0, 20.0]


def test_runs_of_one_name_are_told_apart(finished: Path, tmp_path: Path):
    copied(finished / "teacher", tmp_path / "a/teacher", without=("checkpoints",))
    config = ReportConfig(runs=(str(tmp_path / "a/teacher"), str(finished / "teacher")), ranked_images=0)
    report.run(config, tmp_path)
    text = (tmp_path / REPORT).read_text()
    assert str(tmp_path / "a/teacher") in text and str(finished / "teacher") in text


def test_what_is_prepared_and_from_what_is_told():
    labels = {"depth": {"format": "depth_png", "path": "maps"}}
    config = PrepareConfig.model_validate({"name": "mine", "images": "folder:x", "labels": labels})
    (told,) = overview._data(Entry("import", config, Path("nowhere")))
    assert (told.stage, told.images, told.labels) == ("import", "folder:x", ("depth: maps",)) and "mine" in told.role


def test_a_run_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="nothing_here"):
        report.run(ReportConfig(runs=(str(tmp_path / "nothing_here"),)), tmp_path)


def test_a_report_of_a_pipeline_that_is_half_done(finished: Path, tmp_path: Path):
    """Only the teacher is there."""
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.json", "teacher"):
        (half / name).symlink_to(finished / name)
    found = overview.collect("mine", report.entries_of(half), 10)
    assert [stage.finished for stage in found.stages] == [True, False, False]
    assert [gallery.title for gallery in found.galleries] == ["depth"]
    assert (found.rows, found.starts) == ([], {})


class Images:
    """Forty, of which some are labelled."""

    name = "sparse"

    def __len__(self) -> int:
        return 40

    def record(self, position: int) -> dict[str, bytes]:
        return {"image": b""}


def test_pictures_are_of_different_images_that_have_labels(monkeypatch: pytest.MonkeyPatch):
    photo, source, seen = np.zeros((8, 8, 3), np.uint8), SimpleNamespace(images=Images()), []
    monkeypatch.setattr(pictures, "decode_image", lambda _: photo)
    monkeypatch.setattr(pictures, "label_of", lambda source, task, at: {"present": True} if at % 7 == 3 else None)
    found = pictures._labelled_examples(source, "depth")
    assert [each.position for each in found] == [3, 10, 17, 24, 31, 38]

    monkeypatch.setattr(pictures, "opened", lambda images, at: seen.append(at) or photo)
    monkeypatch.setattr(pictures, "_drawn", lambda model, image: {"depth": image})
    sources = [SimpleNamespace(images=Images()) for _ in range(3)]  # three tasks of one set
    pictures._together("student", SimpleNamespace(tasks={"depth": None}), sources)
    assert len(seen) == len(set(seen)) == pictures.PICTURES
