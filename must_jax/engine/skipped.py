"""Updates that were left out because their loss or gradient was not finite; the step itself decides, on the devices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import jax

from must_jax.engine.step import Averages
from must_jax.errors import UserError

MOST, WINDOW = 5, 100  # updates


class Diverged(UserError):
    """Too many updates in a row of `WINDOW` were left out."""


class Skipped:
    """Counts them; more than `most` among the last `WINDOW` end the training.

    Args:
      tell: hears the number of each, counted from 0.
    """

    def __init__(self, most: int = MOST, tell: Callable[[int], None] = lambda update: None) -> None:
        self._most, self._tell = most, tell
        self._recent: deque[int] = deque()

    def look(self, update: int, averages: Averages) -> None:
        """At what update number `update` gave back, which has been computed.

        Raises:
          Diverged: it is one too many.
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
