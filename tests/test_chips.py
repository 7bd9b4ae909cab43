from __future__ import annotations

import pytest

from must_jax.chips import peak_flops


@pytest.mark.parametrize(
    ("device_kind", "bfloat16", "float32"),
    [
        ("TPU v4", 275e12, 275e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12, 494.5e12),
        ("NVIDIA H100 PCIe", 756.5e12, 378e12),
        ("NVIDIA H200", 989.5e12, 494.5e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None, None),
        ("cpu", None, None),
        ("TPU v5 something new", None, None),
    ],
)
def test_peaks_by_the_names_that_jax_gives(device_kind: str, bfloat16: float | None, float32: float | None):
    assert peak_flops(device_kind, "bfloat16") == bfloat16
    assert peak_flops(device_kind, "float32") == float32
