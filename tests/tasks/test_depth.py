from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.tasks import build_task

HW = (16, 24)


@pytest.fixture
def scene():
    """Truth with a fifth of the pixels invalid, and a prediction that has little to do with it."""
    rng = np.random.default_rng(0)
    valid = (rng.random((2, *HW)) > 0.2).astype(np.float32)
    labels = {
        "depth": rng.uniform(1, 5, (2, *HW)).astype(np.float32),
        "valid": valid,
        "present": np.ones(2, np.float32),
    }
    return labels, jnp.asarray(rng.normal(size=(2, *HW, 1)), jnp.float32)


def loss(task, labels, maps):
    return {key: float(total / weight) for key, (total, weight) in task.loss({"maps": maps}, labels, (64, 64)).items()}


def test_an_output_of_zero_stands_for_three_metres():
    task = build_task("depth")
    labels = {"depth": np.full((1, 2, 2), 6, np.float32), "valid": np.ones((1, 2, 2), np.float32)}
    labels["present"] = np.ones(1, np.float32)
    zeros = jnp.zeros((1, 2, 2, 1))
    assert loss(task, labels, zeros) == {"log_l1": pytest.approx(math.log(2))}
    assert loss(task, labels, zeros + math.log(2)) == {"log_l1": pytest.approx(0, abs=1e-6)}
    np.testing.assert_allclose(task.predict({"maps": zeros}, (8, 8))["depth"], 3, rtol=1e-6)


def test_predicted_depth_is_finite_whatever_the_output():
    task = build_task("depth")
    depth = task.predict({"maps": jnp.array([-1e6, 1e6]).reshape(1, 1, 2, 1)}, (8, 8))["depth"]
    np.testing.assert_allclose(depth[0, 0], [0.01, 1000], rtol=1e-4)


@pytest.mark.parametrize("kind", ["relative", "inverse_relative"])
def test_relative_loss_does_not_see_scale_and_shift(scene, kind):
    task, (labels, maps) = build_task("depth", (), {"depth_kind": kind}), scene
    before = loss(task, labels, maps)
    assert sum(before.values()) > 0.1
    assert loss(task, labels, 7 * maps - 3) == pytest.approx(before, rel=1e-3)
    changed = labels | {"depth": 0.01 * labels["depth"] + 100}
    assert loss(task, changed, maps) == pytest.approx(before, rel=1e-2)
    assert loss(task, labels, 3 * jnp.asarray(labels["depth"])[..., None] + 5) == pytest.approx(
        {"affine_invariant": 0, "gradient": 0}, abs=1e-5
    )
    assert sum(loss(task, labels, -jnp.asarray(labels["depth"])[..., None]).values()) > 1


