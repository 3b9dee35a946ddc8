"""Small JSON files that describe a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from aquarat_core.errors import WeightsError

MAX_BYTES = 1 << 20


def json_value(path: Path) -> object:
    """The value in a file of at most 1 MiB. Raises `WeightsError` if it cannot be read or is not JSON."""
    try:
        with path.open("rb") as file:
            return json.loads(file.read(MAX_BYTES))
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, RecursionError):
        raise WeightsError(f"{path} is not valid JSON: the file is damaged") from None


def json_object(path: Path) -> dict[str, Any]:
    """The object in a file. Raises `WeightsError` as `json_value` does, and for any other value."""
    found = json_value(path)
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is not a JSON object: the file is damaged")
    return cast("dict[str, Any]", found)
