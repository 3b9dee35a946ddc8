"""What every section is made of: strict models, and numbers with their ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aquarat_core.errors import UserError

UnitInterval = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
MAX_COUNT = 10**12
"""No count of rows, tokens or bytes that a profile gives can be meant to be larger."""
MAX_STEPS = 10_000_000
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
"""Optimizer steps of a stage."""


class ConfigError(UserError):
    """A profile or an override that cannot be used; the message says which field, which value and the way out."""


class StrictModel(BaseModel):
    """Base of every config: immutable; a field it does not know is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
