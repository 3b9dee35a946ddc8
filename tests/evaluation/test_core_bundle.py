"""Bundles that are whole, incomplete, wrong or hostile."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.errors import DataError
from aquarat_core.evaluation.core import archive
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.bundle import Bundle, Row, baselines_sentence
from aquarat_core.evaluation.core.tasks import BASELINES
from tests.evaluation.bundles import TASKS, row_of, write_bundle, write_rows, zipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def rows(folder: Path, label: str) -> list[Row]:
    bundle = Bundle(folder)
    return bundle.rows(next(task for task in bundle.tasks if task.label == label))


def counts(bundle: Bundle) -> dict[str, int]:
    return {task.label: len(bundle.rows(task)) for task in bundle.tasks}


def change_tasks(folder: Path, **changes: Any) -> None:
    """The first task of core.yaml, which is jeopardy, with `changes`; None takes a field away."""
    described = json.loads((folder / "core.yaml").read_text())
    first = {k: v for k, v in (described["icl_tasks"][0] | changes).items() if v is not None}
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": [first, *described["icl_tasks"][1:]]}))


def test_a_bundle_as_it_is_written(folder: Path) -> None:
    bundle = Bundle(folder)
    assert counts(bundle) == dict.fromkeys(TASKS, 24)
    by_label = {task.label: task for task in bundle.tasks}
    assert by_label["copa"].shots == 0 and by_label["copa"].delimiter == " "
    assert by_label["winogrande"].delimiter == " - " and by_label["winogrande"].type == "schema"
    assert set(bundle.absent) == set(BASELINES) - set(TASKS) and set(bundle.absent.values()) == {"not in core.yaml"}
    assert rows(folder, "jeopardy")[1].contexts == (row_of("jeopardy", 1)["context"],)
    assert "\u2028" in rows(folder, "lambada_openai")[0].contexts[0]
    assert bundle.other_baselines == {} and baselines_sentence({}) is None


def test_a_task_whose_file_is_missing_is_absent(folder: Path) -> None:
    (folder / "eval_data/made_up/copa.jsonl").unlink()
    bundle = Bundle(folder)
    assert "copa" not in {task.label for task in bundle.tasks}
    assert bundle.absent["copa"] == "eval_data/made_up/copa.jsonl is not there"


def test_other_baselines_are_named(tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "old", commonsense=20))
    assert bundle.other_baselines == {"commonsense_qa": 20}
    assert "commonsense_qa 20" in (baselines_sentence(bundle.other_baselines) or "")
    assert next(task for task in bundle.tasks if task.label == "commonsense_qa").baseline == 40.3


def test_the_hash_is_of_what_counts(folder: Path, tmp_path: Path) -> None:
    before = Bundle(folder).sha256
    (folder / "eval_data/made_up/other.jsonl").write_text("{}")
    (folder / "README").write_text("x")
    assert Bundle(folder).sha256 == before
    unpack(zipped(folder, tmp_path / "b.zip"), tmp_path / "unpacked")
    assert Bundle(tmp_path / "unpacked").sha256 == before
    write_rows(folder, "copa", [row_of("copa", i) for i in range(23)])
    assert Bundle(folder).sha256 != before


BAD_ROWS = {
    "copa": [
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "gold is 2, and there are 2 to choose from, 0 to 1"),
        ({"query": "q", "choices": ["a", "b"], "gold": -1}, "gold is -1"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "gold is true or false"),
        ({"query": "q", "choices": ["a", "b"], "gold": "0"}, "gold is a text, not the index of the right one of 2"),
        ({"query": "q", "choices": ["a", "b"]}, "it has no gold"),
        ({"query": "q", "choices": ["a"], "gold": 0}, "choices has 1 entries"),
        ({"query": "q", "choices": "ab", "gold": 0}, "choices is a text, and a list of 2 to 26 texts is wanted"),
        ({"query": "q", "choices": ["a", None], "gold": 0}, "choices holds null"),
        ({"query": ["q"], "choices": ["a", "b"], "gold": 0}, "query is a list, not a text"),
        ({"choices": ["a", "b"], "gold": 0}, "it has no query"),
        ([1], "it is a list, not an object"),
    ],
    "winograd": [
        ({"context_options": ["a"], "continuation": "b", "gold": 0}, "context_options has 1 entries"),
        ({"context_options": ["a", "b"], "continuation": None, "gold": 0}, "continuation is null"),
        ({"context_options": ["a", "b"], "continuation": "c", "gold": 3}, "gold is 3"),
    ],
    "jeopardy": [
        ({"context": "a"}, "it has no continuation"),
        ({"context": 3, "continuation": "b"}, "context is a number"),
    ],
}


@pytest.mark.parametrize(
    ("label", "row", "said"), [(label, row, said) for label, bad in BAD_ROWS.items() for row, said in bad]
)
def test_the_first_bad_row_is_named(folder: Path, label: str, row: Any, said: str) -> None:
    good = [row_of(label, i) for i in range(24)]
    write_rows(folder, label, [*good[:6], row, *good[6:], row])
    with pytest.raises(DataError, match=rf"^eval_data/made_up/{label}\.jsonl, line 7: ") as e:
        rows(folder, label)
    assert said in str(e.value)


def test_a_line_that_is_no_json(folder: Path) -> None:
    path = folder / "eval_data/made_up/copa.jsonl"
    path.write_text(path.read_text() + '{"query": ')
    with pytest.raises(DataError, match=r"copa\.jsonl, line 25: it is not valid JSON"):
        rows(folder, "copa")


def test_too_few_rows_for_the_examples(folder: Path) -> None:
    write_rows(folder, "jeopardy", [row_of("jeopardy", i) for i in range(10)])
    with pytest.raises(DataError, match="10 rows, too few for a question with 10 examples"):
        rows(folder, "jeopardy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "mmlu"}, "'mmlu' is none of the tasks of CORE"),
        ({"label": "copa"}, "copa twice"),
        ({"label": None}, "task 1"),
        ({"icl_task_type": "generation"}, "icl_task_type is none of multiple_choice, schema, language_modeling"),
        ({"num_fewshot": []}, "num_fewshot"),
        ({"num_fewshot": [-1]}, "num_fewshot"),
        ({"num_fewshot": ["1"]}, "num_fewshot"),
        ({"num_fewshot": None}, "num_fewshot"),
        ({"continuation_delimiter": 3}, "continuation_delimiter is a number"),
        ({"dataset_uri": "../../etc/passwd.jsonl"}, "dataset_uri"),
        ({"dataset_uri": "/etc/passwd.jsonl"}, "dataset_uri"),
        ({"dataset_uri": "a\\..\\b.jsonl"}, "dataset_uri"),
        ({"dataset_uri": "made_up/jeopardy.txt"}, "dataset_uri"),
        ({"dataset_uri": None}, "dataset_uri"),
    ],
)
def test_a_list_of_tasks_that_cannot_be_used(folder: Path, changes: dict[str, Any], said: str) -> None:
    change_tasks(folder, **changes)
    with pytest.raises(DataError) as e:
        Bundle(folder)
    assert said in str(e.value)


@pytest.mark.parametrize("text", ["[]", "icl_tasks: 3", "icl_tasks: [3]", "{", "a: &a [*a]"])
def test_a_core_yaml_that_is_something_else(folder: Path, text: str) -> None:
    (folder / "core.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"core\.yaml|repeats"):
        Bundle(folder)


@pytest.mark.parametrize("name", ["core.yaml", "eval_meta_data.csv"])
def test_a_folder_that_is_no_bundle(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"no {name}, so this is no evaluation bundle"):
        Bundle(folder)


def test_a_bundle_without_any_data(folder: Path) -> None:
    for label in TASKS:
        (folder / f"eval_data/made_up/{label}.jsonl").unlink()
    with pytest.raises(DataError, match="the bundle is incomplete"):
        Bundle(folder)


def test_metadata_that_cannot_be_read(folder: Path) -> None:
    (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\ncopa,half\n")
    with pytest.raises(DataError, match="line 2: the Random baseline of copa is no number"):
        Bundle(folder)
    (folder / "eval_meta_data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column Eval Task"):
        Bundle(folder)


# --- archives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "eval_bundle/", "other/"])
def test_an_archive_is_unpacked(folder: Path, tmp_path: Path, top: str) -> None:
    made = zipped(folder, tmp_path / "b.zip", top)
    with zipfile.ZipFile(made, "a") as out:
        out.writestr(f"{top}README.md", "not a part of it")
    unpack(made, tmp_path / "out")
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {"core.yaml", "eval_meta_data.csv", *(f"eval_data/made_up/{label}.jsonl" for label in TASKS)}
    assert counts(Bundle(tmp_path / "out")) == dict.fromkeys(TASKS, 24)


def refused(made: Path, tmp_path: Path, said: str) -> None:
    """Nothing is written, in the folder or beside it."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=said):
        unpack(made, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    ["../evil.jsonl", "eval_bundle/../../evil.jsonl", "/tmp/evil.jsonl", "eval_data\\..\\..\\x", "C:/x", "e" * 300],
)
def test_names_that_lead_out_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made, "a") as out:
        out.writestr(zipfile.ZipInfo(name), "x")
    refused(made, tmp_path, "leads out of its folder")


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    link = zipfile.ZipInfo("eval_bundle/eval_data/link.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(made, "a") as out:
        out.writestr(link, "/etc/passwd")
    refused(made, tmp_path, "has a link")


def test_a_bomb_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("eval_bundle/eval_data/zeros.jsonl", bytes(20 << 20))
    monkeypatch.setattr(archive, "MAX_BYTES", 16 << 20)
    refused(made, tmp_path, r"unpacks to 0\.0 GB")
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 30)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    refused(made, tmp_path, "11 members")


