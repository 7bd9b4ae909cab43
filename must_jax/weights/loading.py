"""A backbone's parameters from a file of others. Each tensor there, and each parameter here, is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from must_jax.config.architectures import Architecture, ConvNeXtParts, ResNetParts, ViTParts
from must_jax.config.base import size_told
from must_jax.errors import UserError
from must_jax.progress import say
from must_jax.weights import convnext, resnet, vit
from must_jax.weights.files import Found
from must_jax.weights.names import Convention

_CONVENTIONS: Mapping[type, Callable[..., tuple[Convention, ...]]] = {
    ResNetParts: resnet.conventions,
    ViTParts: vit.conventions,
    ConvNeXtParts: convnext.conventions,
}
_TOLD = 5  # names of a list

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A backbone's variables from a file.

    Attributes:
      params, stats: nested as those of the network, NumPy float32.
      convention: by whose names they were found.
      dropped: names there that are no part of a backbone.
      fresh: paths of parameters here that no file of this convention has; their values are those that were given.
    """

    params: Tree
    stats: Tree
    convention: str
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]


def conventions_of(architecture: Architecture) -> tuple[Convention, ...]:
    """How others name its parameters."""
    return _CONVENTIONS[type(architecture.parts)](architecture.parts)


def load(found: Found, architecture: Architecture, params: Tree, stats: Tree) -> Loaded:
    """The file's tensors as variables of the backbone.

    Args:
      params, stats: the variables of a fresh backbone.

    Raises:
      UserError: parameters are missing, have other shapes, or are not known here: all of them are counted, the first
        ones named; the file says that it is of another architecture.
    """
    if found.architecture and found.architecture != architecture.name:
        raise UserError(
            f"{found.path} is of a {found.architecture}, but config.model.backbone is {architecture.name}; set "
            f"--config.model.backbone={found.architecture}"
        )
    ours = {**flat(params), **flat(stats)}
    convention, tensors = _matching(found, conventions_of(architecture), ours)
    names = convention.names(ours)
    used = {name for theirs, _ in names.values() for name in theirs}
    dropped = sorted(name for name in tensors if name not in used and re.fullmatch(convention.heads, name))
    missing = sorted(used - tensors.keys())
    unexpected = sorted(
        name for name in tensors.keys() - used - {*dropped} if not re.fullmatch(convention.ignored, name)
    )
    values: dict[str, np.ndarray] = {}
    misshaped = []
    for path, (theirs, form) in names.items():
        if not all(name in tensors for name in theirs):
            continue
        try:
            value = np.asarray(form.read([tensors[name] for name in theirs], ours[path].shape), np.float32)
        except ValueError:
            value = np.zeros(0, np.float32)
        if value.shape != ours[path].shape:
            there = " + ".join(str(list(tensors[name].shape)) for name in theirs)
            misshaped.append(f"{theirs[0]} {there} for {path} {list(ours[path].shape)}")
        values[path] = value
    wrong = [
        f"{len(list_)} {what}: {', '.join(list_[:_TOLD])}{', …' if len(list_) > _TOLD else ''}"
        for what, list_ in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if list_
    ]
    if wrong:
        raise UserError(
            f"{found.path} does not fit {architecture.name} (names of {convention.name}): {'; '.join(wrong)}; set "
            "config.model.backbone to what it is of"
        )
    bad = [path for path, value in values.items() if not np.isfinite(value).all()]
    if bad:
        raise UserError(f"{found.path}: {', '.join(bad[:_TOLD])} has values that are not finite")
    fresh = tuple(sorted(ours.keys() - names.keys()))
    return Loaded(_nested(params, "", values), _nested(stats, "", values), convention.name, tuple(dropped), fresh)


def taken(found: Found, architecture: Architecture, variables: Tree, input_hw: tuple[int, int]) -> dict[str, Any]:
    """The variables of a model with the backbone of the file. Says what is not in it, and what of it is not used.

    Args:
      variables: fresh ones, or their shapes; what is not in the file stays as it is here.

    Raises:
      UserError: the file does not fit; see `load`.
    """
    params, stats = variables["params"], variables["stats"]
    loaded = load(found, architecture, params["backbone"], stats["backbone"])
    counts = f"{len(found.tensors) - len(loaded.dropped):,} tensors"
    dropped = f"; not used: {', '.join(loaded.dropped)}" if loaded.dropped else ""
    fresh = f"; new: {', '.join(dict.fromkeys(path.split('/')[0] for path in loaded.fresh))}" if loaded.fresh else ""
    say(f"taken from {found.path}: the backbone, {counts} named as in {loaded.convention}{dropped}{fresh}")
    size = found.image_size or architecture.image_size
    if input_hw != (size, size):
        say(f"{architecture.name} was trained at {size} px, and config.image_size is {size_told(input_hw)}")
    return {
        "params": {**params, "backbone": loaded.params},
        "stats": {**stats, "backbone": loaded.stats},
    }


def _matching(
    found: Found, conventions: Sequence[Convention], ours: Mapping[str, np.ndarray]
) -> tuple[Convention, Mapping[str, np.ndarray]]:
    """The convention, with a prefix, of which most names are in the file; and its tensors without the prefix."""
    best: tuple[int, Convention, Mapping[str, np.ndarray]] | None = None
    for convention in conventions:
        wanted = {name for theirs, _ in convention.names(ours).values() for name in theirs}
        for prefix in ("", *convention.prefixes):
            # Beside the backbone a model has heads, whose names have no prefix.
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in found.tensors.items()
                if name.startswith(prefix) or re.fullmatch(convention.heads, name)
            }
            count = len(wanted & tensors.keys())
            if best is None or count > best[0]:
                best = count, convention, tensors if count else found.tensors
    assert best
    return best[1], best[2]


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> leaves by path, "stage1_1/conv1/kernel"."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


def _nested(tree: Tree, prefix: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tree with these values at their paths; others stay."""
    return {
        key: _nested(value, f"{prefix}{key}/", values)
        if isinstance(value, Mapping)
        else values.get(f"{prefix}{key}", value)
        for key, value in tree.items()
    }
