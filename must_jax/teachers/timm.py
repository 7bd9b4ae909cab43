"""Classifiers of the library timm as teachers: `timm:FOLDER`, with `config.json` and `model.safetensors`, as its
`save_for_hf` writes them and as hubs offer them. Images are prepared by the library's own transforms for evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import huggingface_hub
import numpy as np
import PIL.Image
import timm
import timm.data
import torch

from must_jax.config.teachers import TeacherConfig, TeacherTaskConfig
from must_jax.errors import UserError, told
from must_jax.reading import read_json
from must_jax.teachers import declarations, files, foreign
from must_jax.teachers.declarations import licence_of, unique
from must_jax.teachers.foreign import Answers
from must_jax.teachers.pytorch import Hw, PyTorch, Tensors, numbers

_WEIGHTS = "model.safetensors"


def load(declared: TeacherConfig, options: Mapping[str, Mapping[str, Any]]) -> PyTorch:
    """The classifier in the folder of `declared.model` as a teacher.

    Raises:
      UserError: a file is missing or does not fit; it has no classes; something has to be declared, or contradicts its
        files.
    """
    where, folder = f"teacher {declared.called}", files.path_of(declared)
    for name in ("config.json", _WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{where}: there is no {folder / name}; name a folder as timm's save_for_hf writes it")
    declarations.check_task(declared, "classification")
    declarations.check_own_fit(declared)
    told_ = read_json(folder / "config.json", dict[str, Any], "save it anew")
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # of any type: the library checks little
        raise UserError(f"{where}: {folder} cannot be used: {told(error)}") from error
    if not model.num_classes:
        raise UserError(
            f"{where}: {folder} has no classifier (num_classes is 0); use the folder of one that was trained"
        )
    [(name, task)] = declared.tasks.items()
    names = declarations.without_background(_names(told_, model), task)
    says = TeacherTaskConfig(**{"scores": "softmax"} | ({"classes": names} if names else {}))
    readings = foreign.readings(declared, options, {name: says})
    declarations.check(declared, says, model.num_classes)
    data = timm.data.resolve_model_data_config(model)
    input_ = foreign.own_input(declared, round(max(data["input_size"][1:]) / data["crop_pct"]))
    licence = (told_.get("pretrained_cfg") or {}).get("license") or licence_of(folder)
    return Timm(declared, readings, input_, licence, model, timm.data.create_transform(**data, is_training=False))


class Timm(PyTorch):
    """See the module."""

    def __init__(self, *arguments: Any) -> None:
        *others, self._transform = arguments
        super().__init__(*others)
        [self._task] = self.readings

    def prepare(self, image: np.ndarray) -> Tensors:
        return {"x": self._transform(PIL.Image.fromarray(image))[None]}

    def run(self, inputs: Tensors) -> torch.Tensor:
        logits: torch.Tensor = self._model(inputs["x"])
        return logits

    def read(self, outputs: Any, images_hw: Sequence[Hw], cells_hw: Sequence[Hw]) -> list[Answers]:
        return [{self._task: self._reading.vector(each)} for each in numbers(outputs)]


def _names(told_: Mapping[str, Any], model: Any) -> tuple[str, ...]:
    """Its classes; none if its files do not tell. A tag that ends in in1k and the like is how timm says ImageNet."""
    names = told_.get("label_names")
    if isinstance(names, list) and names:
        described = told_.get("label_descriptions")
        described = described if isinstance(described, dict) else {}
        return unique([str(described.get(name, name)) for name in names])
    tag = str((told_.get("pretrained_cfg") or {}).get("tag") or "")
    subset = timm.data.infer_imagenet_subset(model) if re.search(r"in(1|12|21|22)k$", tag) else None
    return unique(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else ()
