"""PASCAL VOC (Everingham et al. 2010): boxes in one XML file per image, and masks as PNG files with a palette."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label, LabelKind
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Photo, known_classes
from must_jax.labels.formats.box_checks import Boxes, BoxesFormat, ImageLabels, later
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.id_png import IdPng
from must_jax.labels.formats.names import files_below, match, stem
from must_jax.labels.formats.png import Seen
from must_jax.labels.formats.refusals import refusal
from must_jax.progress import Progress, counted, say

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_ENDS = ("ymin", "xmin", "ymax", "xmax")
_EDGES = {"from_1": (-1.0, 0.0), "from_0": (0.0, 1.0), "edges": (0.0, 0.0)}  # from the first and last pixel to the box
_ANOTHER_BASE_PX = 0.5
_LARGE = 2**31 - 1  # pixels
_NONE = -1  # not a colour of VOC's
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no", "unspecified", "")


class _Objects(NamedTuple):
    """The boxes of one file: `corners` f64[n, 4] ymin, xmin, ymax, xmax as given; `difficult` bool[n]."""

    hw: tuple[int, int]
    names: list[str]
    corners: np.ndarray
    difficult: np.ndarray


class Voc(BoxesFormat):
    """Boxes in XML."""

    name: ClassVar[str] = "voc"
    gives: ClassVar[str] = "boxes"
    holds: ClassVar[str] = "folder"

    difficult: bool = False
    """Boxes that are marked as difficult count like others; if not, they are to be ignored."""
    pixels: Annotated[Literal["from_1", "from_0", "edges"], later("from_1")] = "from_1"
    """What xmin to ymax are. `from_1`, as in VOC: the first and the last pixel of a box, counted from 1; `from_0`: the
    same, counted from 0; `edges`: where the box begins and ends, from 0 to the width or height."""
    classes: Classes = VOC_CLASSES
    """In the order of their indices; none = all that occur, sorted."""

    def digest(self, path: Path, images: ImageSet) -> str:
        sums = hashlib.sha256()
        for key, file in files_below(path, ".xml").items():
            sums.update(f"{key}\n".encode() + file.read_bytes())
        return sums.hexdigest()

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        xmls = files_below(path, ".xml")
        keys = match(names, xmls, str(path), as_key=stem)
        parsed = self._read({name: xmls[key] for name, key in keys.items()}, path)
        first = {found: str(xmls[keys[name]]) for name, each in reversed(parsed.items()) for found in each.names}
        classes = known_classes(sorted(first), self.classes, first.__getitem__)
        labels = self._labels(parsed, classes, path, xmls, keys)
        numbers = {name: number for number, name in enumerate(parsed)}

        def label(photo: Photo) -> Label | None:
            if photo.name not in numbers:
                return None
            where = str(xmls[keys[photo.name]])
            return self.placed(kind, labels[numbers[photo.name]], photo, parsed[photo.name].hw, where)

        return Annotations(labels.kind, classes, label, numbers.__contains__)

    def _read(self, xmls: Mapping[str, Path], path: Path) -> dict[str, _Objects]:
        """The contents of these images' files, in the same order."""
        parsed: dict[str, _Objects] = {}
        problems: list[str] = []
        with Progress(f"reading {path}", len(xmls), "files") as progress:
            for name, file in xmls.items():
                try:
                    parsed[name] = self._parse(file)
                except UserError as error:
                    problems.append(str(error))
                progress.advance()
        if problems:
            raise refusal(problems)
        return parsed

    def _labels(
        self,
        parsed: Mapping[str, _Objects],
        classes: Sequence[str],
        path: Path,
        xmls: Mapping[str, Path],
        keys: Mapping[str, str],
    ) -> ImageLabels:
        objects, names = list(parsed.values()), list(parsed)
        owners = np.repeat(np.arange(len(objects)), [len(each.names) for each in objects])
        sizes = np.array([each.hw for each in objects], np.int32).reshape(-1, 2)
        hw = sizes[owners].astype(np.int64)
        found = [name for each in objects for name in each.names]
        indices = {name: index for index, name in enumerate(classes)}
        corners = np.concatenate([np.zeros((0, 4)), *(each.corners for each in objects)])
        ignore = np.concatenate([np.zeros(0, bool), *(each.difficult for each in objects)]) & (not self.difficult)
        numbers = np.array([indices[name] for name in found], np.int32)
        given = Boxes(lambda rows: corners[rows], sizes, owners.astype(np.int32), numbers, ignore)
        boxes = self.in_pixels(given, str(path))

        def file_of(row: int) -> Path:
            return xmls[keys[names[owners[row]]]]

        def complaint(row: int) -> str:
            y0, x0, y1, x1 = corners[row].tolist()
            return (
                f"{file_of(row)} has a box of {found[row]} from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}), outside of its "
                f"{hw[row, 1]} x {hw[row, 0]} pixels; correct either, or set clip=true to clip it"
            )

        if not self.fractions:
            self._check_base(corners, hw, file_of)
            edges = corners + np.repeat(_EDGES[self.pixels], 2)
            boxes = replace(boxes, corners=lambda rows: edges[rows])
        return self.labels(boxes, str(path), complaint)

    def _check_base(self, corners: np.ndarray, hw: np.ndarray, file_of: Callable[[int], Path]) -> None:
        """Raises UserError if boxes stick out of their image by about a pixel, since then `pixels` is wrong."""
        before, after = _EDGES[self.pixels]
        if self.pixels == "edges" or self.clip:
            return
        begin, end = corners[:, :2] + before, corners[:, 2:] + after - hw
        early = np.any((begin <= -_ANOTHER_BASE_PX) & (begin >= -1), axis=1)
        late = np.any((end >= _ANOTHER_BASE_PX) & (end <= 1), axis=1)
        if not (rows := np.flatnonzero(early | late)).size:
            return
        if self.pixels == "from_0" or np.any(corners[:, 2:] >= hw):
            likely = "edges of boxes: set the option pixels=edges"
        else:
            likely = (
                "counted from 0: set the option pixels=from_0, or pixels=edges if the last pixel is not part of boxes"
            )
        first = 1 if self.pixels == "from_1" else 0
        raise UserError(
            f"{file_of(rows[0])}: {len(rows)} of {counted(len(corners), 'box')} of all files begin before pixel "
            f"{first} or end after the last one, counted from {first}, so they are {likely} (clip=true clips them)"
        )

    def _parse(self, file: Path) -> _Objects:
        try:
            root = fromstring(file.read_bytes(), forbid_dtd=True)
            hw = int(_text(root, "size/height")), int(_text(root, "size/width"))
            if min(hw) < 1 or max(hw) > _LARGE:
                raise ValueError(f"its size is {hw[1]} x {hw[0]}")
            objects = root.findall("object")
            difficult = np.array([_is_difficult(each) for each in objects], bool)
            names = [_text(each, "name") for each in objects]
            corners = [[float(_text(each, f"bndbox/{end}")) for end in _ENDS] for each in objects]
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise UserError(f"{file} is not as VOC describes it: {error}; correct the file") from None
        corners_yxyx = np.array(corners, np.float64).reshape(-1, 4)
        if not np.isfinite(corners_yxyx).all():
            raise UserError(f"{file} has a box with a coordinate that is not a finite number; correct the file")
        if np.any(corners_yxyx[:, 2:] < corners_yxyx[:, :2]):
            raise UserError(f"{file} has a box that ends before it begins; correct the file")
        if np.abs(corners_yxyx).max(initial=0) > _LARGE:
            raise UserError(
                f"{file} has a box at {np.abs(corners_yxyx).max():g}, farther than images go; correct the file"
            )
        return _Objects(hw, names, corners_yxyx, difficult)


