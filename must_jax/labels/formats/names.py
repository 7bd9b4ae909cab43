"""Matches labels to images: by name, never by order."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from must_jax.data import folders
from must_jax.errors import UserError
from must_jax.labels.formats.spelling import as_composed, as_here
from must_jax.progress import say

_WAYS: dict[str, Callable[[str], str]] = {  # what of a path decides
    "whole paths": lambda key: key,
    "last parts of paths": lambda key: key.rpartition("/")[2],
}
STRAY = 0.01  # up to this share of what last parts fit, whole paths fit by chance
_SAME_PATHS = "give labels and images the same relative paths"


def match(
    names: Sequence[str], keys: Iterable[str], where: str, as_key: Callable[[str], str] = lambda name: name
) -> dict[str, str]:
    """Image name -> the key of its label, for the images that have one. Says how many have none.

    By the whole relative path; by the last part of it where that fits more and whole paths fit no more than a STRAY
    few. Never by both, since then an image whose label is missing could take that of another folder. Paths that another
    machine wrote (see `as_here`) are whole paths if they end with one; whether accents are composed does not matter.

    Args:
      where: the labels' file or folder, for the messages.
      as_key: turns an image's name into what its label is called.

    Raises:
      UserError: a label fits several images or an image several labels, nothing fits at all, or last parts fit more
        but whole paths too many to be by chance.
    """
    called, keys = [(as_key(name), name) for name in names], list(keys)
    form = as_composed([key for key, _ in called], keys)
    called = [(form(key), name) for key, name in called]
    here = as_here([key for key, _ in called])
    spelt = {key: form(here(form(key))) for key in keys}
    ways = {way: _claims(called, spelt, part) for way, part in _WAYS.items()}
    way, claims = max(ways.items(), key=lambda each: _fits(each[1]))  # of two that are even, the first
    if not claims:
        raise UserError(
            f"{where} has a label for none of the {len(names)} images: labels are called like "
            f"'{next(iter(spelt), '')}', images like '{names[0]}'; correct the path"
        )
    fits, _ = _fits(claims)
    whole_fits, _ = _fits({key: each for key, each in ways["whole paths"].items() if key in each[1]})  # as written
    if claims is not ways["whole paths"] and STRAY * fits < whole_fits < fits:
        raise UserError(
            f"{where}: whole paths fit {whole_fits} images, last parts of paths {fits}, but these may be of other "
            f"folders; {_SAME_PATHS}, and remove labels of other images"
        )
    for key, (images, labels) in claims.items():
        if len(images) > 1:
            raise UserError(f"{where}: '{key}' may be the label of {images[0]} or {images[1]}; {_SAME_PATHS}")
        if len(labels) > 1:
            raise UserError(f"{where}: '{labels[0]}' or '{labels[1]}' may be the label of {images[0]}; {_SAME_PATHS}")
    matched = {image: label for (image,), (label,) in claims.values()}
    say(
        f"{where}, matched by {way}: {_left(spelt, set(matched.values()))} labels match no image, "
        f"{_left(names, matched)} images have no label"
    )
    return matched


def _left(names: Collection[str], matched: Collection[str]) -> str:
    """How many are not matched, with an example."""
    example = next((f" (e.g. '{name}')" for name in names if name not in matched), "")
    return f"{len(names) - len(matched)}{example} of {len(names)}"


def _claims(
    names: Iterable[tuple[str, str]], keys: Mapping[str, str], part: Callable[[str], str]
) -> dict[str, tuple[list[str], list[str]]]:
    """What images and labels share, of those that share something -> the images and the labels that it stands for.

    Args:
      names: what the label of an image is called, and the image.
      keys: a label, and how its path is spelt here.
    """
    labels, images = defaultdict(list), defaultdict(list)
    for key, spelt in keys.items():
        labels[part(spelt)].append(key)
    for key, name in names:
        if part(key) in labels:
            images[part(key)].append(name)
    return {key: (claiming, labels[key]) for key, claiming in images.items()}


def _fits(claims: Mapping[str, tuple[list[str], list[str]]]) -> tuple[int, bool]:
    """How many images have a label without doubt; and whether there is any doubt to be told of."""
    return sum(len(images) == len(labels) == 1 for images, labels in claims.values()), bool(claims)


def stem(name: str) -> str:
    """Without the last suffix: "a/1.x.jpg" -> "a/1.x"."""
    return name.removesuffix(PurePosixPath(name).suffix)


def files_below(folder: Path, suffix: str) -> dict[str, Path]:
    """Relative path without suffix, printable as images' names are -> file, in the paths' order.

    Raises:
      UserError: there is none, or two files differ in their suffix alone ("a.png" and "a.PNG").
    """
    names = folders.files_below(folder, (suffix,))
    if not names:
        raise UserError(f"there is no {suffix} file in {folder}; correct the path")
    files: dict[str, Path] = {}
    for file in (folder / name for name in names):
        other = files.setdefault(stem(folders.printable(str(file.relative_to(folder)))), file)
        if other != file:
            raise UserError(f"{other} and {file.name} are labels of one name; remove one of them")
    return files


def digest_of_sizes(files: Iterable[Path], folder: Path) -> str:
    """sha256 of names and sizes: to read all bytes of maps would take as long as to import them."""
    lines = (f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n" for path in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
