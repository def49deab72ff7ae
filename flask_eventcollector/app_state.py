"""One app's parts, wired together, with the hooks that Flask calls."""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import flask
from blinker import NamedSignal
from flask import Flask

from . import requests
from .announcer import Announcer
from .backlog import Backlog
from .backlog.adopter import PAGE, PAGE_BYTES
from .backlog.folder import Folder
from .backlog.memory import MemoryBacklog
from .backlog.spool import Spool
from .backoff import full_jitter
from .broker_url import MEMORY, BrokerURL
from .brokers import Broker
from .brokers.memory import MemoryBroker
from .brokers.rabbitmq import RabbitMQBroker
from .collector import Collector, discard
from .config import (
    Config,
    Overflow,
    SpoolSync,
    choose_backlog,
    choose_broker,
    choose_spool_dir,
)
from .delivery import Delivery
from .encoding import encode_event, provider_default
from .entries import News
from .events import Event
from .ledger import Ledger, Limits
from .reports import Reporter
from .requests import RequestScope
from .scopes import Scopes, leave
from .signals import event_enqueued

logger = logging.getLogger("flask_eventcollector")

#: By process id: the deliveries that were begun there, with the seconds that each may
#: take at the end of the process. One whose app is gone may still have something to
#: finish or to count: a script's app is often a local variable of its main function.
deliveries: dict[int, weakref.WeakKeyDictionary[Delivery, float]] = {}


