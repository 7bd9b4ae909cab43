"""A teacher that is read wrongly is refused before it labels: models of others are checked on a few images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from must_jax.checking import examining, verdicts
from must_jax.checking.examining import Subject
from must_jax.checking.truths import Truth, open_truths, truth_of
from must_jax.checking.verdicts import Checked, TaskVerdict, TeacherVerdict
from must_jax.config import LabelConfig, TeacherConfig
from must_jax.data.batching import Source
from must_jax.data.image_sets import ImageSet
from must_jax.errors import UserError
from must_jax.inputs.named import mesh_of
from must_jax.progress import counted, say
from must_jax.runs.workdir import home
from must_jax.tasks.base import Task
from must_jax.teachers import loading
from must_jax.teachers.base import Teacher
from must_jax.teachers.foreign import Foreign


def refuse(config: LabelConfig, teachers: Sequence[Teacher], images: ImageSet, workdir: Path) -> Checked:
    """Checks the models of others among the teachers; what `config.checked` or an earlier start has found counts.

    The metrics of what was compared with truth become those of its teacher. Runs of must_jax were validated.

    Returns:
      What was found, to be remembered.

    Raises:
      UserError: teachers that are read wrongly, unless `accept_failed` has their tasks; `checked` or the images of
        `check_on` do not exist, or `checked` knows another version of a teacher and nothing else is checked.
    """
    others = [(number, each) for number, each in enumerate(teachers) if isinstance(each, Foreign)]
    before = [verdicts.read(Path(config.checked))] if config.checked else []
    on = f"{counted(config.check_images, 'image')} of {images.name}"
    if config.check_on:
        on += f", {config.check_on.model_dump_json(exclude_defaults=True)}"
    if config.check_images and (workdir / verdicts.FILE).exists():
        earlier = verdicts.read(workdir)
        before += [earlier] if earlier.images == on else []  # on others, more may be seen
    known = {each.name: verdict for _, each in others if (verdict := _known(each, before))}
    unknown = [each.name for _, each in others if each.name not in known]
    if config.checked and unknown and not config.check_images:
        raise UserError(
            f"the check in {config.checked} knows no {' and no '.join(unknown)} that is read as here; run it again, or "
            "let them be checked now by config.check_images=32"
        )
    left = [(number, each) for number, each in others if each.name not in known] if config.check_images else []
    found = known | (_check(config, left, images, workdir).teachers if left else {})
    _judge(config, {name: about.tasks for name, about in found.items()})
    for _, each in others:
        told = found[each.name].tasks.items() if each.name in found else ()
        metrics = {f"{task}/{key}": value for task, verdict in told for key, value in verdict.metrics.items()}
        each.record = each.record.model_copy(update={"metrics": metrics})
    return Checked(images=on, teachers=found)


def remember(workdir: Path, checked: Checked) -> None:
    """Keeps what was found, so that a run that goes on need not find it again."""
    if checked.teachers:
        verdicts.write(workdir, checked)


def _known(teacher: Teacher, before: Iterable[Checked]) -> TeacherVerdict | None:
    for checked in before:
        tasks = checked.of(teacher.record.digest)
        if teacher.tasks.keys() <= tasks.keys():
            return TeacherVerdict(digest=teacher.record.digest, tasks=dict(tasks))
    return None


def _check(config: LabelConfig, teachers: Sequence[tuple[int, Foreign]], images: ImageSet, workdir: Path) -> Checked:
    mesh = mesh_of(config)

    def load(declared: TeacherConfig) -> Teacher:
        return loading.load(declared, config.tasks, mesh)

    names = ", ".join(each.name for _, each in teachers)
    say(f"{names}: checking on {counted(config.check_images, 'image')} how they are read (config.check_images)")
    stage = f"stages.{workdir.name}." if home(workdir) != workdir else ""
    truth = _truth(config)
    some = images if len(images) <= config.check_images else images.taking(config.check_images)
    found: dict[str, dict[str, TaskVerdict]] = {each.name: {} for _, each in teachers}
    columns = truth.columns if truth else ()
    for source in (*([truth] if truth else []), Source(some, ())):
        subjects = [  # they tell why the true labels say nothing about the other tasks
            Subject.of(f"{stage}teachers.{number}", config.teachers[number], each, tasks, columns)
            for number, each in teachers
            if (tasks := _tasks(each, truth, source is truth))
        ]
        if subjects:
            checked = examining.examine(source.images, subjects, Subject(examining.TRUTH), (), load)
            for name, about in checked.teachers.items():
                found[name] |= about.tasks
            for sentence in examining.sentences(subjects, checked):
                say(sentence)
    return Checked(
        images=images.name,
        teachers={each.name: TeacherVerdict(digest=each.record.digest, tasks=found[each.name]) for _, each in teachers},
    )


def _truth(config: LabelConfig) -> Source | None:
    if not config.check_on:
        return None
    sample = config.check_on.model_copy(update={"take": config.check_on.take or config.check_images})
    return open_truths(sample, config.data_dir)


def _tasks(teacher: Teacher, truth: Source | None, with_truth: bool) -> dict[str, Task]:
    """Those that there is truth for, or the others."""
    columns = truth.columns if truth else ()
    return {
        name: task for name, task in teacher.tasks.items() if with_truth == isinstance(truth_of(task, columns), Truth)
    }


def _judge(config: LabelConfig, found: Mapping[str, Mapping[str, TaskVerdict]]) -> None:
    refused: dict[str, list[str]] = {}  # task -> what is wrong with its teachers
    for name, tasks in found.items():
        for task, verdict in tasks.items():
            for failure in verdict.failures:
                line = f"; set {failure.line}" if failure.line else ""
                wrong = f"{name} is read wrongly, or cannot do {task}: {failure.reason}{line}"
                if task in config.accept_failed:
                    say(f"look at the gallery: {wrong} (accepted by config.accept_failed)")
                else:
                    refused.setdefault(task, []).append(wrong)
    if refused:
        raise UserError(
            f"{'; '.join(itertools.chain(*refused.values()))}; see configs/check.py for pictures, or label with it "
            f"anyway with config.accept_failed={','.join(refused)}"
        )
