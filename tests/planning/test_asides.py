"""What a pipeline has made before is found again when it is asked for again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hand_made import TEACHER, Images, describe, label_of
from killed import killed_at_rename
from made_teacher import HEADLINES, SMALL, make_teacher, redescribe

from must_jax import description, files
from must_jax.config import LabelConfig, PipelineConfig
from must_jax.errors import UserError
from must_jax.labels.writer import ColumnWriter
from must_jax.report.html import Report
from must_jax.runs import workdir
from must_jax.stages import pipeline

MARK = "mark.txt"
UNLABELLED = {"images": "scenes/unlabelled_tiny:train"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("made") / "teacher", ("depth",), 32, HEADLINES)


def write_column(path: Path, label_run: Path) -> None:
    by = TEACHER.model_copy(update={"name": path.name, "digest": description.read(path).digest})
    writer = ColumnWriter(label_run / f"columns/{path.name}-depth", describe("depth", Images(4), teacher=by))
    for shard in writer.missing():
        with writer.shard(shard) as labels:
            for index in writer.manifest.shard_range(shard):
                labels.add(f"{index}.jpg", label_of("depth", index))
    writer.finish()


class Home:
    """A pipeline of a label run and a student. A student that begins gets a mark: the teachers at that time."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.run_folder, self._folder, self.trained = folder / "run", folder, 0
        for name in "abc":
            shutil.copytree(teacher, folder / name)
        self._teachers = ""

    def stage(self, config: Any, folder: Path) -> None:
        workdir.claim(folder, config)
        if isinstance(config, LabelConfig):
            for each in config.teachers:
                write_column(Path(each.model), folder)
        elif not (mark := folder / MARK).exists():
            self.trained += 1
            mark.write_text(f"{self._teachers} {config.seed}")
        (folder / workdir.RESULT_FILE).write_text('{"columns": {}}')

    def run(self, teachers: str, seed: int = 0, **label: Any) -> str:
        """Its mark."""
        self._teachers = teachers
        student = {
            "stage": "train",
            "train": [{**UNLABELLED, "labels": ["{workdir}/label"]}],
            "tasks": {"depth": {}},
            "model": SMALL.model_dump(),
            "seed": seed,
        }
        label = {"stage": "label", "teachers": [str(self._folder / name) for name in teachers], **UNLABELLED, **label}
        stages = {"label": label, "student": student}
        pipeline.run(PipelineConfig.model_validate({"stages": stages}), self.run_folder)
        return (self.run_folder / "student" / MARK).read_text()

    def columns(self) -> set[str]:
        return {path.name for path in (self.run_folder / "label/columns").iterdir()}

    def marks(self) -> set[str]:
        """Those of all students that exist."""
        return {path.read_text() for path in self.run_folder.glob(f"student*/{MARK}")}


@pytest.fixture
def home(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path, teacher)
    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(("train", "label"), made.stage))
    monkeypatch.setattr(pipeline, "_write_report", lambda *_: Report("", {}))
    return made


