"""What a capture records, and what it restores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import flask
import pytest
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import flask_eventcollector as package
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import Captured, Fate, Origin, event
from tests.helpers import SIGNALS, Shop, in_thread

from .shop_app import OpenShop, make_shop, place, publish

# Fates


def test_each_fate_has_its_list(open_shop: OpenShop) -> None:
    shop = open_shop(DEAD_AFTER=0, MAX_EVENTS=2)
    with shop.events.capture() as captured:
        publish(shop, "published")
        captured.fail_next(outcome="returned")
        publish(shop, "dead")
        shop.events.purge([captured.dead[0].id])
        captured.broker_down()
        publish(shop, "retained")
        place(shop, path="/refused")
        shop.enqueue("fits", "does not")
        shop.events.clear_events_to_publish()

        assert captured.published == [event("q", "published")]
        assert captured.retained == [event("q", "retained")]
        assert captured.discarded == [
            event("orders.created", reason="the response was 409"),
            event("q", "fits", reason="cleared"),
        ]
        assert captured.dropped == [
            event("q", "dead", reason="purged"),
            event("q", "does not", reason="overflow"),
        ]
        assert captured.dead == []
        assert len(captured.enqueued) == 6
        assert {e.fate for e in captured.enqueued} == set(Fate) - {
            Fate.ENQUEUED,
            # That needs an exchange of its own.
            Fate.UNROUTED,
            Fate.DEAD,
        }


def test_an_event_moves_from_list_to_list(shop: Shop, captured: Captured) -> None:
    captured.fail_next(outcome="nacked")
    publish(shop, 1)
    before = captured.retained[0]
    assert captured.published == []

    assert captured.flush()

    assert captured.retained == []
    after = captured.published[0]
    assert [before.fate, before.attempts] == [Fate.RETAINED, 1]
    assert [after.fate, after.attempts, after.reason] == [Fate.PUBLISHED, 2, ""]
    assert before == after
    assert len({before, after}) == 1


def test_an_event_shows_all_that_a_consumer_gets(
    shop: Shop, captured: Captured
) -> None:
    with shop.app_context(), shop.events.auto_publish():
        sent = shop.events.enqueue_event(
            {"pair": (1, 2)}, "q", headers={"x": 1}, exchange="prices"
        )

    seen = captured.published[0]
    assert [seen.id, seen.queue, seen.exchange] == [sent.id, "q", "prices"]
    assert seen.payload == {"pair": [1, 2]}
    assert seen.headers == {"x": 1}
    assert (
        repr(seen)
        == "event('q', {'pair': [1, 2]}, headers={'x': 1}, exchange='prices')"
    )
    assert "pair" not in repr(sent)


def test_an_event_knows_the_line_that_enqueued_it(
    shop: Shop, captured: Captured
) -> None:
    line = sys._getframe().f_lineno + 1
    shop.events.enqueue_event(1, "q")
    shop.events.clear_events_to_publish()

    origin = captured.enqueued[0].origin
    name = "test_an_event_knows_the_line_that_enqueued_it"
    assert origin == Origin(__file__, line, name)
    assert str(origin).endswith(f"test_capture.py:{line} in {name}")


def test_a_line_is_shown_as_one_would_type_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert str(Origin(f"{tmp_path}/shop/a.py", 3, "f")) == "shop/a.py:3 in f"
    assert str(Origin("/elsewhere/a.py", 3, "f")) == "/elsewhere/a.py:3 in f"


def test_the_events_of_one_publish_are_in_the_order_of_enqueueing(
    shop: Shop, captured: Captured
) -> None:
    with shop.app_context(), shop.events.auto_publish():
        for number in range(20):
            shop.enqueue(number, queue=f"q{number % 3}")

    assert [e.payload for e in captured.published] == list(range(20))


# The block


def test_what_happened_before_is_not_captured(shop: Shop) -> None:
    publish(shop, "before")

    with shop.events.capture() as captured:
        publish(shop, "inside")
    publish(shop, "after")

    assert captured.published == [event("q", "inside")]
    assert captured.enqueued == [event("q", "inside")]


def test_what_was_enqueued_before_is_captured_when_it_is_published(shop: Shop) -> None:
    shop.enqueue(1)

    with shop.events.capture() as captured:
        shop.events.publish()

    assert captured.enqueued == []
    assert captured.assert_published("q").origin is None


def test_lists_and_assertions_work_after_the_block(shop: Shop) -> None:
    with shop.events.capture() as captured:
        place(shop)

    captured.assert_published("orders.created", {"sku": "A1"})


def test_captures_nest(shop: Shop) -> None:
    with shop.events.capture() as outer:
        publish(shop, 1)
        with shop.events.capture() as inner:
            publish(shop, 2)
        publish(shop, 3)

    assert [e.payload for e in outer.published] == [1, 2, 3]
    assert [e.payload for e in inner.published] == [2]


def test_what_an_inner_capture_asserts_on_is_asserted_on_outside(shop: Shop) -> None:
    with shop.events.capture() as outer:
        with shop.events.capture() as inner:
            publish(shop, 1)
        inner.assert_published("q")

        outer.assert_no_others()


def test_captures_of_two_apps_are_apart() -> None:
    events = EventCollector()
    north, south = make_shop(events), make_shop(events)
    with north.app_context():
        captured_north = events.capture()
    with south.app_context():
        captured_south = events.capture()

    with captured_north, captured_south:
        in_thread(lambda: publish(north, "north"))
        publish(south, "south")

    assert captured_north.published == [event("q", "north")]
    assert captured_south.published == [event("q", "south")]
    events.close(1)


def test_what_other_threads_of_the_app_do_is_captured(
    shop: Shop, captured: Captured
) -> None:
    in_thread(lambda: publish(shop, 1))

    captured.assert_published("q", 1)


def test_a_block_that_raises_leaves_nothing_behind(shop: Shop) -> None:
    captured = shop.events.capture()

    def block() -> None:
        with captured:
            captured.fail_next(100)
            captured.broker_down()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()

    left = [list(signal.receivers_for(shop)) for signal in SIGNALS.values()]
    assert not any(left)
    publish(shop, 1)
    assert shop.books() == {"confirmed": 1}
    assert captured.enqueued == []


def test_a_capture_starts_nothing(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.assert_nothing_published()
        assert captured.flush()

    assert shop.events.stats().broker is package.BrokerState.IDLE


def test_a_capture_shows_its_counts(shop: Shop, captured: Captured) -> None:
    assert repr(captured) == "<Captured nothing>"

    place(shop)
    place(shop, path="/refused")

    assert repr(captured) == "<Captured 3 enqueued, 2 published, 1 discarded>"


def test_a_capture_is_used_once(shop: Shop) -> None:
    with shop.events.capture() as captured:
        pass

    with (
        pytest.raises(RuntimeError, match=r"call events\.capture\(\) again$"),
        captured,
    ):
        pass


def test_a_capture_without_its_block_shows_how_to_write_it(shop: Shop) -> None:
    captured = shop.events.capture()

    with pytest.raises(RuntimeError) as caught:
        captured.assert_nothing_published()

    assert str(caught.value) == (
        "the capture has not started: use 'with events.capture() as captured:'"
    )


def test_an_extension_without_an_app_has_nothing_to_capture() -> None:
    with pytest.raises(RuntimeError, match=r"call events\.init_app\(app\)"):
        EventCollector().capture()


def test_an_app_of_another_extension_is_not_captured(shop: Shop) -> None:
    with shop.app_context(), pytest.raises(RuntimeError, match="is not registered"):
        EventCollector(flask.Flask("other")).capture()


# Around it


def test_under_testing_nothing_goes_to_a_real_broker(open_shop: OpenShop) -> None:
    shop = open_shop(BROKER_URL="amqp://nobody:nothing@127.0.0.1:1/")
    with shop.events.capture() as captured:
        place(shop)

    captured.assert_published("orders.created", times=1)
    assert shop.sent("orders.created") == [{"id": 7, "sku": "A1"}]


def test_a_test_client_that_keeps_its_context_publishes_when_it_is_left(
    shop: Shop, captured: Captured
) -> None:
    with shop.test_client() as client:
        client.post("/orders", json={"sku": "A1"})

    captured.assert_published("orders.created", times=1)


def test_a_streamed_answer_is_captured(shop: Shop, captured: Captured) -> None:
    @shop.get("/stream")
    def stream() -> flask.Response:
        def body() -> Iterator[str]:
            shop.enqueue("while streaming")
            yield "x"

        return flask.Response(flask.stream_with_context(body()))

    assert shop.test_client().get("/stream").data == b"x"

    captured.assert_published("q", "while streaming", times=1)


def test_a_database_that_is_rolled_back_after_each_test_disturbs_nothing(
    tmp_path: Path,
) -> None:
    class Base(DeclarativeBase):
        pass

    db = SQLAlchemy(model_class=Base)

    class Order(db.Model):  # type: ignore[name-defined, misc]
        id: Mapped[int] = mapped_column(primary_key=True)

    shop = make_shop()
    shop.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/db"
    db.init_app(shop)

    @shop.post("/saved")
    def save() -> str:
        order = Order()
        db.session.add(order)
        db.session.commit()
        shop.enqueue({"id": order.id}, queue="orders.saved")
        return "saved"

    with shop.app_context():
        db.create_all()
        engine, engines = db.engine, cast("dict[str | None, Any]", db.engines)
        with engine.connect() as connection, connection.begin() as transaction:
            engines[None] = connection
            with shop.events.capture() as captured:
                shop.test_client().post("/saved")
                assert db.session.scalars(select(Order)).all()
            db.session.remove()
            transaction.rollback()
        engines[None] = engine
        assert not db.session.scalars(select(Order)).all()
        db.session.remove()
        engine.dispose()

    captured.assert_published("orders.saved", {"id": int}, times=1)
    shop.events.close(1)


def test_the_kit_is_not_loaded_in_production() -> None:
    script = (
        "import sys, flask, flask_eventcollector\n"
        "flask_eventcollector.EventCollector(flask.Flask('shop'))\n"
        "assert 'flask_eventcollector.testing' not in sys.modules\n"
        "assert 'unittest' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
