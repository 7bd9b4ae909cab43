"""Whatever is damaged, a command says so in one sentence, leaves it out and names it, or does as if nothing were."""

from __future__ import annotations

import faulthandler
import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutations
import pytest
import world
from command_line import CONFIGS, call

from must_jax import main
from must_jax.config import AuditConfig, CheckConfig, EvaluateConfig, LabelConfig, TrainConfig, digest
from must_jax.inputs.mistakes import check_config

CRASHES_AFTER_S = 120  # of one command, in code that no signal interrupts
MUTATIONS = {  # of what, and how many
    "data/set/1.0.0": 150,
    "runs/label": 150,
    "runs/teacher": 100,
    "runs/begun": 80,
    "photos": 60,
    "packed/tar": 40,
    "packed/parquet": 40,
    "truth/coco.json": 60,
    "truth/voc": 60,
    "truth/masks": 40,
    "truth/depth": 40,
}
CONFIG_MUTATIONS = 30  # of each config file
CONFIG_FILE = """
import json
from pathlib import Path

def get_config():
    return json.loads(Path("mine.json").read_text())
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        world.stand_ins(patch)
        folder = tmp_path_factory.mktemp("calm")
        world.build(folder)
        yield folder


@pytest.fixture
def home(calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the world anew, and goes there."""

    def home() -> None:
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(tmp_path / "world", ignore_errors=True)
        shutil.copytree(calm, tmp_path / "world", symlinks=True)
        monkeypatch.chdir(tmp_path / "world")

    return home


def attempt(command: Callable[[], int]) -> tuple[Any, str]:
    """As `world.outcome`; what a command has raised is told with the places in must_jax."""
    faulthandler.dump_traceback_later(CRASHES_AFTER_S, exit=True)
    try:
        return world.outcome(command)
    except (Exception, world.Hangs) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/must_jax/" in f.filename]
        at = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
        return "raised", f"{type(error).__name__}: {error} ({at})"
    finally:
        faulthandler.cancel_dump_traceback_later()


def is_right(name: str, how: str, newest: int, code: Any, said: str, undisturbed: Any) -> bool:
    """One sentence and exit code 2, or what was damaged is left out and named, or nothing has changed.

    A run without its newest checkpoint is like one that was killed before it had saved that, and goes on from there.
    """
    if code == 2:
        return said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
    if code == undisturbed:
        return name != "prepare_new" or world.images_are_told_of()
    if name == "resume" and how.startswith("remove_folder"):  # the state is the same in all checkpoints of this world
        return isinstance(code, tuple) and code[:2] == (newest, undisturbed[1])
    return isinstance(code, tuple) and "skipped: " in said


@pytest.mark.parametrize("place", MUTATIONS)
def test_damaged_files(place: str, home: Callable[[], None]) -> None:
    rng, undisturbed, wrong = random.Random(place), {}, []
    for name in world.READS[place]:
        home()
        undisturbed[name], said = attempt(world.COMMANDS[name])
        assert undisturbed[name] != "raised", said
    for _ in range(MUTATIONS[place]):
        home()
        name, files = rng.choice(world.READS[place]), world.files_in(place)
        how = mutations.mutate(rng, rng.choice(files), files)
        newest = max((int(path.name) for path in Path("runs/begun/checkpoints").glob("[0-9]*")), default=0)
        code, said = attempt(world.COMMANDS[name])
        if not is_right(name, how, newest, code, said, undisturbed[name]):
            wrong.append(f"{name}, {how}: {code} instead of {undisturbed[name]}, {said[-400:]}")
    assert not wrong, f"{len(wrong)} of {MUTATIONS[place]}:\n" + "\n\n".join(wrong)


def look_at(config: Any, workdir: Path) -> None:
    """What every stage does first."""
    if isinstance(config, TrainConfig | CheckConfig | LabelConfig | AuditConfig | EvaluateConfig):
        check_config(config)
    assert digest(type(config).model_validate(json.loads(config.model_dump_json()))) == digest(config)


@pytest.mark.parametrize("file", [file.stem for file in sorted(CONFIGS.glob("*.py")) if file.stem != "__init__"])
def test_damaged_configs(file: str, home: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    home()
    monkeypatch.setattr(main, "STAGES", dict.fromkeys(main.STAGES, look_at))
    rng, values, wrong = random.Random(file), json.dumps(main.read_config(CONFIGS / f"{file}.py")), []
    Path("mine.py").write_text(CONFIG_FILE)
    there = sorted(Path("runs").iterdir())
    for _ in range(CONFIG_MUTATIONS):
        Path("mine.json").write_text(values)
        how = [mutations.in_json(rng, Path("mine.json"), []) for _ in range(rng.choice([1, 1, 2]))]
        code, said = attempt(lambda: call("--config=mine.py", "--workdir=runs/mine"))
        one_sentence = code == 2 and said.count("\n") == 1 and said.startswith("error: ") and len(said) < 2000
        if not (one_sentence or (code, said) == (0, "")) or sorted(Path("runs").iterdir()) != there:
            wrong.append(f"{how}: {code}, {said[-400:]}")
    assert not wrong, f"{len(wrong)} of {CONFIG_MUTATIONS}:\n" + "\n\n".join(wrong)


def test_there_are_a_thousand() -> None:
    files = sum(file.stem != "__init__" for file in CONFIGS.glob("*.py"))
    assert sum(MUTATIONS.values()) + CONFIG_MUTATIONS * files >= 1000
