"""Spool files as dead processes leave them, and spools that adopt them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.stores.spool.adopter import PAGE, PAGE_BYTES
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import row_of
from flask_eventcollector.stores.spool.spool import Spool
from tests.parts import make_event

APP = "shop"
HERE = Destination(("amqp://rabbit:5672/shop",))
ELSEWHERE = Destination(("amqp://rabbit:5672/billing",))


def rows(
    payloads: Iterable[Any], *, first: int = 1, queue: str = "q", **more: Any
) -> list[tuple[Any, ...]]:
    """A row for each payload, which is also the event's id."""
    entries = [Entry(make_event(p, queue, id=str(p), **more)) for p in payloads]
    return [row_of(entry, first + place) for place, entry in enumerate(entries)]


def dead_rows(payloads: Iterable[Any]) -> list[tuple[Any, ...]]:
    """A row of a dead event for each payload, which is also the event's id."""
    found = []
    for number, payload in enumerate(payloads, 1000):
        entry = Entry(make_event(payload, "q", id=str(payload)))
        entry.state, entry.reason = State.DEAD, "no"
        found.append(row_of(entry, number))
    return found


def leave(
    folder: Path,
    payloads: Iterable[Any],
    queue: str = "q",
    *,
    destination: Destination | None = HERE,
    app: str = APP,
    **more: Any,
) -> Path:
    """A file with these events, as left by a killed process.

    Without a *destination*, of version 1 of its format.
    """
    spool = Folder(folder, app, destination or HERE)
    spool.make()
    claim = spool.claim_new()
    path = claim.path
    if destination is None:
        # Version 1 has no destination, neither in the file nor in its name.
        claim.remove()
        path = folder / path.name.replace(f"@{HERE.digest}@", "@")
    journal = Journal.create(path, str(destination or ""))
    journal.write(rows(payloads, queue=queue, **more))
    journal.close()
    if destination is not None:
        claim.release()
    return path


def spooling(
    folder: Path,
    *,
    patience: float = 0.25,
    page: int = PAGE,
    destination: Destination = HERE,
    **more: Any,
) -> Callable[[Ledger], Spool]:
    """Creates the spool of a delivery."""

    def spool(ledger: Ledger) -> Spool:
        return Spool(
            ledger,
            Folder(folder, APP, destination),
            patience=patience,
            page=(page, PAGE_BYTES),
            name="test",
            **more,
        )

    return spool


def stored(folder: Path) -> list[Any]:
    """The current events on disk in *folder*, as another process reads them."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from flask_eventcollector.stores.spool.journal import Journal\n"
        "from flask_eventcollector.stores.spool.rows import read_row\n"
        "found = []\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.spool')):\n"
        "    journal = Journal.open(path, read_only=True)\n"
        "    found += [read_row(r).event.payload for r in journal.scan(0, 1 << 62)]\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, timeout=60)
    found: list[Any] = json.loads(output.stdout)
    return found


def failing(error: Exception) -> Callable[..., Any]:
    """A function that raises *error*."""

    def fail(*args: Any, **more: Any) -> None:
        raise error

    return fail
