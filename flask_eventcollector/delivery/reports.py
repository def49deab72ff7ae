"""What is told of events: notices for their callers, and observations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from itertools import groupby
from operator import attrgetter

from ..events import Outcome
from .entries import Entry, Notice, NoticeKind, Waiter, target_of
from .observations import Happened, Observations

#: Where a step puts its notices.
Notices = MutableSequence[Notice]

_handed_over_at = attrgetter("handed_over_at")


class Reports:
    """Notes what happens to entries, for their callers and for the observers.

    A caller that waits for an event gets its notices; the flusher dispatches all
    others.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self, is_heard: Callable[[], bool], observations: Observations | None
    ) -> None:
        #: Whether notices of confirmed events are needed.
        self.is_heard = is_heard
        #: What the observers are told; ``None``: there are none.
        self._observations = observations
        #: Notices that no caller is waiting for.
        self.deferred: deque[Notice] = deque()

    # Notices.

    def notices_of(self, entry: Entry) -> Notices:
        """Where the notices about *entry* belong."""
        return self.deferred if entry.waiter is None else entry.waiter.notices

    def notice(
        self,
        entry: Entry,
        kind: NoticeKind,
        outcome: Outcome | None = None,
        elapsed: float = 0.0,
    ) -> None:
        """Note that *entry* was published, say, or is dead."""
        self.notices_of(entry).append(
            Notice(kind, entry.event, entry.reason, outcome, entry.attempts, elapsed)
        )

    def failed(self, entry: Entry, outcome: Outcome | None = None) -> None:
        """Note that *entry* was sent and refused, say."""
        self._note_failure(entry, entry.reason, outcome, self.notices_of(entry))

    def obstructed(self, entry: Entry, obstacle: str, waiter: Waiter) -> None:
        """Note that *entry*, for which *waiter* has waited, was not sent."""
        self.observe(Happened.FAILED, [entry], reason=obstacle, caller=waiter.caller)
        self._note_failure(entry, obstacle, None, waiter.notices)

    def _note_failure(
        self, entry: Entry, reason: str, outcome: Outcome | None, notices: Notices
    ) -> None:
        first, entry.has_failed = not entry.has_failed, True
        kind, attempts = NoticeKind.FAILED, entry.attempts
        notices.append(
            Notice(kind, entry.event, reason, outcome, attempts, first=first)
        )

    # Observations.

    def observe(
        self,
        what: Happened,
        entries: Sequence[Entry],
        now: float | None = None,
        *,
        reason: str = "",
        outcome: Outcome | None = None,
        caller: object = None,
    ) -> None:
        """Tell the observers, if there are any."""
        if self._observations is not None:
            self._observations.note(
                what, entries, now, reason=reason, outcome=outcome, caller=caller
            )

    def observe_sending(self, entries: Sequence[Entry], now: float) -> None:
        """Tell the observers of each target's *entries*, and remember who waits."""
        if self._observations is None:
            return
        if self._observations.caller is not None:
            for entry in entries:
                entry.caller = None if entry.waiter is None else entry.waiter.caller
        for _, group in groupby(entries, target_of):
            self.observe(Happened.SENT, [*group], now)

    def observe_confirms(
        self, what: Happened, entries: Sequence[Entry], now: float
    ) -> None:
        """Tell the observers of the *entries* of each hand-over."""
        if self._observations is not None:
            for _, together in groupby(entries, _handed_over_at):
                self.observe(what, [*together], now)
