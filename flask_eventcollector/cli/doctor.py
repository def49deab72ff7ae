"""The command ``doctor``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import click
from flask.cli import with_appcontext

from ..doctor.case import Case
from ..doctor.checks import CHECKS
from ..doctor.examination import examine
from ..doctor.findings import Finding, Level, worst
from . import as_json, formatting, options
from .context import app_name, app_state
from .exit_codes import Exit, end
from .progress import progress

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
#: How wide the columns of the level and of the subject are.
_LEVEL, _ABOUT = 9, 10


@click.command("doctor")
@options.json
@with_appcontext
def doctor(for_machines: bool) -> None:
    """Examine the settings, the broker, the disk, the database and the host.

    One line for each finding: 'ok', 'warning' or 'problem', with what to do. Changes
    nothing, and needs neither spool nor outbox. Takes four minutes at most, since each
    check has a deadline. Exits with 3 if there is a problem; warnings alone don't
    count.
    """
    case = Case(app_state())
    with progress(len(CHECKS), "Examining") as on_progress:
        found = examine(case, CHECKS, on_progress)
    if for_machines:
        as_json.write(_as_json(found))
    else:
        _show(found)
    if worst(found) is Level.PROBLEM:
        end(Exit.WAITS)


def _as_json(found: Sequence[Finding]) -> dict[str, Any]:
    findings = [finding._asdict() | {"level": finding.level.value} for finding in found]
    level = worst(list(found))
    return {"app": app_name(), "status": level.value, "findings": findings}


def _show(found: Sequence[Finding]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for finding in found:
        click.echo("\n".join(_lines(finding, width)))
    click.echo(_sum(found))


def _lines(finding: Finding, width: int) -> list[str]:
    """One line, or on a terminal as many as it needs; *width* 0: no terminal."""
    text = formatting.printable(": ".join(filter(None, [finding.what, finding.cure])))
    about = finding.about.ljust(_ABOUT)
    level = click.style(finding.level.value.ljust(_LEVEL), _COLOURS[finding.level])
    if not width:
        return [f"{level}{about}{text}"]
    room = max(20, width - _LEVEL - _ABOUT)
    first, *rest = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    return [
        f"{level}{about}{first}",
        *(" " * (_LEVEL + _ABOUT) + line for line in rest),
    ]


def _sum(found: Sequence[Finding]) -> str:
    levels = [finding.level for finding in found]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    if not (problems or warnings):
        return "Everything that can be seen from here is in order."
    counts = (
        formatting.count(problems, "problem"),
        formatting.count(warnings, "warning"),
    )
    return f"{' and '.join(counts)}."
