"""Images with many objects: a perfect network finds them, and what there is no room for is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "benchmarks/detection_ceiling.py"
_SPEC = importlib.util.spec_from_file_location("detection_ceiling", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
detection_ceiling = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(detection_ceiling)


@pytest.mark.parametrize("objects", [40, 60, 100])
@pytest.mark.parametrize(("sides_px", "classes"), [((16, 64), 80), ((16, 256), 80), ((16, 400), 1)])
def test_a_perfect_network_finds_nearly_every_object_at_640_pixels(objects, sides_px, classes):
    found = detection_ceiling.ceiling(objects, sides_px, image_size=640, classes=classes, images=4)
    assert found["ap50"] >= 98
