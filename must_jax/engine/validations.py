"""When a model is validated during its training, which one is the best so far, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from must_jax.engine.state import State


@dataclass(frozen=True)
class Best:
    """The best of the models that were validated.

    Attributes:
      step: after how many updates; None = none so far, since NaN is never better.
      since: validations after it.
      metrics: everything that was measured then.
    """

    step: int | None = None
    value: float | None = None
    since: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def record(self, metric: str) -> dict[str, Any]:
        """As `model.json` has it."""
        return {"metric": metric, "value": self.value, "step": self.step, "since": self.since}


class Validations:
    """Validates every so many updates and after the last one.

    The state is saved before each validation, so that a run which is stopped meanwhile can repeat it.

    Args:
      measure: number of updates done, the state -> the metrics, the same in all processes.
      every: every so many updates; 0 = only after the last one.
      steps: of the whole run.
      metric: decides which model is the best: the highest value, the first of equals; "" = the last model is kept.
      patience: with `metric`, so many validations in a row that are no better end the training; 0 = never.
      best: from the checkpoint that the run continues from, which was saved before the validation of its model.
      ended: updates of the finished run that is trained further, whose last model was validated; 0 = there is none.
      keep: called after `measure`, with its number of updates, if that model is the one to keep so far.
    """

    def __init__(
        self,
        measure: Callable[[int, State], Mapping[str, float]],
        every: int,
        steps: int,
        *,
        metric: str = "",
        patience: int = 0,
        best: Best | None = None,
        ended: int = 0,
        keep: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._measure, self._every, self._steps, self._keep = measure, every, steps, keep
        self._metric, self._patience, self._ended = metric, patience, ended
        self.best = best or Best()
        self.done = 0  # updates of the model that was validated last
        self.metrics: dict[str, float] = {}  # of that model

    def is_due(self, done: int) -> bool:
        """Whether the model is validated after `done` updates."""
        return done > 0 and (done in (self._steps, self._ended) or (self._every > 0 and done % self._every == 0))

    def look(self, done: int, state: State) -> bool:
        """Validates the model after `done` updates; returns whether training ends here."""
        self.done, self.metrics = done, dict(self._measure(done, state))
        if not self._metric:
            self._keep(done)
            return done == self._steps
        value, best = self.metrics[self._metric], self.best
        if value > (float("-inf") if best.value is None else best.value):  # false for NaN
            self.best = Best(done, value, 0, self.metrics)
            self._keep(done)
        else:
            self.best = Best(best.step, best.value, best.since + 1, best.metrics)
        return done == self._steps or self.is_stopped

    @property
    def kept(self) -> int:
        """Updates of the model to keep: the best one's; the last one's if there is no best."""
        return self.done if self.best.step is None else self.best.step

    @property
    def kept_metrics(self) -> dict[str, float]:
        """Of the model to keep."""
        return self.metrics if self.best.step is None else self.best.metrics

    @property
    def is_stopped(self) -> bool:
        """Whether the best has been waited for in vain."""
        return is_stopped(self.best.since, self._patience)


def is_stopped(since: int, patience: int) -> bool:
    """Whether `since` validations that are no better than the best are enough to end the training."""
    return 0 < patience <= since