class AppState:
    """What the extension keeps for one app.

    It refers to the app only weakly, as do the threads below it: an app that is thrown
    away can be collected, and its threads then stop.
    """

    def __init__(self, app: Flask, config: Config, events: object) -> None:
        self._app = weakref.ref(app)
        #: The extension that this is the state of.
        self.events = events
        self.config = config
        #: Whether each event outside of a scope is published at once.
        self.autoflush = config.autoflush
        self.scopes = Scopes(self._new_collector, self._current_request)
        #: By process id: a forked child starts empty. Its parent's entry stays here
        #: untouched, since to close the inherited connection would write into the
        #: parent's stream. ``setdefault`` is atomic, where a lock may be held by a
        #: thread that the fork has left behind.
        self._deliveries: dict[int, Delivery] = {}
        #: The processes that have begun to handle requests.
        self._served: set[int] = set()

    @property
    def app(self) -> Flask:
        """The app; :raises RuntimeError: it is gone."""
        app = self._app()
        if app is None:
            raise RuntimeError("the app of this event collector is gone")
        return app

    def delivery(self) -> Delivery:
        """This process's delivery, made on the first use."""
        return self.delivery_if_used() or self._begin()

    def delivery_if_used(self) -> Delivery | None:
        """This process's delivery, unless nothing was enqueued yet."""
        return self._deliveries.get(os.getpid())

    # The parts of one process.

    def _begin(self) -> Delivery:
        config, name = self.config, self.app.name
        urls = choose_broker(config, self.app)
        if urls == (MEMORY,) and not (self.app.testing or self.app.debug):
            logger.warning("Events stay in this process: the broker is memory://")
        durable = choose_backlog(config, self.app) == "spool"
        ledger, reporter = Ledger(_limits(config, durable=durable)), Reporter()
        folder = self._folder() if durable else None
        delivery = Delivery(
            ledger,
            _make_broker(urls, config, name),
            _make_backlog(ledger, folder, config, name),
            Announcer(self._send, reporter, ledger.news),
            reporter,
            confirm_timeout=config.confirm_timeout,
            name=name,
            aside=self._aside,
        )
        delivery = self._deliveries.setdefault(os.getpid(), delivery)
        begun = deliveries.setdefault(os.getpid(), weakref.WeakKeyDictionary())
        begun[delivery] = config.shutdown_timeout
        weakref.finalize(self.app, delivery.stop_soon).atexit = False
        return delivery

    def tell(self, news: Sequence[News]) -> None:
        """Log and signal, now, what became of events that never came here."""
        Announcer(self._send, Reporter(), deque()).tell(news)

    def _folder(self) -> Folder:
        return Folder(choose_spool_dir(self.config, self.app), self.app.name)

    def _new_collector(self) -> Collector:
        return Collector(self.delivery, self._encode)

    def _current_request(self) -> RequestScope | None:
        app = self._app()
        return None if app is None else requests.current_request(app, self.scopes)

    def _encode(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None,
        exchange: str | None,
    ) -> Event:
        return encode_event(
            payload,
            target_queue,
            headers=headers,
            exchange=self.config.exchange if exchange is None else exchange,
            max_event_bytes=self.config.max_event_bytes,
            default=provider_default(self.app.json),
        )

    # Signals.

    def _send(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        """Call the signal's receivers, each whatever the others do."""
        app = self._app()
        if app is None or not signal.receivers:
            return
        receivers = list(signal.receivers_for(app))
        with ExitStack() as stack:
            if receivers and not _is_current(app):
                stack.enter_context(app.app_context())
            for receiver in receivers:
                self._call(app, signal, receiver, about)

    def _call(
        self, app: Flask, signal: NamedSignal, receiver: Any, about: dict[str, Any]
    ) -> None:
        # What a receiver of event_enqueued enqueues belongs to the same unit of work.
        scope = nullcontext() if signal is event_enqueued else self._aside()
        with scope:
            try:
                app.ensure_sync(receiver)(app, **about)
            except Exception:
                logger.exception("A receiver of %s failed", signal.name)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Hand over what the block enqueues, without waiting for it.

        For code that the library calls: receivers, and logging handlers in the flusher.
        """
        owner = object()
        scope = self.scopes.enter(owner)
        try:
            yield
        finally:
            leave(owner)
            if scope.used:
                scope.collector.hand_over()

    # The hooks that Flask calls.

    def register(self, app: Flask) -> None:
        """Have Flask call the hooks below."""
        if self.config.backlog == "spool":
            flask.request_started.connect(self._begin_request, app)
        app.teardown_request(self._teardown_request)
        app.teardown_appcontext(self._teardown_appcontext)
        flask.request_finished.connect(self._note_response, app)
        flask.got_request_exception.connect(self._note_error, app)
        app.shell_context_processor(self._begin_shell)

    def _begin_request(self, sender: Flask, **extra: Any) -> None:
        """At a process's first request, adopt what a dead process has left.

        Without an event of its own, this process would not begin to work.
        """
        if os.getpid() in self._served:
            return
        self._served.add(os.getpid())
        try:
            durable = choose_backlog(self.config, sender) == "spool"
            if durable and self._folder().has_orphans():
                self.delivery().start()
        except Exception:
            logger.exception("What a dead process has left could not be adopted")

    def _note_response(
        self, sender: Flask, response: flask.Response, **extra: Any
    ) -> None:
        scope = requests.current_request(sender, self.scopes)
        if scope is not None:
            scope.status = response.status_code

    def _note_error(
        self, sender: Flask, exception: BaseException, **extra: Any
    ) -> None:
        scope = requests.current_request(sender, self.scopes)
        if scope is not None:
            scope.error = exception

    def _teardown_request(self, error: BaseException | None = None) -> None:
        scope = requests.current_request(self.app, self.scopes)
        if scope is None:
            return
        if error is not None:
            scope.error = error
        self._finish(scope)

    def _teardown_appcontext(self, error: BaseException | None = None) -> None:
        for scope in requests.take_unfinished():
            if error is not None and scope.error is None:
                scope.error = error
            self._finish(scope, torn_down=False)

    def _begin_shell(self) -> dict[str, Any]:
        # Flask calls this only for its shell, where a person waits for each event.
        self.autoflush = True
        return {}

    def _finish(self, scope: RequestScope, *, torn_down: bool = True) -> None:
        """Publish or discard what a request has collected. Never raises."""
        try:
            collector = self.scopes.collector_if_used(scope)
            if collector is None or not collector.events_to_publish:
                return
            failure = self._failure(scope, torn_down=torn_down)
            if failure:
                discard(collector, failure)
            else:
                # A process that is told to stop does no network.
                wait = None if _is_ordinary(scope.error) else 0
                collector.publish(wait)
        except Exception:
            logger.exception("The end of a request could not be handled")
        finally:
            requests.note_finished(scope)

    def _failure(self, scope: RequestScope, *, torn_down: bool) -> str:
        """Why the request's events are not to be published; ``""``: they are."""
        status, error = scope.status, scope.error
        if not torn_down and status is None and error is None:
            return "the request ended without a response"
        try:
            if self.config.publish_on(status, error):
                return ""
        except Exception:
            logger.exception("EVENTCOLLECTOR_PUBLISH_ON failed")
            return "EVENTCOLLECTOR_PUBLISH_ON failed"
        if error is not None:
            return f"{type(error).__name__} was raised"
        return f"the response was {status}"


def _is_ordinary(error: BaseException | None) -> bool:
    return error is None or isinstance(error, Exception)


def _is_current(app: Flask) -> bool:
    return flask.has_app_context() and flask.globals.app_ctx.app is app


def _limits(config: Config, *, durable: bool) -> Limits:
    return Limits(
        max_events=config.max_events,
        max_bytes=config.max_bytes,
        max_in_flight=config.max_in_flight,
        drop_oldest=config.overflow is Overflow.DROP_OLDEST,
        reject=config.overflow is Overflow.REJECT,
        dead_after=config.dead_after,
        delay=_delay(config),
        durable=durable,
    )


def _delay(config: Config) -> Callable[[int], float]:
    return partial(full_jitter, base=config.retry_delay, cap=config.retry_max_delay)


def _make_backlog(
    ledger: Ledger, folder: Folder | None, config: Config, name: str
) -> Backlog:
    if folder is None:
        return MemoryBacklog()
    return Spool(
        ledger,
        folder,
        patience=config.confirm_timeout,
        page=(
            min(PAGE, max(1, config.max_events // 4)),
            min(PAGE_BYTES, max(1, config.max_bytes // 4)),
        ),
        full_sync=config.spool_sync is SpoolSync.FULL,
        name=name,
    )


def _make_broker(urls: Sequence[BrokerURL], config: Config, name: str) -> Broker:
    if urls[0].scheme == "memory":
        return MemoryBroker()
    return RabbitMQBroker(
        urls,
        queues=config.queues,
        heartbeat=config.heartbeat,
        delay=_delay(config),
        name=name,
    )
