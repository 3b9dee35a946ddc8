"""Whether an asset's latest artifact is what its stage would make now, as far as the store shows it.

Dagster decides by the same facts in its own records; this needs only the manifests.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from aquarat_core.artifacts import Artifact
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.stage import Stage


def why_stale(
    artifact: Artifact, stage: Stage, section: BaseModel | None, latest: Mapping[str, Artifact]
) -> str | None:
    """Why the stage would make another artifact under that config, as half a sentence; None if it would not.

    `latest` has the latest artifacts of the same experiment by asset. An adopted checkpoint is always up to date. Does
    not check whether the inputs themselves are up to date, nor sources outside the store.
    """
    manifest = artifact.manifest
    if manifest.adopted_from:
        return None
    if manifest.code.version != code_version(stage, section):
        return "other code or config"
    changed = [
        parent.asset
        for parent in manifest.parents
        if parent.asset in latest and latest[parent.asset].data_version != parent.data_version
    ]
    return f"made from another {', another '.join(changed)}" if changed else None
