"""Dagster's GraphQL, asked as the UI asks it, over definitions served in this process."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.test.utils import execute_dagster_graphql

_numbers = itertools.count()


class Served:
    """A workspace with one code location."""

    def __init__(self, process: WorkspaceProcessContext) -> None:
        self._process = process

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of the answer; every question comes in a request of its own, as no cache survives it."""
        return execute_dagster_graphql(self._process.create_request_context(), query, variables).data


@contextmanager
def served(instance: dg.DagsterInstance, defs: dg.Definitions) -> Iterator[Served]:
    module = ModuleType(f"served_definitions_{next(_numbers)}")
    module.defs = defs
    sys.modules[module.__name__] = module
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=module.__name__, attribute="defs")
    origin = InProcessCodeLocationOrigin(target, location_name="toys")
    try:
        with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as process:
            yield Served(process)
    finally:
        del sys.modules[module.__name__]
