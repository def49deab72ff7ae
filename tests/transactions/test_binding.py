"""What ``bind_session()`` accepts, and which transaction an event then belongs to."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import flask_eventcollector.transactions.session_events as session_events
from flask_eventcollector import EventCollector, PublishResult
from flask_eventcollector.transactions.transaction import Transaction
from tests.helpers import DEADLINE, Shop
from tests.transactions.support import (
    NOT_COMMITTED,
    ORDERS,
    ROLLED_BACK,
    Base,
    Order,
    Work,
    open_engine,
    stored,
    url_in,
)

# Each kind of what can be bound, with a session that it finds.


def bind_scoped(events: EventCollector, engine: Engine) -> Session:
    registry = scoped_session(sessionmaker(engine))
    events.bind_session(registry)
    return registry()


def bind_scoped_by_a_function(events: EventCollector, engine: Engine) -> Session:
    create: Any = lambda: Session(engine)  # noqa: E731
    registry: scoped_session[Session] = scoped_session(create)
    events.bind_session(registry)
    return registry()


def bind_maker(events: EventCollector, engine: Engine) -> Session:
    maker = sessionmaker(engine)
    events.bind_session(maker)
    return maker()


def bind_subclass(events: EventCollector, engine: Engine) -> Session:
    class OwnSession(Session):
        """A session of this test."""

    events.bind_session(OwnSession)
    return OwnSession(engine)


def bind_class(events: EventCollector, engine: Engine) -> Session:
    events.bind_session(Session)
    return Session(engine)


def bind_session(events: EventCollector, engine: Engine) -> Session:
    session = Session(engine)
    events.bind_session(session)
    return session


def bind_function(events: EventCollector, engine: Engine) -> Session:
    session = Session(engine)
    events.bind_session(lambda: session)
    return session


def bind_function_of_a_registry(events: EventCollector, engine: Engine) -> Session:
    registry = scoped_session(sessionmaker(engine))
    events.bind_session(lambda: registry)
    return registry()


def bind_context_variable(events: EventCollector, engine: Engine) -> Session:
    current: ContextVar[Session] = ContextVar("current")
    events.bind_session(current.get)
    current.set(Session(engine))
    return current.get()


BINDINGS: list[Callable[[EventCollector, Engine], Session]] = [
    bind_scoped,
    bind_scoped_by_a_function,
    bind_maker,
    bind_subclass,
    bind_class,
    bind_session,
    bind_function,
    bind_function_of_a_registry,
    bind_context_variable,
]


@pytest.fixture(params=BINDINGS, ids=lambda bind: bind.__name__)
def work(request: pytest.FixtureRequest, shop: Shop, engine: Engine) -> Iterator[Work]:
    bind: Callable[[EventCollector, Engine], Session] = request.param
    with bind(shop.events, engine) as session:
        yield Work(shop, session)


def test_whatever_is_bound_its_transactions_decide(work: Work) -> None:
    with work.shop.events.capture() as captured, work.shop.events.auto_publish():
        work.place("a")
        work.session.rollback()
        work.place("b")
        with suppress(ZeroDivisionError), work.session.begin_nested():
            work.place("c")
            _ = 1 / 0
        work.session.commit()
        work.place("d")
        work.session.close()

    captured.assert_discarded("q", "a", reason="the transaction was rolled back")
    captured.assert_published("q", "b", times=1)
    found = {event.payload: event.reason for event in captured.discarded}
    assert found == {"a": ROLLED_BACK, "c": ROLLED_BACK, "d": NOT_COMMITTED}


def test_the_first_transaction_of_an_engine_is_seen(shop: Shop) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        shop.events.bind_session(session)
        session.execute(text("CREATE TABLE orders (sku)"))
        session.execute(text("INSERT INTO orders VALUES ('a')"))
        shop.enqueue("a")
        session.rollback()

    assert shop.books() == {"discarded": 1}
    engine.dispose()


def test_a_session_that_is_bound_in_a_transaction_is_seen_from_then_on(
    shop: Shop, engine: Engine
) -> None:
    with Session(engine) as session:
        work = Work(shop, session)
        session.add(Order(sku="a"))
        shop.events.bind_session(session)
        work.tell("a")
        session.rollback()

        assert shop.books() == {"discarded": 1}


def test_binding_the_same_session_again_has_no_effect(
    shop: Shop, engine: Engine
) -> None:
    maker = sessionmaker(engine)
    # By another way, the same sessions are listened to twice.
    for _ in range(2):
        shop.events.bind_session(maker)
        shop.events.bind_session(Session)
    with maker() as session:
        work = Work(shop, session)
        work.place("a")
        with session.begin_nested():
            work.place("b")
        savepoint = session.begin_nested()
        work.place("c")
        savepoint.rollback()
        session.commit()

    assert shop.events.publish() == PublishResult(confirmed=2)
    assert shop.books() == {"confirmed": 2, "discarded": 1}
    assert len(shop.events._sessions._sources) == 2


def test_makers_that_come_and_go_are_each_listened_to(
    shop: Shop, engine: Engine
) -> None:
    """A new class may have the address of one that is gone."""
    for _ in range(200):
        maker = sessionmaker(engine)
        shop.events.bind_session(maker)
        shop.events._sessions._sources.clear()
        assert session_events.after_commit in list(maker().dispatch.after_commit)


def test_threads_that_come_first_at_once_are_all_listened_to(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a worker that has just started: the first one registers the hooks."""
    listen, is_listening, go_on = event.listen, threading.Event(), threading.Event()

    def listen_slowly(target: Any, *what: Any, **how: Any) -> None:
        if isinstance(target, Engine):
            is_listening.set()
            go_on.wait(DEADLINE)
        listen(target, *what, **how)

    with open_engine(url_in(tmp_path)) as engine:
        maker = sessionmaker(engine)
        shop.events.bind_session(maker)

        def place_and_roll_back(sku: str) -> None:
            with shop.app_context(), maker() as session, shop.events.auto_publish():
                session.execute(insert(ORDERS).values(sku=sku, note=""))
                shop.enqueue(sku)
                session.rollback()

        monkeypatch.setattr(event, "listen", listen_slowly)
        first, second = (
            threading.Thread(target=place_and_roll_back, args=[sku]) for sku in "ab"
        )
        first.start()
        assert is_listening.wait(DEADLINE)
        second.start()
        second.join(0.5)  # It waits for the first one. It must not go on without it.
        go_on.set()
        for thread in first, second:
            thread.join(DEADLINE)

    assert shop.books() == {"discarded": 2}


