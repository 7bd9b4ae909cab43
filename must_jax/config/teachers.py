"""How a teacher of others is declared: what its files cannot tell, or tell otherwise than its labels need it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import (
    HERE,
    MAX_COUNT,
    MAX_IMAGE_SIZE,
    MAX_LISTED,
    Config,
    Count,
    Float,
    Listed,
    Names,
    Number,
    listed,
)

ADAPTERS = ("onnx", "transformers", "timm", "torchvision", "python")  # teachers that are not runs of must_jax
_OTHER_FORMATS = (".engine", ".plan", ".tflite", ".pb", ".h5", ".keras", ".mlmodel", ".mlpackage", ".torchscript")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_EXPORT = "export the model to ONNX (Ultralytics: yolo export format=onnx; PyTorch: torch.onnx.export)"
Fit = Literal["letterbox", "letterbox_corner", "stretch", "crop", "own"]
BoxFormat = Literal["xyxy", "xywh", "cxcywh", "yxyx"]
Layout = Literal["yolov5", "yolov8", "end2end", "detr", "torchvision"]

_OF_LABELS = (  # options of tasks that are easily looked for here
    *("score_threshold", "score_thresholds", "confidence_threshold", "confidence_thresholds"),
    *("keep_confidence", "top_k", "max_detections", "min_score"),
)
_RANGES = {"0..1": (0, 1), "0..255": (0, 255), "-1..1": (-1, 1)}

_Side = Annotated[int, Field(gt=0, le=MAX_IMAGE_SIZE), Number]
_Triple = Annotated[tuple[Float, ...], Listed]
_Byte = Annotated[int, Field(ge=0, le=255), Number]


class TeacherInputConfig(Config):
    """What the network takes. What is none follows from its files, or from the layout of its boxes."""

    size: Annotated[tuple[_Side, ...], Field(max_length=2), Listed] = ()
    """Pixels: the side of a square input, or height and width; none = as its files say."""
    fit: Fit | None = None
    """How an image gets into it. `letterbox`: as large as fits, aspect kept, in the middle of the padding;
    `letterbox_corner`: in its top left corner; `stretch`: fills the input; `crop`: the shorter side is resized to
    `shorter_side`, and the middle is cut out (classifiers only); `own`: by the model's own processor, which gets the
    image as it is, or fitted into `size` if it is larger. None = as the adapter has it; of an ONNX file,
    `letterbox` for YOLO, `crop` for classifiers, otherwise `stretch`."""
    shorter_side: Count = 0
    """With `crop`: pixels that the image's shorter side is resized to; 0 = the input's shorter side."""
    padding_rgb: Annotated[tuple[_Byte, ...], Listed] = ()
    """Colour of the padding, 0 to 255; none = 114,114,114 for YOLO, otherwise `mean` if there is one, else 0."""
    colour: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels."""
    range: Literal["0..1", "0..255", "-1..1"] | None = None
    """Values of black and white, before `mean` and `std`; none = 0..1, or 0..255 for inputs of bytes."""
    mean: _Triple = ()
    """Subtracted from each channel, in units of `range` and in the order of `colour`."""
    std: _Triple = ()
    """Each channel is divided by it, in units of `range` and in the order of `colour`."""
    channels: Literal["first", "last"] | None = None
    """`first`: [batch, 3, height, width]; `last`: [batch, height, width, 3]; none = as the model's shape says."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("padding_rgb", "mean", "std"):
            if len(values := getattr(self, key)) not in (0, 3):
                raise ValueError(f"{key} has {len(values)} values, but an image has three channels; give three")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std {self.std} must be above 0, it is what channels are divided by")
        range_ = self.range or "0..1"
        low, high = _RANGES[range_]
        if any(not low <= value <= high for value in self.mean) or any(value > high - low for value in self.std):
            raise ValueError(
                f"mean {self.mean} or std {self.std} is beyond the range of channels, {range_}; set {HERE}.range="
                "0..255, or divide both by 255"
            )
        if high == 255 and any(0 < max(values, default=0) < 1 for values in (self.mean, self.std)):
            raise ValueError(
                f"mean {self.mean} and std {self.std} are those of channels from 0 to 1, but range is {range_}; remove "
                "it, or multiply both by 255"
            )
        if self.shorter_side and self.fit != "crop":
            raise ValueError(f"shorter_side only counts where images are cropped; set {HERE}.fit=crop, or remove it")
        return self


class TeacherTaskConfig(Config):
    """One task of a teacher: what its outputs mean."""

    former: ClassVar[Mapping[str, str]] = {
        option: f"an option of labels: tasks.TASK.{option}, beside teachers" for option in _OF_LABELS
    }

    kind: str = ""
    """What kind of task it is: classification, detection, segmentation, depth or normals; none = its name says so."""
    classes: Names = ()
    """Class names in the order of the model's indices, or the path of a text file with one name a line; none = as the
    model's files say."""
    mapping: str = ""
    """A TOML file that renames, merges and drops classes (docs/teachers.md)."""
    outputs: Names = ()
    """Names of the model's outputs that this task reads, in the order that its kind or layout needs; none = the only
    ones that fit."""
    layout: Layout | None = None
    """Of a detector's outputs (docs/teachers.md); none = as the shapes and the model's metadata say."""
    boxes: BoxFormat | None = None
    """Corners, corner and size, or centre and size of a box; none = as its layout has it."""
    box_unit: Literal["pixels", "fractions"] | None = None
    """Boxes are in pixels of the input, or in fractions of it; none = as its layout has it."""
    scores: Literal["probabilities", "sigmoid", "softmax"] | None = None
    """What makes probabilities of the outputs for classes: nothing, since they are, or this function of the logits;
    none = as its layout has it, softmax for classification and segmentation. A map of one channel, which needs one of
    the other two, is of the second of two classes, or of the only one."""
    background: Annotated[int, Field(ge=-1, le=MAX_COUNT), Number] | None = None
    """Index among the model's outputs that stands for no class at all, left out of `classes`; -1 = the last one."""
    first_class: Annotated[int, Field(ge=-1, le=1000), Number] | None = None
    """The index that the first of `classes` has in a model which returns indices; none = 0, or 1 for torchvision."""
    ignore: Annotated[int, Field(ge=0, le=65535), Number] | None = None
    """The id in maps of ids that means no label."""
    depth_kind: Literal["metric_m", "relative", "inverse_relative"] | None = None
    """As the option of the task: metres, depth up to scale and shift, or inverse depth up to scale and shift (MiDaS,
    DPT, Depth Anything). It must be said, unless the model's files do."""
    metres_per_unit: Annotated[float, Field(gt=0, le=1e6), Number] = 1.0
    """Of metric depth: 0.001 for millimetres."""
    axes: str = ""
    """Of normals: our x (right), y (down) and z (forward) in terms of theirs: x,-y,-z for y up and z towards the
    camera; or the name of a convention. It must be said (docs/teachers.md)."""
    nms_iou: Annotated[float, Field(ge=0, le=1), Number] | None = None
    """Of two boxes of one class that overlap more than this, the better one is kept; none = 0.7 for layouts that need
    it, otherwise 1: all are kept."""


