"""docs/own_data.md: its commands, in their order, on data of the layout that it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import own_data
import pytest
from command_line import ROOT, call

from must_jax import predict
from must_jax.config import PipelineConfig
from must_jax.errors import UserError
from must_jax.parsing import parse
from must_jax.stages import pipeline

PAGE = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
SMALL = {  # what the test changes at the top of the copy, besides TRIAL=1
    r"IMAGE_SIZE = 64": "IMAGE_SIZE = 32",
    r"MODEL = \{[^}]*\}": 'MODEL = {"backbone": "resnet10", "width": 0.125, "pyramid_channels": 8, "head_channels": 8, '
    '"head_convs": 1}',
}
TWO_TASKS = 'SETS["rooms"]["labels"] = {"depth": SETS["rooms"]["labels"]["depth"]}\n'
SHOWN = ("detection", "segmentation", "depth", "normals")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """The working directory, with the data and configs/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("home"))
        patch.setenv("TRIAL", "1")
        own_data.write(Path("my_data"), rooms=40, places=40, pile=24)
        shutil.copytree(ROOT / "configs", "configs", ignore=shutil.ignore_patterns("__pycache__"))
        yield folder


def run(command: str) -> int:
    words = [word for word in shlex.split(command) if not word.startswith("TRIAL=")]
    if words[:3] == ["python", "-m", "must_jax.main"]:
        return call(*words[3:])
    if words[:3] == ["python", "-m", "must_jax.predict"]:
        return predict.main(words[2:])
    return subprocess.run(words, check=False).returncode


def test_the_page_shows_the_top_of_the_config():
    """And so does the config: the same sets, in the same words."""
    shown = {}
    exec(next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "SETS" in block), shown)
    made = {}
    exec((ROOT / "configs/own.py").read_text(encoding="utf-8"), made)
    assert (shown["SETS"], shown["PILE"]) == (made["SETS"], made["PILE"])


def test_the_whole_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """With two of the tasks; the next test imports and checks all five."""
    assert COMMANDS[0] == "cp configs/own.py configs/mine.py"
    for command in COMMANDS:
        if command == "python -m must_jax.main --config=configs/mine.py":  # the trial did the same
            shutil.copytree("runs/trial", "runs/mine")
        assert run(command) == 0, (command, capsys.readouterr().err[-2000:])
        said = capsys.readouterr()
        if command.startswith("cp"):
            text = Path("configs/mine.py").read_text(encoding="utf-8")
            for old, new in SMALL.items():
                text, found = re.subn(old, new, text)
                assert found == 1, old
            Path("configs/mine.py").write_text(text.replace("# The photos without", f"{TWO_TASKS}# The photos without"))
        if command.endswith("student.seed=1"):
            assert "student is repeated: config.seed is 0 there and 1 here" in said.err
            assert "evaluate is repeated: it reads student" in said.err
            assert "teacher_depth" in said.err.partition("kept: ")[2].partition("\n")[0]
    assert Path("runs/mine/report/index.html").stat().st_size > 10_000
    assert Path("runs/mine/student.before-1/model.json").exists()
    rows = json.loads(Path("runs/mine/evaluate/scorecard.json").read_text())
    assert {row["dataset"] for row in rows} == {"depth", "classification"}
    assert {row["init"] for row in rows} == {"scratch", "teacher_depth", "teacher_classification", "student"}
    assert Path("predictions/00001.png").exists()

    # What other changes of the finished run would repeat.
    only_planned(monkeypatch)
    mine = Path("configs/mine.py")
    text, same = mine.read_text(encoding="utf-8"), "--config.stages.student.seed=1"

    def repeated(changed: str, *overrides: str) -> set[str]:
        mine.write_text(changed)
        assert call("--config=configs/mine.py", same, *overrides) == 0
        return set(re.findall(r"^(\w+) is repeated", capsys.readouterr().err, re.M))

    more = TWO_TASKS.replace("= {", '= {"normals": SETS["rooms"]["labels"]["normals"], ')
    assert repeated(text.replace(TWO_TASKS, more)) == {"student", "evaluate"}
    trained = {"student", "teacher_depth", "teacher_classification"}
    assert repeated(text.replace("0.125", "0.25", 1)) == {*trained, "label", "audit", "evaluate"}
    rule = "--config.stages.label.tasks.classification.top_k=2"
    assert repeated(text, rule) == {"label", "audit", "student", "evaluate"}
    assert repeated(text) == set()


