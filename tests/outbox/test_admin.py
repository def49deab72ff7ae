"""What an operator sees and does."""

from __future__ import annotations

from unittest.mock import ANY

from flask_eventcollector.stores.filter import Filter
from flask_eventcollector.stores.outbox.admin import Counts
from flask_eventcollector.stores.outbox.outbox import Refused
from tests.outbox.support import MUCH, Place, sent, seqs
from tests.parts import make_event


def fill(place: Place) -> dict[str, int]:
    """A row in each state; returns their numbers."""
    outbox = place.outbox()
    states = ["free", "held", "delayed", "dead"]
    free, held, delayed, dead = place.write(outbox, states, held=True, size=10)
    outbox.give_back([free])
    outbox.postpone([delayed], 60)
    outbox.die([Refused(dead, "never", 2)])
    return {"free": free, "held": held, "delayed": delayed, "dead": dead}


def test_an_empty_table_counts_nothing(place: Place) -> None:
    assert place.admin().counts() == Counts(0, 0, 0, 0, 0, None)


def test_rows_are_counted_by_what_they_wait_for(place: Place) -> None:
    event = make_event("oldest", size=2)
    fill(place)
    with place.engine.begin() as connection:
        place.outbox().write(connection, [event], held=False)
    counts = place.admin().counts()
    assert counts == Counts(
        free=2, held=1, delayed=1, dead=1, bytes=42, oldest=event.enqueued_at
    )
    assert all(type(value) is int for value in counts[:-1])


def test_rows_are_summed_for_each_target(place: Place) -> None:
    fill(place)
    place.write(place.outbox(), "x", queue="bills", exchange="shop")
    first, second = place.admin().sums_by_target(9)
    assert (first.target, first.waiting, first.dead) == (("", "q"), 3, 1)
    assert (first.reason, first.attempts) == ("never", 2)
    assert first.next_try is not None
    assert 0 < first.next_try <= 60
    assert second == (("shop", "bills"), 1, 0, second.oldest, "", None, None)
    assert [type(value) for value in second[1:4]] == [int] * 3
    assert place.admin().sums_by_target(1) == [first._replace(next_try=ANY)]


def test_rows_are_listed_in_their_order_page_by_page(place: Place) -> None:
    written = place.write(place.outbox(), range(250))
    rows = place.admin().rows()
    assert next(rows).event.payload == 0
    # The first two are on the first page, which is already read.
    place.admin().purge(written[98:101])
    assert seqs([*rows]) == [*written[1:100], *written[101:]]


def test_rows_are_selected(place: Place) -> None:
    outbox, admin = place.outbox(), place.admin()
    place.write(outbox, "a", queue="orders", id="abc_1")
    place.write(outbox, "b", queue="bills", id="abcd2")
    dead = place.write(outbox, "c", queue="bills", id="xyz", held=True)
    outbox.die([Refused(dead[0], "no", 1)])

    assert sent([*admin.rows(wanted=Filter("bills"))]) == ["b", "c"]
    assert sent([*admin.rows(wanted=Filter("bills", dead=True))]) == ["c"]
    assert sent([*admin.rows(wanted=Filter(reason="n"))]) == ["c"]
    assert sent([*admin.rows(wanted=Filter(older_than=60))]) == []
    assert sent([*admin.rows(ids=["abc_1", "xyz", "nobody"])]) == ["a", "c"]
    assert sent([*admin.rows(seqs=dead)]) == ["c"]
    assert admin.ids("abc") == {"abc_1", "abcd2"}
    assert admin.ids("abc_") == {"abc_1"}
    assert admin.ids("ABC") == set()


def test_dead_and_delayed_rows_can_be_retried(place: Place) -> None:
    numbers = fill(place)
    assert place.admin().retry([*numbers.values()]) == [
        numbers[state] for state in ("free", "delayed", "dead")
    ]
    rows = place.outbox().claim(10, MUCH)
    assert sent(rows) == ["free", "delayed", "dead"]
    for row in rows:
        assert (row.attempts, row.reason) == (0, "")


def test_a_retried_row_may_go_to_another_queue(place: Place) -> None:
    numbers = fill(place)
    place.admin().retry([numbers["dead"]], to="elsewhere")
    queues = [row.event.target_queue for row in place.outbox().claim(10, MUCH)]
    assert queues == ["q", "elsewhere"]


def test_purged_rows_are_gone_whoever_holds_them(place: Place) -> None:
    numbers = fill(place)
    purged = [numbers["held"], numbers["dead"]]
    assert place.admin().purge([*purged, 12345]) == purged
    assert place.values("seq") == [numbers["free"], numbers["delayed"]]