@pytest.mark.parametrize("kind", ["relative", "inverse_relative"])
def test_relative_loss_is_the_one_of_midas(scene, kind):
    task, (labels, maps) = build_task("depth", (), {"depth_kind": kind}), scene
    trimmed = gradient = pixels = 0.0
    for predicted, truth, valid in zip(np.asarray(maps[..., 0]), labels["depth"], labels["valid"] > 0, strict=True):
        size = valid.sum()

        def normalised(values, valid=valid, size=size):
            values = values - np.sort(values[valid])[-1 - size // 2]
            return np.where(valid, values / np.abs(values[valid]).mean(), 0)

        residual = normalised(predicted) - normalised(truth)
        trimmed += np.sort(np.abs(residual[valid]))[: size - int(0.2 * size)].sum() / 2
        for stride in (1, 2, 4, 8):
            r, v = residual[::stride, ::stride], valid[::stride, ::stride]
            gradient += (np.abs(r[1:] - r[:-1]) * (v[1:] & v[:-1])).sum() / 2
            gradient += (np.abs(r[:, 1:] - r[:, :-1]) * (v[:, 1:] & v[:, :-1])).sum() / 2
        pixels += size
    expected = {"affine_invariant": trimmed / pixels, "gradient": gradient / pixels}
    assert loss(task, labels, maps) == pytest.approx(expected, rel=1e-4)


def test_relative_loss_leaves_the_largest_residuals_out(scene):
    task, (labels, _) = build_task("depth", (), {"depth_kind": "relative"}), scene
    maps = np.array(labels["depth"])[..., None]
    maps[:, ::4, ::4] += 100  # a sixteenth of the pixels

    def trimmed_term(maps):
        total, weight = task.loss({"maps": maps}, labels, (64, 64))["affine_invariant"]
        return total / weight

    value, gradient = jax.value_and_grad(trimmed_term)(jnp.asarray(maps))
    # Normalised by their deviation, outliers leave the rest near 0: half of the truth's deviation of 1, less the trim.
    # Without it the outliers would add as much again, for theirs is 1 as well.
    assert 0.1 < value < 0.5
    assert np.all(np.isfinite(gradient))
    assert trimmed_term(jnp.asarray(labels["depth"])[..., None]) == pytest.approx(0, abs=1e-3)


def test_metrics_by_hand_and_the_truth_of_zero_never_counts():
    task = build_task("depth")
    metrics = task.metrics()
    truth = np.array([[[2, 2], [4, 0]]], np.float32)
    labels = {"depth": truth, "valid": np.ones_like(truth), "present": np.ones(1, np.float32)}
    count(metrics, task, {"depth": np.array([[[2.4, 2.6], [4, 9]]], np.float32)}, labels)
    rmse = ((0.4**2 + 0.6**2) / 3) ** 0.5
    assert metrics.result() == pytest.approx({"delta1": 200 / 3, "abs_rel": (0.2 + 0.3) / 3, "rmse": rmse}, rel=1e-5)


def test_relative_depth_is_fitted_before_it_is_measured(scene):
    labels, _ = scene
    predictions = {"depth": 0.1 * labels["depth"] + 40}
    for kind, expected in (("relative", 100), ("metric_m", 0)):
        task = build_task("depth", (), {"depth_kind": kind})
        metrics = task.metrics()
        count(metrics, task, predictions, labels)
        assert metrics.result()["delta1"] == pytest.approx(expected)


INVERSE = build_task("depth", (), {"depth_kind": "inverse_relative"})


def of_metres(depth_m: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """One image's truth in metres, as a model of inverse depth is measured on it."""
    label = {"depth": depth_m, "valid": valid, "present": np.float32(1)}
    return INVERSE.label.converted(label, "m")


@pytest.mark.parametrize("scale", [1.0, 300.0])  # of a room, and of a landscape
def test_inverse_depth_is_aligned_to_the_inverse_and_then_inverted(scale: float):
    """By `numpy.linalg.lstsq`, image by image."""
    rng, metrics, right, errors = np.random.default_rng(0), INVERSE.metrics(), [], []
    for hw in ((16, 24), (30, 20), (9, 50)):
        depth_m = (scale * rng.gamma(2, 2, hw) + scale / 2).astype(np.float32)
        depth_m[rng.random(hw) < 0.1] = 0  # a measurement that is none, even where it is said to be valid
        valid = (rng.random(hw) < 0.8).astype(np.float32)
        known = (valid > 0) & (depth_m > 0)
        true = depth_m[known].astype(np.float64)
        predicted = np.zeros(hw, np.float32)
        predicted[known] = 700 * (1 / true) + 50 + rng.normal(size=true.size) * 100 / scale
        scale_and_shift = np.linalg.lstsq(
            np.stack([predicted[known].astype(np.float64), np.ones(true.size)], 1), 1 / true, rcond=None
        )[0]
        fitted = predicted[known] * scale_and_shift[0] + scale_and_shift[1]
        assert (fitted < 0).any()
        depth = 1 / np.maximum(fitted, 1 / true.max())
        right.append(np.maximum(depth / true, true / depth) < 1.25)
        errors.append(np.abs(depth - true) / true)
        metrics.update({"depth": predicted}, of_metres(depth_m, valid))
    assert 0.2 < np.concatenate(right).mean() < 0.9
    wanted = {"delta1": 100 * np.concatenate(right).mean(), "abs_rel": np.concatenate(errors).mean()}
    assert metrics.result() == pytest.approx(wanted, rel=1e-4)


def test_one_over_inverse_depth_is_not_depth(scene):
    """A shift cannot be undone after an inversion; so a right prediction is only right as what it is."""
    labels, _ = scene
    measured = {}
    for task, predicted in (
        (INVERSE, 5 / labels["depth"][0] + 3),
        (build_task("depth", (), {"depth_kind": "relative"}), 1 / (5 / labels["depth"][0] + 3)),
        (build_task("depth", (), {"depth_kind": "relative"}), 5 / labels["depth"][0] + 3),
    ):
        truth = task.label.converted({key: value[0] for key, value in labels.items()}, "m")
        (metrics := task.metrics()).update({"depth": predicted.astype(np.float32)}, truth)
        measured[task.depth_kind, len(measured)] = metrics.result()["delta1"]
    right, inverted, as_depth = measured.values()
    assert right == pytest.approx(100)
    assert inverted < 99 and as_depth < right


def test_truth_in_inverse_depth_is_taken_as_given():
    """Ratios are those of depths; where it is not above 0, and so infinitely far or farther, it does not count."""
    truth = np.array([[8.0, 4, 2, 1], [0, -1, 0.5, 6]], np.float32)
    valid = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.float32)
    label = {"depth": truth, "valid": valid, "present": np.float32(1)}
    for predicted, expected in ((3 * truth + 7, 100.0), (0 * truth + 7, 0.0)):
        (metrics := INVERSE.metrics()).update({"depth": predicted}, label)
        assert metrics.result()["delta1"] == expected
        assert metrics._errors.sum() == 5
    np.testing.assert_array_equal(INVERSE.truth(label)["depth"], [[16, 8, 4, 2], [0, 0, 1, 0]])


def test_nothing_is_known_of_a_truth_without_a_valid_pixel():
    label = {"depth": np.ones((2, 2), np.float32), "valid": np.zeros((2, 2), np.float32), "present": np.float32(1)}
    (metrics := INVERSE.metrics()).update({"depth": np.ones((2, 2), np.float32)}, label)
    assert metrics.result() == {"delta1": 0.0, "abs_rel": 0.0} and metrics.details() == {}


def test_near_has_the_same_colour_whichever_way_it_is_told():
    depth, image = np.linspace(1, 4, 256, dtype=np.float32)[None].repeat(256, 0), np.zeros((256, 256, 3), np.uint8)
    ones = np.ones_like(depth)
    metric, inverse = (
        task.draw(image, {"depth": values, "valid": ones})
        for task, values in ((build_task("depth"), depth), (INVERSE, (5 - depth)))
    )
    np.testing.assert_allclose(metric[:256].astype(int), inverse[:256], atol=8)
    assert metric[0, 0].tolist() != metric[0, -1].tolist()


def test_units():
    assert build_task("depth").label.unit == "m"
    assert build_task("depth", (), {"depth_kind": "relative"}).label.unit == "relative"
    assert INVERSE.label.unit == "inverse_relative"
    assert build_task("depth", (), {"kind": "relative"}).depth_kind == "relative"  # of earlier versions
