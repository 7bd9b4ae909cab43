"""Images for two libraries, and how far apart their answers are: what tests of all families of backbones need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def images_of(height: int, width: int) -> np.ndarray:
    """f32[2, height, width, 3], normalised."""
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)


def theirs_of(images: np.ndarray) -> torch.Tensor:
    """With the channels where PyTorch has them."""
    return torch.tensor(images).permute(0, 3, 1, 2)


def ours_of(maps: torch.Tensor) -> np.ndarray:
    """[B, C, h, w] -> [B, h, w, C]."""
    return maps.detach().permute(0, 2, 3, 1).numpy()


def difference(got: Any, expected: Any) -> float:
    """The largest, in terms of the largest value, of the same numbers in the same order."""
    wanted = np.asarray(expected)
    return float(np.abs(np.asarray(got, np.float32).reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())
