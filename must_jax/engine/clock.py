"""How long the updates of a run took, and for how much of that the devices had nothing to do."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Clock:
    """Time over all restarts of a run (`state` goes into its checkpoints). Compilation does not count.

    seconds: of `steps` updates. waited: of these, the part without a batch to work on; an upper bound, see `fit`.
    """

    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0

    def start(self) -> None:
        self._last = time.perf_counter()

    def tick(self) -> None:
        """One more update."""
        now = time.perf_counter()
        self.seconds, self.steps, self._last = self.seconds + now - self._last, self.steps + 1, now

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def rates(self, batch_size: int, since: dict[str, Any] | None = None) -> dict[str, float]:
        """Images per second and share of time waited (0..1), since an earlier `state` or over all."""
        before = since or {"seconds": 0.0, "waited": 0.0, "steps": 0}
        seconds = max(self.seconds - before["seconds"], 1e-9)
        return {
            "images_per_second": (self.steps - before["steps"]) * batch_size / seconds,
            "data_wait_share": (self.waited - before["waited"]) / seconds,
        }
