"""Which event is dropped where a limit is reached."""

from __future__ import annotations

from collections.abc import Iterable

from ..events import BrokerState, Event
from .broker_status import BrokerStatus
from .entries import Entry
from .lanes import Lane
from .limits import Limits, Room
from .traffic import Traffic


class Overflow:
    """The rules of ``OVERFLOW``.

    Only units of work that hold few events may use the reserve. For these, the events
    of refused targets are dropped first.

    Changes nothing. Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self, limits: Limits, room: Room, traffic: Traffic, broker: BrokerStatus
    ) -> None:
        self._limits = limits
        self._room = room
        self._traffic = traffic
        self._broker = broker

    def victim(self, event: Event, *, is_modest: bool) -> Entry | None:
        """What to drop in favour of *event*; ``None``: there is nothing.

        *is_modest*: its unit of work holds few events.
        """
        if self._limits.reject or not self._room.can_ever_hold(event):
            return None
        if is_modest:
            oldest = self._oldest(self._traffic.refused())
            if oldest is None and self._limits.drop_oldest:
                lanes = self._traffic.lanes.values()
                oldest = self._oldest(lanes, self._traffic.suspects.oldest())
            return oldest
        if self._limits.drop_oldest and self._traffic.is_refused(event.target):
            return self._oldest([self._traffic.lanes[event.target]])
        return None

    def may_drop(self, entry: Entry) -> bool:
        """Whether it is this process's. After a close, stored events stay on disk."""
        return not (entry.is_stored and self._broker.state is BrokerState.CLOSED)

    def _oldest(
        self, lanes: Iterable[Lane], others: Iterable[Entry] = ()
    ) -> Entry | None:
        """The oldest event of *lanes* and *others* that may be dropped."""
        heads = [lane.oldest() for lane in lanes]
        kept = [*(entry for entry in heads if entry is not None), *others]
        ours = [e for e in kept if self.may_drop(e) and not e.is_committed]
        return min(ours, key=lambda entry: entry.sequence, default=None)
