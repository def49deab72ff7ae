"""The architecture page names what the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from flask_eventcollector import Config
from tests.docs.reader import MODULES, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "flask_eventcollector"
CODED = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
#: What the code has no word for: names of others, and our pages.
FOREIGN = {
    "BlockingConnection",
    "POST",
    "__del__",
    "after_soft_rollback",
    "flock",
    "md",
    "toctree",
}
#: Keys of settings, and the name of a room.
COMPOSED = {field.name.upper() for field in fields(Config)} | {"pytest_plugin"}


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def known_words() -> set[str]:
    """All words in the package, and the names of the tests' files."""
    names = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")]
    text = " ".join([*names, *(path.read_text() for path in MODULES)])
    return set(re.findall(r"\w+", text))


def locks() -> Iterator[str]:
    """Each lock that an object of the package has, as Class._name."""
    for path in MODULES:
        for kind in ast.walk(ast.parse(path.read_text())):
            if isinstance(kind, ast.ClassDef):
                yield from _locks_of(kind)


def _locks_of(kind: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(kind):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = ast.unparse(node.value.func)
            name = ast.unparse(node.targets[0]).removeprefix("self.")
            if made in ("threading.Lock", "threading.RLock"):
                yield f"{kind.name}.{name}"


def test_every_word_in_code_exists() -> None:
    words = known_words() | FOREIGN | COMPOSED
    used = {word for code in CODED for word in re.findall(r"[A-Za-z_]\w+", code)}

    assert used - words == set()


@pytest.mark.parametrize("fate", ["confirmed", "retried from the spool"])
def test_the_path_of_an_event_leads_through_modules(fate: str) -> None:
    heading = f"The path of an event that is {fate}"
    rows = re.findall(r"^\| \d+.*$", section(heading), re.M)
    places = [
        place for row in rows for place in re.findall(r"`([^`]+)`", row.split("|")[2])
    ]
    modules = {str(p.relative_to(PACKAGE).with_suffix("")) for p in MODULES}

    assert len(places) > 8
    for place in places:
        assert any(
            f"/{module}".endswith(f"/{place}") or module.startswith(f"{place}/")
            for module in modules
        ), place


def test_the_table_of_locks_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+\.\w+)`", section("Locks"), re.M)

    assert sorted(listed) == sorted(locks())
