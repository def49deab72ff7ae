"""The states of a row, and who may change it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

import pytest

from flask_eventcollector import ConfigurationError
from flask_eventcollector.events import Event, Properties, Target
from flask_eventcollector.stores.filter import Filter
from flask_eventcollector.stores.outbox.outbox import Outbox, Refused
from tests.outbox.support import MUCH, Place, sent, seqs, statements
from tests.parts import make_event


def test_rows_are_numbered_in_the_order_of_the_events(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(50))
    written += place.write(outbox, range(50, 60))

    rows = place.outbox().claim(100, MUCH)

    assert written == sorted(written) == seqs(rows)
    assert sent(rows) == list(range(60))


def test_what_databases_quote_is_written_as_it_is(place: Place) -> None:
    odd = ["NULL", '"', "'", "\\", "{a,b}", ",", " ", "", "%s", ":x", "ä\N{SNOWMAN}"]
    bodies = [bytes(range(256)), b"", b"\\x00", b"NULL"]
    events = [
        make_event(
            queue=text or "q", exchange=text, headers={"x": text}, id=f"{n}{text}"
        )
        for n, text in enumerate(odd)
    ]
    events += [
        Event.of(
            id=f"body-{n}",
            target_queue="q",
            exchange="",
            body=body,
            headers={},
            enqueued_at=datetime.now(timezone.utc),
            size=len(body),
        )
        for n, body in enumerate(bodies)
    ]

    with place.engine.begin() as connection:
        place.outbox().write(connection, events, held=False)

    rows = place.outbox().claim(100, MUCH)
    written = [row.event for row in rows]
    assert [e.target for e in written] == [e.target for e in events]
    assert [e.id for e in written] == [e.id for e in events]
    assert [e.body for e in written] == [e.body for e in events]
    assert [e.headers for e in written] == [e.headers for e in events]


def test_no_events_are_no_statement(place: Place) -> None:
    with statements(place.engine) as executed:
        assert place.write(place.outbox(), []) == []
    assert executed == []


@pytest.mark.parametrize("outbox_url", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("held", [True, False])
def test_all_events_of_a_transaction_are_one_statement(
    place: Place, held: bool
) -> None:
    with statements(place.engine) as executed:
        place.write(place.outbox(), range(50), held=held)
    assert len(executed) == 1


@pytest.mark.parametrize("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_statements_fit_into_what_a_server_takes(place: Place) -> None:
    outbox = place.outbox()
    sizes = [1000, 1000, 2**20, 2**20, 3 * 2**20, 10, 600_000, 600_000]
    with statements(place.engine) as executed:
        written = place.write(outbox, ["x" * size for size in sizes])

    assert written == sorted(written)
    assert len(executed) == 6
    rows = place.outbox().claim(100, MUCH)
    assert [len(payload) for payload in sent(rows)] == sizes


@pytest.mark.parametrize("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_events_with_a_delay_are_written_in_their_places_by_few_statements(
    place: Place,
) -> None:
    outbox = place.outbox()
    delays = [None] + [60.0] * 20 + [None]
    events = [make_event(properties=Properties(delay=delay)) for delay in delays]

    with statements(place.engine) as executed, place.engine.begin() as connection:
        written = outbox.write(connection, events, held=True)

    assert len(executed) == 3
    assert written == place.values("seq")
    assert place.values("event_id") == [event.id for event in events]
    assert place.values("token") == [outbox.token, *[None] * 20, outbox.token]
    assert seqs(place.outbox().claim(100, MUCH)) == []


@pytest.mark.parametrize("outbox_url", ["sqlite", "mariadb"], indirect=True)
def test_a_database_that_returns_nothing_still_tells_the_numbers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As MySQL does.
    place.write(place.outbox(), "a")
    monkeypatch.setattr(place.engine.dialect, "insert_executemany_returning", False)
    written = place.write(place.outbox(), "bcd")
    assert written == place.values("seq")[1:]


def test_what_is_rolled_back_leaves_nothing(place: Place) -> None:
    outbox = place.outbox()
    with place.engine.connect() as connection:
        written = outbox.write(connection, [make_event()], held=True)
        connection.rollback()

    assert {*outbox.read(written)} == set()
    assert outbox.claim(10, MUCH) == []
    assert place.values("seq") == []


def test_only_committed_rows_are_read(place: Place) -> None:
    outbox = place.outbox()
    with place.engine.connect() as connection:
        written = outbox.write(connection, [make_event()], held=True)
        assert {*outbox.read(written)} == set()
        connection.commit()
    assert {*outbox.read(written)} == {*written}


def test_a_process_reads_only_what_it_holds(place: Place) -> None:
    outbox, other = place.outbox(), place.outbox()
    free = place.write(outbox, "a")
    held = place.write(outbox, "bc", held=True)
    theirs = place.write(other, "d", held=True)
    assert {*outbox.read([*free, *held, *theirs, 10_000])} == {*held}


def test_what_is_held_is_not_claimed(place: Place) -> None:
    place.write(place.outbox(), "ab", held=True)
    place.write(place.outbox(), "c")
    assert sent(place.outbox().claim(10, MUCH)) == ["c"]
    assert place.outbox().claim(10, MUCH) == []


def test_a_claim_takes_no_more_than_it_may(place: Place) -> None:
    outbox = place.outbox()
    place.write(outbox, range(10), size=100)
    assert sent(outbox.claim(3, MUCH)) == [0, 1, 2]
    assert sent(outbox.claim(10, 101)) == [3, 4]
    assert sent(outbox.claim(10, 1)) == [5]
    assert sent(outbox.claim(10, 400)) == [6, 7, 8, 9]


def test_apps_do_not_see_each_other(place: Place) -> None:
    shop, billing = place.outbox("shop"), place.outbox("billing")
    place.write(shop, "a")
    place.write(billing, "b")
    assert sent(billing.claim(10, MUCH)) == ["b"]
    assert place.admin("shop").counts().free == 1
    assert len(place.admin("shop").purge(place.values("seq"))) == 1
    assert [*place.admin("shop").others()] == ["billing"]


def test_a_claimed_row_says_what_is_known(place: Place) -> None:
    outbox = place.outbox()
    place.write(outbox, "a")
    (row,) = outbox.claim(1, MUCH)
    assert row.is_held
    assert not row.is_dead
    assert not row.maybe_sent
    assert 25 < row.due_in <= 30
    assert (row.attempts, row.reason) == (0, "")


def test_rows_whose_lease_has_run_out_are_back_in_their_places(place: Place) -> None:
    dying = place.outbox()
    place.write(dying, "ab", held=True)
    place.write(dying, "c")
    place.end_leases()
    place.write(dying, "d")

    rows = place.outbox().claim(10, MUCH)

    assert sent(rows) == ["a", "b", "c", "d"]
    assert [row.maybe_sent for row in rows] == [True, True, False, False]


def test_the_mark_stays(place: Place) -> None:
    place.write(place.outbox(), "a", held=True)
    place.end_leases()
    outbox = place.outbox()
    outbox.give_back(seqs(outbox.claim(1, MUCH)))
    (row,) = place.outbox().claim(1, MUCH)
    assert row.maybe_sent


def test_more_leases_than_a_claim_takes_run_out(place: Place) -> None:
    place.write(place.outbox(), range(25), held=True)
    place.end_leases()
    outbox = place.outbox()
    found = [payload for _ in range(5) for payload in sent(outbox.claim(6, MUCH))]
    assert sorted(found) == list(range(25))


def test_a_renewed_lease_lasts(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, "ab", held=True)
    place.write(outbox, "c")
    # Even if it had run out, as long as nobody else has noticed.
    place.end_leases()

    assert outbox.renew(written) == 2

    assert sent(place.outbox().claim(10, MUCH)) == ["c"]
    assert {*outbox.read(written)} == {*written}


def test_a_lease_that_was_lost_is_not_renewed(place: Place) -> None:
    outbox, other = place.outbox(), place.outbox()
    written = place.write(outbox, "ab", held=True)
    place.end_leases()
    other.claim(2, MUCH)
    assert outbox.renew(written) == 0
    assert {*outbox.read(written)} == set()


def test_a_lease_ends_by_the_clock_of_the_database(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = place.outbox(lease=3600)
    written = place.write(outbox, "a", held=True)
    now = time.time()
    for hours in (-48, 48):
        monkeypatch.setattr(time, "time", lambda hours=hours: now + hours * 3600)
        assert place.outbox().claim(10, MUCH) == []
        assert outbox.renew(written) == 1


def test_a_lease_ends(place: Place) -> None:
    outbox = place.outbox(lease=0.001)
    place.write(outbox, "a", held=True)
    deadline = time.monotonic() + 20
    # Each new process looks at all rows.
    while not (rows := place.outbox().claim(1, MUCH)):
        assert time.monotonic() < deadline
    assert rows[0].maybe_sent


def test_a_confirmed_row_is_erased(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(250), held=True)
    assert outbox.erase(written[1:]) == 249
    assert outbox.erase(written[1:]) == 0
    assert place.values("seq") == written[:1]


def test_a_confirmed_row_that_nobody_holds_any_more_is_erased(place: Place) -> None:
    outbox, other = place.outbox(), place.outbox()
    written = place.write(outbox, "ab", held=True)
    place.end_leases()
    # Frees both rows, and holds the first.
    assert len(other.claim(2, 1)) == 1
    assert outbox.erase(written) == 1
    assert place.values("seq") == written[:1]


def test_numbers_are_not_used_twice(place: Place) -> None:
    outbox = place.outbox()
    first = place.write(outbox, "a", held=True)
    outbox.erase(first)
    assert place.write(outbox, "b", held=True) > first


CHANGES: dict[str, Callable[[Outbox, list[int]], int]] = {
    "postpone": lambda o, seqs: o.postpone(seqs, 5),
    "die": lambda o, seqs: o.die([Refused(s, "no", 1) for s in seqs]),
    "erase": lambda o, seqs: o.erase(seqs),
    "give_back": lambda o, seqs: o.give_back(seqs),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_process_changes_only_what_it_holds(place: Place, change: str) -> None:
    outbox, other = place.outbox(), place.outbox()
    ours = place.write(outbox, range(3), held=True)
    theirs = place.write(other, range(3), held=True)
    assert CHANGES[change](outbox, [*ours, *theirs]) == 3
    assert {*other.read(theirs)} == {*theirs}
    assert {*outbox.read(ours)} == set()


def test_a_row_that_is_given_back_is_in_its_place(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, "ab", held=True)
    place.write(outbox, "c")
    assert outbox.give_back(written[:1], maybe_sent=True) == 1
    assert outbox.give_back(written[1:]) == 1
    rows = place.outbox().claim(10, MUCH)
    assert sent(rows) == ["a", "b", "c"]
    assert [row.maybe_sent for row in rows] == [True, False, False]


def test_a_postponed_row_waits(place: Place) -> None:
    outbox = place.outbox()
    (postponed, _) = place.write(outbox, "ab", held=True)
    outbox.postpone([postponed], 60)

    assert place.outbox().claim(10, MUCH) == []
    (waiting, _) = place.admin().rows()
    assert not waiting.is_held
    assert 55 < waiting.due_in <= 60

    place.end_leases()
    rows = place.outbox().claim(10, MUCH)
    assert sent(rows) == ["a", "b"]
    assert [row.maybe_sent for row in rows] == [False, True]


def test_a_dead_row_is_not_claimed(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, "ab", held=True)
    assert outbox.die([Refused(written[0], "no such exchange", 9)]) == 1
    place.end_leases()
    assert sent(place.outbox().claim(10, MUCH)) == ["b"]
    (dead,) = place.admin().rows(wanted=Filter(dead=True))
    assert dead.is_dead
    assert (dead.reason, dead.attempts) == ("no such exchange", 9)


def test_a_reason_may_be_anything(place: Place) -> None:
    outbox = place.outbox()
    (seq,) = place.write(outbox, "a", held=True)
    outbox.die([Refused(seq, "ü🐘\0" * 2000, 1)])
    (reason,) = place.values("reason")
    assert reason == ("ü🐘\N{REPLACEMENT CHARACTER}" * 2000)[:1000]


def test_many_rows_are_dead_by_few_statements(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(40), held=True)
    refused = [Refused(seq, f"no {seq % 2}", 1) for seq in written]
    assert outbox.die(refused) == 40
    assert place.values("reason") == [one.reason for one in refused]


def test_a_new_leader_takes_over_at_once(place: Place) -> None:
    old, new = place.outbox(), place.outbox()
    place.write(old, range(150), held=True)
    mine = place.write(new, ["mine"], held=True)
    other = place.outbox("billing")
    theirs = place.write(other, ["theirs"], held=True)

    while not new.take_over():
        # A step each.
        pass

    (first,) = new.claim(1, MUCH)
    assert first.event.payload == 0
    assert first.maybe_sent
    assert other.renew(theirs) == 1
    assert new.renew([*mine, first.seq]) == 2


def test_rows_wait_without_a_holder_until_they_are_released(place: Place) -> None:
    outbox, another = place.outbox(), place.outbox()
    waiting = place.write(outbox, range(3), held=True)
    others = place.write(outbox, ["other"], held=True, queue="other")
    held = place.write(outbox, ["held"], held=True)
    assert outbox.postpone([*waiting, *others], 3600) == 4
    assert another.claim(10, MUCH) == []

    assert outbox.release(Target("", "q")) is None

    claimed = another.claim(10, MUCH)
    assert seqs(claimed) == waiting
    assert not any(row.maybe_sent for row in claimed)
    assert outbox.renew(held) == 1


def test_the_name_of_an_app_must_fit(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="64 characters of an app's name"):
        place.outbox("x" * 65)
    with pytest.raises(ConfigurationError, match="can't store the name"):
        place.outbox("a\0")
