"""The commands of `aquarat` that work without Dagster: `hosts`, whose `reap` is for machines with an API key and
nothing else. The others are in `with_dagster.py`."""

from aquarat_core.cli.commands import Command

COMMANDS = (
    Command(
        "hosts",
        "list, check, prepare, rent and end hosts",
        "operate",
        "aquarat_pipeline.cli.hosts",
        "aquarat hosts doctor",
    ),
)
"""An entry point `aquarat.commands`."""
