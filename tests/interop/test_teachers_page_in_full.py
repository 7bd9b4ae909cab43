"""docs/teachers.md with all three teachers, and what else of it needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import teachers_page
import torch

from must_jax import description
from must_jax.data.shards import COLUMNS
from must_jax.labels import manifest


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    with teachers_page.home(tmp_path_factory.mktemp("home")) as folder:
        yield folder


def test_the_whole_worked_example(capsys: pytest.CaptureFixture[str]):
    teachers_page.work_through({})
    said = capsys.readouterr().out
    columns = {folder.name: manifest.read(folder) for folder in Path("runs/trial/label", COLUMNS).iterdir()}
    assert columns.keys() == {"toys-detection", "depth-depth", "regions-colours"}
    assert columns["depth-depth"].unit == "inverse_relative" and not columns["depth-depth"].absent()
    model = description.read(Path("runs/mine/student"))
    assert set(model.tasks) == {"detection", "depth", "colours"}
    (shown,) = (block for block in teachers_page.PAGE.split("```") if block.startswith("\ntrained on"))
    rows = [line.split() for line in shown.strip().splitlines()]
    assert [line for line in map(str.split, said.splitlines()) if line in rows] == rows
    assert model.training.licences == {name: " ".join(licence) for name, *licence in rows[1:]}


def test_weights_become_safetensors_as_the_page_says():
    weights = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2)}
    torch.save(weights, "model.pth")
    (block,) = (block for block in teachers_page.BLOCKS["python"] if "torch.load" in block)
    exec(block, {})
    saved = safetensors.numpy.load_file("model.safetensors")
    np.testing.assert_array_equal(saved["a"], weights["a"].numpy())
    assert saved.keys() == weights.keys()
