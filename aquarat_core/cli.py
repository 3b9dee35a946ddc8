"""The command `aquarat`: look at artifacts, their ancestry, the profiles and their models."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, FileEntry, StoreError
from aquarat_core.artifacts.lineage import format_code, format_lineage, lineage
from aquarat_core.config import ConfigError, load_profile, profile_names
from aquarat_core.settings import store_uri


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand. A user's mistake is one message on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.run(arguments))
    except (ArtifactError, ConfigError, StoreError) as e:
        print(f"aquarat: {e}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aquarat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("lineage", help="print the ancestry of an artifact, down to the data sets")
    _add_artifact(command)
    command.set_defaults(run=_lineage)

    command = commands.add_parser("show", help="print what is known about an artifact")
    _add_artifact(command)
    command.add_argument("--json", action="store_true", help="print the manifest itself")
    command.set_defaults(run=_show)

    command = commands.add_parser("model", help="print the size and cost of the profiles' models")
    command.add_argument("--profile", help="name or YAML file of one profile (default: all built-in ones)")
    command.set_defaults(run=_model)

    command = commands.add_parser("profiles", help="list the built-in profiles")
    command.set_defaults(run=_profiles)
    return parser


def _add_artifact(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "artifact",
        metavar="ASSET_OR_MANIFEST",
        help="an asset's name, for its latest artifact, or (the beginning of) a manifest's hash",
    )
    command.add_argument("--store", default=store_uri(), help="URI of the artifact store (default: %(default)s)")


def _lineage(arguments: argparse.Namespace) -> str:
    store = ArtifactStore.open(arguments.store)
    return format_lineage(lineage(store, store.resolve(arguments.artifact).sha256))


def _show(arguments: argparse.Namespace) -> str:
    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    return artifact.manifest.to_bytes().decode() if arguments.json else _describe(artifact)


def _describe(artifact: Artifact) -> str:
    m = artifact.manifest
    facts = [
        ("asset", f"{m.asset} ({m.kind})"),
        ("uri", artifact.uri),
        ("data version", artifact.data_version),
        ("created", m.created),
        ("run", m.run_id),
        ("profile", m.profile),
        ("code", f"{format_code(m.code)}, version {m.code.version[:12]}"),
        *(("parent", f"{p.asset}  manifest {p.manifest_sha256[:12]}  run {p.run_id}") for p in m.parents),
        *(("file", _file(e)) for e in m.files),
        *(("record", _file(e)) for e in m.records),
        *(("metric", f"{name} = {value}") for name, value in sorted(m.metrics.items())),
        *(("seed", f"{name} = {value}") for name, value in sorted(m.seeds.items())),
        *(("config", f"{name} = {value}") for name, value in _flat(m.config)),
        *(("hardware", f"{name} = {value}") for name, value in sorted(m.hardware.items())),
        ("libraries", ", ".join(f"{name} {version}" for name, version in sorted(m.libraries.items()))),
        *(("wandb", f"{name} = {value}") for name, value in sorted((m.wandb or {}).items())),
    ]
    repeated = [False, *(a[0] == b[0] for a, b in itertools.pairwise(facts))]
    return table([("" if again else label, text) for again, (label, text) in zip(repeated, facts, strict=True)])


def _file(entry: FileEntry) -> str:
    return f"{entry.path}  {entry.size:,} bytes  sha256 {entry.sha256[:12]}"


def _flat(config: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in sorted(config.items()):
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs


def _model(arguments: argparse.Namespace) -> str:
    from aquarat_core.model.accounting import describe

    profiles = [load_profile(name) for name in ([arguments.profile] if arguments.profile else profile_names())]
    columns = [describe(p.base_checkpoint.model, p.tokenizer.vocab_size) for p in profiles]
    rows = [("profile", *(p.name for p in profiles))]
    rows += [(name, *(_number(c[name]) for c in columns)) for name in columns[0]]
    return table(rows)


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _profiles(_: argparse.Namespace) -> str:
    return table([(name, load_profile(name).description) for name in profile_names()])


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of equally many cells as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
