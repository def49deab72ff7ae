"""The Flask extension: wires the parts for each app, forwards to the current one."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import flask
import flask.globals
from flask import Flask

from .app_state import EXTENSION_KEY, AppState, deliveries, state_of
from .cli.group import add_commands, errors_shown
from .collecting.blocks import AutoPublishingEventCollector
from .collecting.collector import CollectorLike
from .collecting.scopes import Scopes
from .config.settings import Config
from .delivery.broker import Broker
from .delivery.delivery import Delivery
from .errors import ConfigurationError
from .events import DeadEvent, Event, PublishResult, Stats
from .hooks import Hooks

if TYPE_CHECKING:
    from .testing import Captured

_COLLECTOR_FACE = (
    "enqueue_event",
    "publish",
    "clear_events_to_publish",
    "events_to_publish",
)


class EventCollector:
    """Collects events in a unit of work; publishes them to RabbitMQ when it succeeds.

    One object serves any number of apps::

        events = EventCollector()


        def create_app() -> Flask:
            app = Flask(__name__)
            app.config.from_prefixed_env()
            events.init_app(app)
            return app

    Inside an app context its methods concern that app; outside, the only app that was
    initialised. Nothing connects, and no thread starts, before the first event.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: list[weakref.ref[Flask]] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read *app*'s ``EVENTCOLLECTOR_`` settings and register with its teardown.

        :raises ConfigurationError: a setting is wrong; the message names the cure.
        :raises RuntimeError: *app* has an event collector already.
        """
        if EXTENSION_KEY in app.extensions:
            raise RuntimeError(
                f"the app {app.name!r} has an EventCollector already: call init_app()"
                " once for each app, or leave out EventCollector(app)"
            )
        with errors_shown():
            config = Config.from_app(app)
            _check_threads()
        app.extensions[EXTENSION_KEY] = state = AppState(app, config, self)
        Hooks(state).register(app)
        add_commands(app)
        self._apps.append(weakref.ref(app))

    # Collecting and publishing.

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
    ) -> Event:
        """Encode one event and collect it; it is published with its unit of work.

        :param payload: what JSON can hold, and dates, times, UUIDs, Decimals and
            dataclasses; it becomes the body of the message as plain JSON.
        :param target_queue: the routing key, which on the default exchange is the name
            of the queue; 255 bytes at most.
        :param headers: AMQP headers for the message.
        :param exchange: ``None``: ``EVENTCOLLECTOR_EXCHANGE``.
        :returns: the event; its ``id`` is the AMQP ``message_id``.
        :raises EncodingError: JSON can't hold *payload*, or it is too large.
        :raises TypeError, ValueError: AMQP can't hold a name or a header.
        :raises BacklogFull: a limit is reached, and ``OVERFLOW`` is ``"reject"``.
        :raises ConfigurationError: no broker was configured.

        Never blocks, unless autoflush is on: then an event outside of requests and
        blocks is published at once (see :meth:`publish`).
        """
        state = self._state()
        event: Event = state.scopes.current().enqueue_event(
            payload, target_queue, headers=headers, exchange=exchange
        )
        if state.autoflush and state.scopes.innermost() is None:
            state.scopes.current().publish()
        return event

    def publish(self, timeout: float | None = None) -> PublishResult:
        """Hand over what the current collector holds, as one batch.

        Without *timeout*, waits for the confirms at most
        ``EVENTCOLLECTOR_CONFIRM_TIMEOUT`` seconds, and not at all while the broker is
        away. With *timeout* (seconds), waits until each event is confirmed or refused,
        also while the broker is away. What is not confirmed by then is on its way or
        retained, and goes on without the caller. Never raises because of the broker.
        """
        timeout = None if timeout is None else _checked_timeout(timeout)
        result: PublishResult = self.scopes().current().publish(timeout)
        return result

    def clear_events_to_publish(self) -> int:
        """Discard what the current collector holds; returns how many events."""
        count: int = self.scopes().current().clear_events_to_publish()
        return count

    @property
    def events_to_publish(self) -> tuple[Event, ...]:
        """What the current collector holds, in order."""
        events: tuple[Event, ...] = self.scopes().current().events_to_publish
        return events

    def thread_singleton_instance(self) -> CollectorLike:
        """This thread's own collector, made on first use.

        It lives until the thread ends, and is published only by its ``publish()``.
        """
        scopes = self.scopes()
        return scopes.collector(scopes.thread())

    def scopes(self) -> Scopes:
        """The scopes of the current app, for :class:`AutoPublishingEventCollector`."""
        return self._state().scopes

    def auto_publish(self) -> AutoPublishingEventCollector:
        """The same as ``AutoPublishingEventCollector(events)``."""
        return AutoPublishingEventCollector(self)

    @contextmanager
    def use_collector(self, double: CollectorLike) -> Iterator[CollectorLike]:
        """Let every scope of the app, in every thread, use *double* instead.

        For tests. *double* has ``enqueue_event``, ``publish``,
        ``clear_events_to_publish`` and ``events_to_publish``. :raises TypeError: it
        hasn't.
        """
        _check_double(double)
        scopes = self.scopes()
        before, scopes.double = scopes.double, double
        try:
            yield double
        finally:
            scopes.double = before

    def capture(self) -> Captured:
        """Capture what becomes of the app's events in a ``with`` block, for tests.

        The capture holds one list for each fate, and the assertions. See
        :class:`flask_eventcollector.testing.Captured`. Never blocks for long.
        """
        # Nothing of the test kit is loaded in production.
        from .testing import capture_app

        self._state()
        return capture_app(self._app())

    # Looking after what is kept.

    def flush(self, timeout: float) -> bool:
        """Try to deliver all that was handed over, within *timeout* seconds.

        With the spool that includes what dead processes have left on disk. Returns
        whether it worked; ends early when the broker has refused what is left.
        Outside an app context it serves all apps.
        """
        return self._for_each(Delivery.flush, timeout)

    def close(self, timeout: float) -> bool:
        """Deliver what can be delivered within *timeout* seconds, then stop.

        Returns whether everything was delivered. What is left stays in the spool, or
        with the memory backlog is dropped, counted and logged. Outside an app context
        it serves all apps. The end of the process does the same with
        ``EVENTCOLLECTOR_SHUTDOWN_TIMEOUT``, without a new connection.
        """
        return self._for_each(Delivery.close, timeout)

    def stats(self) -> Stats:
        """The books of this process, and the broker's state; never blocks.

        Outside an app context: the sum over all apps.
        """
        books = [delivery.stats() for delivery in self._deliveries()]
        return reduce(add, books) if books else Stats()

    def dead(self) -> tuple[DeadEvent, ...]:
        """The events that were set aside because the broker went on refusing them."""
        return self._state().delivery().dead()

    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Send dead events again, all or those with *ids*; returns how many."""
        return (
            self._state().delivery().retry(None if ids is None else _checked_ids(ids))
        )

    def purge(self, ids: Iterable[str]) -> int:
        """Drop events that are dead or retained; returns how many."""
        return self._state().delivery().purge(_checked_ids(ids))

    @property
    def broker(self) -> Broker:
        """The current app's broker in this process.

        On ``memory://`` it is a :class:`~flask_eventcollector.brokers.memory.\
MemoryBroker`, whose ``get(queue)`` reads what was published.
        """
        return self._state().delivery().broker

    # Which app is meant.

    def _state(self) -> AppState:
        app = self._app()
        state = state_of(app)
        if state is None or state.events is not self:
            raise RuntimeError(
                f"the app {app.name!r} is not registered with this EventCollector: call"
                " events.init_app(app) when you create it"
            )
        return state

    def _app(self) -> Flask:
        if flask.has_app_context():
            return flask.globals.app_ctx.app
        apps = self._living_apps()
        if len(apps) == 1:
            return apps[0]
        if not apps:
            raise RuntimeError(
                "this EventCollector has no app: call events.init_app(app), or create"
                " it with EventCollector(app)"
            )
        raise RuntimeError(
            f"this EventCollector serves {len(apps)} apps, and none is current: use"
            " 'with app.app_context():'"
        )

    def _states(self) -> list[AppState]:
        apps = self._living_apps()
        if flask.has_app_context() or not apps:
            return [self._state()]
        return [state for app in apps if (state := state_of(app)) is not None]

    def _living_apps(self) -> list[Flask]:
        return [app for known in self._apps if (app := known()) is not None]

    def _deliveries(self) -> list[Delivery]:
        used = [state.delivery_if_used() for state in self._states()]
        return [delivery for delivery in used if delivery is not None]

    def _for_each(self, act: Callable[[Delivery, float], bool], timeout: float) -> bool:
        deadline = time.monotonic() + _checked_timeout(timeout)
        worked = True
        for delivery in self._deliveries():
            worked &= act(delivery, max(0.0, deadline - time.monotonic()))
        return worked


