"""Bundles code for the inside of the sandbox, where the checkout is not visible, into one text for `python -c`."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType

_START = """\
import sys, types
package = types.ModuleType("aquarat_core.sandbox")
sys.modules[package.__name__] = package
for name, text in {modules!r}:
    module = types.ModuleType(package.__name__ + "." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
module.main()
"""


def bundle(*modules: ModuleType) -> str:
    """A program that defines these modules of `sandbox`, dependencies first, and calls `main` of the last one."""
    return _START.format(modules=[(m.__name__.rpartition(".")[2], _text(str(m.__file__))) for m in modules])


@functools.cache
def _text(path: str) -> str:
    return Path(path).read_text()
