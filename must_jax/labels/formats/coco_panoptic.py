"""COCO panoptic segmentation: a JSON file, and PNG files whose colours are segment ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import NonNegativeInt

from must_jax import files
from must_jax.data import folders
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import IGNORE_ID, IdsLabel, Label, LabelKind
from must_jax.errors import UserError
from must_jax.labels.formats.base import Annotations, Photo, Placed
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.coco import category_classes
from must_jax.labels.formats.json_files import Category, Id, Integer, by, read_json
from must_jax.labels.formats.names import digest_of_sizes, files_below, match
from must_jax.labels.formats.png import SUFFIX, Header, check_headers, map_label, read_codes
from must_jax.labels.formats.spelling import as_here

_VOID = 0  # the id of pixels without a segment


@dataclass(frozen=True, slots=True)
class _Image:
    id: Id
    file_name: str


@dataclass(frozen=True, slots=True)
class _Segment:
    id: Integer
    category_id: Integer


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: Id
    file_name: str
    segments_info: list[_Segment]


class CocoPanoptic(Placed):
    """The classes of all segments, things and stuff, as one map of ids; pixels without a segment have no label."""

    name: ClassVar[str] = "coco_panoptic"
    gives: ClassVar[str] = "map of ids"
    holds: ClassVar[str] = "file"

    masks: str = ""
    """Folder of the PNG files; none = the JSON's path without its suffix, as in COCO."""
    classes: Classes = ()
    """Names of categories in the order of their indices; none = all categories, in the order of their ids."""
    max_side: NonNegativeInt = 0
    """Larger maps are reduced to this longer side, by nearest neighbour; 0 = never."""

    def digest(self, path: Path, images: ImageSet) -> str:
        folder = self._masks_of(path)
        pngs = files_below(folder, SUFFIX).values()
        return hashlib.sha256(f"{files.sha256(path)} {digest_of_sizes(pngs, folder)}".encode()).hexdigest()

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        assert isinstance(kind, IdsLabel)  # according to `gives`
        folder = self._masks_of(path)
        listed: list[_Image] = []
        annotated: list[_Annotation] = []
        categories: list[Category] = []
        read_json(
            path,
            {
                "images": (_Image, listed.extend),
                "annotations": (_Annotation, annotated.extend),
                "categories": (Category, categories.extend),
            },
        )
        images = by("id", listed, path)
        by("file_name", listed, path)
        by("image_id", annotated, path)
        class_of, classes = category_classes(categories, self.classes, path)
        stored = replace(kind, wide=len(classes) > IGNORE_ID)
        pngs = {folders.printable(name): folder / name for name in folders.files_below(folder, (SUFFIX,))}
        here, annotations = as_here(pngs), {}
        for each in annotated:
            if each.image_id not in images:
                raise UserError(f"{path} labels image {each.image_id}, which is not in its images; correct either")
            if (name := here(each.file_name)) not in pngs:
                raise UserError(f"{path} names {each.file_name}, which is not in {folder}; set masks to its folder")
            found = by("id", each.segments_info, f"{path}: {each.file_name}")
            if _VOID in found:
                raise UserError(
                    f"{path} lists segment {_VOID} for {each.file_name}, but pixels of {_VOID} belong to no segment; "
                    "number segments from 1, in the PNG files too"
                )
            segments = {id_: class_of(segment.category_id) for id_, segment in found.items()}
            annotations[images[each.image_id].file_name] = (
                pngs[name],
                {_VOID: stored.ignore_id, **segments},
            )
        file_names = match(names, annotations, str(path))
        check_headers((annotations[name][0] for name in file_names.values()), [Header(8, "RGB")], self.name)

        def label(photo: Photo) -> Label | None:
            if photo.name not in file_names:
                return None
            file, segments = annotations[file_names[photo.name]]
            ids = _classes_of_pixels(file, segments, path)
            return self.placed(stored, map_label(stored, ids, None, self.max_side), photo, ids.shape[:2], str(file))

        return Annotations(stored, classes, label, file_names.__contains__)

    def _masks_of(self, path: Path) -> Path:
        folder = Path(self.masks).expanduser() if self.masks else path.with_suffix("")
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder} with the PNGs of {path}; set masks to it")
        return folder


def _classes_of_pixels(file: Path, segments: dict[int, int], path: Path) -> np.ndarray:
    """i32[h, w], classes from a PNG with segment id = R + 256 G + 256^2 B."""
    codes = read_codes(file).astype(np.int32)
    found, which = np.unique(codes @ np.array([1, 256, 256**2], np.int32), return_inverse=True)
    if unknown := [id_ for id_ in found.tolist() if id_ not in segments]:
        raise UserError(f"{file} has pixels of segment {unknown[0]}, which {path} does not list for it; correct either")
    return np.array([segments[id_] for id_ in found.tolist()], np.int32)[which].reshape(codes.shape[:2])
