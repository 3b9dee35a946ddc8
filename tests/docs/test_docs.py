"""What the README and its picture say must be true of the code beside them."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from aquarat_core.config import load_profile, profile_names
from aquarat_core.config.accounting import parameters
from aquarat_core.stages.registry import STAGES

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


def test_generated_parts_are_current(root: Path, readme: str) -> None:
    command = [sys.executable, root / "docs" / "refresh.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(root)})
    assert (done.returncode, done.stderr) == (0, "")
    for name in profile_names():
        profile = load_profile(name)
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {parameters(profile.base_checkpoint.model, profile.tokenizer.vocab_size):,} |" in row


def test_every_field_of_a_profile_has_a_meaning(root: Path) -> None:
    rows = [line for line in (root / "docs" / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_check_finds_what_is_behind(root: Path, readme: str, tmp_path: Path) -> None:
    old = tmp_path / "docs"
    old.mkdir()
    script, reference = old / "refresh.py", old / "configuration.md"
    script.write_bytes((root / "docs" / "refresh.py").read_bytes())
    reference.write_text((root / "docs" / "configuration.md").read_text().replace("`group_size`", "`group`"))
    (old / "cli.md").write_text((root / "docs" / "cli.md").read_text().replace("`aquarat cancel`", "`aquarat stop`"))
    recipe = old / "recipe.md"
    recipe.write_text((root / "docs" / "recipe.md").read_text().replace("| `d8` | 0.5", "| `d8` | 0.7"))
    copy = tmp_path / "README.md"
    copy.write_text(readme.replace("| `demo` |", "| `older` |"))

    def refresh(*arguments: str) -> int:
        return subprocess.run([sys.executable, script, *arguments], env={"PYTHONPATH": str(root)}).returncode

    assert refresh("--check") == 1
    assert refresh() == 0
    assert refresh("--check") == 0
    assert "#### `aquarat cancel`\n" in (old / "cli.md").read_text()
    assert "| `demo` |" in copy.read_text() and "`older`" not in copy.read_text()
    assert "| `d8` | 0.5 billion |" in recipe.read_text()
    assert "| `group_size` | integer ≥ 2, ≤ 256 | `16` | Completions sampled for each" in reference.read_text()


def test_the_picture_is_the_asset_graph(root: Path) -> None:
    picture = ET.parse(root / "docs" / "assets.svg").getroot()
    groups = {g.get("id"): g for g in picture.iter(f"{SVG}g")}
    assert {text.text for text in groups["assets"].iter(f"{SVG}text")} == set(STAGES)
    drawn = [tuple(path.attrib["data-edge"].split()) for path in groups["edges"].iter(f"{SVG}path")]
    with_core = load_profile("demo", {"eval_report": {"core": {}}})
    needed = {name: stage.needs(stage.config(with_core)) for name, stage in STAGES.items()}
    assert sorted(drawn) == sorted((parent, name) for name, parents in needed.items() for parent in parents)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_names_lead_somewhere(root: Path, page: Path) -> None:
    text = page.read_text()
    for link, _, anchor in (target.partition("#") for target in re.findall(r"\]\(([^)]+)\)", text)):
        if link.startswith("https://"):
            continue
        linked = page.parent / link if link else page
        assert linked.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in {_slug(line) for line in linked.read_text().splitlines() if line.startswith("#")}, anchor
    known = (root / ".env.example").read_text()
    for variable in set(re.findall(r"\b(?:AQUARAT|HF|WANDB)_[A-Z_]+\b", text)):
        assert f"#{variable}=" in known, f"{variable} is not in .env.example"
    for profile in re.findall(r"AQUARAT_PROFILE=(\w+) ", text):
        assert profile in profile_names()


def _slug(heading: str) -> str:
    """The anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_the_readme_s_profiles_can_be_used(readme: str, tmp_path: Path) -> None:
    examples = re.findall(r"((?:^    .+\n)+)", readme, re.MULTILINE)
    profiles = [text for text in examples if "extends:" in text]
    assert len(profiles) == 2
    for text in profiles:
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        assert load_profile(str(path)).rl_checkpoint != load_profile("demo").rl_checkpoint
