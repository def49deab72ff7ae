"""The outbox of an app: what a transaction commits is sent, whatever happens then."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import (
    Column,
    Connection,
    Delete,
    Engine,
    MetaData,
    Update,
    create_engine,
    event,
    select,
    update,
)
from sqlalchemy.orm import Session, sessionmaker

from flask_eventcollector import (
    BacklogFull,
    ConfigurationError,
    EventCollector,
    Outcome,
    make_outbox_table,
)
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.stores.outbox import store
from flask_eventcollector.stores.outbox.admin import OutboxAdmin
from flask_eventcollector.stores.outbox.clock import now_ms
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.outbox import LEASE, Outbox
from flask_eventcollector.testing import FaultInjector
from tests.databases import DatabaseServer
from tests.helpers import DEADLINE, Shop, in_child, pass_time, unmeasured, wait_until
from tests.transactions.support import (
    Order,
    new_engine,
    stored,
    url_in,
)

ROOT = Path(__file__).parents[2]


class OutboxShop(Shop):
    """An app whose transactions write their events into an outbox."""

    def __init__(self, url: str, *, fresh: bool = True, **settings: Any) -> None:
        self.engine = new_engine(url)
        self.table = make_outbox_table(MetaData())
        if fresh:
            self.table.metadata.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        defaults = {"TESTING_BROKER": True, "BROKER_URL": "memory://"}
        super().__init__(EventCollector(), **{**defaults, **settings})
        self.events.bind_session(self.sessions, outbox=self.table)

    @contextmanager
    def placing(self, sku: str) -> Iterator[Session]:
        """A transaction that writes an order, and tells of it."""
        with self.sessions() as session, session.begin():
            session.add(Order(sku=sku))
            session.flush()
            self.enqueue(sku)
            yield session

    def place(self, *skus: str) -> None:
        for sku in skus:
            with self.placing(sku):
                pass

    def place_for(self, queue: str, sku: str) -> None:
        """Place an order, and tell it to another queue."""
        with self.sessions.begin() as session:
            session.add(Order(sku=f"{queue} {sku}"))
            session.flush()
            self.enqueue(sku, queue=queue)

    def rows(self) -> list[tuple[int, bool]]:
        """The state of each row, and whether a process holds it."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(self.table.c.state, self.table.c.token))
            return [(state, token is not None) for state, token in rows]

    def is_empty(self) -> bool:
        return not self.rows()

    def numbers(self) -> list[int]:
        with self.engine.connect() as connection:
            seq = self.table.c.seq
            return list(connection.scalars(select(seq).order_by(seq)))

    @contextmanager
    def admin(self) -> Iterator[OutboxAdmin]:
        """What an operator does, from another process."""
        database = Database(self.engine, self.table)
        yield OutboxAdmin(database, self.name)
        database.close()


@contextmanager
def open_outbox(url: str, **settings: Any) -> Iterator[OutboxShop]:
    shop = OutboxShop(url, **settings)
    try:
        yield shop
    finally:
        shop.events.close(0)
        shop.engine.dispose()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[OutboxShop]:
    with open_outbox(url_in(tmp_path)) as shop:
        yield shop


def commit_inside(shop: OutboxShop, connection: Connection) -> None:
    """Commit an order with its event, within the connection's outer transaction."""
    with shop.sessions(bind=connection) as session:
        session.add(Order(sku="a"))
        session.flush()
        shop.enqueue("a")
        session.commit()


# What is sent.


def test_what_is_committed_is_sent_and_erased(database_url: str) -> None:
    with open_outbox(database_url) as shop:
        shop.place("a", "b")

        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b"]
        wait_until(shop.is_empty, "the rows are erased")
        assert shop.books() == {"outboxed": 2, "confirmed": 2}
        assert shop.events.stats().adopted == 2


