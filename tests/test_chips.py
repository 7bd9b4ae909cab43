from __future__ import annotations

import pytest

from must_jax.chips import CHIPS, peak_flops


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


@pytest.mark.parametrize(
    ("name", "hbm_gib", "hbm_gb_s", "links_gbit_s"),
    [
        ("v4", 32, 1200, 2400),
        ("v5e", 16, 819, 1600),
        ("v5p", 95, 2765, 4800),
        ("v6e", 32, 1640, 3584),
    ],
)
def test_memory_and_links_as_they_are_published(name: str, hbm_gib: int, hbm_gb_s: int, links_gbit_s: int):
    """Of links, the bits that a chip sends; where both directions are published, half of that."""
    chip = CHIPS[name]
    assert (chip.memory_bytes, chip.memory_bandwidth) == (hbm_gib * 2**30, hbm_gb_s * 1e9)
    assert chip.link_bandwidth * 8 == links_gbit_s * 1e9
