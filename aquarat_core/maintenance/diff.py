"""The differences between two artifacts: config, code, data, parents, metrics and environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from aquarat_core.artifacts import Manifest
from aquarat_core.artifacts.lineage import format_profile


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference; a value is None if that side has none."""

    section: str
    name: str
    left: Any
    right: Any


def differences(left: Manifest, right: Manifest) -> list[Difference]:
    """All differences, section by section, sorted by name; run ids and times always differ and are left out."""
    sections = zip(_sections(left).items(), _sections(right).values(), strict=True)
    return [
        Difference(section, name, a.get(name), b.get(name))
        for (section, a), b in sections
        for name in sorted({*a, *b})
        if a.get(name) != b.get(name)
    ]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted names."""
    found: dict[str, Any] = {}
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping) and value:
            found |= flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _sections(m: Manifest) -> dict[str, dict[str, Any]]:
    return {
        "artifact": {"asset": m.asset, "kind": m.kind, "profile": format_profile(m.profile, m.profile_sha256)},
        "config": flat(m.config),
        "code": {"version": m.code.version, "commit": m.code.commit, "dirty": m.code.dirty},
        "data": {f.path: f"{f.sha256[:12]} ({f.size:,} bytes)" for f in m.files},
        "parents": {p.asset: f"data {p.data_version[:12]}  manifest {p.manifest_sha256[:12]}" for p in m.parents},
        "metrics": dict(m.metrics),
        "seeds": dict(m.seeds),
        "libraries": dict(m.libraries),
        "hardware": dict(m.hardware),
    }
