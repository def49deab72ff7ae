"""What the tests of ``why``, ``tail`` and ``top`` use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import Result

from flask_eventcollector.monitoring.history_files import History
from tests.cli.support import runner
from tests.helpers import Shop, wait_until


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
