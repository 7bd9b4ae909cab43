"""Maps as PNG files, one per image: which file belongs to which image, and whether files are as declared."""

from __future__ import annotations

import abc
import functools
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import cv2
import numpy as np
from pydantic import AfterValidator, NonNegativeInt

from must_jax.config import Names
from must_jax.data.decoding import check_pixels
from must_jax.data.headers import opened, pixels
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import Label, LabelKind, MapLabel
from must_jax.data.kinds.statistics import Statistics
from must_jax.errors import UserError
from must_jax.labels.formats.base import PRESENT, Annotations, Photo, Placed
from must_jax.labels.formats.names import digest_of_sizes, files_below, match, stem

SUFFIX = ".png"
_OPENED_TOGETHER, _OPENING = 256, 16  # files at a time in each thread; threads, which wait for the network
MOST_SIDE = 16_383  # pixels, WebP's limit
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


class Header(NamedTuple):
    """The header of a PNG file: bits per channel, and what the channels are."""

    bits: int
    colours: str

    def __str__(self) -> str:
        return f"{self.bits}-bit {self.colours}"


class Seen:
    """Counts the things in the files of an import, such as codes, from many threads.

    Attributes:
      amount: thing -> its amount over all files; for a code, its pixels.
      files: thing -> how many files have it.
      first: thing -> one of these files.
    """

    def __init__(self) -> None:
        self.amount: Counter[Hashable] = Counter()
        self.files: Counter[Hashable] = Counter()
        self.first: dict[Hashable, Path] = {}
        self._lock = threading.Lock()

    def add(self, file: Path, amounts: Mapping[Any, int]) -> None:
        with self._lock:
            self.amount.update(amounts)
            self.files.update(amounts.keys())
            for thing in amounts:
                self.first.setdefault(thing, file)


def _pair(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) != 2:
        raise ValueError("give a text and what replaces it, as in '_leftImg8bit,_gtFine_labelTrainIds'")
    return texts


class PngMaps(Placed):
    """A folder of PNG files that are named like their images.

    Attributes:
      headers: the headers that files may have.
      unlike: what files with other headers usually are, for the message.
    """

    holds: ClassVar[str] = "folder"
    headers: ClassVar[tuple[Header, ...]]
    unlike: ClassVar[str] = ""

    replace: Annotated[Names, AfterValidator(_pair)] = ("", "")
    """A text in an image's path (without its suffix), and its replacement in the path of the map:
    _leftImg8bit,_gtFine_labelTrainIds; if the first is empty, the second is appended."""
    max_side: NonNegativeInt = 0
    """Larger maps are reduced to this longer side: ids by nearest neighbour, values by the mean of the valid ones; 0 =
    never. Metrics are measured at the reduced size."""

    @property
    def stored_unit(self) -> str:
        """Of the values in the column."""
        return ""

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    @abc.abstractmethod
    def values(self, file: Path, seen: Seen) -> tuple[np.ndarray, np.ndarray | None]:
        """A map at full size, 0 where it is not valid, and its valid pixels; None for ids, which are not masked.

        Args:
          seen: receives what `review` needs to know about the file.

        Raises:
          UserError: the contents of the file contradict the options.
        """

    def review(self, path: Path, seen: Seen, statistics: Statistics) -> None:
        """As `Annotations.review`."""

    def digest(self, path: Path, images: ImageSet) -> str:
        return digest_of_sizes(files_below(path, SUFFIX).values(), path)

    def open(self, path: Path, names: Sequence[str], kind: LabelKind) -> Annotations:
        assert isinstance(kind, MapLabel)  # according to `gives`
        pngs = files_below(path, SUFFIX)
        files = {name: pngs[key] for name, key in match(names, pngs, str(path), self._as_key).items()}
        check_headers(files.values(), self.headers, self.name, self.unlike)
        stored = kind.as_found(self.stored_unit, len(self.class_names))
        seen = Seen()

        def label(photo: Photo) -> Label | None:
            if photo.name not in files:
                return None
            file = files[photo.name]
            values, valid = self.values(file, seen)
            label = map_label(stored, values, valid, self.max_side)
            return self.placed(stored, label, photo, values.shape[:2], str(file))

        return Annotations(
            stored, self.class_names, label, files.__contains__, functools.partial(self.review, path, seen)
        )

    def _as_key(self, name: str) -> str:
        old, new = self.replace
        return stem(name).replace(old, new) if old else stem(name) + new