def test_a_delayed_event_waits_in_its_row(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOK_INTERVAL", 0.2)
    with shop.sessions() as session, session.begin():
        session.add(Order(sku="a"))
        session.flush()
        shop.events.enqueue_event("later", "q", delay=3600, priority=7)
        shop.events.enqueue_event("now", "q")

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["now"]
    # Nobody holds it, and this process has no entry for it.
    wait_until(lambda: shop.rows() == [(0, False)], "the other row is erased")
    assert shop.events.stats().delayed == 0

    pass_time(monkeypatch, 3600)
    with shop.engine.begin() as connection:
        connection.execute(update(shop.table).values(due=1))

    wait_until(lambda: shop.sent() == ["now", "later"], "it is due")
    event = shop.broker.events("q")[1]
    assert event.properties.as_dict() == {"delay": 3600.0, "priority": 7}
    wait_until(shop.is_empty, "its row is erased")


def test_a_delay_may_pass_while_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOK_INTERVAL", 600.0)
    with open_outbox(url_in(tmp_path), MAX_EVENTS=20, OUTBOX_LEASE=6000) as shop:
        shop.place("first")
        wait_until(shop.is_empty, "it has looked for rows before")
        faults = FaultInjector.of(shop.broker)
        faults.go_down()
        rows = rows_of(shop)
        room, _ = rows._claimable()
        shop.place(*map(str, range(room)))
        wait_until(lambda: min(rows._claimable()) == 0, "it is full")
        with shop.sessions() as session, session.begin():
            session.add(Order(sku="later"))
            session.flush()
            shop.events.enqueue_event("later", "q", delay=0.01)
        times = rows._due_times
        wait_until(lambda: not (times._new or times._times), "it is due")
        faults.come_up()
        wait_until(lambda: "later" in shop.sent(), "it is sent")


def rows_of(shop: OutboxShop) -> store.OutboxStore:
    """What sends the rows of *shop*."""
    state = shop.extensions["eventcollector"]
    rows = state.delivery()._store
    assert isinstance(rows, store.OutboxStore)
    return rows


def test_a_delay_may_pass_before_the_commit(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLAIM_INTERVAL", 0.5)
    with shop.sessions() as session, session.begin():
        session.add(Order(sku="a"))
        session.flush()
        event = shop.events.enqueue_event("later", "q", delay=0.01)
        wait_until(lambda: not event.due_in, "it is due")

    wait_until(lambda: shop.sent() == ["later"], "it is sent")
    wait_until(shop.is_empty, "its row is erased")


def test_an_event_that_has_expired_in_its_row_is_dropped(shop: OutboxShop) -> None:
    FaultInjector.of(shop.broker).go_down()
    with shop.sessions() as session, session.begin():
        session.add(Order(sku="a"))
        session.flush()
        shop.events.enqueue_event(1, "q", expires_in=0.2)

    wait_until(lambda: shop.events.stats().dropped == 1, "it has expired")
    wait_until(shop.is_empty, "its row is erased")


def test_a_row_that_cannot_be_read_is_dead_and_keeps_no_others_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_outbox(url_in(tmp_path), OUTBOX_RELAY="external") as writer:
        writer.place("a", "b", "c")
    with writer.engine.begin() as connection:
        broken = update(writer.table).where(writer.table.c.seq == 2)
        connection.execute(broken.values(headers='{"properties": {"newer": 1}}'))

    with open_outbox(url_in(tmp_path), fresh=False) as shop:
        shop.place("d")
        assert shop.events.flush(DEADLINE)
        wait_until(lambda: sorted(shop.sent()) == ["a", "c", "d"], "others are sent")
        wait_until(lambda: shop.rows() == [(1, False)], "the others are erased")
        why = "Outbox problem: row 2 of the outbox is dead"
        wait_until(lambda: why in caplog.text, "it is told")
        with shop.admin() as admin:
            (row,) = admin.rows()
    assert "newer" in row.reason
    assert row.event.payload == "b"


def test_a_request_that_fails_after_the_commit_unsends_nothing(
    shop: OutboxShop,
) -> None:
    @shop.get("/order")
    def order() -> str:
        shop.place("a")
        shop.enqueue("outside of the transaction")
        raise RuntimeError

    assert shop.test_client().get("/order").status_code == 500
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a"]


def test_what_is_rolled_back_leaves_no_row(shop: OutboxShop) -> None:
    with pytest.raises(RuntimeError), shop.placing("a"):
        raise RuntimeError

    assert shop.is_empty()
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == []
    assert shop.books() == {"discarded": 1}


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_events(
    shop: OutboxShop,
) -> None:
    with shop.placing("a") as session:
        savepoint = session.begin_nested()
        session.add(Order(sku="b"))
        session.flush()
        shop.enqueue("b")
        savepoint.rollback()
        with session.begin_nested():
            session.add(Order(sku="c"))
            session.flush()
            shop.enqueue("c")

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a", "c"]
    assert stored(shop.engine) == ["a", "c"]


def test_a_savepoint_that_flushes_when_it_is_released_writes_no_row(
    shop: OutboxShop,
) -> None:
    with shop.placing("a") as session:
        outer = session.begin_nested()
        with session.begin_nested():
            session.add(Order(sku="b"))
            shop.enqueue("b")
        outer.rollback()

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a"]
    assert stored(shop.engine) == ["a"]


def test_a_savepoint_that_is_released_does_not_look_at_the_events_of_others(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Entry] = []

    def look_at(ledger: Ledger, entries: Iterable[Entry]) -> list[Entry]:
        looked_at.extend(entries)
        return original(ledger, entries)

    original = Ledger.still_collected
    monkeypatch.setattr(Ledger, "still_collected", look_at)
    with shop.placing("a") as session:
        for number in range(20):
            with session.begin_nested():
                shop.enqueue(number)

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a", *range(20)]
    # When they are written, and as the database commits: of SQLAlchemy's versions, some
    # tell of that twice.
    assert len(looked_at) <= 3 * 21


def test_a_commit_with_an_open_savepoint_writes_the_events_of_both(
    shop: OutboxShop,
) -> None:
    with shop.placing("a") as session:
        session.begin_nested()
        session.add(Order(sku="b"))
        session.flush()
        shop.enqueue("b")
    assert stored(shop.engine) == ["a", "b"]
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a", "b"]


def test_a_commit_that_fails_leaves_no_row(shop: OutboxShop) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the database is gone")

    event.listen(shop.engine, "commit", fail)
    with pytest.raises(RuntimeError, match="gone"):
        shop.place("a")
    event.remove(shop.engine, "commit", fail)

    assert shop.is_empty()
    assert shop.books() == {"discarded": 1}


def test_events_of_hooks_that_run_at_the_commit_are_written(shop: OutboxShop) -> None:
    @event.listens_for(shop.sessions.class_, "before_flush")
    def tell_more(session: Session, *_: object) -> None:
        for order in list(session.new):
            if isinstance(order, Order) and not order.note:
                order.note = "told"
                shop.enqueue(f"flushed {order.sku}")

    @event.listens_for(shop.sessions.class_, "before_commit")
    def change_more(session: Session) -> None:
        session.add(Order(sku="of a later hook"))

    with shop.sessions.begin() as session:
        session.add(Order(sku="a"))

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["flushed a", "flushed of a later hook"]


def test_an_event_that_a_hook_clears_after_it_was_written_is_not_sent(
    shop: OutboxShop,
) -> None:
    @event.listens_for(shop.sessions.class_, "before_commit")
    def clear_some(session: Session) -> None:
        if session.info.get("clears"):
            shop.events.clear_events_to_publish()
            shop.enqueue("instead")

    with shop.app_context(), shop.events.auto_publish(), shop.placing("a") as session:
        session.info["clears"] = True
    with shop.engine.connect() as connection:
        ids = list(connection.scalars(select(shop.table.c.event_id)))

    assert len(ids) <= 1
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["instead"]
    assert shop.books() == {"outboxed": 1, "confirmed": 1, "discarded": 1}


def test_an_event_of_a_hook_belongs_to_the_outer_transaction_that_is_joined(
    shop: OutboxShop,
) -> None:
    @event.listens_for(shop.sessions.class_, "before_commit")
    def tell_more(session: Session) -> None:
        if session.in_nested_transaction():
            return
        shop.enqueue("told late")
        savepoint = session.begin_nested()
        session.begin_nested().commit()
        savepoint.rollback()

    with shop.engine.connect() as connection, connection.begin() as outer:
        options: Any = {"bind": connection, "join_transaction_mode": "create_savepoint"}
        with shop.sessions(**options) as session:
            session.add(Order(sku="a"))
            session.flush()
            shop.enqueue("a")
            session.commit()
        assert shop.events.events_to_publish == ()
        outer.commit()

    wait_until(lambda: shop.sent() == ["a", "told late"], "both are sent")


def test_a_session_that_reads_from_replicas_writes_to_the_primary(
    shop: OutboxShop, tmp_path: Path
) -> None:
    replica = create_engine(f"sqlite:///{tmp_path / 'replica.sqlite3'}")

    class Routing(Session):
        """As in SQLAlchemy's page on custom vertical partitioning."""

        def get_bind(  # type: ignore[override]
            self, mapper: object = None, clause: object = None
        ) -> Engine:
            is_change = self._flushing or isinstance(clause, (Update, Delete))
            return shop.engine if is_change else replica

    sessions = sessionmaker(class_=Routing)
    shop.events.bind_session(sessions, outbox=shop.table)
    with sessions.begin() as session:
        session.add(Order(sku="a"))
        shop.enqueue("a")

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a"]
    bound = shop.extensions["eventcollector"].sessions.outbox
    assert bound.engine() is shop.engine
    replica.dispose()


def test_a_session_that_needs_arguments_tells_its_engine_at_the_commit(
    shop: OutboxShop,
) -> None:
    class Tenants(Session):
        def __init__(self, engine: Engine, **options: Any) -> None:
            super().__init__(engine, **options)

    for bound in Tenants, sessionmaker(class_=Tenants, expire_on_commit=False):
        shop.events.bind_session(bound, outbox=shop.table)
        assert shop.extensions["eventcollector"].sessions.outbox.engine() is None
    with Tenants(shop.engine) as session:
        session.add(Order(sku="a"))
        shop.enqueue("a")
        session.commit()

    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a"]


def test_rows_that_nobody_sees_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        open_outbox(url_in(tmp_path), OUTBOX_LEASE=1) as shop,
        shop.engine.connect() as connection,
    ):
        outer = connection.begin()
        commit_inside(shop, connection)
        outer.rollback()
        why = "Outbox problem: rows that this process has written can't be seen"
        wait_until(lambda: why in caplog.text, "it is told")


def test_an_event_outside_of_a_transaction_goes_as_ever(shop: OutboxShop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("a")

    assert shop.sent() == ["a"]
    assert shop.is_empty()


def test_an_outer_transaction_decides(shop: OutboxShop) -> None:
    for ending in "rollback", "commit":
        with shop.engine.connect() as connection:
            outer = connection.begin()
            with Session(connection) as session:
                shop.events.bind_session(session, outbox=shop.table)
                session.add(Order(sku=ending))
                session.flush()
                shop.enqueue(ending)
                session.commit()
            time.sleep(0.3)  # The store looks, and sees no row.
            assert shop.sent() == []
            getattr(outer, ending)()

    wait_until(lambda: shop.sent() == ["commit"], "the outer transaction's is sent")


# Bad input.


def test_an_outer_transaction_that_stays_open_keeps_no_others_waiting(
    mariadb: DatabaseServer,
) -> None:
    with (
        open_outbox(mariadb.new_database(), OUTBOX_LEASE=3) as shop,
        shop.engine.connect() as connection,
        connection.begin(),
    ):
        commit_inside(shop, connection)
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() > begun + 1, "a third of the lease is over")
        shop.place("b")
        wait_until(lambda: shop.sent() == ["b"], "the other one is sent")


def test_a_missing_table_fails_the_commit(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), fresh=False) as shop:
        with pytest.raises(ConfigurationError, match="migrations"):
            shop.place("a")
        assert stored(shop.engine) == []
        assert shop.books() == {"discarded": 1}


