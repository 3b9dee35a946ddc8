"""What the questions are that something was made from or measured on: it must be said wherever a result is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

GENERATED = "generated word problems"
REAL = "AQuA-RAT"
UNKNOWN = "questions of unknown origin"
WARNING = (
    "These questions are generated word problems in AQuA's form (aqua_dataset.source: synthetic). A score on them says "
    "nothing about AQuA-RAT."
)
DATASET = "aqua_dataset"
MAX_ANCESTORS = 200


def questions_of(artifact: Artifact) -> str | None:
    """The origin of the questions of an `aqua_dataset`, or of the one among the artifact's ancestors; None without one.

    It is read from the data set's own config, not from the name of a profile.
    """
    seen: set[str] = set()
    waiting = [artifact]
    while waiting and len(seen) < MAX_ANCESTORS:
        one = waiting.pop()
        if one.asset == DATASET:
            return {"synthetic": GENERATED, "hub": REAL}.get(str(one.manifest.config.get("source")), UNKNOWN)
        for parent in one.manifest.parents:
            if parent.manifest_sha256 not in seen and one.store.has(parent.manifest_sha256):
                seen.add(parent.manifest_sha256)
                waiting.append(one.store.get(parent.manifest_sha256))
    return None
