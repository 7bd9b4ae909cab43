"""Class folders: an image's class is the name of a folder that it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from must_jax.data.encodings import Label
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import LabelKind, VectorLabel
from must_jax.errors import UserError
from must_jax.labels.formats.base import PRESENT, Annotations, Classes, Format, Photo, known_classes

_FEW = 20  # images; with more, a class has several


class ClassFolders(Format):
    """ "train/cat/1.jpg" is a "cat".

    Attributes:
      level: which folder of the path: -1 = the innermost, 0 = the outermost.
      classes: in the order of their indices; () = those that there are, sorted.
    """

    name: ClassVar[str] = "class_folders"
    gives: ClassVar[str] = "vector"
    holds: ClassVar[str] = ""

    level: int = -1
    classes: Classes = ()

    def digest(self, path: Path, images: ImageSet) -> str:
        return images.digest

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(self._folder(name), name)
        if len(names) > _FEW and len(first) > len(names) // 2:
            raise UserError(
                f"{len(names)} images lie in {len(first)} folders at level {self.level}, e.g. {names[0]}, "
                "so these folders are no classes; change level, or use another format"
            )
        classes = known_classes(sorted(first), self.classes, first.__getitem__)
        indices = {folder: i for i, folder in enumerate(classes)}

        def label(photo: Photo) -> Label:
            probs = np.zeros(len(classes), np.float32)
            probs[indices[self._folder(photo.name)]] = 1
            return {"probs": probs, "present": PRESENT}

        return Annotations(VectorLabel(len(classes)), classes, label)

    def _folder(self, name: str) -> str:
        folders = name.split("/")[:-1]
        if not -len(folders) <= self.level < len(folders):
            raise UserError(
                f"{name} lies in {len(folders)} folders, so there is none at level {self.level} to name its class; "
                "change level, or move the image"
            )
        return folders[self.level]
