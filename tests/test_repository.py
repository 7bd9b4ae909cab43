"""The house rules that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "must_jax").rglob("*.py"))
SOURCES = [*PACKAGE, *(file for folder in ("tests", "configs", "benchmarks") for file in (ROOT / folder).rglob("*.py"))]
COMMANDS = [
    "pip install -e . && python -m must_jax.main --config=configs/quickstart.py",
    "pip install -e '.[test]' && python -m pytest",
]


def found_in(files: list[Path], pattern: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in files if re.search(pattern, file.read_text(encoding="utf-8"))}


def test_no_file_is_longer_than_500_lines():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_nothing_asks_for_a_task_by_name():
    assert found_in(PACKAGE, r"\bif task ==") == set()


def test_one_function_makes_the_mesh():
    assert found_in(PACKAGE, r"\bjax\.make_mesh\(|\bMesh\(") == {"must_jax/engine/mesh.py"}


def test_one_file_knows_orbax():
    assert found_in(PACKAGE, r"\borbax\.") == {"must_jax/engine/checkpoint.py"}


def test_the_engine_does_not_know_flax():
    assert (
        found_in([file for file in PACKAGE if file.parent.name in {"engine", "labels", "data"}], r"\bflax\b") == set()
    )


def test_the_readme_starts_with_the_two_commands_and_ci_runs_the_second():
    blocks = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks[:2] == COMMANDS
    assert COMMANDS[1] in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_every_promise_names_a_test_that_is_there():
    text = (ROOT / "docs/determinism.md").read_text(encoding="utf-8")
    files = [ROOT / "tests" / name for name in re.findall(r"`([a-z_/]+\.py)`", text)]
    names = set(re.findall(r"`(test_[a-z_]+)`", text))
    assert len(files) > 10 and len(names) > 10
    written = "".join(file.read_text(encoding="utf-8") for file in files)
    assert names <= set(re.findall(r"^def (\w+)", written, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["must_jax", "must_jax.config", "must_jax.main"])
def test_a_mistake_is_answered_without_loading_jax(module: str):
    loaded = f"import {module}, sys; print(sorted({{'jax', 'flax', 'tensorflow_datasets', 'cv2'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
