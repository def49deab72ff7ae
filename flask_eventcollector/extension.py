"""The Flask extension, which forwards calls to the current app's parts."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import flask
import flask.globals
from flask import Blueprint, Flask

from . import contexts
from .app_state import EXTENSION_KEY, AppState, state_of
from .cli.group import add_commands, errors_shown
from .collecting.blocks import AutoPublishingEventCollector
from .collecting.collector import CollectorLike
from .collecting.scopes import Scopes
from .config.settings import Config, Metrics
from .delivery.broker import Broker
from .delivery.delivery import Delivery
from .delivery.exits import call_last
from .errors import ConfigurationError
from .events import DeadEvent, Event, PublishResult, Stats
from .hooks import Hooks
from .monitoring.health import Health, health_of
from .monitoring.shared_folder import forget_own
from .transactions.bound_sessions import BoundSessions

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table
    from typing_extensions import Unpack

    from .consuming.once import Once
    from .dashboard.access import Authorize
    from .messages.options import EventOptions
    from .testing import Captured
    from .transactions.sources import Bindable

_COLLECTOR_INTERFACE = (
    "enqueue_event",
    "publish",
    "clear_events_to_publish",
    "events_to_publish",
)


class EventCollector:
    """Collects events in a unit of work; publishes them to RabbitMQ if it succeeds.

    One object serves any number of apps::

        events = EventCollector()


        def create_app() -> Flask:
            app = Flask(__name__)
            app.config.from_prefixed_env()
            events.init_app(app)
            return app

    Inside an app context, every method applies to that app. Outside, it applies to the
    only app that was initialised, unless the method says otherwise. Every method raises
    :exc:`RuntimeError` if no such app can be determined. No connection is made and no
    thread is started before the first event. That includes events on disk that dead
    processes have left.

    :param app: calls :meth:`init_app` with this app.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._apps: list[weakref.ref[Flask]] = []
        self._sessions = BoundSessions()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the app's ``EVENTCOLLECTOR_`` settings; register hooks and commands.

        It may read and write files that the settings name, but uses no network.

        :param app: the Flask app.
        :raises ConfigurationError: a setting is invalid. The message names the cure.
        :raises RuntimeError: *app* already has an event collector.
        """
        if EXTENSION_KEY in app.extensions:
            raise RuntimeError(
                f"the app {app.name!r} already has an EventCollector: call init_app()"
                " once for each app, or leave out EventCollector(app)"
            )
        with errors_shown():
            config = Config.from_app(app)
            _check_threads()
        state = AppState(app, config, self, self._sessions)
        app.extensions[EXTENSION_KEY] = state
        Hooks(state).register(app)
        add_commands(app)
        if Metrics.PROMETHEUS in config.metrics:
            call_last(forget_own)
        self._apps.append(weakref.ref(app))

    # Collecting and publishing.

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        **options: Unpack[EventOptions],
    ) -> Event:
        """Encode one event and add it to the current collector.

        The event is published when its unit of work succeeds. The call does not block,
        unless ``EVENTCOLLECTOR_AUTOFLUSH`` is set: then an event outside of requests
        and blocks is published at once, as by :meth:`publish`. The receivers of
        :data:`.event_enqueued`, and the functions of ``EVENTCOLLECTOR_BEFORE_ENQUEUE``
        and ``EVENTCOLLECTOR_ENCODER``, run in it. What these two raise is raised.

        :param payload: any JSON value; dates, times, UUIDs, Decimals, dataclasses and
            the types that ``app.json`` supports are converted. It becomes the body of
            the message, as JSON in UTF-8.
        :param target_queue: the routing key (str, at most 255 bytes). On the default
            exchange, it is the name of the queue.
        :param headers: the AMQP headers of the message: a dict of str to str, bytes,
            bool, int, ``None``, list or dict; a Decimal, date, time, datetime or UUID
            is sent as a str, as in the payload. See the field
            tables in https://www.rabbitmq.com/amqp-0-9-1-errata.
        :param exchange: the name of the exchange. ``None``:
            ``EVENTCOLLECTOR_EXCHANGE``.
        :param options: more about this event, each by its name. They are the AMQP
            properties of the same name unless it says otherwise; texts are str of 1 to
            255 bytes in UTF-8.

            - ``type``: the kind of event. That of a CloudEvent is *target_queue* by
              default.
            - ``correlation_id``: what the event belongs to (a str or UUID).
            - ``reply_to``: the queue for an answer (a str or UUID).
            - ``priority``: an int from 0 to 255, for queues with ``x-max-priority``.
            - ``expires_in``: seconds, or a timedelta, at most 49 days, from now on.
              After that, the event is dropped with the reason ``"expired"``. What is
              left of it when the event is sent is the message's ``expiration``.
            - ``delay``: seconds, or a timedelta. The event is held back for that time,
              from now on, and does not hold up others. In the spool or the outbox, it
              outlives the process. :meth:`flush` and :meth:`close` don't wait for it.
            - ``key``: what the event is about, any hashable value. Of several events
              for the same target with the same key, in one unit of work, only one is
              published, so that a loop that touches an order ten times tells it once.
              It has the place of the first one. The others are discarded.
            - ``keep``: which one that is if this event is a later one, ``"last"`` (the
              default) or ``"first"``.
            - ``content_type``: what the body is. A *payload* of bytes then goes out as
              it is. Any other payload is sent as JSON, so it must be a type of JSON.
            - ``content_encoding``: how the body is compressed, for example ``"gzip"``.
              Compress it yourself, and pass bytes with a ``content_type``.
            - ``attributes``: those of the CloudEvent, a dict: ``subject``,
              ``dataschema`` (a URI), and extensions, whose names have 1 to 20 of a-z
              and 0-9. A value is a str, bool, int (32 bits), bytes, or a datetime that
              is aware of its time zone; a UUID is sent as a str. In binary mode, each
              has at most 255 bytes. Needs ``EVENTCOLLECTOR_CLOUDEVENTS``.
        :returns: the :class:`Event`; its ``id`` is the AMQP ``message_id``. With
            ``keep="first"``, the earlier one if there is one.
        :raises EncodingError: *payload* can't be encoded as JSON, or is larger than
            ``EVENTCOLLECTOR_MAX_EVENT_BYTES``.
        :raises TypeError: a name, a header or an option has the wrong type.
        :raises ValueError: a name, a header or an option is invalid in AMQP, or in a
            CloudEvent.
        :raises BacklogFull: a limit is reached and ``EVENTCOLLECTOR_OVERFLOW`` is
            ``"reject"``.
        :raises ConfigurationError: no broker is configured.
        """
        state = self._state()
        collect = state.scopes.receiving().enqueue_event
        event: Event
        if options:
            event = collect(
                payload, target_queue, headers=headers, exchange=exchange, **options
            )
        else:
            # An empty dict would double the time of the call.
            event = collect(payload, target_queue, headers=headers, exchange=exchange)
        if state.autoflush and state.scopes.innermost() is None:
            state.scopes.current().publish()
        return event

    def publish(self, timeout: float | None = None) -> PublishResult:
        """Publish what the current collector holds, as one batch.

        Events that are not confirmed when this returns are in flight or retained for
        retry; the background threads take care of them. A broker failure never raises.
        The receivers of signals about these events are called before it returns. In a
        receiver that one of the library's own threads calls, it does not wait.

        :param timeout: how long to block, in seconds (at least 0). ``None``: at most
            ``EVENTCOLLECTOR_CONFIRM_TIMEOUT``, and not at all while the broker is
            unreachable; with ``EVENTCOLLECTOR_RECONNECT_TIMEOUT``, at most the longer
            of the two, in any case. A number: until each event is confirmed or refused,
            even while the broker is unreachable. With the spool, writing to the disk
            may take up to one more second.
        :returns: a :class:`PublishResult`, which counts these events by their states.
        :raises TypeError: *timeout* is not a number.
        :raises ValueError: *timeout* is negative or too large.
        """
        timeout = None if timeout is None else _checked_timeout(timeout)
        result: PublishResult = self.scopes().current().publish(timeout)
        return result

    def clear_events_to_publish(self) -> int:
        """Discard what the current collector holds.

        Does not block, except for the receivers of :data:`.events_discarded`.

        :returns: the number of events.
        """
        count: int = self.scopes().current().clear_events_to_publish()
        return count

    @property
    def events_to_publish(self) -> tuple[Event, ...]:
        """The events in the current collector, in order. Does not block."""
        events: tuple[Event, ...] = self.scopes().current().events_to_publish
        return events

    def thread_singleton_instance(self) -> CollectorLike:
        """This thread's own collector, created on first use.

        It exists until the thread ends. It is published only by its ``publish()``, or
        by :meth:`publish` outside of requests and blocks.
        """
        scopes = self.scopes()
        return scopes.collector(scopes.thread())

    def scopes(self) -> Scopes:
        """The scopes of the current app, for :class:`AutoPublishingEventCollector`.

        :meta private:
        """
        return self._state().scopes

    def auto_publish(self) -> AutoPublishingEventCollector:
        """Make a block or a function one unit of work.

        :returns: an :class:`AutoPublishingEventCollector` for this extension.
        """
        return AutoPublishingEventCollector(self)

    def bind_session(
        self,
        session: Bindable,
        *,
        outbox: Table | None = None,
        outbox_engine: Engine | None = None,
        inbox: Table | None = None,
    ) -> None:
        """Let the transactions of SQLAlchemy sessions decide about events.

        An event that is enqueued while a transaction of a bound session is in progress
        belongs to that transaction, if the transaction has written something by the
        time it ends: it sent a statement that changes data, or it had changes to flush.

        - Once the transaction is committed, the event is published with its unit of
          work, as any other. If the unit of work has ended before, the commit publishes
          it, without waiting for the broker.
        - If the transaction is rolled back, the event is discarded with the reason
          ``"the transaction was rolled back"``; if it ends otherwise, with ``"the
          transaction was not committed"``, which is logged. A savepoint that is rolled
          back takes only its own events with it.

        Of several transactions in progress, it is the one that began last, of those
        that have written something so far. A statement whose text does not show that it
        writes, such as a SELECT of a function, counts as reading. A savepoint below the
        session, by ``Connection.begin_nested()``, is not seen.

        Needs SQLAlchemy 2.0.16 or newer: ``pip install 'SQLAlchemy>=2.0.16'``.
        Call it when the extension is created, before or after :meth:`init_app`. It
        applies to all apps, and does not use the database. The same session may be
        bound again, without effect. ::

            db = SQLAlchemy()
            events = EventCollector()
            events.bind_session(db.session)

        :param session: a ``scoped_session``, such as ``db.session`` of
            Flask-SQLAlchemy; a ``sessionmaker``, or a subclass of ``Session``, for all
            sessions that it creates; one ``Session``; the same of
            ``sqlalchemy.ext.asyncio``; or a function without arguments that returns the
            session of the current context, or ``None``. A :exc:`RuntimeError` or
            :exc:`LookupError` that it raises also means that there is none. See
            https://docs.sqlalchemy.org/en/20/orm/session_transaction.html.
        :type session: object
        :param outbox: a table of :func:`make_outbox_table`, in the sessions' database.
            A transaction then writes its events into it, and they are sent once it is
            committed, whatever becomes of the request. Bind it before the first event.
        :type outbox: sqlalchemy.Table
        :param outbox_engine: makes the connections, at most two, on which the rows of
            the outbox are read and erased. By default, they are made as those of the
            sessions. For sessions of ``sqlalchemy.ext.asyncio``, they are made by the
            URL alone, with psycopg, pymysql or sqlite3; if their driver is another one
            than psycopg, aiomysql or aiosqlite, or if it needs ``connect_args``, pass
            an engine of ``create_engine()``.
        :type outbox_engine: sqlalchemy.Engine
        :param inbox: a table of :func:`make_inbox_table`, in the sessions' database, in
            which :meth:`once` notes what consumers have handled.
        :type inbox: sqlalchemy.Table
        :raises TypeError: *session* is something else.
        :raises ConfigurationError: another outbox or inbox is bound.
        :raises ImportError: SQLAlchemy is not installed, or is older than 2.0.
        """
        self._sessions.bind(session)
        if outbox is not None:
            self._sessions.bind_outbox(session, outbox, outbox_engine)
        if inbox is not None:
            self._sessions.bind_inbox(session, inbox)

    @contextmanager
    def use_collector(self, double: CollectorLike) -> Iterator[CollectorLike]:
        """Replace every collector of the app, in every thread, during a ``with`` block.

        For tests.

        :param double: an object with ``enqueue_event``, ``publish``,
            ``clear_events_to_publish`` and ``events_to_publish``.
        :raises TypeError: *double* lacks one of these.
        """
        _check_double(double)
        scopes = self.scopes()
        before, scopes.double = scopes.double, double
        try:
            yield double
        finally:
            scopes.double = before

    def capture(self) -> Captured:
        """Capture the fate of the app's events during a ``with`` block, for tests.

        At its begin, it may block for two seconds: earlier events are no part of it.

        :returns: a :class:`flask_eventcollector.testing.Captured`, with one list for
            each fate, and with assertions.
        """
        # The test kit is not loaded in production.
        from .testing import capture_app

        self._state()
        return capture_app(self._app())

    # Consuming.

    def once(self, session: Any, message_id: str, *, consumer: str) -> Once:
        """Note that a message is handled, in the transaction of the work.

        For consumers::

            with events.once(db.session, message.id, consumer="billing") as first:
                if first:
                    book(order)
            db.session.commit()
            channel.basic_ack(delivery_tag)

        The block's value, a bool, says whether the message is seen for the first time.
        The note is a row in the session's transaction. It is committed with the work,
        or rolled back with it; then the message is first again. The block never
        commits. If it raises an exception, the row is deleted in the transaction, so
        that the message is not noted even if somebody commits that transaction.

        Entering the block executes one ``INSERT``, which blocks while another
        transaction with the same message is open: until that ends, or until the
        database's own timeout. If the database can't decide, for example because of a
        timeout, a deadlock or the isolation level, the driver's error is raised: roll
        back, and let the message be redelivered. With an ``AsyncSession``, use ``async
        with``.

        :param session: the session that does the work, or a ``scoped_session`` or
            function without arguments that returns it.
        :param message_id: the AMQP ``message_id``: 1 to 255 bytes of UTF-8. See
            :func:`received`.
        :param consumer: a name for what handles the message, since other consumers may
            get a copy of it: 1 to 255 bytes of UTF-8.
        :raises ConfigurationError: no table is bound, the table is missing, or the
            session has no transactions.
        :raises TypeError: *session* is not a session; a name is not a str.
        :raises ValueError: a name is empty or too long.
        """
        from .consuming.once import Once

        return Once(self._sessions.inbox(), session, message_id, consumer)

    def purge_seen(self, *, older_than: timedelta = timedelta(days=14)) -> int:
        """Delete what :meth:`once` has noted, if it is older.

        It deletes in short transactions of its own, of at most 500 rows each, and
        blocks until all are deleted. Needs an app context if the bound session does.

        :param older_than: longer than any copy of a message may be late: the longest
            outage, and the longest time in a queue.
        :returns: the number of rows.
        :raises ConfigurationError: no table is bound, or the table is missing.
        :raises TypeError: *older_than* is not a timedelta.
        :raises ValueError: *older_than* is negative.
        """
        return self._sessions.inbox().purge(older_than)

    # Looking after the backlog.

    def dashboard(
        self,
        *,
        authorize: Authorize | None = None,
        allow_actions: bool = False,
        show_payloads: bool = False,
    ) -> Blueprint:
        """Pages that show what waits and why: pass it to ``app.register_blueprint()``.

        The app must have this event collector, and its settings, by then. The pages
        never publish, and never wait for the broker. To retry, purge or redirect events
        may block for as long as the database does, or five seconds for each process
        that does not respond.

        :param authorize: called without arguments in each request. It returns whether
            the request is allowed, as a bool; or who sends it, as a str for the log or
            a :class:`flask_eventcollector.dashboard.Viewer`; or ``"read-only"``; or a
            response that is sent instead, for example a redirect to the login. ``None``
            and ``""`` mean no. It may abort. If it raises anything else, or returns
            another object, the answer is 403, and the log says why. ``None``: only in
            debug mode, and only a browser on the same machine is allowed.
        :param allow_actions: whether events can be retried, purged and redirected
            there. Needs the app's ``SECRET_KEY``.
        :param show_payloads: whether the pages show payloads and headers, when asked.
        :returns: a :class:`flask.Blueprint` with the prefix ``/eventcollector``.
            Registering it raises ``ConfigurationError`` if *authorize* is missing
            outside of debug mode, or the ``SECRET_KEY`` for actions.
        """
        # Only those who use it load it.
        from .dashboard.blueprint import Dashboard

        dashboard = Dashboard(
            authorize, allow_actions=allow_actions, show_payloads=show_payloads
        )
        return dashboard.blueprint()

    def flush(self, timeout: float = 5.0) -> bool:
        """Try to deliver everything that was handed over.

        With the spool, that includes events that dead processes have left on disk.
        Outside an app context, it applies to all apps.

        In a receiver that one of the library's own threads calls, it returns ``False``
        at once.

        :param timeout: how long to block at most, in seconds. Returns early once
            everything is delivered, or once the broker has refused everything left.
        :returns: whether everything was delivered.
        :raises TypeError: *timeout* is not a number.
        :raises ValueError: *timeout* is negative or too large.
        """
        return self._for_each(Delivery.flush, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Deliver what can be delivered in time, then stop.

        The rest stays in the spool. With the memory backlog, the rest is dropped,
        counted and logged. Outside an app context, it applies to all apps. At exit, the
        same happens, but without a new connection. Events that are published later are
        written to the spool, or dropped, at once.

        :param timeout: how long to block, in seconds; stopping the threads may take up
            to one more second. ``None``: ``EVENTCOLLECTOR_SHUTDOWN_TIMEOUT``, with
            several apps the longest.
        :returns: whether everything was delivered.
        :raises TypeError: *timeout* is not a number.
        :raises ValueError: *timeout* is negative or too large.
        """
        if timeout is None:
            timeout = max(state.config.shutdown_timeout for state in self._states())
        return self._for_each(Delivery.close, timeout)

    def stats(self) -> Stats:
        """The event counts of this process, with the broker's state.

        Outside an app context, it is the sum over all apps. With the spool, a call in
        the first second of a process waits for the scan for events of dead processes,
        at most until that second is over. Otherwise, it does not block.

        :returns: a :class:`Stats`.
        """
        deliveries = self._deliveries()
        for delivery in deliveries:
            delivery.wait_for_first_scan()
        books = [delivery.stats() for delivery in deliveries]
        return reduce(add, books) if books else Stats()

    def health(self) -> Health:
        """The health of this process, for a load balancer or an orchestrator.

        It needs no connection and makes none. Outside an app context, the only app is
        meant. Blocks no longer than :meth:`stats`.

        :returns: a :class:`Health`: ``is_live``, ``is_ready``, ``as_dict()``.
        """
        state = self._state()
        delivery = state.delivery_with_orphans()
        if delivery is None:
            return Health()
        delivery.wait_for_first_scan()
        return health_of(delivery.stats(), delivery.limits, delivery.threads_problem)

    def dead(self) -> tuple[DeadEvent, ...]:
        """The dead-lettered events of this process, which the broker kept refusing.

        With the spool, that includes events of dead processes that this process has
        adopted. Blocks no longer than :meth:`stats`.

        :returns: a tuple of :class:`DeadEvent`.
        """
        return self._backlog().dead()

    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Retain this process's dead events for another attempt.

        Blocks no longer than :meth:`stats`.

        :param ids: the ids of events; others are ignored. ``None``: all dead events.
        :returns: the number of events.
        :raises TypeError: *ids* is a single str.
        """
        return self._backlog().retry(None if ids is None else _checked_ids(ids))

    def purge(self, ids: Iterable[str]) -> int:
        """Drop events that are dead, retained or delayed in this process, for good.

        Blocks no longer than :meth:`stats`, and as long as the receivers of
        :data:`.events_dropped`.

        :param ids: the ids of events; events in another state are ignored.
        :returns: the number of events.
        :raises TypeError: *ids* is a single str.
        """
        return self._backlog().purge(_checked_ids(ids))

    @property
    def broker(self) -> Broker:
        """The current app's broker in this process. Does not connect.

        With ``memory://``, it is a
        :class:`~flask_eventcollector.brokers.memory.MemoryBroker`, whose ``get(queue)``
        reads what was published.

        :raises ConfigurationError: no broker is configured.
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
        app = contexts.current_app()
        if app is not None:
            return app
        apps = self._living_apps()
        if len(apps) == 1:
            return apps[0]
        if not apps and self._apps:
            raise RuntimeError(
                "this EventCollector's app was garbage-collected: keep a reference to"
                " it, such as app = create_app()"
            )
        if not apps:
            raise RuntimeError(
                "this EventCollector has no app: call events.init_app(app), or create"
                " it with EventCollector(app)"
            )
        raise RuntimeError(
            f"this EventCollector serves {len(apps)} apps, but none is current: use"
            " 'with app.app_context():'"
        )

    def _states(self) -> list[AppState]:
        apps = self._living_apps()
        if flask.has_app_context() or not apps:
            return [self._state()]
        return [state for app in apps if (state := state_of(app)) is not None]

    def _living_apps(self) -> list[Flask]:
        return [app for known in self._apps if (app := known()) is not None]

    def _backlog(self) -> Delivery:
        """The current app's delivery, once it knows what dead processes have left."""
        state = self._state()
        delivery = state.delivery_with_orphans() or state.delivery()
        delivery.wait_for_first_scan()
        return delivery

    def _deliveries(self) -> list[Delivery]:
        """The deliveries of the apps in question that have, or may find, events."""
        found = [state.delivery_with_orphans() for state in self._states()]
        return [delivery for delivery in found if delivery is not None]

    def _for_each(self, act: Callable[[Delivery, float], bool], timeout: float) -> bool:
        deadline = time.monotonic() + _checked_timeout(timeout)
        worked = True
        for delivery in self._deliveries():
            worked &= act(delivery, max(0.0, deadline - time.monotonic()))
        return worked


def _check_threads() -> None:
    """Check for uWSGI without threads, the default of older versions."""
    uwsgi = sys.modules.get("uwsgi")
    # Asks uWSGI itself: the options that enable threads, and their defaults, differ
    # between versions.
    if not getattr(uwsgi, "has_threads", True):
        raise ConfigurationError(
            "uWSGI runs this app without threads, so nothing could be sent in the"
            " background: start it with --enable-threads (or enable-threads = true)"
        )


def _check_double(double: object) -> None:
    missing = [name for name in _COLLECTOR_INTERFACE if not hasattr(double, name)]
    if missing:
        raise TypeError(
            f"use_collector() expects a collector, but {type(double).__name__} has no"
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
