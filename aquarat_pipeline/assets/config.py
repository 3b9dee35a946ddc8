"""The Dagster config of a stage, generated from its pydantic section: all fields, with the profile's values as
defaults.

Dagster rejects unknown fields and wrong types in its launchpad, and values out of range when a run is launched: types
of fields with limits check them. Contradictory fields are found by pydantic, for all stages of the run, before the
first one starts (`run_config_of`).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import dagster as dg
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from aquarat_core.config import ConfigError, Profile, override, with_current_names
from aquarat_core.config.fields import old_names
from aquarat_core.config.locations import HubRows
from aquarat_core.stages.registry import STAGES, used_stages
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.assets.limits import Limits, limited, limits_of, limits_text

SCALARS: dict[type, Any] = {bool: dg.Bool, int: dg.Int, float: dg.Float, str: dg.String}


def config_schema(section: BaseModel) -> dict[str, dg.Field]:
    """The fields of `section` for the launchpad, each optional with the section's value as its default."""
    return _fields(type(section), section.model_dump(mode="json"))


def run_config_of(stage: Stage, profile: Profile, own: Mapping[str, Any] | None, ops: Mapping[str, Any]) -> Any:
    """The section that `stage` runs with: its config in the run, validated together with the run's other overrides.

    `own` is the complete config of the stage's op; `ops` is the run config's `ops`, which only has the overrides.
    Raises `ConfigError` for an invalid value, in any stage of the run.
    """
    configs: dict[str, Mapping[str, Any]] = {name: op.get("config") or {} for name, op in ops.items() if name in STAGES}
    configs[stage.name] = own or {}
    sections = {name: section for name in configs if (section := STAGES[name].section)}
    given = {
        name: with_current_names(kind, configs[name], complete=True)
        for name in sections
        if (kind := STAGES[name].config_type())
    }
    changes = {section: given[name] for name, section in sections.items()}
    checked = {
        name: override(profile, {**changes, section: given[name]}) for name, section in sections.items() if given[name]
    }
    for name, with_overrides in checked.items():
        _check_inputs(STAGES[name], profile, with_overrides)
    return stage.config(checked.get(stage.name, profile))


def _check_inputs(stage: Stage, profile: Profile, overridden: Profile) -> None:
    """Raises `ConfigError` if the run's overrides make a stage read an asset that is not in the profile's chain.

    Otherwise the stage would only fail after everything before it has been made."""
    lacking = sorted(set(stage.needs(stage.config(overridden))) - set(used_stages(profile)))
    if lacking:
        raise ConfigError(
            f"{stage.name}: with the run's overrides it reads {', '.join(lacking)}, which is not made under profile "
            f"{profile.name}, because none of its stages reads that. Set the field in the profile instead of the run"
        )


def _fields(model: type[BaseModel], values: Mapping[str, Any] | None = None) -> dict[str, dg.Field]:
    fields = {name: _field(info, (values or {}).get(name, _default(info))) for name, info in model.model_fields.items()}
    return fields | _old_names(model)


def _old_names(model: type[BaseModel]) -> dict[str, dg.Field]:
    """Fields without a default, so that a config only contains them if a run gives them."""
    return {
        old: dg.Field(_type(model.model_fields[new].annotation), is_required=False, description=f"Old name of {new}.")
        for old, new in old_names(model).items()
    }


def _default(info: Any) -> Any:
    default = info.get_default(call_default_factory=True)
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _field(info: Any, value: Any) -> dg.Field:
    annotation = _plain(info.annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        nested = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None
        return dg.Field(dg.Shape(_fields(annotation, nested)), description=info.description)
    limits = limits_of(info)
    kind, description = _type(annotation, limits), _described(info.description, limits)
    if value is PydanticUndefined:
        return dg.Field(kind, description=description)
    value = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
    return dg.Field(kind, default_value=value, is_required=False, description=description)


def _described(description: str | None, limits: Limits) -> str | None:
    """The field's description with its range."""
    text = limits_text(limits)
    return " ".join(filter(None, (description, f"Must be {text}." if text else "")))


def _type(annotation: Any, limits: Limits = ()) -> Any:
    annotation = _plain(annotation)
    if _is_location(annotation):
        return dg.Any  # A text or a mapping, for which Dagster has no type; pydantic checks it.
    if annotation in (int, float) and limits:
        return limited(annotation, limits)
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin: Any = get_origin(annotation)
    args = get_args(annotation)
    if origin is Literal:
        return _choice(args)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return dg.Noneable(_type(args[0], limits))
    if origin in (Union, types.UnionType):
        return dg.Any  # Dagster has no larger unions: pydantic checks it, before the first stage of a run
    if origin in (tuple, list):
        return dg.Array(_type(args[0]))
    if origin is dict:
        return dg.Map(_type(args[0]), _type(args[1]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return cast(Any, dg.Shape(_fields(annotation)))
    raise TypeError(f"no Dagster config type for {annotation}: add one here")


def _is_location(annotation: Any) -> bool:
    """Whether the values are locations, or null."""
    parts = [_plain(part) for part in get_args(annotation)]
    return HubRows in parts or any(HubRows in map(_plain, get_args(part)) for part in parts)


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


@functools.cache
def _choice(values: tuple[str, ...]) -> dg.Enum:
    """One enum per set of values, because Dagster requires equal names to be the same object."""
    return dg.Enum("_".join(values), [dg.EnumValue(v) for v in values])
