"""A run's place in the UI: its remote origin, the job of a code location.

The UI only shows a run under its job, and can only run it again, if the run names the location that it was loaded from.
Runs created by Dagster's web server, its daemon and `dagster job launch` do. Those of `dagster asset materialize` and
`dagster job execute` only name the Python module, until their executor adds the rest.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline._compat import (
    CODE_LOCATION_TAG,
    REPOSITORY_LABEL_TAG,
    SINGLETON_REPOSITORY_NAME,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    location_origins_from_yaml_paths,
)

MODULE = "aquarat"
"""The module of the code location, and its name."""
WORKSPACE = REPO_ROOT / "workspace.yaml"
_SAME = (MODULE, "aquarat_pipeline.definitions")
"""Modules with the definitions that `WORKSPACE` serves."""


def job_origin(job: str, repository: str = SINGLETON_REPOSITORY_NAME, workspace: Path = WORKSPACE) -> RemoteJobOrigin:
    """The origin of a job in the location that `workspace` serves."""
    location = location_origins_from_yaml_paths([str(workspace)])[0]
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, repository), job)


def add_origin(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Gives a run of our definitions without a remote origin the one that the UI knows, including tags."""
    code = run.job_code_origin
    if run.remote_job_origin is not None or code is None:
        return
    if getattr(code.repository_origin.code_pointer, "module", None) not in _SAME:
        return
    origin = job_origin(run.job_name)
    repository = origin.repository_origin
    # Tags first: the origin is written into the run as it is then, and adds no rows to the table of tags.
    tags = {
        CODE_LOCATION_TAG: repository.code_location_origin.location_name,
        REPOSITORY_LABEL_TAG: repository.get_label(),
    }
    instance.add_run_tags(run.run_id, tags)
    instance.run_storage.replace_job_origin(instance.get_run_by_id(run.run_id) or run, origin)
