"""What `parity.json` says of each exported file."""

from __future__ import annotations

import pydantic

from must_jax.exporting.parity import Parity


class Latency(pydantic.BaseModel):
    """Median seconds of a batch, from and to host memory: of the file in its runtime, and of the run by jax."""

    batch_size: int
    file_s: float
    run_s: float


class FileRecord(pydantic.BaseModel):
    """A file that was written and compared.

    Attributes:
      holds: "backbone" or "model".
      example: lines that load and run it; `printed`: what they printed.
    """

    holds: str
    bytes: int
    example: str
    printed: str
    parity: Parity
    latency: list[Latency] = []
