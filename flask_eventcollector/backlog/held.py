"""The events in the memory of this process, which no other one can see."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..delivery.delivery import Delivery
from ..delivery.entries import Entry, State
from ..delivery.refusals import Refusal
from ..events import Event, Target
from ..stores.filter import ALL, Filter
from ..stores.spool.admin.changes import Changed
from ..stores.spool.admin.reading import Owner
from ..stores.spool.control import ControlRequest
from ..stores.sums import TargetSum


class FoundHere(NamedTuple):
    """An event in memory, shown as :class:`.Found` is."""

    entry: Entry
    #: Its last refusal, or that of another event for its target.
    refusal: Refusal | None

    @property
    def event(self) -> Event:
        return self.entry.event

    @property
    def place(self) -> str:
        return f"the memory of process {os.getpid()}"

    @property
    def state(self) -> str:
        is_dead = self.entry.state is State.DEAD
        return "dead" if is_dead else self.event.waiting_state

    @property
    def is_left(self) -> bool:
        """Never: its process is this one."""
        return False

    @property
    def reason(self) -> str | None:
        """Why it is dead, or why the broker refused it last."""
        if self.entry.reason or self.refusal is None:
            return self.entry.reason or None
        return self.refusal.reason_for(self.event.id)

    @property
    def attempts(self) -> int | None:
        """How many times it was sent; ``None``: not at all."""
        return self.entry.attempts or None

    @property
    def next_try(self) -> float | None:
        """Seconds until it may be sent again; ``None``: not known."""
        if self.state == "delayed":
            return self.event.due_in
        is_sent = self.state == "waiting"
        if not is_sent or self.refusal is None or self.refusal.next_try is None:
            return None
        return max(0.0, self.refusal.next_try - time.time())


class Held:
    """What one process holds in memory."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def events(self, wanted: Filter = ALL) -> Iterator[FoundHere]:
        """The *wanted* events, oldest first."""
        return (found for found in self._alone() if _is_wanted(found, wanted))

    def with_ids(self, ids: Iterable[str]) -> list[FoundHere]:
        """The events with *ids*."""
        known = set(ids)
        return [found for found in self._alone() if found.event.id in known]

    def ids_from(self, prefix: str) -> set[str]:
        """The ids that start with *prefix*."""
        ids = (found.event.id for found in self._alone())
        return {id for id in ids if id.startswith(prefix)}

    def sums_by_target(self) -> list[TargetSum]:
        """What waits for each target, those with the most events first."""
        all_of, dead = Counter[Target](), Counter[Target]()
        oldest: dict[Target, FoundHere] = {}
        refused: dict[Target, FoundHere] = {}
        for found in self._alone():
            target = found.entry.target
            all_of[target] += 1
            dead[target] += found.entry.state is State.DEAD
            oldest.setdefault(target, found)
            if found.entry.reason:
                refused.setdefault(target, found)
        return [
            _sum_of(
                refused.get(target, oldest[target]), oldest[target], count, dead[target]
            )
            for target, count in all_of.most_common()
        ]

    def change(self, request: ControlRequest) -> Changed:
        """Apply *request*."""
        idle = (State.DEAD, State.DELAYED, State.RETAINED)
        wanted = (State.DEAD,) if request.action == "retry" else idle
        ids = set(request.ids)
        found = [f for f in self._all() if f.event.id in ids]
        done, left = list[str](), list[str]()
        for f in found:
            (done if f.entry.state in wanted else left).append(f.event.id)
        if request.action == "retry":
            self._delivery.retry(done)
        elif request.action == "redirect":
            self._delivery.redirect(done, request.queue)
        else:
            self._delivery.purge(done)
        return Changed(Owner(os.getpid(), True), done, left)

    def _alone(self) -> Iterator[FoundHere]:
        """Those that are neither on disk nor in the outbox, where others see them."""
        return (found for found in self._all() if not found.entry.is_stored)

    def _all(self) -> Iterator[FoundHere]:
        entries, refusals = self._delivery.held()
        by_target = {Target(r.exchange, r.queue): r for r in refusals}
        by_id = {refusal.id: refusal for refusal in refusals}
        for entry in entries:
            refusal = by_id.get(entry.event.id) or by_target.get(entry.target)
            yield FoundHere(entry, refusal)


def _is_wanted(found: FoundHere, wanted: Filter) -> bool:
    return (
        wanted.selects_state(dead=found.state == "dead")
        and wanted.selects_queue(found.event.target)
        and wanted.selects_age(found.event)
        and wanted.selects_reason(found.reason)
    )


def _sum_of(found: FoundHere, oldest: FoundHere, count: int, dead: int) -> TargetSum:
    """The sum for a target, with what is known of one of its events."""
    return TargetSum(
        found.event.target,
        count - dead,
        dead,
        oldest.event.microseconds,
        found.reason or "",
        found.attempts,
        found.next_try,
    )
