"""JSON in parts: the same values and the same errors as from Python's parser, wherever the parts are cut."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from must_jax.labels.formats import json_text
from must_jax.labels.formats.json_text import JsonText, NotAnObject

TEXT = """
{ "info": {"year": 2017, "é": "\\ud83d\\ude00 \\"x\\" \\\\", "none": null} ,
  "images":[ {"id":-1.25e+3}, {"id" : 12, "b": [1,2,[3]]} ,
\t7, true,"text", [] ], "empty": [ ], "last": 12.5e-1
}
"""
WRONG = {
    "a missing comma": TEXT.replace("}, {", "} {"),
    "a missing colon": TEXT.replace('"empty":', '"empty"'),
    "a comma too many": TEXT.replace("[] ]", "[], ]"),
    "a key without quotes": TEXT.replace('"last"', "last"),
    "more than one value": TEXT + " {}",
    "half a value": TEXT.replace("true", "tru"),
    "a bad number": TEXT.replace("12.5e-1", "12.e"),
    "a line feed in a text": TEXT.replace("2017", '"\n"'),
    "a bad escape": TEXT.replace("\\ud83d", "\\u8d"),
    "nothing": "",
    "white space": " \n ",
    "a list that goes on": '{"a": [1',
}


def read(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, start, value in JsonText(io.BytesIO(data), dict).parts():
        if start:
            assert start == len(content[name])
            content[name] += value
        else:
            content[name] = value
    return content


@pytest.fixture(params=[1, 2, 7, 2**20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_text, "_CHUNK", max(4, request.param))  # as many tell the encoding
    monkeypatch.setattr(json_text, "_TOGETHER", 2)
    return request.param


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_the_same_values(chunk: int, encoding: str):
    data = TEXT.encode(encoding)
    assert read(data) == json.loads(data)
    assert list(read(data)) == ["info", "images", "empty", "last"]


@pytest.mark.parametrize("name", WRONG)
def test_the_same_errors(chunk: int, name: str):
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(WRONG[name])
    with pytest.raises(ValueError) as ours:
        read(WRONG[name].encode())
    place, found = (str(error).partition(": ")[2] for error in (theirs.value, ours.value))
    if "trailing comma" in str(theirs.value):  # from Python 3.13 on, it points at the comma instead of what follows
        place, found = (where.partition(" column")[0] for where in (place, found))
    assert found == place, theirs.value


def test_every_text_that_is_cut_off(chunk: int):
    for end in range(len(TEXT.rstrip()) - 1):
        with pytest.raises(ValueError, match=r"line \d+ column \d+|not utf-8"):
            read(TEXT[:end].encode())


def test_what_is_no_object(chunk: int):
    for text in ("[{}, 1]", "12", '"text"', "null"):
        with pytest.raises(NotAnObject):
            read(text.encode())


def test_bytes_that_are_no_text(chunk: int):
    data = TEXT.encode().replace(b"text", b"te\xff\xfe")
    with pytest.raises(ValueError, match=f"it is not utf-8 near byte {data.index(0xFF)}"):
        read(data)


def test_little_is_in_memory(monkeypatch: pytest.MonkeyPatch):
    """As much as an item needs, and after an error not the rest of the file."""
    monkeypatch.setattr(json_text, "_CHUNK", 2**10)
    monkeypatch.setattr(json_text, "_LONGEST", 2**12)
    items = b'{"a": [' + b", ".join([b'{"b": "' + b"x" * 100 + b'"}'] * 10_000)
    for data in (items + b"]}", items.replace(b'"b":', b'"b"', 1) + b"]}"):
        file = io.BytesIO(data)
        text, most = JsonText(file, dict), 0
        try:
            for _ in text.parts():
                most = max(most, len(text._text))
        except ValueError:
            assert file.tell() < 2**14
        else:
            assert most < 2**12
