"""After any failure in the I/O thread, each event is confirmed or settled."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pika
import pytest

from flask_eventcollector import delivery
from flask_eventcollector.brokers import rabbitmq
from flask_eventcollector.brokers.rabbitmq import channels, session
from tests.helpers import DEADLINE, Recorder, Shop, open_shop, wait_until

from .fake_broker import FakeBroker, Message

ROOM = str(Path(str(rabbitmq.__file__)).parent)
PIKA = str(Path(pika.__file__).parent)
RELAY = str(Path(str(delivery.__file__)).with_name("broker.py"))

#: All calls take a minute. By default, only a few of them fail.
EVERY = os.environ.get("TEST_CUTS") == "all"
PARTS = 6 if EVERY else 1
_SAMPLE = 20

#: The log line of an unforeseen failure.
LOST = "Broker connection failed unexpectedly"
THREAD = "Background thread failed: eventcollector-io-shop"


class Call(NamedTuple):
    """A call into or out of the package that uses pika."""

    caller: str
    callee: str


#: It shows that the broker has answered a probe.
PROBE_ANSWERED = Call("channel._on_openok", "probe._answered")


class Injected(Exception):
    """What a call raises."""


@dataclass
class Border:
    """Counts the calls in the I/O thread; one of them may fail."""

    fails: Call | None = None
    #: Its number among these calls, from 1.
    at: int = 1
    calls: Counter[Call] = field(default_factory=Counter)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the threads started in the block."""
        threading.setprofile(self._profile)
        try:
            yield
        finally:
            threading.setprofile(None)

    @property
    def has_failed(self) -> bool:
        return self.fails is not None and self.calls[self.fails] >= self.at

    def _profile(self, frame: FrameType, what: str, _: object) -> None:
        if not threading.current_thread().name.startswith("eventcollector-io"):
            sys.setprofile(None)
            return
        call = _crossing(frame) if what == "call" else None
        if call is not None:
            self.calls[call] += 1
            if call == self.fails and self.calls[call] == self.at:
                raise Injected(f"{call.callee}, called by {call.caller}")


def _crossing(frame: FrameType) -> Call | None:
    """The call that began *frame*, if it crosses the border."""
    code, caller = frame.f_code, frame.f_back
    if caller is None:
        return None
    is_inside = code.co_filename.startswith(ROOM)
    is_from_inside = caller.f_code.co_filename.startswith(ROOM)
    crosses_outwards = code.co_filename.startswith((PIKA, RELAY)) and is_from_inside
    crosses_inwards = is_inside and caller.f_code.co_filename.startswith(PIKA)
    if not (crosses_outwards or crosses_inwards):
        return None
    return Call(_name(caller), _name(frame))


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).stem}.{code.co_name}"


def answers() -> Callable[[Message], str]:
    """Treats a message once as it requests, and confirms it when it arrives again."""
    asked: set[bytes] = set()

    def answer(message: Message) -> str:
        words = str(json.loads(message.body))
        if " " not in words or message.body in asked:
            return "ack"
        asked.add(message.body)
        return words.partition(": ")[0]

    return answer


def publish(shop: Shop, *payloads: Any, exchange: str = "") -> None:
    for payload in payloads:
        shop.events.enqueue_event(payload, "q", exchange=exchange)
    shop.events.publish()


def wait_for_confirms(shop: Shop, number: int) -> None:
    wait_until(lambda: shop.events.stats().confirmed == number, f"{number} confirmed")


def live(shop: Shop, broker: FakeBroker, border: Border) -> None:
    """The whole life of a connection: it is made, used, broken, and made again."""

    def confirmed(number: int) -> None:
        wait_for_confirms(shop, number)

    publish(shop, "1", "return: 2")
    publish(shop, "3", exchange="shop")
    confirmed(3)
    publish(shop, "block: 4", "nack: 5")
    confirmed(5)
    publish(shop, "close channel: 6", "7")
    confirmed(7)
    publish(shop, "nothing: 8", exchange="shop")
    # On a busy machine, the connection may be taken for frozen first. Then 8 is sent
    # again, and nothing is left to probe for.
    wait_until(
        lambda: (
            border.has_failed
            or border.calls[PROBE_ANSWERED]
            or shop.events.stats().confirmed == 8
        ),
        "a probe",
    )
    wait_until(lambda: broker.copies(b'"nothing: 8"'), "8 is in flight")
    publish(shop, "drop connection: 9")
    confirmed(9)
    publish(shop, "10")
    confirmed(10)
    (thread,) = [t for t in threading.enumerate() if t.name == "eventcollector-io-shop"]
    assert thread.is_alive()
    stats = shop.events.stats()
    assert stats.balanced, stats
    assert stats.in_flight == stats.retained == stats.dead == stats.dropped == 0, stats
    assert shop.events.close(DEADLINE)
    thread.join(DEADLINE)
    assert not thread.is_alive()


