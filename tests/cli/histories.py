"""What the tests of ``why``, ``tail`` and ``top`` use."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from click.testing import Result

from flask_eventcollector.monitoring.history.reader import History
from flask_eventcollector.monitoring.history.records import Line
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from tests.cli.support import runner
from tests.helpers import Shop, in_child, wait_until


def run(shop: Shop, *args: str) -> Result:
    return runner(shop).invoke(args=["events", *args])


def lines_of(shop: Shop, id: str) -> list[str]:
    folder = folder_of(shop)
    if not folder.exists():
        return []
    return [line.what for line in History(folder, "shop").of(id)]


def published(shop: Shop, payload: Any = 1, queue: str = "q") -> str:
    """Enqueue and publish an event; returns its id once that is written down."""
    event = shop.events.enqueue_event(payload, queue)
    shop.events.publish(0.2)
    wait_until(lambda: len(lines_of(shop, event.id)) >= 3, "it is written down")
    return event.id


def folder_of(shop: Shop) -> Path:
    return Path(shop.config["EVENTCOLLECTOR_HISTORY_DIR"])


def line(what: str, id: str, **more: object) -> Line:
    fields = {"at": time.time(), "pid": 4711, "what": what, "ids": [id], **more}
    return Line.from_json(json.dumps(fields))


def killed(folder: Path, *lines: Line) -> None:
    """A process that writes *lines* and its counts, and is killed."""

    def live() -> None:
        writer = HistoryWriter(folder, "shop")
        writer.begin()
        writer.write([*lines])
        writer.write_counts({})

    in_child(live)


def next_of(shop: Shop, id: str, code: int = 3) -> str:
    """What comes next, as ``why`` tells it."""
    result = run(shop, "why", id)
    assert result.exit_code == code, result.output
    *_, last = result.stdout.splitlines()
    return last.removeprefix("Next: ")
