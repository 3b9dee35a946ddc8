"""The tag that lists the assets a run skips, with the reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import dagster as dg

from aquarat_pipeline.tags import SKIPPED_TAG


def skipped_tag(reasons: Mapping[str, str]) -> dict[str, str]:
    """The tag for a run that skips these assets; empty if it skips none."""
    return {SKIPPED_TAG: json.dumps(dict(reasons))} if reasons else {}


def skipped_of(run: dg.DagsterRun) -> dict[str, str]:
    """The content of the run's tag. A tag that cannot be read counts as empty, because users can set any tag."""
    with suppress(ValueError):
        held: Any = json.loads(run.tags.get(SKIPPED_TAG, "{}"))
        if isinstance(held, dict):
            return {str(name): str(why) for name, why in cast("dict[str, Any]", held).items()}
    return {}
