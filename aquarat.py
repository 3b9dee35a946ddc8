"""The code location, under the name that all parts of Dagster use for it.

Dagster's command line names a location after its module, so `aquarat` must be a module: runs started from a terminal,
from `workspace.yaml` and from the UI then appear under the same jobs.
"""

from aquarat_pipeline.definitions import defs

__all__ = ["defs"]
