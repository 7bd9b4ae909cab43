"""Weights of others: each tensor of a file and each parameter here is accounted for, and pickles are never opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.errors import UserError
from must_jax.models.api import build_model
from must_jax.weights import files, loading
from must_jax.weights.loading import Loaded, conventions_of, flat

NAMES = ("resnet18", "resnet26d", "resnet50", "seresnet18", "resnetrs50")
Arrays = dict[str, np.ndarray]


def fresh(name: str) -> dict[str, Any]:
    """Zeros of a backbone's shapes."""
    module = build_model(ModelConfig(backbone=name), {}).backbone
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), image)
    return jax.tree.map(lambda shape: np.zeros(shape.shape, np.float32), shapes)


def drawn(name: str, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    zeros = fresh(name)
    leaves = flat(zeros["params"]) | flat(zeros["stats"])
    return {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in leaves.items()}


def theirs(name: str, convention: int = 0) -> Arrays:
    return conventions_of(ARCHITECTURES[name])[convention].written(drawn(name))


def loaded(path: Path, name: str) -> Loaded:
    zeros = fresh(name)
    return loading.load(files.read(str(path)), ARCHITECTURES[name], zeros["params"], zeros["stats"])


def same(found: Loaded, wanted: Arrays) -> None:
    got = flat(found.params) | flat(found.stats)
    assert got.keys() == wanted.keys()
    for path, value in got.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, wanted[path], err_msg=path)


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name in NAMES for n in range(len(conventions_of(ARCHITECTURES[name])))]
)
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_what_is_written_by_their_names_is_read_again_bit_for_bit(name: str, number: int, ending: str, tmp_path: Path):
    convention, file = conventions_of(ARCHITECTURES[name])[number], tmp_path / f"weights{ending}"
    prefix = convention.prefixes[0]
    tensors = {f"{prefix}{key}": value for key, value in theirs(name, number).items()}
    tensors |= {"fc.weight": np.zeros((7, 512), np.float32), f"{prefix}bn1.num_batches_tracked": np.array(3)}
    if convention.name == "transformers":
        tensors = {key.replace("fc.", "classifier.1."): value for key, value in tensors.items()}
    if ending == ".npz":
        np.savez(file, **tensors)
    else:
        safetensors.numpy.save_file(tensors, file)
    found = loaded(file, name)
    same(found, drawn(name))
    assert found.convention == convention.name and len(found.dropped) == 1 and not found.fresh


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_of_16_bits_become_those_of_32(dtype: Any, tmp_path: Path):
    tensors = {name: value.astype(dtype) for name, value in theirs("resnet18").items()}
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    found = flat(loaded(tmp_path / "w.safetensors", "resnet18").params)
    wanted = drawn("resnet18")["stage1_1/conv1/kernel"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(found["stage1_1/conv1/kernel"], wanted)


def without(tensors: Arrays) -> Arrays:
    del tensors["layer3.1.bn2.running_var"]
    return tensors


def narrower(tensors: Arrays) -> Arrays:
    return tensors | {"layer1.0.conv1.weight": np.zeros((32, 64, 3, 3), np.float32)}


def flattened(tensors: Arrays) -> Arrays:
    return tensors | {"layer1.0.conv1.weight": np.zeros(64, np.float32)}


def infinite(tensors: Arrays) -> Arrays:
    return tensors | {"bn1.bias": np.full(64, np.inf, np.float32)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without, ["1 missing: layer3.1.bn2.running_var", "resnet18"]),
        (lambda tensors: tensors | {"layer5.0.conv1.weight": np.zeros(1)}, ["1 unexpected: layer5.0.conv1.weight"]),
        (narrower, ["another shape", "layer1.0.conv1.weight", "[32, 64, 3, 3]", "[3, 3, 64, 64]"]),
        (flattened, ["another shape", "layer1.0.conv1.weight"]),
        (infinite, ["stem_norm/bias", "not finite"]),
        (lambda tensors: {"a": np.zeros(1)}, ["missing", "unexpected: a"]),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[Arrays], Arrays], named: list[str], tmp_path: Path):
    safetensors.numpy.save_file(change(theirs("resnet18")), tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        loaded(tmp_path / "w.safetensors", "resnet18")
    assert "\n" not in str(error.value) and all(each in str(error.value) for each in named), error.value


def test_weights_of_another_size_are_refused_in_one_sentence(tmp_path: Path):
    safetensors.numpy.save_file(theirs("resnet50"), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"does not fit resnet18 .*unexpected: .*….*config\.model\.backbone"):
        loaded(tmp_path / "w.safetensors", "resnet18")


def of_timm(folder: Path, **about: Any) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(theirs("resnet18"), folder / "model.safetensors")
    about = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 256, 256], "license": "cc-by-4.0"} | about
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": about}))
    return folder


def test_the_folder_of_a_model_of_timm_says_how_images_are_normalised(tmp_path: Path):
    found = files.read(str(of_timm(tmp_path)))
    assert (found.mean, found.std, found.image_size) == ((0.5,) * 3, (0.25,) * 3, 256)
    assert (found.architecture, found.licence) == ("resnet18", "cc-by-4.0")
    same(loaded(tmp_path, "resnet18"), drawn("resnet18"))
    with pytest.raises(UserError, match=r"of a resnet18, but .* resnet26d; set --config\.model\.backbone=resnet18"):
        loaded(tmp_path, "resnet26d")


def test_the_folder_of_a_model_of_transformers_in_several_files(tmp_path: Path):
    items = [*theirs("resnet50", 1).items()]
    parts = {"a.safetensors": dict(items[:50]), "b.safetensors": dict(items[50:])}
    for name, part in parts.items():
        safetensors.numpy.save_file(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    same(loaded(tmp_path, "resnet50"), drawn("resnet50"))
    assert files.read(str(tmp_path)).mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("w.pth", b"", "pickle"),
        ("pytorch_model.bin", b"", "pickle"),
        ("w.safetensors", b"", "w.safetensors"),
        ("w.safetensors", b"\x10" + bytes(30), "w.safetensors"),
        ("w.npz", b"PK\x03\x04 broken", "w.npz"),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_pickles_and_damaged_files_are_refused(name: str, content: bytes, named: str, folder: bool, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=named) as error:
        files.read(str(tmp_path if folder else tmp_path / name))
    assert "\n" not in str(error.value)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path):
    np.savez(tmp_path / "w.npz", a=np.array([object()], dtype=object))
    with pytest.raises(UserError, match=r"w\.npz"):
        files.read(str(tmp_path / "w.npz"))


@pytest.mark.parametrize(
    ("path", "named"),
    [("no/such", "hf download no/such"), ("none.npz", "there is no none.npz"), (".", "no weights")],
)
def test_what_is_not_there_is_named(path: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named):
        files.read(path)


def test_of_several_files_one_has_to_be_named(tmp_path: Path):
    for name in "ab":
        safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"2 files .* a\.safetensors; name one"):
        files.read(str(tmp_path))


@pytest.mark.parametrize(
    "about", [{"mean": [1, 2]}, {"std": "none"}, {"mean": [1, 2, "x"]}, {"mean": [124, 116, 104]}, {"std": [0, 1, 1]}]
)
def test_a_normalisation_that_is_none_is_named(about: dict[str, Any], tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json: its (mean|std)"):
        files.read(str(of_timm(tmp_path, **about)))
    assert files.read(str(of_timm(tmp_path, input_size=224))).image_size == 0
