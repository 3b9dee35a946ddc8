"""All code that runs on a GPU host: data, tokenizer, model, training, RL, evaluation, artifacts. No Dagster.

`load` (`loading.py`) opens a checkpoint; `api.py` has what can be done with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aquarat_core.api import Generation, Logprobs, Model
    from aquarat_core.errors import UserError
    from aquarat_core.loading import load

    __version__: str
    __all__ = ["Generation", "Logprobs", "Model", "UserError", "load"]
else:
    __all__ = ("Generation", "Logprobs", "Model", "UserError", "load")

    def __getattr__(name: str) -> object:
        """Looked up on demand, because most imports of the package need neither torch nor the version."""
        from importlib import import_module, metadata

        if name in __all__:
            where = {"UserError": ".errors", "load": ".loading"}.get(name, ".api")
            return getattr(import_module(where, __name__), name)
        if name == "__version__":
            return metadata.version("aquarat")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
