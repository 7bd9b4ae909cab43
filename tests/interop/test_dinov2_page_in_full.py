"""docs/dinov2_to_onnx.md, worked through from an empty folder, with a small network."""

from __future__ import annotations

from pathlib import Path

import dinov2_page
import pytest
import teachers_page

from must_jax import description


def test_from_dinov2_to_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with teachers_page.home(tmp_path):
        dinov2_page.work_through()
        said = capsys.readouterr()
        assert "taken from weights/dinov2s: the backbone" in said.out + said.err
        assert "apache-2.0" in description.read(Path("runs/dinov2/student")).training.licences.values()
