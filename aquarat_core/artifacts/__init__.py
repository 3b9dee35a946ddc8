"""Content-addressed, immutable artifacts and their provable ancestry: the only code that touches the store.

A store holds `blobs/sha256/ab/<sha256>` (create-only), `manifests/<sha256>.json` (create-only, written last),
`refs/<asset>/latest.json` (the one movable thing, by compare-and-swap) and `jobs/<run>/<step>/<attempt>/` (the protocol
between the control host and a GPU host). Readers trust only manifests and verify every byte they read.
"""

from aquarat_core.artifacts.environment import git_state, hardware, libraries
from aquarat_core.artifacts.errors import ArtifactError, RecordError, StoreError
from aquarat_core.artifacts.hashing import Digest, digest_file
from aquarat_core.artifacts.job import JobDir
from aquarat_core.artifacts.lineage import Node, format_lineage, lineage
from aquarat_core.artifacts.manifest import CodeVersion, FileEntry, Manifest, Parent
from aquarat_core.artifacts.store import Artifact, ArtifactStore

__all__ = [
    "Artifact",
    "ArtifactError",
    "ArtifactStore",
    "CodeVersion",
    "Digest",
    "FileEntry",
    "JobDir",
    "Manifest",
    "Node",
    "Parent",
    "RecordError",
    "StoreError",
    "digest_file",
    "format_lineage",
    "git_state",
    "hardware",
    "libraries",
    "lineage",
]
