"""Reports the fate of events to the log and to signal receivers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..events import Event
from .entries import BrokerChange, Notice, NoticeKind, grouped
from .log import ThrottledLog
from .store import QuarantinedFile
from .threads import PerThread

#: Sends a signal to the app's receivers; never raises.
Send = Callable[[NamedSignal, dict[str, Any]], None]


class Notifier:
    """Turns notices into log records and signals, in the calling thread.

    A receiver may enqueue events, which causes more notices. Those are passed to
    *later*. Otherwise a receiver that enqueues when an event is dropped would recurse
    without end.
    """

    def __init__(
        self, send: Send, log: ThrottledLog, later: Callable[[Iterable[Notice]], object]
    ) -> None:
        self._send = send
        self._log = log
        self._later = later
        #: Locked while the thread is dispatching. A lock, since the interpreter unlocks
        #: it whatever a signal handler raises.
        self._dispatching = PerThread(threading.Lock)

    def notify_enqueued(self, event: Event) -> None:
        """Report an event that was just collected."""
        if signals.event_enqueued.receivers:
            self._send(signals.event_enqueued, {"event": event})

    def notify(self, notices: list[Notice]) -> None:
        """Report *notices*; blocks as long as the receivers do.

        What was reported is removed, so that the caller knows the rest if this is
        interrupted.
        """
        if not notices:
            return
        dispatching = self._dispatching.get()
        if dispatching.locked():
            self._later(notices)
            notices.clear()
            return
        with dispatching:
            self._log.notices(notices)
            groups = grouped(notices)
            notices[:] = [item for group in groups for item in group]
            for group in groups:
                self._signal(group)
                del notices[: len(group)]

    def quarantined(self, files: Sequence[QuarantinedFile]) -> None:
        """Report quarantined spool files."""
        for file in files:
            self._log.quarantined(file)
            self._send(signals.spool_file_quarantined, file._asdict())

    def broker_changed(self, change: BrokerChange) -> None:
        """Report a new state of the broker."""
        self._send(signals.broker_state_changed, change._asdict())

    def _signal(self, group: Sequence[Notice]) -> None:
        signal, arguments = _SIGNALS[group[0].kind]
        events = tuple(item.event for item in group)
        self._send(signal, {"events": events, **arguments(group)})


def _published(group: Sequence[Notice]) -> dict[str, Any]:
    elapsed = max(item.elapsed for item in group)
    return {"attempt": group[0].attempt, "elapsed": elapsed}


def _failed(group: Sequence[Notice]) -> dict[str, Any]:
    notice = group[0]
    return {
        "outcome": notice.outcome,
        "error": notice.reason,
        "attempt": notice.attempt,
        "first": notice.first,
    }


def _ended(group: Sequence[Notice]) -> dict[str, Any]:
    return {"reason": group[0].reason}


_SIGNALS: Mapping[
    NoticeKind, tuple[NamedSignal, Callable[[Sequence[Notice]], dict[str, Any]]]
] = {
    NoticeKind.PUBLISHED: (signals.events_published, _published),
    NoticeKind.FAILED: (signals.publish_failed, _failed),
    NoticeKind.DISCARDED: (signals.events_discarded, _ended),
    NoticeKind.DROPPED: (signals.events_dropped, _ended),
    NoticeKind.DEAD: (signals.events_dead, _ended),
    NoticeKind.UNROUTED: (signals.events_unrouted, _ended),
}
