"""One channel to RabbitMQ, in situations too brief for a real one."""

from __future__ import annotations

import time
from typing import Any, cast

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient
from pika.spec import Basic, BasicProperties

from flask_eventcollector.brokers.rabbitmq.channels import (
    STEP_TIMEOUT,
    ChannelState,
    ExchangeChannel,
)
from flask_eventcollector.brokers.rabbitmq.connection import Connection
from flask_eventcollector.config.exchanges import ExchangeOptions, Unrouted
from flask_eventcollector.config.queues import parse_queues
from flask_eventcollector.config.routing import Router
from flask_eventcollector.config.topology import Topology
from flask_eventcollector.delivery.entries import Entry, Settlement
from flask_eventcollector.events import Outcome
from tests.amqp import decoded_frames
from tests.parts import make_event

TOO_LARGE = "PRECONDITION_FAILED - message size 9 is larger than configured max size 5"
NO_QUEUE = (
    "no queue for 'q': NO_ROUTE; declare it in EVENTCOLLECTOR_QUEUES, or correct its"
    " name"
)
NOTHING_BOUND = (
    "nothing is bound to exchange 'shop' for routing key 'q': NO_ROUTE; bind a queue in"
    " EVENTCOLLECTOR_QUEUES, or set 'unrouted' in EVENTCOLLECTOR_EXCHANGES"
)


class Channel:
    """A stub of pika's channel; the test controls the responses."""

    def __init__(self) -> None:
        self.is_open = True
        self.channel_number = 1
        self.calls: dict[str, Any] = {}

    def add_on_close_callback(self, callback: Any) -> None:
        self.calls["closed"] = callback

    def add_on_return_callback(self, callback: Any) -> None:
        self.calls["return"] = callback

    def close(self) -> None:
        self.is_open = False

    def exchange_declare(self, exchange: str, *, passive: bool, callback: Any) -> None:
        self.calls["found"] = callback

    def confirm_delivery(self, on_confirm: Any, *, callback: Any) -> None:
        self.calls |= {"confirm": on_confirm, "ready": callback}


class Stage:
    """An ExchangeChannel on a stub channel."""

    def __init__(self, exchange: str = "", queues: Any = None, **options: Any) -> None:
        self.pikas = Channel()
        self.sent: list[str] = []
        self.mandatory: bool | None = None
        self.settled: list[Settlement] = []
        self.problems: list[str] = []
        self._opened: Any = None
        self.ours = ExchangeChannel(
            cast(Connection, self),
            exchange,
            self.settled.extend,
            lambda about, problem: self.problems.append(problem),
            app_id="test",
            options=ExchangeOptions(**options),
            router=Router(Topology(queues=parse_queues(queues or {}, "Q"))),
        )

    params = pika.ConnectionParameters(frame_max=131_072)

    def channel(self, on_open_callback: Any) -> Channel:
        self._opened = on_open_callback
        return self.pikas

    def send_frames(self, data: bytes) -> None:
        method, header, *_ = decoded_frames(data)
        self.mandatory = method.method.mandatory
        self.sent.append(str(header.properties.message_id))

    def open(self) -> None:
        """Open the channel, up to the wait for the response to confirm.select."""
        self._opened(self.pikas)
        if "found" in self.pikas.calls:
            self.pikas.calls["found"](None)

    def become_ready(self) -> None:
        self.open()
        self.pikas.calls["ready"](None)

    def confirm(self, tag: int, *, multiple: bool = False, nack: bool = False) -> None:
        method = (Basic.Nack if nack else Basic.Ack)(tag, multiple)
        self.pikas.calls["confirm"](pika.frame.Method(1, method))

    def send_back(self, entry: Entry) -> None:
        method = Basic.Return(312, "NO_ROUTE", "", entry.event.target_queue)
        properties = BasicProperties(message_id=entry.event.id)
        self.pikas.calls["return"](self.pikas, method, properties, b"secret")

    def close(self, error: Exception) -> None:
        self.pikas.is_open = False
        self.pikas.calls["closed"](self.pikas, error)

    def outcomes(self) -> list[Outcome | None]:
        return [settlement.outcome for settlement in self.settled]


