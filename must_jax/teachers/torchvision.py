"""Models of torchvision as teachers: `torchvision:NAME:FILE`, the name of a model there and its weights as safetensors.

Classifiers, detectors and segmenters. Images are prepared as for the library's own weights of that name, and without
`classes`, its classes are theirs: ImageNet's or COCO's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision

from must_jax.config.teachers import TeacherConfig, TeacherInputConfig, TeacherTaskConfig
from must_jax.errors import UserError, nearest, told
from must_jax.teachers import declarations, files, foreign
from must_jax.teachers.declarations import unique
from must_jax.teachers.foreign import Answers
from must_jax.teachers.pytorch import Hw, PyTorch, Tensors, numbers
from must_jax.teachers.said import Said

_KINDS = {"models": "classification", "detection": "detection", "segmentation": "segmentation"}  # by their modules
_SAYS: dict[str, dict[str, Any]] = {
    "classification": {"scores": "softmax"},
    "detection": {"boxes": "xyxy", "box_unit": "pixels", "nms_iou": 1.0, "first_class": 1},
    "segmentation": {"scores": "softmax"},
}
_NO_CLASS = "N/A"  # how COCO's unused ids are named
_COUNT = "num_batches_tracked"  # of a norm that is not frozen; nothing depends on it
_EXACT = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")  # see `_model`


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]]) -> PyTorch:
    """The model of `declared.model` as a teacher.

    Raises:
      UserError: there is no such model, or it does something that is no task here; its weights do not fit it; something
        has to be declared.
    """
    where, file = f"teacher {declared.called}", files.path_of(declared)
    name = declared.model.split(":")[1]
    kind = _kind(where, name)
    declarations.check_task(declared, kind)
    crops = kind == "classification" and declared.input.fit == "crop"
    declarations.check_own_fit(declared, {"fit", "shorter_side"} if crops else set())
    [(called, task)] = declared.tasks.items()
    first = _SAYS[kind].get("first_class", 0)  # before it there is the background
    categories = torchvision.models.get_model_weights(name).DEFAULT.meta["categories"]
    theirs = [each.strip("_") for each in categories][first:]
    background = None if task.background is None else task.background % len(theirs)
    known = [i for i, each in enumerate(theirs) if each != _NO_CLASS and i != background]
    says = TeacherTaskConfig(classes=unique([theirs[i] for i in known]), **_SAYS[kind])
    readings = foreign.readings(declared, options, {called: says})
    if task.classes:
        index = np.arange(len(readings[called].mapping.given) + (task.background is not None))
    else:
        index = np.full(len(theirs), -1)
        index[known] = range(len(known))
    model = _model(where, name, file, len(index) + first)
    transform = _transform(where, name, declared)
    input_ = foreign.own_input(declared.model_copy(update={"input": TeacherInputConfig()} if crops else {}))
    return Torchvision(declared, readings, input_, "", model, transform, index)


class Torchvision(PyTorch):
    """See the module.

    Args:
      index: of a detector's labels, less `first_class`, the class of each; -1 = none.
    """

    def __init__(self, *arguments: Any) -> None:
        *others, self._transform, self._index = arguments
        super().__init__(*others)
        [self._task] = self.readings

    def prepare(self, image: np.ndarray) -> Tensors:
        return {"x": self._transform(torch.from_numpy(image).permute(2, 0, 1))[None]}

    def run(self, inputs: Tensors) -> Any:
        if self._reading.task.kind == "detection":
            return self._model(list(inputs["x"]))  # of one size, so it pads none of them
        outputs = self._model(inputs["x"])
        return outputs["out"] if isinstance(outputs, Mapping) else outputs

    def read(self, outputs: Any, images_hw: Sequence[Hw], cells_hw: Sequence[Hw]) -> list[Answers]:
        match self._reading.task.kind:
            case "classification":
                said: list[Said] = [self._reading.vector(each) for each in numbers(outputs)]
            case "detection":
                said = [self._boxes(each, hw) for each, hw in zip(outputs, images_hw, strict=True)]
            case _:
                said = [self._regions(each, hw) for each, hw in zip(outputs, cells_hw, strict=True)]
        return [{self._task: each} for each in said]

    def _boxes(self, found: Mapping[str, torch.Tensor], hw: Hw) -> Said:
        boxes, labels, scores = (numbers(found[key]) for key in ("boxes", "labels", "scores"))
        first = self._reading.declared.first_class or 0
        classes = self._index[labels - first]
        known = (classes >= 0) & (labels >= first)  # RetinaNet and FCOS may say the background, too
        return self._reading.boxes(boxes[known], scores[known], classes[known] + first, hw, "image")

    def _regions(self, logits: torch.Tensor, hw: Hw) -> Said:
        """Logits are enlarged, or reduced, before the best class is taken."""
        logits = torch.nn.functional.interpolate(logits[None], hw, mode="bilinear", align_corners=False)[0]
        return self._reading.regions(numbers(logits).transpose(1, 2, 0), "image")


def _kind(where: str, name: str) -> str:
    known = {each: torchvision.models.get_model_builder(each).__module__ for each in torchvision.models.list_models()}
    if name not in known:
        raise UserError(f"{where}: torchvision has no model '{name}'; {nearest(name, known)}")
    module = known[name].split(".")[-2]
    if module not in _KINDS:
        raise UserError(
            f"{where}: {name} is one of torchvision.models.{module}; use a classifier, a detector or a segmenter of it"
        )
    return _KINDS[module]


def _transform(where: str, name: str, declared: TeacherConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """How its images are prepared, u8[3, h, w] -> f32[3, h, w].

    Raises:
      UserError: that depends on which of the library's weights of this name are meant.
    """
    weights = torchvision.models.get_model_weights(name)
    if declared.input.fit == "crop":
        size = declared.input.size or (224,)
        crop = weights.DEFAULT.transforms(resize_size=declared.input.shorter_side or min(size))
        crop.crop_size = list(size)
        return crop
    ways = {str(each.transforms()): each for each in weights}
    if len(ways) > 1:
        told_ = [
            f"{each.name}: size={t.crop_size[0]}, shorter_side={t.resize_size[0]}"
            for each in ways.values()
            if (t := each.transforms())
        ]
        raise UserError(
            f"{where}: torchvision has several weights of {name}, whose images are prepared differently; set "
            "input.fit=crop and input.size and input.shorter_side as for the one that these are, or began as: "
            f"{'; '.join(told_)}"
        )
    return weights.DEFAULT.transforms()


def _model(where: str, name: str, file: Path, classes: int) -> torch.nn.Module:
    """The model with the weights in a file.

    Norms of detectors' backbones are frozen in the library's own weights, which therefore have no `_COUNT`. Those of
    `_EXACT` also add nothing to the variance, and so does what was trained from these weights.
    """
    more: dict[str, Any] = {} if _kind(where, name) == "classification" else {"weights_backbone": None}
    try:
        with safetensors.safe_open(file, "pt") as opened:
            keys = set(opened.keys())
        if any(key.startswith("aux_classifier.") for key in keys):
            more["aux_loss"] = True
        if name in ("googlenet", "inception_v3"):  # their own weights take images with another mean
            auxiliary = any(key.startswith(("aux1.", "AuxLogits.")) for key in keys)
            more |= {"transform_input": True, "init_weights": False, "aux_logits": auxiliary}
        model: torch.nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
        missing, unexpected = safetensors.torch.load_model(model, file, strict=False)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{where}: {file} does not fit {name} with {classes} outputs; correct the name or the classes: "
            f"{told(error)}"
        ) from error
    if wrong := sorted([*missing, *unexpected]):
        raise UserError(
            f"{where}: {file} are not the weights of {name}: {wrong[0]} is in one of them alone ({len(wrong)} such); "
            "correct the name"
        )
    if name in _EXACT and not any(key.endswith(_COUNT) for key in keys):
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.eps = 0.0
    return model
