"""Every run stands under its job in the UI and can be run again there, whoever started it: asked of the real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
import yaml

from tests.patience import limit, wait_until
from tests.serving import dagster_ui

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROFILE = """
extends: demo
name: small
description: A few generated questions.
aqua_dataset: {n_train: 40, n_validation: 5, n_test: 5}
"""
RUNS = """
{ runsOrError { ... on Runs { results {
    id status pipelineName pipelineSnapshotId parentPipelineSnapshotId
    repositoryOrigin { repositoryName repositoryLocationName } tags { key value } } } } }
"""
JOBS = """
{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { ... on RepositoryLocation {
    repositories { name jobs { name pipelineSnapshotId runs(limit: 20) { id } } } } } } } } }
"""
AGAIN = """
mutation($id: String!) { launchRunReexecution(reexecutionParams: {parentRunId: $id, strategy: ALL_STEPS}) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }
"""


class Home:
    """A Dagster home and a store of its own, used as `./run shell` and `./run dev` do."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root, self.directory = root, directory
        self.home = directory / "dagster_home"
        self.home.mkdir()
        shutil.copy(root / "dagster_home/dagster.yaml", self.home)
        (directory / "small.yaml").write_text(PROFILE)
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "AQUARAT_STORE": f"file://{directory}/store",
            "AQUARAT_CACHE": str(directory / "cache"),
            "AQUARAT_PROFILE": str(directory / "small.yaml"),
        }

    def shell(self, *command: str) -> str:
        """What a Python module says when it is run in `./run shell`."""
        environment = {**self.environment, "DAGSTER_MODULE_NAME": self._module()}
        out = subprocess.run(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert out.returncode == 0, out.stdout
        return out.stdout

    def _module(self) -> str:
        script = f"source '{self.root / 'run'}'; export_environment; printf %s \"$DAGSTER_MODULE_NAME\""
        return subprocess.run(
            ["bash", "-c", script], env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    @contextmanager
    def served(self) -> Iterator[Callable[..., Any]]:
        """The UI with its daemon; a function that asks its GraphQL."""
        location = ["-w", str(self.root / "workspace.yaml")]
        with dagster_ui(location, self.home / "dev.log", self.root, self.environment) as url:

            def ask(query: str, **variables: Any) -> Any:
                body = {"query": query, "variables": variables}
                answer = requests.post(f"{url}/graphql", json=body, timeout=limit(60)).json()
                assert "errors" not in answer, answer
                return answer["data"]

            yield ask


@pytest.fixture(scope="module")
def home(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(root, tmp_path_factory.mktemp("origin"))


def test_every_run_is_under_its_job_and_can_be_run_again(home: Home) -> None:
    home.shell("dagster", "asset", "materialize", "--select", "aqua_dataset")
    (home.directory / "only.yaml").write_text(yaml.safe_dump({}))
    home.shell("dagster", "job", "launch", "-j", "reevaluation")
    home.shell("aquarat_core.cli", "launch", "aqua_dataset")
    with home.served() as ask:
        entries = ask(JOBS)["workspaceOrError"]["locationEntries"]
        assert [entry["name"] for entry in entries] == ["aquarat"]
        (repository,) = entries[0]["locationOrLoadError"]["repositories"]
        jobs = {job["name"]: job for job in repository["jobs"]}
        runs = ask(RUNS)["runsOrError"]["results"]
        assert sorted(run["pipelineName"] for run in runs) == ["__ASSET_JOB", "__ASSET_JOB", "reevaluation"]
        for run in runs:
            assert run["repositoryOrigin"] == {
                "repositoryName": repository["name"],
                "repositoryLocationName": "aquarat",
            }, run
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            assert tags["dagster/code_location"] == "aquarat"
            job = jobs[run["pipelineName"]]
            # By the job from which the run's was cut the UI tells whether it is still the same.
            assert job["pipelineSnapshotId"] in (run["pipelineSnapshotId"], run["parentPipelineSnapshotId"]), run
            assert run["id"] in [listed["id"] for listed in job["runs"]], "the job's page lists it"
        again = next(run for run in runs if run["pipelineName"] == "__ASSET_JOB" and run["status"] == "SUCCESS")
        launched = ask(AGAIN, id=again["id"])["launchRunReexecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        with dg.DagsterInstance.from_config(str(home.home)) as instance:
            wait_until(lambda: instance.get_run_by_id(launched["run"]["id"]).is_finished, 180, "it runs again")
            assert instance.get_run_by_id(launched["run"]["id"]).status == dg.DagsterRunStatus.SUCCESS
