"""Exceptions of every kind that is a `ValueError`: two that the user can fix, and three faults of the program."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from aquarat_core.config import LaunchConfig
from aquarat_core.errors import DataError, UserError


def _user() -> None:
    raise UserError("row 7 has four options: drop it")


def _child() -> None:
    raise DataError("row 7 has four options: drop it")


def _shapes() -> None:
    np.zeros(3) + np.zeros(4)


def _json() -> None:
    json.loads('{"half": ')


def _pydantic() -> None:
    LaunchConfig.model_validate({"nproc": "many"})


KINDS: dict[str, tuple[Callable[[], None], type[ValueError], str]] = {
    "user": (_user, UserError, "row 7 has four options: drop it"),
    "child": (_child, DataError, "row 7 has four options: drop it"),
    "shapes": (_shapes, ValueError, "could not be broadcast together"),
    "json": (_json, json.JSONDecodeError, "Expecting value"),
    "pydantic": (_pydantic, ValueError, "1 validation error for LaunchConfig"),
}
"""What raises it, its type, and a part of what it says."""
FIXED_BY_USER = {"user", "child"}
NAMES = {"user": "UserError", "child": "DataError", "shapes": "ValueError", "json": "JSONDecodeError",
         "pydantic": "ValidationError"}  # fmt: skip
