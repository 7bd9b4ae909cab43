"""docs/dinov2_to_onnx.md as its tests read it: its commands in their order, with a small network, and its lines."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import teachers_page
from command_line import ROOT
from exported import shrink
from PIL import Image

import must_jax
from must_jax import predict

PAGE = (ROOT / "docs/dinov2_to_onnx.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if not line.startswith(("pip ", "hf "))
]
CONFIG, LINES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SMALL = {
    "IMAGE_SIZE = 224": "IMAGE_SIZE = 64",
    '"pyramid_channels": 128': '"pyramid_channels": 8',
    '"head_channels": 64': '"head_channels": 8',
    '"head_convs": 2': '"head_convs": 1',
}
PHOTO = "photos/coffee/whole.png"


def work_through() -> None:
    """All commands, from an empty folder, and what they leave."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, "vit_small_patch14_dinov2", depth=2, channels=32, heads=2, hidden=64, grid=3)
        for command in COMMANDS:
            _run(command)
        _compare()


def _run(command: str) -> None:
    if command.endswith("--config=configs/dinov2.py"):  # the trial did the same
        shutil.copytree("runs/trial", "runs/dinov2")
    if "must_jax.predict" in command:
        assert predict.main(command.split()[2:]) == 0
        return
    if "configs/export.py" in command:
        # After four updates all boxes are about as likely, so rounding decides which come first.
        command += " --config.take=8 --config.latency=none --config.differing=0.02"
    assert teachers_page.run(command) == 0, command
    if "made_models" in command:
        for file in Path("photos").glob("*/part[2-7].png"):  # 15 photos are enough
            file.unlink()
    if command.startswith("cp configs/others.py"):
        edit(Path("configs/dinov2.py"), SMALL)


def edit(file: Path, changes: Mapping[str, str]) -> None:
    """The page's lines in place of those under the same names, with `changes`: what stands there -> what it becomes."""
    text, lines = file.read_text(encoding="utf-8"), CONFIG
    for old, new in changes.items():
        assert old in lines
        lines = lines.replace(old, new)
    for node in ast.parse(lines).body:
        assert isinstance(node, ast.Assign)
        name = ast.unparse(node.targets[0])
        (old_node,) = (
            each
            for each in ast.parse(text).body
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name
        )
        old, new = (ast.get_source_segment(whole, each) for whole, each in ((text, old_node), (lines, node)))
        assert old and new
        text = text.replace(old, new, 1)
    file.write_text(text)


def _compare() -> None:
    """The lines of the page say of a photo what must_jax does; they differ by how Pillow shrinks it."""
    trained = must_jax.load("runs/dinov2/student").with_options({"detection": {"score_threshold": 0.0}})
    lines = LINES.replace(">= 0.5", ">= 0.0")
    assert lines != LINES
    photo = Image.open(PHOTO)
    photo.resize((64, 43)).save("small.png")  # as large as the input: nothing is to be shrunk
    for file, is_same in (("small.png", True), (PHOTO, False)):
        said: dict = {}
        exec(lines.replace(PHOTO, file), said)
        ours = trained.predict(file)
        height, width = np.asarray(Image.open(file)).shape[:2]
        depth = ours["depth"]["depth"]
        assert said["depth"].shape == depth.shape == (height, width)
        inner = np.s_[: height - height // 8, : width - width // 8]  # at the last rows they are extended differently
        difference = np.abs(said["depth"] - depth)[inner]
        if is_same:
            assert difference.max() < 1e-4 * np.ptp(depth)
        assert difference.mean() < 0.02 * np.ptp(depth)
        boxes = said["boxes"]
        assert set(said["called"]) <= {"red thing", "blue thing", "dark thing"}
        assert boxes.ndim == 2 and (boxes >= 0).all() and (boxes <= [height, width] * 2).all() and len(boxes)
        if is_same:
            detected = ours["detection"]
            np.testing.assert_allclose(said["scores"], detected["scores"], rtol=1e-3)
            expected = detected["boxes_yxyx"] * ([height, width] * 2)
            apart = np.abs(boxes[:, None] - expected).max(-1)
            is_same_class = said["classes"][:, None] == detected["classes"][None]
            assert ((apart < 0.01) & is_same_class).any(1).mean() > 0.95
