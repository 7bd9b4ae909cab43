"""Peak performance of accelerators, from the vendors' documentation. Every row gives its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16"]

_DOCS = "https://docs.cloud.google.com/tpu/docs"


@dataclass(frozen=True)
class Chip:
    """One chip, which jax sees as one device.

    Attributes:
      name: as in a topology: "v5e" in "v5e:4x8".
      kind: jax's `device_kind`.
      peak_flops: floating-point operations per second in bfloat16.
      memory_bytes: size of its HBM. A program gets slightly less (15.75 of 16 GiB on v5e).
      memory_bandwidth: of its HBM, in bytes per second.
      link_bandwidth: bytes per second that it can send to its neighbours over all links (ICI).
      dimensions: number of dimensions of a slice's shape.
      source: of these figures.
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
        # Its page does not mention links: six of 50 GB/s (https://arxiv.org/abs/2304.01433, table 4).
        Chip("v4", "TPU v4", 275e12, 32 * 2**30, 1200e9, 300e9, 3, f"{_DOCS}/v4"),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * 2**30, 819e9, 200e9, 2, f"{_DOCS}/v5e"),
        Chip("v5p", "TPU v5", 459e12, 95 * 2**30, 2765e9, 600e9, 3, f"{_DOCS}/v5p"),
        # As published in 2024: 1640 GB/s, 3584 Gb/s. Later editions have 1600 or 1638 GB/s, and 800 GB/s over links in
        # both directions, so that it sends 400; a bound from the larger figures holds either way.
        Chip("v6e", "TPU v6 lite", 918e12, 32 * 2**30, 1640e9, 448e9, 2, f"{_DOCS}/v6e"),
    )
}

_TPUS = {chip.kind: chip for chip in CHIPS.values()} | {f"TPU {name}": chip for name, chip in CHIPS.items()}

# TFLOP/s of GPUs without structured sparsity; XLA multiplies float32 as TensorFloat-32.
#   A100: https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet.pdf
#   H100: https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet (halved: it is with sparsity)
#   H200: https://nvdam.widen.net/s/nb5zzzsjdf/hpc-datasheet-sc23-h200-datasheet-3002446 (likewise)
_GPUS: dict[str, dict[Dtype, float]] = {  # name prefix; the longest match counts
    "NVIDIA A100": {"bfloat16": 312.0, "float32": 156.0},
    "NVIDIA H100": {"bfloat16": 989.5, "float32": 494.5},
    "NVIDIA H100 NVL": {"bfloat16": 835.5, "float32": 417.5},
    "NVIDIA H100 PCIe": {"bfloat16": 756.5, "float32": 378.0},
    "NVIDIA H200": {"bfloat16": 989.5, "float32": 494.5},
    "NVIDIA H200 NVL": {"bfloat16": 835.5, "float32": 417.5},
}


def peak_flops(device_kind: str, dtype: Dtype = "bfloat16") -> float | None:
    """Peak floating-point operations per second of one device; None if unknown (a CPU, a partition of a GPU).

    Args:
      device_kind: as in `jax.devices()[0].device_kind`.
      dtype: of the computation.
    """
    if device_kind in _TPUS:  # which multiply float32 as bfloat16
        return _TPUS[device_kind].peak_flops
    whole = " MIG " not in device_kind
    fitting = [name for name in _GPUS if whole and device_kind.startswith(name)]
    return _GPUS[max(fitting, key=len)][dtype] * 1e12 if fitting else None
