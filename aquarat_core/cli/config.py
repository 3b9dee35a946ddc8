"""`aquarat config`: the filled-in values of profiles, their differences, and checks of a profile's file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_profiles
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.profile_option import add_depth
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError

if TYPE_CHECKING:
    from aquarat_core.config import Profile

DEFAULT = "default"
"""The origin of a value that no file gives."""

WIDEST = 40
"""Characters of a value to which `diff` aligns the next column."""


def add_commands(commands: Commands) -> None:
    """Adds `config` with `show`, `diff`, `validate` and `schema`."""
    group = commands.add_parser("config").add_subparsers(required=True, metavar="COMMAND")
    show = group.add_parser("show", help="print a profile's values, and where each comes from")
    _add_profile(show, "profile", nargs="?")
    add_depth(show)
    show.add_argument("--section", help="only this section, such as rl_checkpoint")
    show.add_argument("--given", action="store_true", help="only values that a file gives, no defaults")
    show.add_argument("--yaml", action="store_true", help="print a complete profile file")
    add_json(show)
    show.set_defaults(run=_show)
    diff = group.add_parser("diff", help="print where two profiles differ, or an artifact's config and a profile")
    _add_profile(diff, "left", "a profile's name or file, or an artifact")
    _add_profile(diff, "right", "the same")
    add_store(diff)
    add_json(diff)
    diff.set_defaults(run=_diff)
    check = group.add_parser("validate", help="check a profile; exit code 1 if it cannot be used")
    _add_profile(check, "profile", "a profile's file or name")
    add_json(check)
    check.set_defaults(run=_validate)
    schema = group.add_parser(
        "schema",
        help="print the JSON schema of profile files, with which editors complete and check them",
        epilog="In VS Code and others with the YAML language server: aquarat config schema > profile.schema.json, and "
        "as first line of the profile: # yaml-language-server: $schema=profile.schema.json",
    )
    schema.set_defaults(run=_schema)


def _add_profile(
    command: argparse.ArgumentParser, name: str, what: str = "a profile's name or file (AQUARAT_PROFILE, else demo)",
    **how: Any,
) -> None:  # fmt: skip
    complete_profiles(command.add_argument(name, help=what, **how))


def _show(arguments: argparse.Namespace) -> str:
    from aquarat_core.config import load_profile

    profile = load_profile(arguments.profile, depth=arguments.depth)
    values = profile.model_dump(mode="json")
    if arguments.section is not None:
        if arguments.section not in values:
            from aquarat_core.config.validation import did_you_mean

            raise UsageError(
                f"a profile has no section {arguments.section!r}; {did_you_mean(arguments.section, values)}"
                f"there are {', '.join(values)}"
            )
        values = {arguments.section: values[arguments.section]}
    if arguments.yaml:
        import yaml

        return yaml.safe_dump(values, allow_unicode=True, sort_keys=False).rstrip()
    origins = origins_of(arguments.profile, values, arguments.depth)
    facts = {
        name: {"value": value, "from": origins[name]}
        for name, value in leaves(values).items()
        if not arguments.given or origins[name] != DEFAULT
    }
    rows = [(name, json.dumps(fact["value"], ensure_ascii=False), fact["from"]) for name, fact in facts.items()]
    return answer(arguments, facts, table([("field", "from", "value"), *((a, c, b) for a, b, c in rows)]))


def origins_of(profile: str | None, values: Mapping[str, Any], depth: int | None = None) -> dict[str, str]:
    """For each field in `values` by its dotted name, the profile or file that gives it, the rule by which it follows
    from the depth, or `default`."""
    from aquarat_core.config.profile import layers

    origins = dict.fromkeys(leaves(values), DEFAULT)
    for source, given in layers(profile, depth):
        for name in leaves(given):
            # A list is given as a whole, and so is a mapping that a file gives in another form than it is filled in.
            for leaf in origins:
                if leaf == name or leaf.startswith(f"{name}.") or name.startswith(f"{leaf}."):
                    origins[leaf] = source
    return origins


def leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings by dotted names, in their order."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}.{inner}": leaf for inner, leaf in leaves(value).items()}  # pyright: ignore[reportUnknownArgumentType]
        else:
            found[name] = value
    return found


def _diff(arguments: argparse.Namespace) -> str:
    left, right = (_side(name, arguments.store) for name in (arguments.left, arguments.right))
    if left.section and right.section and left.section != right.section:
        raise UsageError(f"{left.name} and {right.name} are of different stages: aquarat store diff compares them")
    # An artifact has only its stage's section.
    section = left.section or right.section
    a, b = (leaves(side.values(section)) for side in (left, right))
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name) or (name in a) != (name in b)]
    facts = [{"field": name, "left": a.get(name), "right": b.get(name)} for name in names]
    rows = [("field", left.name, right.name), *((name, _shown(a, name), _shown(b, name)) for name in names)]
    text = table(rows, widest=WIDEST) if names else f"{left.name} and {right.name} have the same values"
    return answer(arguments, facts, text)


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a comparison: a profile, or an artifact with the section that it was made with."""

    name: str
    profile: Profile | None = None
    section: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def values(self, section: str | None) -> dict[str, Any]:
        """All values, or those of a section with its tasks filled in, as an artifact's are."""
        if self.profile is None:
            return {self.section: self.config} if self.section and section == self.section else {}
        if section is None:
            return self.profile.model_dump(mode="json")
        return {section: self.profile.section(section).model_dump(mode="json")}


