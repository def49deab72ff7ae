"""The command ``flask events purge-seen``."""

from __future__ import annotations

from datetime import timedelta

import click
from flask.cli import with_appcontext

from ..errors import ConfigurationError
from . import as_json, formatting, options
from .context import app_state
from .exit_codes import Failure, check_answer, confirm
from .progress import progress
from .values import seconds


@click.command("purge-seen")
@click.option(
    "--older-than",
    metavar="AGE",
    default="14d",
    show_default=True,
    callback=seconds,
    help="Only messages handled longer ago, for example 36h or 30d.",
)
@options.yes
@options.json
@with_appcontext
def purge_seen(older_than: float, yes: bool, for_machines: bool) -> None:
    """Forget old messages that consumers have handled once.

    For events.once(): deletes their rows from the table of the inbox. AGE must be
    longer than any copy of a message may be late. Shows how many messages are meant,
    and asks. --json requires --yes.

    Exits with 1 if the database fails; the rows deleted by then stay deleted.
    """
    check_answer(yes, for_machines)
    deleted = _purge(timedelta(seconds=older_than), yes)
    if for_machines:
        as_json.write({"deleted": deleted})
    else:
        click.echo(f"Forgot {formatting.count(deleted, 'message')}.")


def _purge(age: timedelta, yes: bool) -> int:
    try:
        inbox = app_state().sessions.inbox()
    except ConfigurationError as error:
        raise Failure(str(error)) from None
    try:
        count = inbox.count(age)
        if count and not yes:
            shown = formatting.count(count, "handled message")
            ago = formatting.age(age.total_seconds())
            confirm(f"Forget {shown}, more than {ago} old?")
        with progress(count, "Deleting") as on_progress:
            return inbox.purge(age, on_progress)
    except inbox.FAILURES as error:
        raise Failure(str(error)) from error
