"""What the outcome of an event that was sent means for it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from ..events import Outcome, Target
from .broker_status import BrokerStatus
from .entries import Entry, NoticeKind, Settlement, State, target_of
from .lanes import Lane
from .limits import Limits
from .moves import Moves
from .observations import Happened
from .refusals import Refusals
from .reports import Reports
from .traffic import SILENCE
from .waiters import Waiters


class Settling:
    """Ends events that are confirmed; lets others wait for a retry, or die.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self,
        limits: Limits,
        moves: Moves,
        broker: BrokerStatus,
        waiters: Waiters,
        reports: Reports,
    ) -> None:
        self._limits = limits
        self._moves = moves
        self._broker = broker
        self._waiters = waiters
        self._reports = reports
        self._books = moves.books
        self._disk_index = moves.disk_index
        self._traffic = moves.traffic
        self.refusals = Refusals()

    def settle(self, settlements: Iterable[Settlement], now: float) -> None:
        """Record outcomes, in their order."""
        for are_confirms, group in groupby(settlements, _is_confirm):
            if are_confirms and self._traffic.suspects.alone is None:
                self._confirm([settlement.entry for settlement in group], now)
                continue
            for settlement in group:
                if settlement.entry.state is State.IN_FLIGHT:
                    self._settle(settlement, now)

    def give_back(self, reason: str, now: float) -> None:
        """Settle the events in flight as *unknown*, since the broker is unreachable.

        The broker should have settled them, but may have failed to.
        """
        for entry in self._books.in_state(State.IN_FLIGHT):
            self._settle(Settlement(entry, Outcome.UNKNOWN, reason), now)

    def _settle(self, settlement: Settlement, now: float) -> None:
        if _is_confirm(settlement) or settlement.is_discarded:
            entry = settlement.entry
            self._traffic.suspects.settled(entry)
            entry.reason = settlement.reason
            self._confirm([entry], now, unrouted=settlement.is_discarded)
        else:
            self._fail(settlement, now)

    # Confirmed.

    def _confirm(
        self, entries: Iterable[Entry], now: float, *, unrouted: bool = False
    ) -> None:
        """The broker has confirmed *entries*, regardless of earlier settlements.

        *unrouted*: no queue gets them, which the settings allow.
        """
        state = State.UNROUTED if unrouted else State.CONFIRMED
        is_heard = self._reports.is_heard()
        for target, group in groupby(entries, target_of):
            confirmed = []
            for entry in group:
                if entry.state is not State.IN_FLIGHT:
                    continue
                confirmed.append(entry)
                if unrouted:
                    self._reports.notice(entry, NoticeKind.UNROUTED)
                elif is_heard:
                    entry.reason = ""
                    elapsed = now - entry.handed_over_at
                    self._reports.notice(entry, NoticeKind.PUBLISHED, elapsed=elapsed)
                if entry.row is not None:
                    self._disk_index.outdate(entry)
                entry.state = state
                if entry.waiter is not None:
                    entry.waiter.resolve(entry)
            if confirmed:
                self._note_confirms(target, confirmed, state, now)

    def _note_confirms(
        self, target: Target, confirmed: list[Entry], state: State, now: float
    ) -> None:
        """Count what *target* has confirmed, and let it be sent more."""
        size = self._books.moved(confirmed, State.IN_FLIGHT, state)
        self._disk_index.end(confirmed)
        self._broker.confirmed(now, confirmed[-1].sent_at)
        lane = self._traffic.lane(target)
        lane.landed(len(confirmed), size, now)
        lane.confirmed(len(confirmed), now)
        unrouted = state is State.UNROUTED
        what = Happened.UNROUTED if unrouted else Happened.CONFIRMED
        self._reports.observe_confirms(what, confirmed, now)
        self._traffic.forget_if_idle(target)

    # Not confirmed.

    def _fail(self, settlement: Settlement, now: float) -> None:
        """Retain the event, or let it die."""
        entry = settlement.entry
        lane = self._traffic.lane(entry.target)
        lane.landed(1, entry.event.size, now)
        settlement = self._judged(settlement)
        outcome, entry.reason = settlement.outcome, settlement.reason
        lane.failed(entry, entry.reason)
        if outcome is not None or entry.reason:
            self._reports.observe(
                Happened.FAILED, [entry], now, reason=entry.reason, outcome=outcome
            )
        if outcome is None:
            self._not_sent(settlement, now)
        elif outcome is Outcome.UNKNOWN:
            self._unknown(settlement, now)
        else:
            self._refused(settlement, lane, now)
        if entry.waiter is not None:
            entry.waiter.settled(settlement)
            if lane.backing_off:
                entry.waiter.leave_behind(entry.target)
        self._traffic.forget_if_idle(entry.target)

    def _judged(self, settlement: Settlement) -> Settlement:
        """Convict an event that was in flight alone, or suspect one that was not."""
        suspects = self._traffic.suspects
        if suspects.settled(settlement.entry):
            return settlement.alone()
        if settlement.suspect and suspects.alone is None:
            settlement.entry.is_suspect = True
        return settlement

    def _not_sent(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        entry.attempts -= 1
        if settlement.reason:
            self._reports.failed(entry)
        self._moves.retain(entry)
        if settlement.back_off:
            self._back_off(settlement, now)

    def _unknown(self, settlement: Settlement, now: float) -> None:
        entry = settlement.entry
        entry.possible_duplicate = True
        self._reports.failed(entry, Outcome.UNKNOWN)
        self._moves.retain(entry, settlement.retry_at(now))
        if settlement.back_off:
            self._back_off(settlement, now)

    def _refused(self, settlement: Settlement, lane: Lane, now: float) -> None:
        entry = settlement.entry
        self._broker.stalled = False
        entry.possible_duplicate |= settlement.possibly_taken
        entry.refused(now, self._broker.seconds())
        if settlement.final or self._refused_too_long(entry):
            self._reports.notice(entry, NoticeKind.DEAD, settlement.outcome)
            self._moves.die(entry)
            return
        self._reports.failed(entry, settlement.outcome)
        retry_at = settlement.retry_at(now)
        refused_alone = entry.refusals > 1 and lane.confirmed_since(entry.refused_at)
        if refused_alone and retry_at is None:
            # The target accepts others, so they need not wait for this one.
            retry_at = now + self._limits.delay(entry.refusals)
            self.refusals.note(entry, retry_at)
            self._moves.retain(entry, retry_at)
            return
        self._back_off(settlement, now)
        if entry.is_suspect and retry_at is None:
            # After events of its target that were not refused individually.
            retry_at = lane.retry_at + SILENCE
        self.refusals.note(entry, lane.retry_at if retry_at is None else retry_at)
        self._moves.retain(entry, retry_at)

    def _back_off(self, settlement: Settlement, now: float) -> None:
        """Send nothing more to a target for a while, so that nobody waits for that."""
        target = settlement.entry.target
        was_refused = self._traffic.is_refused(target)
        self._traffic.back_off(settlement.entry, now, settlement.retry_after)
        if not was_refused and self._traffic.is_refused(target):
            self._waiters.leave_behind(target)

    def _refused_too_long(self, entry: Entry) -> bool:
        refused_for = self._broker.seconds() - entry.refused_since
        return refused_for >= self._limits.dead_after


def _is_confirm(settlement: Settlement) -> bool:
    return settlement.outcome is Outcome.CONFIRMED