def entries(number: int, payload: str = "x") -> list[Entry]:
    return [Entry(make_event(payload)) for _ in range(number)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def ready_with(stage: Stage, number: int) -> list[Entry]:
    """A channel that has sent *count* events."""
    stage.become_ready()
    sent = entries(number)
    for entry in sent:
        stage.ours.publish(entry)
    return sent


def returned(stage: Stage, exchange: str) -> Settlement:
    """What is settled once the broker has returned an event."""
    stage.become_ready()
    entry = Entry(make_event("x", "q", exchange=exchange))
    stage.ours.publish(entry)
    stage.send_back(entry)
    stage.confirm(1)
    (settlement,) = stage.settled
    return settlement


@pytest.mark.parametrize(
    ("exchange", "options", "reason", "discarded"),
    [
        ("", {}, NO_QUEUE, False),
        ("", {"unrouted": Unrouted.DISCARD}, NO_QUEUE, True),
        ("shop", {"type": "topic"}, NOTHING_BOUND, False),
        ("shop", {"unrouted": Unrouted.DISCARD}, NOTHING_BOUND, True),
    ],
)
def test_what_is_returned_names_what_is_missing(
    exchange: str, options: dict[str, Any], reason: str, discarded: bool
) -> None:
    stage = Stage(exchange, **options)
    settlement = returned(stage, exchange)
    assert settlement.outcome is Outcome.RETURNED
    assert settlement.reason == reason
    assert settlement.is_discarded is discarded


GONE = (
    ", but that was deleted, or could not be declared: see 'flask events topology"
    " apply', which declares it anew"
)


@pytest.mark.parametrize(
    ("exchange", "queue", "cure"),
    [
        ("", {}, f"it is in EVENTCOLLECTOR_QUEUES{GONE}"),
        (
            "amq.topic",
            {"bind": ["amq.topic:#"]},
            f"EVENTCOLLECTOR_QUEUES binds 'q'{GONE}",
        ),
        ("", {"declare": False}, "declare it in EVENTCOLLECTOR_QUEUES, or correct its"),
    ],
    ids=["queue", "binding", "of others"],
)
def test_what_the_settings_declare_was_deleted(
    exchange: str, queue: dict[str, Any], cure: str
) -> None:
    stage = Stage(exchange, {"q": queue})
    settlement = returned(stage, exchange)
    assert f": NO_ROUTE; {cure}" in settlement.reason


def test_an_exchange_that_the_settings_declare_was_deleted() -> None:
    stage = Stage("shop", type="topic")
    stage.ours.publish(Entry(make_event("x", "q", exchange="shop")))
    stage.open()

    stage.close(ChannelClosedByBroker(404, "NOT_FOUND - no exchange 'shop'"))

    (settlement,) = stage.settled
    assert settlement.reason == (
        f"NOT_FOUND - no exchange 'shop'; it is in EVENTCOLLECTOR_EXCHANGES{GONE}"
    )


def test_a_user_without_permission_is_told_with_the_cure(stage: Stage) -> None:
    ready_with(stage, 1)
    text = (
        "ACCESS_REFUSED - access to exchange 'shop' in vhost '/' refused for user 'u'"
    )

    stage.close(ChannelClosedByBroker(403, text))

    (settlement,) = stage.settled
    assert settlement.reason == stage.problems[-1]
    assert settlement.reason == (
        f"{text}: grant it the permission 'write' for the exchange"
    )


def test_events_wait_until_the_channel_is_open(stage: Stage) -> None:
    waiting = entries(2)
    for entry in waiting:
        stage.ours.publish(entry)
    assert stage.sent == []
    stage.become_ready()
    assert stage.sent == [entry.event.id for entry in waiting]


def test_a_confirm_is_for_the_event_with_its_tag(stage: Stage) -> None:
    sent = ready_with(stage, 3)
    stage.confirm(2)
    assert stage.settled == [Settlement(sent[1], Outcome.CONFIRMED)]


def test_a_confirm_may_be_for_all_up_to_its_tag(stage: Stage) -> None:
    sent = ready_with(stage, 3)
    stage.confirm(2, multiple=True)
    assert [settlement.entry for settlement in stage.settled] == sent[:2]


def test_confirms_may_come_out_of_order(stage: Stage) -> None:
    sent = ready_with(stage, 3)
    stage.confirm(3)
    stage.confirm(2, multiple=True)
    assert [settlement.entry for settlement in stage.settled] == [sent[2], *sent[:2]]


def test_a_second_confirm_has_no_effect(stage: Stage) -> None:
    ready_with(stage, 1)
    stage.confirm(1)
    stage.confirm(1)
    assert stage.outcomes() == [Outcome.CONFIRMED]


def test_a_returned_event_that_is_acknowledged_counts_as_returned(
    stage: Stage,
) -> None:
    sent = ready_with(stage, 2)
    stage.send_back(sent[0])
    stage.confirm(2, multiple=True)
    assert stage.outcomes() == [Outcome.RETURNED, Outcome.CONFIRMED]
    assert "NO_ROUTE" in stage.settled[0].reason
    assert "secret" not in stage.settled[0].reason


@pytest.mark.parametrize(
    ("exchange", "options", "possibly_taken"),
    [
        ("", {}, False),
        ("amq.topic", {}, False),
        ("amq.topic", {"mandatory": True}, False),
        ("shop", {"type": "topic"}, False),
        ("shop", {"type": "x-delayed-message"}, True),
        ("shop", {}, True),
    ],
)
def test_what_an_exchange_returns_may_be_taken_unless_it_is_plain(
    exchange: str, options: dict[str, Any], possibly_taken: bool
) -> None:
    stage = Stage(exchange, **options)
    stage.become_ready()
    entry = Entry(make_event("x", exchange=exchange))
    stage.ours.publish(entry)
    assert stage.mandatory is True
    stage.send_back(entry)
    stage.confirm(1)
    assert stage.outcomes() == [Outcome.RETURNED]
    assert stage.settled[0].possibly_taken is possibly_taken


def test_an_exchange_may_be_published_to_without_mandatory() -> None:
    stage = Stage("shop", mandatory=False)
    ready_with(stage, 1)
    assert stage.mandatory is False


def test_a_nack_may_be_for_several(stage: Stage) -> None:
    ready_with(stage, 2)
    stage.confirm(2, multiple=True, nack=True)
    assert stage.outcomes() == [Outcome.NACKED] * 2


def test_what_pika_can_not_encode_is_dead_and_takes_no_tag(stage: Stage) -> None:
    stage.become_ready()
    (good,) = entries(1)
    bad = Entry(make_event(headers={"number": 1.5 + 2j}))
    stage.ours.publish(bad)
    stage.ours.publish(good)
    stage.confirm(1)
    assert [(s.entry, s.outcome, s.final) for s in stage.settled] == [
        (bad, Outcome.NACKED, True),
        (good, Outcome.CONFIRMED, False),
    ]


def test_a_lost_connection_leaves_what_was_sent_unknown(stage: Stage) -> None:
    ready_with(stage, 2)
    stage.confirm(1)
    stage.ours.lose("the connection was lost")
    assert stage.outcomes() == [Outcome.CONFIRMED, Outcome.UNKNOWN]


def test_a_lost_connection_leaves_what_was_not_sent_as_it_was(stage: Stage) -> None:
    for entry in entries(1):
        stage.ours.publish(entry)
    stage.ours.lose("the connection was lost")
    assert stage.outcomes() == [None]


def test_what_comes_while_it_is_being_closed_was_not_sent(stage: Stage) -> None:
    for entry in entries(2):
        stage.ours.publish(entry)
    stage.open()
    stage.pikas.is_open = False
    stage.pikas.calls["ready"](None)
    stage.close(ChannelClosedByClient(200, "Normal shutdown"))
    assert stage.sent == []
    assert stage.outcomes() == [None, None]


def test_a_channel_that_the_broker_closes_leaves_what_was_sent_unknown(
    stage: Stage,
) -> None:
    ready_with(stage, 2)
    stage.close(ChannelClosedByBroker(403, "ACCESS_REFUSED"))
    assert stage.outcomes() == [Outcome.UNKNOWN] * 2
    assert all(settlement.suspect for settlement in stage.settled)
    assert stage.problems[-1] == "ACCESS_REFUSED"
    assert stage.ours.state is ChannelState.CLOSED


def test_a_missing_exchange_returns_what_waits_for_it() -> None:
    stage = Stage("missing")
    for entry in entries(2):
        stage.ours.publish(entry)
    stage._opened(stage.pikas)
    stage.close(ChannelClosedByBroker(404, "NOT_FOUND - no exchange 'missing'"))
    assert stage.outcomes() == [Outcome.RETURNED] * 2
    assert stage.settled[0].reason == (
        "NOT_FOUND - no exchange 'missing'; declare it in EVENTCOLLECTOR_EXCHANGES,"
        " with its 'type', or correct its name"
    )


def test_only_the_event_that_is_too_large_is_dead(stage: Stage) -> None:
    stage.become_ready()
    small, large = [*entries(1, "x"), *entries(1, "too large")]
    stage.ours.publish(small)
    stage.ours.publish(large)
    stage.close(ChannelClosedByBroker(406, TOO_LARGE))
    assert [(s.entry, s.outcome, s.final) for s in stage.settled] == [
        (small, Outcome.UNKNOWN, False),
        (large, Outcome.NACKED, True),
    ]
    assert stage.ours.size_limit == 5


def test_a_confirm_is_due_since_the_oldest_event_on_its_way_was_sent(
    stage: Stage,
) -> None:
    first, second = entries(2)
    first.sent_at, second.sent_at = 1.0, 2.0
    assert stage.ours.owes_since is None
    stage.become_ready()

    stage.ours.publish(first)
    stage.ours.publish(second)

    assert stage.ours.owes_since == 1.0


def test_the_next_confirm_is_due_since_the_last_one_came(stage: Stage) -> None:
    stage.become_ready()
    for entry in entries(2):
        stage.ours.publish(entry)
    before = time.monotonic()

    stage.confirm(1)

    since = stage.ours.owes_since
    assert since is not None
    assert since >= before
    stage.confirm(2)
    assert stage.ours.owes_since is None


def test_a_channel_that_opens_too_late_is_closed() -> None:
    stage = Stage("shop")
    stage.pikas.is_open = False
    stage.ours.give_up_opening(time.monotonic() + STEP_TIMEOUT)
    stage.pikas.is_open = True
    stage.open()
    assert not stage.pikas.is_open
    assert stage.ours.state is ChannelState.CLOSED
    assert not stage.pikas.calls


@pytest.mark.parametrize("late", ["found", "ready"])
def test_a_response_that_comes_too_late_opens_no_channel(late: str) -> None:
    stage = Stage("shop")
    stage.open()
    response = stage.pikas.calls.pop(late)
    (entry,) = entries(1)
    stage.ours.publish(entry)
    stage.ours.give_up_opening(time.monotonic() + STEP_TIMEOUT)
    assert not stage.pikas.is_open
    stage.pikas.calls.clear()
    response(None)
    assert stage.ours.state is ChannelState.CLOSED
    assert not stage.pikas.calls
    assert [settlement.entry for settlement in stage.settled] == [entry]
