"""Makes the small student that is part of the package, `must_jax.EXAMPLE`, from a finished run.

    python -m must_jax.main --config=configs/quickstart.py
    python notebooks/pack_student.py runs/quickstart/student

Only parameters and statistics are kept, with 12 of the 23 bits of their fractions, which changes no value by more than
0.02 % and lets the checkpoint compress to two thirds. The checksums are those of the rounded values. After packing,
correct the commit in must_jax/example/README.md.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import jax
import numpy as np

from must_jax import description, trained
from must_jax.engine.checkpoint import Checkpoints
from must_jax.engine.state import digest
from must_jax.files import bytes_in

EXAMPLE = Path(__file__).parents[1] / "must_jax/example"
BITS = 12


def rounded(values: np.ndarray) -> np.ndarray:
    """f32 -> f32, to the nearest value with BITS bits in its fraction."""
    dropped = 23 - BITS
    codes = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64) + (1 << (dropped - 1))
    return (codes >> dropped << dropped).astype(np.uint32).view(np.float32)


def pack(run: Path, folder: Path) -> None:
    """Writes the student of `run` to `folder`, in place of the one that is there."""
    told = description.read(run)
    variables = jax.tree.map(rounded, trained.load(run).variables)
    shutil.rmtree(folder / trained.CHECKPOINTS, ignore_errors=True)
    with Checkpoints(folder / trained.CHECKPOINTS, {}) as checkpoints:
        checkpoints.save(told.checkpoint, {**variables, "opt_state": {}, "ema": {}}, {})
    values = told.model_dump(mode="json")
    values |= {"digest": digest(variables["params"]), "stats_digest": digest(variables["stats"])}
    description.sign(folder, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    pack(parser.parse_args().run, EXAMPLE)
    print(f"{EXAMPLE}: {bytes_in(EXAMPLE):,} bytes")


if __name__ == "__main__":
    main()
