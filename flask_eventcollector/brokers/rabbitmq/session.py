"""One connection to the broker, from open to close."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from ...delivery.broker import BrokerCallbacks
from ...delivery.entries import Entry, Settlement
from ...events import BrokerState
from .channels import ChannelState, ExchangeChannel, too_large
from .reasons import broker_text, explain

logger = logging.getLogger("flask_eventcollector")

#: The most events published before the socket is served again.
_BATCH = 200

Queues = Mapping[str, Mapping[str, Any]]


class _Connection(pika.SelectConnection):
    """pika's connection, with three features that its public API lacks."""

    _corked: list[bytes] | None = None
    _is_ending = False

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Send everything that the block writes with one system call.

        pika writes each of a message's three frames with a separate system call, and
        each call releases the GIL to the app's threads.
        """
        corked: list[bytes] = []
        self._corked = corked
        try:
            yield
        finally:
            self._corked = None
            if corked:
                self._adapter_emit_data(b"".join(corked))

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._corked is None:
            super()._adapter_emit_data(data)  # type: ignore[misc]
        else:
            self._corked.append(data)

    def abort(self, reason: str) -> None:
        """End the connection without the AMQP close handshake."""
        self._terminate_stream(AMQPConnectionError(reason))

    def _terminate_stream(self, error: Exception | None) -> None:
        # A close while the connection opens terminates the stream later. An abort in
        # between would terminate it twice, and pika would use cleared callbacks.
        if not self._is_ending:
            self._is_ending = True
            super()._terminate_stream(error)  # type: ignore[misc]


class Session:
    """Runs one connection in the calling thread until it ends.

    Only :meth:`wake`, :meth:`close` and :meth:`abort` may be called from other threads.
    """

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        callbacks: BrokerCallbacks,
        *,
        queues: Queues,
        heartbeat: float,
        app_id: str,
    ) -> None:
        self._callbacks = callbacks
        self._app_id = app_id
        self._queues = queues
        self._patience = 2 * heartbeat
        self._channels: dict[str, ExchangeChannel] = {}
        self._size_limit: int | None = None
        #: Problems that do not prevent the connection, by queue or exchange.
        self._problems: dict[str, str] = {}
        self._woken = False
        self._blocked = False
        self._unblocked_at = float("-inf")
        #: Whether the connection was ever ready to publish.
        self.was_ready = False
        self._ready = False
        #: Whether the end was requested, so that its reason is irrelevant.
        self._end_requested = False
        self._error = ""
        self._ioloop = IOLoop()
        self._connection = _Connection(
            parameters,
            on_open_callback=self._on_opened,
            on_open_error_callback=self._on_ended,
            on_close_callback=self._on_ended,
            custom_ioloop=self._ioloop,
        )

    def run(self) -> str:
        """Connect and serve until the connection ends; returns why it ended."""
        try:
            self._ioloop.start()
        except Exception as error:
            # pika can fail if the connection ends during its handshake.
            if not self._end_requested:
                logger.exception("Broker connection failed unexpectedly")
            self._on_ended(None, error)
        finally:
            self._ioloop.close()
        return self._error

    # What other threads call.

    def wake(self) -> None:
        """There may be events to take."""
        if not self._woken:
            self._woken = True
            self._ioloop.add_callback_threadsafe(self._drain)

    def close(self) -> None:
        """Close the connection with the AMQP handshake."""
        self._end_requested = True
        self._ioloop.add_callback_threadsafe(self._close)

    def abort(self) -> None:
        """End the connection without the AMQP handshake."""
        self._end_requested = True
        self._ioloop.add_callback_threadsafe(
            lambda: self._abort("the connection was aborted")
        )

    # Opening and closing.

    def _on_opened(self, _: object) -> None:
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._declare(iter(self._queues.items()))

    def _declare(self, queues: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        """Declare *queues* one after the other, then start to publish.

        Each uses a separate channel, since the broker closes the channel if the queue
        exists with other arguments.
        """
        queue, arguments = next(queues, ("", {}))
        if not queue:
            self._start_publishing()
            return

        def declared(_: object) -> None:
            channel.close()

        def closed(_: Channel, error: BaseException) -> None:
            if isinstance(error, ChannelClosedByBroker):
                self._problems[f"queue {queue}"] = broker_text(error)
            if self._connection.is_open:
                self._declare(queues)

        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(
                queue, durable=True, arguments=dict(arguments), callback=declared
            )

        channel = self._connection.channel(on_open_callback=opened)

    def _start_publishing(self) -> None:
        self._ready = self.was_ready = True
        self._report_ready()
        self._check_overdue()
        self._drain()

    def _report_ready(self) -> None:
        problems = "; ".join(dict.fromkeys(self._problems.values()))
        self._callbacks.on_state_change(BrokerState.READY, problems)

    def _report_problem(self, about: str, problem: str) -> None:
        if self._problems.get(about, "") == problem:
            return
        self._problems[about] = problem
        if not problem:
            del self._problems[about]
        if self._ready and not self._blocked:
            self._report_ready()

    def _on_blocked(self, _: object, frame: Any) -> None:
        self._blocked = True
        reason = str(frame.method.reason)
        self._callbacks.on_state_change(BrokerState.BLOCKED, reason)

    def _on_unblocked(self, *_: object) -> None:
        self._blocked = False
        self._unblocked_at = time.monotonic()
        self._report_ready()
        self._drain()

    def _close(self) -> None:
        self._ready = False
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _abort(self, reason: str) -> None:
        self._ready = False
        self._connection.abort(reason)

    def _on_ended(self, _: object, error: BaseException) -> None:
        self._ready = False
        self._error = explain(error)
        for channel in list(self._channels.values()):
            channel.lose()
        self._ioloop.stop()

    # Publishing.

    def _drain(self) -> None:
        """Publish a batch; the socket is served before the next one."""
        self._woken = False
        if not self._ready or self._blocked:
            return
        entries = self._callbacks.take(_BATCH)
        self._publish(entries)
        if len(entries) == _BATCH:
            self.wake()

    def _publish(self, entries: list[Entry]) -> None:
        by_exchange: dict[str, list[Entry]] = {}
        for entry in entries:
            if self._fits(entry):
                by_exchange.setdefault(entry.event.exchange, []).append(entry)
        with self._connection.corked():
            for exchange, group in by_exchange.items():
                self._channel(exchange).publish(group)

    def _fits(self, entry: Entry) -> bool:
        limit = self._size_limit
        if limit is None or len(entry.event.body) <= limit:
            return True
        self._settle([too_large(entry, limit)])
        return False

    def _channel(self, exchange: str) -> ExchangeChannel:
        channel = self._channels.get(exchange)
        if channel is None or channel.state is ChannelState.CLOSED:
            channel = self._channels[exchange] = ExchangeChannel(
                self._connection,
                exchange,
                self._settle,
                self._report_problem,
                app_id=self._app_id,
            )
        return channel

    def _settle(self, settlements: list[Settlement]) -> None:
        if not settlements:
            return
        limits = [c.size_limit for c in self._channels.values() if c.size_limit]
        self._size_limit = min(limits, default=self._size_limit)
        if self._callbacks.settle(settlements) and self._ready:
            self.wake()

    # Monitoring confirms.

    def _check_overdue(self) -> None:
        """Abort the connection if no confirm arrives for two heartbeats.

        A hanging broker may still answer heartbeats, or its kernel may still accept
        data. A broker that has reported an alarm is excluded, since it may be slow.
        """
        if not self._ready:
            return
        silent = [c.silent_since for c in self._channels.values()]
        since = min((s for s in silent if s is not None), default=None)
        if since is not None and not self._blocked:
            waited = time.monotonic() - max(since, self._unblocked_at)
            if waited > self._patience:
                self._abort(f"no confirm received for {waited:.0f} s")
                return
        self._ioloop.call_later(self._patience / 4, self._check_overdue)
