"""Schemas of requests and answers: a field that is unknown, missing or of another type is an error."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

S = TypeVar("S", bound="Schema")


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def problem(schema: type[Schema], data: Any) -> str | None:
    """What is wrong with a body, in one line, or None."""
    try:
        schema.model_validate(data)
    except ValidationError as e:
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in e.errors())
    return None


def checked(schema: type[Schema], data: dict[str, Any]) -> dict[str, Any]:
    """`data`, which must be an answer that the description of the API allows."""
    schema.model_validate(data)
    return data
