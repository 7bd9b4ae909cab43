"""Whose folder it is, between processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from must_jax.config import LabelConfig, PipelineConfig, SourceConfig, TrainConfig
from must_jax.errors import UserError
from must_jax.runs.workdir import CONFIG_FILE, claim, stored

CONFIG = TrainConfig(train=(SourceConfig(images="scenes/teacher_depth:train"),), tasks={"depth": {}})
HOLDER = """
import sys
from pathlib import Path
from must_jax.config import TrainConfig
from must_jax.runs.workdir import claim
claim(Path(sys.argv[1]), TrainConfig.model_validate_json(sys.argv[2]))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), CONFIG.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
        with pytest.raises(UserError, match="another process is using"):
            claim(tmp_path / "run", CONFIG)
        holder.kill()  # even so the folder is free again
    claim(tmp_path / "run", CONFIG)
    claim(tmp_path / "run", CONFIG)


def test_a_folder_from_before_a_key_was_added_goes_on(tmp_path: Path):
    claim(tmp_path, CONFIG)
    path = tmp_path / CONFIG_FILE
    values = json.loads(path.read_text())
    del values["init"], values["optimizer"]["ema_decay"]
    path.write_text(json.dumps(values))
    claim(tmp_path, CONFIG)
    path.write_text(json.dumps(values))
    changed = CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update={"ema_decay": 0.9})})
    with pytest.raises(UserError, match=r"config\.optimizer\.ema_decay is 0\.0 there and 0\.9 here"):
        claim(tmp_path, changed)


def test_a_folder_from_before_a_key_was_renamed_goes_on(tmp_path: Path):
    """Also the one of a pipeline around it; a key that never was is another config's."""
    labelling = LabelConfig(images="folder:photos", teachers=("a",))
    path = tmp_path / CONFIG_FILE
    former = labelling.model_dump(mode="json") | {"processes": 4}
    del former["input"]
    for config, values in (
        (labelling, former),
        (PipelineConfig(stages={"label": labelling}), {"stage": "pipeline", "stages": {"label": former}}),
    ):
        path.write_text(json.dumps(values))
        assert stored(tmp_path, [config.stage]) == config.model_dump(mode="json")
        claim(tmp_path, config)
        assert "processes" not in path.read_text()
        path.unlink()
    path.write_text(json.dumps(former | {"processors": 4}))
    with pytest.raises(UserError, match=r"config\.processors is 4 there and 'not set' here"):
        claim(tmp_path, labelling)
