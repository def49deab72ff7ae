"""The pages build without a warning, and show everything that is public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flask_eventcollector
from flask_eventcollector import testing
from tests.browser import open_chromium

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow
pytest.importorskip("sphinx", reason="the dependency group 'docs' is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs"]
    built = subprocess.run(
        [*command, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").rglob("*.md")}
    built = {page.stem for page in site.rglob("*.html")}
    assert pages <= built


@pytest.mark.browser
def test_no_page_is_wider_than_a_phone(site: Path) -> None:
    with open_chromium() as browser:
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        wide = []
        for page in sorted((ROOT / "docs").rglob("*.md")):
            name = page.relative_to(ROOT / "docs").with_suffix(".html")
            phone.goto((site / name).as_uri())
            if phone.evaluate("document.documentElement.scrollWidth") > 390:
                wide.append(str(name))

    assert wide == []


@pytest.mark.parametrize("page", ["api", "settings", "signals", "errors", "testing"])
def test_a_reference_is_not_empty(site: Path, page: str) -> None:
    assert len((site / "reference" / f"{page}.html").read_text()) > 5000


@pytest.mark.parametrize("name", flask_eventcollector.__all__)
def test_every_public_name_is_in_the_reference(site: Path, name: str) -> None:
    reference = "".join(p.read_text() for p in (site / "reference").glob("*.html"))
    assert f".{name}" in reference


@pytest.mark.parametrize("name", testing.__all__)
def test_every_name_of_the_kit_is_in_the_reference(site: Path, name: str) -> None:
    reference = (site / "reference" / "testing.html").read_text()
    assert f"testing.{name}" in reference


def test_every_setting_is_in_the_reference(site: Path) -> None:
    reference = (site / "reference" / "settings.html").read_text()
    for name in flask_eventcollector.Config.__dataclass_fields__:
        assert name.upper().replace("BROKER_URLS", "BROKER_URL") in reference


def test_every_command_is_in_the_reference(site: Path) -> None:
    reference = (site / "reference" / "cli.html").read_text()
    for command in ("status", "list", "dead", "show", "flush", "retry", "purge"):
        assert f"flask-events-{command}" in reference
