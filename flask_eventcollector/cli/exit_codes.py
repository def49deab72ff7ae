"""The exit codes of the commands."""

from __future__ import annotations

import enum
from typing import Any, NoReturn

import click

from . import formatting


class Exit(enum.IntEnum):
    """The exit codes, besides click's own: 0 for success, 2 for a usage error."""

    FAILED = 1
    #: Events are waiting or dead, or a process did not respond.
    WAITS = 3
    #: The backlog is in memory.
    MEMORY = 4


class Failure(click.ClickException):
    """An error, with its cure."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(formatting.printable(message))
        self.code = code

    def show(self, file: Any = None) -> None:
        super().show(file)
        # click supports only one exit code per exception class.
        end(self.code)


def end(code: Exit) -> NoReturn:
    """End the command with *code*."""
    raise SystemExit(int(code))
