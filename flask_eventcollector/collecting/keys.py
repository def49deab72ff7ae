"""The keys of one unit of work, by which a later event replaces an earlier one."""

from __future__ import annotations

from typing import NamedTuple

from ..delivery.delivery import Delivery
from ..delivery.entries import Entry
from ..events import Event, Target

#: Where a transaction lists its events, one list for each savepoint; ``None``: the
#: event belongs to no transaction.
Place = list[Entry] | None


class _Holder(NamedTuple):
    """The newest entry with a key."""

    entry: Entry
    place: Place
    #: Stands for the key in the ledger, in this unit of work. The key's own code may do
    #: anything when it is compared, so it is not compared under the ledger's lock. Nor
    #: does this keep other entries in memory.
    slot: object


class Keys:
    """Which entry has which key, for each target.

    An event replaces one of the same fate at once. If only one of them may be rolled
    back, both are collected, and :meth:`.Delivery.coalesce` decides between those that
    are left.
    """

    def __init__(self) -> None:
        self._holders: dict[tuple[Target, object], _Holder] = {}

    def settle(self, delivery: Delivery, event: Event, place: Place) -> Event | None:
        """Put *event* into the place of the one with its key, or keep that one.

        Returns which of them is kept; ``None``: *event* must be collected.
        """
        holder = self._holders.get((event.target, event.properties.key))
        if holder is None or holder.place is not place:
            return None
        if not delivery.still_collected([holder.entry]):
            return None
        if event.properties.keep == "first":
            return holder.entry.event
        return event if delivery.replace(holder.entry, event) else None

    def note(self, entry: Entry, place: Place) -> None:
        """Note that *entry* was collected."""
        key = (entry.target, entry.event.properties.key)
        before = self._holders.get(key)
        entry.slot = object() if before is None else before.slot
        self._holders[key] = _Holder(entry, place, entry.slot)
