"""What an asset's page says before it is ever made: what it is, how it is made, what it costs, where its code is."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from rich.filesize import decimal

from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import ConfigError, Profile
from aquarat_core.durations import duration
from aquarat_core.runtime.peaks import UTILIZATION, peak_of
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.costs import Cost, cost_of
from aquarat_core.stages.registry import CHAIN, CHECKPOINTS, STAGES
from aquarat_core.stages.stage import Stage, module_of
from aquarat_pipeline.hosts.requirement import processes

_SOURCES = {
    "hub": ("huggingface", "From the Hugging Face Hub."),
    "files": ("file", "From the user's own files."),
    "synthetic": ("python", "Generated here, not real data."),
}
"""By a section's data source: the icon and a sentence."""
LIVE_PAGE = "/aquarat/runs"
"""The path at which the UI's own web server shows running stages."""
_GPU = "H100"
"""The kind of GPU for which a description gives hours."""


class About:
    """Describes the assets of one profile."""

    def __init__(self, profile: Profile) -> None:
        self._name = profile.name
        self._profile = format_profile(profile.name, profile.sha256)
        self._sections = {name: stage.config(profile) for name, stage in STAGES.items()}

    def description(self, stage: Stage) -> str:
        """The asset's description in Markdown."""
        source = getattr(self._sections[stage.name], "source", None)
        what = f"{stage.description} {_SOURCES[source][1]}" if source else stage.description
        parts = [what, *([f"**How:** {stage.how}"] if stage.how else [])]
        parts.append(f"**Cost** under profile {self._name}: {self._cost(stage)}")
        parts.append(f"**Code:** `{module_of(stage.entry).replace('.', '/')}.py`")
        return "\n\n".join(parts)

    def kinds(self, stage: Stage) -> set[str]:
        """Dagster's kinds of the asset, which select its icons."""
        source = getattr(self._sections[stage.name], "source", None)
        return {*stage.kinds, *({_SOURCES[source][0]} if source else ())}

    def tags(self, stage: Stage) -> dict[str, str]:
        """The asset's tags: the phase or part of the chain, and the resource that it needs most."""
        section = self._sections[stage.name]
        phase = stage.name.partition("_")[0]
        if stage.distributed:
            cost = "cpu" if getattr(getattr(section, "launch", None), "device", None) == "cpu" else "gpu"
        else:
            cost = "network" if getattr(section, "source", None) == "hub" else "small"
        return {"stage": phase if phase in CHAIN else stage.group, "cost": cost}

    def metadata(self, stage: Stage) -> dict[str, Any]:
        """The asset's own metadata: profile, code, and for a training stage the page with its curves while it runs."""
        found: dict[str, Any] = {"profile": self._profile, **code_references(stage)}
        return found | ({"live page": dg.MetadataValue.url(LIVE_PAGE)} if stage.name in CHECKPOINTS else {})

    def _cost(self, stage: Stage) -> str:
        try:
            cost = cost_of(stage.name, self._sections)
        except ConfigError as e:
            return f"{e}."
        said = _work(cost, getattr(self._sections[stage.name], "launch", None) if stage.distributed else None)
        return f"{'; '.join(said)}." if said else "little; runs on the control host."


def _work(cost: Cost, launch: Any) -> list[str]:
    said: list[str] = []
    if cost.flops:
        said.append(f"{cost.flops:.1e} FLOPs of training".replace("e+", "e") + _gpu_time(cost.flops, launch))
    if cost.sampled:
        said.append(f"at most {float(f'{cost.sampled:.2g}'):,.0f} sampled tokens")
    if cost.downloads:
        said.append(f"about {decimal(cost.downloads)} to download")
    if cost.published:
        said.append(f"an artifact of at least {decimal(cost.published)}")
    if launch:
        said.append(f"{processes(launch.nproc)} under torchrun")
    return said


def _gpu_time(flops: float, launch: Any) -> str:
    peak = peak_of(_GPU)
    if peak is None or launch is None or launch.device == "cpu":
        return ""
    seconds = flops / (UTILIZATION * peak)
    return f" ({duration(seconds)} of one {_GPU} at {UTILIZATION:.0%} of its peak)"


def code_references(stage: Stage) -> dict[str, Any]:
    """Metadata that links to the stage's function: its file and line here, and on the server of the git remote."""
    module, function = stage.entry.split(":")
    file = f"{module.replace('.', '/')}.py"
    try:
        text = (REPO_ROOT / file).read_text(encoding="utf-8")
    except OSError:
        return {}
    found = re.search(rf"^def {re.escape(function)}\(", text, re.MULTILINE)
    line = text.count("\n", 0, found.start()) + 1 if found else 1
    label = f"{file}, line {line}"
    with warnings.catch_warnings():
        # They are marked as beta; a warning for each asset would bury what a terminal has to say.
        warnings.simplefilter("ignore", dg.BetaWarning)
        references: list[Any] = [
            dg.LocalFileCodeReference(file_path=str(REPO_ROOT / file), line_number=line, label=label)
        ]
        if remote := remote_page():
            references.append(dg.UrlCodeReference(url=f"{remote}/{file}#L{line}", label=label))
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=references)}


@cache
def remote_page() -> str | None:
    """The page with the files of the current commit on GitHub or GitLab; None without such a remote."""
    try:
        address, commit = _git("config", "--get", "remote.origin.url"), _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    if found := re.fullmatch(r"git@([\w.-]+):(.+)", address):
        address = f"https://{found[1]}/{found[2]}"
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("https", "ssh") or not any(name in host for name in ("github", "gitlab")):
        return None
    # Without the user and password that the address may contain.
    path = parts.path.strip("/").removesuffix(".git")
    return f"https://{host}/{path}/{'-/' if 'gitlab' in host else ''}blob/{commit}"


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(REPO_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
