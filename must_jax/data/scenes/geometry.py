"""Solids of the rendered scenes and the one routine that intersects rays with them.

A solid is the intersection of at most one quadric with at most eight half-spaces, in its own frame: z up, inside the
cube [-1, 1]^3, standing on z = -1. Arrays of points and vectors are component-first, f32[3, n]: rows are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TINY = np.float32(1e-12)  # in place of a zero divisor: pushes the crossing out of the scene


@dataclass(frozen=True)
class Quadric:
    """The points with `weights . (p - (0, 0, z))^2 <= constant`.

    A negative z weight is a double cone with its apex at z; only the part below the apex counts.
    """

    weights: np.ndarray  # f32[3]
    z: float
    constant: float


@dataclass(frozen=True)
class Solid:
    """The points with `normals @ p <= offsets` inside the quadric; normals are unit, f32[P, 3]; offsets f32[P]."""

    normals: np.ndarray
    offsets: np.ndarray
    quadric: Quadric | None = None


def intervals(solid: Solid, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a solid.

    Args:
      origin: f32[3], common to all rays.
      directions: f32[3, n], of any length; t is in units of these lengths.

    Returns:
      (t_in, t_out), f32[n] each. A ray hits if t_in < t_out; t_in is -inf if there is no front.
    """
    rates = solid.normals @ directions
    rates[rates == 0] = _TINY
    crossings = (solid.offsets - solid.normals @ origin)[:, None] / rates
    inwards = rates < 0
    t_in = np.where(inwards, crossings, -np.inf).max(axis=0, initial=-np.inf)
    t_out = np.where(inwards, np.inf, crossings).min(axis=0, initial=np.inf)
    if solid.quadric is not None:
        q_in, q_out = _quadric_intervals(solid.quadric, origin, directions)
        np.maximum(t_in, q_in, out=t_in)
        np.minimum(t_out, q_out, out=t_out)
    return t_in, t_out


def _quadric_intervals(quadric: Quadric, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = origin - np.array([0, 0, quadric.z], np.float32)
    weighted = quadric.weights * start
    a = quadric.weights @ (directions * directions)  # a t^2 + 2 b t + c <= 0
    b = weighted @ directions
    c = weighted @ start - np.float32(quadric.constant)
    a[np.abs(a) < _TINY] = _TINY
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    first, second = (-b - root) / a, (root - b) / a
    if quadric.weights[2] >= 0:
        t_in, t_out = first, second
    else:  # a ray steeper than the cone is inside before its first and after its second crossing, once below the apex
        low, high = np.minimum(first, second), np.maximum(first, second)
        steep, rising = a < 0, directions[2] > 0
        t_in = np.where(steep, np.where(rising, -np.inf, high), low)
        t_out = np.where(steep, np.where(rising, low, np.inf), high)
    t_out[discriminant < 0] = -np.inf
    return t_in, t_out


def surface_normals(solid: Solid, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (f32[3, n], any length) at points (f32[3, n]) on the surface, and the half-space touched there.

    The half-space is an index i32[n]; len(solid.offsets) stands for the quadric. At an edge either side may be given.
    """
    excess = solid.normals @ points - solid.offsets[:, None]  # 0 where a point touches the plane, negative inside
    if solid.quadric is None:
        face = excess.argmax(axis=0)
        return solid.normals.T[:, face], face
    quadric = solid.quadric
    centred = points - np.array([[0], [0], [quadric.z]], np.float32)
    gradient = quadric.weights[:, None] * centred
    value = (gradient * centred).sum(axis=0) - np.float32(quadric.constant)
    distance = value / np.maximum(2 * np.sqrt((gradient * gradient).sum(axis=0)), _TINY)
    face = np.concatenate([excess, distance[None]]).argmax(axis=0)
    planes = np.concatenate([solid.normals, np.zeros((1, 3), np.float32)]).T[:, face]
    return np.where(face == len(solid.offsets), gradient, planes), face


def _solid(planes: list[tuple[float, float, float, float]], quadric: Quadric | None = None) -> Solid:
    """`planes` are (x, y, z, offset) with normals of any length."""
    rows = np.array(planes, np.float64).reshape(-1, 4)
    rows /= np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    return Solid(rows[:, :3].astype(np.float32), rows[:, 3].astype(np.float32), quadric)


def _quadric(x: float, y: float, z: float, centre_z: float, constant: float) -> Quadric:
    return Quadric(np.array([x, y, z], np.float32), centre_z, constant)


def _ring(sides: int, steepness: float, offset: float) -> list[tuple[float, float, float, float]]:
    """Side planes of a regular prism (steepness 0) or of a pyramid."""
    angles = 2 * np.pi * np.arange(sides) / sides
    return [(float(np.cos(angle)), float(np.sin(angle)), steepness, offset) for angle in angles]


_BOTTOM, _TOP = (0.0, 0.0, -1.0, 1.0), (0.0, 0.0, 1.0, 1.0)
_SQUARE = _ring(4, 0, 1)
_BOX = _solid([*_SQUARE, _BOTTOM, _TOP])

SOLIDS: dict[str, Solid] = {
    # Shapes of the training domain.
    "sphere": _solid([], _quadric(1, 1, 1, 0, 1)),
    "cube": _BOX,
    "cylinder": _solid([_BOTTOM, _TOP], _quadric(1, 1, 0, 0, 1)),
    "cone": _solid([_BOTTOM, _TOP], _quadric(1, 1, -0.25, 1, 0)),
    "pyramid": _solid([*_ring(4, 0.5, 0.5), _BOTTOM]),
    "octahedron": _solid([(x, y, z, 1) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]),
    "tent": _solid([(1, 0, 0.5, 0.5), (-1, 0, 0.5, 0.5), (0, 1, 0, 1), (0, -1, 0, 1), _BOTTOM]),
    "hexagon": _solid([*_ring(6, 0, np.sqrt(0.75)), _BOTTOM, _TOP]),
    # Held-out shapes.
    "dome": _solid([_BOTTOM], _quadric(1, 1, 0.25, -1, 1)),
    "barrel": _solid([_BOTTOM, _TOP], _quadric(1, 1, 0.6, 0, 1)),
    "column": _solid([_BOTTOM, _TOP], _quadric(1, 1, 0, 0, 1)),
    "slab": _BOX,
    "ramp": _solid([(-1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), _BOTTOM]),
    "frustum": _solid([*_ring(4, 0.25, 0.75), _BOTTOM, _TOP]),
    "tetrahedron": _solid([*_ring(3, 0.25, 0.25), _BOTTOM]),
    "house": _solid([*_SQUARE, (0.8, 0, 1, 1), (-0.8, 0, 1, 1), _BOTTOM]),
}
ROOM = _BOX  # seen from inside