def test_a_database_in_memory_is_refused_before_anything_is_committed() -> None:
    shop = OutboxShop("sqlite://")
    with pytest.raises(ConfigurationError, match="use a file"):
        shop.enqueue("a")
    with pytest.raises(ConfigurationError, match="use a file"):
        shop.place("a")
    assert stored(shop.engine) == []
    shop.engine.dispose()


def test_an_engine_without_transactions_is_refused_likewise(tmp_path: Path) -> None:
    engine = create_engine(url_in(tmp_path), isolation_level="AUTOCOMMIT")
    shop = Shop(EventCollector(), TESTING_BROKER=True, BROKER_URL="memory://")
    table = make_outbox_table(MetaData())
    shop.events.bind_session(sessionmaker(engine), outbox=table)
    with pytest.raises(ConfigurationError, match="isolation level is AUTOCOMMIT"):
        shop.enqueue("a")
    engine.dispose()


@pytest.mark.parametrize("name", ["x" * 65, "a\0"])
def test_a_name_that_no_row_can_have_is_refused_likewise(
    tmp_path: Path, name: str
) -> None:
    shop = OutboxShop(url_in(tmp_path), SPOOL_NAME=name)
    with pytest.raises(ConfigurationError, match="set EVENTCOLLECTOR_SPOOL_NAME"):
        shop.enqueue("a")
    shop.engine.dispose()


