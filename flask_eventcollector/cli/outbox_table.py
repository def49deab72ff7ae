"""The commands of ``flask events outbox``."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from ..stores.spool.admin.reading import Unreadable
from . import as_json, formatting, options
from .context import outbox_rows
from .exit_codes import Exit, Failure, end


@click.group("outbox")
def outbox() -> None:
    """Check or write the definition of the outbox's tables."""


@outbox.command("check")
@options.json
@with_appcontext
def _check(for_machines: bool) -> None:
    """Compare the outbox's tables in the database with what is expected.

    Names each difference, with its cure. Changes nothing. Exits with 3 if there is any,
    and with 1 if the database can't be reached.
    """
    rows = outbox_rows()
    try:
        found = rows.differences()
    except Unreadable as error:
        raise Failure(f"Can't read {error}", unreadable=[error]) from error
    if for_machines:
        as_json.write({"table": rows.name, "differences": [d._asdict() for d in found]})
    else:
        for difference in found:
            click.echo(formatting.printable(str(difference)))
        if not found:
            click.echo(f"{formatting.printable(rows.name)} is as expected.")
    if found:
        end(Exit.WAITS)


@outbox.command("ddl")
@with_appcontext
def _ddl() -> None:
    """Write the statements that create the outbox's tables, for a migration.

    They are for the kind of database that the bound session uses, which need not be
    reachable.
    """
    try:
        statements = outbox_rows().ddl()
    except Unreadable as error:
        raise Failure(str(error)) from error
    for statement in statements:
        click.echo(f"{statement};\n")
