"""What a unit of work publishes while transactions are open, and what comes later."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

import flask_eventcollector.transactions.session_events as session_events
from flask_eventcollector import (
    Event,
    PublishResult,
    events_discarded,
    events_published,
)
from tests.helpers import Recorder, Shop, in_child, in_thread, open_shop, wait_until
from tests.transactions.support import (
    NOT_COMMITTED,
    ROLLED_BACK,
    Order,
    Work,
    open_engine,
    url_in,
)


@pytest.fixture
def maker(shop: Shop, engine: Engine) -> sessionmaker[Session]:
    maker = sessionmaker(engine)
    shop.events.bind_session(maker)
    return maker


@pytest.fixture
def work(shop: Shop, maker: sessionmaker[Session]) -> Iterator[Work]:
    with maker() as session:
        yield Work(shop, session)


def reasons(recorder: Recorder) -> list[str]:
    """Why events were discarded, one for each signal."""
    return [heard.about["reason"] for heard in recorder.heard("events_discarded")]


# publish() before the end of the transaction.


def test_an_early_publish_holds_back_what_may_be_rolled_back(work: Work) -> None:
    work.tell("before")
    work.place("a")

    result = work.shop.events.publish()

    assert result == PublishResult(confirmed=1, held=1)
    assert not result.complete
    assert work.shop.sent() == ["before"]
    assert work.shop.books() == {"confirmed": 1, "collected": 1}


def test_the_commit_publishes_what_was_held_back(work: Work) -> None:
    with Recorder(work.shop) as recorder:
        work.place("a")
        work.place("b")
        work.shop.events.publish()
        work.session.commit()

        assert recorder.one("events_published").payloads == ["a", "b"]
    assert work.shop.sent() == ["a", "b"]
    assert work.shop.books() == {"confirmed": 2}


def test_the_rollback_discards_what_was_held_back(work: Work) -> None:
    with Recorder(work.shop) as recorder:
        work.place("a")
        work.shop.events.publish()
        work.session.rollback()

        assert reasons(recorder) == [ROLLED_BACK]
    assert work.shop.books() == {"discarded": 1}


def test_a_savepoint_discards_its_part_of_what_was_held_back(work: Work) -> None:
    work.place("a")
    savepoint = work.session.begin_nested()
    work.place("b")
    assert work.shop.events.publish() == PublishResult(held=2)

    savepoint.rollback()
    work.session.commit()

    assert work.shop.sent() == ["a"]
    assert work.shop.books() == {"confirmed": 1, "discarded": 1}


def test_what_was_held_back_is_not_published_twice(work: Work) -> None:
    work.place("a")
    assert work.shop.events.publish() == PublishResult(held=1)
    assert work.shop.events.publish() == PublishResult()

    work.session.commit()

    assert work.shop.events.publish() == PublishResult()
    assert work.shop.sent() == ["a"]


def test_a_transaction_that_only_reads_holds_nothing_back(work: Work) -> None:
    work.read()
    work.tell("a")

    assert work.shop.events.publish() == PublishResult(confirmed=1)


def test_the_collector_shows_and_clears_what_belongs_to_a_transaction(
    work: Work,
) -> None:
    work.tell("before")
    work.place("a")
    shown = [event.payload for event in work.shop.events.events_to_publish]
    assert shown == ["before", "a"]

    assert work.shop.events.clear_events_to_publish() == 2
    work.session.commit()

    assert work.shop.events.publish() == PublishResult()
    assert work.shop.books() == {"discarded": 2}


def test_what_was_rolled_back_is_not_shown_and_not_cleared(work: Work) -> None:
    work.tell("before")
    work.place("a")
    work.session.rollback()

    shown = [event.payload for event in work.shop.events.events_to_publish]
    assert shown == ["before"]
    assert work.shop.events.clear_events_to_publish() == 1


def test_the_order_of_enqueueing_is_kept(work: Work) -> None:
    work.tell("1")
    work.place("2")
    with work.session.begin_nested():
        work.place("3")
    work.place("4")
    work.session.commit()
    work.tell("5")
    work.place("6")
    work.session.commit()

    work.shop.events.publish()

    assert work.shop.sent() == ["1", "2", "3", "4", "5", "6"]


# Blocks.


def test_a_block_in_a_transaction_waits_for_it(work: Work) -> None:
    with work.shop.events.auto_publish():
        work.place("a")
    assert work.shop.sent() == []

    work.session.commit()

    assert work.shop.sent() == ["a"]


def test_a_block_in_a_transaction_that_is_rolled_back(work: Work) -> None:
    with work.shop.events.auto_publish():
        work.place("a")
    work.session.rollback()

    assert work.shop.books() == {"discarded": 1}


def test_a_block_that_failed_is_not_published_by_the_commit(work: Work) -> None:
    with (
        Recorder(work.shop) as recorder,
        suppress(ZeroDivisionError),
        work.shop.events.auto_publish(),
    ):
        work.place("a")
        _ = 1 / 0
    work.session.commit()

    assert reasons(recorder) == ["ZeroDivisionError was raised"]
    assert work.shop.books() == {"discarded": 1}


def test_each_unit_of_work_in_a_transaction_decides_about_its_own(work: Work) -> None:
    work.place("a")
    with work.shop.events.auto_publish():
        work.place("b")
    with suppress(ZeroDivisionError), work.shop.events.auto_publish():
        work.place("c")
        _ = 1 / 0
    work.session.commit()
    assert work.shop.sent() == ["b"]

    work.shop.events.publish()

    assert work.shop.sent() == ["b", "a"]
    assert work.shop.books() == {"confirmed": 2, "discarded": 1}


def test_what_the_library_calls_waits_for_its_transaction(work: Work) -> None:
    """As a receiver in the flusher's thread."""
    with work.shop.events._state().scopes.background():
        work.place("a")
    assert work.shop.sent() == []

    work.session.commit()

    assert work.shop.sent() == ["a"]


