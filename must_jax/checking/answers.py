"""Classes, boxes and regions: what their outputs may mean is tried, reading by reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from must_jax.checking import rivals
from must_jax.checking.exams import At, Exam, Scores
from must_jax.checking.following import Alike, Following
from must_jax.checking.heard import Call, Heard, label_of, read_again
from must_jax.checking.scores import cells_of, coarse, comparable, score_of
from must_jax.checking.truths import Truth
from must_jax.checking.verdicts import Finding, TaskVerdict
from must_jax.data.kinds import BoxesLabel, IdsLabel, Label, LabelKind, VectorLabel
from must_jax.tasks.base import NumpyArrays, Task, TaskMetrics
from must_jax.teachers.base import Teacher
from must_jax.teachers.foreign import Foreign

LEAST_SEEN = 20  # images of which all answers are the same, or empty
_MOST_EMPTY = 0.95
_OUTPUTS = {"vector": 0, "regions": 0, "scored": 1, "paired": 1}  # which argument holds the outputs of all classes
_LEAST_OUTPUTS = 1000
# Agreement of boxes with those of the mirrored image: of a rival, what share of it the declared reading has at most,
# and how much more of the rival's boxes follow the picture than stay where they are.
_CONSISTENT, _INCONSISTENT, _APART = 0.5, 0.5, 0.2


class Answers(Exam):
    """The check of classes, boxes or regions."""

    def __init__(self, at: At, teacher: Teacher, task: Task, truth: Truth | None) -> None:
        super().__init__(at, task, truth)
        self.teacher = teacher
        self.declared.use = self._as_declared
        self._score = score_of(task)
        self._metrics: dict[str, TaskMetrics] = {}
        self._unmirrored: dict[str, list[float]] = {}
        self._low, self._high, self._outputs, self._uneven = np.inf, -np.inf, 0, 0.0
        self._empty, self._firsts, self._answered = 0, set[int](), 0
        self._following = Following(task.label, _same_ids(task.label)) if isinstance(task.label, IdsLabel) else None

    def see(self, position: int, heard: Heard, mirrored: Heard | None) -> None:
        call = heard.calls.get(self.task.name)
        if heard.error and call is None:
            self.unread.append(heard.error)
            return
        if heard.error and self._as_declared(heard) is None:  # its outputs may be anything
            self.unread.append(heard.error)
        elif call:
            self._see_outputs(call)
        if not self.rivals:
            self.rivals = list(self._others(call))
        self._see_answer(heard)
        if self.truth:
            self._compare(position, heard, self.truth.label(position))
        elif mirrored is not None:
            self._compare_mirrored(position, heard, mirrored)

    def score(self, heard: Heard, position: int) -> float | None:
        label = self.truth.label(position) if self.truth else None
        return None if label is None else self._of(heard.predictions.get(self.task.name), heard, self._coarse(label))

    def verdict(self) -> TaskVerdict:
        findings = [*self._structure(), *self._degenerate()]
        if not self.truth and not isinstance(self.task.label, BoxesLabel):
            return self.told([*findings, *(self._following.findings() if self._following else ())])
        tried, beaten = self.beaten()
        if not self.truth:
            beaten = [each for each in beaten if each.level == "failed"]
            if beaten and not self._contradicts():
                beaten = [each.model_copy(update={"level": "look"}) for each in beaten]
        chance = [] if beaten or not self.truth else [*self.near_chance()]
        return self.told([*findings, *beaten, *chance], tried)

    @property
    def by(self) -> str:
        is_seen_once = not self.truth and isinstance(self.task.label, VectorLabel)
        return "what answers can look like" if is_seen_once else super().by

    def _others(self, call: Call | None) -> Iterator[Scores]:
        teacher, name = self.teacher, self.task.name
        if isinstance(teacher, Foreign) and call:
            for each in rivals.readings(teacher.readings[name], call.method, teacher.declared.adapter):
                yield Scores(
                    each.what,
                    self.at(each.changes),
                    each.advice,
                    lambda heard, reading=each.reading: read_again(teacher, heard, name, reading),  # type: ignore[misc]
                )
        elif len(self.task.classes) > 1 and self.truth:
            for step, where in ((1, "later"), (-1, "earlier"))[: len(self.task.classes) - 1]:
                yield Scores(
                    f"every class stands one place {where}",
                    advice="the labels that it was trained on, or those here, have their classes in another order",
                    use=lambda heard, step=step: self._rolled(heard.predictions[name], step),  # type: ignore[misc]
                )

    def _as_declared(self, heard: Heard) -> NumpyArrays | None:
        name, teacher = self.task.name, self.teacher
        if name in heard.predictions or not isinstance(teacher, Foreign):
            return heard.predictions.get(name)
        return read_again(teacher, heard, name, teacher.readings[name])  # another task's outputs cannot be read

    def _rolled(self, prediction: NumpyArrays, step: int) -> NumpyArrays:
        """A run's answer, if its index i stood for the class at i + step of the list."""
        kind, count = self.task.label, len(self.task.classes)
        match kind:
            case VectorLabel():
                return {**prediction, "probs": np.roll(prediction["probs"], step)}
            case BoxesLabel():
                return {**prediction, "classes": (prediction["classes"] + step) % count}
        assert isinstance(kind, IdsLabel)
        ids = prediction[kind.field]
        return {**prediction, kind.field: np.where(ids == kind.ignore_id, ids, (ids.astype(np.int32) + step) % count)}

    def _coarse(self, label: Label) -> Label:
        return coarse(self.task.label, label, _cells(self.task.label, label))

    def _of(self, prediction: NumpyArrays | None, heard: Heard, label: Label) -> float | None:
        """The score of a prediction; 0 if there is none, None if the label says nothing."""
        if prediction is None:
            return 0.0 if self._score(_nothing(self.task.label, label), label) is not None else None
        return self._score(self._comparable(prediction, heard, label), label)

    def _comparable(self, prediction: NumpyArrays, heard: Heard, label: Label) -> Label:
        return comparable(self.task.label, prediction, heard.content, _cells(self.task.label, label))

    def _compare(self, position: int, heard: Heard, label: Label | None) -> None:
        if label is None:
            return
        label = self._coarse(label)
        if self._of(None, heard, label) is None:
            return
        self.positions.append(position)
        for each in [*self.still()]:
            prediction = each.use(heard)
            metrics = self._metrics.setdefault(each.what, self.task.metrics())
            each.measure = partial(_as_is, metrics)
            value = self._of(prediction, heard, label)
            each.values.append(0.0 if value is None else value)
            made = (
                _nothing(self.task.label, label) if prediction is None else self._comparable(prediction, heard, label)
            )
            metrics.update(made, label)

    def _compare_mirrored(self, position: int, heard: Heard, mirrored: Heard) -> None:
        """Every reading against itself: of the mirrored image it must say the same, mirrored."""
        if not isinstance(self.task.label, BoxesLabel):
            one, other = (each.predictions.get(self.task.name) for each in (heard, mirrored))
            self.positions += [position] if one is not None else []
            if self._following and one is not None and other is not None:
                self._following.see(
                    self._comparable(one, heard, dict(one)), self._comparable(other, mirrored, dict(one))
                )
            return
        found = []
        for each in (self.declared, *self.rivals):
            one, other = each.use(heard), each.use(mirrored)
            if one is None or other is None:
                found.append((0.0, 0.0))
                continue
            first, second = self._comparable(one, heard, {}), self._comparable(other, mirrored, {})
            as_label = {**second, "ignore": np.zeros(len(second["valid"]), np.float32), "present": np.float32(1)}
            back = {**as_label, "boxes_yxyx": _mirrored(second["boxes_yxyx"])}
            found.append((self._score(first, back) or 0.0, self._score(first, as_label) or 0.0))
        if any(value for value, _ in found):
            self.positions.append(position)
            for each, (value, unmirrored) in zip((self.declared, *self.rivals), found, strict=True):
                each.values.append(value)
                self._unmirrored.setdefault(each.what, []).append(unmirrored)

    def _contradicts(self) -> bool:
        """Whether the declared boxes hardly follow the mirrored picture, while those of the rival do."""
        winner = self.winner
        assert winner
        apart = winner.mean - float(np.mean(self._unmirrored[winner.what]))
        hardly = self.declared.mean < _INCONSISTENT * winner.mean
        return hardly and winner.mean > _CONSISTENT and apart > _APART

    def _see_outputs(self, call: Call) -> None:
        where = _OUTPUTS.get(call.method)
        if where is None or len(call.positional) <= where:
            return
        outputs = np.asarray(call.positional[where])
        if outputs.size and np.isfinite(outputs).all():
            self._low, self._high = min(self._low, float(outputs.min())), max(self._high, float(outputs.max()))
            self._outputs += outputs.size
            self._uneven = max(self._uneven, float(np.abs(outputs.sum(-1) - 1).max()))

    def _structure(self) -> Iterator[Finding]:
        """Outputs that are probabilities already, whose sigmoid or softmax would be nearly even."""
        if not isinstance(self.teacher, Foreign):
            return
        scores = self.teacher.readings[self.task.name].declared.scores
        within = self._low >= 0 and self._high <= 1
        enough = self._outputs >= _LEAST_OUTPUTS or (self._outputs >= 100 and self._uneven < 1e-3)
        if scores in ("sigmoid", "softmax") and within and enough and (scores == "sigmoid" or self._uneven < 1e-3):
            yield Finding(
                level="failed",
                reason=f"its outputs are no logits, but probabilities, from {self._low:.2g} to {self._high:.2g}",
                line=self.at({"scores": "probabilities"}),
            )

    def _see_answer(self, heard: Heard) -> None:
        prediction = heard.predictions.get(self.task.name)
        if prediction is None:
            return
        self._answered += 1
        kind, least = self.task.label, self.task.min_confidence.least(self.task.classes)
        label = kind.by_rule(label_of(self.task, prediction, heard), least)
        self._empty += kind.is_empty(label)
        if not isinstance(kind, BoxesLabel):  # rare things may be all of one class
            self._firsts |= {*np.unique(kind.contents(label).classes).tolist()}

    def _degenerate(self) -> Iterator[Finding]:
        if self._answered < LEAST_SEEN:
            return
        if self._empty == self._answered:
            what = f"it finds nothing in any of {self._answered} images"
            if isinstance(self.task.label, BoxesLabel) and self.task.asks:
                what += f"; if they should have some, lower tasks.{self.task.name}.{self.task.asks}"
            yield Finding(level="look", reason=what)
        elif self._empty > _MOST_EMPTY * self._answered:
            yield Finding(level="look", reason=f"it finds nothing in {self._empty} of {self._answered} images")
        if len(self._firsts) == 1 and len(self.task.classes) > 1:
            only = self.task.classes[self._firsts.pop()]
            yield Finding(level="look", reason=f"all of {self._answered} images are '{only}' to it, and nothing else")


