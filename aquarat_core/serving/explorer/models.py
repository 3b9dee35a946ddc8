"""Checkpoints for the explorer: those that are served anyway, and others that are loaded when they are looked into."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from aquarat_core.artifacts import Artifact
from aquarat_core.serving.pages import in_thread
from aquarat_core.serving.site import Site

if TYPE_CHECKING:
    from aquarat_core.api import Model

KEPT = 2
"""Checkpoints that stay in memory besides those that are served."""
T = TypeVar("T")


class Models:
    """Runs work on checkpoints, in the thread that owns torch."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._turn = asyncio.Lock()

    async def run(self, checkpoint: Artifact, work: Callable[[Model], T]) -> T:
        """The result of `work` on the checkpoint's model. Raises what `loading.load` raises."""
        for served in self._site.models.values():
            # An adopted or repeated checkpoint has the same bytes under another manifest.
            if served.artifact is not None and served.artifact.data_version == checkpoint.data_version:
                return await served.run(work)
        async with self._turn:
            model = self._loaded.get(checkpoint.sha256) or await in_thread(self._load, checkpoint)
            self._loaded[checkpoint.sha256] = model
            self._loaded.move_to_end(checkpoint.sha256)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return await self._site.worker.run(lambda: work(model))

    def _load(self, checkpoint: Artifact) -> Model:
        from aquarat_core.loading import load

        return load(checkpoint.sha256, store=checkpoint.store.uri)
