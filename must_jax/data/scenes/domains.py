"""What scenes look like: the distributions that they are drawn from, and the draw."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from must_jax.data.scenes.geometry import ROOM, SOLIDS
from must_jax.data.scenes.renderer import Body, Camera, Item, Scene
from must_jax.data.scenes.textures import Surface

Range = tuple[float, float]  # uniform between the two
Hsv = tuple[Range, Range, Range]  # hue, saturation, value, each in 0..1

# Half width and half height of each shape, relative to its size.
PROPORTIONS: dict[str, tuple[float, float]] = {
    "sphere": (1.0, 1.0),
    "cube": (0.8, 0.8),
    "cylinder": (0.55, 1.0),
    "cone": (0.75, 1.0),
    "pyramid": (0.9, 0.75),
    "octahedron": (0.85, 1.0),
    "tent": (0.9, 0.6),
    "hexagon": (1.0, 0.4),
    "dome": (1.0, 0.55),
    "barrel": (0.75, 0.9),
    "column": (0.28, 1.0),
    "slab": (1.0, 0.2),
    "ramp": (0.85, 0.55),
    "frustum": (0.85, 0.6),
    "tetrahedron": (1.0, 0.8),
    "house": (0.7, 0.9),
}


@dataclass(frozen=True)
class Paint:
    """Colours and patterns of one kind of surface; `contrast` is how far the accent may differ from the base."""

    base: Hsv
    patterns: tuple[str, ...]
    contrast: Range
    period: Range  # metres on the room's surfaces, object sizes on objects


@dataclass(frozen=True)
class Domain:
    """A distribution of scenes: lengths in metres, angles in degrees, an object's size (`share`) in image heights."""

    shapes: tuple[str, ...]
    floor: Paint
    wall: Paint
    ceiling: Paint
    item: Paint
    items: tuple[int, int] = (1, 4)  # inclusive
    share: Range = (0.28, 0.6)
    centred: bool = False  # look at the (first) object
    distance: Range = (2.2, 4.6)
    room_size: Range = (4.5, 7.0)
    room_height: Range = (2.5, 3.0)
    camera_height: Range = (1.35, 1.65)
    pitch: Range = (-13.0, -3.0)
    focal: Range = (0.86, 0.94)  # in image heights
    noise: Range = (0.005, 0.015)


TRAINING = Domain(
    shapes=("sphere", "cube", "cylinder", "cone", "pyramid", "octahedron", "tent", "hexagon"),
    floor=Paint(((0.05, 0.12), (0.2, 0.4), (0.5, 0.68)), ("plain", "mottled", "tiled"), (0.06, 0.14), (0.6, 1.0)),
    wall=Paint(((0.0, 1.0), (0.03, 0.12), (0.78, 0.92)), ("plain", "mottled"), (0.03, 0.07), (0.8, 1.6)),
    ceiling=Paint(((0.1, 0.15), (0.0, 0.05), (0.95, 1.0)), ("plain",), (0.0, 0.0), (1.0, 1.0)),
    item=Paint(
        ((0.0, 1.0), (0.65, 0.95), (0.65, 0.95)), ("plain", "plain", "mottled", "tiled"), (0.08, 0.18), (0.25, 0.5)
    ),
)
UPSTREAM = Domain(  # wide: other colours, rooms and cameras than TRAINING, and none of the patterns of HELD_OUT
    shapes=TRAINING.shapes,
    floor=Paint(((0.0, 1.0), (0.0, 0.5), (0.25, 0.8)), ("plain", "mottled", "tiled"), (0.03, 0.2), (0.5, 1.4)),
    wall=Paint(((0.0, 1.0), (0.0, 0.4), (0.35, 0.95)), ("plain", "mottled", "tiled"), (0.03, 0.1), (0.6, 1.6)),
    ceiling=Paint(((0.0, 1.0), (0.0, 0.15), (0.6, 1.0)), ("plain",), (0.0, 0.0), (1.0, 1.0)),
    item=Paint(((0.0, 1.0), (0.2, 1.0), (0.25, 1.0)), ("plain", "mottled", "tiled"), (0.05, 0.25), (0.2, 0.6)),
    camera_height=(1.3, 2.1),
    pitch=(-19.0, -3.0),
    focal=(0.7, 1.0),
    noise=(0.0, 0.025),
)
HELD_OUT = Domain(
    shapes=("dome", "barrel", "column", "slab", "ramp", "frustum", "tetrahedron", "house"),
    floor=Paint(((0.3, 0.7), (0.1, 0.3), (0.35, 0.55)), ("plain", "striped", "checkered"), (0.06, 0.14), (0.5, 0.9)),
    wall=Paint(((0.0, 1.0), (0.15, 0.3), (0.65, 0.8)), ("plain", "striped", "dotted"), (0.03, 0.08), (0.6, 1.2)),
    ceiling=Paint(((0.5, 0.6), (0.0, 0.08), (0.82, 0.9)), ("plain",), (0.0, 0.0), (1.0, 1.0)),
    item=Paint(
        ((0.0, 1.0), (0.45, 0.75), (0.5, 0.85)), ("plain", "striped", "checkered", "dotted"), (0.1, 0.2), (0.3, 0.5)
    ),
    camera_height=(1.75, 2.1),
    pitch=(-19.0, -9.0),
    focal=(0.74, 0.82),
    noise=(0.01, 0.02),
)
_MATERIALS = ("plain", "striped", "checkered", "dotted")
MATERIALS = replace(
    HELD_OUT,
    floor=replace(HELD_OUT.floor, patterns=_MATERIALS, contrast=(0.25, 0.4), period=(0.8, 1.2)),
    wall=replace(HELD_OUT.wall, patterns=_MATERIALS, contrast=(0.2, 0.35), period=(0.8, 1.2)),
    item=replace(HELD_OUT.item, patterns=_MATERIALS, contrast=(0.35, 0.6), period=(0.35, 0.5)),
    items=(2, 4),
    share=(0.35, 0.65),
)


