"""The private parts of Dagster we lean on are the ones that were read."""

import re
from importlib.metadata import version

from aquarat_pipeline import _compat


def test_dagster_is_the_version_its_private_modules_were_read_from() -> None:
    assert version("dagster") == _compat.READ_FROM, (
        "read the modules _compat.py imports from again, then move READ_FROM"
    )


def test_the_tags_are_spelled_as_recorded_events_spell_them() -> None:
    import dagster as dg

    assert _compat.CODE_VERSION_TAG == "dagster/code_version"
    assert _compat.DATA_VERSION_TAG == "dagster/data_version"
    assert (
        _compat.get_input_data_version_tag(dg.AssetKey("sft_checkpoint")) == "dagster/input_data_version/sft_checkpoint"
    )
    assert _compat.get_input_event_pointer_tag(dg.AssetKey("a")) == "dagster/input_event_pointer/a"


def test_private_imports_stand_in_compat_alone(root) -> None:
    found = [
        path.relative_to(root).as_posix()
        for path in (root / "aquarat_pipeline").rglob("*.py")
        if re.search(r"^\s*(from|import) dagster\.?_\w", path.read_text(), re.M)
        or re.search(r"dagster\._", path.read_text())
    ]
    assert found == ["aquarat_pipeline/_compat.py"]


def test_the_core_does_not_know_dagster(root) -> None:
    found = [
        path.relative_to(root).as_posix()
        for path in (root / "aquarat_core").rglob("*.py")
        if re.search(r"^\s*(from|import) dagster\b(?!_pipes)", path.read_text(), re.M)
    ]
    assert found == []
