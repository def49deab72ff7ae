"""Asks the broker something that has nothing to do with any queue."""

from __future__ import annotations

import time

import pika
from pika.channel import Channel


class Probe:
    """Opens and closes a channel, to see whether the broker still answers.

    Heartbeats don't tell: a connection's process may answer them while the rest of the
    broker hangs.
    """

    def __init__(self, connection: pika.SelectConnection) -> None:
        self._connection = connection
        self._is_asking = False
        self._answered_at = float("-inf")

    def ask(self) -> None:
        """Ask, unless a question is open."""
        if not self._is_asking:
            self._is_asking = True
            self._connection.channel(on_open_callback=self._answered)

    def was_answered_after(self, moment: float) -> bool:
        """Whether the broker has answered since *moment*."""
        return self._answered_at > moment

    def _answered(self, channel: Channel) -> None:
        self._is_asking = False
        self._answered_at = time.monotonic()
        channel.close()
