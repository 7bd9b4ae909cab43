"""docs/own_data.md: its commands, in their order, on data of the layout that it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import own_data
import pytest
from command_line import ROOT, call

from must_jax import predict
from must_jax.config import PipelineConfig
from must_jax.data.order import Order
from must_jax.data.plan import SHUFFLE_SEED
from must_jax.errors import UserError
from must_jax.parsing import parse
from must_jax.report.html import Report
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
        with pytest.MonkeyPatch.context() as patch:
            if "runs/second" in command:  # the same stages again
                only_planned(patch)
            assert run(command) == 0, (command, capsys.readouterr().err[-2000:])
        said = capsys.readouterr()
        if command.startswith("cp"):
            text = Path("configs/mine.py").read_text(encoding="utf-8")
            for old, new in SMALL.items():
                text, found = re.subn(old, new, text)
                assert found == 1, old
            Path("configs/mine.py").write_text(text.replace("# The photos without", f"{TWO_TASKS}# The photos without"))
        if command.endswith("student.seed=1"):
            assert "student is repeated: config.stages.student.seed was 0 and is 1; to keep" in said.err
            assert "evaluate is repeated: it reads student" in said.err
            assert "teacher_depth" in said.err.partition("kept: ")[2].partition("\n")[0]
    assert Path("runs/mine/report/index.html").stat().st_size > 10_000
    assert Path("runs/mine/student.before-1/model.json").exists()
    rows = json.loads(Path("runs/mine/evaluate/scorecard.json").read_text())
    assert {row["dataset"] for row in rows} == {"depth", "classification"}
    assert {row["init"] for row in rows} == {"scratch", "teacher_depth", "teacher_classification", "student"}
    assert Path("predictions/00001.png").exists() and Path("predictions/00001.npz").exists()
    exec(next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "features" in block), {})

    # What other changes of the finished run would repeat.
    only_planned(monkeypatch)
    mine = Path("configs/mine.py")
    text, same = mine.read_text(encoding="utf-8"), "--config.stages.student.seed=1"

    def repeated(changed: str, *overrides: str) -> set[str]:
        mine.write_text(changed)
        assert call("--config=configs/mine.py", same, *overrides) == 0
        return set(re.findall(r"^(\w+) is repeated", capsys.readouterr().err, re.M))

    more = TWO_TASKS.replace("= {", '= {"normals": SETS["rooms"]["labels"]["normals"], ')
    assert repeated(text.replace(TWO_TASKS, more)) == {"audit", "student", "evaluate"}
    trained = {"student", "teacher_depth", "teacher_classification"}
    assert repeated(text.replace("0.125", "0.25", 1)) == {*trained, "label", "audit", "evaluate"}
    rule = "--config.stages.label.tasks.classification.top_k=2"
    assert repeated(text, rule) == {"label", "audit", "student", "evaluate"}
    assert repeated(text) == set()
    mine.write_text(text.replace('"unit": "mm"', '"unit": "cm"'))
    assert call("--config=configs/mine.py") == 2
    assert "unit was 'mm' and is 'cm'; delete it" in capsys.readouterr().err


def only_planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pipelines do no work after their checks; the stages that they would run are listed."""
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "_run_stage", lambda name, stage, workdir: ran.append(name))
    monkeypatch.setattr(pipeline, "_write_report", lambda *args: Report("", {}))
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
    assert len(student.validation) == len(sets) and student.steps == (4 if trial == "1" else made["STEPS"]["student"])
    pipeline.run(config, tmp_path / "run")
    assert len(ran) == len(sets) + count + 4
    assert ran.index("prepare_rooms") < ran.index(f"teacher_{SHOWN[0]}") < ran.index("label") < ran.index("student")
    assert ran.index("audit") < ran.index("student") < ran.index("evaluate")


