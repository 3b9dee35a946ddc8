"""Work that one rank of a host does for all: its result and its failure reach every rank."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from aquarat_core.errors import DataError
from aquarat_core.stages.command import torchrun
from tests.factories import ONE
from tests.patience import limit
from tests.runtime import first_of_host


@pytest.mark.slow
def test_every_rank_gets_the_result_and_the_failure_of_the_first(tmp_path: Path) -> None:
    command = torchrun([str(first_of_host.__file__), str(tmp_path)], 2, str(tmp_path / "logs"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(240))
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["value"] == [["value", json.dumps({"folder": "ü", "share": 0.1 + 0.2})]] * 2
    said = "row 7 has no answer: mend it"
    assert seen["mistake"] == [["DataError", said], ["UserError", said]]
    assert seen["fault"] == [["KeyError", "'index'"], ["OtherRankFailed", "rank 0 failed: KeyError: 'index'"]]
    assert (tmp_path / "calls").read_text().split() == ["value", "0", "mistake", "0", "fault", "0"]


def test_a_lone_rank_does_it_itself() -> None:
    assert ONE.once_per_host(lambda: 7) == 7
    with pytest.raises(DataError, match="mend it"):
        ONE.once_per_host(lambda: (_ for _ in ()).throw(DataError("mend it")))
