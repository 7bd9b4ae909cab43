"""COCO JSON (cocodataset.org/#format-data): boxes of instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import pydantic
from pydantic import Field, FiniteFloat, PositiveInt

from must_jax import files
from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import BoxesLabel, LabelKind
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Classes, Photo, Placed
from must_jax.labels.formats.boxes import boxes_label, to_fractions
from must_jax.labels.formats.names import match

T = TypeVar("T")
Id = int | str
_Length = Annotated[FiniteFloat, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class _Image:
    id: Id
    file_name: str
    width: PositiveInt
    height: PositiveInt


@dataclass(frozen=True, slots=True)
class _Annotation:
    """`bbox`: x, y, width, height in pixels, from the image's top left corner."""

    image_id: Id
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, _Length, _Length]
    iscrowd: int = 0


@dataclass(frozen=True, slots=True)
class _Instances:
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Category]


class Coco(Placed):
    """Boxes that mark a crowd, and those without area, are left out.

    Attributes:
      classes: names of categories in the order of their indices; () = all categories, in the order of their ids.
    """

    name: ClassVar[str] = "coco"
    gives: ClassVar[str] = "boxes"
    holds: ClassVar[str] = "file"

    classes: Classes = ()

    def digest(self, path: Path, images: ImageSet) -> str:
        return files.sha256(path)

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        parsed = read_json(path, _Instances)
        class_of, classes = category_classes(parsed.categories, self.classes, path)
        boxes = _boxes_by_image(parsed, class_of, path)
        images = by("file_name", parsed.images, path)
        file_names = match(names, images, str(path))

        def label(photo: Photo) -> Label | None:
            if photo.name not in file_names:
                return None
            image = images[file_names[photo.name]]
            label, where = boxes_label(*boxes[image.id]), f"{path}: {image.file_name}"
            return self.placed(kind, label, photo, (image.height, image.width), where)

        return Annotations(BoxesLabel(max([1, *(len(ids) for _, ids in boxes.values())])), classes, label)


def _boxes_by_image(
    parsed: _Instances, class_of: Callable[[int], int], path: Path
) -> dict[Id, tuple[np.ndarray, np.ndarray]]:
    """Image id -> boxes f32[n, 4] in fractions and classes i32[n], of all images that are listed."""
    images = by("id", parsed.images, path)
    rows: dict[Id, list[int]] = {id_: [] for id_ in images}
    real = [each for each in parsed.annotations if not each.iscrowd and min(each.bbox[2:]) > 0]
    for row, each in enumerate(real):
        if each.image_id not in images:
            raise UserError(f"{path} has a box on image {each.image_id}, which it does not list; correct either")
        rows[each.image_id].append(row)
    classes = np.array([class_of(each.category_id) for each in real], np.int32)
    hw = np.array([(images[each.image_id].height, images[each.image_id].width) for each in real]).reshape(-1, 2)
    x, y, width, height = np.array([each.bbox for each in real], np.float64).reshape(-1, 4).T
    boxes_yxyx, outside = to_fractions(np.stack([y, x, y + height, x + width], 1), hw)
    if outside is not None:
        image, (left, top, *sides) = images[real[outside].image_id], real[outside].bbox
        turned = min(left, top) >= 0 and left + sides[0] <= image.height and top + sides[1] <= image.width
        advice = "give width and height as the box sees the photo, and see orientation" if turned else "correct either"
        raise UserError(
            f"{path} has the box {list(real[outside].bbox)} (x, y, width, height) on {image.file_name}, which is "
            f"{image.width} x {image.height} pixels; {advice}"
        )
    return {id_: (boxes_yxyx[chosen], classes[chosen]) for id_, chosen in rows.items()}


def read_json(path: Path, type_: type[T]) -> T:
    """A file as a dataclass that names what is needed of it.

    Raises:
      UserError: it is no JSON, or lacks something.
    """

    def without_outlines(item: dict[str, Any]) -> dict[str, Any]:  # most of a file, and not needed
        item.pop("segmentation", None)
        return item

    try:
        return pydantic.TypeAdapter(type_).validate_python(json.loads(path.read_bytes(), object_hook=without_outlines))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"at '{'.'.join(map(str, first['loc']))}': {first['msg']}"
    except ValueError as error:
        why = f"it is no JSON: {error}"
    raise UserError(f"{path} is not as COCO describes it, {why}; correct the file")


def by(field: str, items: Sequence[T], path: Path) -> dict[Any, T]:
    """The items by one of their fields.

    Raises:
      UserError: two items have the same.
    """
    found: dict[Any, T] = {}
    for key, item in zip(map(attrgetter(field), items), items, strict=True):
        if found.setdefault(key, item) is not item:
            raise UserError(f"{path} lists the {field} '{key}' twice; give everything an id and a name of its own")
    return found


def category_classes(
    categories: Sequence[Category], declared: Sequence[str], path: Path
) -> tuple[Callable[[int], int], tuple[str, ...]]:
    """From category ids to contiguous class ids, in the order of the former or as declared; and the classes' names.

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
