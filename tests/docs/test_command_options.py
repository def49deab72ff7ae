"""Each option of ``flask events`` is in the page that is about its command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from flask_eventcollector.cli import group
from tests.docs.reader import ROOT

#: Where a command has its options, if not in docs/command-line.md.
PAGES = {"top": "monitoring.md", "tail": "monitoring.md", "verify": "verify.md"}


def options(command: click.Command, name: str = "") -> Iterator[tuple[str, str]]:
    """The names of all commands, each with the names of its options."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from options(found, f"{name} {part}".strip())
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from ((name, option) for option in parameter.opts)


@pytest.mark.parametrize(("command", "option"), [*options(group.commands)])
def test_it_is_described(command: str, option: str) -> None:
    page = ROOT / "docs" / PAGES.get(command, "command-line.md")
    words = page.read_text(encoding="utf-8").replace("`", " ").split()
    assert option in [word.strip(".,:;()") for word in words]
