"""From a teacher's list of classes to another: renamed, merged, dropped, by a small TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from must_jax.config.base import MAX_LISTED, Names
from must_jax.errors import UserError, nearest

DROPPED = -1


class MappingFile(pydantic.BaseModel):
    """What such a file may say.

    Attributes:
      aliases: a name -> other spellings of it; wherever the teacher uses one of these, the name is meant.
      rename: the teacher's class -> its name here.
      merge: a class here -> those of the teacher that it is made of.
      drop: classes of the teacher that are no class here.
      others: what becomes of classes that nothing is said about.
      classes: all classes here, in their order; none = in the order of the teacher's. Some may never be predicted.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    aliases: dict[str, Names] = {}
    rename: dict[str, str] = {}
    merge: dict[str, Names] = {}
    drop: Names = ()
    others: Literal["keep", "drop"] = "keep"
    classes: Annotated[Names, Field(max_length=MAX_LISTED)] = ()


@dataclass(frozen=True)
class ClassMapping:
    """A teacher's classes -> the classes here.

    Attributes:
      given, classes: the two lists.
      index: i32[given], the class here of each of the teacher's; DROPPED = none.
    """

    given: tuple[str, ...]
    classes: tuple[str, ...]
    index: np.ndarray

    @property
    def unchanged(self) -> bool:
        """Whether every class is itself."""
        return self.given == self.classes and bool(np.all(self.index >= 0))

    @property
    def record(self) -> dict[str, str | None]:
        """The teacher's class -> its class here, for manifests; None = dropped."""
        return {name: None if i == DROPPED else self.classes[i] for name, i in zip(self.given, self.index, strict=True)}

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a task with the teacher's classes, without those of classes that are not themselves any more."""
        record, kept = self.record, dict[str, Any]()
        for key, value in options.items():
            if isinstance(value, Mapping):
                value = {name: each for name, each in value.items() if record.get(name) == name}
            if value != {}:
                kept[key] = value
        return kept

    def probs(self, probs: np.ndarray, independent: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """f32[..., given] -> f32[..., classes] and, of the dropped ones, f32[...].

        Args:
          independent: several classes may be true at once (sigmoids), so that the largest counts; otherwise their sum.
        """
        if self.unchanged:
            return probs, np.zeros(probs.shape[:-1], np.float32)
        if independent:
            places = [np.flatnonzero(self.index == here) for here in (*range(len(self.classes)), DROPPED)]
            largest = [probs[..., some].max(-1, initial=0) for some in places]
            return np.stack(largest[:-1], -1), largest[-1]
        matrix = np.zeros((len(self.given), len(self.classes) + 1), np.float32)
        matrix[np.arange(len(self.given)), self.index] = 1  # DROPPED is the last column
        summed = probs @ matrix
        return summed[..., :-1], summed[..., -1]

    def ids(self, ids: np.ndarray) -> np.ndarray:
        """i[...] -> i32[...]; what is below 0 becomes DROPPED.

        Raises:
          ValueError: an id that is not in the teacher's list.
        """
        if ids.size and ids.max() >= len(self.given):
            raise ValueError(f"class {ids.max()}, but the teacher has {len(self.given)} classes, numbered from 0")
        return np.append(self.index, DROPPED)[np.maximum(ids, DROPPED)].astype(np.int32)


def load(path: str, given: Sequence[str]) -> ClassMapping:
    """The mapping in a file, for a teacher with these classes.

    Raises:
      UserError: as `read`; it names a class that the teacher does not have (names the nearest), one twice, or one that
        is not among its `classes`; nothing is left.
    """
    return _mapping(path, read(path), tuple(given))


def read(path: str) -> MappingFile:
    """What a file says, whatever the teacher.

    Raises:
      UserError: the file is missing or malformed.
    """
    file = Path(path).expanduser()
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"the mapping of classes {path} cannot be read: {error.strerror}; correct the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}; see docs/teachers.md") from None
    try:
        return MappingFile.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = (
            f"; {nearest(str(first['loc'][0]), MappingFile.model_fields)}" if first["type"] == "extra_forbidden" else ""
        )
        raise UserError(f"{path}: {key}: {first['msg']}{hint}") from None


def _mapping(path: str, told: MappingFile, given: tuple[str, ...]) -> ClassMapping:
    meant = {alias: name for name, aliases in told.aliases.items() for alias in aliases}
    names = [meant.get(name, name) for name in given]

    def known(name: str, where: str) -> str:
        name = meant.get(name, name)
        if name not in names:
            raise UserError(f"{path}: {where} names '{name}', which the teacher does not have; {nearest(name, names)}")
        return name

    target: dict[str, str | None] = {}

    def put(name: str, to: str | None, where: str) -> None:
        name = known(name, where)
        if name in target and target[name] != to:
            raise UserError(f"{path}: {where} names '{name}', which {target[name] or 'drop'} has already; keep one")
        target[name] = to

    for source, to in told.rename.items():
        put(source, to, "rename")
    for to, sources in told.merge.items():
        for source in sources:
            put(source, to, f"merge.{to}")
    for source in told.drop:
        put(source, None, "drop")
    for name in names:
        target.setdefault(name, name if told.others == "keep" else None)
    for source, to in told.rename.items():
        alike = [name for name in dict.fromkeys(names) if target[name] == to]
        if len(alike) > 1 and to not in told.merge:
            raise UserError(
                f"{path}: with rename, '{source}' is not the only '{to}'; write [merge] {to} = {json.dumps(alike)} if "
                "they are one class here"
            )
    made = [each for name in names if (each := target[name]) is not None]
    classes = told.classes or tuple(dict.fromkeys(made))
    for each in made:
        if each not in classes:
            raise UserError(f"{path}: '{each}' is not among its classes; {nearest(each, classes)}, or drop it")
    if len({*classes}) < len(classes) or not made:
        raise UserError(f"{path} leaves no class, or lists one twice; correct it")
    index = [DROPPED if (here := target[name]) is None else classes.index(here) for name in names]
    return ClassMapping(given, classes, np.array(index, np.int32))


def same(classes: Sequence[str]) -> ClassMapping:
    """Every class is itself."""
    return ClassMapping(tuple(classes), tuple(classes), np.arange(len(classes), dtype=np.int32))


def record_of(mapping: ClassMapping) -> Mapping[str, Any]:
    """For manifests; nothing if no class changes."""
    return {} if mapping.unchanged else mapping.record
