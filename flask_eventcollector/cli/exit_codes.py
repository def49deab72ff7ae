"""The exit codes of the commands."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from ..backlog.backlog import LeftAlone
from ..stores.spool.admin.reading import Unreadable
from . import as_json, as_text, formatting
from .output import discard_output

_CANT_READ = "Can't read"


class Exit(enum.IntEnum):
    """The exit codes, besides click's own: 0 for success, 2 for a usage error."""

    FAILED = 1
    #: Something is left: events are waiting or dead, or could not be read; or there is
    #: something to mend.
    WAITS = 3
    #: The backlog is in memory.
    MEMORY = 4
    #: A promise was broken.
    BROKEN = 5


class Failure(click.ClickException):
    """An error, with its cure.

    :param unreadable: what could not be read, for people and machines.
    """

    def __init__(
        self,
        message: str,
        code: Exit = Exit.FAILED,
        unreadable: Sequence[Unreadable] = (),
    ) -> None:
        super().__init__(formatting.printable(message))
        self.code = code
        self._unreadable = unreadable
        context = click.get_current_context(silent=True)
        self._for_machines = context is not None and bool(
            context.params.get("for_machines")
        )

    def show(self, file: Any = None) -> None:
        super().show(file)
        if self._unreadable and self._for_machines:
            try:
                as_json.write({"unreadable": as_json.unreadable(self._unreadable)})
            except OSError:
                # The error itself is told.
                discard_output()
        # click supports only one exit code per exception class.
        end(self.code)


def end(code: Exit) -> NoReturn:
    """End the command with *code*."""
    raise SystemExit(int(code))


def check_answer(is_given: bool, for_machines: bool) -> None:
    """Check a command that asks before it changes anything.

    :raises click.UsageError: a machine reads its output, so nobody can answer.
    """
    if for_machines and not is_given:
        raise click.UsageError("--json requires --yes, since it asks nobody.")


def confirm(question: str) -> None:
    """Ask, and go on only if the answer is yes.

    :raises Failure: it is no, or nobody can answer.
    """
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        agreed = False
    if not agreed:
        raise Failure("Not confirmed, so nothing was done: add --yes")


def finish(
    unreadable: Sequence[Unreadable],
    *,
    is_left: bool = False,
    lead: str = _CANT_READ,
    left_alone: LeftAlone | None = None,
) -> None:
    """End a command that has done what it could; returns if nothing is left.

    :param unreadable: what it could not read, deliver or change, told on stderr.
    :param is_left: whether anything else is left.
    :param lead: how each of these lines begins.
    :param left_alone: the events that no process will adopt, counted on stderr.
    """
    tell(unreadable, lead)
    if left_alone:
        click.echo(as_text.about_left_alone(left_alone), err=True)
    if unreadable or is_left or left_alone:
        end(Exit.WAITS)


def tell(unreadable: Sequence[Unreadable], lead: str = _CANT_READ) -> None:
    """Name on stderr what a command could not read, deliver or change."""
    for problem in unreadable:
        click.echo(f"{lead} {formatting.printable(str(problem))}", err=True)
