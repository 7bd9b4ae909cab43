"""A training that starts from weights of others, to the model that says how its images are normalised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from short_training import MODEL, short_training

from must_jax import trained
from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.errors import UserError
from must_jax.models.api import build_model
from must_jax.parsing import parse
from must_jax.stages import evaluate, train
from must_jax.training import building
from must_jax.weights import files
from must_jax.weights.loading import conventions_of, flat

NORMALISED = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}
SCENES = "scenes/teacher_classification_tiny"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of timm, with a backbone of the tests' size."""
    folder = tmp_path / "published"
    folder.mkdir()
    write(folder, 0)
    about = {**NORMALISED, "input_size": [3, 224, 224], "license": "mit"}
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10", "pretrained_cfg": about}))
    return folder


def write(folder: Path, seed: int) -> dict[str, np.ndarray]:
    backbone = build_model(ModelConfig.model_validate(MODEL), {}).init(jax.random.key(seed), (32, 32))
    ours = flat(backbone["params"]["backbone"]) | flat(backbone["stats"]["backbone"])
    tensors = conventions_of(ARCHITECTURES["resnet10"])[0].written(ours)
    safetensors.numpy.save_file(tensors | {"fc.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return ours


def config(data_dir: Path, model: dict[str, Any], **values: Any) -> Any:
    return short_training(
        data_dir,
        **{
            "train": [{"images": f"{SCENES}:train"}],
            "validation": {"images": f"{SCENES}:validation"},
            "tasks": {"classification": {}},
            "model": MODEL | model,
            "steps": 2,
            **values,
        },
    )


def started(config: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = []

    def remember(variables: Any, *args: Any, **options: Any) -> None:
        found.append(jax.device_get(variables))
        raise UserError("far enough")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="far enough"):
        patch.setattr(building, "init_state", remember)
        train.run(config, workdir)
    return found[0]


def test_it_starts_with_the_file_and_keeps_its_normalisation(
    weights: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    wanted = write(weights, 3)
    values = config(data_dir, {"weights": str(weights)})
    variables = started(values, tmp_path / "run", monkeypatch)
    found = flat(variables["params"]["backbone"]) | flat(variables["stats"]["backbone"])
    for path, value in found.items():
        np.testing.assert_array_equal(value, wanted[path])
    said = " ".join(capsys.readouterr().err.split())
    assert "named as in timm; not used: fc.bias" in said and "trained at 224 px" in said

    train.run(values, tmp_path / "run")
    made = trained.load(tmp_path / "run")
    assert made.config.mean == tuple(NORMALISED["mean"]) and made.config.std == tuple(NORMALISED["std"])
    assert made.model.mean == pytest.approx([127.5, 102, 76.5]) and made.licences == {"published": "mit"}
    told = json.loads((tmp_path / "run/config.json").read_text())
    assert told["model"]["weights"] == str(weights) and "mean" not in told["model"]

    (tmp_path / "run/model.json").unlink()
    (tmp_path / "run/result.json").unlink()
    write(weights, 4)
    with pytest.raises(UserError, match=r"model\.weights"):  # its checkpoints are of the other weights
        train.run(values, tmp_path / "run")


def test_what_starts_from_it_is_normalised_alike(
    weights: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.run(config(data_dir, {"weights": str(weights)}), tmp_path / "first")
    train.run(config(data_dir, {}, init=str(tmp_path / "first")), tmp_path / "second")
    first, second = (trained.load(tmp_path / name) for name in ("first", "second"))
    assert second.config.mean == first.config.mean == tuple(NORMALISED["mean"]) and second.model.std == first.model.std
    with pytest.raises(UserError, match=r"mean is \(0\.5, 0\.4, 0\.3\) there and \(0\.1, 0\.1, 0\.1\) here"):
        train.run(config(data_dir, {"mean": [0.1] * 3}, init=str(tmp_path / "first")), tmp_path / "third")
    with pytest.raises(UserError, match=r"both config\.init=.*have a backbone"):
        train.run(config(data_dir, {"weights": str(weights)}, init=str(tmp_path / "first")), tmp_path / "third")

    train.run(config(data_dir, {}), tmp_path / "plain")
    downstream = {
        "train": {"images": f"{SCENES}:train"},
        "validation": {"images": f"{SCENES}:validation"},
        "test": {"images": f"{SCENES}:test"},
        "task": "classification",
    }
    values = {
        "stage": "evaluate",
        "data_dir": str(data_dir),
        "image_size": 32,
        "model": MODEL,
        "downstream": {"items": downstream},
        "transfers": [{"mode": "finetune", "steps": 2, "batch_size": 8, "learning_rates": [0.1], "seeds": [0]}],
    }
    inits = {"first": str(tmp_path / "first"), "alone": str(weights), "scratch": ""}
    for seed in (0, 5, 5):  # weights that change are measured again
        write(weights, seed)
        evaluate.run(parse({**values, "inits": inits}), tmp_path / "evaluate")
        rows = json.loads((tmp_path / "evaluate/scorecard.json").read_text())
        assert {row["init"] for row in rows if row["value"] is not None} == inits.keys()
        alone = json.loads((tmp_path / "evaluate/result.json").read_text())["starts"]["alone"]
        assert alone["digest"] == files.digest(str(weights)) and alone["is_baseline"]
    trainings = (tmp_path / "evaluate/runs.jsonl").read_text()
    assert [trainings.count(f"/{name}/") for name in inits] == [1, 2, 1]
    for path, named in (("no/such.npz", r"correct config\.inits\.alone"), ("model.pth", "is a pickle")):
        with pytest.raises(UserError, match=named):
            evaluate.run(parse({**values, "inits": {"alone": path}}), tmp_path / "mistaken")
    with pytest.raises(UserError, match=r"set\s--config\.model\.backbone=resnet10"):
        evaluate.run(
            parse({**values, "inits": {"alone": str(weights)}, "model": MODEL | {"backbone": "resnet18"}}),
            tmp_path / "mistaken",
        )
    assert not (tmp_path / "mistaken").exists()
    inits["plain"] = str(tmp_path / "plain")
    with pytest.raises(UserError, match=r"config\.inits\.plain .*two evaluations|inits\.plain than by first"):
        evaluate.run(parse({**values, "inits": inits}), tmp_path / "mixed")


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"weights": "no/such"}, "hf download no/such"),
        ({"weights": "model.pth"}, "pickle"),
        ({"mean": [0.5]}, "three"),
        ({"std": [0.5, 0, 1]}, "above 0"),
        ({"backbone": "resnet18"}, "published is of a resnet10|config.model.backbone=resnet10"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    model: dict[str, Any], named: str, weights: Path, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=named):
        train.run(config(data_dir, {"weights": str(weights)} | model), tmp_path / "run")
    assert not (tmp_path / "run").exists()
