"""Every name taken from Dagster's private modules, in one place, with the version it was read from.

Dagster's public API returns and renders input data versions but does not name the tags they are recorded under, and we
record them ourselves: an input is pinned when a stage first starts, not when the step happens to be resumed.
`tests/pipeline/test_compat.py` fails when Dagster's version moves, which is the time to read these modules again.
"""

from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

READ_FROM = "1.13.27"

__all__ = [
    "CODE_VERSION_TAG",
    "DATA_VERSION_TAG",
    "READ_FROM",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
]
