"""PASCAL VOC (Everingham et al. 2010): boxes in one XML file an image, and masks as palette PNG."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import BoxesLabel, LabelKind
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Classes, Photo, Placed, known_classes
from must_jax.labels.formats.boxes import boxes_label, to_fractions
from must_jax.labels.formats.id_png import IdPng
from must_jax.labels.formats.names import files_below, match, stem
from must_jax.progress import Progress

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_ENDS = ("ymin", "xmin", "ymax", "xmax")


class _Objects(NamedTuple):
    """The boxes of one file: `boxes_px` y0, x0, y1, x1 from the top left corner of the first pixel."""

    hw: tuple[int, int]
    names: list[str]
    boxes_px: np.ndarray


class Voc(Placed):
    """Boxes without area are left out.

    Attributes:
      difficult: whether boxes that are marked as difficult count like others, or are left out.
      classes: in the order of their indices; () = those that there are, sorted.
    """

    name: ClassVar[str] = "voc"
    gives: ClassVar[str] = "boxes"
    holds: ClassVar[str] = "folder"

    difficult: bool = True
    classes: Classes = VOC_CLASSES

    def digest(self, path: Path, images: ImageSet) -> str:
        sums = hashlib.sha256()
        for key, file in files_below(path, ".xml").items():
            sums.update(f"{key}\n".encode() + file.read_bytes())
        return sums.hexdigest()

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        xmls = files_below(path, ".xml")
        keys = match(names, xmls, str(path), as_key=stem)
        parsed: dict[str, _Objects] = {}
        with Progress(f"reading {path}", len(keys), "files") as progress:
            for name, key in keys.items():
                parsed[name] = self._parse(xmls[key])
                progress.advance()
        first = {found: str(xmls[keys[name]]) for name, each in reversed(parsed.items()) for found in each.names}
        classes = known_classes(sorted(first), self.classes, first.__getitem__)
        labels = {}
        for name, each in parsed.items():
            boxes_yxyx, outside = to_fractions(each.boxes_px, np.array([each.hw] * len(each.names)).reshape(-1, 2))
            if outside is not None:
                y0, x0, y1, x1 = each.boxes_px[outside].tolist()
                raise UserError(
                    f"{xmls[keys[name]]} has a box of {each.names[outside]} from ({x0 + 1:g}, {y0 + 1:g}) to "
                    f"({x1:g}, {y1:g}), outside of its {each.hw[1]} x {each.hw[0]} pixels; correct either"
                )
            labels[name] = boxes_yxyx, np.array([classes.index(found) for found in each.names], np.int32)

        def label(photo: Photo) -> Label | None:
            if photo.name not in labels:
                return None
            where = str(xmls[keys[photo.name]])
            return self.placed(kind, boxes_label(*labels[photo.name]), photo, parsed[photo.name].hw, where)

        return Annotations(BoxesLabel(max([1, *(len(each.names) for each in parsed.values())])), classes, label)

    def _parse(self, file: Path) -> _Objects:
        try:
            root = fromstring(file.read_bytes(), forbid_dtd=True)
            hw = int(_text(root, "size/height")), int(_text(root, "size/width"))
            if min(hw) < 1:
                raise ValueError(f"its size is {hw[1]} x {hw[0]}")
            objects = [each for each in root.iterfind("object") if self.difficult or not _is_difficult(each)]
            names = [_text(each, "name") for each in objects]
            corners = [[float(_text(each, f"bndbox/{end}")) for end in _ENDS] for each in objects]
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise UserError(f"{file} is not as VOC describes it: {error}; correct the file") from None
        boxes_px = np.array(corners, np.float64).reshape(-1, 4)
        if not np.isfinite(boxes_px).all() or np.any(boxes_px[:, 2:] < boxes_px[:, :2] - 1):
            raise UserError(f"{file} has a box that ends before it begins; correct the file")
        boxes_px[:, :2] -= 1  # pixels count from 1, and the last one is part of the box
        real = np.all(boxes_px[:, 2:] > boxes_px[:, :2], axis=1)
        return _Objects(hw, [name for name, kept in zip(names, real, strict=True) if kept], boxes_px[real])


class VocMasks(IdPng):
    """`SegmentationClass/*.png`: 0 = background, 1 to 20 = the classes, 255 = the seam around objects."""

    name: ClassVar[str] = "voc_masks"

    classes: Classes = ("background", *VOC_CLASSES)


def _text(element: Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"it has no {path} in {element.tag}")
    return text.strip()


def _is_difficult(element: Element) -> bool:
    return element.findtext("difficult", "0").strip() == "1"