class TeacherConfig(Config):
    """A teacher: a finished run of must_jax, or a model of others with what has to be said about it."""

    model: str
    """`runs/NAME`; `FILE.onnx`; `transformers:FOLDER`; `timm:FOLDER`; `torchvision:NAME:FILE` (safetensors);
    `python:MODULE:FUNCTION` (docs/teachers.md)."""
    name: str = ""
    """Of its columns; none = the name of its folder, file or function."""
    licence: str = ""
    """Of the model and its labels; none = as its files say. Manifests and the student's model.json keep it."""
    input: TeacherInputConfig = TeacherInputConfig()
    """What the network takes."""
    tasks: dict[str, TeacherTaskConfig] = {}
    """A task's name -> what the outputs mean. A run of must_jax knows that: of its tasks, by the names that they have
    here, only the `mapping` of classes can be set."""
    names: dict[str, str] = {}
    """Of a run of must_jax: its task -> the name that it has here. Two teachers of one kind with different classes need
    two names."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a model of others runs; auto = a GPU if its library sees one."""
    threads: Count = 0
    """Of a model of others on CPUs; 0 = one per core."""
    batch_size: Count = 0
    """Images of a call of a model of others; 0 = that of the stage or what the file fixes, but fewer where what the
    model returns would take more than 1 GiB."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _path_alone(cls, values: Any) -> Any:
        return {"model": values} if isinstance(values, str) else values

    @property
    def adapter(self) -> str:
        """The adapter that its `model` names; "" for a run of must_jax."""
        prefix = self.model.partition(":")[0]
        return prefix if prefix in ADAPTERS else "onnx" * self.model.lower().endswith(".onnx")

    @property
    def run(self) -> Path | None:
        """The folder of a run of must_jax; None for a model of others."""
        return None if self.adapter else Path(self.model)

    @property
    def called(self) -> str:
        """Its name, which becomes part of its columns' names."""
        if self.name:
            return self.name
        last = self.model.rpartition(":")[2]
        if self.adapter == "python":
            return last
        path = Path(last).resolve()
        return path.stem if path.suffix.lower() in (".onnx", ".safetensors") else path.name

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if re.search(r"[^\w.+-]", self.name):
            raise ValueError(f"name '{self.name}' may have letters, digits, '.', '_', '+' and '-'; it names folders")
        path = self.model.rpartition(":")[2]
        if self.adapter != "python" and path.lower().endswith(PICKLES):
            raise ValueError(
                f"{path} cannot be used: it is a pickle, which can run any code when it is loaded; {_EXPORT}, or save "
                "its weights as safetensors"
            )
        if path.lower().endswith(_OTHER_FORMATS):
            raise ValueError(f"{path} is of a format that cannot be run here; {_EXPORT}")
        prefix, colon, _ = self.model.partition(":")
        if colon and not self.adapter and "/" not in prefix:
            raise ValueError(f"model {self.model}: '{prefix}:' is none of {', '.join(f'{each}:' for each in ADAPTERS)}")
        others = {"input", "device", "threads", "batch_size", "licence"}
        others = {key for key in others if getattr(self, key) != type(self).model_fields[key].default}
        if not self.adapter:
            for name, task in self.tasks.items():
                said = task.model_dump(exclude_defaults=True)
                others |= {f"tasks.{name}.{key}" for key in said if key != "mapping"}
                if not said:
                    others.add(f"tasks.{name}")
        if not self.adapter and others:
            raise ValueError(
                f"model {self.model} is read as the folder of a run of must_jax, for which {', '.join(sorted(others))} "
                f"cannot be set; write a model of others as {', '.join(f'{each}:…' for each in ADAPTERS)}"
            )
        if self.adapter and not self.tasks:
            raise ValueError(
                f"it does not say what {self.called} labels; set {HERE}.tasks, as in {{'depth': {{'depth_kind': "
                "'metric_m'}} or {'detection': {}} (docs/teachers.md)"
            )
        if self.adapter and self.names:
            raise ValueError(f"names is for runs of must_jax; name the tasks of this model in {HERE}.tasks")
        return self


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, Mapping | TeacherConfig) else listed(value)


def _as_written(teachers: tuple[TeacherConfig, ...], info: pydantic.FieldSerializationInfo) -> list[Any]:
    """A run of must_jax that nothing else is said about is its path alone, as in configs of earlier versions."""
    alone = [not each.adapter and each == TeacherConfig(model=each.model) for each in teachers]
    return [each.model if path else each.model_dump(mode=info.mode) for each, path in zip(teachers, alone, strict=True)]


Teachers = Annotated[
    tuple[TeacherConfig, ...],
    Field(max_length=MAX_LISTED),
    pydantic.BeforeValidator(_several),
    pydantic.PlainSerializer(_as_written),
]
