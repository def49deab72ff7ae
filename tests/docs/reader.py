"""Collects all examples of pages and docstrings, with the test that runs each."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (
    *sorted(ROOT.glob("*.md")),
    ROOT / "example_app" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
#: The docstrings that the reference shows are among these.
MODULES = sorted((ROOT / "flask_eventcollector").rglob("*.py"))
#: A literal block after two colons.
LITERAL = re.compile(r"::\n\n((?: {4}.*\n|\n)+)")
FILE_NAME = re.compile(r"(?:#|//) (\S+\.\w+)\n")
NOTE = re.compile(r"<!-- (.*) -->\s*")

Test = TypeVar("Test", bound=Callable[..., Any])


class Example(NamedTuple):
    """One fenced block of a page, or a literal block of a docstring."""

    page: str
    line: int
    #: The heading above it, or the name of the documented object.
    heading: str
    language: str
    #: The comment right above it, which the reader of the page does not see.
    note: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file that its first line names; ``""``: it names none."""
        found = FILE_NAME.match(self.code)
        return found[1] if found else ""


def _read(path: Path) -> Iterator[Example]:
    page = str(path.relative_to(ROOT))
    heading = note = before = ""
    for token in MarkdownIt().parse(path.read_text()):
        if before == "heading_open":
            heading = token.content
        elif token.type == "html_block":
            found = NOTE.fullmatch(token.content)
            note = found[1] if found else ""
            continue
        elif _is_example(token):
            assert token.map is not None
            line = token.map[0] + 1
            yield Example(page, line, heading, token.info, note, token.content)
        note, before = "", token.type


def _is_example(token: Token) -> bool:
    # Indented code is an example without a language. Braces are a directive of Sphinx,
    # which runs when the site is built.
    return token.type == "code_block" or (
        token.type == "fence" and not token.info.startswith("{")
    )


def _read_docstrings(path: Path) -> Iterator[Example]:
    page = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = f"{ast.get_docstring(node) or ''}\n"
            name = getattr(node, "name", path.stem)
            for found in LITERAL.finditer(text):
                line = node.body[0].lineno + text.count("\n", 0, found.start(1))
                code = textwrap.dedent(found[1])
                yield Example(page, line, name, "python", "", code)


EXAMPLES = (
    *(example for path in PAGES for example in _read(path)),
    *(example for path in MODULES for example in _read_docstrings(path)),
)


def find(**about: str) -> list[Example]:
    """The examples with these fields, in order. At least one."""
    found = [
        example
        for example in EXAMPLES
        if all(getattr(example, name) == value for name, value in about.items())
    ]
    assert found, f"no example has {about}"
    return found


def find_one(**about: str) -> Example:
    """The only example with these fields."""
    (example,) = find(**about)
    return example


#: The tests that run an example.
runners: defaultdict[Example, list[str]] = defaultdict(list)


def runs(*examples: Example) -> Callable[[Test], Test]:
    """Note that a test runs these examples."""

    def note(test: Test) -> Test:
        for example in examples:
            runners[example].append(f"{test.__module__}.{test.__name__}")
        return test

    return note


def runs_each(examples: Sequence[Example]) -> Callable[[Test], Test]:
    """Run a test once for each of these, as its argument ``example``."""

    def note(test: Test) -> Test:
        each: Test = pytest.mark.parametrize("example", examples, ids=str)(test)
        return runs(*examples)(each)

    return note
