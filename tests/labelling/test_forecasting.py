"""The forecast against what labelling then costs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from made_teacher import HEADLINES, make_teacher

from must_jax import trained
from must_jax.config import LabelConfig
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.labelling import forecasting
from must_jax.labelling.teachers import begin_columns
from must_jax.stages import label
from must_jax.teachers.own import owned

IMAGES = 300


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder, tasks = tmp_path_factory.mktemp("teachers"), tuple(key.split("/")[0] for key in HEADLINES)
    make_teacher(folder / "everything", tasks, 64, HEADLINES)
    make_teacher(folder / "small", ("depth",), 32, HEADLINES)
    return str(folder / "everything"), str(folder / "small")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, smooth to rough, wide to tall."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = rng.integers(0, 256, (*rng.integers(2, 30, 2), 3), np.uint8)
        image = cv2.resize(coarse, tuple(rng.integers(20, 60, 2).tolist()), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


def config_of(photos: Path, teachers: tuple[str, ...], **changes: object) -> LabelConfig:
    values = {"batch_size": 16, "shard_images": 128, "gallery_images": 0, "devices": 2}
    return LabelConfig(images=f"folder:{photos}", teachers=teachers, **{**values, **changes})


@pytest.fixture(scope="module")
def forecast(photos: Path, teachers: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> forecasting.Forecast:
    """From fewer images than usual, in less time, in batches that the devices cannot share evenly."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SAMPLE": 64, "MOST_PASSES": 2, "FORWARD_S": 0.0}.items():
            patch.setattr(forecasting, name, value)
        config, images = config_of(photos, teachers), open_images(f"folder:{photos}", "")
        models = {Path(path).name: trained.load(path, make_mesh(2)) for path in teachers}
        folder = tmp_path_factory.mktemp("disk")
        found = forecasting.measure(
            images, lambda where, sample: begin_columns(where, owned(models), sample, config), 15, folder
        )
        assert not list(folder.iterdir())
        return found


def test_bytes_are_those_of_the_real_columns(
    forecast: forecasting.Forecast, photos: Path, teachers: tuple[str, ...], tmp_path: Path
) -> None:
    label.run(config_of(photos, teachers), tmp_path)
    real = {name: told["bytes"] for name, told in json.loads((tmp_path / "result.json").read_text())["columns"].items()}
    assert forecast.column_bytes.keys() == real.keys()
    assert sum(forecast.column_bytes.values()) == pytest.approx(sum(real.values()), rel=0.1)


def test_the_figures_agree_with_each_other(forecast: forecasting.Forecast) -> None:
    assert (forecast.images, forecast.shards, forecast.devices) == (IMAGES, 3, 2)
    assert set(forecast.forward_per_second) == {"everything", "small"}
    assert forecast.images_per_second > 0 and all(rate > 0 for rate in forecast.forward_per_second.values())
    seconds = IMAGES / forecast.images_per_second
    assert forecast.seconds(2) == pytest.approx(seconds)
    assert forecast.seconds(1) == pytest.approx(2 * seconds)
    assert forecast.seconds(4) == pytest.approx(seconds * 2 / 3)  # of two workers one writes two of three shards
    assert forecast.seconds(6) == forecast.seconds(64) == pytest.approx(seconds / 3)
    assert forecast.chip_hours(2) == pytest.approx(2 * seconds / 3600)
    assert forecast.largest_batch > 16 and forecast.largest_batch % 2 == 0


@pytest.mark.parametrize("told", [{"bytes_limit": 10**9, "bytes_in_use": 10**8}, {"bytes_limit": 10**9}])
def test_the_memory_of_an_accelerator_limits_the_batch(told: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        platform = "tpu"

        def memory_stats(self) -> dict[str, int]:
            return told

    class Model:
        mesh = type("", (), {"size": 4, "devices": np.array([Device()])})()

        def __init__(self, kept: int, working: int) -> None:
            self._each = kept, working

        def memory(self, batch_size: int) -> tuple[int, int]:
            return self._each[0] * batch_size, 1000 + self._each[1] * batch_size

    free = 0.9 * (told["bytes_limit"] - told.get("bytes_in_use", 0))
    found = forecasting._largest_batch([Model(10, 300), Model(20, 500)], 64, 2)
    assert 0 <= (free - 1000) / (2 * 30 + 500) - found < 4
    assert found % 4 == 0
    assert forecasting._largest_batch([Model(10, 300)], 4, 2) is None  # one image a device
    monkeypatch.setattr(Model, "memory", lambda *_: None)
    assert forecasting._largest_batch([Model(10, 300)], 64, 2) is None
    monkeypatch.setattr(Device, "memory_stats", lambda _: None)
    assert forecasting._largest_batch([Model(10, 300)], 64, 2) is None


def test_it_prints_and_leaves_nothing_behind(
    photos: Path,
    teachers: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a worker. Nor does it care what is in the workdir, here a run with another config."""
    for name, value in {"SAMPLE": 8, "MOST_PASSES": 1, "FORWARD_S": 0.0}.items():
        monkeypatch.setattr(forecasting, name, value)
    workdir = tmp_path / "runs/label"
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text('{"stage": "train"}')
    before = {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}
    changes = {"dry_run": True, "chips": 6, "worker": "1/2", "input": {"workers": 1}}
    processes = psutil.Process().children()
    label.run(config_of(photos, teachers, **changes), workdir)
    printed = capsys.readouterr().out
    assert (started := re.search(r"([\d.]+) s to start workers", printed)) and float(started[1]) > 0
    assert psutil.Process().children() == processes
    for told in ("everything-segmentation", "small-depth", "whole set", "images/s", "chip-hours", "largest batch"):
        assert told in printed
    assert {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))} == before
    assert list((tmp_path / "runs").iterdir()) == [workdir]


def test_nothing_is_left_behind_when_the_sample_cannot_be_labelled(
    photos: Path, teachers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageSet, "record", lambda *_: {"image": b"gone", "name": "image"})
    with pytest.raises(UserError, match=r"images of a sample of folder:.* cannot be labelled"):
        label.run(config_of(photos, teachers, dry_run=True), tmp_path / "run")
    assert not list(tmp_path.iterdir())
