"""Copies are found whatever was done to them; other scenes of the same kind are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from must_jax.config import AuditConfig
from must_jax.data.decoding import decode_image
from must_jax.data.duplicates import HASH_SIDE, Hashes, hash_images, near
from must_jax.data.image_sets import ImageSet, open_images

MOST = AuditConfig.model_fields["duplicate_distance"].default
Change = Callable[[np.ndarray], np.ndarray]
COPIES: dict[str, Change] = {
    "encoded again": lambda image: image,
    "enlarged": lambda image: cv2.resize(image, (200, 200), interpolation=cv2.INTER_CUBIC),
    "reduced": lambda image: cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA),
    "of another aspect": lambda image: cv2.resize(image, (96, 64)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.15, beta=8),
    "cropped a little": lambda image: cv2.resize(image, (256, 256))[4:-4, 4:-4],
    "mirrored": lambda image: image[:, ::-1],
}


@pytest.fixture(scope="module")
def scenes(data_dir: Path) -> tuple[ImageSet, ImageSet]:
    """Rooms of the same kind, with the same objects: no image of one is in the other."""
    return open_images("scenes/unlabelled_tiny:train", data_dir), open_images(
        "scenes/teacher_depth_tiny:train", data_dir
    )


def hashes(images: ImageSet, mirror: bool = False) -> Hashes:
    through: list[int] = []
    made = hash_images(images, through.append, mirror)
    assert sum(through) == len(images)
    return made


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found_and_nothing_else(how: str, scenes: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    """A folder with every fourth image of the evaluation set, changed, among images of its own."""
    ours, evaluation = scenes
    planted: dict[str, int] = {}
    for index in range(len(ours)):
        source, change = (evaluation, COPIES[how]) if index % 4 == 0 and index < len(evaluation) else (ours, np.array)
        image = np.ascontiguousarray(change(decode_image(source.record(index)["image"]))[..., ::-1])
        name = f"{index:03d}.{'png' if index % 8 else 'jpg'}"
        assert cv2.imwrite(str(tmp_path / name), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
        if source is evaluation:
            planted[name] = index

    images = open_images(f"folder:{tmp_path}", "")
    pairs = near(hashes(images), hashes(evaluation, mirror=True), MOST)
    assert {images.record(pair.position)["name"]: pair.other for pair in pairs} == planted
    assert {pair.mirrored for pair in pairs} == {how == "mirrored"}
    assert len(planted) == 12


def test_a_mirrored_copy_is_only_found_by_its_mirror_image(scenes: tuple[ImageSet, ImageSet]) -> None:
    ours = hashes(scenes[0], mirror=True)
    mirror = Hashes(ours.bits[ours.mirrored], ours.positions[ours.mirrored], ours.mirrored[ours.mirrored])
    assert near(mirror, hashes(scenes[0]), MOST) == []
    assert len(near(mirror, ours, 0)) == len(scenes[0])


def test_images_that_are_blank_or_broken_are_like_nothing(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    for name, image in {"a": np.zeros_like(picture), "b": picture, "c": np.full_like(picture, 200)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    images = open_images(f"folder:{tmp_path}", "")
    assert hashes(images).positions.tolist() == [1]
    nothing = hashes(ImageSet("broken", 1, lambda index: {"image": b"gone", "name": "d"}, "digest"))
    assert nothing.bits.shape == (0, HASH_SIDE**2 // 64)
    assert near(nothing, nothing, MOST) == []


def test_the_nearest_is_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (70, HASH_SIDE**2), np.uint8)
    others = np.concatenate([bits[:30] ^ (rng.random((30, HASH_SIDE**2)) < 0.1), bits[60:]])

    def packed(rows: np.ndarray) -> Hashes:
        words = np.packbits(rows.astype(np.uint8), axis=1).view(np.uint64)
        return Hashes(words, 100 + np.arange(len(rows)), np.zeros(len(rows), bool))

    monkeypatch.setattr("must_jax.data.duplicates._CELLS", 9 * len(others))
    pairs = near(packed(bits), packed(others), MOST)
    distances = (bits[:, None] != others[None]).sum(-1)
    assert [pair.position for pair in pairs] == [100 + i for i in np.flatnonzero(distances.min(1) <= MOST)]
    assert len(pairs) == 40
    for pair in pairs:
        assert pair.distance == distances[pair.position - 100].min() == distances[pair.position - 100, pair.other - 100]