@pytest.mark.parametrize(
    ("ending", "fate"), [("commit", "confirmed"), ("rollback", "discarded")]
)
def test_an_app_context_that_publishes_waits_for_the_transaction(
    engine: Engine, ending: str, fate: str
) -> None:
    with open_shop(AT_CONTEXT_END="publish") as shop, Session(engine) as session:
        shop.events.bind_session(session)
        with shop.app_context():
            Work(shop, session).place("a")
        assert shop.books() == {"collected": 1}

        getattr(session, ending)()

        assert shop.books() == {fate: 1}


# The console, and threads.


def test_the_console_sends_at_the_commit(engine: Engine) -> None:
    with open_shop(AUTOFLUSH=True) as shop, Session(engine) as session:
        shop.events.bind_session(session)
        work = Work(shop, session)

        work.tell("a")
        session.add(Order(sku="b"))
        work.tell("b")
        assert shop.sent() == ["a"]
        session.commit()

        assert shop.sent() == ["a", "b"]


def test_what_an_ended_thread_has_published_waits_for_the_commit(work: Work) -> None:
    work.write("a")

    def tell() -> None:
        # The session is used by one thread at a time.
        work.tell("a")
        work.shop.events.publish()

    events = work.shop.events
    events.bind_session(work.session)
    in_thread(tell)
    gc.collect()
    work.session.commit()

    assert work.shop.sent() == ["a"]


def test_what_an_ended_thread_has_not_published_is_abandoned(work: Work) -> None:
    work.shop.events.bind_session(work.session)
    work.write("a")

    in_thread(lambda: work.tell("a"))
    work.session.commit()

    assert work.shop.events.stats().balanced
    assert work.shop.books() == {"discarded": 1}


def test_each_thread_has_its_own_transaction(
    shop: Shop, maker: sessionmaker[Session]
) -> None:
    with maker() as session:
        Work(shop, session).write("a")

        def tell() -> None:
            # No transaction of this thread is in progress.
            with shop.events.auto_publish():
                shop.enqueue("b")

        in_thread(tell)
        session.rollback()

    assert shop.sent() == ["b"]


# Sessions that nobody closes.


