"""Procedural patterns: functions of surface coordinates, f32[n] in pattern periods, that mix a second colour in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Surface:
    """Paint: `base` and `accent` are RGB in 0..1, mixed by a pattern of `period_m` metres turned by `angle` radians."""

    base: tuple[float, float, float]
    accent: tuple[float, float, float]
    pattern: str = "plain"
    period_m: float = 1.0
    angle: float = 0.0


def paint(surface: Surface, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Albedo f32[3, n] at points (f32[3, n], metres, in the body's frame) whose normals there are f32[3, n].

    The pattern is projected along the axis that the normal is closest to.
    """
    base, accent = (np.array(colour, np.float32)[:, None] for colour in (surface.base, surface.accent))
    if surface.pattern == "plain":
        return np.repeat(base, points.shape[1], axis=1)
    x, y, z = np.abs(normals)
    along_x, along_z = (x > y) & (x >= z), (z >= y) & (z > x)
    u = np.where(along_x, points[1], points[0])
    v = np.where(along_z, points[1], points[2])
    c, s = np.float32(np.cos(surface.angle) / surface.period_m), np.float32(np.sin(surface.angle) / surface.period_m)
    weight = PATTERNS[surface.pattern](c * u + s * v, c * v - s * u)
    return base + (accent - base) * weight


def _phase(u: np.ndarray) -> np.ndarray:
    return u - np.floor(u)


def _mottled(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 + 0.25 * (np.sin(6.3 * u + 2 * np.sin(2.1 * v)) + np.sin(5.2 * v + 2 * np.sin(2.9 * u)))


def _tiled(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((_phase(u) < 0.12) | (_phase(v) < 0.12)).astype(np.float32)


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (_phase(u) < 0.5).astype(np.float32)


def _checkered(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((_phase(u) < 0.5) != (_phase(v) < 0.5)).astype(np.float32)


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = _phase(u) - 0.5, _phase(v) - 0.5
    return (u * u + v * v < 0.09).astype(np.float32)


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mottled": _mottled,
    "tiled": _tiled,
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
}
