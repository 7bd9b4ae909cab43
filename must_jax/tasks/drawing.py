"""Labels as pictures: u8[H, W, 3] RGB in and out."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np

from must_jax.errors import printable

SMALLEST_PX, LARGEST_PX = 256, 1024  # limits for the longer side of a picture
INK, PAPER = (245, 245, 245), (28, 28, 32)
UNKNOWN = (64, 64, 64)  # colour of pixels without a label
_FIRST = (228, 87, 46)  # colour of the first class
_TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)

Colour = tuple[int, int, int]


def canvas(image: np.ndarray) -> np.ndarray:
    """The photo at a size at which text is readable: small ones enlarged by a whole factor, large ones reduced."""
    longer = max(image.shape[:2])
    if longer < SMALLEST_PX:
        return np.kron(image, np.ones((-(-SMALLEST_PX // longer),) * 2 + (1,), np.uint8))
    if longer > LARGEST_PX:
        height, width = (max(1, round(side * LARGEST_PX / longer)) for side in image.shape[:2])
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image.copy()


@functools.cache
def palette(count: int) -> list[Colour]:
    """Colours that can be told apart; a longer palette begins with a shorter one, so that class i keeps its colour.

    Each is the one furthest from all before it, and from `UNKNOWN`, in OKLab: 0.12 apart for 24 classes, 0.05 for 150.
    """
    levels = np.arange(0, 256, 15)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lightness, *axes = oklab(colours).T
    chroma = np.hypot(*axes)
    colours = colours[(np.abs(lightness - 0.64) < 0.25) & (chroma > 0.05) & (chroma < 0.2)]  # not white, grey, glaring
    places = oklab(colours)
    chosen = [int(np.square(places - oklab(np.array(_FIRST))).sum(-1).argmin())]
    nearest = np.square(places - oklab(np.array(UNKNOWN))).sum(-1)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.square(places - places[chosen[-1]]).sum(-1))
        chosen.append(int(nearest.argmax()))
    return [(r, g, b) for r, g, b in colours[chosen[:count]].tolist()]


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB [..., 3] in 0..255 -> OKLab f64[..., 3], in which distances are those that are seen (Ottosson, 2020)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES) @ _TO_OKLAB


def bars(picture: np.ndarray, values: Sequence[tuple[str, float]], rows: int) -> np.ndarray:
    """Below the picture, `rows` rows for (name, share 0..1) pairs: a bar of that share, with name and percent."""
    height = _line_height(picture)
    strip = _strip(picture, rows)
    for row, (name, share) in enumerate(values):
        top = row * height + 3
        cv2.rectangle(strip, (0, top), (round(share * strip.shape[1]) - 1, top + height - 5), (52, 101, 164), -1)
        _text(strip, f"{name} {100 * share:.0f} %", (6, top), picture)
    return np.vstack([picture, strip])


def rectangles(picture: np.ndarray, boxes_yxyx: np.ndarray, classes: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Draws outlines of boxes (fractions 0..1), coloured by class, each with its caption inside its top left corner."""
    size_yx = np.array(picture.shape[:2])
    colours = palette(int(classes.max()) + 1 if len(classes) else 0)
    thickness = max(1, round(max(size_yx) / 200))
    corners = np.rint(boxes_yxyx.reshape(-1, 2, 2) * (size_yx - 1)).astype(int)
    for (low, high), index in zip(corners, classes, strict=True):
        cv2.rectangle(picture, low[::-1].tolist(), high[::-1].tolist(), colours[index], thickness)
    for (low, _), index, caption in zip(corners, classes, captions, strict=True):
        width, height = _text_size(caption, picture)
        y, x = np.clip(low, 0, np.maximum(size_yx - (height, width), 0)).tolist()
        cv2.rectangle(picture, (x, y), (x + width, y + height), colours[index], -1)
        _text(picture, caption, (x + 2, y), picture, PAPER if sum(colours[index]) > 300 else INK)
    return picture


