"""All names taken from Dagster's private modules, in one place, with the version that they were read from.

- Dagster's public API returns and renders input data versions, but does not name the tags that record them. We record
  them ourselves, because an input is pinned when a stage first starts, even if the step is resumed later, and because
  a checkpoint can be adopted outside of any run.
- Run launchers and executors are extension points without a public module: what both need of the plan, the events and
  a run worker's command comes from here (read: `_core/launcher`, `_core/executor/in_process.py`,
  `_core/execution/api.py`, `_core/execution/plan/active.py`, `_daemon/monitoring/run_monitoring.py`).
- A run that was started from a terminal gets the remote origin by which the UI finds it. This uses `replace_job_origin`
  of the run storage, like `dagster run migrate-repository` (read: `_cli/run.py`,
  `_core/storage/runs/sql_run_storage.py`).
- The run queue's limit is read by the daemon before each look at the queue (read:
  `_core/run_coordinator/queued_run_coordinator.py`, `_daemon/run_coordinator/queued_run_coordinator_daemon.py`).
- A storage whose operations wait for the database wraps what Dagster's interfaces of storages name, and a worker's
  heartbeat is a row of the run storage's table of keys and values, which nothing public removes (read:
  `_core/storage/runs/base.py` and `schema.py`, and the same of `event_log` and `schedules`).
- Config types that check a range are scalars with a step after validation, for which Dagster has no public name (read:
  `_config/config_type.py`, `_config/post_process.py`).
- The web server takes its middleware from one of its methods, and `dagster dev` starts that server by module name. Both
  are replaced to put a guard in front of the server (read: `dagster_webserver/webserver.py`, `_cli/dev.py`).

`tests/pipeline/test_compat.py` fails when Dagster's version changes; these modules must then be read again.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dagster._config.config_type import ConfigScalar, ConfigScalarKind
from dagster._config.errors import PostProcessingError
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterUserCodeProcessError
from dagster._core.events import AssetObservationData, DagsterEvent, EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable, create_execution_plan, execute_run
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor, inprocess_execution_iterator
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.runs import RunStorage, SqliteRunStorage, SqlRunStorage
from dagster._core.storage.runs.schema import KeyValueStoreTable
from dagster._core.storage.schedules import ScheduleStorage
from dagster._core.storage.tags import CODE_LOCATION_TAG, REPOSITORY_LABEL_TAG
from dagster._core.utils import coerce_valid_log_level
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo
from dagster_shared.ipc import open_ipc_subprocess

READ_FROM = "1.13.27"

__all__ = [
    "CODE_LOCATION_TAG",
    "CODE_VERSION_TAG",
    "DATA_VERSION_IS_USER_PROVIDED_TAG",
    "DATA_VERSION_TAG",
    "IN_PROGRESS_RUN_STATUSES",
    "NOT_FINISHED_STATUSES",
    "NULL_DATA_VERSION",
    "NULL_EVENT_POINTER",
    "READ_FROM",
    "REPOSITORY_LABEL_TAG",
    "SINGLETON_REPOSITORY_NAME",
    "AssetObservationData",
    "CheckRunHealthResult",
    "ConfigScalar",
    "ConfigScalarKind",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterEvent",
    "DagsterExecutionInterruptedError",
    "DagsterStorage",
    "DagsterUserCodeProcessError",
    "EngineEventData",
    "ErrorSource",
    "EventLogStorage",
    "ExecuteRunArgs",
    "ExecuteRunWithPlanIterable",
    "ExecutionPlan",
    "InProcessExecutor",
    "JobPythonOrigin",
    "KeyValueStoreTable",
    "KnownExecutionState",
    "LaunchRunContext",
    "PlanExecutionContextManager",
    "PlanOrchestrationContext",
    "PostProcessingError",
    "QueuedRunCoordinator",
    "ReconstructableRepository",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "ResumeRunArgs",
    "ResumeRunContext",
    "RetryMode",
    "RunLauncher",
    "RunQueueConfig",
    "RunStorage",
    "ScheduleStorage",
    "SerializableErrorInfo",
    "SqlRunStorage",
    "SqliteRunStorage",
    "StepFailureData",
    "StepOutputHandle",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "coerce_valid_log_level",
    "create_execution_plan",
    "dev",
    "execute_run",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
    "inprocess_execution_iterator",
    "location_origins_from_yaml_paths",
    "web_server",
]


def web_server(arguments: Sequence[str], guard: Callable[[Any], Any]) -> None:
    """Runs Dagster's web server with `guard`, an ASGI middleware, around everything that it serves."""
    from dagster_webserver.cli import cli
    from dagster_webserver.webserver import DagsterWebserver
    from starlette.middleware import Middleware

    server: Any = DagsterWebserver  # a generic class, whose method is typed without its arguments
    inner = server.build_middleware

    def build_middleware(self: Any) -> list[Middleware]:
        return [Middleware(guard), *inner(self)]

    server.build_middleware = build_middleware
    cli(list(arguments), auto_envvar_prefix="DAGSTER_WEBSERVER", prog_name="dagster-webserver")


def dev(arguments: Sequence[str], web_server: str) -> None:
    """Runs `dagster dev` with the module `web_server` instead of its own web server."""
    from dagster._cli import dev as module

    def start_ours(parts: list[str], **kwargs: Any) -> Any:
        # Its other processes are the daemon and the code server; a web server by another name would have no guard.
        if not {"dagster_webserver", "dagster._daemon", "code-server", "api"} & set(parts):
            raise RuntimeError(f"dagster dev starts something that was not there in {READ_FROM}: {' '.join(parts[:4])}")
        return open_ipc_subprocess([web_server if part == "dagster_webserver" else part for part in parts], **kwargs)

    module.open_ipc_subprocess = start_ours  # pyright: ignore[reportPrivateImportUsage]  # the name that the command uses
    module.dev_command(list(arguments), prog_name="dagster dev")