def test_an_extension_has_one_outbox(shop: OutboxShop) -> None:
    other = make_outbox_table(MetaData(), "other")
    with pytest.raises(ConfigurationError, match="outbox is the table"):
        shop.events.bind_session(shop.sessions, outbox=other)


# Outages, and the ends of processes.


def send_one_and_retain_one(shop: OutboxShop) -> None:
    """Send "a"; then let the broker go down, and hold "b"."""
    shop.place("a")
    assert shop.events.flush(DEADLINE)
    wait_until(shop.is_empty, "its row is erased")
    shop.faults.go_down()
    shop.place("b")
    wait_until(lambda: shop.books().get("retained") == 1, "it is retained")


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let this process see a later time when it thinks of its lease."""
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    monkeypatch.setattr(store, "time", later)


def end_leases(shop: OutboxShop) -> None:
    """Let the leases of all rows run out now, by the clock of the database."""
    with shop.engine.begin() as connection:
        connection.execute(update(shop.table).values(due=now_ms()))


@pytest.fixture
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each process look often for rows whose lease has run out."""
    monkeypatch.setattr(store, "LOOK_INTERVAL", 0.2)


def test_while_the_broker_is_down_rows_are_kept(shop: OutboxShop) -> None:
    send_one_and_retain_one(shop)
    assert shop.rows() == [(0, True)]

    shop.faults.come_up()
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a", "b"]


