"""The examples of docs/transactions.md, and the page's statements about them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_eventcollector import EventCollector
from flask_eventcollector.testing import Captured
from tests.docs.modules import imported, write
from tests.docs.reader import Example, find_one, runs
from tests.helpers import DEADLINE, books

pytest_plugins = ["pytester"]

PAGE = "docs/transactions.md"
ROLLED_BACK = "the transaction was rolled back"
NOT_COMMITTED = "the transaction was not committed"

SHOP, PAYMENT, IMPORTING, FORGOTTEN, RECEIPT, EARLY, BELOW, PLAIN, LITE, ASYNC, TEST = (
    find_one(page=PAGE, file=name)
    for name in (
        "shop.py",
        "payment.py",
        "importing.py",
        "forgotten.py",
        "receipt.py",
        "early.py",
        "below.py",
        "plain.py",
        "lite.py",
        "asynchronous.py",
        "test_shop.py",
    )
)

OUTBOX, SAVEPOINTS, ELSEWHERE, CORE, AT_ONCE, JOINED, RECEIVING = (
    find_one(page=PAGE, file=name)
    for name in (
        "outbox.py",
        "savepoints.py",
        "elsewhere.py",
        "core.py",
        "at_once.py",
        "joined.py",
        "receiving.py",
    )
)

BIND = find_one(page="flask_eventcollector/extension.py", heading="bind_session")


@contextmanager
def shop_with(*others: Example) -> Iterator[tuple[Any, Captured]]:
    """The page's shop with other examples, and what becomes of its events."""
    with imported(SHOP, *others) as (shop, *_), shop.events.capture() as captured:
        with shop.app.app_context():
            shop.db.create_all()
        yield shop, captured
        with shop.app.app_context():
            shop.db.engine.dispose()


def fates(captured: Captured) -> list[tuple[str, str]]:
    """The queue and the fate of each event, in order."""
    return [
        (event.queue, event.reason or event.fate.value) for event in captured.enqueued
    ]


def orders(shop: Any) -> list[str]:
    with shop.app.app_context():
        return list(shop.db.session.scalars(shop.db.select(shop.Order.sku)))


@runs(SHOP)
def test_what_is_committed_is_published() -> None:
    with shop_with() as (shop, captured):
        assert shop.app.test_client().post("/orders/A1").status_code == 200
        assert shop.app.test_client().post("/orders/A1").status_code == 500

        # The second one did not come as far as to enqueue.
        assert fates(captured) == [("orders.created", "published")]
        assert orders(shop) == ["A1"]


@runs(BIND)
def test_a_session_is_bound_before_there_is_an_app() -> None:
    names: dict[str, Any] = {"SQLAlchemy": SQLAlchemy, "EventCollector": EventCollector}
    exec(BIND.code, names)
    app, db, events = Flask("shop"), names["db"], names["events"]
    app.config.update(TESTING=True, SQLALCHEMY_DATABASE_URI="sqlite://")
    db.init_app(app)
    events.init_app(app)

    with app.app_context(), events.capture() as captured, events.auto_publish():
        db.session.execute(db.text("CREATE TABLE orders (sku)"))
        db.session.execute(db.text("INSERT INTO orders VALUES ('A1')"))
        events.enqueue_event({"sku": "A1"}, "orders.created")
        db.session.rollback()
        assert fates(captured) == [("orders.created", ROLLED_BACK)]

        db.engine.dispose()


@runs(PAYMENT)
def test_a_view_rolls_back_and_succeeds() -> None:
    with shop_with(PAYMENT) as (shop, captured):
        assert shop.app.test_client().post("/payments/gold").status_code == 200

        assert fates(captured) == [
            ("orders.created", ROLLED_BACK),
            ("payments.declined", "published"),
        ]
        assert orders(shop) == []


@runs(IMPORTING)
def test_a_savepoint_takes_its_own_events() -> None:
    with shop_with(IMPORTING) as (shop, captured):
        response = shop.app.test_client().post("/import", data="A1 B2 A1 C3")

        assert response.text == "1 refused"
        published = [event.payload["sku"] for event in captured.published]
        assert published == ["A1", "B2", "C3"]
        assert orders(shop) == ["A1", "B2", "C3"]


@runs(FORGOTTEN)
def test_a_forgotten_commit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with shop_with(FORGOTTEN) as (shop, captured):
        assert shop.app.test_client().post("/forgotten/A1").status_code == 200

        assert fates(captured) == [("orders.created", NOT_COMMITTED)]
        assert orders(shop) == []
    assert (
        "Discarded 1 event for orders.created: the transaction was not committed."
        in caplog.text
    )


@runs(RECEIPT)
def test_what_is_read_after_the_commit_takes_nothing_back() -> None:
    with shop_with(RECEIPT) as (shop, captured):
        assert shop.app.test_client().post("/receipts/A1").text == "1"

        assert fates(captured) == [
            ("orders.created", "published"),
            ("receipts.printed", "published"),
        ]


@runs(EARLY)
def test_what_is_published_early_waits_for_the_commit() -> None:
    with shop_with(EARLY) as (shop, captured):
        assert shop.app.test_client().post("/early/A1").text == "1 held"

        assert fates(captured) == [("orders.created", "published")]


