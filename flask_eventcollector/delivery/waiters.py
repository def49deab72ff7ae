"""Who waits in ``publish()``, and for which events."""

from __future__ import annotations

from itertools import groupby

from ..events import BrokerState, Target
from .broker_status import BrokerStatus
from .entries import State, Waiter, target_of
from .traffic import Traffic


class Waiters:
    """The callers that wait. None of them does so where no confirm can be expected.

    Not thread-safe: the ledger's lock guards it.
    """

    def __init__(self, traffic: Traffic, broker: BrokerStatus) -> None:
        self._traffic = traffic
        self._broker = broker
        self._waiting: set[Waiter] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, waiter: Waiter) -> None:
        """Let *waiter* wait for those of its events whose confirms may come soon."""
        if self._worth_waiting(waiter):
            self._waiting.add(waiter)
            retained = (entry for entry in waiter.entries if entry.is_retained)
            for target, group in groupby(retained, target_of):
                if not self._is_held_up(target, waiter):
                    waiter.pending.update(group)
        if not waiter.pending:
            waiter.done.set()

    def end(self, waiter: Waiter, *, ran_out: bool) -> None:
        """*waiter* waits no longer, maybe since its time *ran out*."""
        self._waiting.discard(waiter)
        if ran_out:
            self._broker.stalled |= self._waited_in_vain(waiter)

    def leave_behind(self, target: Target) -> None:
        """Let nobody wait for what is to be sent to *target*, which backs off."""
        for waiter in self._waiting:
            waiter.leave_behind(target)

    def heed_broker(self) -> None:
        """Release those for whom the broker's new state leaves nothing to wait for."""
        for waiter in self._waiting:
            if not self._worth_waiting(waiter):
                waiter.give_up()

    def look_again(self) -> None:
        """Let nobody wait for what was decided in an interrupted step."""
        for waiter in self._waiting:
            waiter.look_again()

    def _worth_waiting(self, waiter: Waiter) -> bool:
        if self._broker.is_final:
            return False
        return waiter.patient or self._broker.worth_waiting

    def _is_held_up(self, target: Target, waiter: Waiter) -> bool:
        """Whether no confirm of *target* can be expected soon.

        A patient caller waits for one that is only silent.
        """
        lane = self._traffic.lane(target)
        is_silent = not waiter.patient and self._traffic.is_silent(lane)
        return lane.backing_off or is_silent

    def _waited_in_vain(self, waiter: Waiter) -> bool:
        """Whether *waiter* timed out because of the broker."""
        if self._broker.state is not BrokerState.READY:
            return bool(waiter.pending)
        return any(entry.state is State.IN_FLIGHT for entry in waiter.pending)
