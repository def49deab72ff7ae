"""What machines read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..stores.spool.admin.draining import Drained
from ..stores.spool.admin.reading import Found, Report, total
from ..stores.spool.folder import Folder
from . import formatting


def status(
    app: str, folder: Folder, files: Sequence[Report], aside: Iterable[Path]
) -> dict[str, Any]:
    """Each file, and what they hold together."""
    return {
        "app": app,
        "folder": str(folder.path),
        "files": [_file(file) for file in files],
        "quarantined": [str(path) for path in aside],
        "total": total(files)._asdict(),
    }


def _file(file: Report) -> dict[str, Any]:
    unadopted = bool(file.problem)
    return {
        "path": str(file.path),
        "process": file.owner.process or None,
        "alive": file.owner.alive,
        "waiting": None if unadopted else file.waiting,
        "dead": None if unadopted else file.dead,
        "oldest_age": file.oldest_age,
        "bytes": file.bytes,
        "problem": file.problem,
    }


def event(found: Found) -> dict[str, Any]:
    """One event, as it is listed."""
    event = found.stored.event
    return {
        "id": event.id,
        "state": found.state,
        "queue": event.target_queue,
        "exchange": event.exchange,
        "enqueued_at": event.enqueued_at.isoformat(),
        "age": round(formatting.age_of(event.enqueued_at), 3),
        "reason": found.stored.dead,
        "body_bytes": len(event.body),
        "process": found.owner.process or None,
        "alive": found.owner.alive,
    }


def details(found: Found, *, payload: bool) -> dict[str, Any]:
    """All that is known of one event."""
    stored = found.stored.event
    about = event(found) | {"path": str(found.path), "headers": dict(stored.headers)}
    if payload:
        about["payload"] = stored.payload
    return about


def drained(drained: Drained) -> dict[str, Any]:
    """What a flush has delivered, and what is left."""
    return {key: value for key, value in vars(drained).items() if key != "reason"}


def write(value: Any) -> None:
    """Write one document."""
    # Headers hold what JSON doesn't: bytes, times, decimals.
    click.echo(json.dumps(value, indent=2, default=str))


def write_lines(values: Iterable[Any]) -> None:
    """Write one document a line."""
    for value in values:
        click.echo(json.dumps(value))
