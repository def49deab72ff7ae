"""Probes the broker without involving any queue."""

from __future__ import annotations

import time

import pika
from pika.channel import Channel


class Probe:
    """Opens and closes a channel, to check whether the broker responds.

    Heartbeats are not sufficient: the connection's process may answer them while the
    rest of the broker hangs.
    """

    def __init__(self, connection: pika.SelectConnection) -> None:
        self._connection = connection
        self._is_asking = False
        self._answered_at = float("-inf")

    def ask(self) -> None:
        """Send a probe, unless one is unanswered."""
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