def _side(name: str, store: str) -> _Side:
    from aquarat_core.config import load_profile, profile_names

    if name in profile_names() or name.endswith((".yaml", ".yml")):
        return _Side(name, load_profile(name))
    from aquarat_core.artifacts.finding import find_artifact
    from aquarat_core.artifacts.names import shown
    from aquarat_core.config.fields import with_current_names
    from aquarat_core.stages.registry import STAGES

    artifact = find_artifact(name, store)
    stage = STAGES.get(artifact.asset)
    kind = stage.config_type() if stage else None
    if stage is None or kind is None or artifact.manifest.adopted_from:
        raise UsageError(f"{artifact.asset} {artifact.sha256[:12]} was not made with a section of a profile")
    config = with_current_names(kind, artifact.manifest.config, warn=False)
    return _Side(shown(artifact), section=stage.section, config=config)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "-"


def _validate(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_core.config import ConfigError, load_profile, profile_names
    from aquarat_core.stages.registry import used_stages

    built_in = profile_names()
    if arguments.profile not in built_in and not Path(arguments.profile).is_file():
        raise UsageError(f"{arguments.profile} is neither a file nor a built-in profile ({', '.join(built_in)})")
    try:
        profile = load_profile(
            arguments.profile if arguments.profile in built_in else str(Path(arguments.profile).absolute())
        )
    except ConfigError as e:
        return CheckFailed(answer(arguments, {"valid": False, "problem": str(e)}, str(e)))
    stages = used_stages(profile)
    facts = {"valid": True, "name": profile.name, "sha256": profile.sha256, "stages": stages}
    return answer(
        arguments,
        facts,
        f"{arguments.profile} is valid: profile {profile.name} ({profile.sha256[:12]}), {len(stages)} stages",
    )


def _schema(_: argparse.Namespace) -> str:
    return json.dumps(schema_of_files(), indent=2)


def schema_of_files() -> dict[str, Any]:
    """The JSON schema of a profile's file, which may extend another profile and so leave anything out."""
    from aquarat_core.config import Profile

    schema = Profile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "aquarat profile"
    described = "Name or file of the profile whose fields this one changes."
    schema["properties"] = {"extends": {"type": "string", "description": described}, **schema["properties"]}
    _make_optional(schema, schema["$defs"])
    return schema


def _make_optional(group: dict[str, Any], groups: dict[str, dict[str, Any]]) -> None:
    """Lets fields of a group, and of groups directly in it, be left out; those of a list's entries stay required."""
    group.pop("required", None)
    for one in group.get("properties", {}).values():
        name = one.get("$ref", "").rpartition("/")[2]
        if name:
            _make_optional(groups[name], groups)
