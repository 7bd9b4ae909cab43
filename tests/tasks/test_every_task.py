"""What holds for each task that has labels."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import count

from must_jax.config import ModelConfig
from must_jax.engine.step import make_gradients
from must_jax.errors import UserError
from must_jax.tasks import TASKS, build_task


def loss_and_gradient(case, labels):
    value, gradient = jax.value_and_grad(lambda outputs: case.loss(outputs, labels))(case.outputs)
    return float(value), gradient


def spoilt(labels: dict[str, np.ndarray], where: np.ndarray) -> dict[str, np.ndarray]:
    """Other values where a mask says that nothing counts."""
    other = {}
    for key, value in labels.items():
        chosen = where.reshape(where.shape + (1,) * (value.ndim - where.ndim)) if value.ndim >= where.ndim else False
        garbage = (value + 1) % 3 if value.dtype == np.int32 else np.float32(1000)
        other[key] = value if key == "present" else np.where(chosen, garbage, value)
    return other


def test_what_an_image_without_a_label_holds_changes_neither_loss_nor_gradient(case):
    value, gradient = loss_and_gradient(case, case.labels)
    for labels in (case.labels, spoilt(case.labels, case.labels["present"] == 0)):
        found, found_gradient = loss_and_gradient(case, labels)
        assert found == pytest.approx(value, rel=1e-6)
        for key, leaf in found_gradient.items():
            np.testing.assert_allclose(leaf, gradient[key], rtol=1e-5, atol=1e-8)
            assert np.all(np.asarray(leaf)[case.labels["present"] == 0] == 0)
            assert np.any(np.asarray(leaf)[0] != 0)


RELATIVE = [("depth", {"depth_kind": kind}) for kind in ("relative", "inverse_relative")]
MASKED = [("detection", {}), ("depth", {}), *RELATIVE, ("normals", {})]  # those whose labels have a mask of their own


@pytest.mark.parametrize(("name", "options"), MASKED)
def test_what_an_invalid_pixel_or_an_empty_slot_holds_changes_nothing(make_case, name, options):
    case = make_case(name, **options)
    value, gradient = loss_and_gradient(case, case.labels)
    labels = spoilt(case.labels, case.labels["valid"] == 0) | {"valid": case.labels["valid"]}
    found, found_gradient = loss_and_gradient(case, labels)
    assert found == pytest.approx(value, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), found_gradient, gradient)


def test_without_any_label_loss_and_gradient_are_zero(case):
    value, gradient = loss_and_gradient(case, case.labels | {"present": np.zeros(4, np.float32)})
    assert value == 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in gradient.values())


def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(case):
    """As the training step does it; of the four images one has no label, and another no box."""

    def forward(variables, batch, train):
        outputs = {key: value + variables["params"][key][None] for key, value in batch["outputs"].items()}
        return {case.task.name: outputs}, variables["stats"]

    batch = {"outputs": case.outputs, "labels": {case.task.name: case.labels}}
    wanted, *found = (
        jax.jit(make_gradients(forward, {case.task.name: case.task}, (64, 64), {case.task.name: 1.0}, parts))(
            {key: 0.1 * value[0] for key, value in case.outputs.items()}, {}, batch
        )
        for parts in (1, 2, 4)
    )
    for each in found:
        for ours, theirs in zip(jax.tree.leaves(each), jax.tree.leaves(wanted), strict=True):
            assert np.max(np.abs(theirs)) > 0
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.max(np.abs(theirs)))


def test_maps_of_another_size_are_met_by_resizing_the_outputs(make_case):
    for name, field in (("segmentation", "maps"), ("depth", "maps"), ("normals", "maps")):
        case = make_case(name, map_hw=(64, 64))
        resized = {field: jax.image.resize(case.outputs[field], (4, 64, 64, case.outputs[field].shape[3]), "bilinear")}
        assert float(case.loss()) == pytest.approx(float(case.loss(resized)), rel=1e-5)


def test_metrics_count_each_labelled_example_once_however_it_is_batched(case):
    predictions, labels = case.predict(), case.labels
    whole, split = case.task.metrics(), case.task.metrics()
    count(whole, case.task, predictions, labels)
    for part in ([0], [1, 2, 3]):
        # Padded to a full batch with copies of real examples that are not there.
        index = [*part, *[0] * (4 - len(part))]
        padded = {key: value[index] for key, value in labels.items()}
        padded["present"] = padded["present"] * (np.arange(4) < len(part)).astype(np.float32)
        count(split, case.task, {key: value[index] for key, value in predictions.items()}, padded)
    assert whole.result() == pytest.approx(split.result(), rel=1e-6)
    assert whole.chance() == split.chance() > 0
    assert case.task.metric in whole.result()

    labelled = [0, 1, 3]
    alone = case.task.metrics()
    count(alone, case.task, *({key: value[labelled] for key, value in tree.items()} for tree in (predictions, labels)))
    assert alone.result() == pytest.approx(whole.result(), rel=1e-6)


def test_metrics_of_nothing_are_zero(case):
    assert set(case.task.metrics().result().values()) == {0.0}
    metrics = case.task.metrics()
    count(metrics, case.task, case.predict(), case.labels | {"present": np.zeros(4, np.float32)})
    assert {*metrics.result().values(), metrics.chance(), case.task.metrics().chance()} == {0.0}


def test_details_add_up_to_the_metrics_and_merge_like_them(case):
    predictions, labels = case.predict(), case.labels
    whole, parts = case.task.metrics(), [case.task.metrics() for _ in range(2)]
    count(whole, case.task, predictions, labels)
    for part, rows in zip(parts, (slice(0, 1), slice(1, 4)), strict=True):
        count(part, case.task, *({key: value[rows] for key, value in tree.items()} for tree in (predictions, labels)))
    parts[0].merge(parts[1])
    details, metrics = whole.details(), whole.result()
    assert json.loads(json.dumps(details, allow_nan=False)) == json.loads(json.dumps(parts[0].details()))
    assert details and details.keys() <= {"per_class", "confusion", "curves"}
    if table := details.get("per_class"):
        assert table["classes"] == list(case.task.classes)
        assert all(len(values) == 3 for values in table["columns"].values())
        means = {"segmentation": ("IoU", "miou"), "detection": ("AP50", "ap50")}
        if case.task.name in means:
            column, metric = means[case.task.name]
            values = [value for value in table["columns"][column] if value is not None]
            assert np.mean(values) == pytest.approx(metrics[metric], abs=0.01)
    if confusion := details.get("confusion"):
        counts = np.array(confusion["counts"])
        accuracy = metrics.get("top1", metrics.get("pixel_accuracy"))
        assert counts.shape == (3, 4) and accuracy == pytest.approx(100 * np.trace(counts) / counts.sum())
    for curve in details.get("curves", []):
        assert curve["title"] and curve["x"] and curve["y"]
        for x, y in curve["series"].values():
            assert len(x) == len(y) > 0 and sorted(x) == list(x) and all(0 <= value <= 100 for value in y)
    shares = {"depth": (1.25, "delta1"), "normals": (22.5, "within_22_5")}
    if case.task.name in shares:
        at, metric = shares[case.task.name]
        x, y = details["curves"][0]["series"]["share"]
        assert y[x.index(at)] == pytest.approx(metrics[metric], abs=0.001)
    assert case.task.metrics().details().get("curves", []) == []


def smooth(case):
    """Labels that a head at stride 4 can express: the depth of a slope, normals of two walls."""
    slope = np.linspace(1, 4, 16, dtype=np.float32)[None, :, None] + np.zeros((4, 16, 16), np.float32)
    walls = np.where(np.arange(16)[:, None] < 8, np.array([[0, 0, -1]]), np.array([[0.6, 0, -0.8]]))
    maps = {
        "depth": slope,
        "normals": np.broadcast_to(walls[:, None], (16, 16, 3)).astype(np.float32)[None].repeat(4, 0),
    }
    one_hot = {"probs": np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]}
    chosen = {key: value for key, value in (maps | one_hot).items() if key in case.labels}
    return case.labels | chosen


def test_outputs_that_minimise_the_loss_maximise_the_metric(case):
    labels = smooth(case)

    def heads(raw):
        return raw | ({"box_ltrb": jax.nn.softplus(raw["box_ltrb"])} if "box_ltrb" in raw else {})

    @jax.jit
    def optimise(raw):
        """Descent by the gradient's sign, with shrinking steps."""

        def step(_, carry):
            raw, size = carry
            gradient = jax.grad(lambda raw: case.loss(heads(raw), labels))(raw)
            return jax.tree.map(lambda x, g: x - size * jnp.sign(g), raw, gradient), 0.985 * size

        return jax.lax.fori_loop(0, 400, step, (raw, jnp.float32(0.3)))[0]

    outputs = heads(optimise(case.outputs))
    terms = {key: float(s / jnp.maximum(w, 1)) for key, (s, w) in case.task.loss(outputs, labels, (64, 64)).items()}
    terms.pop("centerness", None)  # cross-entropy against a soft target: its minimum is not 0
    assert sum(terms.values()) < 0.05
    metrics = case.task.metrics()
    count(metrics, case.task, case.predict(outputs), labels)
    assert metrics.result()[case.task.metric] > 98


