"""The channels of one connection: one for each exchange in use."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...config.exchanges import DEFAULTS
from ...config.routing import Router
from ...config.topology import Topology
from ...delivery.entries import Entry, Settlement
from .channels import ChannelState, ExchangeChannel, Settle, not_sent, too_large
from .connection import Ack, Connection

#: The most channels: the broker has a limit, and each channel costs it memory.
_MOST_CHANNELS = 32
#: Channels reserved for declares and probes.
_SPARE_CHANNELS = 2


class ChannelPool:
    """Publishes each event on its exchange's channel, or returns it with a reason."""

    def __init__(
        self,
        connection: Connection,
        settle: Settle,
        report_problem: Callable[[str, str], None],
        *,
        app_id: str,
        topology: Topology,
    ) -> None:
        self._connection = connection
        self._settle_outside = settle
        self._report_problem = report_problem
        self._app_id = app_id
        self._exchanges = topology.exchanges
        self._router = Router(topology)
        #: By exchange, the most recently used one last.
        self._channels: dict[str, ExchangeChannel] = {}
        #: By number.
        self._numbered: dict[int, ExchangeChannel] = {}
        #: Replaced by new ones, but waiting for their last confirms.
        self._retired: list[ExchangeChannel] = []
        #: By exchange, the queues that have nacked on its last channel for too long.
        self._nacked_before: dict[str, set[str]] = {}
        #: The queue that has done so on the channel after that, too.
        self.hopeless_queue = ""
        #: The broker's message size limit in bytes, once known.
        self._size_limit: int | None = None

    @property
    def silent_since(self) -> float | None:
        """Since when a confirm has been due; ``None``: none is due.

        Any confirm shows that the broker is working.
        """
        owed = [since for c in self._all if (since := c.owes_since) is not None]
        if not owed:
            return None
        return max(min(owed), *(c.unconfirmed.last_confirm_at for c in self._all))

    @property
    def is_idle(self) -> bool:
        """Whether no confirm is outstanding."""
        return all(channel.is_idle for channel in self._all)

    @property
    def _all(self) -> list[ExchangeChannel]:
        return [*self._channels.values(), *self._retired]

    def publish(self, entries: list[Entry]) -> None:
        """Send *entries*. Those that can't be sent are settled in any case."""
        channel: ExchangeChannel | None = None
        for entry in entries:
            if not self._fits(entry):
                continue
            try:
                if channel is None or not channel.serves(entry):
                    channel = self._channel(entry.event.exchange)
            except Exception as error:
                self._settle([not_sent(entry, error)])
            else:
                channel.publish(entry)

    def on_acks(self, acks: list[Ack]) -> None:
        """The broker has confirmed messages."""
        settlements: list[Settlement] = []
        for number, tag, multiple in acks:
            channel = self._numbered.get(number)
            if channel is not None:
                settlements += channel.confirmed(tag, multiple=multiple)
        self._settle_outside(settlements)

    def look_after(self) -> None:
        """Close idle and worn channels, and abandon those that do not open."""
        now = time.monotonic()
        for exchange, channel in list(self._channels.items()):
            channel.give_up_opening(now)
            if worn := channel.worn_by(now):
                again = sorted(worn & channel.unconfirmed.nacked_before)
                self.hopeless_queue = next(iter(again), self.hopeless_queue)
                self._nacked_before[exchange] = worn | channel.unconfirmed.nacked_before
                self._retired.append(self._channels.pop(exchange))
        for channel in list(self._retired):
            if channel.is_idle or channel.state is ChannelState.CLOSED:
                self._retired.remove(channel)
                channel.close()

    def lose(self, reason: str, *, suspect: bool) -> None:
        """The connection was lost."""
        for channel in self._all:
            channel.lose(reason, suspect=suspect, final=True)

    def _fits(self, entry: Entry) -> bool:
        limit = self._size_limit
        if limit is None or len(entry.event.body) <= limit:
            return True
        self._settle([too_large(entry, limit)])
        return False

    def _channel(self, exchange: str) -> ExchangeChannel:
        channel = self._channels.pop(exchange, None)
        if channel is None or channel.state is ChannelState.CLOSED:
            self._make_room()
            channel = ExchangeChannel(
                self._connection,
                exchange,
                self._settle,
                self._report_problem,
                app_id=self._app_id,
                options=self._exchanges.get(exchange, DEFAULTS),
                router=self._router,
                nacked_before=self._nacked_before.pop(exchange, ()),
            )
            self._numbered[channel.number] = channel
        self._channels[exchange] = channel
        return channel

    def _make_room(self) -> None:
        most = min(_MOST_CHANNELS, self._limit() - _SPARE_CHANNELS)
        for exchange, channel in list(self._channels.items()):
            if len(self._channels) < max(1, most):
                return
            if channel.is_idle or channel.state is ChannelState.CLOSED:
                self._channels.pop(exchange).close()
        if len(self._channels) >= max(1, most):
            raise NoFreeChannel(f"all {most} channels of the connection are in use")

    def _limit(self) -> int:
        # 0: no limit. https://www.rabbitmq.com/docs/channels#channel-max
        return self._connection.params.channel_max or 65535

    def _settle(self, settlements: list[Settlement]) -> None:
        limits = [c.size_limit for c in self._channels.values() if c.size_limit]
        self._size_limit = min(limits, default=self._size_limit)
        self._settle_outside(settlements)


class NoFreeChannel(Exception):
    """The connection has reached its limit of channels."""
