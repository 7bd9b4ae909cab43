"""The files of an export, each written and opened again by the runtime that it is for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from must_jax.config import ExportConfig
from must_jax.errors import UserError
from must_jax.exporting.base import LIBRARIES, MODEL, Network, Written


def check(config: ExportConfig, network: Network) -> None:
    """Raises UserError if a runtime is not installed, or a format has no such network or opset."""
    for name in config.formats:
        module = _module(name)
        if name in LIBRARIES:
            module.check(network)
        elif MODEL in config.holds and not network.trained.tasks:
            raise UserError(
                f"{config.model} has no task with answers about an image, so its {name} file would be empty; set "
                "--config.holds=backbone"
            )
        if name == "onnx":
            module.check(config.opset)


def write(config: ExportConfig, network: Network, folder: Path) -> Iterator[Written]:
    """Writes all files, one after the other."""
    for name in config.formats:
        module = _module(name)
        if name in LIBRARIES:
            yield module.write(network, folder / name)
            continue
        for holds in config.holds:
            yield _program(config, network, module, name, holds, folder)


def _program(
    config: ExportConfig, network: Network, module: ModuleType, name: str, holds: str, folder: Path
) -> Written:
    hw, dtype = (network.input_hw, "uint8") if config.preprocess else (network.seen_hw, "float32")
    path = folder / name / f"{holds}.{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    function = network.function(holds, is_prepared=not config.preprocess, postprocess=config.postprocess)
    more = {}
    if name == "onnx":
        more = {"opset": config.opset, "metadata": network.metadata, "parameters": network.trained.variables}
    answers = module.write(function, hw, np.dtype(dtype), path, **more)
    relative = f"{name}/{path.name}"
    example = module.example(relative, hw, dtype)
    return Written(relative, holds, not config.preprocess, function, answers, example)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"must_jax.exporting.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("must_jax"):
            raise
        raise UserError(
            f"exporting to {name} needs the package {error.name}; pip install 'must_jax[{name}]', or leave {name} out "
            "of config.formats"
        ) from error
