"""The profile that fills the assets' configs, selected once when the definitions load."""

from __future__ import annotations

import click

from aquarat_core.config import ConfigError, Profile, load_profile


def current_profile() -> Profile:
    """The profile that `AQUARAT_PROFILE` names, else `demo`.

    An invalid profile raises click's exception, for which Dagster's command line prints the message and exits with 1,
    instead of a page of traceback; the UI shows the same text.
    """
    try:
        return load_profile()
    except ConfigError as e:
        raise click.ClickException(str(e)) from None
