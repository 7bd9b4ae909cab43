"""Which pictures are images where several share a name: the samples of a WebDataset, masks beside photos."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from must_jax.data.folders import LeftOut
from must_jax.errors import UserError
from must_jax.progress import counted, say

EVERY = "*"  # every picture is an image
BESIDE = "beside the image of their sample"
MOST_UNCLEAR = 0.1  # of the samples; a few photos may share a name by chance
_NOT_ASKED = "ending not in config.image_suffix"
_ENDING = re.compile(r"(.*?)((?:\.[a-z_][^.]*)+)", re.I | re.S)  # "a.1.seg.png" -> "a.1", ".seg.png"
_USUAL = ("image", "img", "rgb", "input", "color", "colour", "photo")


class Picture(NamedTuple):
    """A picture's name without its ending, and the ending, which begins after the last part that is a number."""

    sample: str
    ending: str


def picture(name: str) -> Picture:
    """ "a/000.seg.png" -> "a/000", ".seg.png"."""
    folder, file = posixpath.split(name)
    found = _ENDING.fullmatch(file)
    sample, ending = found.groups() if found else (file, "")
    return Picture(posixpath.join(folder, sample), ending.lower())


def choose(
    names: Sequence[str], asked: Sequence[str], where: str, *, by_sample: bool
) -> tuple[list[bool], list[LeftOut]]:
    """Which pictures are images; and the others, counted by ending.

    Args:
      names: names of pictures; those of one sample are the same up to their endings.
      asked: the endings of images; "*" = any, () = see `by_sample`.
      where: the source, for messages.
      by_sample: in a sample with several pictures, one is the image: the one with a plain suffix (".jpg" beside
        ".seg.png"), else the one named as an image (".rgb.png" beside ".depth.png"). Endings that are not the image
        there are not images on their own either. If False, all pictures are images, and the user is told how many
        names are shared.

    Raises:
      UserError: in many samples, several pictures could be the image.
    """
    if EVERY in asked:
        return [True] * len(names), []
    if asked:
        endings = {f".{ending.lower().removeprefix('*').removeprefix('.')}" for ending in asked}
        return _parted(names, lambda each: each.ending in endings, _NOT_ASKED)
    first: dict[str, str] = {}  # ending of each sample
    several = defaultdict[str, set[str]](set)  # endings of the samples that have more
    for sample, ending in map(picture, names):
        if (before := first.setdefault(sample, ending)) != ending:
            several[sample] |= {before, ending}
    image_of = {sample: _image(endings) if by_sample else "" for sample, endings in several.items()}
    if unclear := [sample for sample, ending in image_of.items() if not ending]:
        of_one = ", ".join(f"{unclear[0]}{ending}" for ending in sorted(several[unclear[0]]))
        told = f"{where}: there are several pictures for {counted(len(unclear), 'name')} ({of_one} for instance)"
        remedy = "name the endings of images in config.image_suffix"
        if by_sample and len(unclear) > MOST_UNCLEAR * len(first):
            raise UserError(f"{told}, and it is not clear which are images; {remedy}, or set it to '*' for all")
        say(f"{told}, all of which are taken; if some are masks, {remedy}")
    clear = {sample: ending for sample, ending in image_of.items() if ending}
    others = {ending for sample in clear for ending in several[sample]} - {*clear.values()}
    return _parted(
        names, lambda each: clear.get(each.sample, each.ending) == each.ending and each.ending not in others, BESIDE
    )


def _parted(names: Sequence[str], is_image: Callable[[Picture], bool], reason: str) -> tuple[list[bool], list[LeftOut]]:
    taken, left_out = [], Counter[str]()
    for each in map(picture, names):
        taken.append(is_image(each))
        if not taken[-1]:
            left_out[each.ending] += 1
    return taken, [LeftOut(ending, reason, count) for ending, count in sorted(left_out.items())]


def _image(endings: set[str]) -> str:
    """The ending of the image; "" = it is not clear which."""
    plain = [ending for ending in endings if ending.count(".") == 1]
    usual = [ending for ending in endings if ending.split(".")[1] in _USUAL]
    clear = plain or usual
    return clear[0] if len(clear) == 1 else ""
