"""Wires the parts for one app."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask
from flask import Flask

from .. import contexts
from ..collecting.collector import Collector, CollectorLike
from ..collecting.requests import RequestScope
from ..collecting.scopes import Scopes
from ..config.broker_url import MEMORY, BrokerURL
from ..config.settings import (
    Config,
    OutboxRelay,
    choose_backlog,
    choose_broker,
    choose_spool_dir,
    choose_spool_name,
)
from ..config.topology import silent_losses
from ..delivery.delivery import Delivery
from ..delivery.entries import Notice
from ..delivery.exits import close_at_exit, close_when_gone
from ..delivery.ledger import Ledger
from ..delivery.limits import Limits
from ..delivery.log import ThrottledLog
from ..delivery.notifier import Notifier
from ..delivery.observations import Observations, Observer
from ..delivery.process import current_process
from ..delivery.records import Kind, log_record
from ..delivery.store import Store
from ..delivery.threads import OwnThread
from ..dispatch import Dispatcher
from ..messages.encoding import provider_default
from ..monitoring.origin import origin_of_call
from ..monitoring.tracing.choice import find_caller
from ..signals import events_published
from ..stores.memory import MemoryStore, PublishedAtCommit
from ..stores.spool.destination import Destination
from ..stores.spool.folder import Folder
from ..transactions.bound_sessions import BoundOutbox, BoundSessions
from .assembly import (
    broker_of,
    encoder_of,
    limits_of,
    observers_of,
    outbox_observers_of,
    page_of,
    spool_of,
)

if TYPE_CHECKING:
    from ..monitoring.outbox import Look
    from ..stores.outbox.relay import RelayStore
    from ..stores.outbox.writer import OutboxWriter

#: Seconds to look for the files of dead processes.
_LONGEST_LOOK = 1.0
#: The most lines of the log about what the settings may lose.
_MOST_LOSSES = 20

#: The key in ``app.extensions``.
EXTENSION_KEY = "eventcollector"


def state_of(app: Flask) -> AppState | None:
    """The extension's state for *app*; ``None``: the app was not initialised."""
    state = app.extensions.get(EXTENSION_KEY)
    return state if isinstance(state, AppState) else None


