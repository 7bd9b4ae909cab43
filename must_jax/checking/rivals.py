"""What may have been meant instead of what is declared: other values of the keys that are most often wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from must_jax.config.teachers import BoxFormat, TeacherConfig, TeacherInputConfig
from must_jax.data.fitting import Input
from must_jax.keys import written
from must_jax.teachers.mapping import ClassMapping
from must_jax.teachers.reading import Reading

_BOXES = {
    "xyxy": "two corners, x before y",
    "yxyx": "two corners, y before x",
    "xywh": "a corner and the size",
    "cxcywh": "the centre and the size",
}
_DECLARED = ("onnx", "python")  # adapters whose boxes are what is declared; others have a library that reads them
_SCORES = ("probabilities", "sigmoid", "softmax")
_FITS = {
    "letterbox": "letterbox",
    "letterbox_corner": "corner",
    "stretch": "stretch",
    "crop": "crop",
}
_IMAGENET = {"range": "0..1", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_VALUES: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("black is 0 and white 1", {"range": "0..1", "mean": (), "std": ()}),
    ("black is 0 and white 255", {"range": "0..255", "mean": (), "std": ()}),
    ("black is -1 and white 1", {"range": "-1..1", "mean": (), "std": ()}),
    ("ImageNet's mean and deviation are taken off", _IMAGENET),
)


@dataclass(frozen=True)
class Rival:
    """Another reading of the same outputs.

    Attributes:
      what: it reads otherwise than declared, in words.
      changes: key below the task -> its value.
      advice: what to do instead, if no key says it.
    """

    what: str
    reading: Reading
    changes: Mapping[str, Any]
    advice: str = ""


@dataclass(frozen=True)
class InputRival:
    """The same model, shown images in another way. `changes`: key below `input` -> its value."""

    what: str
    declared: TeacherConfig
    changes: Mapping[str, Any]


def line(place: str, changes: Mapping[str, Any]) -> str:
    """The overrides that make these changes below a place in the config, as on the command line."""
    return " ".join(f"--config.{place}.{key}={written(value)}" for key, value in changes.items())


def readings(reading: Reading, method: str, adapter: str) -> list[Rival]:
    """The rivals of a reading whose outputs are read by this method of it."""
    boxes = _boxes(reading) if adapter in _DECLARED else ()
    match method:
        case "vector" | "regions":
            return [*_classes_in_order(reading), *_background(reading)]
        case "ids":
            return list(_indices(reading))
        case "boxes":
            return [*boxes, *_indices(reading)]
        case "scored" | "paired":
            return [*boxes, *_scores(reading), *_classes_in_order(reading), *_background(reading)]
    return []


def inputs(declared: TeacherConfig, shown: Input) -> Iterator[InputRival]:
    """Other ways to show images."""
    now = declared.input
    other = "rgb" if now.colour == "bgr" else "bgr"
    order = {"rgb": "red, green, blue", "bgr": "blue, green, red"}[other]
    yield from _shown(f"its channels are {order}", declared, {"colour": other})
    if declared.adapter != "onnx":
        return
    for what, values in _VALUES:
        yield from _shown(what, declared, values)
    for fit, means in _FITS.items():
        if means != shown.fit and (fit != "crop" or "crop" in (now.fit, shown.fit)):
            yield from _shown(f"images are fitted by {fit}", declared, {"fit": fit})


def _shown(what: str, declared: TeacherConfig, values: Mapping[str, Any]) -> Iterator[InputRival]:
    """With only the keys that change; none if nothing does."""
    now = declared.input.model_dump()
    meant = {**now, "range": now["range"] or "0..1"}
    changes = {key: value for key, value in values.items() if meant[key] != value}
    if changes.get("fit", "crop") != "crop" and now["shorter_side"]:
        changes["shorter_side"] = 0
    if changes:
        changed = TeacherInputConfig.model_validate({**now, **changes})
        yield InputRival(what, declared.model_copy(update={"input": changed}), changes)


def _boxes(reading: Reading) -> Iterator[Rival]:
    format_ = reading.declared.boxes or "xyxy"
    unit = "fractions" if reading.declared.box_unit == "fractions" else "pixels"
    for other in get_args(BoxFormat):
        for other_unit in (unit, "pixels" if unit == "fractions" else "fractions"):
            changes = {key: value for key, value in (("boxes", other), ("box_unit", other_unit))}
            changes = {key: value for key, value in changes.items() if value not in (format_, unit)}
            if changes:
                said = [f"boxes are {_BOXES[other]}"] if "boxes" in changes else []
                said += [f"boxes are in {other_unit}"] if "box_unit" in changes else []
                yield _declared(", ".join(said), reading, changes)


def _scores(reading: Reading) -> Iterator[Rival]:
    for other in _SCORES:
        if other != (reading.declared.scores or "probabilities"):
            yield _declared(f"scores are read as {other}", reading, {"scores": other})


def _indices(reading: Reading) -> Iterator[Rival]:
    first = reading.declared.first_class or 0
    for other in (first + 1, first - 1):
        if other >= -1:
            yield _declared(f"the first class has the index {other}", reading, {"first_class": other})


def _background(reading: Reading) -> Iterator[Rival]:
    background = reading.declared.background
    if background is None:
        return
    last = len(reading.mapping.given)
    for other, where in ((0, "first"), (-1, "last")):
        if other != background and (other, background) != (-1, last):
            yield _declared(f"its {where} output is the background", reading, {"background": other})


def _classes_in_order(reading: Reading) -> Iterator[Rival]:
    given = reading.mapping.given
    if len(given) < 2:
        return
    for step, advice in (
        (1, f"move '{given[-1]}' from the end of its classes to their beginning"),
        (-1, f"move '{given[0]}' from the beginning of its classes to their end"),
    ):
        if step == 1 or len(given) > 2:
            rolled = ClassMapping(
                (*given[-step:], *given[:-step]), reading.mapping.classes, np.roll(reading.mapping.index, step)
            )
            later = "later" if step == 1 else "earlier"
            yield Rival(f"every class stands one place {later}", replace(reading, mapping=rolled), {}, advice)


def _declared(what: str, reading: Reading, changes: Mapping[str, Any]) -> Rival:
    return Rival(what, replace(reading, declared=reading.declared.model_copy(update=dict(changes))), changes)
