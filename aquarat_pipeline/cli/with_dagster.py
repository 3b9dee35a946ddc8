"""The commands of `aquarat` that need Dagster; they use the instance in DAGSTER_HOME.

Without Dagster this module cannot be imported, and the command line says why.
"""

from importlib.util import find_spec

from aquarat_core.cli.commands import Command

if find_spec("dagster") is None:
    raise ImportError("Dagster is not installed: pip install 'aquarat[pipeline]'")

_CLI = "aquarat_pipeline.cli"
COMMANDS = (
    Command("status", "print the state of assets, runs, hosts and disk", "look", f"{_CLI}.status", "aquarat status"),
    Command(
        "experiments",
        "list experiments side by side; add or remove one",
        "look",
        f"{_CLI}.experiments",
        "aquarat experiments add wide --profile wide.yaml",
    ),
    Command(
        "materialize",
        "make assets in this terminal",
        "make",
        f"{_CLI}.materialize",
        "aquarat materialize rl_checkpoint --with-parents",
    ),
    Command(
        "launch",
        "queue a run that outlives this terminal",
        "make",
        f"{_CLI}.launch",
        "aquarat launch rl_checkpoint --set rl_checkpoint.steps=200 --follow",
    ),
    Command(
        "plan",
        "print what would be made, why, where and at what cost",
        "make",
        f"{_CLI}.plan",
        "aquarat plan rl_eval_report --with-parents",
    ),
    Command(
        "sweep",
        "make and compare chains that differ in a few fields",
        "make",
        f"{_CLI}.sweep",
        "aquarat sweep sweep.yaml --plan",
    ),
    Command(
        "tail",
        "print the last output of a run, of every rank",
        "make",
        f"{_CLI}.launch",
        "aquarat tail 3f9d927e --lines 50",
    ),
    Command("cancel", "cancel a run in whatever state it is", "make", f"{_CLI}.launch", "aquarat cancel 3f9d927e"),
    Command(
        "adopt",
        "continue the chain from any checkpoint",
        "make",
        f"{_CLI}.adopt",
        "aquarat adopt nanochat_checkpoint --as sft_checkpoint",
    ),
    Command(
        "refs", "list assets on which Dagster and the store disagree", "operate", f"{_CLI}.maintenance", "aquarat refs"
    ),
    Command(
        "prune", "delete old Dagster runs; artifacts stay", "operate", f"{_CLI}.maintenance", "aquarat prune --days 90"
    ),
)
"""An entry point `aquarat.commands`."""
