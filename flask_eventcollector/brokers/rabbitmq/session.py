"""One connection to the broker, from the first byte to the last."""

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

#: Events that are published before the socket is served again.
_TURN = 200

Queues = Mapping[str, Mapping[str, Any]]


class _Connection(pika.SelectConnection):
    """pika's connection, with three things that its public face lacks."""

    _corked: list[bytes] | None = None
    _is_ending = False

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Write all that the block sends at once.

        pika writes each of a message's three frames with a system call of its own, and
        each of these gives the GIL away to the app's threads.
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
        """End the connection without asking the broker, which may not answer."""
        self._terminate_stream(AMQPConnectionError(reason))

    def _terminate_stream(self, error: Exception | None) -> None:
        # A close while the connection opens ends the stream soon. An abort in between
        # would end it a second time, where pika calls back what it has cleared.
        if not self._is_ending:
            self._is_ending = True
            super()._terminate_stream(error)  # type: ignore[misc]


class Session:
    """Runs one connection in the calling thread, until it ends.

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
        #: What is wrong although the broker is there, by queue or exchange.
        self._problems: dict[str, str] = {}
        self._woken = False
        self._blocked = False
        self._unblocked_at = float("-inf")
        #: Whether it ever got so far that events could be published.
        self.was_ready = False
        self._ready = False
        #: Somebody wants it to end, so how it ends is no news.
        self._unwanted = False
        self._error = ""
        self._ioloop = IOLoop()
        self._connection = _Connection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            custom_ioloop=self._ioloop,
        )

    def run(self) -> str:
        """Connect and serve until the connection ends; returns why it ended."""
        try:
            self._ioloop.start()
        except Exception as error:
            # pika does not expect an end at each moment of its handshake.
            if not self._unwanted:
                logger.exception(
                    "The connection to the broker failed in an unforeseen way"
                )
            self._ended(None, error)
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
        """Say goodbye to the broker."""
        self._unwanted = True
        self._ioloop.add_callback_threadsafe(self._close)

    def abort(self) -> None:
        """End without a goodbye."""
        self._unwanted = True
        self._ioloop.add_callback_threadsafe(lambda: self._abort("it was given up"))

    # The connection's life.

    def _opened(self, _: object) -> None:
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._declare(iter(self._queues.items()))

    def _declare(self, queues: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        """Declare *queues* one after the other, then begin to publish.

        Each gets a channel of its own, since a queue that exists with other arguments
        closes it.
        """
        queue, arguments = next(queues, ("", {}))
        if not queue:
            self._begin()
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

    def _begin(self) -> None:
        self._ready = self.was_ready = True
        self._announce_ready()
        self._check_overdue()
        self._drain()

    def _announce_ready(self) -> None:
        problems = "; ".join(dict.fromkeys(self._problems.values()))
        self._callbacks.on_state_change(BrokerState.READY, problems)

    def _report_problem(self, about: str, problem: str) -> None:
        if self._problems.get(about, "") == problem:
            return
        self._problems[about] = problem
        if not problem:
            del self._problems[about]
        if self._ready and not self._blocked:
            self._announce_ready()

    def _on_blocked(self, _: object, frame: Any) -> None:
        self._blocked = True
        reason = str(frame.method.reason)
        self._callbacks.on_state_change(BrokerState.BLOCKED, reason)

    def _on_unblocked(self, *_: object) -> None:
        self._blocked = False
        self._unblocked_at = time.monotonic()
        self._announce_ready()
        self._drain()

    def _close(self) -> None:
        self._ready = False
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _abort(self, reason: str) -> None:
        self._ready = False
        self._connection.abort(reason)

    def _ended(self, _: object, error: BaseException) -> None:
        self._ready = False
        self._error = explain(error)
        for channel in list(self._channels.values()):
            channel.lose()
        self._ioloop.stop()

    # Publishing.

    def _drain(self) -> None:
        """Publish what may be published, and serve the socket in between."""
        self._woken = False
        if not self._ready or self._blocked:
            return
        taken = self._callbacks.take(_TURN)
        self._publish(taken)
        if len(taken) == _TURN:
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

    # Looking after the confirms.

    def _check_overdue(self) -> None:
        """Give the connection up if confirms stay away for two heartbeats.

        A broker that hangs may still answer heartbeats, or its kernel may still take
        what we write. One that has said that it is blocked is only slow.
        """
        if not self._ready:
            return
        silent = [c.silent_since for c in self._channels.values()]
        since = min((s for s in silent if s is not None), default=None)
        if since is not None and not self._blocked:
            waited = time.monotonic() - max(since, self._unblocked_at)
            if waited > self._patience:
                self._abort(f"no confirm came for {waited:.0f} s")
                return
        self._ioloop.call_later(self._patience / 4, self._check_overdue)
