"""What accelerators can do at best, from their makers' documentation. Every row says where it is from."""

from __future__ import annotations

from dataclasses import dataclass

_DOCS = "https://docs.cloud.google.com/tpu/docs"


@dataclass(frozen=True)
class Chip:
    """One chip, which to jax is one device.

    Attributes:
      name: as in a topology, "v5e" of "v5e:4x8".
      kind: jax's `device_kind`.
      peak_flops: floating point operations a second in bfloat16.
      memory_bytes: of its HBM. A program gets a little less (15.75 of 16 GiB on v5e).
      memory_bandwidth: of its HBM, bytes a second.
      link_bandwidth: bytes a second that it can send to its neighbours, all links together (ICI).
      dimensions: of a slice's shape.
      source: of all these figures.
    """

    name: str
    kind: str
    peak_flops: float
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    dimensions: int
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32 * 2**30, 1200e9, 300e9, 3, f"{_DOCS}/v4"),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * 2**30, 819e9, 200e9, 2, f"{_DOCS}/v5e"),
        Chip("v5p", "TPU v5", 459e12, 95 * 2**30, 2765e9, 600e9, 3, f"{_DOCS}/v5p"),
        Chip("v6e", "TPU v6 lite", 918e12, 32 * 2**30, 1640e9, 448e9, 2, f"{_DOCS}/v6e"),
    )
}
