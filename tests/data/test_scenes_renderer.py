"""The renderer's ground truth against geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from must_jax.data.scenes.domains import HELD_OUT, TRAINING, sample_scene
from must_jax.data.scenes.geometry import ROOM, SOLIDS, Solid, intervals
from must_jax.data.scenes.renderer import (
    CEILING,
    FIRST_OBJECT,
    FLOOR,
    MIN_VISIBLE_SHARE,
    WALL,
    Body,
    Camera,
    Item,
    Rendering,
    Scene,
    render,
)
from must_jax.data.scenes.textures import Surface

GREY = Surface((0.7, 0.7, 0.7), (0.7, 0.7, 0.7))
CAMERA = Camera((-2.0, 0.1, 1.5), yaw=0.1, pitch=-0.15, fx=0.9, fy=0.9)
SIZE = 64


def make_scene(*items: Item, camera: Camera = CAMERA) -> Scene:
    room = Body(ROOM, (0.0, 0.0, 1.4), (2.5, 3.0, 1.4))
    return Scene(room, (GREY, GREY, GREY), items, camera, light=(-1.0, 1.0, 2.5))


def make_item(shape: str, x: float, y: float, radius: float, yaw: float = 0.0) -> Item:
    return Item(shape, Body(SOLIDS[shape], (x, y, radius), (radius, radius, radius), yaw), GREY)


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Camera-frame and world directions of all pixels, f64[SIZE, SIZE, 3], written out by hand."""
    centres = (np.arange(SIZE) + 0.5) / SIZE
    x, y = np.meshgrid((centres - camera.cx) / camera.fx, (centres - camera.cy) / camera.fy)
    forward = np.array(
        [np.cos(camera.yaw) * np.cos(camera.pitch), np.sin(camera.yaw) * np.cos(camera.pitch), np.sin(camera.pitch)]
    )
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    local = np.stack([x, y, np.ones_like(x)], axis=-1)
    return local, local @ np.stack([right, down, forward])


def test_depth_and_normals_of_a_sphere():
    radius, centre = 0.7, np.array([1.0, 0.3, 0.7])
    seen = render(make_scene(make_item("sphere", 1.0, 0.3, radius)), CAMERA, SIZE, SIZE)
    local, world = rays(CAMERA)
    to_centre = np.array(CAMERA.position) - centre
    a, b, c = (world**2).sum(-1), world @ to_centre, to_centre @ to_centre - radius**2
    discriminant = b**2 - a * c
    inside = discriminant > 1e-2  # the outermost pixels may fall on either side
    assert inside.sum() > 300
    assert (seen.surfaces[inside] == FIRST_OBJECT).all()
    assert (seen.surfaces[discriminant < -1e-2] != FIRST_OBJECT).all()
    depth = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    np.testing.assert_allclose(seen.depth_m[inside], depth[inside], atol=1e-4)
    camera_centre = (centre - np.array(CAMERA.position)) @ np.linalg.inv(_world_of_camera(CAMERA))
    normals = (local * depth[..., None] - camera_centre) / radius
    np.testing.assert_allclose(seen.normals[inside], normals[inside], atol=1e-3)


def _world_of_camera(camera: Camera) -> np.ndarray:
    """Rows are the camera's axes in the world."""
    local, world = rays(camera)
    return np.linalg.lstsq(local.reshape(-1, 3), world.reshape(-1, 3), rcond=None)[0]


def test_depth_normals_and_names_of_the_rooms_planes():
    wide = replace(CAMERA, fx=0.5, fy=0.5)
    seen = render(make_scene(), wide, SIZE, SIZE)
    world, axes = rays(wide)[1], _world_of_camera(wide)
    planes = [  # axis, where it is, normal into the room, name
        (2, 0.0, (0, 0, 1), FLOOR),
        (2, 2.8, (0, 0, -1), CEILING),
        (0, 2.5, (-1, 0, 0), WALL),
        (1, 3.0, (0, -1, 0), WALL),
        (1, -3.0, (0, 1, 0), WALL),
    ]
    depths = np.stack([(where - wide.position[axis]) / world[..., axis] for axis, where, _, _ in planes])
    depths[depths < 0] = np.inf
    first, second = np.sort(depths, axis=0)[:2]
    np.testing.assert_allclose(seen.depth_m, first, atol=1e-4)
    clear = second - first > 1e-3  # not on an edge between two planes
    plane = depths.argmin(axis=0)[clear]
    assert clear.mean() > 0.99 and len(np.unique(plane)) == len(planes)
    np.testing.assert_array_equal(seen.surfaces[clear], np.array([name for *_, name in planes])[plane])
    normals = np.array([normal for _, _, normal, _ in planes]) @ axes.T
    np.testing.assert_allclose(seen.normals[clear], normals[plane], atol=1e-5)


