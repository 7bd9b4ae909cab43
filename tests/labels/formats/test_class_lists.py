"""Classes by name, or in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from must_jax.errors import UserError
from must_jax.labels.formats import build_format


def classes(value: Any) -> tuple[str, ...]:
    return build_format("coco", {"classes": value}).model_dump()["classes"]


@pytest.mark.parametrize(
    "file, content",
    [
        ("c.txt", "road\ntraffic light\nStühle\n"),
        ("c.names", "\ufeffroad\r\ntraffic light  \r\nStühle\r\n\r\n"),
        ("c.json", json.dumps(["road", "traffic light", "Stühle"])),
        ("c.json", json.dumps({"2": "Stühle", "0": "road", "1": "traffic light"})),
        (
            "c.json",
            json.dumps(
                {"categories": [{"id": 90, "name": "Stühle"}]}
                | {"categories": [{"id": i, "name": n} for i, n in ((90, "Stühle"), (3, "road"), (7, "traffic light"))]}
            ),
        ),
    ],
)
def test_files(file: str, content: str, tmp_path: Path):
    (tmp_path / file).write_text(content)
    for value in (str(tmp_path / file), (str(tmp_path / file),)):
        assert classes(value) == ("road", "traffic light", "Stühle")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert classes("road, traffic light,sky") == ("road", "traffic light", "sky")
    assert classes("road") == ("road",)
    assert classes(("1", 2)) == ("1", "2")
    assert classes(7) == ("7",)
    assert classes("") == ()
    (tmp_path / "road").write_text("sky")
    monkeypatch.chdir(tmp_path)
    assert classes("road") == ("road",)  # is a name, as nothing says that it is a path
    assert classes("./road") == ("sky",)


@pytest.mark.parametrize(
    "value, content, message",
    [
        ("none.txt", None, "there is no file none.txt with the names of classes"),
        ("c.txt", b"Idx\tName\n1\twall", r"it has the line 'Idx\\tName', so it is a table; write one class a line"),
        ("c.txt", "Stühle".encode("latin-1"), "c.txt is not a list of classes: 'utf-8' codec"),
        ("c.txt", b"a\nb\na", "the class 'a' is listed twice"),
        ("c.json", b'{"1": "a", "2": "b"}', "its keys are not the indices 0, 1, 2, ... of the classes"),
        ("c.json", b"[1, 2]", r'it is not like \["cat", "dog"\]'),
        ("c.json", b'{"categories": [5]}', "c.json is not a list of classes"),
        ("c.json", b"[" * 100_000, "c.json is not a list of classes: its lists or objects are nested too deeply"),
        ("a,,b", None, "class 1, counted from 0, has no name"),
    ],
)
def test_what_is_no_list(
    value: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / value).write_bytes(content)
    with pytest.raises(UserError, match=rf"^format 'coco', option classes: .*{message}"):
        classes(value)