def map_label(kind: MapLabel, values: np.ndarray, valid: np.ndarray | None, max_side: int) -> Label:
    """A map (see `PngMaps.values`) as a label, reduced if its longer side has more than `max_side` pixels.

    Raises:
      UserError: the map is too large to be stored.
    """
    height, width = values.shape[:2]
    scale = min(1.0, max_side / max(height, width)) if max_side else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if max(size) > MOST_SIDE and kind.content != "ids":
        raise UserError(
            f"a map of {width} x {height} pixels is too large to be stored; set max_side to {MOST_SIDE} or less"
        )
    if valid is None:
        ids = cv2.resize(values.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST_EXACT)
        return {kind.field: ids.astype(np.int32), "present": PRESENT}
    values, valid = values.astype(np.float32), valid.astype(np.float32)
    if scale < 1:
        values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(valid, size, interpolation=cv2.INTER_AREA)
        values = values / np.maximum(share[..., None] if values.ndim == 3 else share, np.float32(1e-6))
        valid = (share > 0).astype(np.float32)  # keeps all of sparse measurements
    if values.ndim == 3:
        values = values / np.maximum(lengths(values), np.float32(1e-6))[..., None]
    return {kind.field: values, "valid": valid, "present": PRESENT}


def lengths(vectors: np.ndarray) -> np.ndarray:
    """f32[h, w, 3] -> f32[h, w]; `np.linalg.norm` takes ten times as long."""
    return np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))


def check_headers(files: Iterable[Path], allowed: Sequence[Header], format_: str, unlike: str = "") -> None:
    """Reads the first bytes of all files, which is cheap enough to do before the first label is written.

    Raises:
      UserError: a file that is not a PNG, or has another bit depth or other channels.
    """

    def check(some: Sequence[Path]) -> None:
        for file in some:
            with file.open("rb") as opened:
                start = opened.read(26)
            if not start.startswith(_SIGNATURE) or len(start) < 26:
                what = "is not a PNG file; convert or remove it" if start else "is empty; replace or remove it"
                raise UserError(f"{file} {what}")
            header = Header(start[24], _COLOURS.get(start[25], "unknown"))
            if header not in allowed:
                kinds = " or ".join(map(str, allowed))
                raise UserError(f"{file} is {header}, but {format_} takes {kinds}; convert or remove it{unlike}")

    every = list(files)
    parts = (every[start : start + _OPENED_TOGETHER] for start in range(0, len(every), _OPENED_TOGETHER))
    with ThreadPoolExecutor(_OPENING) as pool:
        for _ in pool.map(check, parts):  # raises what the first of them raises
            pass


def _read(file: Path) -> bytes:
    """The bytes of a PNG that does not have too many pixels to be decoded."""
    data = file.read_bytes()
    try:
        check_pixels(pixels(data))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return data


def read_codes(file: Path) -> np.ndarray:
    """u8 or u16[h, w] or [h, w, 3] (RGB) from a PNG without a palette.

    Raises:
      UserError: it is damaged.
    """
    codes = cv2.imdecode(np.frombuffer(_read(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if codes is None:
        raise UserError(f"{file} is truncated or damaged; replace or remove it")
    return cv2.cvtColor(codes, cv2.COLOR_BGR2RGB) if codes.ndim == 3 else codes


def read_indices(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """u8 or u16[h, w], grey values or indices into the palette; and the palette, u8[n, 3], if there is one.

    Raises:
      UserError: it is damaged.
    """
    try:
        picture = opened(_read(file), ("PNG",))
        if picture is None:
            raise ValueError("it is not a PNG")
        with picture:
            palette = picture.getpalette("RGB") if picture.mode == "P" else None
            indices = np.array(picture, np.uint16 if picture.mode.startswith("I") else np.uint8)
    except UserError:
        raise
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        raise UserError(f"{file} is truncated or damaged ({error}); replace or remove it") from None
    return indices, None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)
