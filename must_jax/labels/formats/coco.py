"""COCO JSON (cocodataset.org/#format-data): boxes of instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from must_jax import files
from must_jax.config.base import Number
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label, LabelKind
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Photo, never, some
from must_jax.labels.formats.box_checks import MOST, OUTSIDE_PX, Boxes, BoxesFormat, ImageLabels, later
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.json_files import Category, Id, Integer, by, read_json
from must_jax.labels.formats.names import match
from must_jax.labels.formats.refusals import MOST_NAMED, refusal
from must_jax.progress import counted, say

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


class _Table:
    """The annotations of a file in 49 bytes each; ids of images and categories are numbered as they occur."""

    def __init__(self) -> None:
        self.images: dict[Id, int] = {}
        self.categories: dict[int, int] = {}
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, annotations: Sequence[_Annotation]) -> None:
        columns = (
            _numbered(self.images, (each.image_id for each in annotations)),
            _numbered(self.categories, (each.category_id for each in annotations)),
            np.array([each.bbox for each in annotations], np.float64).reshape(-1, 4),
            np.array([_area(each.area) for each in annotations], np.float64),
            np.array([bool(each.iscrowd) for each in annotations], bool),
        )
        self._parts.append(columns)

    def columns(self) -> Iterator[np.ndarray]:
        """Numbers of images and of categories i32[n], boxes f64[n, 4], areas f64[n], whether it is a crowd bool[n].

        Each can be asked for once.
        """
        columns = [list(parts) for parts in zip(*self._parts, strict=True)]
        self._parts.clear()
        while columns:
            yield np.concatenate(columns.pop(0))


def _numbered(numbers: dict[Any, int], ids: Iterable[Id]) -> np.ndarray:
    """i32[n]: the number of each id; new ones get the next number."""
    return np.array([numbers.setdefault(id_, len(numbers)) for id_ in ids], np.int32)


def _area(value: Any) -> float:
    """0 = unknown."""
    return value if isinstance(value, int | float) and 0 < value < _LARGE else 0.0


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
        listed: list[_Image] = []
        categories: list[Category] = []
        table = _Table()
        read_json(
            path,
            {
                "images": (_Image, listed.extend),
                "annotations": (_Annotation, table.add),
                "categories": (Category, categories.extend),
            },
        )
        class_of, classes = category_classes(categories, self.classes, path)
        numbers = {id_: number for number, id_ in enumerate(by("id", listed, path))}
        labels = self._labels(listed, numbers, table, class_of, path)
        images = by("file_name", listed, path)
        file_names = match(names, images, str(path))

        def label(photo: Photo) -> Label | None:
            if photo.name not in file_names:
                return None
            image = images[file_names[photo.name]]
            hw, where = (image.height, image.width), f"{path}: {image.file_name}"
            return self.placed(kind, labels[numbers[image.id]], photo, hw, where)

        return Annotations(labels.kind, classes, label, file_names.__contains__)

    def _labels(
        self,
        listed: Sequence[_Image],
        numbers: Mapping[Id, int],
        table: _Table,
        class_of: Callable[[int], int],
        path: Path,
    ) -> ImageLabels:
        """The labels of all images that are listed, in their order."""
        if unlisted := [id_ for id_ in table.images if id_ not in numbers]:
            advice = f"which it does not list; ids of images are like {next(iter(numbers), None)!r}; correct either"
            raise refusal([f"{path} has a box on image {id_!r}, {advice}" for id_ in unlisted])
        image, classes, given, areas, crowd = table.columns()
        image = np.array([numbers[id_] for id_ in table.images], np.int32)[image]
        classes = np.array([class_of(id_) for id_ in table.categories], np.int32)[classes]
        sizes = np.array([(each.height, each.width) for each in listed], np.int32).reshape(-1, 2)
        matrix = _READINGS[self.bbox][1]
        boxes = self.in_pixels(Boxes(lambda rows: given[rows] @ matrix.T, sizes, image, classes, crowd), str(path))
        self._check_reading(boxes, given, areas, str(path))

        def complaint(row: int) -> str:
            each, inside = listed[image[row]], "correct either, or set clip=true to clip it"
            y0, x0, y1, x1 = boxes.corners(np.array([row]))[0]
            if min(y0, x0) >= 0 and x1 <= each.height and y1 <= each.width:
                inside = "give width and height as the box sees the photo, and see orientation"
            return (
                f"{path} has the box {given[row].tolist()} ({_READINGS[self.bbox][0]}) on {each.file_name}, which is "
                f"{each.width} x {each.height} pixels; {inside}"
            )

        turned: list[int] = []
        for rows in boxes.parts():
            corners = boxes.corners(rows)
            turned += (np.flatnonzero(np.any(corners[:, 2:] < corners[:, :2], axis=1)) + rows.start).tolist()
        if turned:
            described = [complaint(row).partition(", which")[0] for row in turned[:MOST_NAMED]]
            raise refusal([f"{each}, and it ends before it begins; correct it" for each in described], len(turned))
        return self.labels(boxes, str(path), complaint)

    def _check_reading(self, boxes: Boxes, given: np.ndarray, areas: np.ndarray, where: str) -> None:
        """Checks that the numbers mean what `bbox` and `fractions` say.

        Args:
          boxes: in pixels.
          given: f64[n, 4], the numbers in the file.
          areas: f64[n], 0 = unknown.

        Raises:
          UserError: most boxes do not fit their images, but all do with another meaning; or the areas fit another one.
        """
        real = misfits = 0
        turned, fits = True, dict.fromkeys(_READINGS, True)
        telling, same = Counter[str](), Counter[str]()
        for rows in boxes.parts():
            corners, hw, known = boxes.corners(rows), boxes.hw(rows), areas[rows]
            is_real = np.all(given[rows][:, 2:] > 0, axis=1)
            real += int(np.count_nonzero(is_real))
            misfits += int(np.count_nonzero(is_real & ~_fits(corners, hw)))
            turned &= bool(np.all(_fits(corners, hw[:, ::-1])[is_real]))
            for name, (_, matrix) in _READINGS.items():
                other = given[rows] @ matrix.T
                other = other * np.tile(hw, 2) if self.fractions else other
                fits[name] &= bool(np.all(_fits(other, hw)[is_real]))
                here, there = _areas(corners), _areas(other)
                tells = (known > 0) & (np.abs(here - there) > 2 * _SAME_AREA * np.maximum(here, there))
                telling[name] += int(np.count_nonzero(tells))
                same[name] += int(np.count_nonzero(tells & (np.abs(there - known) <= _SAME_AREA * known)))
        if misfits >= max(_ENOUGH, MOST * real) and not turned:
            for name in (name for name, fitting in fits.items() if fitting):
                raise UserError(
                    f"{where}: {misfits} of {counted(real, 'box')} do not lie in their "
                    f"image as {_READINGS[self.bbox][0]}, but all of them do as {_READINGS[name][0]}; "
                    f"set the option bbox={name}"
                )
        for name in _READINGS:
            if telling[name] >= _ENOUGH and same[name] > _SAME_SHARE * telling[name]:
                raise UserError(
                    f"{where}: by their areas {same[name]} of {counted(len(boxes), 'box')} are "
                    f"{_READINGS[name][0]} and not {_READINGS[self.bbox][0]}; set the option bbox={name}"
                )


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
    classes, found = tuple(declared or names.values()), [*names.values()]
    indices = {id_: classes.index(name) for id_, name in names.items() if name in classes}
    if absent := never(classes, found):
        say(f"look at the classes of {path}{absent}; those that do: {some(found)}")

    def class_of(category_id: int) -> int:
        if category_id in indices:
            return indices[category_id]
        named = f"'{names[category_id]}'" if category_id in names else "which it does not list"
        raise UserError(
            f"{path} has labels of category {category_id}, {named}, but the classes are {', '.join(classes)}"
            f"{never(classes, found)}; add it to them, or correct the file"
        )

    return class_of, classes
