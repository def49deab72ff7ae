"""Relays, which send what other processes have committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import select, update

from flask_eventcollector import BrokerState, Outcome, PublishResult
from flask_eventcollector.app_state import AppState, state_of
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.events import Stats
from flask_eventcollector.stores.outbox import relay as relaying
from flask_eventcollector.stores.outbox.admin import OutboxAdmin
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.leader import leader
from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.table import leader_table
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE, payloads, wait_until
from tests.outbox.test_store import OutboxShop, open_outbox
from tests.parts import make_event
from tests.transactions.support import Order, url_in


class Relay:
    """A relay of the shop's app, as a process of its own has it."""

    def __init__(self, shop: OutboxShop, name: str) -> None:
        state, bound = state_of(shop), shop.events._sessions.outbox
        assert isinstance(state, AppState)
        assert bound is not None
        self.delivery, self.store = state.new_relay(bound, name)
        self.store.open(shop.engine)
        assert isinstance(self.delivery.broker, MemoryBroker)
        self.broker = self.delivery.broker
        self.faults = FaultInjector.of(self.broker)
        self._taken: list[Entry] = []

    def start(self) -> None:
        self.delivery.start()

    def close(self) -> None:
        self.store.end()
        self.delivery.close(DEADLINE, reconnect=False)

    def sent(self, queue: str = "q") -> list[Any]:
        return payloads(self.broker.events(queue))

    def confirm_nothing(self, most: int) -> None:
        """Let the broker take events, and confirm them only by `confirm()`.

        :param most: how many it takes at most.
        """

        def take() -> None:
            self._taken.extend(self.broker.relay.take(most - len(self._taken)))

        self.broker.wake = take  # type: ignore[method-assign]

    def confirm(self) -> None:
        settled = [Settlement(entry, Outcome.CONFIRMED) for entry in self._taken]
        self.delivery.settle(settled)

    def marks(self) -> list[bool]:
        """Whether each event that was sent is marked as a possible duplicate."""
        headers = [event.headers for event in self.broker.events("q")]
        return [header.get("x-possible-duplicate", False) is True for header in headers]

    def stats(self) -> Stats:
        stats = self.delivery.stats()
        assert stats.balanced
        return stats


@contextmanager
def relaying_for(
    shop: OutboxShop,
    name: str = "a relay",
    *,
    without_confirms: bool = False,
    most: int = 1000,
) -> Iterator[Relay]:
    relay = Relay(shop, name)
    if without_confirms:
        relay.confirm_nothing(most)
    try:
        relay.start()
        yield relay
    finally:
        relay.close()


@contextmanager
def open_external(url: str, **settings: Any) -> Iterator[OutboxShop]:
    with open_outbox(url, OUTBOX_RELAY="external", **settings) as shop:
        yield shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[OutboxShop]:
    """An app whose workers send nothing, so its leases need not run out."""
    with open_external(url_in(tmp_path), OUTBOX_LEASE=600) as shop:
        yield shop


def active(shop: OutboxShop) -> str | None:
    """The name of the active relay."""
    database = Database(shop.engine, shop.table)
    try:
        return leader(database, shop.name)
    finally:
        database.close()


# The workers.


def test_workers_only_write_rows_and_need_no_broker(shop: OutboxShop) -> None:
    shop.place("a", "b")

    assert shop.rows() == [(0, False)] * 2
    assert shop.books() == {"outboxed": 2}
    assert shop.events.stats().broker is BrokerState.IDLE
    assert shop.sent() == []


def test_a_publish_tells_what_the_outbox_has(shop: OutboxShop) -> None:
    shop.place("a", "b")
    shop.enqueue("c")

    result = shop.events.publish()
    assert result == PublishResult(confirmed=1, outboxed=2)
    assert not result.complete
    assert shop.events.publish() == PublishResult()


def test_a_first_request_sends_nothing_and_connects_to_nothing(
    shop: OutboxShop,
) -> None:
    shop.place("a")
    shop.test_client().get("/")

    assert shop.events.flush(DEADLINE)
    assert shop.rows() == [(0, False)]
    assert shop.events.stats().broker is BrokerState.IDLE


def test_what_is_rolled_back_is_discarded(shop: OutboxShop) -> None:
    with pytest.raises(RuntimeError), shop.placing("a"):
        raise RuntimeError

    assert shop.is_empty()
    assert shop.books() == {"discarded": 1}


def test_an_event_of_a_transaction_that_wrote_nothing_is_sent_by_its_process(
    shop: OutboxShop,
) -> None:
    with shop.sessions() as session:
        session.get(Order, "a")
        shop.enqueue("a")
    assert shop.events.publish().complete
    assert shop.sent() == ["a"]


# The relay.


def test_a_relay_sends_in_order_and_erases(database_url: str) -> None:
    with open_external(database_url) as shop, relaying_for(shop) as relay:
        names = [f"{number}" for number in range(300)]
        for name in names:
            shop.place(name)

        wait_until(shop.is_empty, "all rows are sent and erased")
        assert relay.sent() == names
        assert not any(relay.marks())
        assert relay.stats().adopted == 300


