from __future__ import annotations

import importlib.util

import pytest

from must_jax.chips import CHIPS
from must_jax.compiling.topology import slice_devices
from must_jax.errors import UserError

here = importlib.util.find_spec("libtpu")
needs_compiler = pytest.mark.skipif(here is None, reason="needs the TPU's compiler: pip install -e '.[aot]'")


@needs_compiler
@pytest.mark.parametrize(("topology", "chips"), [("v5e:4x8", 32), ("v4:2x2x4", 16), ("v5p:2x2x1", 4), ("v6e:1x1", 1)])
def test_every_chip_of_a_slice_is_one_device(topology: str, chips: int):
    chip, devices = slice_devices(topology)
    assert len(devices) == chips
    assert {device.device_kind for device in devices} == {chip.kind}
    assert chip is CHIPS[topology.partition(":")[0]]


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ("v5:2x2", r"chip 'v5' is unknown \(a topology is written like v5e:4x8.*\); did you mean 'v5[ep]'\?$"),
        ("h100", "chip 'h100' is unknown"),
        ("v5e", "shape of a v5e slice has 2 sides; write it like v5e:4x8"),
        ("v5e:2x2x1", "shape of a v5e slice has 2 sides"),
        ("v4:2x2", "shape of a v4 slice has 3 sides"),
        ("v5e:0x4", "shape of a v5e slice has 2 sides"),
        pytest.param("v5e:3x3", "which is not a slice of v5e .*not divisible.* write it like", marks=needs_compiler),
    ],
)
def test_what_is_no_slice(topology: str, said: str):
    with pytest.raises(UserError, match=said):
        slice_devices(topology)


def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[aot\]'"):
        slice_devices("v5e:2x2")
