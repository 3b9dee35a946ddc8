"""The run launcher under the module name that a user's own `dagster.yaml` may still have; gone in the next release."""

import warnings

from aquarat_pipeline.runs.launcher import GpuRunLauncher

__all__ = ["GpuRunLauncher"]

# Not a DeprecationWarning, which Python shows to nobody who only runs commands.
warnings.warn(
    "dagster.yaml names the run launcher's old module, which the next release no longer has. Write "
    "`module: aquarat_pipeline.runs.launcher` in its place",
    FutureWarning,
    stacklevel=2,
)
