"""Generates the parts of the documents that come from the code: `python docs/refresh.py`; `--check` only compares.

A part is between `<!-- generated: NAME -->` and `<!-- end -->`, and NAME is a key of `PARTS`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from aquarat_core.cli import build_parser, command_table
from aquarat_core.cli.commands import GROUPS
from aquarat_core.config import Profile, load_profile, profile_names
from aquarat_core.config.accounting import describe
from aquarat_core.config.fields import MAX_COUNT
from aquarat_core.durations import duration
from aquarat_core.settings import store_uri
from aquarat_core.stages.forecast import Gpus, forecast

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/cli.md", "docs/configuration.md", "docs/recipe.md")
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
"""How each bound of a JSON schema is shown."""
UNIONS = ("anyOf", "oneOf")
"""Keys under which a JSON schema lists the types of a field that may have several."""
Schema = dict[str, Any]
"""A part of a JSON schema, as written by pydantic."""


def main(arguments: list[str]) -> int:
    """Rewrites the pages; with `--check`, only names those that would change (exit code 1)."""
    now = {page: (ROOT / page).read_text() for page in PAGES}
    behind = {page: wanted for page, text in now.items() if (wanted := refreshed(text)) != text}
    if "--check" in arguments:
        for page in behind:
            print(f"{page} is behind the code: run python docs/refresh.py", file=sys.stderr)
        return int(bool(behind))
    for page, wanted in behind.items():
        (ROOT / page).write_text(wanted)
    return 0


def refreshed(text: str) -> str:
    """`text` with every generated part updated."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def profiles() -> str:
    """The built-in profiles, smallest model first, as a Markdown table."""
    loaded = sorted((load_profile(name) for name in profile_names()), key=lambda p: describe_model(p)["parameters"])
    head = ("profile", "what for", "depth", "width", "heads", "context", "vocabulary", "parameters", "FLOPs a token")
    rows = [_row(p) for p in loaded]
    rule = ("---", "---", *("---:" for _ in head[2:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def describe_model(profile: Profile) -> dict[str, int | str]:
    """Facts about the profile's model at the largest vocabulary that its tokenizer may learn."""
    return describe(profile.base_checkpoint.model, profile.tokenizer.vocab_size)


def _row(profile: Profile) -> tuple[str, ...]:
    facts = describe_model(profile)
    names = ("depth", "dim", "heads", "sequence_len", "vocabulary", "parameters", "flops_per_token")
    numbers = (f"{f:,}" if isinstance(f := facts[name], int) else f for name in names)
    return (f"`{profile.name}`", profile.description, *numbers)


PRICE = 2.99
"""Dollars of one H100 for an hour in the table of costs: an example, which only decides that column."""


def costs() -> str:
    """What the profiles that train on GPUs take on eight H100s, computed, as a Markdown table."""
    gpus = Gpus("H100", PRICE)
    head = ("profile", "tokens", "base", "mid, SFT", "RL", "evaluation", "all", "price", "GB of a GPU", "disk")
    rows: list[tuple[str, ...]] = []
    for profile in sorted(map(load_profile, profile_names()), key=lambda p: describe_model(p)["parameters"]):
        found = {one.stage: one for one in forecast(profile, gpus)}
        if not found["base_checkpoint"].ranks:
            continue
        base, mid, sft, rl = (found[f"{name}_checkpoint"] for name in ("base", "mid", "sft", "rl"))
        reports = sum(one.seconds for name, one in found.items() if name.endswith("_report"))
        seconds = sum(one.seconds for one in found.values())
        times = (base.seconds, mid.seconds + sft.seconds, rl.seconds, reports, seconds)
        rows.append(
            (
                f"`{profile.name}`", f"{base.tokens / 1e9:.1f} billion", *map(duration, times),
                f"${sum(one.dollars or 0 for one in found.values()):.2f}",
                f"{max(sum(one.memory.values()) for one in found.values()) / 1e9:.0f}",
                f"{sum(one.disk for one in found.values()) / 1e9:.0f} GB",
            )
        )  # fmt: skip
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def configuration() -> str:
    """All fields of a profile: a table for each section, and for each group of fields that sections share."""
    schema = Profile.model_json_schema()
    groups: Schema = schema["$defs"]
    sections = {name: _group(field) for name, field in schema["properties"].items() if _group(field)}
    order = list(dict.fromkeys(sections.values()))
    for name in order:  # grows as it is read: groups named by groups
        named = [g for field in groups[name]["properties"].values() for g in _groups(field)]
        order += [g for g in dict.fromkeys(named) if g not in order]
    users = {g: [name for name, section in sections.items() if section == g] for g in order}
    return "\n\n".join(_table(g, users[g], groups[g], groups) for g in order)


def _table(name: str, sections: list[str], group: Schema, groups: Schema) -> str:
    title = ", ".join(f"`{s}`" for s in sections) or name
    head = f"## {title}\n\n{_one_line(group.get('description', ''))}".rstrip()
    rows = [
        f"| `{field}` | {_type(spec, groups)} | {_default(spec)} | {_meaning(spec, groups)} |"
        for field, spec in group["properties"].items()
    ]
    return "\n".join([head, "", "| field | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _meaning(spec: Schema, groups: Schema) -> str:
    group = _group(spec)
    return _one_line(spec.get("description") or (groups[group].get("description", "") if group else ""))


def _group(field: Schema) -> str | None:
    reference = field.get("$ref") or field.get("items", {}).get("$ref")
    return reference.rpartition("/")[2] if reference else None


def _groups(field: Schema) -> list[str]:
    """The groups that a field may hold, possibly more than one."""
    inner = [spec for key in UNIONS for spec in field.get(key, [])]
    return [group] if (group := _group(field)) else [g for spec in inner for g in _groups(spec)]


def _type(spec: Schema, groups: Schema) -> str:
    if group := _group(spec):
        return f"{'list of ' if 'items' in spec else ''}[{group}](#{group.lower()})"
    for key in UNIONS:
        if key in spec:
            return " or ".join(_type(s, groups) for s in spec[key])
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    if spec.get("type") == "array":
        inner = spec.get("items") or spec.get("prefixItems", [{}])[0]
        return f"list of {_type(inner, groups)}"
    return f"{spec.get('type', 'any')}{_range(spec)}"


def _range(spec: Schema) -> str:
    bounds = [f"{sign} {spec[key]:,}" for key, sign in BOUNDS.items() if key in spec and spec[key] != MAX_COUNT]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(spec: Schema) -> str:
    if _group(spec) and "items" not in spec:
        return ""
    if "default" not in spec:
        return "required"
    return f"`{json.dumps(spec['default'], ensure_ascii=False)}`".replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands() -> str:
    """All commands in the groups of the manual, each with its sentence, an example, its arguments and options."""
    table = command_table([])
    parsers = subparsers(build_parser(table))
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"### {group[0].upper()}{group[1:]}", ""]
        for command in (command for command in table.values() if command.group == group):
            lines += [*_command(parsers[command.name], f"#### `aquarat {command.name}`", command.example), ""]
    return "\n".join(lines).rstrip()


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name; none for a command without any."""
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def _command(parser: argparse.ArgumentParser, title: str, example: str = "") -> list[str]:
    described = [title, "", _one_line(parser.description or "")]
    arguments = [a for a in parser._actions if a.help not in (None, argparse.SUPPRESS) and a.dest != "help"]
    own = [action for action in arguments if not isinstance(action, argparse._SubParsersAction)]
    described += ["", f"    {example}"] if example else []
    described += ["", *(f"- {_argument(action)}: {_help(parser, action)}" for action in own)] if own else []
    for inner in subparsers(parser).values():
        described += ["", *_command(inner, f"**`{inner.prog}`**")]
    return described


def _argument(action: argparse.Action) -> str:
    """An argument as it is typed: `--json`, `--lines N`, `ASSET`."""
    name = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    value = "" if action.nargs == 0 else f" {name}"
    return f"`{', '.join(action.option_strings)}{value}`" if action.option_strings else f"`{name}`"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Its sentence, in which this checkout's own folder is not named."""
    text = str(action.help) % {**vars(action), "prog": parser.prog}
    return _one_line(text).replace(store_uri(), "AQUARAT_STORE")


PARTS = {"profiles": profiles, "costs": costs, "configuration": configuration, "commands": commands}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