@pytest.mark.parametrize("shape", ["cube", "tent", "octahedron", "frustum", "house"])
def test_normals_are_the_gradient_of_depth_on_planes(shape: str):
    seen = render(make_scene(make_item(shape, 0.8, 0.2, 0.8, yaw=0.4)), CAMERA, SIZE, SIZE)
    points = rays(CAMERA)[0] * seen.depth_m[..., None].astype(np.float64)
    gradient = np.cross(points[1:, :-1] - points[:-1, :-1], points[:-1, 1:] - points[:-1, :-1])
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    corners = [seen.normals[:-1, :-1], seen.normals[1:, :-1], seen.normals[:-1, 1:]]
    same_face = np.all([np.abs(corner - corners[0]).max(-1) < 1e-4 for corner in corners], axis=0)
    same_face &= (seen.surfaces[1:, :-1] == seen.surfaces[:-1, :-1]) & (
        seen.surfaces[:-1, 1:] == seen.surfaces[:-1, :-1]
    )
    assert (same_face & (seen.surfaces[:-1, :-1] == FIRST_OBJECT)).sum() > 100
    np.testing.assert_allclose(gradient[same_face], corners[0][same_face], atol=5e-3)


@pytest.mark.parametrize("shape", SOLIDS)
@pytest.mark.parametrize(
    "start", [(0.3, -4.0, 0.8), (0.1, 0.3, -3.0), (-0.2, 0.1, 4.0)], ids=["side", "below", "above"]
)
def test_intervals_are_the_inside_of_a_solid(shape: str, start: tuple[float, float, float]):
    solid, rng = SOLIDS[shape], np.random.default_rng(0)
    origin = np.array(start, np.float32)
    targets = rng.uniform(-1.2, 1.2, (3, 600)).astype(np.float32)
    directions = targets - origin[:, None]
    directions[:, 0] = (0, 0, -np.sign(start[2]))  # parallel to faces
    t_in, t_out = intervals(solid, origin, directions)
    t = np.linspace(0, 4, 200)[:, None]
    points = origin[:, None, None] + t[None] * directions[:, None, :].astype(np.float64)
    margin = np.minimum(np.abs(t - t_in), np.abs(t - t_out)) > 1e-3
    expected = (t > t_in) & (t < t_out)
    inside = _inside(solid, points)
    assert inside.any()
    np.testing.assert_array_equal(inside[margin], expected[margin])


def _inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    heights = np.einsum("pc,c...->...p", solid.normals, points)
    inside = (heights <= solid.offsets).all(axis=-1)
    if solid.quadric is not None:
        centred = points - np.reshape([0, 0, solid.quadric.z], (3, *[1] * (points.ndim - 1)))
        inside &= np.einsum("c,c...->...", solid.quadric.weights, centred**2) <= solid.quadric.constant
    return inside


@pytest.mark.parametrize("shape", SOLIDS)
def test_solids_fill_their_cube(shape: str):
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (3, 400_000))
    inside = points[:, _inside(SOLIDS[shape], points)]
    assert np.abs(inside).max() <= 1
    assert inside[2].min() < -0.8 and inside[2].max() > 0.7  # stands on the floor, reaches the top


@pytest.fixture(scope="module", params=[TRAINING, HELD_OUT], ids=["training", "held out"])
def renderings(request: pytest.FixtureRequest) -> list[tuple[Scene, Rendering]]:
    scenes = [sample_scene(np.random.default_rng([7, i]), request.param) for i in range(40)]
    return [(scene, render(scene, scene.camera, SIZE, SIZE)) for scene in scenes]


def test_normals_are_unit_and_face_the_camera(renderings: list[tuple[Scene, Rendering]]):
    for scene, seen in renderings:
        np.testing.assert_allclose(np.linalg.norm(seen.normals, axis=-1), 1, atol=1e-5)
        local, _ = rays(scene.camera)
        assert (seen.normals * local).sum(-1).max() < 1e-2


def test_depth_is_inside_the_room(renderings: list[tuple[Scene, Rendering]]):
    for scene, seen in renderings:
        points = np.array(scene.camera.position) + rays(scene.camera)[1] * seen.depth_m[..., None]
        assert (np.abs(points - scene.room.center) < np.array(scene.room.half_extents) + 1e-3).all()


