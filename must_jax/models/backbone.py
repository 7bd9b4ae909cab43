"""What every backbone has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


class Backbone(nn.Module, kw_only=True):
    """Images `[B, H, W, 3]`, normalised -> {"c2", "c3", "c4", "c5"}: maps at strides 4, 8, 16, 32, in any dtype.

    In training it may draw from the stream "drop_path", and update the variables "stats".

    Attributes:
      momentum: share of the running statistics that an update keeps.
      drop_path: the rate of stochastic depth in the last block; see `layers.DropPath`.
      remat: names ("stage1" to "stage4") of the stages whose blocks keep only their inputs, and batch statistics, for
        the gradient.
      identity_blocks: whether every block starts as its shortcut (Goyal et al. 2017), a good start for training. In an
        untrained network, most parameters then do nothing.
    """

    momentum: float = 0.9
    drop_path: float = 0.0
    remat: tuple[str, ...] = ()
    identity_blocks: bool = True

    @property
    def input_share(self) -> float:
        """Of the input's sides, to which images are resized before it sees them, so that strides are as above."""
        return 1.0

    @property
    def published(self) -> tuple[str, ...]:
        """The levels that published weights make, and that other libraries give; all others are made of these."""
        return ("c2", "c3", "c4", "c5")

    def completed(self, params: Mapping[str, Any], published: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The published levels -> all levels, in inference mode."""
        return dict(published)
