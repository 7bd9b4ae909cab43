"""Files of weights: safetensors and npz, never pickles. What lies beside them says how images were normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from must_jax.config.teachers import PICKLES
from must_jax.errors import UserError, told
from must_jax.files import MODEL_FILE

SUFFIXES = (".safetensors", ".npz")
_TENSORS = ("model.safetensors", "pytorch_model.safetensors", "open_clip_model.safetensors")  # looked for first
_INDEX = "model.safetensors.index.json"
_KEY = "config.model.weights"
_CONVERT = (
    'is a pickle, which can run any code when it is loaded; convert it, in an environment with torch: python -c "'
    "import torch, safetensors.torch as s; s.save_file(torch.load('{path}', weights_only=True), 'model.safetensors')\""
)


@dataclass(frozen=True)
class Found:
    """A file of weights, or a folder of them.

    Attributes:
      tensors: by name there.
      digest: sha256 of the files.
      architecture: as timm calls it; "" if nothing says so.
      mean, std: of RGB, 0..1; () if nothing says so.
      image_size: at which they were trained; 0 if nothing says so.
      licence: "" if nothing says so.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]
    digest: str
    architecture: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int = 0
    licence: str = ""


def are_at(path: str) -> bool:
    """Whether a path is one of weights, rather than of a run: a file, or a folder with weights that is no run."""
    place = Path(path).expanduser()
    if place.is_dir():
        suffixes = {each.suffix.lower() for each in place.iterdir()}
        return not (place / MODEL_FILE).exists() and not suffixes.isdisjoint((*SUFFIXES, *PICKLES))
    return bool(path) and (place.is_file() or place.suffix.lower() in (*SUFFIXES, *PICKLES))


def check(path: str, key: str = _KEY) -> None:
    """Raises UserError if there are no weights, or pickles; nothing is read. `key` of the config has the path."""
    _files(Path(path).expanduser(), key)


def digest(path: str) -> str:
    """`Found.digest`; raises the same errors as `check`."""
    sha = hashlib.sha256()
    for file in _files(Path(path).expanduser()):
        with file.open("rb") as opened:
            sha.update(hashlib.file_digest(opened, "sha256").digest())
    return sha.hexdigest()


def read(path: str) -> Found:
    """The weights in a file, or in the folder of a model of timm or transformers.

    Raises:
      UserError: there are none, they are damaged, or pickles.
    """
    place = Path(path).expanduser()
    tensors: dict[str, np.ndarray] = {}
    for file in _files(place):
        tensors |= _tensors(file)
    folder = place if place.is_dir() else place.parent
    return Found(place, tensors, digest(path), **_said(folder))


def _files(place: Path, key: str = _KEY) -> list[Path]:
    if place.suffix.lower() in PICKLES:
        raise UserError(f"{place} {_CONVERT.format(path=place)}")
    if place.is_file():
        return [place]
    if not place.is_dir():
        hub = f"; if it is on a hub, download it first: hf download {place} --local-dir FOLDER"
        raise UserError(f"there is no {place}; correct {key}{hub if len(place.parts) == 2 else ''}")
    if (index := place / _INDEX).is_file():
        return [place / name for name in sorted({*_json(index)["weight_map"].values()})]
    files = [place / name for name in _TENSORS if (place / name).is_file()]
    files = files or sorted(each for each in place.iterdir() if each.suffix in SUFFIXES)
    if len(files) == 1 or (files and files[0].name in _TENSORS):
        return files[:1]
    pickles = sorted(each for each in place.iterdir() if each.suffix.lower() in PICKLES)
    if files:
        raise UserError(f"{place} has {len(files)} files of weights, e.g. {files[0].name}; name one of them")
    if pickles:
        raise UserError(f"{pickles[0]} {_CONVERT.format(path=pickles[0])}")
    raise UserError(f"{place} has no weights; name a folder with a .safetensors or .npz file, or that file")


def _tensors(file: Path) -> dict[str, np.ndarray]:
    try:
        if file.suffix == ".npz":
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as opened:
                return _unstacked({name: opened[name] for name in opened.files})
        return safetensors.numpy.load_file(file)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{file} cannot be read as weights: {told(error)}") from None
    except Exception as error:  # safetensors' own, and those of broken zip files
        raise UserError(f"{file} is damaged, or no file of weights: {told(error)}") from None


def _unstacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a name for each block, where big_vision's scan over blocks stacked them; without its bfloat16."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.dtype("V2"):  # how npz keeps it
            tensor = tensor.view(jnp.bfloat16).astype(np.float32)
        if "/encoderblock/" in name and tensor.ndim:
            found |= {name.replace("/encoderblock/", f"/encoderblock_{i}/"): block for i, block in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {told(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} is damaged: it holds no mapping")
    return values


def _said(folder: Path) -> dict[str, Any]:
    """What the files beside the weights say: timm's config.json, transformers' preprocessor_config.json."""
    said: dict[str, Any] = {}
    if (file := folder / "config.json").is_file():
        config = _json(file)
        about = config.get("pretrained_cfg", {})
        if isinstance(about, dict) and about:
            said["architecture"] = str(config.get("architecture", ""))
            said["licence"] = str(about.get("license", ""))
            size = about.get("input_size")
            said |= _normalised(
                file, about.get("mean"), about.get("std"), size[-1] if isinstance(size, list) and size else 0
            )
    if (file := folder / "preprocessor_config.json").is_file():
        about = _json(file)
        said |= _normalised(file, about.get("image_mean"), about.get("image_std"), 0)
    return said


def _normalised(file: Path, mean: Any, std: Any, size: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"image_size": size} if isinstance(size, int) and size > 0 else {}
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != 3 or not all(isinstance(x, int | float) for x in values):
            raise UserError(f"{file}: its {name} is {values!r}, not three numbers")
        if not all(0 <= x <= 1 for x in values) or (name == "std" and 0 in values):
            raise UserError(
                f"{file}: its {name} is {values}, which is not that of channels from 0 to 1; move the file away, and "
                f"set config.model.{name}"
            )
        found[name] = tuple(float(x) for x in values)
    return found
