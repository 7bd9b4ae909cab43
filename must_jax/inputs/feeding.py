"""Who reads images, and makes labels: threads, or worker processes."""

from __future__ import annotations

import jax

from must_jax.config import InputConfig
from must_jax.cores import cores
from must_jax.engine import distributed
from must_jax.progress import counted

THREADS = "threads"


def reading(config: InputConfig) -> InputConfig:
    """With a number of workers: if it is left open, one per core where GPUs or TPUs compute. Call it after `mesh_of`.

    Processes of a run that are on one host share its cores. On CPUs the devices compute on the cores, and threads do.
    """
    if config.workers is not None:
        return config
    workers = 0 if jax.default_backend() == "cpu" else max(1, cores() // distributed.neighbours())
    return config.model_copy(update={"workers": workers})


def readers(config: InputConfig) -> str:
    """Who reads images, for the user."""
    workers = reading(config).workers
    return counted(workers, "worker process") if workers else THREADS
