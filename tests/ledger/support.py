"""What several modules of these tests use."""

from __future__ import annotations

from typing import Any

from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState
from tests.parts import Desk, make_event

AWAY = [BrokerState.DOWN, BrokerState.BLOCKED, BrokerState.CLOSED]

OVERFLOWS: dict[str, dict[str, Any]] = {
    "drop newest": {},
    "drop oldest": {"drop_oldest": True},
    "reject": {"reject": True},
}


def redirect(desk: Desk, letters: str, queue: str = "new") -> int:
    return desk.ledger.redirect([desk[letter].event.id for letter in letters], queue)


def hand_over_one(held: Ledger) -> None:
    entries: list[Entry] = []
    held.collect(entries, make_event("a"))
    held.hand_over(entries)