@pytest.mark.parametrize("is_bound_first", [True, False])
def test_a_listener_tells_of_a_rollback_whoever_listens_first(
    shop: Shop, engine: Engine, is_bound_first: bool
) -> None:
    maker = sessionmaker(engine)

    def tell(_: Session) -> None:
        shop.enqueue("payment failed")

    if is_bound_first:
        shop.events.bind_session(maker)
    event.listen(maker.class_, "after_rollback", tell)
    shop.events.bind_session(maker)

    with shop.app_context(), shop.events.auto_publish(), maker() as session:
        Work(shop, session).place("a")
        session.rollback()
    assert shop.sent() == ["payment failed"]


# No session in this context.


def test_without_a_session_events_are_published_as_ever(
    shop: Shop, engine: Engine
) -> None:
    outside: ContextVar[Session] = ContextVar("outside")

    def not_in_an_app_context() -> Session:
        raise RuntimeError("Working outside of application context.")

    registry = scoped_session(sessionmaker(engine))
    for nothing in (outside.get, not_in_an_app_context, lambda: None, registry):
        shop.events.bind_session(nothing)
    shop.enqueue("a")

    assert shop.events.publish() == PublishResult(confirmed=1)
    # Looking for it did not create one.
    assert not registry.registry.has()


def test_sessions_that_are_not_bound_decide_nothing(shop: Shop, engine: Engine) -> None:
    shop.events.bind_session(sessionmaker(engine))
    with Session(engine) as session:
        Work(shop, session).place("a")
        session.rollback()

    assert shop.events.publish() == PublishResult(confirmed=1)