def only_planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pipelines do no work after their checks; the stages that they would run are listed."""
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "_run_stage", lambda name, stage, workdir: ran.append(name))
    monkeypatch.setattr(pipeline, "_write_report", lambda *args: ((), {}))
    return ran


def config_of(trial: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setenv("TRIAL", trial)
    made: dict = {}
    exec((ROOT / "configs/own.py").read_text(encoding="utf-8"), made)
    return made


@pytest.mark.parametrize(("count", "trial"), [*((count, "1") for count in range(1, 6)), (1, "0"), (5, "0")])
def test_one_to_five_tasks_have_no_mistakes(count: int, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As far as they can be found before any work, and that is far."""
    ran, made = only_planned(monkeypatch), config_of(trial, monkeypatch)
    rooms = made["SETS"]["rooms"]
    rooms["labels"] = {task: rooms["labels"][task] for task in SHOWN[: min(count, 4)]}
    sets = {"rooms": rooms} | ({"places": made["SETS"]["places"]} if count == 5 else {})
    config = parse(made["pipeline"](sets, made["PILE"]))
    assert isinstance(config, PipelineConfig)
    student = config.stages["student"]
    assert len(student.validation) == len(sets) and student.steps == (4 if trial == "1" else made["STUDENT_STEPS"])
    pipeline.run(config, tmp_path / "run")
    assert len(ran) == len(sets) + count + 4
    assert ran.index("prepare_rooms") < ran.index(f"teacher_{SHOWN[0]}") < ran.index("label") < ran.index("student")
    assert ran.index("audit") < ran.index("student") < ran.index("evaluate")


def test_a_task_with_labels_in_two_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each set is validated once, and the metrics of the second one have its name."""
    ran, made = only_planned(monkeypatch), config_of("1", monkeypatch)
    rooms = made["SETS"]["rooms"]
    labels = {"classification": {"format": "class_folders"}, "depth": rooms["labels"]["depth"]}
    flats = {"images": rooms["images"], "labels": labels}
    config = parse(made["pipeline"]({**made["SETS"], "flats": flats}, made["PILE"]))
    pipeline.run(config, tmp_path / "run")
    assert {"prepare_flats", "evaluate"} <= {*ran}
    watched = {each.images.split(":")[0]: (each.name, each.tasks) for each in config.stages["student"].validation}
    assert watched == {
        "rooms": ("", SHOWN),
        "places": ("", ("classification",)),
        "flats": ("flats", tuple(labels)[::-1]),
    }


def test_what_the_config_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch):
    made = config_of("1", monkeypatch)
    rooms = made["SETS"]["rooms"]
    for sets, named in (
        ({}, "SETS is empty"),
        ({"pile": rooms}, "'pile'"),
        ({"rooms": {"images": "folder:x", "labels": {}}}, "'rooms' has no labels"),
        ({"rooms": rooms | {"images": "parquet:x"}}, "'rooms' is in Parquet"),
    ):
        with pytest.raises(UserError, match=named):
            made["pipeline"](sets, made["PILE"])


def test_mistakes_are_told_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made: dict = {}
    exec((ROOT / "configs/own.py").read_text(encoding="utf-8"), made)
    labels = made["SETS"]["rooms"]["labels"]
    labels["depth"]["path"] = "my_data/depth"
    del labels["normals"]["options"]
    with pytest.raises(UserError) as raised:
        pipeline.run(parse(made["pipeline"](made["SETS"], made["PILE"])), tmp_path / "run")
    shown = re.search(r"(- config\.stages\.prepare_rooms: config\.labels\.depth.*?)error: (.*?)\n```", PAGE, re.S)
    assert shown and [capsys.readouterr().err, str(raised.value)] == list(shown.groups())
    assert not (tmp_path / "run").exists()
