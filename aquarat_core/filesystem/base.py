"""The base class of fsspec's file systems, with types for the part that is used, because fsspec has hardly any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    class AbstractFileSystem:
        def __init__(self, **options: Any) -> None: ...

        @classmethod
        def _strip_protocol(cls, path: Any) -> Any: ...

        def to_dict(self, *, include_password: bool = True) -> dict[str, Any]: ...

        def unstrip_protocol(self, name: str) -> str: ...

        def walk(
            self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **kwargs: Any
        ) -> Iterator[tuple[str, Any, Any]]: ...

        def ukey(self, path: str) -> str: ...

        def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any: ...
else:
    from fsspec.spec import AbstractFileSystem

__all__ = ["AbstractFileSystem"]
