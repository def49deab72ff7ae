"""Processes with an outbox that run step by step, while a test moves the clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    create_engine,
    delete,
    event,
    select,
    text,
)
from sqlalchemy.orm import SessionTransaction, sessionmaker

from flask_eventcollector import EventCollector, make_outbox_table
from flask_eventcollector import events as events_module
from flask_eventcollector.app_state import AppState
from flask_eventcollector.app_state import state as state_module
from flask_eventcollector.delivery import delivery as delivery_module
from flask_eventcollector.delivery.broker import CallbackRelay
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.delivery.limits import Limits
from flask_eventcollector.events import BrokerState, Outcome
from flask_eventcollector.messages import encoding
from flask_eventcollector.stores import circuit_breaker
from flask_eventcollector.stores.outbox import (
    claims,
    due_times,
    incidents,
    relay,
    store,
)
from flask_eventcollector.stores.outbox.admin import OutboxAdmin
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.store import OutboxStore
from flask_eventcollector.stores.outbox.table import WAITING
from tests.helpers import Shop
from tests.transactions.support import ORDERS, Base, obey_savepoints, stored

APP = "machine"
#: Seconds.
LEASE = 30.0
#: The Julian day on which 1970 began.
_JULIAN_1970 = 2440587.5
_DAY = 86_400.0
#: Of the clocks: long ago, but no time has passed before it.
_BEGIN = 1_000_000.0


class Killed(Exception):
    """The process ends here, without any further step."""


class Clock:
    """The time of all processes and of the database, which only the test moves."""

    def __init__(self) -> None:
        self.now = _BEGIN

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return round(self.now * 1e9)

    def julianday(self, _now: str) -> float:
        """What SQLite's function of this name returns."""
        return _JULIAN_1970 + self.now / _DAY


class Place:
    """A database with the tables of orders and of the outbox."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self._url = url
        self._is_sqlite = url.startswith("sqlite")
        self.table = make_outbox_table(MetaData())
        if not self._is_sqlite:
            self._shadow_clock()
        #: Of the test, beside those of the processes.
        self.engine = self.open_engine()
        Base.metadata.create_all(self.engine)
        self.table.metadata.create_all(self.engine)

    def open_engine(self) -> Engine:
        """The engine of one process."""
        if not self._is_sqlite:
            # Nothing here waits for a lock: everything runs in one thread.
            options = "-csearch_path=clock,pg_catalog,public -clock_timeout=5s"
            return create_engine(self._url, connect_args={"options": options})
        # Another connection's lock is reported at once.
        arguments = {"check_same_thread": False, "timeout": 0}
        engine = create_engine(self._url, connect_args=arguments)
        obey_savepoints(engine)
        event.listen(engine, "connect", self._prepare_sqlite)
        return engine

    def move_clock(self, seconds: float) -> None:
        self.clock.now += seconds
        if not self._is_sqlite:
            self._set_clock()

    def orders(self) -> set[str]:
        """What is committed."""
        return set(stored(self.engine))

    def waiting(self) -> list[Any]:
        """The rows that are not dead."""
        rows = select(self.table).where(self.table.c.state == WAITING)
        with self.engine.connect() as connection:
            return list(connection.execute(rows))

    @contextmanager
    def admin(self) -> Iterator[OutboxAdmin]:
        """What an operator uses."""
        database = Database(self.engine, self.table)
        try:
            yield OutboxAdmin(database, APP)
        finally:
            database.close()

    def clear(self) -> None:
        """Leave nothing for the next example."""
        with self.engine.begin() as connection:
            for table in (ORDERS, *self.table.metadata.tables.values()):
                connection.execute(delete(table))

    def close(self) -> None:
        self.engine.dispose()

    def _prepare_sqlite(self, connection: Any, _record: object) -> None:
        connection.create_function("julianday", 1, self.clock.julianday)
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    def _shadow_clock(self) -> None:
        """A function of the name that the outbox calls, found before PostgreSQL's."""
        engine = create_engine(self._url)
        with engine.begin() as connection:
            for statement in _SHADOW:
                connection.execute(text(statement))
        engine.dispose()

    def _set_clock(self) -> None:
        with self.engine.begin() as connection:
            moved = text("UPDATE clock.now SET seconds = :seconds")
            connection.execute(moved, {"seconds": self.clock.now})