def run(border: Border) -> list[str]:
    """The log of a life in which one call may fail."""
    with logged() as lines, life(border) as (shop, broker):
        try:
            live(shop, broker, border)
        except AssertionError as failure:
            about = border.fails, border.at, shop.events.stats(), lines
            raise AssertionError(f"{failure}: {about}") from failure
    return lines


@contextmanager
def life(border: Border) -> Iterator[tuple[Shop, FakeBroker]]:
    """An app and its broker."""
    with (
        FakeBroker(answers()) as broker,
        border.watched(),
        open_shop(
            BROKER_URL=broker.url,
            TESTING_BROKER=True,
            QUEUES={"declared": {}, "too": {}},
            RETRY_DELAY=0.01,
            RETRY_MAX_DELAY=0.05,
            CONFIRM_TIMEOUT=0,
        ) as shop,
        Recorder(shop) as recorder,
    ):
        yield shop, broker
        for heard in recorder.heard("publish_failed"):
            assert heard.about["error"], heard


@contextmanager
def logged() -> Iterator[list[str]]:
    """The texts that the package logs in the block."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("flask_eventcollector")
    logger.addHandler(handler)
    # pytest would keep the records, and their tracebacks all that is in their frames.
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all timeouts of a life."""
    monkeypatch.setattr(channels, "STEP_TIMEOUT", 0.3)
    monkeypatch.setattr(session, "STEP_TIMEOUT", 0.3)
    monkeypatch.setattr(session, "_TICK", 0.02)
    patience = property(lambda _: 0.2, lambda *_: None)
    monkeypatch.setattr(session.Session, "_patience", patience, raising=False)


def failing(calls: Counter[Call]) -> list[tuple[Call, int]]:
    """The calls that fail: for each, the first, a later one, and the last."""
    each = [
        (call, at)
        for call, times in sorted(calls.items())
        for at in sorted({1, (times + 1) // 2, times})
    ]
    return each if EVERY else each[:: max(1, len(each) // _SAMPLE)]


@pytest.mark.parametrize("part", range(PARTS))
# If pika fails to open or close its own loop, the garbage collector closes that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_fails_each_event_is_confirmed_and_the_thread_lives(
    part: int,
) -> None:
    whole = Border()
    assert not {LOST, THREAD} & set(run(whole))
    assert len(whole.calls) > 50, "the border has moved"
    struck = 0
    chosen = failing(whole.calls)[part::PARTS]
    for call, at in chosen:
        border = Border(call, at)
        lines = run(border)
        assert lines.count(LOST) + lines.count(THREAD) <= 1, (call, at, lines)
        struck += border.has_failed
    assert struck > len(chosen) / 2
    gc.collect()


def test_what_a_channel_fails_to_send_when_it_opens_is_given_back() -> None:
    border = Border(Call("frames._template", "spec.__init__"))
    assert LOST not in run(border)
    assert border.has_failed


def test_what_a_callback_raises_is_logged_with_its_place() -> None:
    border = Border(Call("callback.process", "channels._on_confirm"))
    assert LOST in run(border)


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_pika_fails_to_end_is_replaced(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException | None] = []
    pikas: Any = pika.SelectConnection
    terminate = pikas._terminate_stream

    def fail(connection: Any, error: Exception | None) -> None:
        if len(failures) < times:
            failures.append(error)
            raise Injected("the end")
        terminate(connection, error)

    monkeypatch.setattr(pikas, "_terminate_stream", fail)
    with life(Border()) as (shop, broker):
        publish(shop, "1")
        wait_for_confirms(shop, 1)
        # Neither a confirm nor the answer to a probe: the connection is given up.
        broker.unanswered.add("Channel.Open")
        publish(shop, "nothing: 2")
        wait_until(lambda: failures, "the connection is ended")
        broker.unanswered.clear()
        wait_for_confirms(shop, 2)
    gc.collect()
