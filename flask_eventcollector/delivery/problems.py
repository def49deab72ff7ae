"""What keeps events from being confirmed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from heapq import nlargest
from typing import Any

from ..events import (
    MOST_PROBLEMS,
    BrokerState,
    Target,
    TargetProblem,
    worst_problems,
)
from .broker_status import BrokerStatus
from .entries import Entry, State
from .lanes import Lane
from .traffic import Traffic

_SILENT = "no confirm for some time, while events for others are confirmed"


class Problems:
    """Explains what the traffic and the broker's status mean for single targets.

    Changes nothing. Not thread-safe: the ledger's lock guards it.
    """

    def __init__(
        self, traffic: Traffic, broker: BrokerStatus, clock: Callable[[], float]
    ) -> None:
        self._traffic = traffic
        self._broker = broker
        self._clock = clock

    def as_dict(self) -> dict[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` about single targets."""
        held = {
            target: lane
            for target, lane in self._traffic.lanes.items()
            if lane.is_refused or self._traffic.is_silent(lane)
        }
        most = nlargest(MOST_PROBLEMS, held, key=lambda target: held[target].load)
        problems = [self._of_lane(target, held[target]) for target in most]
        return {"problem_targets": len(held), "problems": worst_problems(problems)}

    def among(self, entries: list[Entry]) -> tuple[TargetProblem, ...]:
        """The problems with the targets of those *entries* that wait, or are dead."""
        held: dict[Target, list[Entry]] = {}
        for entry in entries:
            if entry.state in (State.RETAINED, State.DEAD):
                held.setdefault(entry.target, []).append(entry)
        problems = [
            self._about(target, len(group), self._reason(group[0]), group[0].attempts)
            for target, group in held.items()
        ]
        return worst_problems(problems)

    def obstacle(self, entry: Entry) -> str:
        """Why *entry* was not sent; ``""``: it was, or soon will be."""
        if not entry.is_retained or entry.attempts:
            return ""
        if not self._broker.worth_waiting:
            return str(self._broker)
        if self._traffic.is_refused(entry.target):
            return "the broker refused other events for the same target"
        lane = self._traffic.lanes.get(entry.target)
        return _SILENT if lane is not None and self._traffic.is_silent(lane) else ""

    def _reason(self, entry: Entry) -> str:
        return entry.reason or self.obstacle(entry) or str(self._broker)

    def _of_lane(self, target: Target, lane: Lane) -> TargetProblem:
        events = lane.events + self._traffic.suspects.count(target)
        reason = lane.reason if lane.is_refused else _SILENT
        return self._about(target, events, reason, lane.attempts)

    def _about(
        self, target: Target, events: int, reason: str, attempts: int
    ) -> TargetProblem:
        """The problem with *target*; its lane knows the times."""
        queue, exchange = target.queue, target.exchange
        problem = TargetProblem(queue, exchange, events, reason, attempts)
        lane = self._traffic.lanes.get(target)
        if lane is None or not lane.attempts:
            return problem
        now, next_try = self._clock(), lane.next_try
        ready = self._broker.state is BrokerState.READY
        if not ready or next_try is None or next_try == math.inf:
            return replace(problem, last_try=now - lane.failed_at)
        left = max(0.0, next_try - now)
        return replace(problem, last_try=now - lane.failed_at, next_try=left)
