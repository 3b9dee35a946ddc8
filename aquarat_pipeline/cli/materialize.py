"""`aquarat materialize`: like `dagster asset materialize`, with progress bars, results and readable errors."""

from __future__ import annotations

import argparse
import json
import signal

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed
from aquarat_core.plain_text import printable
from aquarat_pipeline.cli.launch import say_next
from aquarat_pipeline.cli.runs import add_assets, check_typed
from aquarat_pipeline.instance import open_instance


def add_commands(commands: Commands) -> None:
    """Adds `materialize`."""
    made = commands.add_parser(
        "materialize",
        description="Makes assets in this terminal, except those that are up to date. Needs no daemon.",
    )
    add_assets(made)
    made.add_argument("--again", action="store_true", help="also make assets that are up to date")
    add_json(made)
    made.set_defaults(run=_materialize)


def _materialize(arguments: argparse.Namespace) -> str | CheckFailed:
    check_typed(arguments)
    from aquarat_pipeline.runs.in_process import RunFailedError, RunInterruptedError, materialize, terminal

    with terminal("materialize") as user:
        try:
            with open_instance() as instance:
                outcome = materialize(
                    user, instance, arguments.assets, with_parents=arguments.with_parents, again=arguments.again,
                    fields=arguments.fields,
                )  # fmt: skip
        except RunInterruptedError as e:
            user.say(f"\n{e}")
            raise SystemExit(128 + signal.SIGINT) from None
        except RunFailedError as e:
            user.say(printable(f"aquarat: {e}\nThe full log is {user.log}"))
            return CheckFailed(json.dumps({"error": str(e), "log": str(user.log)}) if arguments.json else "")
        from aquarat_pipeline.demo import show

        if not arguments.json:
            show(user.out, outcome)
    ref = outcome.experiment.ref
    made = {name: artifact.uri for name, artifact in outcome.artifacts.items()}
    places = [f"{ref(name)}: {uri}" for name, uri in made.items() if name not in outcome.fresh]
    facts = {ref(name): {"uri": uri, "fresh": name in outcome.fresh} for name, uri in made.items()}
    if arguments.json:
        return json.dumps(facts)
    for place in places:
        print(printable(place), flush=True)
    say_next(map(ref, made))
    return ""
