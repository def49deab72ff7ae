"""A channel for one exchange, with its outstanding confirms."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Collection
from itertools import chain
from typing import Any

from pika.channel import Channel
from pika.exceptions import (
    ChannelClosedByBroker,
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
)
from pika.spec import FRAME_MAX_SIZE, Basic, BasicProperties

from ...config.exchanges import ExchangeOptions
from ...config.routing import Router
from ...delivery.entries import Entry, Settlement
from ...events import Outcome
from .. import no_route
from .connection import Connection
from .frames import MessageFrames
from .reasons import (
    accuses_an_event,
    broker_text,
    explain,
    is_missing_exchange,
    refused_text,
    size_limit,
)
from .unconfirmed import Unconfirmed

#: The timeout in seconds for each step before events can be published.
STEP_TIMEOUT = 5.0
#: Bytes of a content header without the headers: ids, times, names, and its frame.
_PROPERTIES_SIZE = 1024

#: What pika's encoder raises before it has written anything.
_CANT_BE_ENCODED = (
    UnsupportedAMQPFieldException,
    ShortStringTooLong,
    ValueError,
    TypeError,
)

Settle = Callable[[list[Settlement]], None]


class ChannelState(enum.Enum):
    """Where a channel is in its life cycle."""

    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class ExchangeChannel:
    """Publishes to one exchange; a missing exchange closes only its own channel.

    Before the first event, it checks that the exchange exists. Otherwise, publishing
    would close the channel, with events in flight that the broker may have taken.
    """

    def __init__(
        self,
        connection: Connection,
        exchange: str,
        settle: Settle,
        complain: Callable[[str, str], None],
        *,
        app_id: str,
        options: ExchangeOptions,
        router: Router,
        nacked_before: Collection[str] = (),
    ) -> None:
        self._exchange = exchange
        self._options = options
        self._about = f"exchange {exchange}"
        self._settle = settle
        self._report_problem = complain
        self.state = ChannelState.OPENING
        #: The last request to the broker.
        self._step = "channel.open"
        #: Whether it is the one that checks the exchange.
        self._is_checking = False
        #: The broker's message size limit in bytes, once known.
        self.size_limit: int | None = None
        self._pending: deque[Entry] = deque()
        self.unconfirmed = Unconfirmed(options, router, nacked_before)
        self._opening_since = time.monotonic()
        self._frame_max = int(connection.params.frame_max or FRAME_MAX_SIZE)
        self._connection = connection
        self._channel = connection.channel(on_open_callback=self._opened)
        #: The channel's number on the connection.
        self.number = int(self._channel.channel_number)
        self._frames = MessageFrames(
            self.number,
            exchange,
            app_id=app_id,
            frame_max=self._frame_max,
            mandatory=options.mandatory,
        )

    @property
    def owes_since(self) -> float | None:
        """Since when a confirm has been due; ``None``: none is due.

        Each confirm shows that the broker is working: on a slow network, the last of
        many events may have been sent long before its confirm can arrive.
        """
        waiting = chain(self.unconfirmed, self._pending)
        sent_at = next((entry.sent_at for entry in waiting), None)
        last_confirm_at = self.unconfirmed.last_confirm_at
        return None if sent_at is None else max(sent_at, last_confirm_at)

    @property
    def is_idle(self) -> bool:
        """Whether no confirm is outstanding on it."""
        return not (self.unconfirmed or self._pending)

    def serves(self, entry: Entry) -> bool:
        """Whether *entry* can be published here."""
        is_ours = entry.event.exchange == self._exchange
        return is_ours and self.state is not ChannelState.CLOSED

    def publish(self, entry: Entry) -> None:
        """Send *entry* once the channel is open."""
        if self.state is ChannelState.OPEN:
            self._publish(entry)
        else:
            self._pending.append(entry)

    def worn_by(self, now: float) -> set[str]:
        """The queues that have nacked for so long that a new channel is worth a try.

        RabbitMQ 3.10 keeps nacking on a channel that has seen the leader of a quorum
        queue die, even when the queue has a new leader.
        """
        if self.state is not ChannelState.OPEN:
            return set()
        return self.unconfirmed.worn_by(now)

    def give_up_opening(self, now: float) -> None:
        """Settle the events that wait for a channel that did not open in time."""
        waited = now - self._opening_since
        if self.state is not ChannelState.OPENING or waited < STEP_TIMEOUT:
            return
        reason = f"no response to {self._step} within {STEP_TIMEOUT:.0f} s"
        self._report_problem(self._about, reason)
        self.close()
        pending = [Settlement(e, None, reason, back_off=True) for e in self._pending]
        self._end(pending)

    def close(self) -> None:
        """Close it, without outstanding confirms."""
        if self._channel.is_open:
            self._channel.close()

    def lose(self, reason: str, *, suspect: bool = False, final: bool = False) -> None:
        """Settle everything: no more confirms will arrive.

        *suspect*: the broker blamed the content of an event. *final*: that event is
        dead-lettered once it is known which one it was.
        """
        self._end(self._lost(reason, suspect=suspect, final=final))

    # Opening.

    @property
    def _was_given_up(self) -> bool:
        """Whether a response has come too late: another channel has its place."""
        return self.state is ChannelState.CLOSED

    def _opened(self, channel: Channel) -> None:
        if self._was_given_up:
            channel.close()
            return
        channel.add_on_close_callback(self._closed)
        channel.add_on_return_callback(self._on_return)
        if self._exchange:
            self._step = f"exchange.declare (passive) for {self._exchange!r}"
            self._is_checking = True
            channel.exchange_declare(self._exchange, passive=True, callback=self._found)
        else:
            self._found(None)

    def _found(self, _: object) -> None:
        if self._was_given_up:
            return
        self._step, self._is_checking = "confirm.select", False
        self._channel.confirm_delivery(self._on_confirm, callback=self._ready)

    def _ready(self, _: object) -> None:
        if self._was_given_up:
            return
        self.state = ChannelState.OPEN
        pending, self._pending = self._pending, deque()
        for entry in pending:
            self.publish(entry)

    # Publishing.

    def _publish(self, entry: Entry) -> None:
        if not self._channel.is_open:
            # The channel is being closed, and settles this one when it is closed.
            self._pending.append(entry)
            return
        too_wide = self._too_wide(entry)
        if too_wide:
            self._settle([Settlement(entry, Outcome.NACKED, too_wide, final=True)])
            return
        try:
            frames = self._frames.encode(entry)
        except _CANT_BE_ENCODED as error:
            reason = f"it can't be encoded: {type(error).__name__}"
            self._settle([Settlement(entry, Outcome.NACKED, reason, final=True)])
            return
        except Exception as error:
            self._settle([not_sent(entry, error)])
            return
        # If this fails, it is unknown what was sent: the connection has to end.
        self._connection.send_frames(frames)
        self.unconfirmed.add(entry)

    def _too_wide(self, entry: Entry) -> str:
        """Why the headers can't be sent; ``""``: they can.

        They are sent in one frame with all other properties. On a larger frame, the
        broker would close the connection.
        https://www.rabbitmq.com/amqp-0-9-1-reference#connection.tune
        """
        headers = entry.event.size - len(entry.event.body)
        most = self._frame_max - _PROPERTIES_SIZE
        if headers <= most:
            return ""
        return (
            f"its headers take {headers} bytes, but the broker's frame_max leaves"
            f" {max(0, most)} for them: move the data into the payload, or raise"
            " frame_max"
        )

    def _on_return(
        self, _: Channel, method: Basic.Return, properties: BasicProperties, body: bytes
    ) -> None:
        reason = method.reply_text or "NO_ROUTE"
        self.unconfirmed.returned(str(properties.message_id), reason)

    def _on_confirm(self, frame: Any) -> None:
        method: Basic.Ack | Basic.Nack = frame.method
        tag, multiple = int(method.delivery_tag or 0), bool(method.multiple)
        nacked = isinstance(method, Basic.Nack)
        self._settle(self.confirmed(tag, multiple=multiple, nacked=nacked))

    def confirmed(
        self, tag: int, *, multiple: bool, nacked: bool = False
    ) -> list[Settlement]:
        """The outcomes of the messages that a confirm with *tag* covers."""
        self._report_problem(self._about, "")
        return self.unconfirmed.confirmed(tag, multiple=multiple, nacked=nacked)

    # The end.

    def _closed(self, _: Channel, error: BaseException) -> None:
        if self.state is ChannelState.CLOSED:
            return
        if not isinstance(error, ChannelClosedByBroker):
            self.lose(explain(error), suspect=accuses_an_event(error), final=True)
            return
        self.size_limit = size_limit(error)
        if self.size_limit is None and not is_missing_exchange(error):
            self._report_problem(self._about, refused_text(error))
        if self.state is ChannelState.OPENING:
            self._end(self._refused(error))
        elif self.size_limit is not None:
            self._end(self._too_large(broker_text(error), self.size_limit))
        else:
            # A missing exchange needs no delay here: the next channel checks it.
            suspect = accuses_an_event(error)
            back_off = not (suspect or (self._exchange and is_missing_exchange(error)))
            reason = refused_text(error)
            self._end(self._lost(reason, suspect=suspect, back_off=back_off))

    def _end(self, settlements: list[Settlement]) -> None:
        self.state = ChannelState.CLOSED
        self.unconfirmed.clear()
        self._pending.clear()
        self._settle(settlements)

    def _lost(self, reason: str, **more: bool) -> list[Settlement]:
        unknown = [
            Settlement(entry, Outcome.UNKNOWN, reason, **more)
            for entry in self.unconfirmed
        ]
        return unknown + self._unsent(reason, **more)

    def _unsent(
        self, reason: str, *, suspect: bool = False, **_: bool
    ) -> list[Settlement]:
        """What waits to be sent. Some names make RabbitMQ fail when it checks them.

        For example, RabbitMQ 4.0 cuts off the middle of a character in the name of an
        exchange that is missing, and closes the connection over its own text.
        """
        if not (suspect and self._is_checking):
            return [Settlement(entry, None) for entry in self._pending]
        why = f"{reason}, as a response to {self._step}"
        about = {"suspect": True, "back_off": True}
        return [Settlement(entry, None, why, **about) for entry in self._pending]

    def _refused(self, error: BaseException) -> list[Settlement]:
        """The channel could not be used, so nothing was sent."""
        reason, outcome = broker_text(error), None
        if is_missing_exchange(error):
            reason, outcome = (
                no_route.no_exchange(reason, self._options),
                Outcome.RETURNED,
            )
        return [Settlement(e, outcome, reason, back_off=True) for e in self._pending]

    def _too_large(self, reason: str, limit: int) -> list[Settlement]:
        return [
            too_large(entry, limit)
            if len(entry.event.body) > limit
            else Settlement(entry, Outcome.UNKNOWN, reason)
            for entry in self.unconfirmed
        ]


def not_sent(entry: Entry, error: Exception) -> Settlement:
    """*entry* was not sent because of *error*."""
    reason = f"it could not be sent: {explain(error)}"
    return Settlement(entry, None, reason, back_off=True)


def too_large(entry: Entry, limit: int) -> Settlement:
    """The broker can never accept *entry*."""
    size = len(entry.event.body)
    reason = f"its {size} bytes are more than the broker's limit of {limit}"
    return Settlement(entry, Outcome.NACKED, reason, final=True)
