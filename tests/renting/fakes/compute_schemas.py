"""Compute Engine v1: the bodies that renting sends, in the JSON form of its REST API (64-bit integers are texts)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tests.renting.fakes.schemas import Schema

Long = Annotated[str, Field(pattern=r"^\d+$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]
LabelKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class DiskParameters(Schema):
    sourceImage: str
    diskSizeGb: Long | None = None
    diskType: str | None = None


class Disk(Schema):
    boot: bool
    autoDelete: Literal[True]
    """A disk that outlives its instance would go on costing."""
    initializeParams: DiskParameters


class Access(Schema):
    name: str
    type: Literal["ONE_TO_ONE_NAT"]


class Interface(Schema):
    network: str
    accessConfigs: list[Access] | None = None


class Item(Schema):
    key: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,127}$")]
    value: str


class Metadata(Schema):
    items: list[Item]


class Seconds(Schema):
    seconds: Long


class Scheduling(Schema):
    maxRunDuration: Seconds | None = None
    instanceTerminationAction: Literal["DELETE", "STOP"] | None = None
    onHostMaintenance: Literal["TERMINATE", "MIGRATE"] | None = None
    automaticRestart: bool | None = None
    provisioningModel: Literal["STANDARD", "SPOT"] | None = None


class Insert(Schema):
    name: Annotated[str, Field(pattern=r"^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$")]
    machineType: Annotated[str, Field(pattern=r"^zones/[^/]+/machineTypes/[^/]+$")]
    labels: dict[LabelKey, Label] | None = None
    disks: Annotated[list[Disk], Field(min_length=1)]
    networkInterfaces: Annotated[list[Interface], Field(min_length=1)]
    metadata: Metadata | None = None
    scheduling: Scheduling | None = None
