"""Paths that another machine wrote: of Windows, absolute, as URLs, with accents as macOS stores them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from urllib.parse import unquote

_FOREIGN = re.compile(r"[a-z][a-z0-9+.-]*:/|\.{0,2}/|.*(\\|%[0-9a-f]{2})", re.I | re.S)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://?", re.I)  # two letters at least: "C:/" is none


def composed(text: str) -> str:
    """In Unicode's composed form, NFC: macOS and some archives have an accent as a sign of its own."""
    return unicodedata.normalize("NFC", text)


def as_composed(*paths: Collection[str]) -> Callable[[str], str]:
    """A function that composes a path (see `composed`), unless only that tells two of one collection apart."""
    alike = {form for each in paths for form, count in Counter(map(composed, set(each))).items() if count > 1}
    return lambda path: path if (form := composed(path)) in alike else form


def as_here(paths: Collection[str]) -> Callable[[str], str]:
    r"""A function from a path in a file of labels to what it would be called here, by the paths of the images.

    "C:\x\train\1.jpg", "./train/1.jpg", "file:///home/x/train/1.jpg" and "train%2F1.jpg" are "train/1.jpg" where an
    image is called so: they end with the longest path that there is. What is called like an image stays as it is.
    """
    whole, last = set(paths), {path.rpartition("/")[2] for path in paths}

    def spelt(path: str) -> str:
        if path in whole or not _FOREIGN.match(path):
            return path
        if path.rpartition("/")[2] not in last:  # else its backslashes and percents are meant
            if scheme := _SCHEME.match(path):
                path = path[scheme.end() :].partition("?")[0]
            path = unquote(path).replace("\\", "/")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in whole), "/".join(parts))

    return spelt