# Several sessions.


@pytest.fixture
def several(shop: Shop, tmp_path: Path) -> Iterator[tuple[Work, Work]]:
    """Two sessions of one maker: the second one begins later."""
    with open_engine(url_in(tmp_path)) as engine:
        maker = sessionmaker(engine)
        shop.events.bind_session(maker)
        with maker() as first, maker() as second:
            first.connection()
            second.connection()
            yield Work(shop, first), Work(shop, second)


def test_an_event_belongs_to_the_transaction_that_began_last(
    several: tuple[Work, Work],
) -> None:
    first, second = several
    first.session.add(Order(sku="a"))
    second.session.add(Order(sku="b"))
    first.tell("x")

    second.session.rollback()

    assert first.shop.books() == {"discarded": 1}
    first.session.rollback()


def test_an_event_belongs_to_the_transaction_that_has_written(
    several: tuple[Work, Work],
) -> None:
    first, second = several
    first.session.add(Order(sku="a"))
    first.tell("x")

    second.session.rollback()
    assert first.shop.books() == {"collected": 1}
    first.session.rollback()

    assert first.shop.books() == {"discarded": 1}


def test_an_event_belongs_to_the_one_that_is_left(several: tuple[Work, Work]) -> None:
    first, second = several
    second.session.close()
    first.session.add(Order(sku="a"))
    first.tell("x")
    first.session.rollback()

    assert first.shop.books() == {"discarded": 1}


def test_several_registries_can_be_bound(shop: Shop, engine: Engine) -> None:
    here, there = (scoped_session(sessionmaker(engine)) for _ in range(2))
    shop.events.bind_session(here)
    shop.events.bind_session(there)
    here.add(Order(sku="a"))
    shop.enqueue("a")
    here.rollback()
    there.add(Order(sku="b"))
    shop.enqueue("b")
    there.rollback()
    here.remove()
    there.remove()

    assert shop.books() == {"discarded": 2}


def test_two_sessions_on_one_connection_are_told_apart(
    shop: Shop, engine: Engine
) -> None:
    """As with a fixture that rolls back, in the session of the test and of a view."""
    shop.events.bind_session(Session)
    with engine.connect() as connection, connection.begin():
        settings: dict[str, Any] = {"join_transaction_mode": "create_savepoint"}
        with Session(connection, **settings) as outer:
            Work(shop, outer).read()
            with Session(connection, **settings) as inner:
                Work(shop, inner).place("a")
                inner.commit()
            Work(shop, outer).tell("b")
            outer.rollback()
            assert shop.events.publish() == PublishResult(confirmed=2)

            Work(shop, outer).read()
            with Session(connection, **settings) as inner:
                Work(shop, inner).read()
            Work(shop, outer).place("c")
            outer.rollback()
        assert shop.books() == {"confirmed": 2, "discarded": 1}
        # The connection forgets who has used it.
        assert len(vars(connection)[session_events._KEY]) <= 2


# Databases that take nothing back.


