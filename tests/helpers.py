"""Shared by the tests: an app on the memory broker, its counts, recorded signals."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blinker
import flask
import pytest
from flask.globals import app_ctx

import flask_eventcollector as package
from flask_eventcollector import Event, EventCollector
from flask_eventcollector import events as events_module
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.testing import FaultInjector

#: Seconds: longer than any wait should take on a busy machine.
DEADLINE = 20.0

SIGNALS: dict[str, blinker.NamedSignal] = {
    "event_enqueued": package.event_enqueued,
    "events_published": package.events_published,
    "events_unrouted": package.events_unrouted,
    "publish_failed": package.publish_failed,
    "events_discarded": package.events_discarded,
    "events_dropped": package.events_dropped,
    "events_dead": package.events_dead,
}

_BOOKS = (
    "collected",
    "delayed",
    "in_flight",
    "retained",
    "dead",
    "confirmed",
    "unrouted",
    "discarded",
    "dropped",
    "outboxed",
)


class Shop(flask.Flask):
    """An app with an event collector on the memory broker.

    It responds to failures with an error page, as in production.
    """

    def __init__(
        self, events: EventCollector | None = None, name: str = "shop", **settings: Any
    ) -> None:
        super().__init__(name)
        self.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
        self.config.update({f"EVENTCOLLECTOR_{k}": v for k, v in settings.items()})
        self.events = EventCollector() if events is None else events
        self.events.init_app(self)

    @property
    def broker(self) -> MemoryBroker:
        """The app's broker, if it is the current app or the only one."""
        broker = self.events.broker
        assert isinstance(broker, MemoryBroker)
        return broker

    @property
    def faults(self) -> FaultInjector:
        """The fault injector of the app's broker."""
        return FaultInjector.of(self.broker)

    def enqueue(self, *payloads: Any, queue: str = "q") -> None:
        """Enqueue one event for each of *payloads*."""
        for payload in payloads:
            self.events.enqueue_event(payload, queue)

    def sent(self, queue: str = "q") -> list[Any]:
        """The payloads that the broker has confirmed, in order."""
        return payloads(self.broker.events(queue))

    def silence(self) -> None:
        """From now on, let the broker accept events without ever confirming them."""
        broker = self.broker

        def take() -> None:
            broker.relay.take(1000)

        broker.wake = take  # type: ignore[method-assign]

    def books(self) -> dict[str, int]:
        """Where the events are, without the zeros; the books must balance."""
        return books(self.events)


@contextmanager
def open_shop(**settings: Any) -> Iterator[Shop]:
    """Open a shop and close it at the end of the block."""
    shop = Shop(**settings)
    try:
        yield shop
    finally:
        shop.events.close(0)


def books(events: EventCollector) -> dict[str, int]:
    """Where the events are, without the zeros; the books must balance."""
    stats = events.stats()
    assert stats.balanced
    counts = {name: getattr(stats, name) for name in _BOOKS}
    return {name: count for name, count in counts.items() if count}


def payloads(events: tuple[Event, ...]) -> list[Any]:
    """The payloads of the events."""
    return [event.payload for event in events]


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the delays and expiries of events see a later time from now on."""
    later = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr(events_module, "time", later)


def unmeasured() -> dict[str, str]:
    """The environment of a process without measurement of coverage.

    For processes that fork while threads run, since a child would hang if it inherited
    coverage's lock while another thread holds it; for those with destructors in Python,
    since they would hang if the garbage collector ran them under that lock; and for
    those with signal handlers that raise, which may leave it locked.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}


def freeze(pid: int) -> None:
    """Suspend a process. Returns once all of its threads stand still.

    ``SIGSTOP`` only asks for that: a thread that runs goes on for a moment.
    """
    os.kill(pid, signal.SIGSTOP)
    if Path("/proc/self/task").exists():
        wait_until(lambda: _stands_still(pid), "the process stands still")


