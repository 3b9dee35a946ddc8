"""The agent as one file: the modules in `aquarat_core/agent/` as a zip that Python can run, named by its hash."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import aquarat_core.agent

MAIN = "import sys\nfrom aquarat_agent.main import main\nsys.exit(main(*sys.argv[1:]))\n"
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The content of the file; equal sources give equal bytes."""

    data: bytes
    sha256: str

    @property
    def name(self) -> str:
        return f"agent-{self.sha256[:16]}.pyz"


@functools.cache
def agent() -> Bundle:
    """The agent of this checkout."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(Path(aquarat_core.agent.__file__).parent.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"aquarat_agent/{path.name}", ZIP_EPOCH), path.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py", ZIP_EPOCH), MAIN)
    return Bundle(out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest())