def test_a_deleted_session_takes_back_what_it_holds(
    shop: Shop, maker: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(shop) as recorder:
        work = Work(shop, maker())
        work.place("a")
        assert shop.events.publish() == PublishResult(held=1)

        del work
        gc.collect()

        assert shop.books() == {"discarded": 1}
        assert reasons(recorder) == [NOT_COMMITTED]
    assert "the transaction was not committed. Call commit()" in caplog.text


def test_a_deleted_session_takes_back_what_is_published_later(
    shop: Shop, maker: sessionmaker[Session]
) -> None:
    work = Work(shop, maker())
    work.place("a")
    del work
    gc.collect()

    assert shop.events.publish() == PublishResult()

    assert shop.books() == {"discarded": 1}


def test_a_deleted_session_that_only_read_takes_nothing_back(
    shop: Shop, maker: sessionmaker[Session]
) -> None:
    work = Work(shop, maker())
    work.read()
    work.tell("a")
    del work
    gc.collect()
    shop.enqueue("b")

    assert shop.events.publish() == PublishResult(confirmed=2)


def test_nothing_stays_behind(shop: Shop, maker: sessionmaker[Session]) -> None:
    """Neither in the session, which may live long, nor in the ledger."""
    with maker() as session:
        work = Work(shop, session)
        for number in range(5):
            work.place(str(number))
            shop.events.publish()
            session.commit()
        assert session.info == {}
    for _ in range(5):
        maker().connection()
        gc.collect()
    assert list(session_events.open_transactions()) == []
    last = session_events._open(session_events._begun.get())
    assert last is None
    shop.events.stats()
    watched = shop.events._state().delivery()._ledger._owners._watched

    # The thread's collector.
    assert len(watched) <= 6
    assert all(not item.entries for item in watched)


# The end of the process, forks, and the disk.


def test_what_is_held_back_at_the_end_is_discarded(work: Work) -> None:
    work.place("a")
    work.shop.events.publish()

    assert work.shop.events.close(0)
    work.session.commit()

    assert work.shop.books() == {"discarded": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_child_leaves_its_parents_events_alone(work: Work) -> None:
    work.place("a")
    work.shop.events.publish()

    def roll_back() -> tuple[list[str], dict[str, int]]:
        with Recorder(work.shop) as recorder:
            work.session.rollback()
            work.tell("b")
            work.shop.events.publish()
            return reasons(recorder), work.shop.books()

    assert in_child(roll_back) == [[], {"confirmed": 1}]
    work.session.commit()
    assert work.shop.sent() == ["a"]


def test_a_commit_writes_to_the_spool_what_was_held_back(
    engine: Engine, tmp_path: Path
) -> None:
    settings = {"BROKER_URL": "memory://", "TESTING_BROKER": True}
    spool = {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path)}
    with open_shop(**settings, **spool) as shop:
        with Session(engine) as session:
            shop.events.bind_session(session)
            shop.faults.go_down()
            work = Work(shop, session)
            work.place("a")
            shop.events.publish()
            assert shop.events.stats().spooled == 0

            session.commit()

        assert shop.events.stats().spooled == 1
        assert shop.books() == {"retained": 1}


def test_a_commit_does_not_wait_for_the_broker(engine: Engine) -> None:
    with open_shop(CONFIRM_TIMEOUT=60) as shop, Session(engine) as session:
        shop.events.bind_session(session)
        shop.silence()
        Work(shop, session).place("a")
        shop.events.publish()

        session.commit()

        wait_until(lambda: shop.books() == {"in_flight": 1}, "it was sent")


# Receivers of signals, which run inside of commit(), rollback() and close().


@pytest.mark.parametrize("ending", ["commit", "rollback", "close"])
def test_a_receiver_may_begin_another_transaction(work: Work, ending: str) -> None:
    def write(sender: Shop, events: tuple[Event, ...], **extra: Any) -> None:
        work.write(f"of {events[0].payload}")
        work.session.commit()

    work.place("a")
    work.shop.events.publish()
    with (
        events_published.connected_to(write, work.shop),
        events_discarded.connected_to(write, work.shop),
    ):
        getattr(work.session, ending)()

    assert "of a" in work.read()
    assert work.shop.events.stats().balanced


def test_a_receiver_that_may_not_harms_nothing(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    def write(sender: Shop, events: tuple[Event, ...], **extra: Any) -> None:
        work.write("b")

    with (
        events_discarded.connected_to(write, work.shop),
        suppress(ZeroDivisionError),
        work.session.begin(),
    ):
        work.place("a")
        _ = 1 / 0

    assert "Signal receiver failed: events-discarded" in caplog.text
    assert work.read() == []
    assert work.shop.books() == {"discarded": 1}


# Several apps, several databases.


def test_each_app_gets_its_own_events_back(work: Work) -> None:
    other = Shop(work.shop.events, name="other")
    with Recorder(work.shop) as here, Recorder(other) as there:
        work.write("x")
        for app in (work.shop, other):
            with app.app_context(), app.events.auto_publish():
                app.enqueue(app.name)
        work.session.rollback()

        assert here.one("events_discarded").payloads == ["shop"]
        assert there.one("events_discarded").payloads == ["other"]
    other.events.close(0)


def test_one_session_with_several_binds_is_one_transaction(
    shop: Shop, engine: Engine, tmp_path: Path
) -> None:
    class Elsewhere(Session):
        """Writes orders into a second database, and reads from the first."""

        def get_bind(self, mapper: object = None, **about: object) -> Engine:
            return second if self._flushing else engine

    shop.events.bind_session(Elsewhere)
    with open_engine(url_in(tmp_path)) as second, Elsewhere() as session:
        work = Work(shop, session)
        work.read()
        work.tell("a")
        work.write("a")
        session.rollback()
        work.read()
        work.place("b")
        session.commit()

        assert shop.events.publish() == PublishResult(confirmed=1)
        assert shop.sent() == ["b"]
