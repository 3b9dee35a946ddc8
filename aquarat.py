"""The code location under the one name that everything of Dagster's knows it by.

Dagster's command line names a location after its module, so `aquarat` is a module too: runs of a terminal, of
`workspace.yaml` and of the UI then stand under the same jobs.
"""

from aquarat_pipeline.definitions import defs

__all__ = ["defs"]