def _stands_still(pid: int) -> bool:
    files = Path(f"/proc/{pid}/task").glob("*/stat")
    try:
        threads = [file.read_text() for file in files]
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False
    return all(thread.rpartition(")")[2].split()[0] in "TtZX" for thread in threads)


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = DEADLINE
) -> None:
    """Return as soon as *condition* holds; fail after the deadline.

    For conditions without a notification; otherwise, wait for the notification.

    :param seconds: longer, if the condition itself takes long to find out.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        pause.wait(0.01)


def _standing_at(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"it stands at:\n{''.join(traceback.format_stack(frame))}"


@contextmanager
def thread(target: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run *target* during the block and until it ends; raise what it raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except BaseException as failure:
            failures.append(failure)

    beside = threading.Thread(target=run, daemon=True)
    beside.start()
    yield beside
    beside.join(DEADLINE)
    assert not beside.is_alive(), f"the thread did not end; {_standing_at(beside)}"
    if failures:
        raise failures[0]


def in_thread(target: Callable[[], object]) -> None:
    """Run *target* in a new thread until it ends; raise what it raises."""
    with thread(target):
        pass


def in_child(work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """Fork, run *work* in the child, and return what it returned there."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        _report(work, writer)
    os.close(writer)
    try:
        answer = json.loads(_read(reader, child))
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]


def _report(work: Callable[[], Any], writer: int) -> None:
    # If it hangs, its parent requests a stack trace.
    faulthandler.register(signal.SIGUSR2, file=writer)
    try:
        answer = {"result": work()}
    except BaseException as error:
        answer = {"error": repr(error)}
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def _read(reader: int, child: int) -> bytes:
    said = b""
    while select.select([reader], [], [], DEADLINE)[0]:
        part = os.read(reader, 65536)
        if not part:
            return said
        said += part
    os.kill(child, signal.SIGUSR2)
    while select.select([reader], [], [], 1)[0]:
        said += os.read(reader, 65536)
    raise AssertionError(f"the child did not answer; it stands at:\n{said.decode()}")


@dataclass(frozen=True)
class Heard:
    """One call of a receiver."""

    name: str
    sender: Any
    about: dict[str, Any]
    thread: str
    #: The app whose context was pushed.
    current: flask.Flask | None

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the signal."""
        events: tuple[Event, ...] = self.about.get("events", ())
        return events or (self.about["event"],)

    @property
    def payloads(self) -> list[Any]:
        """The payloads of the events."""
        return payloads(self.events)


class Recorder:
    """Records the signals about an app's events, during a ``with`` block."""

    def __init__(self, app: flask.Flask) -> None:
        self._app = app
        self._heard: list[Heard] = []
        self._changed = threading.Condition()
        self._receivers = {name: self._receiver(name) for name in SIGNALS}

    def __enter__(self) -> Recorder:
        for name, receiver in self._receivers.items():
            SIGNALS[name].connect(receiver, sender=self._app)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name, receiver in self._receivers.items():
            SIGNALS[name].disconnect(receiver, sender=self._app)

    def heard(self, name: str) -> list[Heard]:
        """The calls by signal *name* so far."""
        with self._changed:
            return [heard for heard in self._heard if heard.name == name]

    def names(self) -> list[str]:
        """The signals so far, in order."""
        with self._changed:
            return [heard.name for heard in self._heard]

    def one(self, name: str) -> Heard:
        """The only call by signal *name*; waits for it."""
        self.wait_for(lambda: bool(self.heard(name)), name)
        (heard,) = self.heard(name)
        return heard

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* holds after some signal."""
        with self._changed:
            met = self._changed.wait_for(condition, DEADLINE)
        assert met, f"still waiting: {what}"

    def wait_for_count(self, name: str, count: int) -> None:
        """Wait until signal *name* was sent *count* times."""
        self.wait_for(lambda: len(self.heard(name)) == count, f"{count} {name}")

    def _receiver(self, name: str) -> Callable[..., None]:
        def receive(sender: Any, **about: Any) -> None:
            current = app_ctx.app if flask.has_app_context() else None
            thread = threading.current_thread().name
            with self._changed:
                self._heard.append(Heard(name, sender, about, thread, current))
                self._changed.notify_all()

        return receive