def colour_map() -> np.ndarray:
    """u8[256, 3]: VOC's colours for all codes, from the development kit."""
    codes = np.arange(256)
    bits = [sum(((codes >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(bits, 1).astype(np.uint8)


class VocMasks(IdPng):
    """`SegmentationClass/*.png`: 0 = background, 1 to 20 = the classes, 255 = the seam around objects.

    If a palette has VOC's colours in another order, as some image programs save it, the colours decide.
    """

    name: ClassVar[str] = "voc_masks"

    classes: Classes = ("background", *VOC_CLASSES)
    """In the order of their indices."""

    def _as_coloured(self, indices: np.ndarray, palette: np.ndarray | None, file: Path, seen: Seen) -> np.ndarray:
        if palette is None:
            return indices
        colours = colour_map().tolist()
        codes_of = {tuple(colours[code]): code for code in (*range(1 + len(VOC_CLASSES)), 255)}
        own = dict(enumerate(map(tuple, palette.tolist())))
        used = np.unique(indices).tolist()
        known = [codes_of.get(own.get(index, ()), _NONE) for index in used]
        others = {index: code for index, code in zip(used, known, strict=True) if code not in (_NONE, index)}
        if not others:
            return indices
        if _NONE in known:
            index, code = next(iter(others.items()))
            raise UserError(
                f"{file} has code {index} with VOC's colour of code {code}, and colours that VOC does not have, so its "
                "palette is not VOC's; write the codes as 8-bit grey, or use id_png"
            )
        seen.add(file, {"coloured": 1})
        codes = np.zeros(256, np.uint8)
        codes[used] = known
        return codes[indices]

    def review(self, path: Path, seen: Seen, statistics: Statistics) -> None:
        super().review(path, seen, statistics)
        if seen.files["coloured"]:
            say(f"{path}: {seen.files['coloured']} masks have VOC's colours in another order, so their colours decide")


def _text(element: Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"it has no {path} in {element.tag}")
    return text.strip()


def _is_difficult(element: Element) -> bool:
    text = element.findtext("difficult", "").strip()
    if text.lower() not in (*_YES, *_NO):
        raise ValueError(f"difficult is '{text}', which is neither 0 nor 1")
    return text.lower() in _YES
