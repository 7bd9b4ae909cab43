"""Models of timm and torchvision say about photographs what their libraries say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.numpy
import torch
import torchvision
import zoo_models
from asked import answers, png
from photos import picture
from zoo_models import CLASSES, CLASSIFIER, DETECTOR, SEGMENTER

from must_jax.config import TeacherConfig
from must_jax.data.batching import TRAIN_MAP_STRIDE
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.teachers import loading
from must_jax.teachers.foreign import Foreign
from must_jax.teachers.said import Boxes
from must_jax.teachers.torchvision import Torchvision

IMAGES = [picture(h, w, seed) for seed, (h, w) in enumerate([(201, 133), (120, 328), (224, 224)])]
KINDS = {CLASSIFIER: "classification", DETECTOR: "detection", SEGMENTER: "segmentation"}


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo_models.save_timm(tmp_path_factory.mktemp("timm"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("torchvision")
    return {name: zoo_models.save_torchvision(name, folder / f"{name}.safetensors") for name in KINDS}


def ask(teacher: Foreign, image: np.ndarray) -> dict[str, np.ndarray]:
    """What it says about one image: boxes as shares of it, maps of it alone."""
    [task] = teacher.tasks
    return answers(teacher, [png(image)], task)[0]


def load(model: str, options: dict[str, Any] | None = None, **values: Any) -> Foreign:
    tasks = {KINDS.get(model.split(":")[1], "classification"): {}}
    config = TeacherConfig.model_validate({"model": model, "tasks": tasks, **values})
    teacher = loading.load(config, {each: options or {} for each in config.tasks}, make_mesh())
    assert isinstance(teacher, Foreign)
    return teacher


def of_torchvision(name: str, file: Path, options: dict[str, Any] | None = None, **values: Any) -> Foreign:
    task = {"classes": CLASSES, **({"background": 0} if name == SEGMENTER else {}), **values}
    return load(f"torchvision:{name}:{file}", options, tasks={KINDS[name]: task})


@pytest.mark.parametrize("image", IMAGES)
def test_timm_classifies_as_timm_does(image: np.ndarray, timm_folder: Path):
    teacher = load(f"timm:{timm_folder}")
    assert teacher.tasks["classification"].classes == CLASSES and teacher.record.licence == "apache-2.0"
    np.testing.assert_allclose(ask(teacher, image)["probs"], zoo_models.timm_probs(image), atol=1e-6)


def test_imagenets_names_are_timms(tmp_path: Path):
    """Their order is that of synsets; two of them are called crane."""
    folder = zoo_models.save_timm(tmp_path, classes=1000, label_names=[])
    names = load(f"timm:{folder}").tasks["classification"].classes
    assert (len(names), names[0], names[999]) == (
        1000,
        "tench, Tinca tinca",
        "toilet tissue, toilet paper, bathroom tissue",
    )
    assert [name for name in names if name.startswith("crane")] == ["crane", "crane (517)"]


def test_names_of_a_model_that_has_none_must_be_declared(timm_folder: Path, tmp_path: Path):
    folder = zoo_models.save_timm(tmp_path, label_names=[])
    with pytest.raises(UserError, match=r"tasks\.classification\.classes"):
        load(f"timm:{folder}")
    with pytest.raises(UserError, match="lists 2, but the model has 4"):
        load(f"timm:{timm_folder}", tasks={"classification": {"classes": ("a", "b")}})


def test_timm_without_safetensors_or_a_classifier_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="num_classes"):
        load(f"timm:{zoo_models.save_timm(tmp_path / 'a', classes=0)}")
    folder = zoo_models.save_timm(tmp_path / "b")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(f"timm:{folder}")


@pytest.mark.parametrize("image", IMAGES)
def test_torchvision_classifies_as_torchvision_does(image: np.ndarray, weights: dict[str, Path]):
    own = zoo_models.torchvision_answer(CLASSIFIER, image)["probs"]
    np.testing.assert_allclose(ask(of_torchvision(CLASSIFIER, weights[CLASSIFIER]), image)["probs"], own, atol=1e-6)


@pytest.mark.parametrize("image", IMAGES)
def test_torchvision_detects_as_torchvision_does(image: np.ndarray, weights: dict[str, Path]):
    """Labels begin at 1."""
    own = zoo_models.torchvision_answer(DETECTOR, image)
    found = ask(of_torchvision(DETECTOR, weights[DETECTOR], {"min_score": 0.0}), image)
    count = len(found["scores"])
    assert count == 100 < len(own["scores"])
    boxes = own["boxes"][:, [1, 0, 3, 2]] / np.tile(image.shape[:2], 2)
    np.testing.assert_allclose(found["boxes_yxyx"][:count], boxes[:count], atol=1e-5)
    np.testing.assert_allclose(found["scores"][:count], own["scores"][:count], atol=1e-6)
    assert found["classes"][:count].tolist() == (own["labels"][:count] - 1).tolist()


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("background", [True, False])
def test_torchvision_segments_as_torchvision_does(background: bool, image: np.ndarray, weights: dict[str, Path]):
    """The background is a class like the others, or no label."""
    values = {} if background else {"classes": ("nothing", *CLASSES), "background": None}
    found = ask(of_torchvision(SEGMENTER, weights[SEGMENTER], **values), image)
    logits = zoo_models.torchvision_answer(SEGMENTER, image)["logits"].transpose(1, 2, 0)
    h, w = (round(side / TRAIN_MAP_STRIDE) for side in image.shape[:2])
    to_source = np.array(
        [
            [logits.shape[1] / w, 0, logits.shape[1] / w / 2 - 0.5],
            [0, logits.shape[0] / h, logits.shape[0] / h / 2 - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    own = np.dstack([cv2.warpAffine(each, to_source, (w, h), flags=flags) for each in cv2.split(logits)]).argmax(-1)
    own = np.where(own == 0, 255, own - 1) if background else own
    ids = found["ids"]
    assert len(np.unique(own)) > 2 and (ids != own).mean() < 0.01
    assert found["confidence"][ids != 255].min() > 0.2


def test_several_ways_to_prepare_images_must_be_chosen_from(weights: dict[str, Path], tmp_path: Path):
    """ResNet-50 has two sets of weights, which see images of another size."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(num_classes=4).eval()
    file = tmp_path / "resnet.safetensors"
    safetensors.torch.save_model(model, str(file))
    tasks = {"classification": {"classes": CLASSES}}
    with pytest.raises(
        UserError, match="IMAGENET1K_V1: size=224, shorter_side=256; IMAGENET1K_V2: size=224, shorter_side=232"
    ):
        load(f"torchvision:resnet50:{file}", tasks=tasks)
    teacher = load(
        f"torchvision:resnet50:{file}", tasks=tasks, input={"fit": "crop", "size": (224,), "shorter_side": 256}
    )
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        own = model(transform(torch.from_numpy(IMAGES[1]).permute(2, 0, 1))[None]).softmax(-1)[0].numpy()
    np.testing.assert_allclose(ask(teacher, IMAGES[1])["probs"], own, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("resnet5", {}, "'resnet50'"),
        ("raft_small", {}, "optical_flow"),
        (f"{CLASSIFIER}", {"tasks": {"classification": {"classes": ("a", "b")}}}, "2 outputs"),
        (f"{DETECTOR}", {}, CLASSIFIER),
        (f"{CLASSIFIER}", {"tasks": {"detection": {}}}, "the model does classification"),
        (f"{CLASSIFIER}", {"input": {"fit": "letterbox"}}, r"input\.fit"),
    ],
)
def test_what_does_not_fit_is_named(name: str, values: dict[str, Any], named: str, weights: dict[str, Path]):
    with pytest.raises(UserError, match=named):
        load(f"torchvision:{name}:{weights[CLASSIFIER]}", **values)


