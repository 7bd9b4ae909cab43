"""Label: teachers label an image set, one column per teacher and task, and a gallery shows their labels."""

from __future__ import annotations

from pathlib import Path

from must_jax.cli import interrupted_later
from must_jax.config import LabelConfig, in_todays_names
from must_jax.data.shards import COLUMNS
from must_jax.errors import UserError
from must_jax.labelling.finished import are_others, finished_columns, known, photos_of, rule_of
from must_jax.labels import manifest
from must_jax.progress import say
from must_jax.runs.workdir import check


def run(config: LabelConfig, workdir: Path) -> None:
    """Writes `columns/TEACHER-TASK/`, `gallery.html` and, last, `result.json` into the workdir.

    A run that was interrupted, or has lost shards since, resumes with the missing ones; a finished one says so, without
    loading jax. Another teacher adds its columns. Of several workers, the one that writes the last shard finalises the
    columns.

    Raises:
      UserError: a teacher that is missing, unfinished or listed twice; teachers that are near chance, were not
        validated or are read wrongly (`accept_failed` overrides); an unknown option, no readable images, too little
        disk, a workdir of another config, columns made by another rule or by a teacher that was since retrained.
    """
    if config.dry_run:
        with interrupted_later():
            from must_jax.labelling import forecasting
        forecasting.show(forecasting.forecast(config, workdir), config.chips, config.batch_size)
        return
    check(workdir, config)
    if _is_finished(config, workdir):
        say(f"{workdir} is finished; nothing to do")
        return
    with interrupted_later():
        from must_jax.labelling import label_run
    label_run.make(config, workdir)


def _is_finished(config: LabelConfig, workdir: Path) -> bool:
    """Whether the columns of all teachers exist and are complete, made with the current parameters and rules.

    A teacher that no longer exists counts as unchanged.

    Raises:
      UserError: a teacher was retrained since, or photos of a folder were added, removed or changed, or have become
        readable or unreadable.
    """
    columns, photos = finished_columns(workdir), photos_of(config)
    for teacher in config.teachers:
        about = known(teacher)
        there = {
            column["task"]: workdir / COLUMNS / name
            for name, column in columns.items()
            if column["teacher"] == teacher.called
        }
        if not there or (about and not about.tasks.keys() <= there.keys()):
            return False
        for task, folder in there.items():
            if not manifest.is_whole(folder):
                return False
            column = manifest.read(folder)
            if photos and are_others(column, photos):
                same = column.images.digest == photos.digest
                raise UserError(
                    f"{config.images} has changed since {workdir} labelled it"
                    f"{'; photos have become readable, or unreadable' * same}; "
                    "choose another --workdir, or delete that folder"
                )
            if about is None:
                continue
            if column.teacher is None or column.teacher.digest != about.digest:
                other = "another" if teacher.run else "another, or otherwise read,"
                raise UserError(
                    f"{workdir} was labelled by {other} {teacher.called} than the one now in {teacher.model}; "
                    f"choose another --workdir or delete {folder}"
                )
            if task in about.tasks and rule_of(config, teacher, about, column) != in_todays_names(column.rule):
                return False
    return True