def test_a_prediction_becomes_a_label_that_can_be_read_and_drawn(case):
    predictions = case.predict()
    assert all(len(value) == 4 for value in predictions.values())
    label = case.task.pseudo_label({key: value[0] for key, value in predictions.items()})
    assert label["present"] == 1
    assert set(label) == set(case.labels)
    for key, value in label.items():
        assert value.dtype == case.labels[key].dtype, key
        assert value.shape == case.labels[key][0].shape, key
    assert json.loads(json.dumps(case.task.describe(label)))
    for height, width in ((64, 64), (48, 64), (700, 1500)):
        picture = case.task.draw(np.full((height, width, 3), 90, np.uint8), label)
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert 256 <= picture.shape[1] <= 1024
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3


def test_a_rule_leaves_nothing_below_its_least_confidence(case):
    predictions = case.predict()
    label = case.task.pseudo_label({key: value[0] for key, value in predictions.items()})
    if case.task.label.has_confidence:
        left = case.task.label.confident(label, case.task.min_confidence.least(case.task.classes))
        assert left["present"] == 1
        assert np.sum(left.get("valid", 1)) == np.sum(label.get("valid", 1)) > 0


def test_the_rule_takes_what_labelling_fetches_for_the_whole_prediction(case):
    predictions = case.predict()
    condensed = jax.device_get(jax.jit(case.task.condense)(predictions))
    assert sum(x.nbytes for x in condensed.values()) <= sum(x.nbytes for x in jax.device_get(predictions).values())
    for row in range(4):
        whole, short = (
            case.task.pseudo_label({key: np.asarray(value)[row] for key, value in each.items()})
            for each in (predictions, condensed)
        )
        assert whole.keys() == short.keys()
        for key, value in whole.items():
            np.testing.assert_array_equal(short[key], value, err_msg=key)


