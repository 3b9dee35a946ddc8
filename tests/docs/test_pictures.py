"""The pictures and figures of the demo: how they are made, and that those in the pages belong together."""

from __future__ import annotations

import html
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.errors import DataError, UserError
from docs import pictures
from tests.evaluation.conftest import Chain

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = "# A page\n\n<!-- measured: demo -->\nold\n<!-- end -->\n\nThe rest.\n"
ACCURACIES = {"base": 0.0, "mid": 0.27, "sft": 0.33, "rl": 0.6}
IMAGE = re.compile(r"!\[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]\(([^)]*demo-\w+\.svg)\)")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """All four checkpoints and their reports; tests only read them."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        yield made_chain(folder)


def made_chain(folder: Path) -> Chain:
    made = Chain(ArtifactStore.open(f"file://{folder}/store"), folder / "scratch")
    before = None
    for stage, accuracy in ACCURACIES.items():
        made.train(stage, before)
        parse_rate = 1.0 if accuracy else 0.0
        made.evaluate(stage, made.answers(made.asked, accuracy, parse_rate, seed=len(stage)), before)
        before = stage
    return made


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "docs").mkdir(parents=True)
    for page in ("README.md", "docs/index.md"):
        (folder / page).write_text(EMPTY)
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_svg(path: Path) -> ET.Element:
    """A small picture that loads nothing, runs nothing and is drawn for light and dark pages."""
    content = path.read_text()
    picture = ET.fromstring(content)
    assert picture.tag == f"{SVG}svg" and len(content) < 60_000
    assert not {"script", "foreignObject", "image", "a"} & {node.tag.rpartition("}")[2] for node in picture.iter()}
    for node in picture.iter():
        for name, value in node.attrib.items():
            assert not name.rpartition("}")[2].startswith("on")
            assert not name.endswith("href") or value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", content))
    assert "@import" not in content and "prefers-color-scheme: dark" in content
    assert set(re.findall(r"var\((--[\w-]+)\)", content)) <= set(re.findall(r"(--[\w-]+): #", content))
    return picture


@pytest.mark.slow
def test_one_store_gives_the_same_bytes_twice(chain: Chain, pages: Path) -> None:
    pictures.write(pictures.read(chain.store), pages)
    first = written(pages)
    assert set(first) == {"README.md", "docs/index.md", *(f"docs/demo-{x}.svg" for x in ("accuracy", "loss", "rl"))}
    pictures.write(pictures.read(chain.store), pages)
    assert written(pages) == first
    for path in (pages / "docs").glob("*.svg"):
        check_svg(path)


@pytest.mark.slow
def test_pages_and_pictures_show_the_reports_figures(chain: Chain, pages: Path) -> None:
    demo = pictures.read(chain.store)
    pictures.write(demo, pages)
    readme = (pages / "README.md").read_text()
    assert readme.startswith("# A page\n\n<!-- measured: demo -->\n\n![Accuracy on 400 held-out questions: base 0.0 %")
    assert readme.endswith("\n\n<!-- end -->\n\nThe rest.\n") and "\nold\n" not in readme
    drawn = "".join(text.text or "" for text in check_svg(pages / "docs/demo-accuracy.svg").iter(f"{SVG}text"))
    for stage, name in pictures.NAMES.items():
        summary = demo.rows[stage]["summary"]
        share = f"{100 * summary['correct'] / 400:.1f} %"
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {name}: ")]
        assert f"| {share} [{100 * summary['accuracy_lo']:.1f}, {100 * summary['accuracy_hi']:.1f}] |" in row
        assert f"{name} {share}" in drawn
    assert "base  no answer" in readme and re.search(r"^    RL    right", readme, re.MULTILINE)
    assert re.search(r"^    SFT   wrong", readme, re.MULTILINE) and re.search(r"^    mid   wrong", readme, re.MULTILINE)
    both = demo.rl_against_sft
    assert (
        f"RL answers {both['only_child']} questions correctly that SFT gets wrong, and SFT {both['only_parent']}"
        in readme
    )


@pytest.mark.slow
def test_the_loss_is_drawn_over_all_tokens(chain: Chain) -> None:
    _, loss, rl = pictures.pictures(pictures.read(chain.store))
    assert loss.alt.startswith("Training loss in nats per token over 0.74 million tokens, ")  # 3 x 245,760
    assert re.search(r"last tenth: base 1\.\d\d, mid 1\.\d\d, SFT 1\.\d\d\.$", loss.alt)
    assert "held-out questions from 31.0 % to 62.7 %" in rl.alt  # of the last step with an evaluation, 100 of 120


@pytest.mark.slow
def test_a_chain_in_pieces_is_not_drawn(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"file://{shutil.copytree(chain.scratch.parent / 'store', tmp_path / 'store')}"
    again = Chain(ArtifactStore.open(uri), tmp_path / "scratch")
    again.train("mid", weights="other")
    with pytest.raises(DataError, match="materialize mid_eval_report again"):
        pictures.read(again.store)
    assert pictures.main(["--store", uri]) == 2
    assert "mid_eval_report" in capsys.readouterr().err
    with pytest.raises(UserError, match="base_checkpoint"):
        pictures.read(ArtifactStore.open(f"file://{tmp_path}/empty"))


@pytest.mark.slow
def test_a_page_without_its_markers_changes_nothing(chain: Chain, pages: Path) -> None:
    (pages / "docs/index.md").write_text("# No markers\n")
    before = written(pages)
    with pytest.raises(DataError, match=r"index\.md has 0 parts"):
        pictures.write(pictures.read(chain.store), pages)
    assert written(pages) == before


def test_the_pages_of_this_checkout_show_one_run(root: Path) -> None:
    parts: dict[str, str] = {}
    for page in ("README.md", "docs/index.md"):
        (part,) = pictures.PART.finditer((root / page).read_text())
        parts[page] = part[0]
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in parts.values()]
    assert tables[0] == tables[1] and len(tables[0]) == 8
    accuracies = re.findall(r"[\d.]+ % \[[\d.]+, [\d.]+\]", "\n".join(tables[0]))
    assert len(accuracies) == 4
    for page, part in parts.items():
        shown = IMAGE.findall(part)
        assert [Path(name).name for _, name in shown] == ["demo-accuracy.svg", "demo-loss.svg", "demo-rl.svg"]
        for alt, name in shown:
            title = check_svg((root / page).parent / name).find(f"{SVG}title")
            assert title is not None and html.unescape(title.text or "") == alt
        assert re.findall(r"[\d.]+ % \[[\d.]+, [\d.]+\]", shown[0][0]) == accuracies
        assert re.search(r"Measured \d{4}-\d\d-\d\d on .*,\sprofile\s`demo`", part)
