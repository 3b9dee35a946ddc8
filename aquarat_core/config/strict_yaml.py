"""Reads settings: files with `load`, values of the command line with `parse`. Ordinary YAML without surprises.

Three things that YAML allows are errors here. A repeated key, because YAML silently keeps the last one. An alias,
because nested ones turn a few lines into gigabytes. And unusually large files, which could keep a parser busy for
minutes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from aquarat_core.errors import UserError

MAX_BYTES = 256 << 10
MAX_DEPTH = 50
MAX_EVENTS = 20_000
"""Limit on keys, values, and beginnings and ends of lists and mappings."""
MAX_PLAIN = 4_096
"""Limit on the characters of a value without quotes or with a tag: it may be a number, and reading 1:1:1... as a number
to base 60 takes quadratic time."""
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(UserError):
    """A file that cannot be read as settings; the message says where and why."""


class _Loader(_Base):
    """Accepts only plain values; a repeated key is an error."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    found: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a list or a mapping cannot be a key", key_node.start_mark
            )
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: Path) -> Any:
    """The content of the file as plain values. Raises `YamlError`, or `OSError` if it cannot be opened."""
    with path.open("rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"{path} is longer than {MAX_BYTES >> 10} KiB, the limit for a settings file")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError:
        raise YamlError(f"{path} is not UTF-8 text") from None


def parse(text: str, path: str) -> Any:
    """The content of a text as plain values; `path` names it in errors. Raises `YamlError`."""
    try:
        _check_events(path, text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(f"{path}{where}: {e.problem or e.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
        raise e if isinstance(e, YamlError) else YamlError(f"{path} is not valid YAML: {e}") from None


def _check_events(path: str, text: str) -> None:
    depth = 0
    # The stubs do not declare its types.
    events = cast("Iterator[Any]", yaml.parse(text, _Base))  # pyright: ignore[reportUnknownMemberType]
    for count, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(
                f"{path}, line {line}: *{event.anchor} repeats another value: write the value again instead"
            )
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_PLAIN and (event.tag or not event.style):
            raise YamlError(
                f"{path}, line {line}: a value of {len(event.value):,} characters that may be a number, more than a "
                "settings file may have: put a text in quotes, without a tag"
            )
        if depth > MAX_DEPTH or count > MAX_EVENTS:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_EVENTS:,} values"
            raise YamlError(f"{path}, line {line}: {what}, which no settings file needs")
