from __future__ import annotations

import jax
import numpy as np
import pytest

from must_jax.engine.mesh import make_mesh, put_batch, put_replicated, replicated, split
from must_jax.models import views
from must_jax.models.views import Distortion

PAPERS = Distortion()
STILL = Distortion(crop_min=1.0, jitter=0.0, grey=0.0, blur=0.0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """u8[4, 48, 48, 3]: squares of random colours."""
    return np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), np.uint8).repeat(16, 1).repeat(16, 2)


DRAW = jax.jit(lambda images, key, distortion: views.draw(images, key, 2, distortion))  # one program for all tests


def drawn(images: np.ndarray, number: int, distortion: Distortion = PAPERS) -> np.ndarray:
    return np.asarray(DRAW(images, jax.random.key(number), distortion))


def test_views_are_a_function_of_the_key_and_differ(images: np.ndarray):
    some = drawn(images, 0)
    assert some.shape == (4, 2, 48, 48, 3)
    assert some.dtype == np.float32
    assert 0 <= some.min() < some.max() <= 255
    np.testing.assert_array_equal(some, drawn(images, 0))
    each = [*some.reshape(8, -1), *drawn(images, 1).reshape(8, -1)]
    assert all(abs(a - b).mean() > 1 for i, a in enumerate(each) for b in each[:i])


def test_views_do_not_depend_on_the_number_of_devices(images: np.ndarray):
    mesh = make_mesh(2)
    draw = jax.jit(
        lambda images, key: views.draw(images, jax.random.wrap_key_data(key), 2, Distortion()),
        in_shardings=(split(mesh), replicated(mesh)),
        out_shardings=split(mesh),
    )
    on_two = draw(put_batch(mesh, images), put_replicated(mesh, jax.random.key_data(jax.random.key(0))))
    np.testing.assert_allclose(on_two, drawn(images, 0), atol=1e-2)


def test_without_distortion_a_view_is_a_part_of_the_image_or_of_its_mirror_image(images: np.ndarray):
    """Crops of all of the area are at most a third narrower or lower, and have no other colours."""
    left = images.copy()
    left[:, :, 24:] = 0  # so that a mirrored one can be told
    shown = drawn(left, 0, STILL)
    mirrored = shown[:, :, :, :8].mean((2, 3, 4)) < shown[:, :, :, -8:].mean((2, 3, 4))
    assert 0 < mirrored.sum() < 8
    for image, both in zip(images, drawn(images, 0, STILL), strict=True):
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        for view in both:
            found = view[[0, 0, -1, -1], [0, -1, 0, -1]]
            assert sorted(found.sum(1)) == pytest.approx(sorted(corners.sum(1)), abs=1)


def test_grey_views_have_no_colour_and_the_luma_of_the_image(images: np.ndarray):
    grey = drawn(images, 0, STILL._replace(grey=1.0))
    np.testing.assert_allclose(grey.max(-1), grey.min(-1), atol=1e-2)
    luma = drawn(images, 0, STILL) @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(grey[..., 0], luma, atol=0.1)


def test_jitter_changes_hue_and_brightness_but_no_place(images: np.ndarray):
    plain, jittered = (drawn(images, 0, STILL._replace(jitter=strength)) for strength in (0.0, 1.0))
    changed = abs(plain - jittered).mean((2, 3, 4))
    assert (changed > 5).sum() >= 4  # one in five has the same colours
    edges = [abs(np.diff(x, axis=2)).max((2, 3, 4)) > 20 for x in (plain, jittered)]
    assert (edges[0] >= edges[1]).all()


def test_blurred_views_are_smoother_and_as_bright():
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    plain, blurred = (drawn(noise, 0, STILL._replace(blur=share)) for share in (0.0, 1.0))
    contrast = [x.std((2, 3)).mean(-1) for x in (plain, blurred)]
    assert (contrast[1] <= contrast[0] + 1e-2).all()
    assert (contrast[1] < 0.95 * contrast[0]).any()
    np.testing.assert_allclose(plain.mean((2, 3, 4)), blurred.mean((2, 3, 4)), rtol=0.02)
