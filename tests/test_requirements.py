"""The pinned requirements fit pyproject.toml, so that a bound that changes is not forgotten in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(*extras: str) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for name in extras for text in PROJECT["optional-dependencies"][name])]
    return [Requirement(text) for text in texts]


def pins(name: str) -> dict[str, Version]:
    text = (ROOT / "requirements" / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(package): Version(version) for package, version in found}


@pytest.mark.parametrize(("name", "extra"), [("lock.txt", "test"), ("tpu.txt", "tpu"), ("oldest.txt", "test")])
def test_every_requirement_is_pinned_within_its_bounds(name: str, extra: str):
    pinned = pins(name)
    outside = [
        str(item) for item in required(extra) if not item.specifier.contains(pinned[canonicalize_name(item.name)])
    ]
    assert outside == []


def test_the_oldest_are_the_lower_bounds():
    pinned = pins("oldest.txt")
    for item in required("test"):
        bounds = [Version(bound.version) for bound in item.specifier if bound.operator == ">="]
        assert len(bounds) == 1, f"{item.name} has no lower bound"
        found = pinned[canonicalize_name(item.name)]
        assert found.release[: len(bounds[0].release)] == bounds[0].release, f"{item.name}: renew requirements/"


def test_a_tpu_runs_what_the_tests_ran_with():
    lock, tpu = pins("lock.txt"), pins("tpu.txt")
    assert {name for name in tpu if tpu[name] != lock.get(name)} == {"libtpu"}
    for name in ("lock.txt", "tpu.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert text.count("==") <= text.count("--hash=sha256:")
