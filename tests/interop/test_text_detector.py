"""A genuine ONNX model: the text detector of PP-OCR v4, in the wheel of rapidocr-onnxruntime, looks at photographs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import PIL.Image
import pytest
import skimage
from asked import answers, loaded
from photos import encoded

_WHEEL = importlib.util.find_spec("rapidocr_onnxruntime")
pytestmark = pytest.mark.skipif(_WHEEL is None, reason="rapidocr-onnxruntime is not installed")
SIDE = 640
AS_TRAINED = {"size": SIDE, "fit": "letterbox", "colour": "bgr", "mean": [0.5] * 3, "std": [0.5] * 3}
TEXT = {"classes": ["other", "text"], "scores": "probabilities"}


def detector() -> Path:
    assert _WHEEL and _WHEEL.origin
    return Path(_WHEEL.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"


def photograph(name: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(Path(skimage.__file__).parent / "data" / name)), cv2.COLOR_BGR2RGB)


def by_its_library(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """bool[*hw]: more likely text than not, from the image alone, as the package hands it over."""
    scale = SIDE / max(image.shape[:2])
    height, width = (round(side * scale / 32) * 32 for side in image.shape[:2])
    bgr = cv2.resize(image[..., ::-1], (width, height))
    tensor = ((bgr / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)
    ((probs,),) = onnxruntime.InferenceSession(detector()).run(None, {"x": tensor})
    return cv2.resize(probs[0], hw[::-1], interpolation=cv2.INTER_AREA) > 0.5


def test_text_is_found_where_the_library_finds_it():
    teacher = loaded(detector(), {"segmentation": TEXT}, input=AS_TRAINED)
    page = photograph("page.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    images = [
        encoded(page, "PNG"),
        encoded(np.rot90(page).copy(), "PNG", exif=exif),
        encoded(photograph("astronaut.png")),
    ]
    upright, turned, person = answers(teacher, images, "segmentation")
    text = upright["ids"] == 1
    library = by_its_library(page, text.shape)
    assert 0.1 < text.mean() < 0.3 and (text & library).sum() / (text | library).sum() > 0.9
    assert np.array_equal(turned["ids"], upright["ids"])
    assert not person["ids"].any() and person["confidence"].min() > 0.99