def test_ids_that_coco_does_not_use_are_no_classes(tmp_path: Path):
    torch.manual_seed(0)
    model = torchvision.models.get_model(DETECTOR, weights=None, weights_backbone=None).eval()
    safetensors.torch.save_model(model, str(tmp_path / "m.safetensors"))
    teacher = load(f"torchvision:{DETECTOR}:{tmp_path / 'm.safetensors'}", {"min_score": 0.0}, tasks={"detection": {}})
    classes = teacher.tasks["detection"].classes
    assert (len(classes), classes[0], classes[-1]) == (80, "person", "toothbrush")
    with torch.inference_mode():
        own = model([torch.from_numpy(IMAGES[0]).permute(2, 0, 1) / 255])[0]
    categories = torchvision.models.get_model_weights(DETECTOR).DEFAULT.meta["categories"]
    found = ask(teacher, IMAGES[0])
    named = [categories[i] for i in own["labels"].tolist() if categories[i] != "N/A"]
    assert [classes[i] for i in found["classes"]] == named[: len(found["classes"])] != []


def test_frozen_norms_are_read_as_torchvision_reads_its_own_weights(tmp_path: Path):
    """Their weights have no counts, and norms that add nothing to the variance; here a variance is as small."""
    torch.manual_seed(0)
    model = torchvision.models.get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None, num_classes=3)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    state["backbone.body.bn1.running_var"] *= 1e-2
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    model.load_state_dict(state, strict=False)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eps = 0.0
    with torch.inference_mode():
        own = model.eval()([torch.from_numpy(IMAGES[2]).permute(2, 0, 1) / 255])[0]
    model_ = f"torchvision:fasterrcnn_resnet50_fpn:{tmp_path / 'm.safetensors'}"
    found = ask(load(model_, {"min_score": 0.0}, tasks={"detection": {"classes": ("a", "b")}}), IMAGES[2])
    assert len(own["scores"]) > 0
    np.testing.assert_allclose(found["scores"], own["scores"].numpy(), atol=1e-5)


def test_a_background_that_a_detector_says_is_no_box(weights: dict[str, Path]):
    """RetinaNet and FCOS have an output for it, whose labels are 0."""
    teacher = of_torchvision(DETECTOR, weights[DETECTOR])
    assert isinstance(teacher, Torchvision)
    found = {"boxes": torch.tensor([[1.0, 1, 5, 5], [1, 1, 6, 6]]), "labels": torch.tensor([0, 1])}
    [said] = teacher.read([found | {"scores": torch.tensor([0.9, 0.8])}], [(10, 10)], [(3, 3)])
    boxes = said["detection"]
    assert isinstance(boxes, Boxes) and boxes.classes.tolist() == [0] and boxes.scores.tolist() == pytest.approx([0.8])
