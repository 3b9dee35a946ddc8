"""Publishes an opened checkpoint as an artifact, with what it was made from."""

from __future__ import annotations

import hashlib
import json

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, git_state
from aquarat_core.config.accounting import parameters
from aquarat_core.exchange.opened import Opened
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from aquarat_core.text.tokenizer import TOKENIZER_FILE

DEFAULT_NAMES = {"nanochat": "nanochat_checkpoint", "transformers": "transformers_checkpoint"}
"""Name of an imported artifact by the first word of the checkpoint's form."""
DEFAULT_NAME = "imported_checkpoint"


def default_name(opened: Opened) -> str:
    """The name of the artifact if the user chooses none."""
    return DEFAULT_NAMES.get(opened.form.partition(" ")[0], DEFAULT_NAME)


def publish_opened(store: ArtifactStore, opened: Opened, asset: str, source: str) -> Artifact:
    """The checkpoint as an artifact of the store, named `asset`.

    `source` says in the manifest where it came from: the name of a folder, or an address. It must not be a path of the
    user's machine.
    """
    read = {kind: opened.origin[kind] for kind in ("weights", "tokenizer")}
    version = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
    commit, dirty = git_state(REPO_ROOT)
    with scratch_folder("import") as scratch:
        content, written = scratch / "content", scratch / TOKENIZER_FILE
        content.mkdir()
        opened.tokenizer.save(written)
        save_checkpoint(content, opened.model, written)
        return store.publish(
            asset=asset,
            kind="checkpoint",
            directory=content,
            config={"origin": opened.origin | {"source": source}, "model": opened.model.config.model_dump()},
            profile="imported",
            code=CodeVersion(version=version, commit=commit, dirty=dirty),
            parents=(),
            metrics={"parameters": parameters(opened.model.config, opened.model.vocab_size)},
            seeds={},
            run_id=f"import-{version[:12]}",
        )
