"""COCO JSON (cocodataset.org/#format-data): boxes of instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from must_jax import files
from must_jax.config.base import Number
from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import LabelKind
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Photo
from must_jax.labels.formats.boxes import MOST, OUTSIDE_PX, Boxes, BoxesFormat, kind_of, later
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.json_files import Category, Id, Integer, by, read_json
from must_jax.labels.formats.names import match
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.progress import counted

_LARGE = 2**31 - 1
_Coordinate = Annotated[FiniteFloat, Field(gt=-_LARGE, lt=_LARGE), Number]
_Length = Annotated[FiniteFloat, Field(ge=0, lt=_LARGE), Number]
_Side = Annotated[int, Field(gt=0, lt=_LARGE), Number]
_READINGS: dict[str, tuple[str, np.ndarray]] = {  # meanings of a box's four numbers: in words; matrix to y0, x0, y1, x1
    "xywh": ("x, y, width, height", np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]], np.float64)),
    "xyxy": ("x0, y0, x1, y1", np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], np.float64)),
    "cxcywh": (
        "x and y of the centre, width, height",
        np.array([[0, 1, 0, -0.5], [1, 0, -0.5, 0], [0, 1, 0, 0.5], [1, 0, 0.5, 0]], np.float64),
    ),
}
_ENOUGH = 3  # boxes that suffice to tell what their numbers mean
_SAME_AREA, _SAME_SHARE = 0.01, 0.9


@dataclass(frozen=True, slots=True)
class _Image:
    id: Id
    file_name: str
    width: _Side
    height: _Side


@dataclass(frozen=True, slots=True)
class _Annotation:
    """`bbox`: see `Coco`. `area`, in square pixels, is that of the outline or, if there is none, of the box."""

    image_id: Id
    category_id: Integer
    bbox: tuple[_Coordinate, _Coordinate, _Length, _Length]
    iscrowd: int | None = 0
    area: Any = None


@dataclass(frozen=True, slots=True)
class _Instances:
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Category]


class Coco(BoxesFormat):
    """Boxes that mark a crowd are to be ignored."""

    name: ClassVar[str] = "coco"
    gives: ClassVar[str] = "boxes"
    holds: ClassVar[str] = "file"

    bbox: Annotated[Literal["xywh", "xyxy", "cxcywh"], later("xywh")] = "xywh"
    """The meaning of a box's four numbers: `xywh`, as in COCO: x and y of the top left corner, width, height; `xyxy`:
    two corners; `cxcywh`: the centre, width, height."""
    classes: Classes = ()
    """Names of categories in the order of their indices; none = all categories, in the order of their ids."""

    def digest(self, path: Path, images: ImageSet) -> str:
        return files.sha256(path)

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        parsed = read_json(path, _Instances)
        class_of, classes = category_classes(parsed.categories, self.classes, path)
        labels = self._labels(parsed, class_of, path)
        images = by("file_name", parsed.images, path)
        file_names = match(names, images, str(path))

        def label(photo: Photo) -> Label | None:
            if photo.name not in file_names:
                return None
            image = images[file_names[photo.name]]
            hw, where = (image.height, image.width), f"{path}: {image.file_name}"
            return self.placed(kind, labels[image.id], photo, hw, where)

        return Annotations(kind_of([*labels.values()]), classes, label)

    def _labels(self, parsed: _Instances, class_of: Callable[[int], int], path: Path) -> dict[Id, Label]:
        """Image id -> label, for all images that are listed."""
        images = by("id", parsed.images, path)
        numbers = {id_: number for number, id_ in enumerate(images)}
        given = parsed.annotations
        if unlisted := {each.image_id: None for each in given if each.image_id not in numbers}:
            advice = f"which it does not list; ids of images are like {next(iter(images), None)!r}; correct either"
            raise refusal([f"{path} has a box on image {id_!r}, {advice}" for id_ in unlisted])
        classes = np.array([class_of(each.category_id) for each in given], np.int32)
        owners = np.array([numbers[each.image_id] for each in given], np.int64)
        sizes = np.array([(each.height, each.width) for each in parsed.images], np.int64).reshape(-1, 2)
        numbers_of_boxes = np.array([each.bbox for each in given], np.float64).reshape(-1, 4)
        boxes_px = self._boxes_px(numbers_of_boxes, sizes[owners], [each.area for each in given], str(path))

        def complaint(row: int) -> str:
            image, box = images[given[row].image_id], given[row].bbox
            height, width, inside = image.height, image.width, "correct either, or set clip=true to clip it"
            y0, x0, y1, x1 = boxes_px[row]
            if min(y0, x0) >= 0 and x1 <= height and y1 <= width:
                inside = "give width and height as the box sees the photo, and see orientation"
            return (
                f"{path} has the box {list(box)} ({_READINGS[self.bbox][0]}) on {image.file_name}, which is "
                f"{width} x {height} pixels; {inside}"
            )

        if (rows := np.flatnonzero(np.any(boxes_px[:, 2:] < boxes_px[:, :2], axis=1))).size:
            described = [complaint(row).partition(", which")[0] for row in rows[:MOST_NAMED].tolist()]
            raise refusal([f"{each}, and it ends before it begins; correct it" for each in described], len(rows))
        crowd = np.array([bool(each.iscrowd) for each in given], bool)
        boxes = Boxes(boxes_px, sizes[owners], owners, classes, crowd)
        labels = self.labels(boxes, len(images), str(path), complaint)
        return dict(zip(images, labels, strict=True))

    def _boxes_px(self, boxes: np.ndarray, hw: np.ndarray, areas: Sequence[Any], where: str) -> np.ndarray:
        """Boxes f64[n, 4] as in the file -> f64[n, 4] y0, x0, y1, x1 in pixels.

        Raises:
          UserError: most boxes do not fit their images as `bbox` and `fractions` say, but all do with another meaning;
            or the given areas fit another meaning.
        """
        readings = {name: boxes @ matrix.T for name, (_, matrix) in _READINGS.items()}
        boxes_px = self.in_pixels(readings[self.bbox], hw, where)
        if self.fractions:
            readings = {name: corners * np.tile(hw, 2) for name, corners in readings.items()}
        real = np.all(boxes[:, 2:] > 0, axis=1)
        fits = {name: _fits(corners, hw)[real] for name, corners in readings.items()}
        declared, turned = fits[self.bbox], _fits(boxes_px, hw[:, ::-1])[real]
        if np.count_nonzero(~declared) >= max(_ENOUGH, MOST * declared.size) and not turned.all():
            for name in (name for name, fitting in fits.items() if fitting.all()):
                raise UserError(
                    f"{where}: {np.count_nonzero(~declared)} of {counted(declared.size, 'box')} do not lie in their "
                    f"image as {_READINGS[self.bbox][0]}, but all of them do as {_READINGS[name][0]}; "
                    f"set the option bbox={name}"
                )
        known = np.array([area if isinstance(area, int | float) and 0 < area < _LARGE else 0 for area in areas])
        for name, corners in readings.items():
            here, there = (_areas(each) for each in (boxes_px, corners))
            telling = (known > 0) & (np.abs(here - there) > 2 * _SAME_AREA * np.maximum(here, there))
            same = np.abs(there - known) <= _SAME_AREA * known
            if np.count_nonzero(telling) >= _ENOUGH and same[telling].mean() > _SAME_SHARE:
                raise UserError(
                    f"{where}: by their areas {np.count_nonzero(telling & same)} of {counted(len(boxes), 'box')} are "
                    f"{_READINGS[name][0]} and not {_READINGS[self.bbox][0]}; set the option bbox={name}"
                )
        return boxes_px


def _fits(boxes_px: np.ndarray, hw: np.ndarray) -> np.ndarray:
    """bool[n]: whether a box lies in its image, up to rounding, and does not end before it begins."""
    inside = (boxes_px >= -OUTSIDE_PX) & (boxes_px <= np.tile(hw, 2) + OUTSIDE_PX)
    return np.all(inside, axis=1) & np.all(boxes_px[:, 2:] >= boxes_px[:, :2], axis=1)


def _areas(boxes_px: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes_px[:, 2:] - boxes_px[:, :2], 0), axis=1)


def category_classes(
    categories: Sequence[Category], declared: Sequence[str], path: Path
) -> tuple[Callable[[int], int], tuple[str, ...]]:
    """A function from category ids to contiguous class ids, in the order of the former or as declared; the class names.

    The function raises UserError for a category that is unknown or not declared: no label may have it.
    """
    by("name", categories, path)
    names = {id_: each.name for id_, each in sorted(by("id", categories, path).items())}
    classes = tuple(declared or names.values())
    indices = {id_: classes.index(name) for id_, name in names.items() if name in classes}

    def class_of(category_id: int) -> int:
        if category_id in indices:
            return indices[category_id]
        named = f"'{names[category_id]}'" if category_id in names else "which it does not list"
        raise UserError(
            f"{path} has labels of category {category_id}, {named}, but the classes are {', '.join(classes)}; "
            "add it to them, or correct the file"
        )

    return class_of, classes