def by_option(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def by_creation(engine: Engine) -> Engine:
    # The same database in memory.
    return create_engine("sqlite://", pool=engine.pool, isolation_level="autocommit")


def by_driver(engine: Engine) -> Engine:
    # Nobody begins a transaction, neither sqlite3 nor a listener.
    return create_engine("sqlite://", pool=engine.pool)


@pytest.mark.parametrize("at_once", [by_option, by_creation, by_driver])
def test_a_rollback_without_a_transaction_takes_nothing_back(
    shop: Shop, engine: Engine, at_once: Callable[[Engine], Engine]
) -> None:
    shop.events.bind_session(Session)
    with Session(at_once(engine)) as session:
        Work(shop, session).write("a")
        shop.enqueue("a")
        session.rollback()

    assert shop.events.publish() == PublishResult(confirmed=1)


# SQLite's savepoints.

_COMMITS = "SQLite begins a transaction at a savepoint"


def test_a_savepoint_that_commits_is_warned_of_once(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(url_in(tmp_path))
    Base.metadata.create_all(engine)
    shop.events.bind_session(Session)
    for sku in "ab":
        with Session(engine) as session:
            with session.begin_nested():
                Work(shop, session).place(sku)
            session.rollback()
    assert stored(engine) == ["a", "b"]
    engine.dispose()

    (warning,) = (m for m in caplog.messages if m.startswith(_COMMITS))
    assert "connect_args={'autocommit': False}" in warning


def test_a_savepoint_that_can_be_rolled_back_is_not_warned_of(
    shop: Shop, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.events.bind_session(Session)
    with open_engine(database_url) as engine:
        with Session(engine) as session:
            with session.begin_nested():
                Work(shop, session).place("a")
            session.rollback()
        assert stored(engine) == []

    assert not [m for m in caplog.messages if m.startswith(_COMMITS)]


def test_a_savepoint_in_a_transaction_is_not_warned_of(
    shop: Shop, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    legacy = create_engine(url_in(tmp_path))
    Base.metadata.create_all(legacy)
    shop.events.bind_session(Session)
    for bind in engine, legacy:
        with Session(bind) as session:
            Work(shop, session).place("a")
            with session.begin_nested():
                Work(shop, session).place("b")
            session.rollback()
        assert stored(bind) == []
    with legacy.connect() as connection, connection.begin_nested():
        """No session is concerned."""
    legacy.dispose()

    assert not [m for m in caplog.messages if m.startswith(_COMMITS)]


def test_a_savepoint_of_the_connection_is_not_seen(work: Work) -> None:
    savepoint = work.session.connection().begin_nested()
    work.place("a")
    savepoint.rollback()
    with suppress(IntegrityError):
        work.session.commit()

    assert work.shop.events.publish() == PublishResult(confirmed=1)


# Errors.


class Extension:
    """As the extensions for Flask, it has a session."""

    session = None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (None, "not NoneType"),
        ("sqlite://", "not str"),
        (create_engine("sqlite://"), "not sqlalchemy.engine.base.Engine"),
        (Order, "not "),
        (lambda name: None, "not function"),
        (
            Extension(),
            "Extension: pass its session, as in bind_session(db.session)",
        ),
    ],
)
def test_what_has_no_session_is_refused(shop: Shop, wrong: Any, words: str) -> None:
    with pytest.raises(TypeError) as raised:
        shop.events.bind_session(wrong)

    assert str(raised.value).startswith("bind_session() expects a scoped_session, ")
    assert words in str(raised.value)


def test_a_function_that_returns_something_else_is_refused(shop: Shop) -> None:
    wrong: Any = lambda: {}  # noqa: E731
    shop.events.bind_session(wrong)

    message = (
        "the function given to bind_session() returned dict: it must return the"
        " current session, or None"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        shop.enqueue("a")
    assert shop.books() == {}


def test_without_sqlalchemy_the_message_names_what_to_install(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "flask_eventcollector.transactions.sources"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy.orm", None)

    with pytest.raises(ImportError, match=r"pip install 'SQLAlchemy>="):
        shop.events.bind_session(Session)


@pytest.mark.parametrize("ending", ["commit", "rollback", "close"])
def test_a_hook_that_fails_is_logged_and_the_transaction_goes_on(
    shop: Shop,
    engine: Engine,
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop.events.bind_session(Session)
    with Session(engine) as session:
        Work(shop, session).place("a")
        monkeypatch.setattr(Transaction, "end", fail)
        getattr(session, ending)()

    assert "Session hook failed: after_transaction_end" in caplog.text


def test_changes_that_can_not_be_compared_are_logged(
    shop: Shop,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop.events.bind_session(Session)
    with Session(engine) as session:
        order = Work(shop, session).write("a")
        session.commit()
        order.note = "paid"
        monkeypatch.setattr(Session, "is_modified", fail)
        shop.enqueue("a")

        assert shop.events.publish() == PublishResult(confirmed=1)
    assert "Session hook failed: is_modified" in caplog.text


def fail(*arguments: object) -> None:
    raise LookupError
