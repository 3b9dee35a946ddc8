"""The section of the model release: what its card says besides what was measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aquarat_core.config.fields import StrictModel


class ReleaseConfig(StrictModel):
    """How the released model is called and described. Everything else in the card is read from the artifacts."""

    title: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")] | None = None
    """Heading of the card, one line; null means the asset's and the profile's names."""
    description: str | None = None
    """A paragraph under the heading; null means a sentence about the size of the model and its chain."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = None
    """License of the weights, by the Hub's abbreviation; null means mit for a model that was trained from nothing, and
    none for one that was imported, whose source has the say."""
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] | None = None
    """Codes of the languages (ISO 639); null means English for a model that was trained from nothing."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Where the release will be published on the Hub, as `owner/name`; the card's examples name it."""
