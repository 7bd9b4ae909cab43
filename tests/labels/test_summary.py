"""What is said of a column's classes."""

from __future__ import annotations

import pytest

from must_jax.data.kinds import BoxesLabel, IdsLabel, LabelKind, VectorLabel
from must_jax.labels.summary import Summary

IDS = IdsLabel("ids")


@pytest.mark.parametrize(
    ("kind", "counts", "told"),
    [
        (VectorLabel(3), [4, 0, 1200], "3 classes, images with each: c0 4, c1 0, c2 1,200"),
        (VectorLabel(3), [0, 7], "3 classes, images with each: c0 0, c1 7, c2 0; one class alone teaches nothing"),
        (VectorLabel(1), [7], "1 class, images with each: c0 7; one class alone teaches nothing"),
        (IDS, [7], "1 class, images with each: c0 7; one class alone teaches nothing"),
        (BoxesLabel(9), [7], "1 class, images with each: c0 7"),
        (BoxesLabel(9), [], "1 class, images with each: c0 0"),
    ],
)
def test_classes_are_told_with_their_counts(kind: LabelKind, counts: list[int], told: str):
    count = int(told[0])
    classes = tuple(f"c{number}" for number in range(count))
    assert Summary(images_with_class=counts).told_classes(kind, classes) == told


def test_of_many_classes_those_with_the_most_images_are_told():
    classes = tuple(f"c{number}" for number in range(150))
    told = Summary(images_with_class=[*range(100), 10_000]).told_classes(IDS, classes)
    assert told.startswith("150 classes, images with each: c100 10,000, c99 99, c98 98, ")
    assert told.endswith(", c81 81, ...; 50 without any: c0, c101, c102, c103, c104, ...")


@pytest.mark.parametrize(
    ("classes", "pair"),
    [
        (("dog", "Cat", "cat"), "'Cat' and 'cat' are separate classes"),
        (("hot dog", "hot_dog"), "'hot dog' and 'hot_dog' are"),
        (("cat ", "cat"), "'cat ' and 'cat' are"),
        (("v1-1", "v11", "cats", "cat"), ""),
    ],
)
def test_classes_that_are_spelt_nearly_the_same_are_told(classes: tuple[str, ...], pair: str):
    told = Summary(images_with_class=[1] * len(classes)).told_classes(VectorLabel(len(classes)), classes)
    assert pair in told and ("separate" in told) == bool(pair)
