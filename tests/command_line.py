"""The real command, called in this process as often as a test likes."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from must_jax import main

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def call(*arguments: str) -> int:
    """`python -m must_jax.main ARGUMENTS` -> its exit code."""
    for name in ("config", "workdir"):
        flags.FLAGS[name].unparse()  # what the last call has set
    return main.main(["must_jax.main", *arguments])


def config(name: str) -> str:
    return f"--config={CONFIGS}/{name}.py"
