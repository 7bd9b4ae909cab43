"""Config of an export: a finished run as files that others open."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import BatchSize, Config, Count, Listed, Names, Number, Share
from must_jax.config.parts import InputConfig, ValidationConfig
from must_jax.errors import nearest

FORMATS = ("timm", "transformers", "onnx", "stablehlo")
HOLDS = ("model", "backbone")
OLDEST_OPSET = 17


class ExportConfig(Config):
    """A finished run as files for other libraries and runtimes, each compared with the run before it is handed out."""

    free: ClassVar[frozenset[str]] = Config.free | {"input", "latency"}

    stage: Literal["export"] = "export"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    devices: Count = 1
    """Devices that the run's own answers are computed on."""
    model: str
    """The finished run."""
    formats: Names = FORMATS
    """Of timm, transformers (the backbone, for these libraries), onnx, stablehlo."""
    holds: Names = HOLDS
    """What onnx and stablehlo files hold, one file each: `model` = all heads, `backbone` = maps at strides 4 to 32."""
    preprocess: bool = True
    """Whether onnx and stablehlo files take u8 RGB; otherwise they take what the backbone sees: normalised, and of its
    own size."""
    postprocess: bool = True
    """Whether whole models give predictions, with non-maximum suppression; otherwise what the heads say."""
    opset: Annotated[int, Field(ge=OLDEST_OPSET, le=99), Number] = OLDEST_OPSET
    """Of onnx files; runtimes of an accelerator often lag behind the newest."""
    validation: Annotated[tuple[ValidationConfig, ...], Listed] = ()
    """Labelled image sets on which each file is compared with the run; none = those of the run's own validation."""
    take: Count = 200
    """Images of each that are compared, a sample; 0 = all."""
    batch_size: BatchSize = 16
    """Images at a time in the comparison."""
    input: InputConfig = InputConfig()
    """How batches are made."""
    tolerance: Annotated[float, Field(gt=0, le=1), Number] = 1e-3
    """A number differs if it is off by more than this share of the largest one of its output."""
    differing: Share = 1e-3
    """The share of an output's numbers that may differ: of two boxes with nearly the same score, either may come first.
    A file beyond it is not handed out."""
    metric_tolerance: Annotated[float, Field(gt=0, le=100), Number] = 0.1
    """The most that a metric of a file may be worse, in percentage points; of errors, in percent."""
    latency: Annotated[tuple[BatchSize, ...], Listed] = (1, 16)
    """Batch sizes at which each file is timed beside the run; none = it is not timed."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for key, given, known in (("formats", self.formats, FORMATS), ("holds", self.holds, HOLDS)):
            if not given:
                raise ValueError(f"{key} is empty; name some of {', '.join(known)}")
            for name in given:
                if given.count(name) > 1:
                    raise ValueError(f"{key} names '{name}' twice; remove one")
                if name not in known:
                    raise ValueError(f"{key} names '{name}', which is none; {nearest(name, known)}")
        return self
