"""What collectors hold, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_eventcollector.delivery.entries import Notice
from tests.parts import (
    Desk,
    abandon,
    kinds_and_letters,
    letters,
    make_event,
    notices_of,
)


def test_an_event_is_collected_first(desk: Desk) -> None:
    entries = desk.collect("a")
    assert letters(entries) == "a"
    assert desk.books() == {"collected": 1}


def test_discarded_events_are_counted_and_reported(desk: Desk) -> None:
    entries = desk.collect("ab")
    notices = notices_of(desk.ledger.discard, entries, "cleared")
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert {item.reason for item in notices} == {"cleared"}
    assert (entries, desk.books()) == ([], {"discarded": 2})


def test_discarding_again_discards_nothing(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.discard(entries, "cleared")
    assert notices_of(desk.ledger.discard, copy, "cleared") == []


def test_what_was_handed_over_is_not_discarded(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.hand_over(entries)
    assert notices_of(desk.ledger.discard, copy, "too late") == []
    assert desk.books() == {"retained": 1}


def test_what_an_abandoned_collector_held_is_discarded(desk: Desk) -> None:
    abandon(desk.ledger, desk.collect("ab"))
    notices = notices_of(desk.ledger.discard_abandoned)
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert notices_of(desk.ledger.discard_abandoned) == []


def test_all_that_no_collector_handed_over_can_be_discarded(desk: Desk) -> None:
    desk.hand_over("a")
    desk.collect("b")
    notices = notices_of(desk.ledger.discard_collected, "the end")
    assert kinds_and_letters(notices) == [("events_discarded", "b")]
    assert desk.books() == {"retained": 1, "discarded": 1}


def test_a_step_in_the_middle_of_another_reports_later_and_once(desk: Desk) -> None:
    first = desk.collect("a")
    notices = notices_of(desk.ledger.discard, desk.collect("b"), "cleared")
    with desk.ledger._lock:
        assert desk.ledger.discard(first, "cleared", into=notices) == 0
    assert desk.books() == {"discarded": 2}
    # Its caller has dispatched the list before.
    assert kinds_and_letters(notices) == [("events_discarded", "b")]
    assert desk.notices() == [("events_discarded", "a")]


def test_a_hand_over_empties_the_collector(desk: Desk) -> None:
    entries = desk.collect("ab")
    desk.ledger.hand_over(entries)
    assert (entries, desk.books()) == ([], {"retained": 2})


def test_a_second_hand_over_of_the_same_events_does_nothing(desk: Desk) -> None:
    entries = desk.collect("a")
    copy = list(entries)
    desk.ledger.hand_over(entries)
    desk.take()
    desk.ledger.hand_over(copy)
    assert desk.books() == {"in_flight": 1}
    assert desk.take() == ""


class Hooked(list[Notice]):
    """Calls a function before its first item."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def append(self, item: Notice) -> None:
        if not self:
            self._call()
        super().append(item)


@pytest.mark.parametrize("other", ["nothing else", "what has ended"])
def test_what_is_added_in_the_middle_of_a_hand_over_stays_in_the_collector(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    entries = desk.collect("a")
    if other == "what has ended":
        entries = [*entries, *(ended := desk.collect("x"))]
        desk.ledger.discard(ended, "rolled back")

    def clock() -> float:
        # As a destructor does, or another thread.
        monkeypatch.undo()
        desk.ledger.collect(entries, make_event("b"))
        return desk.clock()

    monkeypatch.setattr(desk.ledger._moves, "_clock", clock)
    desk.ledger.hand_over(entries)
    assert letters(entries) == "b"
    assert letters(desk.ledger.still_collected(entries)) == "b"
    desk.ledger.hand_over(entries)
    assert (entries, desk.take()) == ([], "ab")


def test_what_is_added_in_the_middle_of_a_discard_stays_in_the_collector(
    desk: Desk,
) -> None:
    entries = desk.collect("ab")
    notices = Hooked(lambda: desk.ledger.collect(entries, make_event("c")))
    desk.ledger.discard(entries, "cleared", into=notices)
    assert kinds_and_letters(notices) == [
        ("events_discarded", "a"),
        ("events_discarded", "b"),
    ]
    assert letters(entries) == "c"
    assert desk.books() == {"discarded": 2, "collected": 1}
