"""Learning rates by part of the network: shares of the one that is scheduled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax

from must_jax.config import OptimizerConfig

_BLOCK = re.compile(r"stage(\d+)_(\d+)|block(\d+)|stage(\d+)_(?:norm|shrink)")  # the last are part of the first block
NEW = "pyramid"  # of a backbone whose published weights have none


def shares_of_blocks(names: Iterable[str], decay: float) -> dict[str, float]:
    """By child of a backbone: `decay` for the last block, and times `decay` for each one before (Bao et al. 2022).

    Stems, embeddings and tokens come before the first block; a last norm has 1, as all that follows the backbone.
    """
    places = {name: _place(name) for name in names}
    order = sorted({place for place in places.values() if place is not None})
    return {
        name: 1.0 if place is None else decay ** (len(order) - order.index(place)) for name, place in places.items()
    }


def _place(name: str) -> tuple[int, int] | None:
    if name in ("norm", NEW):
        return None
    match = _BLOCK.fullmatch(name)
    if not match:
        return (0, 0)
    stage, block, alone, shrunk = match.groups()
    if alone:
        return (1, int(alone))
    return (int(stage), int(block)) if stage else (int(shrunk), 1)


def shares_of(config: OptimizerConfig) -> Callable[[Any], Any] | None:
    """Parameters -> the tree of `shares` that a config asks for; None if all have the whole learning rate."""
    if config.backbone_rate == config.layer_decay == 1:
        return None
    return partial(shares, backbone=config.backbone_rate, decay=config.layer_decay)


def shares(params: Mapping[str, Any], backbone: float, decay: float) -> Any:
    """A tree like the parameters {"backbone", ...}, of the share of the learning rate that each has.

    Args:
      backbone: of the backbone as a whole, what is new in it excepted.
      decay: see `shares_of_blocks`.
    """
    by_block = shares_of_blocks(params.get("backbone", {}), decay)

    def share(path: tuple[Any, ...], _: Any) -> float:
        keys = [each.key for each in path]
        if keys[0] != "backbone":
            return 1.0
        return by_block[keys[1]] * (1.0 if keys[1] == NEW else backbone)

    return jax.tree_util.tree_map_with_path(share, params)