@pytest.mark.parametrize("overflow", ["drop-oldest", "drop-newest"])
def test_what_is_committed_is_not_dropped_for_other_events(
    tmp_path: Path, overflow: str
) -> None:
    limits = {"MAX_EVENTS": 10, "OVERFLOW": overflow}
    with open_outbox(url_in(tmp_path), **limits) as shop:
        shop.place("a")
        assert shop.events.flush(DEADLINE)
        shop.faults.go_down()
        shop.place("b", "c")
        wait_until(lambda: shop.books().get("retained") == 2, "they are retained")
        for _ in range(20):
            with shop.events.auto_publish():
                shop.enqueue("not committed by anybody", queue="other")
        assert shop.books()["dropped"] >= 10

        shop.faults.come_up()
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b", "c"]


def test_an_outage_loses_no_committed_event_for_lack_of_room(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), MAX_EVENTS=10) as shop:
        send_one_and_retain_one(shop)
        skus = [f"{number:02}" for number in range(30)]
        shop.place(*skus)
        # The rest of the memory is for events that are nowhere else.
        wait_until(lambda: _held(shop) <= 5, "no more than half of it is used")
        with shop.events.auto_publish():
            shop.enqueue(*range(4), queue="other")
        shop.place("last")

        shop.faults.come_up()
        wait_until(lambda: len(shop.sent()) == 33, "all are sent")
        assert shop.sent() == ["a", "b", *skus, "last"]
        assert shop.sent("other") == [0, 1, 2, 3]
        assert "dropped" not in shop.books()


def _held(shop: OutboxShop) -> int:
    return [is_held for _, is_held in shop.rows()].count(True)


def test_a_transaction_may_have_more_events_than_there_is_room_for(
    tmp_path: Path,
) -> None:
    with open_outbox(url_in(tmp_path), MAX_EVENTS=10) as shop:
        with shop.placing("a"):
            shop.enqueue(*range(30))

        wait_until(lambda: len(shop.sent()) == 31, "all are sent")
        assert shop.sent() == ["a", *range(30)]
        assert "dropped" not in shop.books()


def test_what_no_commit_has_written_stays_within_the_limits(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), MAX_EVENTS=10) as shop:
        shop.faults.go_down()
        with shop.sessions() as session:
            session.execute(select(Order))
            shop.enqueue(*range(30))
            assert shop.books() == {"collected": 30}

        assert shop.events.publish(0).dropped == 20
        assert shop.books() == {"retained": 10, "dropped": 20}
        shop.faults.come_up()
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == [*range(10)]


def test_an_app_without_an_outbox_has_limits_for_the_same_session(
    tmp_path: Path,
) -> None:
    with open_outbox(url_in(tmp_path)) as shop:
        other = Shop(EventCollector(), name="other", MAX_EVENTS=10)
        other.events.bind_session(shop.sessions)
        with shop.sessions() as session:
            session.execute(select(Order))
            other.enqueue(*range(30))
        assert other.books()["dropped"] >= 20
        other.events.close(0)


def test_overflow_may_reject_the_events_of_a_transaction(tmp_path: Path) -> None:
    settings = {"MAX_EVENTS": 10, "OVERFLOW": "reject"}
    with open_outbox(url_in(tmp_path), **settings) as shop:
        with pytest.raises(BacklogFull), shop.placing("a"):
            shop.enqueue(*range(30))

        assert shop.is_empty()
        assert stored(shop.engine) == []


def test_a_process_that_ends_gives_its_rows_back(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path)) as shop:
        send_one_and_retain_one(shop)
        assert not shop.events.close(0)
        assert shop.rows() == [(0, False)]
        assert shop.books()["outboxed"] == 3

        with open_next(shop) as after:
            after.events.flush(DEADLINE)
            assert after.sent() == ["b"]
            assert [dict(e.headers) for e in after.broker.events("q")] == [{}]


@contextmanager
def open_next(shop: OutboxShop) -> Iterator[Shop]:
    """Another process's app on the same table, which has had its first request."""
    events = EventCollector()
    events.bind_session(shop.sessions, outbox=shop.table)
    after = Shop(events, TESTING_BROKER=True, BROKER_URL="memory://")
    try:
        after.test_client().get("/")
        yield after
    finally:
        events.close(0)


