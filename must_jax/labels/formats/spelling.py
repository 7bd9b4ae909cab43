"""Paths written elsewhere: Windows paths, absolute paths, URLs, and accents as macOS stores them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from urllib.parse import unquote

_FOREIGN = re.compile(r"[a-z][a-z0-9+.-]*:/|\.{0,2}/|.*(\\|%[0-9a-f]{2})", re.I | re.S)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://?", re.I)  # at least two letters: "C:/" is not a scheme


def composed(text: str) -> str:
    """The text in Unicode's composed form, NFC: macOS and some archives store an accent as a separate character."""
    return unicodedata.normalize("NFC", text)


def as_composed(*paths: Collection[str]) -> Callable[[str], str]:
    """A function that composes a path (see `composed`), unless two paths of one collection would then be equal."""
    alike = {form for each in paths for form, count in Counter(map(composed, set(each))).items() if count > 1}
    return lambda path: path if (form := composed(path)) in alike else form


def as_here(paths: Collection[str]) -> Callable[[str], str]:
    r"""A function from a path in a file of labels to its spelling here, given the paths of the images.

    "C:\x\train\1.jpg", "./train/1.jpg", "file:///home/x/train/1.jpg" and "train%2F1.jpg" become "train/1.jpg" if that
    is an image: the result is the longest end of a path that is an image's path. An image's own path stays as it is.
    """
    whole, last = set(paths), {path.rpartition("/")[2] for path in paths}

    def spelt(path: str) -> str:
        if path in whole or not _FOREIGN.match(path):
            return path
        if path.rpartition("/")[2] not in last:  # otherwise its backslashes and percent signs are literal
            if scheme := _SCHEME.match(path):
                path = path[scheme.end() :].partition("?")[0]
            path = unquote(path).replace("\\", "/")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in whole), "/".join(parts))

    return spelt