_SHADOW = (
    "CREATE SCHEMA clock",
    "CREATE TABLE clock.now (seconds double precision)",
    f"INSERT INTO clock.now VALUES ({_BEGIN})",
    "CREATE FUNCTION clock.statement_timestamp() RETURNS timestamptz LANGUAGE sql"
    " STABLE AS 'SELECT to_timestamp(seconds) FROM clock.now'",
)


@dataclass
class Fault:
    """What a transaction of a store ends with, instead of its commit or after it."""

    error: Exception
    #: Whether the database has committed.
    is_committed: bool
    #: How many transactions succeed before.
    left: int

    def strike(self, *, is_committed: bool) -> None:
        if is_committed is not self.is_committed or self.left < 0:
            return
        self.left -= 1
        if self.left < 0:
            raise self.error


class Worker:
    """A `PeriodicWorker` without a thread: the test runs it."""

    def __init__(
        self,
        run_once: Callable[[], float],
        on_stop: Callable[[], None],
        name: str,
        *,
        gather: float = 0.0,
        calls_user_code: bool = False,
    ) -> None:
        self.run_once = run_once
        # The flusher's thread does nothing at its end while another one shuts down.
        self._on_stop = on_stop if "outbox" in name else lambda: None
        self.is_running = False

    def start(self) -> None:
        self.is_running = True

    def wake(self) -> None:
        """The test decides."""

    request_stop = wake

    def stop(self, timeout: float) -> bool:
        if self.is_running:
            self.is_running = False
            self._on_stop()
        return True


class ModelBroker:
    """A broker that takes and settles when the test says so."""

    def __init__(self) -> None:
        self.relay = CallbackRelay()
        self.state = BrokerState.READY
        #: What is in flight.
        self.hand: list[Entry] = []

    # Called by the library.

    def start(self, callbacks: Any) -> None:
        self.relay.target = callbacks
        self.relay.on_state_change(self.state)

    def wake(self) -> None:
        """The test decides."""

    reconnect_now = wake

    def reconnect_soon(self, seconds: float = 0.0) -> None:
        """The test decides."""

    def close(self, timeout: float) -> bool:
        self.settle(self.hand, Outcome.UNKNOWN)
        self.state = BrokerState.CLOSED
        return True

    # Called by the test.

    def becomes(self, state: BrokerState) -> None:
        if state is BrokerState.DOWN:
            self.settle(self.hand, Outcome.UNKNOWN)
        self.state = state
        self.relay.on_state_change(state)

    def take(self, limit: int) -> list[Entry]:
        taken = self.relay.take(limit) if self.state is BrokerState.READY else []
        self.hand += taken
        return taken

    def settle(self, some: Iterable[Entry], outcome: Outcome, **more: Any) -> None:
        settled = list(some)
        self.hand = [entry for entry in self.hand if entry not in settled]
        self.relay.settle([Settlement(e, outcome, "no", **more) for e in settled])


