"""The run launcher under its old module name, which a user's `dagster.yaml` may have; removed in the next release."""

import warnings

from aquarat_pipeline.runs.launcher import GpuRunLauncher

__all__ = ["GpuRunLauncher"]

# Not a DeprecationWarning, which Python does not show to users who only run commands.
warnings.warn(
    "dagster.yaml names the run launcher's old module, which will be removed in the next release. Write "
    "`module: aquarat_pipeline.runs.launcher` instead",
    FutureWarning,
    stacklevel=2,
)
