"""Publishes an opened checkpoint as an artifact, with what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, git_state
from aquarat_core.config.accounting import parameters
from aquarat_core.exchange.facts import facts_in
from aquarat_core.exchange.opened import Opened
from aquarat_core.exchange.opening import open_folder
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


def import_checkpoint(
    store: ArtifactStore,
    what: str,
    name: str | None,
    say: Callable[[str], None],
    *,
    step: int | None = None,
    tokenizer: Path | None = None,
) -> tuple[Artifact, Opened]:
    """Publishes the checkpoint in a folder, or at `hf://OWNER/NAME[@REVISION]`, as an artifact called `name`.

    `say` is called with what is being downloaded; `step` and `tokenizer` are those of `open_folder`. Raises the
    `UserError` of a checkpoint that cannot be read or does not fit together; nothing is published then.
    """
    folder, source = _fetched(what, step, say)
    opened = open_folder(folder, step, tokenizer)
    if facts := facts_in(folder):
        opened = replace(opened, origin=opened.origin | {"release": facts.model_dump(mode="json")})
    return publish_opened(store, opened, name or default_name(opened), source), opened


def _fetched(what: str, step: int | None, say: Callable[[str], None]) -> tuple[Path, str]:
    """The folder, and what to call it in the manifest."""
    if "://" in what:
        from aquarat_core.exchange.hub import download

        folder = download(what, say, step)
        # The client keeps each commit in a folder of its name.
        return folder, f"{what.partition('@')[0]}@{folder.name}"
    return Path(what), Path(what).resolve().name


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