@pytest.mark.usefixtures("_frequent_looks")
def test_rows_of_a_killed_process_are_taken_over(shop: OutboxShop) -> None:
    command = [sys.executable, "-c", KILLED, str(shop.engine.url)]
    done = subprocess.run(command, cwd=ROOT, env=unmeasured(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert shop.rows() == [(0, True)]

    with open_next(shop) as after:
        assert after.events.flush(DEADLINE)
        assert after.sent() == []
        end_leases(shop)
        after.events.flush(DEADLINE)
        wait_until(lambda: after.sent() == ["a"], "the row is taken over")
        (sent,) = after.broker.events("q")
        assert sent.headers["x-possible-duplicate"] is True
        wait_until(shop.is_empty, "its row is erased")


KILLED = """
import os, signal, sys
from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import sessionmaker
from flask import Flask
from flask_eventcollector import EventCollector, make_outbox_table
from tests.transactions.support import Order

sessions = sessionmaker(create_engine(sys.argv[1]))
app = Flask("shop")
app.config.update(EVENTCOLLECTOR_BROKER_URL="amqp://127.0.0.1:1")
events = EventCollector(app)
events.bind_session(sessions, outbox=make_outbox_table(MetaData()))
with sessions.begin() as session:
    session.add(Order(sku="a"))
    session.flush()
    events.enqueue_event("a", "q")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_that_another_process_has_taken_are_not_sent(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_one_and_retain_one(shop)
    with shop.engine.begin() as connection:
        due = shop.table.c.due + 60_000
        connection.execute(update(shop.table).values(token="another", due=due))
    let_time_pass(monkeypatch, LEASE / 2)

    wait_until(lambda: "retained" not in shop.books(), "it is left")
    shop.faults.come_up()
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a"]
    assert shop.rows() == [(0, True)]


@pytest.mark.usefixtures("_frequent_looks")
def test_nothing_is_sent_after_a_lease_that_could_not_be_renewed(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_one_and_retain_one(shop)
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE eventcollector_outbox RENAME TO x")
    let_time_pass(monkeypatch, LEASE)

    wait_until(lambda: "retained" not in shop.books(), "it is left")
    assert "eventcollector_outbox" in shop.events.stats().outbox_error
    assert not shop.events.stats().spool_error
    shop.faults.come_up()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE x RENAME TO eventcollector_outbox")
    end_leases(shop)
    wait_until(lambda: shop.sent() == ["a", "b"], "it is claimed again")


def test_what_is_sent_after_the_lease_is_marked(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hang(*_: object) -> int:
        answers.wait(DEADLINE)
        return 0

    send_one_and_retain_one(shop)
    # The database does not answer.
    monkeypatch.setattr(Outbox, "renew", hang)
    let_time_pass(monkeypatch, LEASE)
    shop.faults.come_up()
    wait_until(lambda: shop.sent() == ["a", "b"], "it is sent")
    answers.set()
    marks = [dict(event.headers) for event in shop.broker.events("q")]
    assert marks == [{}, {"x-possible-duplicate": True}]


def test_a_commit_whose_answer_is_lost_is_sent_after_the_lease(
    tmp_path: Path,
) -> None:
    def lose_answer(connection: Connection) -> None:
        connection.exec_driver_sql("COMMIT")
        raise OSError("the connection is lost")

    with open_outbox(url_in(tmp_path), OUTBOX_LEASE=2) as shop:
        shop.place("a")
        assert shop.events.flush(DEADLINE)
        shop.faults.go_down()
        shop.place("b")
        event.listen(shop.engine, "commit", lose_answer)
        with pytest.raises(OSError, match="lost"):
            shop.place("c")
        event.remove(shop.engine, "commit", lose_answer)
        assert stored(shop.engine) == ["a", "b", "c"]
        # Meanwhile, the lease of b is renewed.
        wait_until(lambda: shop.books().get("retained") == 2, "its row is claimed")

        shop.faults.come_up()
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b", "c"]


def test_a_dead_event_is_a_dead_row_until_it_is_retried(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        shop.faults.fail_next(Outcome.RETURNED)
        shop.place("a")
        wait_until(lambda: shop.rows() == [(1, False)], "its row is dead")
        assert shop.events.flush(DEADLINE)

        assert shop.events.retry() == 1
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a"]
        wait_until(shop.is_empty, "its row is erased")


def has_rows(shop: OutboxShop, expected: list[tuple[int, bool]]) -> bool:
    return shop.rows() == expected


def place_dead(shop: OutboxShop, *skus: str) -> None:
    """Let an event for each of *skus* be dead."""
    for number, sku in enumerate(skus, 1):
        shop.faults.fail_next(Outcome.RETURNED)
        shop.place(sku)
        expected = [(1, False)] * number
        wait_until(partial(has_rows, shop, expected), "it is dead")


def test_a_dead_row_that_an_operator_frees_is_sent(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        place_dead(shop, "a")
        with shop.admin() as admin:
            admin.retry(shop.numbers())
        assert shop.events.flush(DEADLINE)

        assert shop.sent() == ["a"]
        assert shop.events.dead() == ()
        assert shop.events.retry() == 0
        wait_until(shop.is_empty, "its row is erased")


def test_dead_rows_leave_the_room_to_others(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        rows = rows_of(shop)
        room = rows._claimable()
        place_dead(shop, "a", "b")
        wait_until(lambda: rows._claimable() == room, "they need none")
        assert shop.events.retry() == 2
        wait_until(shop.is_empty, "they are sent")
        wait_until(lambda: rows._claimable() == room, "it is free again")


def test_a_dead_row_that_an_operator_purges_is_not_sent(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        place_dead(shop, "a")
        with shop.admin() as admin:
            admin.purge(shop.numbers())
        assert shop.events.retry() == 1
        assert shop.events.flush(DEADLINE)
        assert (shop.sent(), shop.events.dead()) == ([], ())


def test_what_an_operator_does_to_dead_rows_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOK_INTERVAL", 0.1)
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        place_dead(shop, "a", "b")
        first, second = shop.numbers()
        with shop.admin() as admin:
            admin.purge([first])
        wait_until(lambda: len(shop.events.dead()) == 1, "it is noticed")
        with shop.admin() as admin:
            admin.retry([second])
        wait_until(lambda: shop.sent() == ["b"], "it is sent")


@pytest.mark.parametrize("who", ["this process", "an operator"])
def test_a_dead_event_that_may_have_arrived_is_marked_when_it_is_retried(
    tmp_path: Path, who: str
) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0) as shop:
        shop.faults.fail_next(Outcome.UNKNOWN)
        shop.faults.fail_next(Outcome.RETURNED)
        shop.place("a")
        wait_until(lambda: shop.rows() == [(1, False)], "its row is dead")

        if who == "an operator":
            with shop.admin() as admin:
                admin.retry(shop.numbers())
        else:
            shop.events.retry()
        assert shop.events.flush(DEADLINE)
        marks = [dict(event.headers) for event in shop.broker.events("q")]
        assert marks == [{"x-possible-duplicate": True}]


def test_dead_rows_outlive_the_limit_for_dead_events(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path), DEAD_AFTER=0, MAX_DEAD_EVENTS=1) as shop:
        place_dead(shop, "a", "b", "c")
        wait_until(lambda: len(shop.events.dead()) == 1, "the others are left")

        assert shop.books() == {"outboxed": 5, "dead": 1}
        assert len(shop.rows()) == 3
        with shop.admin() as admin:
            admin.retry(shop.numbers())
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b", "c"]


def test_what_is_in_the_outbox_is_not_on_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path / "spool")}
    with open_outbox(url_in(tmp_path), **spool) as shop:
        send_one_and_retain_one(shop)
        assert shop.events.stats().spooled == 0
        with shop.events.auto_publish():
            shop.enqueue("outside of transactions")
        wait_until(lambda: shop.events.stats().spooled == 1, "it is on disk")
        stats = shop.events.stats()
        assert (stats.retained, stats.committed) == (2, 1)
        assert not shop.events.close(0)

    assert "Left 1 event in the outbox for other processes." in caplog.messages
    assert "Left 1 event in the spool for the next process." in caplog.messages


def test_rows_of_a_process_that_ends_without_a_database_are_left_to_their_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_outbox(url_in(tmp_path)) as shop:
        send_one_and_retain_one(shop)
        with shop.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE eventcollector_outbox RENAME TO x")
        assert not shop.events.close(0)
        with shop.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE x RENAME TO eventcollector_outbox")

        assert "Left 1 event in the outbox for other processes." in caplog.messages
        assert shop.rows() == [(0, True)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_an_outer_transaction_has_rolled_back_is_not_left(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_outbox(database_url) as shop, shop.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            shop.events.bind_session(session, outbox=shop.table)
            session.add(Order(sku="a"))
            session.flush()
            shop.enqueue("a")
            session.commit()
        outer.rollback()
        assert shop.events.close(DEADLINE)

    assert shop.books() == {"outboxed": 1}
    assert "Left" not in caplog.text


def test_a_process_that_ends_does_not_wait_for_an_outer_transaction(
    mariadb: DatabaseServer,
) -> None:
    with (
        open_outbox(mariadb.new_database()) as shop,
        shop.engine.connect() as connection,
        connection.begin(),
    ):
        commit_inside(shop, connection)
        # By the server, which would let it wait for 50 s.
        assert shop.events.close(DEADLINE)
        assert shop.extensions["eventcollector"].delivery()._store.left == 0


def test_a_lease_counts_from_the_writing_and_not_from_the_commit(
    shop: OutboxShop,
) -> None:
    written = 0.0

    def take_long(_: Connection) -> None:
        nonlocal written
        written = time.monotonic()
        wait_until(lambda: time.monotonic() > written, "time has passed")

    shop.place("first")
    assert shop.events.flush(DEADLINE)
    FaultInjector.of(shop.broker).go_down()
    wait_until(shop.is_empty, "the row is erased")
    event.listen(shop.engine, "commit", take_long)
    shop.place("a")
    event.remove(shop.engine, "commit", take_long)
    held = rows_of(shop)._held
    wait_until(lambda: len(held) == 1, "the row is held")

    assert held._until <= written + LEASE


def test_a_forked_child_holds_its_rows_itself(tmp_path: Path) -> None:
    with open_outbox(url_in(tmp_path)) as shop:
        shop.place("a")
        assert shop.events.flush(DEADLINE)
        wait_until(shop.is_empty, "its row is erased")
        shop.faults.go_down()
        shop.place("b")
        wait_until(lambda: shop.books().get("retained") == 1, "it is retained")

        def in_the_child() -> list[str]:
            shop.engine.dispose(close=False)
            shop.place("c")
            assert shop.events.flush(DEADLINE)
            wait_until(lambda: len(shop.rows()) == 1, "its row is erased")
            sent: list[str] = shop.sent()
            shop.events.close(DEADLINE)
            return sent

        assert in_child(in_the_child) == ["c"]
        assert shop.rows() == [(0, True)]
        shop.faults.come_up()
        assert shop.events.flush(DEADLINE)
        assert shop.sent() == ["a", "b"]
        assert all(not event.headers for event in shop.broker.events("q"))


def open_and_forget(url: str) -> tuple[Engine, Column[str]]:
    """An app with a row that it can't send, of which only its engine is left."""
    shop = OutboxShop(url)
    shop.place("a")
    assert shop.events.flush(DEADLINE)
    wait_until(shop.is_empty, "its row is erased")
    shop.faults.go_down()
    shop.place("b")
    wait_until(lambda: shop.rows() == [(0, True)], "its row is held")
    return shop.engine, shop.table.c.token


def test_an_app_that_is_gone_gives_its_rows_back(tmp_path: Path) -> None:
    engine, token = open_and_forget(url_in(tmp_path))
    gc.collect()

    def tokens() -> list[str | None]:
        with engine.connect() as connection:
            return list(connection.scalars(select(token)))

    wait_until(lambda: tokens() == [None], "its row is free")
    engine.dispose()


def test_threads_that_commit_at_once_share_one_holder(shop: OutboxShop) -> None:
    shop.place("first")
    with shop.engine.connect() as connection:
        tokens = set(connection.scalars(select(shop.table.c.token)))
    threads = [threading.Thread(target=shop.place, args=[f"{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(tokens) <= 1
    assert shop.events.flush(DEADLINE)
    assert sorted(shop.sent()) == ["0", "1", "2", "3", "first"]


# The test kit.


def test_in_tests_the_commit_publishes_and_writes_no_row(tmp_path: Path) -> None:
    with open_outbox("sqlite://", TESTING_BROKER=False) as shop:
        with shop.events.capture() as captured:
            shop.place("a")
            captured.assert_published("q", payload="a")
        assert shop.is_empty()


def test_in_tests_a_rolled_back_fixture_hides_nothing() -> None:
    with (
        open_outbox("sqlite://", TESTING_BROKER=False) as shop,
        shop.events.capture() as captured,
        shop.engine.connect() as connection,
    ):
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            shop.events.bind_session(session, outbox=shop.table)
            session.add(Order(sku="a"))
            session.flush()
            shop.enqueue("a")
            session.commit()
        captured.assert_published("q", payload="a")
        outer.rollback()


@pytest.mark.parametrize("has_outbox", [False, True])
def test_in_tests_a_rollback_is_asserted_inside_of_a_rolled_back_fixture(
    has_outbox: bool,
) -> None:
    shop, engine = Shop(EventCollector()), new_engine("sqlite://")
    table = make_outbox_table(MetaData()) if has_outbox else None
    with shop.events.capture() as captured, engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            shop.events.bind_session(session, outbox=table)
            for sku in "ab":
                session.add(Order(sku=sku))
                session.flush()
                shop.enqueue(sku)
                session.rollback() if sku == "a" else session.commit()
            shop.events.publish()
        outer.rollback()

    reason = "the transaction was rolled back"
    captured.assert_discarded("q", "a", reason=reason)
    captured.assert_not_published("q", "a")
    captured.assert_published("q", "b", times=1)
    with pytest.raises(AssertionError):
        captured.assert_discarded("q", "b", reason=reason)
    shop.events.close(0)
    engine.dispose()
