"""The page of an audit: what was found is on it, whole and without anything from outside."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from must_jax.report import audit_page, plots
from must_jax.report.audit_page import Audit, Class, Column, Duplicate, Histogram, Shown

PICTURE = np.full((8, 12, 3), 100, np.uint8)
COLUMN = Column(
    name="teacher-detection",
    task="detection",
    maker="teacher 0123abcd",
    verdict="failed",
    findings=[("failed", "all <b>48</b> labels are empty"), ("look", "its teacher was not validated")],
    validation={"ap50": 61.25},
    scores={},
    facts={"empty": "100.0 %"},
    histograms=[Histogram("boxes by score", [0, 0.5, 1], [2, 5])],
    classes=[Class("cat", 3, 7), Class("dog", 0, 0)],
    counted="boxes",
    rank="mean score",
    most=[Shown("a.jpg", [PICTURE], 0.912, {"boxes": []})],
    least=[Shown("b.jpg", [PICTURE, PICTURE], 0.5, {"boxes": []})],
)
EVERYTHING = Audit(
    images="folder:photos",
    image_count=1234,
    labels_read=100,
    columns=[COLUMN, replace(COLUMN, name="plain", verdict="passed", findings=[], scores={"ap50": 33.3})],
    evaluation=["my_set:test"],
    duplicate_count=30,
    duplicates=[Duplicate("a.jpg", "000017", "my_set:test", "mirrored, 7 of 256 bits differ", PICTURE, PICTURE)],
)


@pytest.fixture(scope="module")
def text() -> str:
    return audit_page.render(EVERYTHING)


def test_verdicts_reasons_and_figures_are_there(text: str) -> None:
    for said in ("1 failed", "1 passed", "its teacher was not validated", "ap50 61.2", "ap50 33.3", "100.0 %", "0.91"):
        assert said in text
    assert "100 of them, spread over the set" in text and "1,234" in text
    assert "Highest mean score" in text and "Lowest mean score" in text
    assert "30 found" in text and "The nearest 1 are shown" in text and "7 of 256 bits differ" in text
    assert text.count("<img ") == 2 * 3 + 2
    assert "Use another evaluation set, or remove these images from their folder" in text


def test_text_is_escaped_and_nothing_comes_from_outside(text: str) -> None:
    assert "all &lt;b&gt;48&lt;/b&gt; labels" in text and "<b>48" not in text
    assert re.findall(r"https?:|//[a-z]|@import|<script|<link|url\((?!#)", text) == []


def test_every_column_can_be_jumped_to(text: str) -> None:
    assert re.findall(r'<a href="#([^"]+)"', text) == re.findall(r'<h2 id="([^"]+)"', text) == ["column1", "column2"]


def test_what_was_not_looked_for_is_not_called_absent() -> None:
    nothing = replace(EVERYTHING, columns=[], evaluation=[], duplicate_count=0, duplicates=[])
    assert "Not checked" in audit_page.render(nothing)
    assert ">none</span> in my_set:test" in audit_page.render(replace(nothing, evaluation=["my_set:test"]))


def test_of_many_classes_both_ends_are_listed() -> None:
    classes = [Class(f"class {i}.", i, i) for i in range(100)]
    text = audit_page.render(replace(EVERYTHING, columns=[replace(COLUMN, classes=classes)]))
    listed = [int(number) for number in re.findall(r"class (\d+)\.", text)]
    assert listed == [*range(99, 87, -1), *range(11, -1, -1)]
    assert "… 76 classes between …" in text


@pytest.mark.parametrize("edges", [[0.1, 1, 10, 100], [-10, -1, 1, 10]])
def test_values_over_several_decades_are_drawn(edges: list[float]) -> None:
    svg = plots.histogram(edges, [1, 20000, 3], "pixels", logarithmic=True)
    assert {f"{edges[0]:g}", f"{edges[-1]:g}", "12,000"} <= set(re.findall(r">([^<>]+)</text>", svg))


def ticks(edges: list[float], logarithmic: bool) -> list[str]:
    """Along the values; the last two labels are those of the counts, 0 and 1."""
    svg = plots.histogram(edges, [1] * (len(edges) - 1), "x", logarithmic)
    return re.findall(r">([^<>]+)</text>", svg)[:-2]


@pytest.mark.parametrize(
    ("edges", "logarithmic", "expected"),
    [
        ([-0.5, 0.5], False, ["0"]),
        ([-0.5, 0.5, 1.5, 2.5], False, ["0", "1", "2"]),
        ([0, 0.5, 1], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([1.7, 3, 8], True, ["2", "3", "4", "5", "6", "7", "8"]),
        ([0.001, 1, 1000], True, ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
    ],
)
def test_ticks_can_be_read(edges: list[float], logarithmic: bool, expected: list[str]) -> None:
    """Numbers of boxes are whole, a part of a decade has more than two ticks, and of many decades none overlap."""
    assert ticks(edges, logarithmic) == expected


def test_a_class_without_labels_has_no_bar(text: str) -> None:
    assert text.count('<i style="width: 100.0%">') == 2 and text.count("<i style") == 2
