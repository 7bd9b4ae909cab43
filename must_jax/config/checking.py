"""The config of the check of teachers: are they read rightly?"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from must_jax.config.base import HERE, Config, Count, Names, Number, TasksOptions
from must_jax.config.parts import SourceConfig
from must_jax.config.teachers import Teachers


class CheckConfig(Config):
    """Is a teacher read rightly? Its answers as declared are compared with those of other declarations."""

    stage: Literal["check"] = "check"
    data_dir: str = "data"
    """Folder of the image sets that are read by name."""
    devices: Count = 0
    """Devices to use; 0 = as many as can share the batches. On a CPU, virtual ones, at most one per core."""
    images: str
    """The image set that teachers are asked about, as in `train.0.images`. With true labels of a task they are scored;
    otherwise they are compared with themselves, on mirrored images, and with each other."""
    labels: Names = ("truth",)
    """Where true labels come from, as in `train.0.labels`; none = there are none."""
    names: dict[str, str] = {}
    """Another name for the task of some labels, as in `train.0.names`: that of the teacher."""
    take: Annotated[int, Field(gt=0, le=1000), Number] = 100
    """A sample of n images, the same in every run and part of every larger one. 50 to 200 will do."""
    teachers: Teachers = ()
    """The teachers, as in the label stage; none = only the true labels themselves are checked."""
    tasks: TasksOptions = {}
    """Task -> options of its pseudo labels, instead of the teachers' own."""
    page_images: Annotated[int, Field(ge=0, le=1000), Number] = 6
    """Images of each task in check.html."""

    @property
    def source(self) -> SourceConfig:
        """The images with their true labels."""
        return SourceConfig(images=self.images, labels=self.labels, names=self.names, take=self.take)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.teachers and not self.labels:
            raise ValueError(f"there is nothing to check; name teachers in {HERE}.teachers, or true labels in labels")
        return self