def regions(picture: np.ndarray, ids: np.ndarray, classes: Sequence[str], most: int = 12) -> np.ndarray:
    """Class colours over the photo, grey if the id is not a class; below, a legend of the `most` largest classes."""
    colours = np.array([*palette(len(classes)), UNKNOWN], np.uint8)
    ids = cv2.resize(ids.astype(np.uint16), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    index = np.minimum(ids, len(classes))
    blended = cv2.addWeighted(picture, 0.35, colours[index], 0.65, 0)

    largest_first = np.argsort(-np.bincount(index.ravel(), minlength=len(classes) + 1)[:-1], kind="stable")
    shown = sorted(largest_first[:most].tolist())
    height = _line_height(picture)
    columns = max(1, picture.shape[1] // max(_text_size(classes[i], picture)[0] + height for i in shown))
    strip = _strip(picture, -(-len(shown) // columns))
    for place, i in enumerate(shown):
        row, column = divmod(place, columns)
        x, y = column * picture.shape[1] // columns, row * height + 3
        cv2.rectangle(strip, (x + 3, y + 2), (x + height - 6, y + height - 6), colours[i].tolist(), -1)
        _text(strip, classes[i], (x + height - 2, y), picture)
    return np.vstack([blended, strip])


def heat(
    picture: np.ndarray, values: np.ndarray, valid: np.ndarray, unit: str, large_is_warm: bool = False
) -> np.ndarray:
    """A scalar map from warm, its smallest values, to cold, grey where invalid; below, a scale with both ends."""
    known = values[valid > 0]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    share = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    warmth = share if large_is_warm else 1 - share
    size = picture.shape[1::-1]
    levels = cv2.resize((255 * warmth).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    unknown = cv2.resize((valid > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) == 0
    coloured = _turbo(levels)
    coloured[unknown] = UNKNOWN

    strip = _strip(picture, 1)
    texts = [f"{end:.2f}{unit}" for end in ((high, low) if large_is_warm else (low, high))]
    left, right = (_text_size(text, picture)[0] + 8 for text in texts)
    ramp = np.linspace(255, 0, max(strip.shape[1] - left - right, 1)).astype(np.uint8)
    strip[5:-4, left : left + len(ramp)] = _turbo(ramp[None])
    _text(strip, texts[0], (4, 2), picture)
    _text(strip, texts[1], (strip.shape[1] - right + 4, 2), picture)
    return np.vstack([coloured, strip])


def directions(picture: np.ndarray, normals: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Normals in the field's usual colours: red to the right, green up, blue towards the camera; grey where invalid.

    (n + 1) / 2 with axes x right, y up, z backward, so y and z of the camera frame (down, forward) change sign.
    """
    rgb = np.rint(255 * (normals * np.array([1, -1, -1]) + 1) / 2)
    rgb = np.where(valid[..., None] > 0, rgb, UNKNOWN).astype(np.uint8)
    return cv2.resize(rgb, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _turbo(levels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _font_scale(picture: np.ndarray) -> float:
    return 0.4 * max(1.0, picture.shape[1] / 384)


def _line_height(picture: np.ndarray) -> int:
    return round(45 * _font_scale(picture))


def _strip(picture: np.ndarray, rows: int) -> np.ndarray:
    return np.full((rows * _line_height(picture) + 4, picture.shape[1], 3), PAPER, np.uint8)


def _text_size(text: str, picture: np.ndarray) -> tuple[int, int]:
    """Width and height in pixels of the box around a line of text."""
    (width, _), _ = cv2.getTextSize(printable(text), cv2.FONT_HERSHEY_SIMPLEX, _font_scale(picture), 1)
    return width + 4, _line_height(picture) - 4


def _text(onto: np.ndarray, text: str, top_left_xy: tuple[int, int], picture: np.ndarray, colour: Colour = INK) -> None:
    """One line whose box has its top left corner at `top_left_xy`; `picture` sets the size."""
    scale = _font_scale(picture)
    x, y = top_left_xy
    write(onto, text, (x, y + round(30 * scale)), scale, colour)


def write(onto: np.ndarray, text: str, left_baseline_xy: tuple[int, int], scale: float, colour: Colour) -> None:
    """One line, whatever its characters (OpenCV would crash on some). With `scale` 1, letters are 22 px high."""
    text, font, thickness = printable(text), cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale))
    cv2.putText(onto, text, left_baseline_xy, font, scale, colour, thickness, cv2.LINE_AA)
