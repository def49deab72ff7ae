"""Tells the app what became of its events, in the log as by signals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..events import Event
from .entries import Notice, NoticeKind, grouped
from .log import ThrottledLog
from .store import QuarantinedFile

#: Sends a signal to the app's receivers, whatever they do.
Send = Callable[[NamedSignal, dict[str, Any]], None]


class Notifier:
    """Turns news into log lines and signals, in the calling thread.

    A receiver may enqueue, and so cause news. These are left in *later*: told at once,
    a receiver that enqueues when an event is dropped would call itself for ever.
    """

    def __init__(
        self, send: Send, log: ThrottledLog, later: Callable[[Iterable[Notice]], object]
    ) -> None:
        self._send = send
        self._log = log
        self._later = later
        self._notifying = threading.local()

    def notify_enqueued(self, event: Event) -> None:
        """Tell of an event that is in a collector now."""
        self._send(signals.event_enqueued, {"event": event})

    def notify(self, notices: Sequence[Notice]) -> None:
        """Tell of what became of events; may block as long as the receivers do."""
        if not notices:
            return
        if getattr(self._notifying, "now", False):
            self._later(notices)
            return
        self._notifying.now = True
        try:
            self._log.notices(notices)
            for group in grouped(notices):
                self._signal(group)
        finally:
            self._notifying.now = False

    def quarantined(self, files: Sequence[QuarantinedFile]) -> None:
        """Tell of files that could not be read as a whole."""
        for file in files:
            self._log.quarantined(file)
            self._send(signals.spool_file_quarantined, file._asdict())

    def _signal(self, group: Sequence[Notice]) -> None:
        signal, about = _SIGNALS[group[0].kind]
        events = tuple(item.event for item in group)
        self._send(signal, {"events": events, **about(group)})


def _published(group: Sequence[Notice]) -> dict[str, Any]:
    elapsed = max(item.elapsed for item in group)
    return {"attempt": group[0].attempt, "elapsed": elapsed}


def _failed(group: Sequence[Notice]) -> dict[str, Any]:
    notice = group[0]
    return {
        "outcome": notice.outcome,
        "error": notice.reason,
        "attempt": notice.attempt,
    }


def _ended(group: Sequence[Notice]) -> dict[str, Any]:
    return {"reason": group[0].reason}


_SIGNALS = {
    NoticeKind.PUBLISHED: (signals.events_published, _published),
    NoticeKind.FAILED: (signals.publish_failed, _failed),
    NoticeKind.DISCARDED: (signals.events_discarded, _ended),
    NoticeKind.DROPPED: (signals.events_dropped, _ended),
    NoticeKind.DEAD: (signals.events_dead, _ended),
}
