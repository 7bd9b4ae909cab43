"""The student that comes with the package, and the notebook that uses it, executed as it stands."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import skimage
from PIL import Image

import must_jax
from must_jax import predict
from must_jax.files import bytes_in
from must_jax.report import scorecard

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/evaluate.ipynb"


def shown(source: str, names: dict[str, Any]) -> Any:
    """Executes a cell, and returns the value of its last line if that is an expression."""
    cell = ast.parse(source)
    last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
    exec(compile(cell, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    values = [shown("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells)  # they would not be those of today's code
    pictures = [value for value in values if hasattr(value, "_repr_png_")]
    assert len(pictures) == 3 and all(picture._repr_png_() for picture in pictures)
    means = {
        init: cells["my_rooms"].mean
        for table in scorecard.tables(scorecard.read(tmp_path / "must_jax_notebook/evaluate"), {})
        for init, cells in table.cells.items()
    }
    assert means["student"] > means["scratch"] > 0
    assert f"student  {means['student']:.1f}" in capsys.readouterr().out


def test_what_the_pages_show_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """All blocks of docs/predict.md, in their order, and those of README.md that use a model, which is loaded once."""
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/predict.md", "README.md"))
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/mine", "runs/quickstart", "photos"):
        Path(folder).mkdir(parents=True)
    for run in ("runs/mine/student", "runs/quickstart/student"):
        Path(run).symlink_to(must_jax.EXAMPLE)
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        shutil.copyfile(Path(skimage.__file__).parent / "data" / name, f"photos/{name}")
    for name in ("photo.jpg", "other.jpg"):
        Image.open("photos/coffee.png").resize((90, 60)).save(name)

    model = must_jax.load(must_jax.EXAMPLE)
    monkeypatch.setattr(must_jax, "load", lambda run: model if Path(run).samefile(must_jax.EXAMPLE) else None)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        shown(block, names)
    assert f"{names['maps']['c5'].shape}, shares" in page and names["vectors"].shape == (3, 256)
    for block in re.findall(r"```python\n(.*?)```", readme, re.S):
        if "must_jax.load" in block:
            shown(block, {})
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.S) for line in block.splitlines()]
    commands = [line.replace(".person=", ".round=") for line in commands if "must_jax.predict" in line]  # its class
    assert len(commands) == 5
    for command in commands:
        assert predict.main(shlex.split(command)[2:]) == 0, capsys.readouterr().err
    assert {path.suffix for path in Path("maps").iterdir() if path.is_file()} == {".json", ".jsonl", ".npz", ".png"}
    assert [path.name for path in Path("many").iterdir()] == ["predictions.jsonl"]
    told = json.loads(Path("maps/coffee.json").read_text())
    keys = set(re.findall(r"`(\w+)[`.]", page.partition("The JSON of a photo:")[2].partition("## Going on")[0]))
    assert told.keys() <= keys, told.keys() - keys
    boxes = {
        out: json.loads(Path(out, "coffee.json").read_text())["predictions"]["detection"]["boxes"]
        for out in ("strict", "maps", "unsure")
    }
    assert len(boxes["strict"]) < len(boxes["maps"]) < len(boxes["unsure"])


def test_the_badge_opens_the_notebook():
    """Once the repository has an address that pyproject.toml tells; until then, Colab's page to upload it."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    link = re.search(r"colab-badge\.svg\)\]\((.*?)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    repository = urls.get("Repository", "").removeprefix("https://github.com/")
    place = f"github/{repository}/blob/main/notebooks/evaluate.ipynb" if repository else "#upload=true"
    assert link and link[1] == f"https://colab.research.google.com/{place}"
    source = f"git+https://github.com/{repository}" if repository else ""
    assert f'SOURCE = \\"{source}\\"' in NOTEBOOK.read_text(encoding="utf-8")


def test_the_example_is_small_and_says_where_it_comes_from():
    assert bytes_in(must_jax.EXAMPLE) <= 5e6
    about = (must_jax.EXAMPLE / "README.md").read_text()
    assert "Apache-2.0" in about and "configs/quickstart.py" in about and "commit" in about


def test_the_example_is_part_of_the_wheel_and_works_elsewhere(tmp_path: Path):
    """`.ci/run` builds the wheel and compares all its files."""
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "must_jax"
    ]
    files = {path for path in must_jax.EXAMPLE.rglob("*") if path.is_file()}
    packed = {path for pattern in package_data for path in must_jax.EXAMPLE.parent.glob(pattern) if path.is_file()}
    assert files <= packed
    tracked = subprocess.run(["git", "ls-files", must_jax.EXAMPLE], cwd=ROOT, capture_output=True, text=True)
    assert tracked.returncode or len(tracked.stdout.split()) == len(files)  # nothing ignored
    for file in files:  # a wheel has no empty folders
        copied = tmp_path / file.relative_to(must_jax.EXAMPLE)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)
    assert must_jax.load(tmp_path).digest == must_jax.load(must_jax.EXAMPLE).digest
