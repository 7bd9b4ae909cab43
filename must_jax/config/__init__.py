"""What a run is: frozen, typed configurations, one class per stage.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `parsing.parse` turns it into one of these
classes, once. Below `main` nothing looks a key up by string. An unknown key is an error that names the nearest known
one.
"""

from __future__ import annotations

import hashlib
import json

import pydantic

from must_jax.config.base import HERE, ImageSize, Listed, Names, in_todays_names
from must_jax.config.checking import CheckConfig
from must_jax.config.composed import (
    PROGRAMS,
    CompileConfig,
    DescribeConfig,
    InPipeline,
    PipelineConfig,
    ReplayConfig,
    ReportConfig,
    TargetConfig,
)
from must_jax.config.data import AuditConfig, LabelConfig, LabelsConfig, PrepareConfig, TruthConfig
from must_jax.config.evaluation import DownstreamConfig, EvaluateConfig, TransferConfig
from must_jax.config.export import ExportConfig
from must_jax.config.parts import (
    REMAT,
    AugmentConfig,
    ColumnsConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    Padding,
    SourceConfig,
    ValidationConfig,
)
from must_jax.config.teachers import TeacherConfig, TeacherInputConfig, TeacherTaskConfig
from must_jax.config.training import TrainConfig

__all__ = [
    "HERE",
    "PROGRAMS",
    "REMAT",
    "STAGE_CONFIGS",
    "AnyConfig",
    "AuditConfig",
    "AugmentConfig",
    "CheckConfig",
    "ColumnsConfig",
    "CompileConfig",
    "DescribeConfig",
    "DownstreamConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImageSize",
    "InPipeline",
    "InputConfig",
    "LabelConfig",
    "LabelsConfig",
    "Listed",
    "ModelConfig",
    "Names",
    "OptimizerConfig",
    "Padding",
    "PipelineConfig",
    "PrepareConfig",
    "ReplayConfig",
    "ReportConfig",
    "SourceConfig",
    "TargetConfig",
    "TeacherConfig",
    "TeacherInputConfig",
    "TeacherTaskConfig",
    "TrainConfig",
    "TransferConfig",
    "TruthConfig",
    "ValidationConfig",
    "digest",
    "in_todays_names",
]

AboutRuns = DescribeConfig | ReportConfig
AnyConfig = (
    InPipeline | CheckConfig | ExportConfig | LabelsConfig | PipelineConfig | AboutRuns | CompileConfig | ReplayConfig
)
STAGE_CONFIGS: dict[str, type[AnyConfig]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "check": CheckConfig,
    "label": LabelConfig,
    "labels": LabelsConfig,
    "audit": AuditConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "pipeline": PipelineConfig,
    "describe": DescribeConfig,
    "report": ReportConfig,
}


def digest(config: pydantic.BaseModel) -> str:
    """Sixteen hex digits that change when any value of the config changes."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
