"""Stage export: files that are compared with the run before they are handed out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_teacher import make_teacher

from must_jax import trained
from must_jax.config import ExportConfig
from must_jax.errors import UserError
from must_jax.exporting import parity, stablehlo
from must_jax.parsing import parse
from must_jax.stages import export

TASKS = ("depth", "normals")
IMAGES = "scenes/teacher_depth_tiny:validation"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("runs") / "student", TASKS, 32, {"depth/delta1": 50.0})


def config(student: Path, data_dir: Path, **values: Any) -> ExportConfig:
    common = {
        "stage": "export",
        "model": str(student),
        "data_dir": str(data_dir),
        "formats": "stablehlo",
        "validation": [{"images": IMAGES}],
        "take": 10,
        "batch_size": 8,
        "latency": (1,),
    }
    return parse(common | values)  # type: ignore[return-value]


def test_files_say_what_the_run_says(
    student: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.run(config(student, data_dir), tmp_path)
    again = jax.export.deserialize(bytearray((tmp_path / "stablehlo/model.stablehlo").read_bytes()))
    assert again.platforms == ("cpu", "cuda", "tpu")
    model = trained.load(student)
    for count in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        expected, outputs = model.predict_batch(images), again.call(images)
        for task, fields in expected.items():
            for field, values in fields.items():
                np.testing.assert_allclose(outputs[f"{task}/{field}"], values, rtol=1e-4, atol=1e-5)
    told = json.loads((tmp_path / export.PARITY_FILE).read_text())
    assert set(told) == {"stablehlo/model.stablehlo", "stablehlo/backbone.stablehlo"}
    for about in told.values():
        assert about["parity"]["images"] == 10
        assert about["parity"]["metrics"]["depth/delta1"]["run"] > 0
        assert all(each["differing"] == 0 for each in about["parity"]["outputs"].values())
        assert [each["batch_size"] for each in about["latency"]] == [1]
    text = (tmp_path / "README.md").read_text()
    assert "boxes_yxyx" not in text  # no task has them
    for words in ("depth/rmse", "stablehlo/backbone.stablehlo", "(1, 8, 8, 3)", "x right, y down", "mean [0.485"):
        assert words in text
    capsys.readouterr()
    export.run(config(student, data_dir), tmp_path)
    assert "finished" in capsys.readouterr().err


def test_what_heads_say_of_prepared_images(student: Path, data_dir: Path, tmp_path: Path) -> None:
    asked = config(student, data_dir, holds="model", preprocess=False, postprocess=False, latency=())
    export.run(asked, tmp_path)
    (file := tmp_path / "stablehlo/model.stablehlo").unlink()
    export.run(asked, tmp_path)  # what is gone is written again
    again = jax.export.deserialize(bytearray(file.read_bytes()))
    assert again.in_avals[0].dtype == np.float32
    assert again.call(np.zeros((2, 32, 32, 3), np.float32)).keys() == {"depth/maps", "normals/maps"}


@pytest.mark.parametrize("factor", [1.01, np.nan])
def test_a_file_that_differs_is_not_handed_out(
    student: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    write = stablehlo.write

    def broken(*arguments: Any) -> Any:
        answers = write(*arguments)
        (tmp_path / "stablehlo/model.stablehlo.data").touch()  # as onnx has it for what is large
        return lambda images: {name: x * np.float32(factor) for name, x in answers(images).items()}

    monkeypatch.setattr(stablehlo, "write", broken)
    (tmp_path / "README.md").write_text("of an earlier export")
    with pytest.raises(UserError, match=r"model\.stablehlo .*% of depth/depth .*config\.differing"):
        export.run(config(student, data_dir, metric_tolerance=0.5), tmp_path)
    assert not any((tmp_path / "stablehlo").iterdir())
    assert not {"README.md", "result.json"} & {path.name for path in tmp_path.iterdir()}


def test_without_labels_numbers_alone_are_compared(
    student: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(student, data_dir, validation=[{"images": IMAGES, "labels": ()}], holds="backbone", latency=())
    export.run(asked, tmp_path)
    told = json.loads((tmp_path / export.PARITY_FILE).read_text())["stablehlo/backbone.stablehlo"]["parity"]
    assert "without metrics" in capsys.readouterr().err
    assert not told["metrics"] and told["outputs"].keys() == {"c2", "c3", "c4", "c5"}


def test_of_self_supervision_the_backbone_is_left(tmp_path: Path, data_dir: Path) -> None:
    learnt = make_teacher(tmp_path / "simclr", ("simclr",), 32, {})
    values = {"validation": [{"images": IMAGES, "labels": ()}], "latency": ()}
    with pytest.raises(UserError, match=r"no task.*config\.holds=backbone"):
        export.run(config(learnt, data_dir, **values), tmp_path / "whole")
    export.run(config(learnt, data_dir, **values, holds="backbone"), tmp_path / "export")
    assert (tmp_path / "export/README.md").read_text().startswith("# simclr: resnet10 with 0 tasks")


def test_an_example_that_fails_is_told(
    student: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stablehlo, "example", lambda *_: "import must_jax")
    with pytest.raises(UserError, match=r"(?s)example.*must_jax"):
        export.run(config(student, data_dir, holds="backbone", latency=()), tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"validation": ()}, r"no images.*config\.validation\.0\.images"),
        ({"formats": "timm"}, r"must_jax\[timm\].*config\.formats"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_exported(
    student: Path, data_dir: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        export.run(config(student, data_dir, **values), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"formats": "onxx"}, "onxx.*onnx"),
        ({"holds": "models"}, "models.*model"),
        ({"formats": ()}, "formats is empty"),
        ({"opset": 16}, "opset"),
        ({"formats": ("onnx", "onnx")}, "onnx.*twice"),
    ],
)
def test_configs_that_make_no_sense(student: Path, data_dir: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(student, data_dir, **values)


def test_differences_are_relative_to_the_largest_number() -> None:
    comparison = parity.Comparison(1e-3)
    ours = {"f": np.array([0.0, 1e-4, 100.0], np.float32), "i": np.array([1, 2, 3, 4])}
    comparison.add(ours, {"f": np.array([0.0, 1.0, 100.0], np.float32), "i": np.array([1, 2, 3, 5])})
    comparison.add(ours, ours)
    found = comparison.result()
    assert found["f"].largest == pytest.approx(0.01, rel=1e-3) and found["f"].differing == pytest.approx(1 / 6)
    assert (found["i"].largest, found["i"].differing) == (1, 1 / 8)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_what_is_not_finite_hides_nothing(strange: float) -> None:
    ours, other = np.array([strange, 1, 2], np.float32), np.array([1, 1, strange], np.float32)
    for theirs, differing in ((ours, 0), (np.array([strange, 1, 9], np.float32), 1), (other, 2)):
        comparison = parity.Comparison(1e-3)
        comparison.add({"f": ours}, {"f": theirs})
        assert comparison.result()["f"].differing == pytest.approx(differing / 3)


def test_one_wrong_channel_of_many_counts() -> None:
    ours = np.ones((2, 4, 4, 2048), np.float32)
    theirs = ours.copy()
    theirs[..., -1] = 0
    comparison = parity.Comparison(1e-3)
    comparison.add({"f": ours}, {"f": theirs})
    assert comparison.result()["f"].differing == 1


def test_padding_of_the_last_batch_is_not_compared(
    student: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, rows = parity.Comparison.add, []

    def counted(self: parity.Comparison, ours: Any, theirs: Any) -> None:
        rows.append({len(x) for said in (ours, theirs) for x in said.values()})
        add(self, ours, theirs)

    monkeypatch.setattr(parity.Comparison, "add", counted)
    export.run(config(student, data_dir, holds="backbone", latency=()), tmp_path)
    assert rows == [{8}, {2}]


def test_errors_may_not_grow_and_scores_may_not_fall() -> None:
    assert parity.Metric(run=80.0, file=79.0).loss == pytest.approx(1)
    assert parity.Metric(run=0.5, file=0.55, is_error=True).loss == pytest.approx(10)
    assert parity.Metric(run=0.5, file=0.4, is_error=True).loss < 0
