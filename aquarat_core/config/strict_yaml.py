"""YAML as people write settings in it, and nothing that would surprise them: every file of settings is read by `load`.

Three things that YAML allows are errors here. A key given twice: YAML keeps the last one without a word. An alias:
nested ones make gigabytes of a few lines. More than a person writes: a parser must not be kept busy for minutes.
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
"""Keys, values, and beginnings and ends of lists and mappings."""
MAX_PLAIN = 4_096
"""Characters of a value without quotes or with a tag: it may be a number, and to read 1:1:1... as one, to the base of
60, takes the square of its length."""
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(UserError):
    """A file that cannot be read as settings; the message says where and why."""


class _Loader(_Base):
    """Plain values alone; a key given twice is an error."""


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
    """What the file says, in plain values. Raises `YamlError`, or `OSError` where it cannot be opened."""
    with path.open("rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"{path} is longer than {MAX_BYTES >> 10} KiB, which no file of settings is")
    try:
        text = data.decode()
        _check_events(path, text)
        return yaml.load(text, _Loader)
    except UnicodeDecodeError:
        raise YamlError(f"{path} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(f"{path}{where}: {e.problem or e.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
        raise e if isinstance(e, YamlError) else YamlError(f"{path} is not valid YAML: {e}") from None


def _check_events(path: Path, text: str) -> None:
    depth = 0
    # The stubs leave its types out.
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
                f"{path}, line {line}: a value of {len(event.value):,} characters that may be a number, which no file "
                "of settings has: put a text in quotes, without a tag"
            )
        if depth > MAX_DEPTH or count > MAX_EVENTS:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_EVENTS:,} values"
            raise YamlError(f"{path}, line {line}: {what}, which no file of settings is")
