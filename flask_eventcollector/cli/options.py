"""Options that several commands have."""

from __future__ import annotations

import click

from .values import seconds

json = click.option("--json", "for_machines", is_flag=True, help="Write JSON.")
yes = click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
queue = click.option(
    "--queue",
    metavar="GLOB",
    help="Only events for this queue, or this exchange/queue, as 'list' shows them, or"
    " for all that match, as in 'orders.*'.",
)
reason = click.option(
    "--reason",
    metavar="TEXT",
    help="Only events whose reason in 'list' has this text, or matches it as a GLOB.",
)
older_than = click.option(
    "--older-than",
    metavar="AGE",
    callback=seconds,
    help="Only events enqueued longer ago, for example 90s, 30min, 2h or 7d.",
)
