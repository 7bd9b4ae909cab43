"""Ray casting of a scene: the image and its exact ground truth, from the same rays.

World frame in metres: z up, the floor at z = 0. Camera frame: x right, y down, z forward. Rays have a forward component
of 1 in the camera frame, so that the t of a hit is its z-depth in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from must_jax.data.scenes.geometry import Solid, intervals, surface_normals
from must_jax.data.scenes.textures import Surface, paint

FLOOR, WALL, CEILING, FIRST_OBJECT = 0, 1, 2, 3  # values of `Rendering.surfaces`
_ROOM_FACES = np.array([WALL, WALL, WALL, WALL, FLOOR, CEILING], np.uint8)  # of the half-spaces of ROOM
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32).T
_NEAR_M = 0.05
MIN_VISIBLE_AREA = 12 / 64**2  # of the image; and
MIN_VISIBLE_SHARE = 0.25  # of the object's own pixels: an object less visible gets no box


@dataclass(frozen=True)
class Body:
    """A solid stretched by `half_extents` (metres), turned by `yaw` (radians about z) and put at `center` (world)."""

    solid: Solid
    center: tuple[float, float, float]
    half_extents: tuple[float, float, float]
    yaw: float = 0.0

    @cached_property
    def axes(self) -> np.ndarray:
        """Rotation world -> body, f32[3, 3]."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)

    @cached_property
    def to_solid(self) -> np.ndarray:
        """Rotation and scaling world -> the solid's own frame, f32[3, 3]."""
        return self.axes / self._half_extents[:, None]

    def intervals(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`geometry.intervals` for rays in the world frame."""
        return intervals(self.solid, self.to_solid @ (origin - self._center), self.to_solid @ directions)

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World points on the surface -> points (metres) and outward unit normals, f32[3, n] in the body's frame,
        and the half-spaces touched, i32[n]."""
        local = self.axes @ (points - self._center[:, None])
        normals, face = surface_normals(self.solid, local / self._half_extents[:, None])
        normals = normals / self._half_extents[:, None]
        return local, normals / np.sqrt((normals * normals).sum(axis=0)), face

    def corners(self) -> np.ndarray:
        """World corners of the bounding box, f32[3, 8]."""
        return self.axes.T @ (_CORNERS * self._half_extents[:, None]) + self._center[:, None]

    @cached_property
    def _half_extents(self) -> np.ndarray:
        return np.array(self.half_extents, np.float32)

    @cached_property
    def _center(self) -> np.ndarray:
        return np.array(self.center, np.float32)


@dataclass(frozen=True)
class Item:
    """An object of the scene: a shape of `SOLIDS`, placed and painted."""

    shape: str
    body: Body
    surface: Surface


@dataclass(frozen=True)
class Camera:
    """Pinhole camera. Angles are in radians, pitch up; fx and cx in image widths, fy and cy in image heights.

    A negative fx gives the mirrored image (and its ground truth).
    """

    position: tuple[float, float, float]
    yaw: float
    pitch: float
    fx: float
    fy: float
    cx: float = 0.5
    cy: float = 0.5

    @cached_property
    def axes(self) -> np.ndarray:
        """Rotation world -> camera, f32[3, 3]: rows are right, down and forward."""
        (c, s), (cp, sp) = (np.cos(self.yaw), np.sin(self.yaw)), (np.cos(self.pitch), np.sin(self.pitch))
        return np.array([[s, -c, 0], [c * sp, s * sp, -cp], [c * cp, s * cp, sp]], np.float32)


@dataclass(frozen=True)
class Scene:
    """A room with objects. `room_surfaces` are those of floor, wall and ceiling; the light is a point in the room."""

    room: Body
    room_surfaces: tuple[Surface, Surface, Surface]
    items: tuple[Item, ...]
    camera: Camera
    light: tuple[float, float, float]
    ambient: float = 0.55
    noise: float = 0.0  # standard deviation; full scale is 1


@dataclass(frozen=True)
class Rendering:
    """What a camera sees. H W are image rows and columns; N objects are visible enough for a box.

    Attributes:
      image: u8[H, W, 3] RGB.
      depth_m: f32[H, W], z-depth in metres.
      normals: f32[H, W, 3], unit, camera frame, facing the camera.
      surfaces: u8[H, W]: FLOOR, WALL, CEILING or FIRST_OBJECT + position in `Scene.items`.
      boxes_yxyx: f32[N, 4], tight around the visible pixels, fractions of the image.
      box_items: i32[N], positions in `Scene.items`.
    """

    image: np.ndarray
    depth_m: np.ndarray
    normals: np.ndarray
    surfaces: np.ndarray
    boxes_yxyx: np.ndarray
    box_items: np.ndarray


def render(scene: Scene, camera: Camera, height: int, width: int, rng: np.random.Generator | None = None) -> Rendering:
    """Renders one image of `height` x `width` pixels with its ground truth; `rng` draws the noise, None = no noise."""
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5)) / np.float32(width) - np.float32(camera.cx)
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5)) / np.float32(height) - np.float32(camera.cy)
    rays = np.empty((3, height, width), np.float32)
    rays[0], rays[1], rays[2] = x / np.float32(camera.fx), y[:, None] / np.float32(camera.fy), 1
    directions = camera.axes.T @ rays.reshape(3, -1)
    origin = np.array(camera.position, np.float32)

    depth = scene.room.intervals(origin, directions)[1].reshape(height, width)
    surfaces = np.zeros((height, width), np.uint8)
    own_pixels = _trace_items(scene, camera, origin, directions, depth, surfaces)
    points = origin[:, None] + directions * depth.reshape(-1)
    albedo, normals = _surface_properties(scene, points, surfaces.reshape(-1))
    image = albedo * _light(scene, points, normals, surfaces.reshape(-1))

    camera_normals = (camera.axes @ normals).T.reshape(height, width, 3)
    if camera.fx < 0:
        camera_normals[..., 0] *= -1
    boxes_yxyx, box_items = _boxes(surfaces, own_pixels)
    return Rendering(
        _develop(image, scene.noise, rng).reshape(height, width, 3),
        depth,
        camera_normals,
        surfaces,
        boxes_yxyx,
        box_items,
    )


