"""The building blocks of every section: strict models, and numbers with ranges."""

from __future__ import annotations

import types
import warnings
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from aquarat_core.errors import UserError

UnitInterval = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
MAX_COUNT = 10**12
"""Upper limit of counts of rows, tokens or bytes; a larger value must be a mistake."""
MAX_STEPS = 10_000_000
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
ValidationSplit = Literal["validation", "holdout"]
"""The splits that training may look at to choose between models; not every task has the second."""
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
"""Number of optimizer steps of a stage."""


def covers(of: Collection[str], phase: str | None) -> bool:
    """Whether `phase` is one of the phases `of` an evaluation; an empty `of` has all phases, and so does None."""
    return phase is None or not of or phase in of


class ConfigError(UserError):
    """A profile or an override that cannot be used; the message says which field, which value and what to do."""


class StrictModel(BaseModel):
    """Base of every config. Immutable; unknown fields and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    OLD_NAMES: ClassVar[Mapping[str, str]] = {}
    """New names of fields by their old names, which are accepted with a warning for one release."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """In Python, and so in pydantic, true is 1; in a profile it is a mistake."""
        field = cls.model_fields.get(info.field_name or "")
        kinds = branches(field.annotation) if field and isinstance(value, bool) else []
        if any(kind in (int, float) for kind in kinds) and not any(map(_takes_truth, kinds)):
            raise ValueError("true and false are not numbers")
        return cast("object", value)

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, raw: Any) -> Any:
        return with_current_names(cls, cast("dict[str, Any]", raw)) if isinstance(raw, dict) else raw


def branches(annotation: Any) -> list[Any]:
    """The types of a union without their marks."""
    if get_origin(annotation) is Annotated:
        return branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for argument in get_args(annotation) for found in branches(argument)]
    return [annotation]


def _takes_truth(kind: Any) -> bool:
    return kind is bool or (get_origin(kind) is Literal and any(isinstance(value, bool) for value in get_args(kind)))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as nested mappings laid over each other: a later mapping changes the earlier one, other values replace."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], cast("dict[str, Any]", value)) if both else value
    return merged


def old_names(model: type[BaseModel]) -> Mapping[str, str]:
    """New names of a model's fields by their names in the previous release."""
    none: dict[str, str] = {}
    return model.OLD_NAMES if issubclass(model, StrictModel) else none


def with_current_names(
    model: type[BaseModel], fields: Mapping[str, Any], *, complete: bool = False, warn: bool = True
) -> dict[str, Any]:
    """The fields of a `model`, and of the models in it, under their current names.

    Call it before fields are merged, because a field under two names would count as two fields. If a field is given
    under both names, both stay, and validation rejects the old one. In `complete` fields, which include every default,
    the old name is the one that was given, so its value is used.
    """
    found = dict(fields)
    for old, new in old_names(model).items():
        if old in found and (complete or new not in found):
            found[new] = found.pop(old)
            if warn:
                # Not a DeprecationWarning, which Python does not show to users who only run commands.
                warnings.warn(f"the field {old} is now called {new}: use the new name", FutureWarning, stacklevel=2)
    for name, value in found.items():
        kind = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            found[name] = with_current_names(kind, cast("dict[str, Any]", value), complete=complete, warn=warn)
    return found


def same_config(section: BaseModel | None, recorded: object) -> bool:
    """Whether `section` equals the config recorded with an artifact, which may use old names.

    A field that the recorded config lacks did not exist yet, and its default leaves everything as it was.
    """
    if section is None or not isinstance(recorded, dict):
        return not section and recorded == {}
    made_with = with_current_names(type(section), cast("dict[str, Any]", recorded), warn=False)
    try:
        return type(section).model_validate(made_with) == section
    except ValidationError:
        return False
