"""How a command ends: the exit codes, and failures with their cure."""

from __future__ import annotations

import enum
from typing import Any, NoReturn

import click

from . import formatting


class Exit(enum.IntEnum):
    """What the exit code says, beside click's own: 0 done, 2 not understood."""

    FAILED = 1
    #: Something waits, is dead, or did not follow.
    WAITS = 3
    #: The backlog is in memory.
    MEMORY = 4


class Failure(click.ClickException):
    """What went wrong, and the cure."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(formatting.plain(message))
        self.code = code

    def show(self, file: Any = None) -> None:
        super().show(file)
        # click has one code for all of its class.
        end(self.code)


def end(code: Exit) -> NoReturn:
    """End the command with *code*."""
    raise SystemExit(int(code))