def _trace_items(
    scene: Scene, camera: Camera, origin: np.ndarray, directions: np.ndarray, depth: np.ndarray, surfaces: np.ndarray
) -> list[int]:
    """Draws the items into `depth` and `surfaces`; returns how many pixels each would cover alone."""
    directions = directions.reshape(3, *depth.shape)
    own_pixels = []
    for number, item in enumerate(scene.items):
        window = _window(item.body, camera, origin, depth.shape)
        t_in, t_out = item.body.intervals(origin, directions[(slice(None), *window)].reshape(3, -1))
        hit = ((t_in < t_out) & (t_in > _NEAR_M)).reshape(depth[window].shape)
        own_pixels.append(int(np.count_nonzero(hit)))
        t_in = t_in.reshape(hit.shape)
        hit &= t_in < depth[window]
        depth[window][hit] = t_in[hit]
        surfaces[window][hit] = FIRST_OBJECT + number
    return own_pixels


def _window(body: Body, camera: Camera, origin: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns around the body's bounding box on the screen; all of them if it reaches behind the camera."""
    x, y, z = camera.axes @ (body.corners() - origin[:, None])
    if z.min() < _NEAR_M:
        return slice(None), slice(None)
    rows = shape[0] * (camera.fy * y / z + camera.cy)
    columns = shape[1] * (camera.fx * x / z + camera.cx)

    def span(edges: np.ndarray, size: int) -> slice:
        return slice(min(max(int(edges.min()), 0), size), min(max(int(edges.max()) + 1, 0), size))

    return span(rows, shape[0]), span(columns, shape[1])


def _surface_properties(scene: Scene, points: np.ndarray, surfaces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo and world normals towards the viewer, f32[3, n]; tells floor, wall and ceiling apart in `surfaces`."""
    albedo, normals = np.empty_like(points), np.empty_like(points)
    room = np.flatnonzero(surfaces == 0)
    room_points, outward, face = scene.room.surface(points[:, room])
    surfaces[room] = _ROOM_FACES[face]
    normals[:, room] = -(scene.room.axes.T @ outward)
    for number, surface in enumerate(scene.room_surfaces):
        chosen = np.flatnonzero(surfaces[room] == number)
        albedo[:, room[chosen]] = paint(surface, room_points[:, chosen], outward[:, chosen])
    for number, item in enumerate(scene.items):
        seen = np.flatnonzero(surfaces == FIRST_OBJECT + number)
        if seen.size:
            local_points, outward, _ = item.body.surface(points[:, seen])
            normals[:, seen] = item.body.axes.T @ outward
            albedo[:, seen] = paint(item.surface, local_points, outward)
    return albedo, normals


def _light(scene: Scene, points: np.ndarray, normals: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
    """Brightness f32[n]: ambient light, more from above, and the point light (Lambert) with hard shadows."""
    light = np.array(scene.light, np.float32)
    beams = points - light[:, None]
    distances = np.sqrt((beams * beams).sum(axis=0))
    lambert = np.maximum(-(beams * normals).sum(axis=0) / distances, 0)
    for number, item in enumerate(scene.items):
        to_item = np.array(item.body.center, np.float32) - light
        sine = min(float(np.linalg.norm(item.body.half_extents) / np.linalg.norm(to_item)), 1.0)
        cosine = np.float32(np.sqrt(1 - sine * sine) * np.linalg.norm(to_item))
        # Only beams inside the cone around the bounding sphere; a convex item never shadows its own lit side.
        near = np.flatnonzero(
            (to_item @ beams > cosine * distances) & (surfaces != FIRST_OBJECT + number) & (lambert > 0)
        )
        t_in, t_out = item.body.intervals(light, beams[:, near])
        lambert[near[(t_in < t_out) & (t_in < 0.999) & (t_out > 0)]] = 0
    falloff = 1 / (1 + np.float32(0.03) * distances * distances)
    ambient = np.float32(scene.ambient) * (np.float32(0.85) + np.float32(0.15) * normals[2])
    return ambient + np.float32(1.1 * (1 - scene.ambient) / 0.6) * lambert * falloff


def _develop(image: np.ndarray, noise: float, rng: np.random.Generator | None) -> np.ndarray:
    """f32[3, n] in 0..1 -> u8[n, 3], with noise."""
    pixels = image.T * np.float32(255)
    if rng is not None and noise > 0:
        pixels += np.float32(255 * noise) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _boxes(surfaces: np.ndarray, own_pixels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    height, width = surfaces.shape
    boxes, items = [], []
    for number, own in enumerate(own_pixels):
        mask = surfaces == FIRST_OBJECT + number
        visible = np.count_nonzero(mask)
        if visible >= max(MIN_VISIBLE_AREA * mask.size, MIN_VISIBLE_SHARE * own, 1):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append((rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width))
            items.append(number)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(items, np.int32)