def test_a_task_with_labels_in_two_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each set is validated once, and the metrics of the second one have its name."""
    ran, made = only_planned(monkeypatch), config_of("1", monkeypatch)
    rooms = made["SETS"]["rooms"]
    folders = {"classification": {"format": "class_folders"}}
    flats = {"images": rooms["images"], "labels": {"depth": rooms["labels"]["depth"]}}
    sets = {**made["SETS"], "flats": flats, "areas": {"images": made["SETS"]["places"]["images"], "labels": folders}}
    flats["labels"] |= folders  # has other classes, which are found before any work
    with pytest.raises(UserError, match="mistakes"):
        pipeline.run(parse(made["pipeline"](sets, made["PILE"])), tmp_path / "run")
    assert "classification labels of flats have the classes house0, " in capsys.readouterr().err and not ran
    del flats["labels"]["classification"]
    config = parse(made["pipeline"](sets, made["PILE"]))
    pipeline.run(config, tmp_path / "run")
    assert {"prepare_flats", "evaluate"} <= {*ran}
    watched = {each.images.split(":")[0]: (each.name, each.tasks) for each in config.stages["student"].validation}
    assert watched == {
        "rooms": ("", SHOWN),
        "places": ("", ("classification",)),
        "flats": ("flats", ("depth",)),
        "areas": ("areas", ("classification",)),
    }


def test_sets_with_parts_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Test photos that no model has seen, and a set to validate on."""
    ran, made = only_planned(monkeypatch), config_of("1", monkeypatch)
    rooms = made["SETS"]["rooms"]
    depth = {"images": rooms["images"], "labels": {"depth": rooms["labels"]["depth"]}}
    watched = {"teachers": (0, 85), "transfer": (85, 95), "tuning": (95, 100)}
    sets = {
        "rooms": {**depth, "parts": watched},
        "flat": {**depth, "parts": {"test": (0, 100)}},
        "seen": {**depth, "parts": {"validation": (0, 100)}},
    }
    config = parse(made["pipeline"](sets, made["PILE"]))
    pipeline.run(config, tmp_path / "run")
    assert {"prepare_flat", "teacher_depth", "evaluate"} <= {*ran}
    for name in ("teacher_depth", "student"):
        assert [each.images for each in config.stages[name].validation] == ["seen:train"]
    assert [each.images for each in config.stages["teacher_depth"].train] == ["rooms:train[:85%]"]
    (tested,) = config.stages["evaluate"].downstream.values()
    images = [each.images for each in (tested.train, tested.validation, tested.test)]
    assert images == ["rooms:train[85%:95%]", "rooms:train[95%:]", "flat:train"]
    assert config.stages["audit"].evaluation == ("flat:train",)


def test_one_task_gets_more_updates(monkeypatch: pytest.MonkeyPatch):
    """And only they change: a finished training goes on."""
    before = config_of("0", monkeypatch)
    after = config_of("0", monkeypatch)
    after["STEPS"]["teacher_depth"] = 3000
    stages, longer = (made["pipeline"](made["SETS"], made["PILE"])["stages"] for made in (before, after))
    assert longer["teacher_depth"]["steps"] == 3000
    free = dict.fromkeys(("steps", "validate_every", "log_every"), 1)
    longer["teacher_depth"] |= free
    stages["teacher_depth"] |= free
    assert longer == stages
    after["STEPS"]["teacher_dept"] = 3000
    with pytest.raises(UserError, match="did you mean 'teacher_depth'"):
        after["pipeline"](after["SETS"], after["PILE"])


def test_what_the_config_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch):
    made = config_of("1", monkeypatch)
    rooms = made["SETS"]["rooms"]
    for sets, named in (
        ({}, "SETS is empty"),
        ({"pile": rooms}, "'pile'"),
        ({"rooms": {"images": "folder:x", "labels": {}}}, "'rooms' has no labels"),
        ({"rooms": rooms | {"images": "parquet:x"}}, "'rooms' is in Parquet"),
        ({"rooms": rooms | {"parts": {"tests": (0, 100)}}}, "did you mean 'test'"),
        ({"rooms": rooms | {"parts": {"test": (50, 150)}}}, "part 'test' of 'rooms'"),
        ({"rooms": rooms | {"parts": {"test": (0, 100)}}}, "no set with labels of detection has the part 'teachers'"),
    ):
        with pytest.raises(UserError, match=named):
            made["pipeline"](sets, made["PILE"])