@dataclass(eq=False)
class Process:
    """An app in a process of its own, with one session.

    If its outbox is for relays, it is one, too.
    """

    place: Place
    number: int
    max_events: int
    #: `OUTBOX_RELAY`.
    relay: str
    savepoints: list[SessionTransaction] = field(default_factory=list)
    #: A transaction of the connection that the session has joined.
    outer: Connection | None = None

    def __post_init__(self) -> None:
        self.engine = self.place.open_engine()
        self.sessions = sessionmaker(self.engine)
        self.session = self.sessions()
        self.shop = Shop(
            EventCollector(),
            name=APP,
            TESTING_BROKER=True,
            BROKER_URL="amqp://127.0.0.1:1/",  # No connection is made to it.
            MAX_EVENTS=self.max_events,
            OUTBOX_LEASE=LEASE,
            OUTBOX_RELAY=self.relay,
            CONFIRM_TIMEOUT=0,
            # Nothing is retried before it is requested.
            RETRY_DELAY=1e9,
            RETRY_MAX_DELAY=1e9,
        )
        self.events = self.shop.events
        self.events.bind_session(self.sessions, outbox=self.place.table)
        state = self.shop.extensions["eventcollector"]
        assert isinstance(state, AppState)
        #: What sends the rows.
        self.delivery = self._start(state)
        assert isinstance(self.delivery._store, OutboxStore)
        self.store = self.delivery._store
        assert isinstance(self.delivery.broker, ModelBroker)
        self.broker = self.delivery.broker

    def _start(self, state: AppState) -> Delivery:
        if self.relay == "own":
            # As at its first request: it begins to look for rows.
            self.events.stats()
            return state.delivery()
        assert state.sessions.outbox is not None
        relay, rows = state.new_relay(state.sessions.outbox, f"process {self.number}")
        rows.open(self.engine)
        relay.start()
        return relay

    @property
    def has_transaction(self) -> bool:
        return self.outer is not None or self.session.in_transaction()

    def run_store(self) -> float:
        """One run of the outbox's thread; returns when it wants the next one."""
        worker = self.store._worker
        assert isinstance(worker, Worker)
        return worker.run_once()

    def join_outer(self) -> None:
        self.outer = self.engine.connect()
        self.outer.begin()
        self.session = self.sessions(bind=self.outer)

    def end_outer(self, how: str) -> None:
        assert self.outer is not None
        self.savepoints.clear()
        # What it had not committed, the outer transaction could commit all the same.
        getattr(self.session, how)()
        self.session.close()
        transaction = self.outer.get_transaction()
        try:
            # The session may have rolled it back.
            if transaction is not None:
                getattr(transaction, how)()
        finally:
            self.outer.close()
            self.outer = None
            self.session = self.sessions()

    def roll_back(self) -> None:
        """As an app does after an error, whatever was open."""
        self.savepoints.clear()
        self.session.rollback()
        if self.outer is not None:
            self.end_outer("rollback")

    def close(self) -> None:
        """It ends in order."""
        self.delivery.close(0)
        self.events.close(0)

    def kill(self) -> None:
        """The process is gone: the database rolls back what was open."""
        for worker in (self.store._worker, self.delivery._flusher):
            assert isinstance(worker, Worker)
            worker.is_running = False
        self.session.invalidate()
        if self.outer is not None:
            self.outer.invalidate()
            self.outer.close()
        self.disconnect()

    def disconnect(self) -> None:
        for database, _ in self.store._opened.values():
            database.close()
        self.engine.dispose()


#: What has the time from the simulation's clock.
_CLOCKED = (store, relay, claims, due_times, incidents, circuit_breaker)


class Simulation:
    """Lets all that is made in its time run step by step, until it is closed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.fault: Fault | None = None
        self._numbers = itertools.count(1)
        self._patches = ExitStack()
        time = SimpleNamespace(monotonic=place.clock.monotonic)

        class ClockedLedger(Ledger):
            def __init__(self, limits: Limits, **more: Any) -> None:
                super().__init__(limits, place.clock.monotonic, **more)

        replaced = [
            *((module, "time", time) for module in _CLOCKED),
            *(
                (module, "PeriodicWorker", Worker)
                for module in (store, delivery_module)
            ),
            (events_module, "time", place.clock),
            (encoding, "time", place.clock),
            (state_module, "Ledger", ClockedLedger),
            (state_module, "broker_of", lambda *_: ModelBroker()),
            # The end of the test's process is none of theirs.
            (state_module, "close_at_exit", lambda *_: None),
            (Database, "changing", self._failing(Database.changing)),
        ]
        for target, name, value in replaced:
            self._patches.enter_context(patch.object(target, name, value))

    def start(self, max_events: int, relay: str) -> Process:
        return Process(self.place, next(self._numbers), max_events, relay)

    def close(self) -> None:
        self._patches.close()
        self.place.clear()

    def _failing(self, changing: Callable[[Database], Any]) -> Callable[..., Any]:
        @contextmanager
        def failing(database: Database) -> Iterator[Connection]:
            with changing(database) as connection:
                yield connection
                self._strike(is_committed=False)
            self._strike(is_committed=True)

        return failing

    def _strike(self, *, is_committed: bool) -> None:
        if self.fault is not None:
            self.fault.strike(is_committed=is_committed)


@contextmanager
def failing_commit(
    engine: Engine, error: Exception, *, is_committed: bool
) -> Iterator[None]:
    """The next commit fails: before it, or when its answer is lost."""

    def fail(connection: Connection) -> None:
        if is_committed:
            connection.exec_driver_sql("COMMIT")
        raise error

    event.listen(engine, "commit", fail)
    try:
        yield
    finally:
        event.remove(engine, "commit", fail)


def some_of(items: Sequence[Any], places: Sequence[int]) -> list[Any]:
    """The items at *places*, as far as there are any."""
    return [items[place] for place in places if place < len(items)]
