"""What `test_golden` looks at, in a process of eight virtual devices: python eight_devices.py DATA_DIR FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from test_golden import config

from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.mesh import make_mesh, setup_devices
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import init_state
from must_jax.stages import train
from must_jax.training.building import prepare


def restored_elsewhere(data_dir: Path, folder: Path) -> dict[str, bool]:
    """Layout -> whether the state of a student that eight devices have saved, in two parts each, is exact there."""
    settings = config(data_dir, 8)
    training = prepare(settings, make_mesh(8))

    def state(devices: int, fsdp: int, change: float = 0.0) -> dict[str, Any]:
        variables = jax.tree.map(lambda value: np.asarray(value) + np.float32(change), training.variables)
        mesh = make_mesh(devices, fsdp=fsdp)
        return init_state(variables, build_optimizer(settings.optimizer), mesh, ema=True)

    saved, exact = state(8, 2, change=0.25), {}
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, saved, {})
    expected = jax.tree.leaves(jax.device_get(saved))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(saved))
    for layout in ("8 fsdp 2", "8 fsdp 1", "8 fsdp 8", "4 fsdp 2", "4 fsdp 1", "2", "1"):
        devices, _, fsdp = layout.partition(" fsdp ")
        like = state(int(devices), int(fsdp or 1))
        with Checkpoints(folder / "checkpoints", {}) as checkpoints:
            found, _ = checkpoints.restore(1, like)
        as_wanted = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), found, like)
        pairs = zip(jax.tree.leaves(jax.device_get(found)), expected, strict=True)
        exact[layout] = all(jax.tree.leaves(as_wanted)) and all(np.array_equal(a, b) for a, b in pairs)
    return exact


setup_devices(8)
data_dir, folder = map(Path, sys.argv[1:])
for name in ("run", "again"):
    train.run(config(data_dir, 8), folder / name)
(folder / "restored.json").write_text(json.dumps(restored_elsewhere(data_dir, folder)))
