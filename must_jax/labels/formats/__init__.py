"""The supported formats of true labels: a new one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from must_jax.errors import UserError, nearest
from must_jax.labels.formats.base import Format
from must_jax.labels.formats.class_folders import ClassFolders
from must_jax.labels.formats.coco import Coco
from must_jax.labels.formats.coco_panoptic import CocoPanoptic
from must_jax.labels.formats.depth_png import DepthPng
from must_jax.labels.formats.id_png import IdPng
from must_jax.labels.formats.normal_png import NormalPng
from must_jax.labels.formats.voc import Voc, VocMasks

_ALL: tuple[type[Format], ...] = (ClassFolders, Coco, Voc, CocoPanoptic, IdPng, VocMasks, DepthPng, NormalPng)
FORMATS = {each.name: each for each in _ALL}


def build_format(name: str, options: Mapping[str, Any]) -> Format:
    """The format `name` with its options from a config.

    Raises:
      UserError: an unknown format or option (names the nearest one), a missing option, a value out of range.
    """
    if name not in FORMATS:
        raise UserError(f"there is no format '{name}'; {nearest(name, FORMATS)}")
    for key in options:
        if key not in (known := FORMATS[name].model_fields):
            raise UserError(f"format '{name}' has no option '{key}'; {nearest(key, known)}")
    try:
        return FORMATS[name](**options)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            raise UserError(f"format '{name}' needs the option '{first['loc'][0]}'; set it") from None
        option = ".".join(map(str, first["loc"][:1]))
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"format '{name}'{f', option {option}' if option else ''}: {message}") from None
