"""The report as a file: whole, readable by a browser, and without anything from outside."""

from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from must_jax.report import html, page, plots, scorecard
from must_jax.report.details import Confusion, Details, Lines, Table
from must_jax.report.html import Check, Column, Curve, Data, Detail, Gallery, Report, Stage
from must_jax.report.scorecard import Row, Start

VOID = {"meta", "img", "br", "link", "input"}
SECTIONS = ["run", "scorecard", "pictures", "validation", "curves", "details"]
PICTURE = np.dstack([np.full((32, 48), value, np.uint8) for value in (200, 100, 50)])


class Tags(HTMLParser):
    """Every tag is closed, in order; collects ids and picture sources."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.sources += [values["src"] or ""] if "src" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report() -> Report:
    starts = {"scratch": Start(), "teacher": Start(("depth",), 3200), "student": Start(("depth", "normals"), 6400)}
    return Report(
        title="<b>mine</b> & more",
        facts={"device": "2 cpu", "config": "0123456789abcdef"},
        stages=[
            Stage("teacher", "train", True, ("depth",), 65.4, 100, 32, 311.7, 0.0123, 1234567),
            Stage("student", "train", False, ("depth", "normals"), batch_size=32),
        ],
        curves=[
            Curve("teacher", {"loss": ([10, 20], [2.0, 1.0])}),
            Curve("odd", {"loss": ([1, 2], [0.0, float("nan")])}),
        ],
        checks=[Check("teacher", "depth/delta1", 91.2, 85.0), Check("teacher", "depth/abs_rel", 0.1207)],
        galleries=[Gallery("depth", "Held-out images.", {"image": [PICTURE] * 2, "teacher": [PICTURE] * 2})],
        rows=[
            Row(init, "depth", "range", "frozen", "delta1", value + seed, seed, 0.03, 150, 4800)
            for init, value in (("scratch", 40.0), ("teacher", 55.0), ("student", 50.0))
            for seed in range(3)
        ],
        starts=starts,
    )


@pytest.fixture(scope="module")
def text() -> str:
    return html.render(report())


def test_every_section_is_there_and_every_tag_closed(text: str):
    tags = Tags(text)
    assert [name for name in tags.ids if name in SECTIONS] == SECTIONS
    assert len(set(tags.ids)) == len(tags.ids)


def test_nothing_comes_from_outside(text: str):
    data = r'"data:image/[a-z]+;base64,[^"]*"'
    for page_of in (text, html.render(everything(12))):
        outside = r"https?:|//[a-z]|@import|<script|<link|url\((?!#)"
        assert re.findall(outside, re.sub(data, "", page_of)) == []
    assert all(source.startswith("data:image/webp;base64,") for source in Tags(text).sources)


def test_pictures_are_what_was_handed_in(text: str):
    sources = Tags(text).sources
    assert len(sources) == 4
    bgr = cv2.imdecode(np.frombuffer(base64.b64decode(sources[0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(bgr[..., ::-1].astype(int) - PICTURE).max() < 12


def test_metrics_of_any_size_keep_their_digits(text: str):
    assert '<td class="up">91.2</td>' in text
    assert "<td>0.1207</td>" in text  # a share, not a percentage


def test_the_scorecard_says_what_was_found(text: str):
    assert '<td class="best">56.0<small>± 1.0</small></td>' in text
    assert "student beats scratch on 1/1; student beats the mean over single teachers on 0/1 (1 lost)." in text
    assert '<td class="up">+10.0<small>± 0.0</small></td>' in text
    assert '<td class="down">−5.0<' in text
    assert "150 steps, 4,800 image-steps each" in text
    assert "is a difference beyond noise" in text
    assert "<td>0.03</td>" in text  # the learning rate
    assert "6,400" in text  # image-steps of the student


def test_what_is_within_noise_or_diverged_is_no_win():
    given = report()
    values = {("student", 0): 80.0, ("teacher", 1): None}
    rows = [dataclasses.replace(row, value=values.get((row.init, row.seed), row.value)) for row in given.rows]
    text = html.render(dataclasses.replace(given, rows=rows))
    assert "student beats scratch on 0/1 (1 within noise)" in text
    assert '<td class="soft">+20.0<small>' in text
    assert "1 of 3 diverged" in text
    assert "<span>student beats scratch beyond noise, frozen; 1 within noise</span>" in text


def test_a_set_on_which_everything_diverged_has_no_bars():
    given = report()
    text = html.render(dataclasses.replace(given, rows=[dataclasses.replace(row, value=None) for row in given.rows]))
    assert text.count("<small>3 of 3 diverged</small>") == 3


def test_stages_and_checks_say_their_figures(text: str):
    for figure in ("1:05", "312", "3,200", "1,234,567", "1.2%", "not finished", "91.2", "<td>85</td>"):
        assert figure in text


def test_text_is_escaped(text: str):
    assert "&lt;b&gt;mine&lt;/b&gt; &amp; more" in text
    assert "<b>mine" not in text


def test_what_is_not_there_has_no_section():
    """And no link to one."""
    text = html.render(Report("empty", {}))
    assert [name for name in Tags(text).ids if name in SECTIONS] == ["run", "details"]
    assert re.findall(r'href="#([a-z]+)"', text) == ["run", "details"]
    text = html.render(everything(12))
    links = re.findall(r'href="#([a-z]+)"', text)
    assert [name for name in Tags(text).ids if name in links] == links and len(links) == 11


def everything(classes: int) -> Report:
    """All parts, with names as long as strangers choose them."""
    names = [f"class {i} {'of a very long name ' * (i % 3)}<&>" for i in range(classes)]
    table = Table(
        names, {"iou": [None if i == 1 else 90.0 - i for i in range(classes)], "pixels": list(range(classes))}
    )
    counts = np.eye(classes, classes + 1, dtype=int) * 90 + np.eye(classes, classes + 1, 1, dtype=int) * 10
    recall = Lines("recall", "score", "percent", {"_all": ([0.0, 1.0], [100.0, None])})
    details = [
        Detail("a", "b", "set", Details(table, Confusion(names, counts.tolist()), [recall])),
        Detail("a", "c", "set", Details()),
    ]
    gallery = Gallery("b: worst of a", "Of 100.", {"image": [PICTURE]}, ["iou 3, <b>.jpg"])
    column = Column("t-b", "b", "t 0123", 1234, 5, 6.7, 89.0, "look", [("look", "why <not>")])
    return dataclasses.replace(
        report(),
        data=[Data("a", "training", "folder:x", ["truth"], 2000)],
        validations=[Curve("a: b", {"iou": ([1, 2], [3.0, 4.0])}, "iou")],
        details=details,
        columns=[column, dataclasses.replace(column, verdict="passed", findings=[])],
        extremes=[gallery],
        missing=["there is no folder x"],
        times={"a": {"step": 3.0, "data wait": 1.0}},
    )


@pytest.mark.parametrize("classes", [0, 1, 10, 150])
def test_any_number_of_classes_is_shown(classes: int):
    text = html.render(everything(classes))
    Tags(text)
    assert text.count("--p1:") == classes
    named = [re.sub("&[a-z]+;|&#[0-9]+;", "", each) for each in re.findall(r"class \d+", text)]
    assert len(set(named)) == classes
    assert ("Confusion matrix" in text) == (classes > 0)
    for said in ("2,000", "folder:x", "why &lt;not&gt;", "not audited", "there is no folder x", "iou 3, &lt;b&gt;.jpg"):
        assert said in text


def test_one_seed_shows_no_spread():
    given = report()
    text = html.render(dataclasses.replace(given, rows=[row for row in given.rows if row.seed == 0]))
    assert scorecard.ONE_SEED in text
    assert "± 0.0" not in text and "beyond noise, frozen" not in text


def test_writing_leaves_one_file(tmp_path: Path):
    html.write(report(), tmp_path / "report" / "index.html")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


@pytest.mark.parametrize(("seconds", "said"), [(None, ""), (0.4, "0:00"), (65.4, "1:05"), (3725, "1:02:05")])
def test_duration(seconds: float | None, said: str):
    assert page.duration(seconds) == said


def test_figures_take_their_colour_from_the_page_and_are_the_same_each_time():
    svg = plots.bars({"a & $b$": (50.0, 2.0), "scratch": (40.0, 0.0)}, ["a & $b$"], ["scratch"], "set <1>")
    assert svg == plots.bars({"a & $b$": (50.0, 2.0), "scratch": (40.0, 0.0)}, ["a & $b$"], ["scratch"], "set <1>")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.attrib["aria-label"] == "set <1>"
    texts = [element.text for element in root.iter("text")]
    assert {"a & $b$", "50.0", "40.0"} <= set(texts)
    assert "currentColor" in svg
    assert plots.INK not in svg
