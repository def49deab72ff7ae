"""JSON output, for machines."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backlog.backlog import Backlog, LeftAlone, Status, Waiting
from ..events import Event
from ..messages.cloudevents import attributes_of, split_headers
from ..stores.spool.admin.adopting import Adopted
from ..stores.spool.admin.draining import Drained
from ..stores.spool.admin.reading import Found, Report, Unreadable, total
from ..stores.spool.folder import destination_of
from . import formatting

if TYPE_CHECKING:
    from ..stores.outbox.admin import Counts


def status(app: str, backlog: Backlog, status: Status) -> dict[str, Any]:
    """Each file of the spool, with the totals, and the outbox."""
    folder, outbox = backlog.folder, backlog.outbox
    return {
        "app": app,
        "folder": folder and str(folder.path),
        "destination": folder and list(folder.destination.addresses),
        "files": [_file(file) for file in status.files],
        "others": [_file(file) for file in status.others],
        "other_apps": {name: _content(left) for name, left in status.apps.items()},
        "quarantined": [str(file.path) for file in status.unread],
        "total": total(status.files)._asdict(),
        "outbox": outbox
        and {
            "table": outbox.name,
            "rows": _rows(status.rows),
            "needs_relay": outbox.needs_relay,
            "active_relay": status.leader,
            "strays": {name: _rows(rows) for name, rows in status.strays.items()},
        },
        "unreadable": unreadable(status.problems),
    }


def _rows(counts: Counts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    numbers = counts._asdict()
    oldest, size = numbers.pop("oldest"), numbers.pop("bytes")
    age = oldest and round(formatting.age_of(oldest), 3)
    return numbers | {"event_bytes": size, "oldest_age": age}


def unreadable(problems: Iterable[Unreadable]) -> list[dict[str, str]]:
    """What a command could not read, deliver or change."""
    return [{"path": str(p.path), "reason": p.reason} for p in problems]


def _content(files: Sequence[Report]) -> dict[str, int | None]:
    waiting, _, dead, *_ = total(files)
    is_unreadable = any(file.problem for file in files)
    return {"files": len(files), "events": None if is_unreadable else waiting + dead}


def _file(file: Report) -> dict[str, Any]:
    is_unreadable = file.problem is not None
    return {
        "path": str(file.path),
        "destination": _destination(file.path),
        "process": file.owner.process or None,
        "alive": file.owner.alive,
        "waiting": None if is_unreadable else file.waiting,
        "delayed": None if is_unreadable else file.delayed,
        "dead": None if is_unreadable else file.dead,
        "oldest_age": file.oldest_age,
        "bytes": file.bytes,
        "problem": str(file.problem or ""),
    }


def _destination(path: Path) -> list[str] | None:
    destination = destination_of(path)
    return None if destination is None else list(destination.addresses)


def event(found: Waiting) -> dict[str, Any]:
    """One event, as listed."""
    event = found.event
    owner = found.owner if isinstance(found, Found) else None
    return {
        "id": event.id,
        "state": found.state,
        "queue": event.target_queue,
        "exchange": event.exchange,
        "enqueued_at": event.enqueued_at.isoformat(),
        "age": round(formatting.age_of(event.enqueued_at), 3),
        "reason": found.reason,
        "attempts": found.attempts,
        "last_try": _last_try(found),
        "next_try": None if found.next_try is None else round(found.next_try, 3),
        "expires_in": None if event.time_left is None else round(event.time_left, 3),
        "body_bytes": len(event.body),
        "store": "outbox" if owner is None else "spool",
        "process": (owner and owner.process) or None,
        "alive": owner and owner.alive,
    }


def _last_try(found: Waiting) -> str | None:
    if found.last_try is None:
        return None
    return datetime.fromtimestamp(found.last_try, timezone.utc).isoformat()


def details(found: Waiting, *, payload: bool) -> dict[str, Any]:
    """Everything known about one event."""
    stored = found.event
    shown = event(found) | {
        "path": found.place,
        "properties": stored.properties.as_dict(),
        "attributes": attributes_of(stored),
        "headers": split_headers(stored.headers)[1],
    }
    if payload:
        shown["payload"] = _payload(stored)
    return shown


def _payload(event: Event) -> Any:
    """The payload; what is not JSON in base64."""
    payload = event.payload
    if not isinstance(payload, bytes):
        return payload
    return {"base64": base64.b64encode(payload).decode()}


def drained(drained: Drained, left_alone: LeftAlone) -> dict[str, Any]:
    """What a flush delivered and what it left."""
    return vars(drained) | {
        "problems": [asdict(problem) for problem in drained.problems],
        "refused": [
            {**target._asdict(), "reason": reason}
            for target, reason in drained.refused.items()
        ],
        "unreadable": unreadable(drained.unreadable),
        "left_alone": left_alone.places,
    }


def adopted(
    adopted: Sequence[Adopted], rows: int, problems: Sequence[Unreadable]
) -> dict[str, Any]:
    """The result for each file to be adopted, and for the *rows* of the outbox."""
    return {
        "adopted": sum(file.events for file in adopted) + rows,
        "rows": rows,
        "files": [
            {
                "path": str(file.path),
                "events": file.events,
                "quarantined": file.quarantined and str(file.quarantined),
            }
            for file in adopted
        ],
        "unreadable": unreadable(problems),
    }


def write(value: Any) -> None:
    """Write one document."""
    # Headers may contain types that JSON lacks: bytes, times, decimals.
    click.echo(json.dumps(value, indent=2, default=str))


def write_lines(values: Iterable[Any]) -> None:
    """Write one document per line."""
    for value in values:
        click.echo(json.dumps(value))
