"""The start-up self-test of a multi-host run: each host tests itself, then they compare."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

import must_jax
from must_jax.config import TrainConfig
from must_jax.data.batching import Source
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.inputs.sources import fingerprint_of
from must_jax.runs.workdir import CONFIG_FILE


def facts(config: TrainConfig, sources: Sequence[Source], workdir: Path, mesh: Mesh) -> dict[str, str]:
    """What must be the same on every host, for `distributed.together`; empty if there is one process.

    Raises:
      UserError: a device does not compute, an image set cannot be read, the workdir cannot be written to.
    """
    if not mesh.is_multi_process:
        return {}
    for device in mesh.local_devices:
        if float(jax.device_put(np.float32(20), device) + np.float32(1)) != 21.0:
            raise UserError(f"device {device} does not compute; exclude its host")
    for source in sources:
        source.images.record(0)
    _check_writable(workdir)
    return {
        "config": _digest(config.model_dump_json()),
        "code": code_digest(),
        "jax": jax.__version__,
        "data": _digest(json.dumps(fingerprint_of(sources), sort_keys=True)),
    }


def check_shared(workdir: Path) -> None:
    """After the first process has claimed the workdir.

    Raises:
      UserError: this process sees a different folder.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"process {distributed.position()} does not see {workdir} of process 0; use a shared disk")


@functools.cache
def code_digest() -> str:
    """Digest of all Python files of the package."""
    folder = Path(must_jax.__file__).parent
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        sha.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def _check_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{distributed.position()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{workdir} cannot be written to: {error.strerror}; mount it on every host") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
