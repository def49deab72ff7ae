"""One channel for each exchange, with its outstanding confirms."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from ...delivery.entries import Entry, Settlement
from ...events import Outcome
from ...messages.amqp_fields import POSSIBLE_DUPLICATE
from .reasons import broker_text, is_missing_exchange, size_limit

Settle = Callable[[list[Settlement]], None]


class ChannelState(enum.Enum):
    """The life cycle of a channel."""

    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class ExchangeChannel:
    """Publishes to one exchange on a channel of its own.

    So an error on another exchange's channel does not affect this one. The exchange is
    checked with a passive declare before the first event: publishing to a missing
    exchange would close the channel with the outcome of earlier events unknown.
    """

    def __init__(
        self,
        connection: pika.SelectConnection,
        exchange: str,
        settle: Settle,
        report_problem: Callable[[str, str], None],
        *,
        app_id: str,
    ) -> None:
        self._exchange = exchange
        self._about = f"exchange {exchange}"
        self._app_id = app_id
        self._settle = settle
        self._report_problem = report_problem
        self.state = ChannelState.OPENING
        #: The broker's message size limit in bytes, once an error has revealed it.
        self.size_limit: int | None = None
        self._pending: deque[Entry] = deque()
        #: By delivery tag. Tags count from 1 on each channel, in publishing order. See
        #: https://www.rabbitmq.com/docs/confirms#publisher-confirms
        self._unconfirmed: dict[int, Entry] = {}
        self._last_tag = 0
        self._last_confirm_at = float("-inf")
        #: ``basic.return`` arrives before the ack of the same message.
        self._returned: dict[str, str] = {}
        self._channel = connection.channel(on_open_callback=self._on_opened)

    @property
    def silent_since(self) -> float | None:
        """Since when the channel has been waiting for a confirm; ``None``: it is not.

        Each confirm resets the time, since it shows that the broker makes progress. On
        a slow network, an event may be confirmed long after it was sent.
        """
        waiting = chain(self._unconfirmed.values(), self._pending)
        sent_at = next((entry.sent_at for entry in waiting), None)
        return None if sent_at is None else max(sent_at, self._last_confirm_at)

    def publish(self, entries: Iterable[Entry]) -> None:
        """Send *entries* as soon as the channel is open."""
        if self.state is ChannelState.OPEN:
            for entry in entries:
                self._publish(entry)
        else:
            self._pending.extend(entries)

    def lose(self) -> None:
        """Settle everything, since the connection was lost."""
        self._end(self._lost("the connection was lost"))

    # Opening.

    def _on_opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._on_closed)
        channel.add_on_return_callback(self._on_return)
        if self._exchange:
            channel.exchange_declare(
                self._exchange, passive=True, callback=self._on_found
            )
        else:
            self._on_found(None)

    def _on_found(self, _: object) -> None:
        self._channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, _: object) -> None:
        self.state = ChannelState.OPEN
        pending, self._pending = self._pending, deque()
        self.publish(pending)

    # Publishing.

    def _publish(self, entry: Entry) -> None:
        if not self._channel.is_open:
            # The channel is closing, and settles this entry once it is closed.
            self._pending.append(entry)
            return
        event = entry.event
        try:
            self._channel.basic_publish(
                event.exchange,
                event.target_queue,
                event.body,
                _properties(entry, self._app_id),
                mandatory=True,
            )
        except (AMQPError, ValueError, TypeError) as error:
            # pika encodes before it writes, so nothing was sent.
            reason = f"AMQP encoding failed: {type(error).__name__}"
            self._settle([Settlement(entry, Outcome.NACKED, reason, final=True)])
            return
        self._last_tag += 1
        self._unconfirmed[self._last_tag] = entry

    def _on_return(
        self, _: Channel, method: Basic.Return, properties: BasicProperties, body: bytes
    ) -> None:
        reason = method.reply_text or "NO_ROUTE"
        self._returned[str(properties.message_id)] = reason

    def _on_confirm(self, frame: Any) -> None:
        self._last_confirm_at = time.monotonic()
        method: Basic.Ack | Basic.Nack = frame.method
        tag, multiple = int(method.delivery_tag or 0), bool(method.multiple)
        nacked = isinstance(method, Basic.Nack)
        entries = self._covered(tag, multiple)
        self._report_problem(self._about, "")
        self._settle([self._settlement(entry, nacked) for entry in entries])

    def _covered(self, tag: int, multiple: bool) -> list[Entry]:
        """Take the entries that a confirm with *tag* covers."""
        if not multiple:
            return [e for e in [self._unconfirmed.pop(tag, None)] if e is not None]
        tags = []
        for unconfirmed in self._unconfirmed:
            if unconfirmed > tag:
                break
            tags.append(unconfirmed)
        return [self._unconfirmed.pop(tag) for tag in tags]

    def _settlement(self, entry: Entry, nacked: bool) -> Settlement:
        returned = self._returned.pop(entry.event.id, None)
        if returned is not None:
            reason = f"no queue for {entry.event.target_queue!r}: {returned}"
            return Settlement(entry, Outcome.RETURNED, reason)
        if nacked:
            queue = entry.event.target_queue
            return Settlement(entry, Outcome.NACKED, f"the queue {queue!r} refused it")
        return Settlement(entry, Outcome.CONFIRMED)

    # The end.

    def _on_closed(self, _: Channel, error: BaseException) -> None:
        if not isinstance(error, ChannelClosedByBroker):
            self.lose()
            return
        self.size_limit = size_limit(error)
        if self.size_limit is None and not is_missing_exchange(error):
            self._report_problem(self._about, broker_text(error))
        if self.state is ChannelState.OPENING:
            self._end(self._refused(error))
        elif self.size_limit is not None:
            self._end(self._too_large(broker_text(error), self.size_limit))
        else:
            # A missing exchange needs no backoff here: the next channel checks for it.
            back_off = not (self._exchange and is_missing_exchange(error))
            self._end(self._lost(broker_text(error), back_off=back_off))

    def _end(self, settlements: list[Settlement]) -> None:
        self.state = ChannelState.CLOSED
        self._unconfirmed.clear()
        self._pending.clear()
        self._settle(settlements)

    def _lost(self, reason: str, *, back_off: bool = False) -> list[Settlement]:
        unknown = [
            Settlement(entry, Outcome.UNKNOWN, reason, back_off=back_off)
            for entry in self._unconfirmed.values()
        ]
        return unknown + [Settlement(entry, None) for entry in self._pending]

    def _refused(self, error: BaseException) -> list[Settlement]:
        """The channel never opened, so nothing was sent."""
        reason = broker_text(error)
        outcome = Outcome.RETURNED if is_missing_exchange(error) else None
        return [Settlement(e, outcome, reason, back_off=True) for e in self._pending]

    def _too_large(self, reason: str, limit: int) -> list[Settlement]:
        return [
            too_large(entry, limit)
            if len(entry.event.body) > limit
            else Settlement(entry, Outcome.UNKNOWN, reason)
            for entry in self._unconfirmed.values()
        ]


def too_large(entry: Entry, limit: int) -> Settlement:
    """The settlement of an entry that the broker can never accept."""
    size = len(entry.event.body)
    reason = f"{size} bytes exceed the broker's limit of {limit}"
    return Settlement(entry, Outcome.NACKED, reason, final=True)


def _properties(entry: Entry, app_id: str) -> BasicProperties:
    event = entry.event
    headers = dict(event.headers)
    if entry.possible_duplicate:
        headers[POSSIBLE_DUPLICATE] = True
    return BasicProperties(
        message_id=event.id,
        timestamp=int(event.enqueued_at.timestamp()),
        app_id=app_id,
        content_type="application/json",
        delivery_mode=2,
        headers=headers or None,
    )