def test_a_relay_has_its_own_books(shop: OutboxShop) -> None:
    with relaying_for(shop) as relay:
        shop.place("a")
        wait_until(shop.is_empty, "it is sent")
        assert relay.stats().confirmed == 1
        assert shop.books() == {"outboxed": 1}


def test_another_relay_stands_by_and_takes_over_at_once(shop: OutboxShop) -> None:
    with relaying_for(shop, "first") as first:
        wait_until(lambda: active(shop) == "first", "it leads")
        with relaying_for(shop, "second") as second:
            wait_until(lambda: second.store.has_looked, "it has looked")
            assert not second.store.is_active
            first.faults.go_down()
            shop.place("a")
            wait_until(lambda: first.stats().retained, "it is held")

            # It waits for nothing, since the broker is down.
            first.store.end()
            first.delivery.close(0, reconnect=False)
            wait_until(lambda: second.sent() == ["a"], "it is sent")
            assert second.marks() == [False]
            assert active(shop) == "second"


def end_lead(shop: OutboxShop) -> None:
    with shop.engine.begin() as connection:
        connection.execute(update(leader_table(shop.table)).values(until=1))


def hold(shop: OutboxShop, token: str) -> None:
    """Have another process hold all rows, for a minute."""
    with shop.engine.begin() as connection:
        c = shop.table.c
        values = {"token": token, "due": c.due + 60_000_000_000_000}
        connection.execute(update(shop.table).values(values))


def test_a_relay_that_ends_keeps_only_what_is_in_flight(shop: OutboxShop) -> None:
    shop.place(*"abcde")
    with relaying_for(shop, without_confirms=True, most=2) as relay:
        wait_until(lambda: _held(shop) == 5, "all are claimed")
        wait_until(lambda: relay.stats().in_flight == 2, "two are in flight")
        relay.store.end()
        wait_until(lambda: _held(shop) == 2, "the others are given back")
        assert relay.stats().retained == 0
        relay.confirm()
        wait_until(lambda: len(shop.rows()) == 3, "what is confirmed is erased")


def _held(shop: OutboxShop) -> int:
    return [is_held for _, is_held in shop.rows()].count(True)


def test_a_new_leader_frees_what_the_last_one_held(shop: OutboxShop) -> None:
    shop.place("a")
    hold(shop, "killed")
    shop.place("b")
    with relaying_for(shop) as relay:
        wait_until(shop.is_empty, "all is sent")
        assert relay.sent() == ["a", "b"]
        assert relay.marks() == [True, False]


def test_a_new_leader_frees_many_rows_before_it_sends(shop: OutboxShop) -> None:
    database = Database(shop.engine, shop.table)
    killed = Outbox(database, shop.name, lease=600)
    with shop.engine.begin() as connection:
        killed.write(connection, map(make_event, range(250)), held=True)
    database.close()
    shop.place("last")
    with relaying_for(shop) as relay:
        wait_until(shop.is_empty, "all is sent")
        assert relay.sent() == [*range(250), "last"]
        assert relay.marks() == [True] * 250 + [False]


def test_delayed_events_that_a_new_leader_frees_keep_no_others_waiting(
    tmp_path: Path,
) -> None:
    with open_external(url_in(tmp_path), MAX_EVENTS=40) as shop:
        for delay in [3600, 7200] * 20:
            place_delayed(shop, delay)
        before = dues(shop)
        with relaying_for(shop) as relay:
            shop.place("a")
            wait_until(lambda: relay.sent() == ["a"], "the other one is sent")
            wait_until(lambda: not any(held for _, held in shop.rows()), "all wait")
            assert relay.stats().delayed == 0
        after = dues(shop)
        assert [due - was for due, was in zip(after, before, strict=True)] == [
            pytest.approx(0, abs=10_000)
        ] * 40


def place_delayed(shop: OutboxShop, delay: float) -> None:
    with shop.sessions() as session, session.begin():
        session.add(Order(sku=f"order {len(shop.rows())}"))
        session.flush()
        shop.events.enqueue_event("later", "q", delay=delay)


def dues(shop: OutboxShop) -> list[int]:
    with shop.engine.connect() as connection:
        rows = select(shop.table.c.due).order_by(shop.table.c.seq)
        return list(connection.scalars(rows))


def test_with_own_a_relay_leaves_what_workers_hold(tmp_path: Path) -> None:
    with open_external(url_in(tmp_path)) as shop:
        shop.place("a")
        hold(shop, "a worker")
        shop.place("b")
        with (
            open_outbox(shop_url(shop), fresh=False) as own,
            relaying_for(own) as relay,
        ):
            wait_until(lambda: relay.sent() == ["b"], "the free one is sent")
            wait_until(lambda: shop.rows() == [(0, True)], "its row is erased")


def shop_url(shop: OutboxShop) -> str:
    return shop.engine.url.render_as_string(hide_password=False)