def test_boxes_are_tight_around_what_is_visible(renderings: list[tuple[Scene, Rendering]]):
    boxes = 0
    for scene, seen in renderings:
        for number, item in enumerate(scene.items):
            mask = seen.surfaces == FIRST_OBJECT + number
            alone = render(replace(scene, items=(item,)), scene.camera, SIZE, SIZE).surfaces == FIRST_OBJECT
            enough = mask.sum() >= max(12, MIN_VISIBLE_SHARE * alone.sum())
            assert enough == (number in seen.box_items)
        for (top, left, bottom, right), number in zip(seen.boxes_yxyx * SIZE, seen.box_items, strict=True):
            rows, columns = np.nonzero(seen.surfaces == FIRST_OBJECT + number)
            assert (top, left, bottom, right) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            boxes += 1
    assert boxes > 40


def test_an_object_behind_another_has_no_box():
    scene = sample_scene(np.random.default_rng(3), TRAINING)
    front = scene.items[0]
    eye, center = np.array(scene.camera.position), np.array(front.body.center)
    behind = replace(front.body, center=tuple(eye + 1.3 * (center - eye)))
    assert len(render(replace(scene, items=(front,)), scene.camera, SIZE, SIZE).box_items) == 1
    both = render(replace(scene, items=(front, replace(front, body=behind))), scene.camera, SIZE, SIZE)
    np.testing.assert_array_equal(both.box_items, [0])


def test_objects_lie_inside_their_windows(renderings: list[tuple[Scene, Rendering]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("must_jax.data.scenes.renderer._window", lambda *_: (slice(None), slice(None)))
    for scene, seen in renderings:
        whole = render(scene, scene.camera, SIZE, SIZE)
        np.testing.assert_array_equal(whole.surfaces, seen.surfaces)
        np.testing.assert_allclose(whole.depth_m, seen.depth_m, atol=1e-5)


def test_a_negative_focal_length_mirrors_image_and_truth():
    scene = sample_scene(np.random.default_rng(3), TRAINING)
    seen = render(scene, scene.camera, SIZE, SIZE)
    mirrored = render(scene, replace(scene.camera, fx=-scene.camera.fx), SIZE, SIZE)
    np.testing.assert_array_equal(mirrored.surfaces, seen.surfaces[:, ::-1])
    np.testing.assert_array_equal(mirrored.image, seen.image[:, ::-1])
    np.testing.assert_allclose(mirrored.depth_m, seen.depth_m[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(mirrored.normals, seen.normals[:, ::-1] * (-1, 1, 1), atol=1e-5)
    np.testing.assert_allclose(mirrored.boxes_yxyx, np.abs(seen.boxes_yxyx[:, [0, 3, 2, 1]] - (0, 1, 0, 1)), atol=1e-6)


def test_intrinsics_crop():
    scene = sample_scene(np.random.default_rng(4), TRAINING)
    seen = render(scene, scene.camera, SIZE, SIZE)
    zoom = replace(scene.camera, fx=2 * scene.camera.fx, fy=2 * scene.camera.fy, cx=0.0, cy=1.0)
    top_right = render(scene, zoom, SIZE // 2, SIZE // 2)
    np.testing.assert_array_equal(top_right.surfaces, seen.surfaces[: SIZE // 2, SIZE // 2 :])
    np.testing.assert_allclose(top_right.depth_m, seen.depth_m[: SIZE // 2, SIZE // 2 :], atol=1e-4)


def test_shadows_are_where_the_light_is_blocked():
    radius, centre = 0.5, np.array([0.6, 0.0, 0.5])
    scene = make_scene(make_item("sphere", 0.6, 0.0, radius))
    seen, empty = (render(each, CAMERA, SIZE, SIZE) for each in (scene, make_scene()))
    points = np.array(CAMERA.position) + rays(CAMERA)[1] * seen.depth_m[..., None]
    light = np.array(scene.light)
    beams = points - light
    nearest = np.clip(((centre - light) * beams).sum(-1) / (beams**2).sum(-1), 0, 1)
    distance = np.linalg.norm(light + nearest[..., None] * beams - centre, axis=-1)
    room = seen.surfaces < FIRST_OBJECT
    darker = empty.image.astype(int).sum(-1) - seen.image.astype(int).sum(-1)
    shadow = room & (distance < radius - 0.01)
    assert shadow.sum() > 50
    assert (darker[shadow] > 0).all()
    assert (darker[room & (distance > radius + 0.01)] == 0).all()


def test_noise_is_drawn_only_from_a_generator():
    scene = sample_scene(np.random.default_rng(5), TRAINING)
    clean, again = (render(scene, scene.camera, SIZE, SIZE).image for _ in range(2))
    noisy = render(scene, scene.camera, SIZE, SIZE, np.random.default_rng(0)).image
    np.testing.assert_array_equal(clean, again)
    assert 0.3 < np.abs(noisy.astype(int) - clean).mean() < 5