def test_mistakes_are_told_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made: dict = {}
    exec((ROOT / "configs/own.py").read_text(encoding="utf-8"), made)
    labels = made["SETS"]["rooms"]["labels"]
    labels["depth"]["path"] = "my_data/depth"
    del labels["normals"]["options"]
    values = made["pipeline"](made["SETS"], made["PILE"]) | {"data_dir": str(tmp_path / "data")}
    with pytest.raises(UserError) as raised:
        pipeline.run(parse(values), tmp_path / "run")
    shown = re.search(r"(- config\.stages\.prepare_rooms: config\.labels\.depth.*?)error: (.*?)\n```", PAGE, re.S)
    assert shown and [capsys.readouterr().err, str(raised.value)] == list(shown.groups())
    assert not (tmp_path / "run").exists()


def test_mistakes_inside_of_labels_are_told_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """All of them, of all sets, as the page says."""
    made = config_of("1", monkeypatch)
    rooms, places = made["SETS"]["rooms"], made["SETS"]["places"]
    rooms["labels"]["detection"]["options"] = {"classes": ["chair", "tabel", "lamp"]}
    rooms["labels"]["segmentation"]["options"]["classes"] = ["wall", "floor"]
    rooms["labels"]["normals"]["options"]["axes"] = "x,y,z"
    places["labels"]["classification"]["options"] = {"classes": ["beach", "forest"]}
    values = made["pipeline"](made["SETS"], made["PILE"]) | {"data_dir": str(tmp_path / "data")}
    with pytest.raises(UserError, match="4 mistakes"):
        pipeline.run(parse(values), tmp_path / "run")
    said = capsys.readouterr().err
    whole = " ".join(PAGE.split())
    for task, words in (
        ("detection", "'table', but the classes are chair, tabel, lamp; 'tabel' of them never occurs"),
        ("segmentation", "pixels of code 2"),
        ("normals", "point away from the camera"),
    ):
        (line,) = (line for line in said.splitlines() if f"prepare_rooms: config.labels.{task}: " in line)
        assert words in line
        if task != "normals":
            assert re.sub(r"house\d/\d+", "house0/0000", line) in whole
    assert "prepare_places: config.labels.classification: street/" in said and "'street'" in said
    assert "matched by" not in said and not (tmp_path / "run").exists() and not (tmp_path / "data").exists()


def test_parts_without_labels_are_refused_and_those_with_few_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """By the order in which the set will be shuffled."""
    made, ran = config_of("1", monkeypatch), only_planned(monkeypatch)
    rooms = made["SETS"]["rooms"]
    rooms["labels"] = {"depth": {**rooms["labels"]["depth"], "path": "some_depth"}}
    labelled = {9, 23}
    for number in labelled:
        file = f"house{number % 5}/{number:04d}.png"
        Path("some_depth", file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("my_data/depth_mm", file), Path("some_depth", file))
    names = [f"house{number % 5}/{number:04d}.jpg" for number in range(40)]
    order = Order([40], SHUFFLE_SEED)(np.arange(40))[1]
    places = sorted(position for position, source in enumerate(order) if int(sorted(names)[source][7:11]) in labelled)
    here, there = (int(100 * place / 40) for place in places)
    rooms["parts"] = {"teachers": (here, 100), "validation": (here, here + 5), "test": (here + 5, there)}
    rooms["parts"] |= {"transfer": (0, here + 5), "tuning": (0, here + 5)}

    def run() -> None:
        values = made["pipeline"]({"rooms": rooms}, made["PILE"]) | {"data_dir": str(tmp_path / "data")}
        pipeline.run(parse(values), tmp_path / "run")

    with pytest.raises(UserError, match=r"evaluate: .*depth\.test .*: none of its \d+ images has a label"):
        run()
    rooms["parts"] |= {"test": (there, 100), "teachers": (here + 5, there)}
    with pytest.raises(UserError, match=r"teacher_depth: config\.train\.0 .*: none of its \d+ images has a label"):
        run()
    rooms["parts"]["teachers"] = (here, 100)
    capsys.readouterr()
    run()
    assert f"look at rooms:train[{here}%:{here + 5}%]: it has only 1 label of depth" in capsys.readouterr().err and ran
