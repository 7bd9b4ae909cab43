"""What a check has found, as the contents of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from must_jax.checking.examining import TRUTH, Load, Subject, image_of
from must_jax.checking.exams import Exam, Scores
from must_jax.checking.heard import Heard, ask, label_of
from must_jax.checking.verdicts import Checked, TaskVerdict
from must_jax.data.batching import Source
from must_jax.data.image_sets import evenly_spread
from must_jax.data.kinds import Label
from must_jax.report import check_page
from must_jax.report.gallery import Picture, caption, thumbnail
from must_jax.tasks.base import Task

_SAID = 3  # parts of a description
_TRIED = 13  # readings, the declared one among them
_NONE = "cannot be read so"


def write(
    path: Path, source: Source, subjects: Sequence[Subject], checked: Checked, load: Load, page_images: int
) -> None:
    """The page at `path`."""
    tasks = []
    for subject in subjects:
        verdicts = checked.truth if subject.name == TRUTH else checked.teachers[subject.name].tasks
        for name, exam in subject.exams.items():
            shown = list(_shown(source, subject, exam, load, page_images))
            tasks.append(_task(subject.name, exam, verdicts[name], shown))
    contents = check_page.Check(source.images.name, len(source.images), checked.seconds, tasks)
    check_page.write(contents, path)


def _task(teacher: str, exam: Exam, verdict: TaskVerdict, shown: Sequence[check_page.Shown]) -> check_page.Task:
    winning = exam.winner.what if exam.winner else None
    return check_page.Task(
        teacher=teacher,
        name=exam.task.name,
        verdict=verdict.verdict,
        by=verdict.by,
        images=verdict.images,
        metric=exam.task.metric if verdict.metrics else "",
        findings=[check_page.Finding(each.level, each.reason, each.line) for each in verdict.findings],
        readings=[
            check_page.Reading(**each.model_dump(), wins=bool(each.what) and each.what == winning)
            for each in verdict.tried[:_TRIED]
        ],
        shown=shown,
    )


def _shown(source: Source, subject: Subject, exam: Exam, load: Load, count: int) -> Iterator[check_page.Shown]:
    """Images that the winner reads much better, or any."""
    other = load(exam.winner.shown) if exam.winner and exam.winner.shown else None
    for position in _chosen(exam, count):
        image = image_of(source.images, position)
        if image is None:
            continue
        true = exam.truth.label(position) if exam.truth else None
        pictures = [_drawn("true", exam.task, image, true)] if true is not None else []
        if subject.teacher:
            heard = ask(subject.teacher, image)
            pictures.append(_read("as declared", exam.task, image, exam.declared, heard))
            if exam.winner:
                heard = ask(other, image) if other else heard
                heading = f"if {exam.winner.what}"
                pictures.append(_read(heading, exam.winner.task or exam.task, image, exam.winner, heard))
        else:
            column = next(each for each in source.columns if each.task == exam.task.name)
            pictures.append(_drawn("true", exam.task, image, column[position]))
        yield check_page.Shown(source.images.name_of(position), thumbnail(image), pictures)


def _chosen(exam: Exam, count: int) -> list[int]:
    winner = exam.winner
    if winner and len(winner.values) == len(exam.declared.values) == len(exam.positions):
        gains = np.subtract(winner.values, exam.declared.values)
        return sorted(exam.positions[i] for i in np.argsort(-gains, kind="stable")[:count])
    return [exam.positions[i] for i in evenly_spread(len(exam.positions), count)] if exam.positions and count else []


def _read(
    heading: str, task: Task, image: np.ndarray, scores: Scores, heard: Heard
) -> tuple[str, Picture, Sequence[str]]:
    prediction = scores.use(heard)
    if prediction is None:
        return heading, heard.error or _NONE, ()
    return _drawn(heading, task, image, label_of(task, prediction, heard))


def _drawn(heading: str, task: Task, image: np.ndarray, label: Label) -> tuple[str, Picture, Sequence[str]]:
    return heading, thumbnail(task.draw(image, label)), caption(task.describe(label))[:_SAID]
