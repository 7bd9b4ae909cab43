"""Whether maps follow the picture: of a mirrored image they must be mirrored, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from must_jax.checking.scores import compare
from must_jax.checking.verdicts import Finding
from must_jax.data.kinds import Label, MapLabel

Alike = Callable[[Label, Label], float]


class Following:
    """Compares maps of images with those of their mirror images.

    Args:
      alike: how well two maps of one size agree, 0..1.
    """

    def __init__(self, kind: MapLabel, alike: Alike) -> None:
        self._kind, self._alike = kind, alike
        self._found: list[tuple[float, float, float]] = []

    def see(self, said: Label, mirrored: Label) -> None:
        """The map of an image, and that of its mirror image, both without padding."""
        back = self._kind.turned(mirrored, False, False, True)
        upside_down = self._kind.turned(mirrored, False, True, False)
        self._found.append((self._alike(said, back), self._alike(said, mirrored), self._alike(said, upside_down)))

    def findings(self) -> Iterator[Finding]:
        """A map whose rows and columns are exchanged is turned upside down where the image is mirrored."""
        follows, stays, overturned = np.array(self._found).reshape(-1, 3).T.tolist()
        if compare(overturned, follows, 2).is_sure and np.mean(overturned) > np.mean(stays):
            reason = "of mirrored images its maps are upside down: return them as [height, width], not [width, height]"
            yield Finding(level="failed", reason=reason)
        elif compare(stays, follows, 2).is_sure:
            reason = "of mirrored images its maps are not mirrored, but hardly change: it may not look at the image"
            yield Finding(level="look", reason=reason)
