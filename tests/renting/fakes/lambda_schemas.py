"""Lambda Cloud API 1.8.3: the bodies of the requests and answers that renting needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tests.renting.fakes.schemas import Schema

Name = Annotated[str, Field(max_length=64)]


class Tag(Schema):
    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-:]+$", max_length=55)]
    value: Annotated[str, Field(max_length=128)]


class ImageById(Schema):
    id: str


class ImageByFamily(Schema):
    family: str


class Mount(Schema):
    mount_point: Annotated[str, Field(pattern=r"^(/home|/lambda/nfs|/data)[//a-zA-Z0-9-]*$", max_length=256)]
    file_system_id: str


class Ruleset(Schema):
    id: str


class Launch(Schema):
    region_name: str
    instance_type_name: str
    ssh_key_names: Annotated[list[str], Field(min_length=1, max_length=1)]
    file_system_names: list[str] | None = None
    file_system_mounts: list[Mount] | None = None
    hostname: Annotated[str, Field(pattern=r"^[a-z0-9][0-9a-z-]{0,62}$")] | None = None
    name: Name | None = None
    image: ImageById | ImageByFamily | None = None
    user_data: Annotated[str, Field(max_length=1_000_000)] | None = None
    tags: list[Tag] | None = None
    firewall_rulesets: list[Ruleset] | None = None


class Terminate(Schema):
    instance_ids: list[str]


class AddKey(Schema):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    public_key: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class Rename(Schema):
    name: Name | None = None


class Region(Schema):
    name: str
    description: str


class Specs(Schema):
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int


class InstanceType(Schema):
    name: str
    description: str
    gpu_description: str
    price_cents_per_hour: int
    specs: Specs


class TypesItem(Schema):
    instance_type: InstanceType
    regions_with_capacity_available: list[Region]


class Types(Schema):
    data: dict[str, TypesItem]


class Action(Schema):
    available: bool
    reason_code: Literal["vm-has-not-launched", "vm-is-too-old", "vm-is-terminating"] | None = None
    reason_description: str | None = None


class Actions(Schema):
    migrate: Action
    rebuild: Action
    restart: Action
    cold_reboot: Action
    terminate: Action


class Instance(Schema):
    id: str
    status: Literal["booting", "active", "unhealthy", "terminated", "terminating", "preempted"]
    ssh_key_names: list[str]
    file_system_names: list[str]
    region: Region
    instance_type: InstanceType
    actions: Actions
    name: Name | None = None
    ip: str | None = None
    private_ip: str | None = None
    file_system_mounts: list[Mount] | None = None
    hostname: str | None = None
    jupyter_token: str | None = None
    jupyter_url: str | None = None
    tags: list[Tag] | None = None
    firewall_rulesets: list[Ruleset] | None = None
    is_reserved: bool | None = None


class User(Schema):
    id: str
    email: str
    status: Literal["active", "deactivated"]


class FileSystem(Schema):
    id: str
    name: str
    mount_point: str
    created: str
    created_by: User
    is_in_use: bool
    region: Region
    bytes_used: int | None = None


class FileSystems(Schema):
    data: list[FileSystem]


class Instances(Schema):
    data: list[Instance]


class OneInstance(Schema):
    data: Instance


class LaunchedIds(Schema):
    instance_ids: list[str]


class Launched(Schema):
    data: LaunchedIds


class TerminatedInstances(Schema):
    terminated_instances: list[Instance]


class Terminated(Schema):
    data: TerminatedInstances


class Key(Schema):
    id: str
    name: str
    public_key: str


class Keys(Schema):
    data: list[Key]


class OneKey(Schema):
    data: Key
