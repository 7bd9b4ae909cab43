"""What the checks of all kinds of task have in common: readings, their scores by image, and the verdict on them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from must_jax.checking.heard import Heard
from must_jax.checking.scores import LEAST_IMAGES, Comparison, compare
from must_jax.checking.truths import Truth
from must_jax.checking.verdicts import Finding, TaskVerdict, Tried
from must_jax.config.teachers import TeacherConfig
from must_jax.engine.measuring import CHANCE
from must_jax.labels import judging
from must_jax.labels.judging import Score
from must_jax.tasks.base import NumpyArrays, Task, TaskMetrics

SCREENED = 12  # images after which readings that are far behind are given up
_FAR = 0.05  # of the score
_LEAST_APART = 5  # images of which the best constant answer is wrong, to tell a teacher from it
MOST_TRIED = 100  # that are told

At = Callable[[Mapping[str, Any]], str]


@dataclass
class Scores:
    """A reading, and what it scores, image by image.

    Attributes:
      what, line: as `verdicts.Tried` has it. `advice`: what to do, if no line says it.
      use: heard -> the prediction as this reading has it; None if it cannot be read so.
      measure: the task's metrics of all images that were scored; None = they are not measured.
      shown: the teacher whose images are shown otherwise; None = of the same outputs.
      task: that the prediction is for; None = the same.
      given_up: it has fallen far behind, so that no more images were scored.
    """

    what: str = ""
    line: str = ""
    advice: str = ""
    use: Callable[[Heard], NumpyArrays | None] = lambda heard: None
    values: list[float] = field(default_factory=list)
    measure: Callable[[], TaskMetrics] | None = None
    shown: TeacherConfig | None = None
    task: Task | None = None
    given_up: bool = False

    @property
    def mean(self) -> float:
        return sum(self.values) / max(len(self.values), 1)

    @cached_property
    def metrics(self) -> TaskMetrics | None:
        return self.measure() if self.measure and self.values else None


class Exam(abc.ABC):
    """One task of one teacher, or the truth of one, looked at image by image.

    Attributes:
      at: keys of its declaration and their values -> the line of the config that sets them.
      declared: the reading as it is declared.
      rivals: others, of the same outputs or of images shown otherwise.
      positions: of the images that were scored.
      winner: the rival that wins, once there is a verdict.
      tells_slight: whether a reading that is surely better, but only a little, is one to look at.
    """

    tells_slight: ClassVar[bool] = False

    def __init__(self, at: At, task: Task, truth: Truth | None) -> None:
        self.at, self.task, self.truth = at, task, truth
        self.declared = Scores(use=lambda heard: heard.predictions.get(task.name))
        self.rivals: list[Scores] = []
        self.positions: list[int] = []
        self.winner: Scores | None = None
        self._next: Scores | None = None  # the best of the rivals that are better
        self.asked, self.unread = 0, list[str]()  # images, and why some of their answers could not be read

    @abc.abstractmethod
    def see(self, position: int, heard: Heard, mirrored: Heard | None) -> None:
        """Looks at one more image. `mirrored`: what is said about its mirror image; only needed without truth."""

    @abc.abstractmethod
    def score(self, heard: Heard, position: int) -> float | None:
        """What another model's answer scores on one of `positions`, as the declared one was scored."""

    @abc.abstractmethod
    def verdict(self) -> TaskVerdict: ...

    @property
    def by(self) -> str:
        """What it is compared with, in words."""
        return self.truth.by if self.truth else "itself, on mirrored images"

    def still(self) -> Iterator[Scores]:
        """The readings that are still worth a try; those that have fallen far behind are given up."""
        if len(self.declared.values) == SCREENED:
            for each in self.rivals:
                each.given_up |= each.mean + _FAR < self.declared.mean
        yield self.declared
        yield from (each for each in self.rivals if not each.given_up)

    def beaten(self) -> tuple[list[Tried], list[Finding]]:
        """All that was tried, and what follows from it: whether a reading wins that is itself above chance."""
        compared = []
        for each in self.rivals:
            first = self.declared.values[: len(each.values)]
            compared.append((each, compare(each.values, first, len(self.rivals))))
        compared.sort(key=lambda pair: (pair[0].given_up, -pair[0].mean))
        findings = []
        better = [(each, against) for each, against in compared if not each.given_up and against.is_likely]
        self._next = better[0][0] if better else None
        slight = [(each, against) for each, against in compared if not each.given_up and against.is_slight]
        if slight and not better and self.tells_slight:
            each, _ = slight[0]
            reason = f"{self._figure(self.declared)} as declared, and surely a little better if {each.what}"
            findings = [Finding(level="look", reason=reason, line=each.line)]
        if better and not self._is_near_chance(better[0][0]):
            each, against = better[0]
            self.winner = each
            what = f"{self._figure(self.declared)} as declared, and {self._figure(each)} if {each.what}"
            doubt = "" if against.is_sure else " (which may be chance: take more images)"
            hint = f"; {each.advice}" if each.advice else ""
            level: Literal["failed", "look"] = "failed" if against.is_sure else "look"
            findings = [Finding(level=level, reason=what + doubt + hint, line=each.line)]
        as_declared = Tried(
            score=100 * self.declared.mean, metric=self._metric(self.declared), images=len(self.declared.values)
        )
        return [as_declared, *(self._tried(*each) for each in compared[:MOST_TRIED])], findings

    def near_chance(self) -> Iterator[Finding]:
        """Whether the declared reading is hardly better than the best constant answer."""
        score = _score(self.task, self.declared.metrics)
        if score and score.is_near_chance:
            images = len(self.declared.values)
            level: Literal["failed", "look"] = "failed" if images >= LEAST_IMAGES else "look"
            also = "nothing else that was tried does better"
            if self._next:
                also = f"{self._next.what} would be better, but is near chance, too"
            elif images * (100 - (score.chance or 0)) / 100 < _LEAST_APART:  # those that a constant answer is wrong for
                level = "look"
                also = "one answer is right for nearly all of them, so they cannot tell; take images that differ"
            line = self._next.line if self._next else ""
            yield Finding(level=level, reason=f"against {self.by} {score}; {also}", line=line)

    def measured(self) -> dict[str, float]:
        """Metrics of the declared reading, and chance; none without truth."""
        metrics = self.declared.metrics
        return {**metrics.result(), CHANCE: metrics.chance()} if metrics else {}

    def told(self, findings: Sequence[Finding], tried: Sequence[Tried] = ()) -> TaskVerdict:
        return TaskVerdict(
            verdict=judging.verdict(findings),
            by=self.by,
            images=len(self.positions),
            findings=tuple(findings),
            metrics=self.measured(),
            tried=tuple(tried),
        )

    def _tried(self, scores: Scores, against: Comparison) -> Tried:
        return Tried(
            what=scores.what,
            line=scores.line,
            score=100 * scores.mean,
            metric=self._metric(scores) if scores is self.winner else None,
            gain=100 * against.gain,
            p=against.p,
            images=against.images,
        )

    def _is_near_chance(self, scores: Scores) -> bool:
        score = _score(self.task, scores.metrics)
        return score is not None and score.is_near_chance

    def _metric(self, scores: Scores) -> float | None:
        score = _score(self.task, scores.metrics)
        return score.value if score else None

    def _figure(self, scores: Scores) -> str:
        declared = scores is self.declared
        if (metric := self._metric(scores)) is not None:
            return f"{self.task.metric} is {metric:.1f}" if declared else f"{metric:.1f}"
        if self.truth and self.declared.metrics:  # of images shown otherwise
            first = self.declared.values[: len(scores.values)]
            before = sum(first) / max(len(first), 1)
            return (
                f"better in most images ({100 * scores.mean:.0f} % right on average, instead of {100 * before:.0f} %)"
            )
        return f"agreement with {self.by}, is {100 * scores.mean:.0f} %" if declared else f"{100 * scores.mean:.0f} %"


def _score(task: Task, metrics: TaskMetrics | None) -> Score | None:
    if metrics is None:
        return None
    return Score(task.metric, metrics.result()[task.metric], metrics.chance())
