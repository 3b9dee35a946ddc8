"""The pictures of the tour: all there, all shown, described in words, and small."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from docs import tour_pictures

IMAGE = re.compile(r"!\[([^\]]+)\]\((tour/[\w.]+)\)")


def test_every_picture_is_shown_and_small(root: Path) -> None:
    page = (root / "docs/tour.md").read_text()
    shown = {name: alt for alt, name in IMAGE.findall(page)}
    taken = {f"tour/{picture.name}.webp" for picture in tour_pictures.pictures("")}
    there = {str(path.relative_to(root / "docs")) for path in (root / "docs/tour").iterdir()}
    assert set(shown) == taken == there and page.count("](tour/") == len(shown)
    assert all(len(alt) > 40 for alt in shown.values())
    sizes = [(root / "docs" / name).stat().st_size for name in there]
    assert max(sizes) <= tour_pictures.MOST_BYTES and sum(sizes) < 500_000
    for name in there:
        with Image.open(root / "docs" / name) as picture:
            assert picture.width == tour_pictures.WIDTH and not picture.getexif()


def test_what_status_printed_is_in_its_place(root: Path) -> None:
    (part,) = tour_pictures.STATUS.finditer((root / "docs/tour.md").read_text())
    assert "\n    aquarat status\n" in part[0] and re.search(r"^    rl_checkpoint +", part[0], re.MULTILINE)
