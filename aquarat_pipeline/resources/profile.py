"""The profile that fills the assets' configs, chosen once when the definitions load."""

from __future__ import annotations

import click

from aquarat_core.config import ConfigError, Profile, load_profile


def current_profile() -> Profile:
    """The profile `AQUARAT_PROFILE` names, else `demo`.

    A profile that cannot be used is raised as click's exception: Dagster's command line then prints the message and
    exits with 1 where any other exception would be a page of traceback; the UI shows the same text.
    """
    try:
        return load_profile()
    except ConfigError as e:
        raise click.ClickException(str(e)) from None