def _as_is(metrics: TaskMetrics) -> TaskMetrics:
    return metrics


def _same_ids(kind: IdsLabel) -> Alike:
    """The share of pixels with the same class, of those that have one in either map."""

    def alike(one: Label, other: Label) -> float:
        some = (one[kind.field] != kind.ignore_id) | (other[kind.field] != kind.ignore_id)
        return float((one[kind.field] == other[kind.field])[some].mean()) if some.any() else 0.0

    return alike


def _mirrored(boxes_yxyx: np.ndarray) -> np.ndarray:
    y0, x0, y1, x1 = np.asarray(boxes_yxyx).T
    return np.stack([y0, 1 - x1, y1, 1 - x0], 1)


def _cells(kind: LabelKind, label: Mapping[str, np.ndarray]) -> tuple[int, int]:
    return cells_of(kind.map_hw(label)) if isinstance(kind, IdsLabel) else (0, 0)


def _nothing(kind: LabelKind, label: Label) -> Label:
    """An answer that is never right."""
    match kind:
        case VectorLabel():
            return {"probs": 1 - label["probs"]}
        case BoxesLabel():
            none = np.zeros(0, np.float32)
            return {"boxes_yxyx": np.zeros((0, 4), np.float32), "classes": none.astype(np.int32)} | dict.fromkeys(
                ("scores", "valid", "ignore"), none
            )
    assert isinstance(kind, IdsLabel)
    return {kind.field: np.full_like(label[kind.field], kind.ignore_id)}
