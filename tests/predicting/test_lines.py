"""Lines of JSON for names in an order, whatever was there before, and wherever writing was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from must_jax.errors import UserError
from must_jax.predicting.lines import Lines

NAMES = ("a", "b/1", "b/2", "c", "é")


def written(path: Path, names: tuple[str, ...], version: int = 0, stop_after: int | None = None) -> list[str]:
    """Writes the missing lines of this version, as a command does; returns for which names."""

    def is_valid(number: int, value: dict[str, Any]) -> bool:
        return value["of"] == names[number] and value["version"] == version

    with Lines(path, names, is_valid) as lines:
        missing = [name for name in names if name not in lines][:stop_after]
        for name in missing:
            lines.add(name, {"of": name, "version": version})
        if stop_after is None:
            lines.finish()
    return missing


def held(path: Path) -> list[tuple[str, int]]:
    lines = path.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"}\n") for line in lines)
    found = [json.loads(line) for line in lines]
    assert all(each["name"] == each["of"] for each in found)
    return [(each["name"], each["version"]) for each in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "lines.jsonl"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_interrupted_at_any_byte_it_goes_on(path: Path, cut: int) -> None:
    assert written(path, NAMES, stop_after=3) == [*NAMES[:3]]
    part = path.with_name("lines.jsonl.part")
    part.write_bytes(part.read_bytes()[:-cut])
    assert not path.exists()  # it has all lines, or is not there
    whole = part.read_bytes().count(b"\n")
    assert written(path, NAMES) == [*NAMES[whole:]]
    assert held(path) == [(name, 0) for name in NAMES]
    assert {each.name for each in path.parent.iterdir()} == {"lines.jsonl"}


def test_new_names_come_to_their_place_and_nothing_is_written_twice(path: Path) -> None:
    written(path, ("b/1", "c"))
    assert written(path, NAMES, stop_after=1) == ["a"]
    assert written(path, NAMES) == ["b/2", "é"]
    assert held(path) == [(name, 0) for name in NAMES]
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert written(path, NAMES) == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_lines_out_of_date_are_replaced_and_those_of_other_names_stay(path: Path) -> None:
    written(path, NAMES)
    assert written(path, ("b/1", "d"), version=1, stop_after=1) == ["b/1"]
    assert written(path, ("b/1", "d"), version=1) == ["d"]
    assert held(path) == [("a", 0), ("b/2", 0), ("c", 0), ("é", 0), ("b/1", 1), ("d", 1)]
    assert written(path, NAMES) == ["b/1"]
    assert held(path) == [("d", 1), *((name, 0) for name in NAMES)]


def test_a_line_that_cannot_be_read_is_written_again(path: Path) -> None:
    written(path, NAMES)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((lines[0], b'{"name": "b\n', b"[1]\n", *lines[2:])))
    assert written(path, NAMES) == ["b/1"]
    assert held(path) == [(name, 0) for name in NAMES]


def test_killed_when_the_order_was_made_it_keeps_what_is_in_order(path: Path) -> None:
    written(path, NAMES)
    path.with_name("lines.jsonl.part").write_bytes(path.read_bytes()[:100])
    assert written(path, NAMES) == []
    assert held(path) == [(name, 0) for name in NAMES]
    assert not path.with_name("lines.jsonl.part").exists()


def test_two_of_one_name_are_refused(path: Path) -> None:
    with pytest.raises(UserError, match="two photos would both be c"):
        Lines(path, ("a", "c", "b", "c"), lambda *_: True)