@runs(BELOW)
def test_a_savepoint_of_the_connection_is_not_seen() -> None:
    with shop_with(BELOW) as (shop, captured):
        assert shop.app.test_client().post("/below/A1").status_code == 200

        assert fates(captured) == [("orders.created", "published")]
        assert orders(shop) == []


@runs(CORE, JOINED)
@pytest.mark.parametrize("example", [CORE, JOINED], ids=["core", "joined"])
def test_what_the_session_does_not_roll_back_is_not_seen(example: Example) -> None:
    # For "joined", SQLite has to obey savepoints.
    with shop_with(SAVEPOINTS, example) as (shop, captured):
        path = f"/{str(example.file).removesuffix('.py')}/A1"
        assert shop.app.test_client().post(path).status_code == 200

        assert fates(captured) == [("orders.created", "published")]
        assert orders(shop) == []


@runs(AT_ONCE)
def test_without_a_transaction_a_rollback_takes_nothing_back() -> None:
    with shop_with(AT_ONCE) as (shop, captured):
        assert shop.app.test_client().post("/at-once/A1").status_code == 200

        assert fates(captured) == [("orders.created", "published")]
        assert orders(shop) == ["A1"]


@runs(RECEIVING)
def test_a_receiver_has_a_session_of_its_own() -> None:
    with shop_with(PAYMENT, RECEIVING) as (shop, captured):
        assert shop.app.test_client().post("/payments/gold").status_code == 200

        assert fates(captured)[0] == ("orders.created", ROLLED_BACK)
        assert orders(shop) == ["not gold"]


@runs(PLAIN)
def test_a_sessionmaker_binds_all_its_sessions() -> None:
    with imported(PLAIN) as (plain,):
        plain.count("A1", 5)
        with pytest.raises(ValueError, match="there can't be -1 of it"):
            plain.count("A1", -1)

        assert books(plain.events) == {"confirmed": 1, "discarded": 1}
        plain.Session.kw["bind"].dispose()


@runs(LITE)
def test_flask_sqlalchemy_lite_has_a_function() -> None:
    pytest.importorskip("flask_sqlalchemy_lite")
    with imported(LITE) as (lite,), lite.events.capture() as captured:
        with lite.app.app_context():
            lite.Model.metadata.create_all(lite.db.engine)
        for sku in ("A1", "sold-out"):
            assert lite.app.test_client().post(f"/orders/{sku}").status_code == 200

        assert fates(captured) == [
            ("orders.created", "published"),
            ("orders.created", NOT_COMMITTED),
        ]
        with lite.app.app_context():
            lite.db.engine.dispose()


@runs(ASYNC)
def test_the_sessions_of_asyncio_need_no_await() -> None:
    pytest.importorskip("aiosqlite")

    async def count() -> None:
        await module.count("A1", 5)
        with pytest.raises(ValueError, match="there can't be -1 of it"):
            await module.count("A1", -1)
        await module.engine.dispose()

    with imported(ASYNC) as (module,), module.events.capture() as captured:
        asyncio.run(count())

        assert fates(captured) == [
            ("stock.counted", "published"),
            ("stock.counted", ROLLED_BACK),
        ]


@runs(TEST)
def test_the_test_on_the_page_passes(pytester: pytest.Pytester) -> None:
    write(pytester.path, SHOP, PAYMENT, TEST)

    # In a process of its own: SQLAlchemy can't be imported twice in one.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:flask")

    result.assert_outcomes(passed=1)


@runs(OUTBOX)
def test_with_an_outbox_a_commit_is_final(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'orders.sqlite3'}"
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", database)
    with imported(OUTBOX) as (shop,):
        with shop.app.app_context():
            shop.db.create_all()
        response = shop.app.test_client().post("/orders")
        assert response.status_code == 500
        assert shop.events.flush(DEADLINE)
        (event,) = shop.events.broker.events("orders.created")
        assert event.payload == {"id": 1}
        shop.events.close()
        with shop.app.app_context():
            shop.db.engine.dispose()


@runs(SAVEPOINTS)
@pytest.mark.parametrize("others", [(), (SAVEPOINTS,)], ids=["as it is", "cured"])
def test_sqlite_commits_at_a_savepoint_unless_it_is_cured(
    others: tuple[Example, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with shop_with(*others) as (shop, _):
        with shop.app.app_context():
            with shop.db.session.begin_nested():
                shop.db.session.add(shop.Order(sku="A1"))
            shop.db.session.rollback()

        assert orders(shop) == ([] if others else ["A1"])
    warned = any("SQLite begins a transaction at a sav" in m for m in caplog.messages)
    assert warned is not bool(others)


@runs(ELSEWHERE)
def test_an_outbox_in_another_database_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("orders", "events")]
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", urls[0])
    monkeypatch.setenv("FLASK_SQLALCHEMY_BINDS__events", urls[1])
    with imported(ELSEWHERE) as (shop,):
        with shop.app.app_context():
            shop.db.create_all()
        assert shop.app.test_client().post("/orders").status_code == 200
        assert shop.events.flush(DEADLINE)
        shop.events.close()
        with shop.app.app_context():
            for engine in shop.db.engines.values():
                engine.dispose()
    (warning,) = (m for m in caplog.messages if m.startswith("Events are written to"))
    assert warning.index("/events") < warning.index("/orders")
