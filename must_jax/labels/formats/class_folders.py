"""Class folders: an image's class is the name of a folder that it lies in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label, LabelKind, VectorLabel
from must_jax.errors import UserError
from must_jax.labels.formats.base import PRESENT, Annotations, Format, Photo, known_classes
from must_jax.labels.formats.class_lists import Classes
from must_jax.labels.formats.spelling import composed
from must_jax.progress import say

_FEW = 20  # images; with more, a class should have several


class ClassFolders(Format):
    """ "train/cat/1.jpg" is a "cat". Class names are composed (NFC), however the disk stores the folders' names."""

    name: ClassVar[str] = "class_folders"
    gives: ClassVar[str] = "vector"
    holds: ClassVar[str] = ""

    level: int = -1
    """Which folder of the path: -1 = the innermost, 0 = the outermost."""
    classes: Classes = ()
    """In the order of their indices; none = all that occur, sorted."""

    def digest(self, path: Path, images: ImageSet) -> str:
        return images.digest

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        first: dict[str, str] = {}
        depths: dict[int, str] = {}
        for name in names:
            first.setdefault(self._folder(name), name)
            depths.setdefault(len(_folders(name)), name)
        if len(names) > _FEW and len(first) > len(names) // 2:
            raise UserError(
                f"{len(names)} images lie in {len(first)} folders at level {self.level}, e.g. {names[0]}, "
                "so these folders are not classes; change level, or use another format"
            )
        classes = known_classes(sorted(first), [composed(each) for each in self.classes], first.__getitem__)
        say(f"class_folders: {self._about_level(names[0])}{self._told_depths(depths)}")
        indices = {folder: i for i, folder in enumerate(classes)}

        def label(photo: Photo) -> Label:
            probs = np.zeros(len(classes), np.float32)
            probs[indices[self._folder(photo.name)]] = 1
            return {"probs": probs, "present": PRESENT}

        return Annotations(VectorLabel(len(classes)), classes, label)

    def _folder(self, name: str) -> str:
        folders = _folders(name)
        if not -len(folders) <= self.level < len(folders):
            inside = "/".join(name.split("/")[: -len(folders) - 1])
            where = f"{len(folders)} folders" + (f" inside of {inside}" if inside else "")
            raise UserError(
                f"{name} lies in {where}, so there is none at level {self.level} to name its class; change level, move "
                "the image, or use another format"
            )
        return composed(folders[self.level])

    def _about_level(self, name: str) -> str:
        which = {-1: "innermost folder", 0: "outermost folder"}.get(self.level, "folder of the path")
        return f"the class is the {which} (level {self.level}), {name} is a '{self._folder(name)}'"

    def _told_depths(self, depths: Mapping[int, str]) -> str:
        """A hint, if images lie at different depths, that another level may be meant; otherwise ""."""
        if len(depths) == 1:
            return ""
        least, most = depths[min(depths)], depths[max(depths)]
        return (
            f"; images lie in {min(depths)} to {max(depths)} folders: {least} is a '{self._folder(least)}', {most} a "
            f"'{self._folder(most)}', so set level to choose another folder"
        )


def _folders(name: str) -> list[str]:
    """The folders that an image lies in; for an image from a tar or Parquet file, those inside that file."""
    parts = name.split("/")[:-1]
    files = [at for at, part in enumerate(parts, start=1) if part.lower().endswith((".tar", ".parquet"))]
    return parts[max(files, default=0) :]
