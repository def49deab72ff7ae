"""Declares what the settings say, on a new connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, NoFreeChannels

from .connection import Connection
from .declarations import Declarations, Step
from .differences import refusal

#: How many steps are taken at the same time; each takes a channel.
_MOST_CHANNELS = 2
#: The most steps without a response: each keeps its channel.
_MOST_SILENT = 30


class _Taken(NamedTuple):
    """A step that was sent."""

    step: Step
    #: When, by the monotonic clock.
    at: float


class Declarer:
    """Takes each round of steps, a few at the same time, then the next.

    *done* is called once nothing need be waited for any more, perhaps several times.

    On channels of its own, since the broker closes a channel over a refused step. A
    channel is used until then, or until a step on it is given up.
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
        self._taken: dict[int, _Taken] = {}
        #: The numbers of the channels in use.
        self._in_use: set[int] = set()

    @property
    def unanswered(self) -> Collection[Step]:
        """The steps that the broker has not responded to yet."""
        return [taken.step for taken in self._taken.values()]

    def go_on(self) -> None:
        """Take what can be taken now."""
        while self._rounds and not (self._waiting or self._in_use):
            self._waiting = self._rounds.pop(0)
            self._open_channels()
        if not (self._waiting or self._in_use):
            self._done()

    def give_up(self, patience: float) -> None:
        """Go on without the steps that have had no response for *patience* seconds.

        A queue that hangs keeps no other from being declared and bound, and no event
        from being published. A response may still come.
        """
        before = time.monotonic() - patience
        silent = {n for n, taken in self._taken.items() if taken.at < before}
        if not silent & self._in_use:
            return
        for number in silent & self._in_use:
            step = self._taken[number].step
            problem = f"no response to {step.method} for {step.name!r}"
            self._report_problem(str(step), f"{problem} within {patience:.0f} s")
        self._in_use -= silent
        self._done()
        self._open_channels()
        self.go_on()

    def _open_channels(self) -> None:
        while len(self._in_use) < min(_MOST_CHANNELS, len(self._waiting)):
            if len(self._taken) >= _MOST_SILENT:
                return
            try:
                channel = self._connection.channel(on_open_callback=self._opened)
            except NoFreeChannels:
                # The rest waits until a response comes.
                return
            self._in_use.add(channel.channel_number)

    def _opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._closed)
        self._take_next(channel)

    def _take_next(self, channel: Channel) -> None:
        if not self._waiting:
            channel.close()
            return
        step = self._waiting.pop(0)
        self._taken[channel.channel_number] = _Taken(step, time.monotonic())
        step.send(channel, callback=partial(self._answered, channel))

    def _answered(self, channel: Channel, _: object) -> None:
        step, _at = self._taken.pop(channel.channel_number)
        self._report_problem(str(step), "")
        if channel.channel_number in self._in_use:
            self._take_next(channel)
        else:
            channel.close()

    def _closed(self, channel: Channel, error: BaseException) -> None:
        self._in_use.discard(channel.channel_number)
        if not self._connection.is_open:
            return
        taken = self._taken.pop(channel.channel_number, None)
        if taken is not None and isinstance(error, ChannelClosedByBroker):
            self._report_problem(str(taken.step), refusal(taken.step, error))
        self._open_channels()
        self.go_on()