def test_a_relay_that_has_lost_its_lead_leaves_its_rows(shop: OutboxShop) -> None:
    with relaying_for(shop) as relay:
        wait_until(lambda: relay.store.is_active, "it leads")
        relay.faults.go_down()
        shop.place("a", "b")
        wait_until(lambda: relay.stats().retained == 2, "they are held")
        with shop.engine.begin() as connection:
            leads = update(leader_table(shop.table))
            connection.execute(leads.values(token="another", name="another"))
        hold(shop, "another")
        relay.store._next_try = 0.0

        wait_until(lambda: not relay.stats().retained, "they are left")
        relay.faults.come_up()
        assert relay.delivery.flush(0)
        assert relay.sent() == []
        assert shop.rows() == [(0, True)] * 2


def test_what_was_sent_after_the_lease_is_counted_and_fenced(
    shop: OutboxShop,
) -> None:
    with relaying_for(shop, without_confirms=True) as relay:
        shop.place("a")
        wait_until(lambda: relay.stats().in_flight == 1, "it is in flight")
        hold(shop, "another")
        relay.confirm()
        wait_until(lambda: relay.stats().lost_leases == 1, "it is counted")
        assert shop.rows() == [(0, True)]


def test_more_rows_than_it_may_hold(tmp_path: Path) -> None:
    with open_external(url_in(tmp_path), MAX_EVENTS=40) as shop:
        names = [f"{number}" for number in range(100)]
        shop.place(*names)
        with relaying_for(shop) as relay:
            wait_until(shop.is_empty, "all is sent")
            assert relay.sent() == names


def test_a_queue_that_refuses_events_keeps_no_others_waiting(tmp_path: Path) -> None:
    limits = {"MAX_EVENTS": 40, "RETRY_DELAY": 0.05, "RETRY_MAX_DELAY": 0.05}
    with open_external(url_in(tmp_path), **limits) as shop, relaying_for(shop) as relay:
        relay.faults.refuse("q")
        names = [f"{number}" for number in range(60)]
        shop.place(*names)
        shop.place_for("other", "a")
        wait_until(lambda: relay.sent("other") == ["a"], "the other one is sent")
        assert relay.sent() == []

        relay.faults.accept("q")
        wait_until(shop.is_empty, "all is sent")
        assert relay.sent() == names


def test_more_queues_that_refuse_events_than_it_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "POSTPONED_FOR", 30.0)
    limits = {"MAX_EVENTS": 40, "RETRY_DELAY": 0.05, "RETRY_MAX_DELAY": 0.05}
    with open_external(url_in(tmp_path), **limits) as shop, relaying_for(shop) as relay:
        relay.faults.refuse("user-*")
        for number in range(30):
            shop.place_for(f"user-{number}", f"{number}")
        shop.place("a")
        wait_until(lambda: relay.sent() == ["a"], "the other one is sent")

        relay.faults.accept("user-*")
        wait_until(shop.is_empty, "all is sent")


def test_large_events_that_are_refused_keep_no_others_waiting(tmp_path: Path) -> None:
    limits = {"MAX_BYTES": 40_000, "MAX_EVENT_BYTES": 8_000}
    delays = {"RETRY_DELAY": 0.05, "RETRY_MAX_DELAY": 0.05}
    with (
        open_external(url_in(tmp_path), **limits, **delays) as shop,
        relaying_for(shop) as relay,
    ):
        relay.faults.refuse("q")
        for number in range(8):
            shop.place(f"{number}".rjust(3_000))
        shop.place_for("other", "a")
        wait_until(lambda: relay.sent("other") == ["a"], "the other one is sent")

        relay.faults.accept("q")
        wait_until(shop.is_empty, "all is sent")
        assert [int(sku) for sku in relay.sent()] == [*range(8)]


def test_a_dead_event_is_sent_again_once_an_operator_retries_it(
    tmp_path: Path,
) -> None:
    with (
        open_external(url_in(tmp_path), DEAD_AFTER=0) as shop,
        relaying_for(shop) as relay,
    ):
        relay.faults.fail_next(Outcome.RETURNED)
        shop.place("a")
        wait_until(lambda: shop.rows() == [(1, False)], "it is dead")
        database = Database(shop.engine, shop.table)
        admin = OutboxAdmin(database, shop.name)
        admin.retry([row.seq for row in admin.rows()], to="other")
        database.close()
        wait_until(lambda: relay.sent("other") == ["a"], "it is sent")
        wait_until(shop.is_empty, "its row is erased")


def test_rows_of_dead_events_stay_however_many_there_are(tmp_path: Path) -> None:
    limits = {"DEAD_AFTER": 0, "MAX_DEAD_EVENTS": 2}
    with (
        open_external(url_in(tmp_path), **limits) as shop,
        relaying_for(shop) as relay,
    ):
        dead: list[tuple[int, bool]] = []
        for number in range(5):
            relay.faults.fail_next(Outcome.RETURNED)
            shop.place(f"{number}")
            dead.append((1, False))
            wait_until(lambda: shop.rows() == dead, "it is dead")
        wait_until(lambda: relay.stats().dead == 2, "the others are left")
        assert relay.stats().dropped == 0
