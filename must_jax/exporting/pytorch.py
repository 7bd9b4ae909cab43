"""What exports to libraries in PyTorch have in common: parameters by their names, and maps in their layout."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from must_jax.config.architectures import ARCHITECTURES
from must_jax.errors import UserError
from must_jax.exporting.base import Arrays, Network
from must_jax.weights.loading import conventions_of, flat


def tensors_of(network: Network, convention: str, **changed: np.ndarray) -> dict[str, np.ndarray]:
    """The backbone's parameters and statistics by the names of a library.

    Args:
      changed: path here -> another value.
    """
    variables = network.trained.variables
    ours = {**flat(variables["params"]["backbone"]), **flat(variables["stats"]["backbone"]), **changed}
    architecture = ARCHITECTURES[network.trained.config.backbone]
    [names] = (each for each in conventions_of(architecture) if each.name == convention)
    return names.written(ours)


def filled(model: torch.nn.Module, tensors: Mapping[str, np.ndarray], after: str) -> None:
    """Sets the parameters of a model.

    Args:
      after: a regular expression of parameters that are not those of a backbone, and stay.

    Raises:
      UserError: the library's network is another one.
    """
    state = model.state_dict()
    wanted = {name for name in state if not re.fullmatch(rf"{after}|.*\.num_batches_tracked", name)}
    if differ := sorted(wanted ^ tensors.keys()):
        raise UserError(
            f"the installed library has another network of this name; it differs in {', '.join(differ[:5])}"
        )
    for name, tensor in tensors.items():
        if tuple(state[name].shape) != tensor.shape:
            raise UserError(
                f"the installed library has another network of this name; {name} is {list(state[name].shape)} there, "
                f"and {list(tensor.shape)} here"
            )
        state[name].copy_(torch.from_numpy(np.array(tensor)))
    model.eval()


def readable(folder: Path) -> None:
    """Lets others read the parameters, too, as far as they may read the rest: safetensors writes for its user alone."""
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def published(normalised: np.ndarray) -> torch.Tensor:
    """f32[B, h, w, 3] -> with the channels first."""
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))


def answered(network: Network, maps: Sequence[torch.Tensor]) -> Arrays:
    """Maps with the channels first -> levels with the channels last."""
    arrays = (each.detach().permute(0, 2, 3, 1).contiguous().numpy() for each in maps)
    return dict(zip(network.published, arrays, strict=True))
