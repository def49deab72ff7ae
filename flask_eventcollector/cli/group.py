"""The ``flask events`` group, which loads its commands lazily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from ..errors import ConfigurationError
from .output import output_errors_shown

NAME = "events"

_HELP = """Inspect and manage the events that wait on disk or in the outbox.

They are in the spool's folder (EVENTCOLLECTOR_BACKLOG = "spool"), in one file for each
process. These commands only read the file of a running process, and ask that process to
make changes. Events of transactions are in the outbox's table, if the app has one.
'doctor', 'topology', 'purge-seen' and 'verify' are about other things: how the app is
set up, the broker's exchanges and queues, the messages that consumers of this app have
handled, and an app of its own.
"""

_EXIT_CODES = """\b
Exit codes:
  0  success; nothing is left
  1  failure; nothing was done, unless only the output can't be written
  2  usage error
  3  something is left: events are waiting or dead, a file or the outbox
     can't be read or changed, a process did not respond, the broker differs
     from the settings, or 'doctor' has found a problem
  4  the backlog is in memory, which no other process can see, and there is no
     outbox
  5  'verify': a promise was broken
"""


class _Commands(AppGroup):
    """Loads its commands when one is called, so that workers never load them."""

    def invoke(self, ctx: click.Context) -> Any:
        with output_errors_shown():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        from .commands import COMMANDS

        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from .commands import COMMANDS

        return COMMANDS.get(cmd_name)


#: ``flask events``.
commands = _Commands(NAME, help=_HELP, epilog=_EXIT_CODES)


def add_commands(app: Flask) -> None:
    """Add ``flask events``, unless the app has a command of that name."""
    if NAME not in app.cli.commands:
        app.cli.add_command(commands)


class _ShownByClick(ConfigurationError, click.ClickException):
    """An invalid setting. A command shows only the message, and exits with 1."""


@contextmanager
def errors_shown() -> Iterator[None]:
    """In a ``flask …`` command, show an invalid setting without a traceback.

    A common cause is running the command as a user other than the app's.
    """
    try:
        yield
    except ConfigurationError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise _ShownByClick(str(error)) from None
