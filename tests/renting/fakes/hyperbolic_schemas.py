"""Hyperbolic API v2, on-demand machines: bodies of requests and answers, as far as they are known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tests.renting.fakes.schemas import Schema


class Rent(Schema):
    gpuType: str
    region: str
    gpuCount: int
    networkType: str
    termType: Literal["on-demand"]
    label: Annotated[str, Field(max_length=64)] | None = None


class Terminate(Schema):
    rentalId: int
    reason: str | None = None


class Node(Schema):
    cpuModel: str
    vcpuCount: int
    ramGb: int
    storageGb: int
    gpuCount: int


class Option(Schema):
    gpuType: str
    gpuFormFactor: str
    gpuCount: int
    region: str
    machineType: Literal["virtual-machine", "bare-metal"]
    connectionType: str
    costPerHourCents: int | float
    enabled: bool
    totalAvailable: int | None = None
    nodes: list[Node]


class Options(Schema):
    data: list[Option]


class Ssh(Schema):
    host: str
    port: int
    user: str


class NodeNetworking(Schema):
    publicIp: str


class ProviderData(Schema):
    sshNetworking: list[Ssh]
    nodeNetworking: list[NodeNetworking]


class Term(Schema):
    costPerHourCents: int | float


class Rental(Schema):
    id: int
    status: str
    gpuType: str
    gpuCount: int
    region: str
    createdAt: str
    startedAt: str | None = None
    currentTerm: Term
    label: str | None = None
    name: str | None = None
    providerData: ProviderData | None = None


class Rentals(Schema):
    data: list[Rental]


class Terminated(Schema):
    message: str
    rentalId: int


class Balance(Schema):
    balanceCents: int | float
    maxOverdraftCents: int | float
