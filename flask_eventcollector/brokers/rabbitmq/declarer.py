"""Declares what the settings say, on a new connection."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from .connection import Connection
from .declarations import Declarations, Step
from .differences import refusal

#: How many steps are taken at the same time; each takes a channel.
_MOST_CHANNELS = 2


class Declarer:
    """Takes each round of steps, a few at the same time, then the next.

    On channels of its own, since the broker closes a channel over a refused step. A
    channel is used until then. If there is no response, it stays in use.
    """

    def __init__(
        self,
        connection: Connection,
        declarations: Declarations,
        report_problem: Callable[[str, str], None],
        done: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._report_problem = report_problem
        self._done = done
        self._rounds = declarations.rounds()
        #: The steps of this round that are still to be taken.
        self._waiting: list[Step] = []
        #: By the numbers of the channels, the steps without a response yet.
        self._taken: dict[int, Step] = {}
        self._channels = 0

    @property
    def unanswered(self) -> Collection[Step]:
        """The steps that the broker has not responded to yet."""
        return self._taken.values()

    def go_on(self) -> None:
        """Take what can be taken now."""
        while self._rounds and not (self._waiting or self._channels):
            self._waiting = self._rounds.pop(0)
            self._open_channels()
        if not (self._waiting or self._channels):
            self._done()

    def _open_channels(self) -> None:
        while self._channels < min(_MOST_CHANNELS, len(self._waiting)):
            self._channels += 1
            self._connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._closed)
        self._take_next(channel)

    def _take_next(self, channel: Channel) -> None:
        if not self._waiting:
            channel.close()
            return
        step = self._taken[channel.channel_number] = self._waiting.pop(0)
        step.send(channel, callback=partial(self._answered, channel))

    def _answered(self, channel: Channel, _: object) -> None:
        step = self._taken.pop(channel.channel_number)
        self._report_problem(str(step), "")
        self._take_next(channel)

    def _closed(self, channel: Channel, error: BaseException) -> None:
        self._channels -= 1
        if not self._connection.is_open:
            return
        step = self._taken.pop(channel.channel_number, None)
        if step is not None and isinstance(error, ChannelClosedByBroker):
            self._report_problem(str(step), refusal(step, error))
        self._open_channels()
        self.go_on()
