"""What accelerators can do at most, by the name that jax gives them (`device_kind`); from their makers' data sheets.

Floating point operations a second of one device, dense (without structured sparsity), at the precision that XLA
multiplies in by default: on TPUs float32 is multiplied as bfloat16, on NVIDIA GPUs as TensorFloat-32.

Sources:
  TPU: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e ("peak compute per chip, bf16")
  A100: https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet.pdf
  H100: https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet
  H200: https://nvdam.widen.net/s/nb5zzzsjdf/hpc-datasheet-sc23-h200-datasheet-3002446
  (those of H100 and H200 are with sparsity: half of it here)
"""

from __future__ import annotations

from typing import Literal

Dtype = Literal["float32", "bfloat16"]

_TPUS = {  # TFLOP/s
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
}
_GPUS: dict[str, dict[Dtype, float]] = {  # how their names begin; the longest that fits counts
    "NVIDIA A100": {"bfloat16": 312.0, "float32": 156.0},
    "NVIDIA H100": {"bfloat16": 989.5, "float32": 494.5},
    "NVIDIA H100 NVL": {"bfloat16": 835.5, "float32": 417.5},
    "NVIDIA H100 PCIe": {"bfloat16": 756.5, "float32": 378.0},
    "NVIDIA H200": {"bfloat16": 989.5, "float32": 494.5},
    "NVIDIA H200 NVL": {"bfloat16": 835.5, "float32": 417.5},
}


def peak_flops(device_kind: str, dtype: Dtype = "bfloat16") -> float | None:
    """Floating point operations a second of one device, at most; None where that is not known (a CPU).

    Args:
      device_kind: as in `jax.devices()[0].device_kind`.
      dtype: of the computation.
    """
    if device_kind in _TPUS:
        return _TPUS[device_kind] * 1e12
    fitting = [name for name in _GPUS if device_kind.startswith(name)]
    return _GPUS[max(fitting, key=len)][dtype] * 1e12 if fitting else None