_AROUND = np.sqrt(2)  # the circle around a square, whichever way it is turned


def single(domain: Domain) -> Domain:
    """The same domain with one large object in the middle, for classification."""
    return replace(domain, items=(1, 1), share=(0.5, 0.78), centred=True, distance=(2.0, 3.2))


def sample_scene(rng: np.random.Generator, domain: Domain) -> Scene:
    """Draws a scene with its camera; every object lies inside the room, on the floor and beside the others."""
    while True:
        scene = _try_scene(rng, domain)
        if len(scene.items) >= domain.items[0]:
            return scene


def _try_scene(rng: np.random.Generator, domain: Domain) -> Scene:
    width, length, height = (
        rng.uniform(*domain.room_size),
        rng.uniform(*domain.room_size),
        rng.uniform(*domain.room_height),
    )
    room = Body(ROOM, (0.0, 0.0, height / 2), (width / 2, length / 2, height / 2))
    yaw, pitch = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(*domain.pitch))
    forward = np.array([np.cos(yaw), np.sin(yaw)])
    # Near the wall behind, so that the room lies in front of the camera.
    start = rng.uniform(-0.2, 0.2, 2) * (width, length)
    walls = (np.array([width, length]) / 2 + np.sign(forward) * start) / np.maximum(np.abs(forward), 1e-6)
    spot = start - forward * (rng.uniform(0.6, 0.95) * walls.min())
    eye = rng.uniform(*domain.camera_height)
    focal = rng.uniform(*domain.focal)

    items: list[Item] = []
    wanted = rng.integers(domain.items[0], domain.items[1] + 1)
    for _ in range(12 * wanted):
        if len(items) == wanted:
            break
        item = _try_item(rng, domain, room, spot, yaw, focal)
        if item is not None and all(_apart(item.body, other.body) for other in items):
            items.append(item)
    if domain.centred and items:
        x, y, z = items[0].body.center
        jitter = np.deg2rad(rng.uniform(-4, 4, 2))
        yaw = np.arctan2(y - spot[1], x - spot[0]) + jitter[0]
        pitch = np.arctan2(z - eye, np.hypot(x - spot[0], y - spot[1])) + jitter[1]
    sideways = rng.uniform(-1.5, 1.5)
    right = np.array([forward[1], -forward[0]])
    light_xy = np.clip(spot + right * sideways, -0.45 * np.array([width, length]), 0.45 * np.array([width, length]))
    return Scene(
        room=room,
        room_surfaces=(_paint(rng, domain.floor), _paint(rng, domain.wall), _paint(rng, domain.ceiling)),
        items=tuple(items),
        camera=Camera((float(spot[0]), float(spot[1]), eye), float(yaw), float(pitch), focal, focal),
        light=(float(light_xy[0]), float(light_xy[1]), height * rng.uniform(0.82, 0.95)),
        noise=rng.uniform(*domain.noise),
    )


def _try_item(
    rng: np.random.Generator, domain: Domain, room: Body, spot: np.ndarray, yaw: float, focal: float
) -> Item | None:
    distance, across = rng.uniform(*domain.distance), rng.uniform(-0.4, 0.4) / focal
    if domain.centred:
        across *= 0.2
    shape = domain.shapes[rng.integers(len(domain.shapes))]
    size = rng.uniform(*domain.share) * distance / focal / 2
    half_width, half_height = np.array(PROPORTIONS[shape]) * size * rng.uniform(0.92, 1.08, 2)
    c, s = np.cos(yaw), np.sin(yaw)
    x = spot[0] + distance * (c + across * s)
    y = spot[1] + distance * (s - across * c)
    reach = _AROUND * half_width
    if abs(x) + reach > room.half_extents[0] or abs(y) + reach > room.half_extents[1]:
        return None
    body = Body(SOLIDS[shape], (x, y, half_height), (half_width, half_width, half_height), rng.uniform(0, 2 * np.pi))
    return Item(shape, body, _paint(rng, domain.item, 2 * size))


def _apart(one: Body, other: Body) -> bool:
    gap = np.hypot(one.center[0] - other.center[0], one.center[1] - other.center[1])
    return gap > _AROUND * (one.half_extents[0] + other.half_extents[0])


def _paint(rng: np.random.Generator, paint: Paint, unit_m: float = 1.0) -> Surface:
    hue, saturation, value = (rng.uniform(*span) for span in paint.base)
    contrast = rng.uniform(*paint.contrast)
    accent = value - contrast if value > 0.5 else value + contrast
    return Surface(
        base=colorsys.hsv_to_rgb(hue, saturation, value),
        accent=colorsys.hsv_to_rgb(hue, saturation, accent),
        pattern=paint.patterns[rng.integers(len(paint.patterns))],
        period_m=rng.uniform(*paint.period) * unit_m,
        angle=rng.uniform(0, 2 * np.pi),
    )
