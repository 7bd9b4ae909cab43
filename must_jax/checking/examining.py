"""Teachers are asked about a sample of images, and what they say is looked at, task by task."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from must_jax.checking import agreeing, between, rivals
from must_jax.checking.agreeing import Agreement
from must_jax.checking.answers import Answers
from must_jax.checking.directions import Directions
from must_jax.checking.distances import Distances
from must_jax.checking.exams import SCREENED, At, Exam, Scores
from must_jax.checking.heard import Heard, ask
from must_jax.checking.truths import Truth, truth_of
from must_jax.checking.verdicts import Checked, Finding, TaskVerdict, TeacherVerdict
from must_jax.config.teachers import TeacherConfig
from must_jax.data import units
from must_jax.data.axes import parse
from must_jax.data.decoding import decode_image
from must_jax.data.fitting import Placed
from must_jax.data.image_sets import Column, ImageSet
from must_jax.data.kinds import DirectionsLabel, ScalarsLabel, ValuesLabel
from must_jax.errors import UserError
from must_jax.labels import judging
from must_jax.labels.columns import LabelColumn
from must_jax.progress import Progress, counted
from must_jax.tasks import build_task
from must_jax.tasks.base import Task
from must_jax.teachers.base import Teacher
from must_jax.teachers.foreign import Foreign

_MOST_UNREAD = 0.25  # share of the answers that cannot be read
_BLANK = 1.0  # deviation of pixels below which there is nothing to see in an image
Load = Callable[[TeacherConfig], Teacher]


@dataclass
class Subject:
    """What is checked: a teacher, or the truth.

    Attributes:
      name: of the teacher; TRUTH.
      place: in the config, e.g. "teachers.0".
      exams: by task.
      why: task -> why there is no truth that it can be compared with.
    """

    name: str
    place: str = ""
    declared: TeacherConfig | None = None
    teacher: Teacher | None = None
    exams: dict[str, Exam] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, place: str, declared: TeacherConfig, teacher: Teacher, tasks: Mapping[str, Task], columns: Sequence[Column]
    ) -> Subject:
        """A teacher with some of its tasks, and true labels of any tasks."""
        subject = cls(teacher.name, place, declared, teacher)
        for name, task in tasks.items():
            truth = truth_of(task, columns)
            if isinstance(truth, str):
                subject.why[name] = truth
            subject.exams[name] = _exam(place, teacher, task, truth if isinstance(truth, Truth) else None)
        return subject

    @classmethod
    def of_truth(cls, columns: Sequence[Column]) -> Subject:
        """True maps of scalars and vectors; nothing can be said of other labels without a teacher."""
        subject = cls(TRUTH)
        for column in columns:
            if column.task not in subject.exams and (exam := _of_truth(column)):
                subject.exams[column.task] = exam
        return subject


TRUTH = ""


def examine(
    images: ImageSet, subjects: Sequence[Subject], truth: Subject, columns: Sequence[Column], load: Load
) -> Checked:
    """Asks all teachers about all images, and judges.

    Args:
      columns: that `truth` is about.
      load: another teacher, as declared.
    """
    began = time.monotonic()
    between_two = agreeing.agreements(
        [(subject.name, exam) for subject in subjects for exam in subject.exams.values() if isinstance(exam, Answers)]
    )
    _look(images, subjects, between_two, truth, {column.task: column for column in reversed(columns)})
    for subject in subjects:
        _show_otherwise(images, subject, load)
    every = [*subjects, truth]
    verdicts = {subject.name: {name: _judged(exam) for name, exam in subject.exams.items()} for subject in every}
    for subject, task, finding in _contradictions(every, verdicts):
        verdicts[subject.name][task] = _with(verdicts[subject.name][task], finding)
    for each in between_two:
        witness = verdicts[each.other][each.known.task.name]
        for finding in each.findings(is_trusted=each.known.truth is not None and witness.verdict == "passed"):
            verdicts[each.name][each.task] = _with(verdicts[each.name][each.task], finding)
    return Checked(
        images=images.name,
        seconds=time.monotonic() - began,
        teachers={
            subject.name: TeacherVerdict(digest=subject.teacher.record.digest, tasks=verdicts[subject.name])
            for subject in subjects
            if subject.teacher
        },
        truth=verdicts[TRUTH],
    )


def image_of(images: ImageSet, position: int) -> np.ndarray | None:
    """u8[h, w, 3]; None if it cannot be read, or shows nothing."""
    try:
        image = decode_image(images.record(position)["image"])
    except Exception:  # broken in any way; labelling names it
        return None
    return image if image.std() >= _BLANK else None


def _exam(place: str, teacher: Teacher, task: Task, truth: Truth | None) -> Exam:
    reading = teacher.readings[task.name] if isinstance(teacher, Foreign) else None

    def at(changes: Mapping[str, Any]) -> str:
        return rivals.line(f"{place}.tasks.{task.name}", changes) if reading else ""

    match task.label:
        case ScalarsLabel():
            return Distances(at, task, truth, reading.declared.metres_per_unit if reading else 1.0)
        case DirectionsLabel():
            return Directions(at, task, truth, reading.axes if reading else None)
    return Answers(at, teacher, task, truth)


def _of_truth(column: Column) -> Exam | None:
    if not isinstance(column.kind, ValuesLabel):
        return None
    made = column.manifest if isinstance(column, LabelColumn) else None
    source = made.source if made else None

    def at(changes: Mapping[str, Any]) -> str:
        known = {"axes": "axes", "depth_kind": "unit"}
        return rivals.line(f"labels.{column.task}.options", {known[key]: each for key, each in changes.items()})

    line: At = at if source else lambda changes: ""
    options = made.options if made else {}
    if column.kind.unit:
        options = {**options, "depth_kind": "metric_m" if column.kind.unit == units.METRES else column.kind.unit}
    try:
        task = build_task(column.task, (), options)
    except UserError:  # of a kind that only its teacher knows
        return None
    if isinstance(column.kind, ScalarsLabel):
        return Distances(line, task, None)
    axes = source.options.get("axes") if source else None
    return Directions(line, task, None, parse(axes) if axes else None)


def _look(
    images: ImageSet,
    subjects: Sequence[Subject],
    between_two: Sequence[Agreement],
    truth: Subject,
    columns: Mapping[str, Column],
) -> None:
    with Progress("asking about images", len(images)) as progress:
        for position in range(len(images)):
            image = image_of(images, position)
            said: dict[str, Heard] = {}
            for subject in subjects if image is not None else ():
                assert subject.teacher and image is not None
                heard = said[subject.name] = ask(subject.teacher, image)
                turned = None
                if any(exam.truth is None for exam in subject.exams.values()):
                    turned = ask(subject.teacher, np.ascontiguousarray(image[:, ::-1]))
                for exam in subject.exams.values():
                    exam.asked += 1
                    exam.see(position, heard, turned)
            for each in between_two if said else ():
                each.see(position, said)
            for name, exam in truth.exams.items():
                if (label := columns[name][position])["present"]:
                    exam.see(position, Heard({name: label}, (1.0, 1.0), Placed(0, 0, 1, 1)), None)
            progress.advance()


def _show_otherwise(images: ImageSet, subject: Subject, load: Load) -> None:
    """Rivals whose images are shown otherwise; those that fall behind in the first images are not shown the rest."""
    exams = [exam for exam in subject.exams.values() if exam.truth and exam.declared.values]
    if not exams or not subject.declared or not isinstance(subject.teacher, Foreign):
        return
    positions = sorted({*itertools.chain.from_iterable(exam.positions for exam in exams)})
    for rival in rivals.inputs(subject.declared, subject.teacher.input):
        try:
            other = load(rival.declared)
        except Exception:  # it cannot be shown images so, or does not fit into memory beside the first one
            continue
        line = rivals.line(f"{subject.place}.input", rival.changes)
        tried = [Scores(rival.what, line, use=exam.declared.use, shown=rival.declared) for exam in exams]
        for position in positions:
            if all(each.given_up for each in tried):
                break
            if (image := image_of(images, position)) is not None:
                heard = ask(other, image)
                for exam, scores in zip(exams, tried, strict=True):
                    if position in exam.positions and not scores.given_up:
                        _score(exam, scores, heard, position)
        for exam, scores in zip(exams, tried, strict=True):
            exam.rivals.append(scores)


def _score(exam: Exam, scores: Scores, heard: Heard, position: int) -> None:
    scores.values.append(exam.score(heard, position) or 0.0)
    if len(scores.values) == SCREENED:
        scores.given_up = scores.mean <= sum(exam.declared.values[:SCREENED]) / SCREENED


def _judged(exam: Exam) -> TaskVerdict:
    verdict = exam.verdict()
    if len(exam.unread) > _MOST_UNREAD * exam.asked:
        every = len(exam.unread) == exam.asked
        count = (
            f"none of its {exam.asked} answers can" if every else f"{len(exam.unread)} of {exam.asked} answers cannot"
        )
        failed = exam.asked > 1 and len(exam.unread) > exam.asked / 2 and not verdict.failures
        reason = f"{count} be read: {exam.unread[-1]}"
        return _with(verdict, Finding(level="failed" if failed else "look", reason=reason))
    if exam.truth and not exam.positions:
        reason = f"nothing could be compared: no image has both an answer and {exam.by}"
        return _with(verdict, Finding(level="look", reason=reason))
    return verdict


def _with(verdict: TaskVerdict, finding: Finding) -> TaskVerdict:
    findings = (*verdict.findings, *([finding] if finding not in verdict.findings else []))
    return verdict.model_copy(update={"findings": findings, "verdict": judging.verdict(findings)})


def _contradictions(
    subjects: Sequence[Subject], verdicts: Mapping[str, Mapping[str, TaskVerdict]]
) -> Iterator[tuple[Subject, str, Finding]]:
    """Between depth and normals, and between depths of one task. What has been compared with truth is a witness."""
    seen = [(subject, name, exam) for subject in subjects for name, exam in subject.exams.items()]

    def trusted(subject: Subject, name: str, exam: Exam) -> bool:
        return subject.name != TRUTH and exam.truth is not None and verdicts[subject.name][name].verdict == "passed"

    depths = [(s, n, e, trusted(s, n, e)) for s, n, e in seen if isinstance(e, Distances)]
    normals = [(s, n, e, trusted(s, n, e)) for s, n, e in seen if isinstance(e, Directions)]
    # The truth is the best witness, then what agrees with it, then the same teacher.
    for one, name, exam, known in normals:
        if exam.truth is None and depths and not known:
            other, task, depth, is_trusted = min(depths, key=lambda d: (d[0].name != TRUTH, not d[3], d[0] is not one))
            of_depth, of_normals = between.depth_and_normals(depth, exam, _told(other, task), _told(one, name))
            yield from ((one, name, finding) for finding in of_normals)
            if not is_trusted and depth.truth is None and (other.name != TRUTH or one.name == TRUTH):
                yield from ((other, task, finding) for finding in of_depth)
    for one, name, far, _ in depths:
        witness = next(((s, n, e) for s, n, e, known in normals if known or s.name == TRUTH), None)
        if far.truth is None and one.name != TRUTH and witness:
            of_depth, _ = between.depth_and_normals(far, witness[2], _told(one, name), _told(*witness[:2]))
            yield from ((one, name, finding) for finding in of_depth)
    for task in dict.fromkeys(name for _, name, _, _ in depths):
        alike = [(s, e) for s, n, e, _ in depths if n == task and s.name != TRUTH and e.truth is None]
        owners = {id(e): s for s, e in alike}
        for far, finding in between.of_one_task([(s.name, e) for s, e in alike]):
            yield owners[id(far)], task, finding


def _told(subject: Subject, task: str) -> str:
    return f"the true {task}" if subject.name == TRUTH else f"the {task} of {subject.name}"


def sentences(subjects: Sequence[Subject], checked: Checked) -> Iterator[str]:
    """A line for each teacher and task, and for each true label about which there is something to say."""
    why = {subject.name: subject.why for subject in subjects}
    for name, about in checked.teachers.items():
        for task, verdict in about.tasks.items():
            yield f"{name}, {task}: {told(verdict, why.get(name, {}).get(task, ''))}"
    for task, verdict in checked.truth.items():
        yield f"the true {task}: {told(verdict)}"


def told(verdict: TaskVerdict, why: str = "") -> str:
    """A verdict in a sentence. `why`: there is no truth to compare with."""
    by = f"{why}, so it was compared with {verdict.by}" if why else f"compared with {verdict.by}"
    seen = f"({counted(verdict.images, 'image')}, {by})"
    if verdict.findings:
        said = (f"{each.reason}{f' [{each.line}]' if each.line else ''}" for each in verdict.findings)
        return f"{verdict.verdict}, {'; '.join(said)} {seen}"
    figures = [f"{name} is {value:.1f}" for name, value in list(verdict.metrics.items())[:1]]
    if len(verdict.tried) > 1:
        figures.append(f"none of {counted(len(verdict.tried) - 1, 'other reading')} is surely better")
    return f"{verdict.verdict}, {', '.join(figures) or 'nothing found'} {seen}"
