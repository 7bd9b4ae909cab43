"""Multi-task self-training: from specialised vision models and unlabelled images to one general backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from must_jax.trained import Trained

__version__ = "0.1.0"
EXAMPLE = Path(__file__).parent / "example"
"""The folder of a small student that comes with the package; its README.md says how it was made."""


def load(workdir: str | Path) -> Trained:
    """A finished run as a model: `must_jax.load("runs/student").predict("photo.jpg")`; see `must_jax.trained.load`.

    `must_jax.load(must_jax.EXAMPLE)` is a small student to try everything with.
    """
    from must_jax import trained  # jax is imported when a model is wanted, not with the package

    return trained.load(workdir)