class AppState:
    """The extension's state for one app.

    This object and its threads refer to the app only weakly. An app that is no longer
    used can be garbage-collected, and its threads then stop.
    """

    def __init__(
        self, app: Flask, config: Config, events: object, sessions: BoundSessions
    ) -> None:
        self._app = weakref.ref(app)
        #: The extension that this state belongs to.
        self.events = events
        #: The sessions that were bound to it.
        self.sessions = sessions
        self.config = config
        #: Whether each event outside of a scope is published at once.
        self.autoflush = config.autoflush
        self.scopes = Scopes(self._new_collector, self._current_request, self._note_use)
        self._dispatcher = Dispatcher(app, self.scopes)
        #: Called after the last teardown function of an app context, once an app
        #: context has needed it. Requests rarely do.
        self.on_app_context_end: Callable[..., None] | None = None
        self._encoder = encoder_of(config, self._json_default)
        #: By process, so that a forked child starts empty. Its parent's entry stays
        #: untouched, since closing the inherited connection would write to the parent's
        #: stream. ``setdefault`` is atomic; a lock instead might be held by a thread
        #: that does not exist in the child.
        self._deliveries: dict[object, Delivery] = {}
        #: Those that are told what happens besides the metrics; added before the first
        #: event.
        self.observers: list[Observer] = []

    @property
    def app(self) -> Flask:
        """The app.

        :raises RuntimeError: the app no longer exists.
        """
        app = self._app()
        if app is None:
            raise RuntimeError("the app of this event collector no longer exists")
        return app

    def delivery(self) -> Delivery:
        """This process's delivery, created on first use."""
        return self.delivery_if_used() or self._new_delivery()

    def delivery_if_used(self) -> Delivery | None:
        """This process's delivery; ``None``: nothing was enqueued yet."""
        return self._deliveries.get(current_process())

    def delivery_with_orphans(self) -> Delivery | None:
        """This process's delivery, started if dead processes have left events.

        It adopts them, or tells of those that nobody adopts. ``None``: nothing was
        enqueued here, and no dead process has left events.
        """
        delivery = self.delivery_if_used()
        is_started = delivery is not None and delivery.is_started
        if not is_started and (self._is_anything_left() or self._sends_outbox):
            delivery = self.delivery()
            self._open_outbox(delivery)
            delivery.start()
        return delivery

    @property
    def limits(self) -> Limits:
        """The limits of each process."""
        return limits_of(self.config, durable=self.spool_folder() is not None)

    @property
    def has_outbox(self) -> bool:
        """Whether transactions write their events. In tests, they don't."""
        return self.sessions.outbox is not None and not self._is_test

    @property
    def _sends_outbox(self) -> bool:
        """Whether this process sends what is in the outbox."""
        return self.has_outbox and self.config.outbox_relay is OutboxRelay.OWN

    @property
    def _is_test(self) -> bool:
        return self.app.testing and not self.config.testing_broker

    def _open_outbox(self, delivery: Delivery) -> None:
        """Begin to send the rows that other processes have left."""
        outbox = self.sessions.outbox
        engine = None if outbox is None else outbox.engine()
        if delivery.outbox is not None and engine is not None:
            delivery.outbox.open(engine)

    def _is_anything_left(self) -> bool:
        """Whether dead processes have left events, be it for others."""
        folder = self.spool_folder()
        if folder is None:
            return bool(self.left_on_disk())
        return _has_orphans(folder)

    def check_broker(self) -> None:
        """Check what can't be checked before the app is configured completely.

        :raises ConfigurationError: no broker is configured.
        """
        choose_broker(self.config, self.app)

    def spool_folder(self) -> Folder | None:
        """The folder of the spool; ``None``: the backlog is in memory."""
        is_spool = choose_backlog(self.config, self.app) == "spool"
        return self._folder() if is_spool else None

    def left_on_disk(self) -> list[Path]:
        """The app's files from when its backlog was a spool, if it is in memory now.

        Tests do not look, nor does an app without a broker. Never raises.
        """
        config = self.config
        if config.backlog == "memory" and config.broker_urls and not self._is_test:
            with suppress(OSError, ValueError):
                folder = self._folder()
                return folder.all_files().get(folder.name, [])
        return []

    def _folder(self) -> Folder:
        path = choose_spool_dir(self.config, self.app)
        destination = Destination.of(choose_broker(self.config, self.app))
        return Folder(path, choose_spool_name(self.config, self.app), destination)

    # The parts of one process.

    def _new_delivery(self) -> Delivery:
        config = self.config
        urls = choose_broker(config, self.app)
        if urls == (MEMORY,) and not (self.app.testing or self.app.debug):
            log_record(Kind.BROKER_MEMORY, broker="memory://")
        folder = self.spool_folder()
        observations = self._make_observations()
        ledger = self._new_ledger(observations, durable=folder is not None)
        store = self._make_store(ledger, folder)
        outbox = self._make_outbox(ledger, store)
        delivery = self._deliver(
            ledger,
            store if outbox is None else outbox.store,
            observations,
            is_volatile=folder is None and urls != (MEMORY,),
        )
        if self.sessions.outbox is not None:
            test = PublishedAtCommit(delivery.publish, self.sessions.outbox.table)
            delivery.outbox = outbox or test
        # Before anybody can use it: a signal handler may raise in between.
        close_at_exit(delivery, config.shutdown_timeout)
        if (connection := contexts.connection_of_process()) is not None:
            close_when_gone(connection)
        weakref.finalize(self.app, delivery.request_stop).atexit = False
        chosen = self._deliveries.setdefault(current_process(), delivery)
        # Now, since a logging handler may enqueue events.
        if chosen is delivery:
            self._log_settings(folder, urls)
        return chosen

    def _make_observations(self, look: Look | None = None) -> Observations | None:
        """What tells metrics, history and traces; ``None``: there are none.

        :param look: at the outbox, if this process is a relay.
        """
        config, name = self.config, self.app.name
        observers = [*observers_of(config, name), *self.observers]
        if look is not None:
            observers += outbox_observers_of(config, name, look)
        if not observers:
            return None
        return Observations(observers, name, self._where, find_caller(config))

    def _where(self) -> str:
        """Which request enqueues an event and, in debug mode, which line of code."""
        request = contexts.current_endpoint()
        line = origin_of_call() if self.app.debug else None
        return " at ".join(filter(None, [request, line and str(line)]))

    def _log_settings(self, folder: Folder | None, urls: Sequence[BrokerURL]) -> None:
        """Log once in a process what its settings mean."""
        if folder is not None:
            log_record(Kind.SPOOL_FOLDER, app=folder.name, path=str(folder.path))
        if urls != (MEMORY,):
            losses = silent_losses(self.config.topology)
            more = len(losses) - _MOST_LOSSES
            if more > 0:
                losses[_MOST_LOSSES:] = [
                    f"{more} more, which 'flask events topology check' lists"
                ]
            for loss in losses:
                log_record(Kind.BROKER_MAY_LOSE, reason=loss)

    def _make_store(self, ledger: Ledger, folder: Folder | None) -> Store:
        if folder is None:
            return MemoryStore(self.left_on_disk())
        return spool_of(self.config, ledger, folder, self.app.name)

    def _make_outbox(self, ledger: Ledger, base: Store) -> OutboxWriter | None:
        """The outbox beside the store for other events; ``None``: there is none."""
        if self.sessions.outbox is None or self._is_test:
            return None
        # Only those who bind one have SQLAlchemy.
        from ..stores.outbox.store import OutboxStore
        from ..stores.outbox.writer import OutboxWriter

        table, names = self.sessions.outbox.table, self._options(self.sessions.outbox)
        if not self._sends_outbox:
            return OutboxWriter(ledger, base, table, **names)
        page, name = page_of(self.config), self.app.name
        return OutboxStore(ledger, base, table, page=page, name=name, **names)

    def _options(self, bound: BoundOutbox) -> dict[str, Any]:
        """What each store in the outbox is made with.

        :raises ConfigurationError: it can't be used. At a commit, it is late for that.
        """
        from ..stores.outbox.database import check_engine
        from ..stores.outbox.outbox import check_app

        if (engine := bound.engine()) is not None:
            check_engine(engine)
        name = check_app(choose_spool_name(self.config, self.app))
        lease = self.config.outbox_lease
        return {"app": name, "lease": lease, "engine": bound.given}

    def new_relay(
        self, bound: BoundOutbox, leader: str, look: Look | None = None
    ) -> tuple[Delivery, RelayStore]:
        """What sends the rows of the outbox, as a process of its own; not started.

        It has a delivery of its own, since the app may enqueue events here, too.

        :param leader: who this is, for people.
        :param look: returns what it knows of all rows, for the metrics.
        :raises ConfigurationError: there is no broker, or the outbox can't be used.
        """
        from ..stores.outbox.relay import PAGE, PAGE_BYTES, RelayStore

        config, observations = self.config, self._make_observations(look)
        ledger = self._new_ledger(observations, durable=False)
        relay = RelayStore(
            ledger,
            MemoryStore(),
            bound.table,
            page=page_of(config, PAGE, PAGE_BYTES),
            name=self.app.name,
            leader=leader,
            takes_over=not self._sends_outbox,
            **self._options(bound),
        )
        delivery = self._deliver(ledger, relay, observations)
        delivery.outbox = relay
        close_at_exit(delivery, config.shutdown_timeout)
        return delivery, relay

    def _new_ledger(
        self, observations: Observations | None, *, durable: bool
    ) -> Ledger:
        return Ledger(
            limits_of(self.config, durable=durable),
            is_heard=lambda: bool(events_published.receivers),
            observations=observations,
        )

    def _deliver(
        self,
        ledger: Ledger,
        store: Store,
        observations: Observations | None,
        *,
        is_volatile: bool = False,
    ) -> Delivery:
        config, name, log = self.config, self.app.name, ThrottledLog()
        return Delivery(
            ledger,
            broker_of(config, choose_broker(config, self.app), name),
            store,
            Notifier(self._dispatcher.send, log, ledger.defer),
            log,
            confirm_timeout=config.confirm_timeout,
            reconnect_timeout=config.reconnect_timeout,
            name=name,
            background=self.scopes.background,
            observations=observations,
            is_volatile=is_volatile,
            batch_headers=config.batch_headers,
        )

    def notify(self, notices: Sequence[Notice]) -> None:
        """Report *notices* of events that this process never held."""
        later = deque[Notice]().extend
        Notifier(self._dispatcher.send, ThrottledLog(), later).notify([*notices])

    def _new_collector(self) -> Collector:
        return Collector(self.delivery, self._encoder, self.sessions.current)

    def _current_request(self) -> RequestScope | None:
        app = self._app()
        if app is None:
            return None
        scope = contexts.current_request(app, self.scopes)
        if scope is not None and scope.torn_down:
            self._watch_app_contexts()
        return scope

    def _note_use(self, collector: CollectorLike) -> None:
        contexts.note_use(self.app, collector)
        self._watch_app_contexts()

    def _watch_app_contexts(self) -> None:
        if self.on_app_context_end is not None:
            flask.appcontext_tearing_down.connect(self.on_app_context_end, self.app)
            self.on_app_context_end = None

    def _json_default(self, value: Any) -> Any:
        """Convert *value* as the app's JSON provider does."""
        return provider_default(self.app.json)(value)


def _has_orphans(folder: Folder) -> bool:
    """Whether dead processes have left events; ``True`` if it takes too long to know.

    A file is locked for a moment to see that. In the main thread, an exception of a
    signal handler could leave it locked, so another one looks.
    """
    if threading.current_thread() is not threading.main_thread():
        return folder.has_orphans()
    found: list[bool] = []
    thread = OwnThread(
        lambda: found.append(folder.has_orphans()), "eventcollector-look"
    )
    try:
        thread.start()
    except RuntimeError:
        return folder.has_orphans()
    thread.join(_LONGEST_LOOK)
    return all(found)
