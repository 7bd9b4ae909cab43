"""Check: is a teacher read rightly? Its answers as declared against those of other declarations, before it labels."""

from __future__ import annotations

from pathlib import Path

from must_jax import description
from must_jax.checking import examining, verdicts
from must_jax.checking.examining import Subject
from must_jax.checking.truths import open_truths
from must_jax.checking.verdicts import Checked
from must_jax.config import CheckConfig, TeacherConfig
from must_jax.errors import UserError
from must_jax.files import MODEL_FILE, write_json
from must_jax.inputs.mistakes import check_config
from must_jax.inputs.named import mesh_of
from must_jax.labelling import teachers
from must_jax.progress import say
from must_jax.runs.workdir import RESULT_FILE, check, claim
from must_jax.teachers import loading
from must_jax.teachers.base import Teacher
from must_jax.teachers.files import digest_of, digest_of_run

PAGE = "check.html"


def run(config: CheckConfig, workdir: Path) -> None:
    """Writes `check.html`, `check.json` and, last, `result.json` into the workdir; prints a line for each task.

    A teacher that is read wrongly is no error here, but labelling refuses it. A finished check of the same teachers
    says so.

    Raises:
      UserError: a teacher that is missing or not fully declared, images or columns that are missing or do not match,
        nothing to check, a workdir of another config.
    """
    check(workdir, config)
    check_config(config)
    if _is_finished(config, workdir):
        say(f"{workdir} is finished; nothing to do, see {workdir / PAGE}")
        return
    mesh = mesh_of(config)
    loaded = teachers.opened(config.teachers, config.tasks, mesh)
    source = open_truths(config.source, config.data_dir)
    subjects = [
        Subject.of(f"teachers.{number}", declared, teacher, teacher.tasks, source.columns)
        for number, (declared, teacher) in enumerate(zip(config.teachers, loaded, strict=True))
    ]
    truth = Subject.of_truth(source.columns)
    if not subjects and not truth.exams:
        raise UserError(
            f"{source.images.name} has no true depth or normals, about which something can be said without a teacher; "
            "name one in config.teachers"
        )
    claim(workdir, config)

    def load(declared: TeacherConfig) -> Teacher:
        return loading.load(declared, config.tasks, mesh)

    checked = examining.examine(source.images, subjects, truth, source.columns, load)
    verdicts.write(workdir, checked)
    from must_jax.checking import presenting  # matplotlib takes a second to load

    presenting.write(workdir / PAGE, source, [*subjects, truth], checked, load, config.page_images)
    short = {
        name: {task: verdict.verdict for task, verdict in about.tasks.items()}
        for name, about in checked.teachers.items()
    }
    write_json(workdir / RESULT_FILE, {"teachers": short, "seconds": checked.seconds})
    for sentence in examining.sentences(subjects, checked):
        say(sentence)
    say(f"see {workdir / PAGE}")


def _is_finished(config: CheckConfig, workdir: Path) -> bool:
    """Whether all teachers have been checked here as they are now."""
    if not (workdir / RESULT_FILE).exists():
        return False
    checked: Checked = verdicts.read(workdir)
    now = {}
    for declared in config.teachers:
        if declared.run is None:
            now[declared.called] = digest_of(declared)
        elif (declared.run / MODEL_FILE).exists():
            now[declared.called] = digest_of_run(declared, description.read(declared.run).digest)
    return now == {name: about.digest for name, about in checked.teachers.items()}
