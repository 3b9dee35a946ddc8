"""The subcommands of `aquarat` that need Dagster; they use the instance in DAGSTER_HOME.

Without Dagster they cannot be imported, and the command line says why.
"""

from importlib.util import find_spec

if find_spec("dagster") is None:
    raise ImportError("Dagster is not installed: pip install 'aquarat[pipeline]'")