def test_a_member_with_more_bytes_than_it_says(folder: Path, tmp_path: Path) -> None:
    """The size in the table of contents is what the bound is checked with."""
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("eval_bundle/eval_data/zeros.jsonl", bytes(5 << 20))
    data = bytearray(made.read_bytes())
    real = struct.pack("<I", 5 << 20)
    for _ in range(2):
        at = data.rindex(real)
        data[at : at + 4] = struct.pack("<I", 100)
    made.write_bytes(bytes(data))
    with pytest.raises(DataError):
        unpack(made, tmp_path / "out")
    assert not (tmp_path / "out/eval_data/zeros.jsonl").exists() or (
        (tmp_path / "out/eval_data/zeros.jsonl").stat().st_size <= 101
    )


def test_what_is_no_zip_file_or_damaged(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("not a zip file")
    refused(tmp_path / "text.zip", tmp_path, "damaged, or not a zip file")
    made = zipped(folder, tmp_path / "b.zip")
    data = bytearray(made.read_bytes())
    data[len(data) // 3] ^= 0xFF
    made.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"damaged|members of one name|leads out"):
        unpack(made, tmp_path / "out")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as out:
        out.writestr("a/b/core.yaml", "x")
    refused(tmp_path / "b.zip", tmp_path, "it has 0 files core.yaml")


def test_encrypted_members_are_refused(folder: Path, tmp_path: Path) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made) as opened:
        offset = opened.start_dir
    data = bytearray(made.read_bytes())
    data[offset + 8] |= 1  # the first entry's flags in the table of contents
    made.write_bytes(bytes(data))
    refused(made, tmp_path, "encrypted")


def test_two_members_of_one_name(folder: Path, tmp_path: Path) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made, "a") as out, pytest.warns(UserWarning, match="Duplicate"):
        out.writestr("eval_bundle/eval_meta_data.csv", "x")
    refused(made, tmp_path, "two members of one name")


def test_a_file_that_is_a_folder_too(folder: Path, tmp_path: Path) -> None:
    made = zipped(folder, tmp_path / "b.zip")
    with zipfile.ZipFile(made, "a") as out:
        out.writestr("eval_bundle/eval_data/made_up/copa.jsonl/x.jsonl", "x")
    refused(made, tmp_path, "two members of one name")
