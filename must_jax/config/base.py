"""What every config has: unknown keys are named, values are frozen; and the types of values that several share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError

from must_jax.errors import nearest

HERE = "<path>"  # in a message: the path of the config that it is about


def _listed(value: Any) -> Any:
    """A tuple on the command line is a comma list, --config.teachers=runs/a,runs/b, a single value, or empty."""
    if isinstance(value, str):
        return value.split(",") if value else ()
    return (value,) if isinstance(value, int | float) else value


Listed = pydantic.BeforeValidator(_listed)
Names = Annotated[tuple[str, ...], Listed]
ImageSize = Annotated[int, Field(gt=0, multiple_of=32)]  # input height = width in pixels; C5 has stride 32


class Config(pydantic.BaseModel):
    """`free` are the keys that may change between restarts of a run, since they do not change what is computed."""

    free: ClassVar[frozenset[str]] = frozenset({"data_dir", "devices"})
    is_run: ClassVar[bool] = True  # whether it makes what is in its workdir, and does not only look at something

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        """Comes first: a misspelt key is worth more than the "missing" that it causes."""
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_key", "unknown", {"key": key, "hint": nearest(str(key), cls.model_fields)}
                )
        return values