def test_a_teacher_that_leaves_and_comes_back_costs_nothing(home: Home, capsys: pytest.CaptureFixture[str]):
    """Its columns and the student that read them are found again; what another student had is kept."""
    assert home.run("ab") == "ab 0" and home.columns() == {"a-depth", "b-depth"}
    assert home.run("a") == "a 0" and home.columns() == {"a-depth"}
    assert "student is repeated: it reads label" in capsys.readouterr().err
    inode = next(home.run_folder.glob("label.before-*/columns/b-depth")).stat().st_ino
    assert home.run("ab") == "ab 0" and home.columns() == {"a-depth", "b-depth"}
    said = capsys.readouterr().err
    assert "is repeated" not in said
    assert all(f"{home.run_folder}/{there}" in said for there in ("student.before-1", "label.before-1/columns/b-depth"))
    assert (home.run_folder / "label/columns/b-depth").stat().st_ino == inode
    assert home.run("a") == "a 0" and home.run("ab", seed=1) == "ab 1" and home.run("ab") == "ab 0"
    assert home.marks() == {"ab 0", "a 0", "ab 1"} and home.trained == 3
    assert home.run("ab", shard_images=7) == "ab 0" and home.run("ab") == "ab 0"  # the same labels, in other files
    assert home.trained == 3


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_killed_while_something_is_taken_back_it_goes_on(
    home: Home, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.run("ab")
    home.run("ab", seed=1)
    with killed_at_rename(renames, monkeypatch):
        home.run("ab")
    assert home.run("ab") == "ab 0" and home.marks() == {"ab 0", "ab 1"}
    assert home.run("ab", seed=1) == "ab 1" and home.trained == 2


def test_killed_after_all_is_taken_back_the_report_is_still_due(home: Home, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    monkeypatch.setattr(pipeline, "_write_report", lambda *_: written.append(home.trained) or Report("", {}))
    home.run("ab")
    home.run("ab", seed=1)
    before = len(written)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_tell", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            home.run("ab")
    assert home.run("ab") == "ab 0" and len(written) > before
    assert home.run("ab") == "ab 0" and len(written) == before + 1 and home.trained == 2


def test_what_another_process_uses_is_not_moved(home: Home):
    """Found before the first stage; and of what has to be taken back."""
    home.run("ab")
    home.run("ab", seed=1)
    held = files.lock(home.run_folder / "student")
    for seed in (0, 2):
        with pytest.raises(UserError, match=r"another process is using .*student"):
            home.run("a", seed=seed)
        with pytest.raises(UserError, match=r"another process is using .*student"):
            home.run("ab", seed=seed)
        assert home.columns() == {"a-depth", "b-depth"} and home.marks() == {"ab 0", "ab 1"}
    files.unlock(held)
    assert home.run("ab") == "ab 0" and home.trained == 2


def test_a_teacher_that_is_itself_taken_back_brings_its_columns(home: Home, capsys: pytest.CaptureFixture[str]):
    model = home.run_folder.parent / "b/model.json"
    before = model.read_text()
    column = home.run_folder / "label/columns/b-depth/manifest.json"
    home.run("ab")
    inode = column.stat().st_ino
    redescribe(model, digest="1" * 64)
    home.run("ab")
    assert column.stat().st_ino != inode and home.trained == 2
    model.write_text(before)
    capsys.readouterr()
    home.run("ab")
    assert column.stat().st_ino == inode and home.trained == 2
    assert "is repeated" not in capsys.readouterr().err
    redescribe(model, digest="1" * 64)
    home.run("ab")
    assert column.stat().st_ino != inode and home.trained == 2


@pytest.mark.parametrize("stage", ["train", "label"])
def test_a_change_that_is_regretted_at_once_costs_nothing(home: Home, stage: str, monkeypatch: pytest.MonkeyPatch):
    """The stage that is repeated was stopped, or refused, before it had begun."""
    home.run("ab")
    changed: dict[str, Any] = {"seed": 1} if stage == "train" else {"shard_images": 7}
    with monkeypatch.context() as patch:
        patch.setitem(pipeline.STAGES, stage, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            home.run("ab", **changed)
    columns = {path: path.stat().st_ino for path in home.run_folder.glob("label*/columns/*/manifest.json")}
    assert home.run("ab") == "ab 0" and home.trained == 1
    assert not list(home.run_folder.glob("*.before-*"))
    assert {path.stat().st_ino for path in home.run_folder.glob("label/columns/*/*.json")} >= {*columns.values()}


def test_what_was_deleted_is_made_anew(home: Home):
    home.run("ab")
    home.run("a")
    shutil.rmtree(home.run_folder / "student")
    assert home.run("ab") == "ab 0" and home.trained == 3
    assert len(list(home.run_folder.glob("student*"))) == 2


def test_a_teacher_that_is_added_is_told_before_anything_begins(home: Home, capsys: pytest.CaptureFixture[str]):
    home.run("a")
    capsys.readouterr()
    home.run("abc")
    before, _, _ = capsys.readouterr().err.partition("[1/2]")
    assert "student is repeated: it reads label, which adds b-depth" in before
    shutil.rmtree(home.run_folder / "label/columns/b-depth")  # comes again as it was
    home.run("abc", gallery_images=1)
    assert "is repeated" not in capsys.readouterr().err and home.columns() == {"a-depth", "b-depth", "c-depth"}
    assert home.trained == 2


def test_a_run_whose_inputs_were_not_recorded_is_not_taken_back(home: Home):
    home.run("ab")
    home.run("ab", seed=1)
    aside = home.run_folder / "student.before-1"
    (aside / "inputs.json").unlink()
    assert home.run("ab") == "ab 0" and home.trained == 3 and aside.exists()