@atexit.register
def _close_all() -> None:
    """Give what is under way a last chance, without new threads or connections."""
    began = time.monotonic()
    for delivery, timeout in list(deliveries.get(os.getpid(), {}).items()):
        left = began + timeout - time.monotonic()
        delivery.close(max(0.0, left), reconnect=False)


def _check_threads() -> None:
    """Older versions of uWSGI run no thread but their own, unless they are told to."""
    uwsgi = sys.modules.get("uwsgi")
    # Its own word: which options turn threads on, and which one is the default,
    # differs between its versions.
    if not getattr(uwsgi, "has_threads", True):
        raise ConfigurationError(
            "uWSGI runs this app without threads, so nothing could be sent in the"
            " background: start it with --enable-threads (or enable-threads = true)"
        )


def _check_double(double: object) -> None:
    missing = [name for name in _COLLECTOR_FACE if not hasattr(double, name)]
    if missing:
        raise TypeError(
            f"use_collector() takes a collector, but {type(double).__name__} has no"
            f" {', '.join(missing)}"
        )


def _checked_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        kind = type(timeout).__name__
        raise TypeError(f"timeout must be a number of seconds, not {kind}")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a number of seconds >= 0, not {timeout}")
    return timeout


def _checked_ids(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of event ids, not the string {ids!r}")
    return list(ids)
