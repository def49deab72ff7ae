"""Tells the app what became of its events, in the log as by signals."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..events import Event
from .entries import Kind, News, grouped
from .log import Reporter
from .store import SetAside

#: Sends a signal to the app's receivers, whatever they do.
Send = Callable[[NamedSignal, dict[str, Any]], None]


class Announcer:
    """Turns news into log lines and signals, in the calling thread.

    A receiver may enqueue, and so cause news. These are left in *later*: told at once,
    a receiver that enqueues when an event is dropped would call itself for ever.
    """

    def __init__(self, send: Send, reporter: Reporter, later: deque[News]) -> None:
        self._send = send
        self._reporter = reporter
        self._later = later
        self._telling = threading.local()

    def enqueued(self, event: Event) -> None:
        """Tell of an event that is in a collector now."""
        self._send(signals.event_enqueued, {"event": event})

    def tell(self, news: Sequence[News]) -> None:
        """Tell of what became of events; may block as long as the receivers do."""
        if not news:
            return
        if getattr(self._telling, "now", False):
            self._later.extend(news)
            return
        self._telling.now = True
        try:
            self._reporter.news(news)
            for group in grouped(news):
                self._signal(group)
        finally:
            self._telling.now = False

    def set_aside(self, files: Sequence[SetAside]) -> None:
        """Tell of files that could not be read as a whole."""
        for file in files:
            self._reporter.set_aside(file)
            self._send(signals.spool_file_set_aside, file._asdict())

    def _signal(self, group: Sequence[News]) -> None:
        signal, about = _SIGNALS[group[0].kind]
        events = tuple(item.event for item in group)
        self._send(signal, {"events": events, **about(group)})


def _published(group: Sequence[News]) -> dict[str, Any]:
    elapsed = max(item.elapsed for item in group)
    return {"attempt": group[0].attempt, "elapsed": elapsed}


def _failed(group: Sequence[News]) -> dict[str, Any]:
    news = group[0]
    return {"outcome": news.outcome, "error": news.reason, "attempt": news.attempt}


def _ended(group: Sequence[News]) -> dict[str, Any]:
    return {"reason": group[0].reason}


_SIGNALS = {
    Kind.PUBLISHED: (signals.events_published, _published),
    Kind.FAILED: (signals.publish_failed, _failed),
    Kind.DISCARDED: (signals.events_discarded, _ended),
    Kind.DROPPED: (signals.events_dropped, _ended),
    Kind.DEAD: (signals.events_dead, _ended),
}
