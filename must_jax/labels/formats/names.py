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

_WAYS: dict[str, Callable[[str], str]] = {  # which part of a path is compared
    "full paths": lambda key: key,
    "file names": lambda key: key.rpartition("/")[2],
}
STRAY = 0.01  # full paths that match at most this share of the images that file names match do so by chance
_SAME_PATHS = "give labels and images the same relative paths"


def match(
    names: Sequence[str], keys: Iterable[str], where: str, as_key: Callable[[str], str] = lambda name: name
) -> dict[str, str]:
    """Image name -> the key of its label, for the images that have one. Prints how many have none.

    Compares full relative paths, or only the file names in them if those match more images, and full paths match too
    few to matter (STRAY). Never both, since then an image whose label is missing could get that of another folder. A
    path written elsewhere (see `as_here`) counts as the full path that it ends with; it does not matter whether accents
    are composed.

    Args:
      where: the labels' file or folder, for the messages.
      as_key: turns an image's name into the name of its label.

    Raises:
      UserError: a label matches several images or an image several labels, nothing matches at all, or file names match
        more images than full paths, but full paths match too many for chance.
    """
    called, keys = [(as_key(name), name) for name in names], list(keys)
    form = as_composed([key for key, _ in called], keys)
    called = [(form(key), name) for key, name in called]
    here = as_here([key for key, _ in called])
    spelt = {key: form(here(form(key))) for key in keys}
    ways = {way: _claims(called, spelt, part) for way, part in _WAYS.items()}
    way, claims = max(ways.items(), key=lambda each: _fits(each[1]))  # of equals, the first
    if not claims:
        raise UserError(
            f"{where} has a label for none of the {len(names)} images: labels are called like "
            f"'{next(iter(spelt), '')}', images like '{names[0]}'; correct the path, or, for maps whose names have an "
            "addition, set the option replace"
        )
    fits, _ = _fits(claims)
    whole_fits, _ = _fits({key: each for key, each in ways["full paths"].items() if key in each[1]})  # as written
    if claims is not ways["full paths"] and STRAY * fits < whole_fits < fits:
        raise UserError(
            f"{where}: full paths match {whole_fits} images, file names {fits}, but these may be in different "
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
    """How many are not matched, with an example, and of how many."""
    example = next((f" (e.g. '{name}')" for name in names if name not in matched), "")
    return f"{len(names) - len(matched)}{example} of {len(names)}"


def _claims(
    names: Iterable[tuple[str, str]], keys: Mapping[str, str], part: Callable[[str], str]
) -> dict[str, tuple[list[str], list[str]]]:
    """The compared part of a path -> the images and the labels that have it, if there are both.

    Args:
      names: pairs of the name of an image's label and the image.
      keys: label -> its path as spelt here.
    """
    labels, images = defaultdict(list), defaultdict(list)
    for key, spelt in keys.items():
        labels[part(spelt)].append(key)
    for key, name in names:
        if part(key) in labels:
            images[part(key)].append(name)
    return {key: (claiming, labels[key]) for key, claiming in images.items()}


def _fits(claims: Mapping[str, tuple[list[str], list[str]]]) -> tuple[int, bool]:
    """How many images have exactly one label that is theirs alone; and whether any image has a label at all."""
    return sum(len(images) == len(labels) == 1 for images, labels in claims.values()), bool(claims)


def stem(name: str) -> str:
    """The name without its last suffix: "a/1.x.jpg" -> "a/1.x"."""
    return name.removesuffix(PurePosixPath(name).suffix)


def files_below(folder: Path, suffix: str) -> dict[str, Path]:
    """Relative path without suffix, made printable like images' names -> file, in the order of the paths.

    Raises:
      UserError: there is no such file, or two files differ only in their suffix ("a.png" and "a.PNG").
    """
    names = folders.files_below(folder, (suffix,))
    if not names:
        raise UserError(f"there is no {suffix} file in {folder}; correct the path")
    files: dict[str, Path] = {}
    for file in (folder / name for name in names):
        other = files.setdefault(stem(folders.printable(str(file.relative_to(folder)))), file)
        if other != file:
            raise UserError(f"{other} and {file.name} are labels with the same name; remove one of them")
    return files


def digest_of_sizes(files: Iterable[Path], folder: Path) -> str:
    """sha256 of names and sizes: reading all bytes of maps would take as long as importing them."""
    lines = (f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n" for path in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
