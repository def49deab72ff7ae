"""``flask events``, of which nothing is loaded before it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import Flask
from flask.cli import AppGroup

from ..errors import ConfigurationError

NAME = "events"

_HELP = """Look after the events that wait on disk.

They are in the spool's folder (EVENTCOLLECTOR_BACKLOG = "spool"), in one file for each
process. The file of a process that is alive is only read here: a change is asked of
that process.
"""

_EXIT_CODES = """\b
Exit codes:
  0  done; nothing waits
  1  it failed
  2  the command was not understood
  3  something waits, is dead, or did not follow
  4  the backlog is in memory, which no other process can see
"""


class _Commands(AppGroup):
    """Loads its commands when one is called, so a worker never does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from .commands import COMMANDS

        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from .commands import COMMANDS

        return COMMANDS.get(cmd_name)


#: ``flask events``.
commands = _Commands(NAME, help=_HELP, epilog=_EXIT_CODES)


def add_commands(app: Flask) -> None:
    """Add ``flask events``, unless the app has commands of that name."""
    if NAME not in app.cli.commands:
        app.cli.add_command(commands)


class _ShownByClick(ConfigurationError, click.ClickException):
    """A wrong setting; a command shows its message alone, and exits with 1."""


@contextmanager
def errors_shown() -> Iterator[None]:
    """Let a person who has called ``flask …`` read one line instead of a traceback.

    It is a common mistake to call it as another user than the app's.
    """
    try:
        yield
    except ConfigurationError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise _ShownByClick(str(error)) from None
