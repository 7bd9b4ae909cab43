"""Updates that were skipped because their loss or gradient was not finite; the step itself decides, on the devices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import jax
import numpy as np
from clu.metrics import Average

from must_jax.engine.step import Averages
from must_jax.errors import UserError

MOST, WINDOW = 5, 100  # updates


class Diverged(UserError):
    """Too many of the last `WINDOW` updates were skipped."""


class Skipped:
    """Counts skipped updates; more than `most` among the last `WINDOW` end the training.

    Args:
      tell: called with the number of each, counted from 0.
    """

    def __init__(self, most: int = MOST, tell: Callable[[int], None] = lambda update: None) -> None:
        self._most, self._tell = most, tell
        self._recent: deque[int] = deque()

    def look(self, update: int, averages: Averages) -> None:
        """Looks at the averages that update number `update` returned, once they have been computed.

        Raises:
          Diverged: too many updates were skipped.
        """
        if not jax.device_get(averages["skipped"].total):
            return
        self._tell(update)
        self._recent.append(update)
        while self._recent[0] <= update - WINDOW:
            self._recent.popleft()
        if len(self._recent) > self._most:
            raise Diverged(
                f"loss or gradient of {len(self._recent)} of the last {WINDOW} updates is not finite, the last one of "
                f"update {update}; lower config.optimizer.learning_rate, or set clip_norm or warmup_steps; "
                f"--config.stage=replay --config.replay={update} shows what in it is not finite"
            )


class SkippedSideBySide(Skipped):
    """The same for trainings side by side. One that diverges is noted; all of them do, or the others go on.

    Attributes:
      diverged: positions of the trainings that have diverged.
    """

    def __init__(self, trainings: int) -> None:
        super().__init__()
        self._each = [Skipped() for _ in range(trainings)]
        self.diverged: set[int] = set()

    def look(self, update: int, averages: Averages) -> None:
        """Raises `Diverged` when the last one diverges."""
        totals: np.ndarray = jax.device_get(averages["skipped"].total)
        for position, (skipped, total) in enumerate(zip(self._each, totals, strict=True)):
            if position in self.diverged:
                continue
            try:
                skipped.look(update, {"skipped": Average(total, np.float32(1))})
            except Diverged:
                self.diverged.add(position)
                if len(self.diverged) == len(self._each):
                    raise
