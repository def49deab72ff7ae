"""The README's links work on a package index, where relative ones don't."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = "https://github.com/flask-eventcollector/flask-eventcollector/blob/main/"
LINKS = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())


def anchors(page: Path) -> set[str]:
    """The names that GitHub and the site give to the headings of *page*."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("link", LINKS)
def test_each_link_is_absolute_and_leads_somewhere(link: str) -> None:
    assert link.startswith("https://")
    if link.startswith(BASE):
        path, _, heading = link.removeprefix(BASE).partition("#")
        assert (ROOT / path).is_file()
        assert not heading or heading in anchors(ROOT / path)


@pytest.mark.parametrize("page", [*(ROOT / "docs").rglob("*.md")], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link
