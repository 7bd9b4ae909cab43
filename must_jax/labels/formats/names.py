"""Which label belongs to which image: by name, never by order."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from must_jax.data import folders
from must_jax.errors import UserError

_SAME_PATHS = "give labels and images the same relative paths"


def match(
    names: Sequence[str], keys: Iterable[str], where: str, as_key: Callable[[str], str] = lambda name: name
) -> dict[str, str]:
    """Image name -> the key of its label, for the images that have one.

    By the whole relative path if that fits any image, else by the last part of it; never by both, since then an image
    whose label is missing could take that of another folder.

    Args:
      where: the labels' file or folder, for the messages.
      as_key: turns an image's name into what its label is called.

    Raises:
      UserError: a label fits several images or an image several labels, or nothing fits at all.
    """
    keys = list(keys)
    for part in (lambda key: key, lambda key: key.rpartition("/")[2]):
        labels, images = defaultdict(list), defaultdict(list)
        for key in keys:
            labels[part(key)].append(key)
        for name in names:
            if (key := part(as_key(name))) in labels:
                images[key].append(name)
        for key, claiming in images.items():
            if len(claiming) > 1:
                raise UserError(f"{where}: '{key}' may be the label of {claiming[0]} or {claiming[1]}; {_SAME_PATHS}")
            if len(labels[key]) > 1:
                one, other = labels[key][:2]
                raise UserError(f"{where}: '{one}' or '{other}' may be the label of {claiming[0]}; {_SAME_PATHS}")
        if images:
            return {claiming[0]: labels[key][0] for key, claiming in images.items()}
    raise UserError(
        f"{where} has a label for none of the {len(names)} images: labels are called like '{next(iter(keys), '')}', "
        f"images like '{names[0]}'; correct the path"
    )


def stem(name: str) -> str:
    """Without the last suffix: "a/1.x.jpg" -> "a/1.x"."""
    return name.removesuffix(PurePosixPath(name).suffix)


def files_below(folder: Path, suffix: str) -> dict[str, Path]:
    """Relative path without suffix, printable as images' names are -> file, in the paths' order.

    Raises:
      UserError: there is none.
    """
    names = folders.files_below(folder, (suffix,))
    if not names:
        raise UserError(f"there is no {suffix} file in {folder}; correct the path")
    return {stem(folders.printable(name)): folder / name for name in names}


def digest_of_sizes(files: Iterable[Path], folder: Path) -> str:
    """sha256 of names and sizes: to read all bytes of maps would take as long as to import them."""
    lines = (f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n" for path in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