def test_a_task_survives_its_own_description(case):
    described = json.loads(json.dumps(case.task.options))
    assert build_task(case.task.name, case.task.classes, described) == case.task
    assert case.task.head(ModelConfig()) == case.task.head(ModelConfig())


@pytest.mark.parametrize(
    ("name", "classes", "options", "message"),
    [
        ("detektion", ("a",), {}, "did you mean 'detection'?"),
        ("detection", ("a",), {"score_treshold": 0.5}, "did you mean 'score_threshold'?"),
        ("detection", ("a",), {"score_threshold": 2}, "score_threshold: Input should be less than or equal to 1"),
        ("depth", (), {"depth_kind": "feet"}, "option depth_kind"),
        ("depth", (), {"kind": "feet"}, "kind 'feet', which does not exist"),
        ("parts", ("a",), {}, "there is no task 'parts'"),
        ("parts", ("a",), {"kind": "segmentatoin"}, "did you mean 'segmentation'?"),
        ("truth", ("a",), {"kind": "segmentation"}, "cannot be a task's name"),
        ("a-b", ("a",), {"kind": "segmentation"}, "cannot be a task's name"),
        ("detection", ("cat", "dog"), {"score_thresholds": {"catt": 0.5}}, "did you mean 'cat'?"),
        (
            "detection",
            ("cat", "dog"),
            {"score_thresholds": {"cat": 2}},
            "option score_thresholds.cat: Input should be less",
        ),
        ("segmentation", ("cat", "dog"), {"confidence_thresholds": {"dgo": 0.5}}, "did you mean 'dog'?"),
        ("detection", (), {}, "needs class names"),
        ("normals", ("a",), {}, "has no classes"),
        ("segmentation", [f"c{i}" for i in range(65536)], {}, "at most 65535"),
        ("classification", ("a",), {"classes": ("b",)}, "no option 'classes'"),
    ],
)
def test_mistakes_are_named(name, classes, options, message):
    with pytest.raises(UserError) as error:
        build_task(name, classes, options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_registry_knows_each_task_by_its_kind():
    assert all(task.kind == kind for kind, task in TASKS.items())


def test_a_task_of_any_name_survives_its_own_description(case):
    other = build_task("other_one", case.task.classes, {**case.task.options, "kind": case.task.kind})
    assert (other.name, other.kind) == ("other_one", case.task.kind)
    described = json.loads(json.dumps(other.options))
    assert build_task("other_one", other.classes, described) == other != case.task
