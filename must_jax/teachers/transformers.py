"""Folders of the library transformers as teachers: `transformers:FOLDER`, with `config.json`,
`preprocessor_config.json` and `model.safetensors`, as `save_pretrained` writes them and as hubs offer them.

The model's own processor prepares images, one by one: in a padded batch DETR and its kin would find other boxes. The
library's own `post_process_...` reads the outputs. Nothing is downloaded, and no code of the folder runs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers as hub

from must_jax.config.teachers import TeacherConfig, TeacherTaskConfig
from must_jax.errors import UserError, told
from must_jax.teachers import declarations, files, foreign
from must_jax.teachers.declarations import licence_of, unique
from must_jax.teachers.foreign import Answers
from must_jax.teachers.pytorch import Hw, PyTorch, Tensors, numbers
from must_jax.teachers.said import Said

_OFFLINE = {"local_files_only": True, "trust_remote_code": False}
_KINDS = {  # how the name of an architecture ends -> what it does
    "ForImageClassification": "classification",
    "ForObjectDetection": "detection",
    "ForSemanticSegmentation": "segmentation",
    "ForUniversalSegmentation": "segmentation",
    "ForInstanceSegmentation": "segmentation",
    "ForSegmentation": "segmentation",
    "ForDepthEstimation": "depth",
}
_METHODS = {  # of the processor
    "detection": "post_process_object_detection",
    "segmentation": "post_process_semantic_segmentation",
    "depth": "post_process_depth_estimation",
}
_METRIC = ("ZoeDepth", "GLPN", "DepthPro")  # depth in metres, whatever they were trained on
_NO_CLASS = "N/A"  # how DETR names those of its 91 ids that COCO does not use


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]]) -> PyTorch:
    """The model in the folder of `declared.model` as a teacher.

    Raises:
      UserError: it is not complete, or does something that is no task here; something has to be declared, or
        contradicts its files.
    """
    hub.logging.disable_progress_bar()
    where, folder = f"teacher {declared.called}", files.path_of(declared)
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # parts of the library ask its hub, whatever they are told
    config = _read(where, folder, "config.json", _config)
    architecture = _architecture(where, config)
    kind = next(kind for end, kind in _KINDS.items() if architecture.endswith(end))
    declarations.check_task(declared, kind)
    declarations.check_own_fit(declared)
    processor = _read(where, folder, "preprocessor_config.json", _processor)
    if kind in _METHODS and not hasattr(processor, _METHODS[kind]):
        raise UserError(
            f"{where}: {type(processor).__name__} cannot read a {kind} from {architecture}; use another model, or a "
            "function (docs/teachers.md)"
        )
    names, index = _classes(config)
    [(name, task)] = declared.tasks.items()
    says = _says(config, architecture, kind, declarations.without_background(names, task))
    readings = foreign.readings(declared, options, {name: says})
    declarations.check(declared, says, len(index) * readings[name].task.has_classes)
    if task.classes:
        index = np.arange(len(index))
    input_ = foreign.own_input(declared, _side(processor))
    model = _model(where, folder, architecture, config)
    teacher = Transformers(declared, readings, input_, licence_of(folder), model, processor, index)
    try:
        teacher.prepare(np.zeros((48, 64, 3), np.uint8))
    except Exception as error:  # of a processor, with these settings
        raise UserError(f"{where}: it cannot be shown an image: {told(error)}; ask it by a function") from error
    return teacher


class Transformers(PyTorch):
    """See the module.

    Args:
      index: of a detector's ids, the class of each; -1 = none.
    """

    def __init__(self, *arguments: Any) -> None:
        *others, self._processor, self._index = arguments
        super().__init__(*others)
        [self._task] = self.readings
        if method := _METHODS.get(self._reading.task.kind):
            self._post_process = getattr(self._processor, method)
            self._takes = inspect.signature(self._post_process).parameters

    def prepare(self, image: np.ndarray) -> Tensors:
        made = self._processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        for name, value in made.items():
            if not isinstance(value, torch.Tensor) and len(value):
                raise TypeError(f"its processor returns {name}, which depends on the batch, beside tensors")
        return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    def read(self, outputs: Any, images_hw: Sequence[Hw], cells_hw: Sequence[Hw]) -> list[Answers]:
        match self._reading.task.kind:
            case "classification":
                said = self._vectors(outputs)
            case "detection":
                said = self._boxes(outputs, images_hw)
            case "segmentation":
                said = self._regions(outputs, cells_hw)
            case _:
                said = self._depths(outputs, images_hw)
        return [{self._task: each} for each in said]

    def _vectors(self, outputs: Any) -> list[Said]:
        return [self._reading.vector(each) for each in numbers(outputs.logits)]

    def _boxes(self, outputs: Any, images_hw: Sequence[Hw]) -> list[Said]:
        said: list[Said] = []
        found = self._post_process(outputs, threshold=0.0, target_sizes=list(images_hw))
        for each, hw in zip(found, images_hw, strict=True):
            boxes, labels, scores = (numbers(each[key]) for key in ("boxes", "labels", "scores"))
            classes = self._index[labels]
            known = classes >= 0
            said.append(self._reading.boxes(boxes[known], scores[known], classes[known], hw, "image"))
        return said

    def _regions(self, outputs: Any, cells_hw: Sequence[Hw]) -> list[Said]:
        """The library enlarges its scores to the map before the best class is taken."""
        found = self._post_process(outputs, target_sizes=list(cells_hw), return_segmentation_scores=True)
        said: list[Said] = []
        for each in found:
            scores = numbers(each.segmentation_scores).transpose(1, 2, 0)
            if self._reading.declared.scores == "probabilities":  # of overlapping masks: they may exceed 1 together
                scores = scores / np.maximum(scores.sum(-1, keepdims=True), 1)
            said.append(self._reading.regions(scores, "image"))
        return said

    def _depths(self, outputs: Any, images_hw: Sequence[Hw]) -> list[Said]:
        sizes = {"source_sizes": list(images_hw)} if "source_sizes" in self._takes else {}
        found = self._post_process(outputs, target_sizes=list(images_hw), **sizes)
        return [self._reading.depth(numbers(each["predicted_depth"]), frame="image") for each in found]


def _config(folder: Path) -> Any:
    """The library asks its hub whether a backbone of timm is a model there, if the config has arguments for it, as
    those that its versions before 5 have written: the answer is given here.
    """
    values = json.loads((folder / "config.json").read_text("utf-8"))
    name, arguments = values.get("backbone"), values.get("backbone_kwargs")
    if not (values.get("use_timm_backbone") and name and arguments) or values.get("backbone_config"):
        return hub.AutoConfig.from_pretrained(folder, **_OFFLINE)
    backbone = {"model_type": "timm_backbone", "backbone": name, **arguments}
    values |= {"backbone": None, "backbone_kwargs": None, "backbone_config": backbone}
    return hub.CONFIG_MAPPING[values["model_type"]].from_dict(values)


def _processor(folder: Path) -> Any:
    return hub.AutoImageProcessor.from_pretrained(folder, **_OFFLINE)


def _read(where: str, folder: Path, name: str, reader: Callable[[Path], Any]) -> Any:
    if not (folder / name).is_file():
        raise UserError(f"{where}: there is no {folder / name}; name a folder as save_pretrained writes it")
    try:
        return reader(folder)
    except ImportError as error:
        raise UserError(f"{where}: {name} needs something that is not installed: {told(error)}") from error
    except Exception as error:  # the library checks nothing: keys that are missing, values of any type
        raise UserError(f"{where}: {folder / name} cannot be used: {told(error)}") from error


def _architecture(where: str, config: Any) -> str:
    found = [name for name in config.architectures or () if name.endswith(tuple(_KINDS))]
    if len(found) != 1 or not hasattr(hub, found[0]):
        named = ", ".join(config.architectures or ()) or "no architecture"
        raise UserError(
            f"{where}: its config.json names {named}, which is none of this library's models for image classification, "
            "object detection, semantic segmentation or depth; ask it by a function (docs/teachers.md)"
        )
    if found[0].startswith("OneFormer"):
        raise UserError(f"{where}: {found[0]} also needs a text; ask it by a function (docs/teachers.md)")
    return str(found[0])


def _model(where: str, folder: Path, architecture: str, config: Any) -> torch.nn.Module:
    try:
        model, loaded = getattr(hub, architecture).from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_OFFLINE
        )
    except ImportError as error:
        raise UserError(f"{where}: {architecture} needs something that is not installed: {told(error)}") from error
    except Exception as error:
        raise UserError(f"{where}: the weights in {folder} cannot be used: {told(error)}") from error
    wrong = sorted({*loaded["missing_keys"], *(str(each[0]) for each in loaded["mismatched_keys"])})
    if wrong:
        raise UserError(
            f"{where}: {folder} has no weights that fit {wrong[0]} ({len(wrong)} in all), which would be random; use "
            "the folder of a model that was trained for this"
        )
    return model


def _classes(config: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of its classes, none if its files have made-up ones; and of each of its ids the class, -1 = none."""
    labels = {int(key): str(value) for key, value in config.id2label.items()}
    index = np.full(max(labels, default=-1) + 1, -1)
    known = [i for i in sorted(labels) if labels[i] != _NO_CLASS]
    index[known] = range(len(known))
    names = unique([labels[i] for i in known])
    return (() if all(name == f"LABEL_{i}" for i, name in labels.items()) else names), index


def _says(config: Any, architecture: str, kind: str, names: tuple[str, ...]) -> TeacherTaskConfig:
    """What the files say about its task."""
    values: dict[str, Any] = {"classes": names} if names and kind != "depth" else {}
    match kind:
        case "classification":
            several = getattr(config, "problem_type", None) == "multi_label_classification"
            values |= {"scores": "sigmoid" if several else "softmax"}
        case "detection":
            values |= {"boxes": "xyxy", "box_unit": "pixels", "nms_iou": 1.0}
        case "segmentation":
            values |= {"scores": "softmax" if architecture.endswith("ForSemanticSegmentation") else "probabilities"}
        case _:
            type_ = getattr(config, "depth_estimation_type", None)
            if type_ == "metric" or architecture.startswith(_METRIC):
                values |= {"depth_kind": "metric_m"}
            elif type_ == "relative":
                values |= {"depth_kind": "inverse_relative"}
    return TeacherTaskConfig(**values)


def _side(processor: Any) -> int:
    """Pixels that its images have at most; 0 = not known."""
    size = getattr(processor, "size", None)
    sides = [size.get(key) for key in ("height", "width", "shortest_edge", "longest_edge")] if size else []
    return max((int(side) for side in sides if side), default=0)
