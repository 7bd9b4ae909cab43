"""What the report and the gallery share: one HTML file without external references, from a template and values."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from must_jax import files


def render(template: str, filters: dict[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """A template of this package as HTML text; `duration`, `picture` and `filters` can be used in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("must_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, picture=picture, **(filters or {}))
    return environment.get_template(template).render(**values)


def write(text: str, path: Path) -> None:
    """Writes a page; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)


def duration(seconds: float | None) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def picture(image: np.ndarray) -> str:
    """u8 [H, W, 3] RGB as a data URI."""
    ok, encoded = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 88])
    assert ok, image.shape
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
