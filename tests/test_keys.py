"""Of several events with the same key, one is published."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("sqlalchemy")

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker

from flask_eventcollector import EventCollector
from flask_eventcollector.collecting.keys import Keys
from flask_eventcollector.delivery.entries import Entry, Notice, State
from flask_eventcollector.messages.options import read_options
from tests.helpers import DEADLINE, Shop, open_shop
from tests.outbox.test_store import OutboxShop
from tests.parts import LEDGER_MODULES, Desk, interruptions, make_event
from tests.test_options import refusal
from tests.transactions.support import Order, new_engine, url_in


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


def tell(events: Any, payload: Any, key: object = 7, **more: Any) -> Any:
    return events.enqueue_event(payload, more.pop("queue", "q"), key=key, **more)


# The options.


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": [7]}, "key is of type list, which can't be compared by hash: pass"),
        ({"key": 7, "keep": "newest"}, "keep is neither 'first' nor 'last'"),
        ({"keep": "first"}, "keep has no effect without key"),
    ],
)
def test_a_wrong_key_is_refused(options: dict[str, Any], error: str) -> None:
    assert error in refusal(**options)


# Without a transaction.


def test_a_later_event_takes_the_place_of_the_earlier_one(shop: Shop) -> None:
    with shop.events.capture() as captured, shop.events.auto_publish() as block:
        tell(block, "a1")
        tell(block, "b", key=8)
        tell(block, "a2")
        last = tell(block, "a3")
        assert [e.payload for e in block.events_to_publish] == ["a3", "b"]
    assert shop.sent("q") == ["a3", "b"]
    assert [event.payload for event in captured.discarded] == ["a1", "a2"]
    reasons = {event.reason for event in captured.discarded}
    assert reasons == {"a later event has the same key"}
    assert shop.books() == {"confirmed": 2, "discarded": 2}
    captured.assert_published("q", "a3", key=7)
    assert captured.published[0].id == last.id


def test_the_first_can_be_kept_instead(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        first = tell(block, "a1")
        assert tell(block, "a2", keep="first") is first
        tell(block, "b", key=8, keep="first")
    assert shop.sent("q") == ["a1", "b"]
    assert shop.books() == {"confirmed": 2}


class Choice(str, Enum):
    """Its members are equal to the words, but not shown as them."""

    FIRST = "first"


def test_a_member_of_an_enum_is_a_choice_like_its_word() -> None:
    assert read_options({"key": 7, "keep": Choice.FIRST}).keep == "first"


def test_a_key_counts_for_one_target(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        for queue, exchange in [("q", ""), ("p", ""), ("q", "shop")]:
            tell(block, f"{exchange}/{queue}", queue=queue, exchange=exchange)
    assert shop.sent("q") == ["/q", "shop/q"]
    assert shop.sent("p") == ["/p"]


def test_a_key_counts_for_one_unit_of_work(shop: Shop) -> None:
    with shop.events.auto_publish() as outer:
        tell(outer, "outer")
        with shop.events.auto_publish() as inner:
            tell(inner, "inner")
        tell(outer, "outer again")
        outer.publish()
        tell(outer, "after the publish")
        outer.clear_events_to_publish()
        tell(outer, "after the clearing")
    expected = ["inner", "outer again", "after the clearing"]
    assert shop.sent("q") == expected


def test_the_hook_may_give_the_key() -> None:
    def one_of_each(draft: Any) -> None:
        draft.options["key"] = draft.payload["id"]

    with open_shop(BEFORE_ENQUEUE=one_of_each) as shop:
        with shop.events.auto_publish() as block:
            for count in range(3):
                block.enqueue_event({"id": 1, "count": count}, "q")
        assert shop.sent("q") == [{"id": 1, "count": 2}]


def test_two_thousand_touches_hold_one_event(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        for number in range(2_000):
            tell(block, number)
        assert shop.events.stats().collected == 1
    assert shop.sent("q") == [1_999]


def test_a_dropped_event_leaves_the_earlier_one() -> None:
    with open_shop(MAX_EVENTS=10) as shop:
        with shop.events.auto_publish() as block:
            for number in range(12):
                tell(block, number, key=number)
            tell(block, "again", key=11)
            tell(block, "new", key=0)
        assert shop.sent("q")[0] == "new"


def test_an_app_context_publishes_one_of_them() -> None:
    with open_shop(AT_CONTEXT_END="publish") as shop:
        with shop.app_context():
            tell(shop.events, 1)
            tell(shop.events, 2)
        assert shop.sent("q") == [2]


def test_an_event_that_waits_does_not_keep_the_others_in_memory(shop: Shop) -> None:
    keys, delivery = Keys(), shop.extensions["eventcollector"].delivery()
    entries: list[Entry] = []
    delivery.collect(entries, keyed("a"))
    keys.note(entries[0], None)
    assert entries[0].slot is not None
    assert gc.get_referents(entries[0].slot) == []


class Number:
    """A key that can be compared with its kind only, and in no step of the ledger."""

    def __init__(self, shop: Shop, value: int) -> None:
        self._shop = shop
        self._value = value

    def __hash__(self) -> int:
        assert not self._shop.extensions["eventcollector"].delivery()._ledger.is_in_step
        return hash(self._value)

    def __eq__(self, other: Any) -> bool:
        return bool(self._value == other._value)


def test_the_code_of_a_key_is_not_called_in_a_step_of_the_ledger(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        tell(block, 1, Number(placing.shop, 7))
        placing.write("a")
        tell(block, 2, Number(placing.shop, 7))
        tell(block, 3, Number(placing.shop, 7))
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == [3]


# The ledger.


def keyed(letter: str, size: int = 1) -> Any:
    return make_event(letter, size=size, properties=read_options({"key": 1}))


def test_a_larger_event_needs_room() -> None:
    desk = Desk(max_bytes=100)
    (entry,) = desk.collect("a", size=10)
    notices: list[Notice] = []
    assert not desk.ledger.replace(entry, keyed("b", 99), into=notices)
    assert (entry.event.payload, notices) == ("a", [])
    assert desk.ledger.replace(entry, keyed("c", 20), into=notices)
    assert desk.ledger.stats().held_bytes == 20


def test_what_was_handed_over_is_not_replaced() -> None:
    desk = Desk()
    desk.hand_over("a")
    assert not desk.ledger.replace(desk["a"], keyed("b"), into=[])


def test_an_interrupted_replacement_keeps_the_books() -> None:
    for interruption in interruptions(LEDGER_MODULES):
        desk = Desk()
        (entry,) = desk.collect("a")
        desk.ledger.stats()
        with interruption:
            desk.ledger.replace(entry, keyed("b"), into=[])
        assert desk.books() in ({"collected": 1}, {"collected": 1, "discarded": 1})
        assert desk.ledger.stats().enqueued == sum(desk.books().values())
        assert entry.state is State.COLLECTED


# Transactions.


class Placing:
    """An app whose sessions are bound, and one session in a block."""

    def __init__(self, shop: Shop, session: Session) -> None:
        self.shop, self.session = shop, session

    def write(self, sku: str) -> None:
        self.session.add(Order(sku=sku))
        self.session.flush()


@pytest.fixture(params=["collector", "outbox"])
def placing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Placing]:
    url = url_in(tmp_path)
    if request.param == "outbox":
        outbox = OutboxShop(url)
        with outbox.sessions() as session:
            yield Placing(outbox, session)
        outbox.events.close(0)
        outbox.engine.dispose()
        return
    engine = new_engine(url)
    sessions = sessionmaker(engine)
    shop = Shop(EventCollector())
    shop.events.bind_session(sessions)
    with sessions() as session:
        yield Placing(shop, session)
    shop.events.close(0)
    engine.dispose()


def test_a_later_event_in_the_same_transaction_replaces_the_earlier_one(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, 1)
        tell(block, 2)
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == [2]


@pytest.mark.parametrize("keep", ["last", "first"])
def test_a_savepoint_that_is_rolled_back_erases_nothing(
    placing: Placing, keep: str
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, "outer")
        savepoint = placing.session.begin_nested()
        placing.write("b")
        tell(block, "inner", keep=keep)
        savepoint.rollback()
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == ["outer"]


def test_the_event_of_a_savepoint_without_changes_is_the_transactions(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, "outer")
        savepoint = placing.session.begin_nested()
        tell(block, "inner")
        savepoint.rollback()
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == ["inner"]


@pytest.mark.parametrize(("keep", "kept"), [("last", "inner"), ("first", "outer")])
def test_a_savepoint_that_is_released_decides_with_the_transaction(
    placing: Placing, keep: str, kept: str
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, "outer")
        tell(block, "other", key=8)
        with placing.session.begin_nested():
            placing.write("b")
            tell(block, "inner", keep=keep)
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == [kept, "other"]
    stats = placing.shop.events.stats()
    assert (stats.discarded, stats.balanced) == (1, True)


def test_after_a_rolled_back_savepoint_a_third_event_replaces_the_first(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, 1)
        savepoint = placing.session.begin_nested()
        placing.write("b")
        tell(block, 2)
        savepoint.rollback()
        tell(block, 3)
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == [3]


def test_a_rolled_back_transaction_leaves_what_came_before_it(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        tell(block, "before")
        placing.write("a")
        tell(block, "in it")
        placing.session.rollback()
    assert placing.shop.sent("q") == ["before"]


def test_a_committed_transaction_replaces_what_came_before_it(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        tell(block, "before")
        placing.write("a")
        tell(block, "in it")
        placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == ["in it"]


def test_what_a_transaction_holds_back_is_decided_by_its_end(
    placing: Placing,
) -> None:
    with placing.shop.events.auto_publish() as block:
        placing.write("a")
        tell(block, 1)
        with placing.session.begin_nested():
            placing.write("b")
            tell(block, 2)
    placing.session.commit()
    assert placing.shop.events.flush(DEADLINE)
    assert placing.shop.sent("q") == [2]


# Any order.

_EVENT = st.tuples(
    st.just("tell"), st.integers(0, 2), st.sampled_from(["last", "last", "first"])
)
_STEPS = st.lists(
    _EVENT | st.sampled_from([("begin",), ("release",), ("roll back",)]), max_size=14
)


class Model:
    """Which events are left, as the page says it."""

    def __init__(self) -> None:
        #: The events of each savepoint, the transaction's first.
        self.levels: list[list[tuple[int, int, str]]] = [[]]

    def step(self, name: str, number: int, *about: Any) -> None:
        if name == "tell":
            self.levels[-1].append((number, *about))
        elif name == "begin":
            self.levels.append([])
        elif len(self.levels) > 1:
            ended = self.levels.pop()
            self.levels[-1] += ended if name == "release" else []

    def left(self) -> list[int]:
        kept: dict[int, int] = {}
        for number, key, keep in (e for level in self.levels for e in level):
            if key not in kept or keep == "last":
                kept[key] = number
        return list(kept.values())


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS)
def test_the_same_is_left_whatever_is_rolled_back(steps: list[tuple[Any, ...]]) -> None:
    engine, model = new_engine("sqlite://"), Model()
    sessions = sessionmaker(engine)
    shop = Shop(EventCollector())
    shop.events.bind_session(sessions)
    with shop.events.auto_publish() as block, sessions() as session:
        write(session)
        for number, step in enumerate(steps):
            model.step(step[0], number, *step[1:])
            take(step, number, session, block)
        session.commit()
    assert shop.sent("q") == model.left()
    assert shop.events.stats().balanced
    engine.dispose()


def write(session: Session) -> None:
    session.add(Order(sku=str(uuid4())))
    session.flush()


def take(step: tuple[Any, ...], number: int, session: Session, block: Any) -> None:
    nested = session.get_nested_transaction()
    if step[0] == "tell":
        tell(block, number, step[1], keep=step[2])
    elif step[0] == "begin":
        session.begin_nested()
        write(session)
    elif nested is not None and step[0] == "release":
        nested.commit()
    elif nested is not None:
        nested.rollback()
