"""What waits for each target, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..events import Target, TargetProblem

#: The most targets that a store names, those with the most events.
MOST_TARGETS = 200


class TargetSum(NamedTuple):
    """The events of one target that wait or are dead."""

    target: Target
    waiting: int
    dead: int
    #: When the oldest of them was enqueued, in microseconds since 1970; ``None``: not
    #: known.
    oldest: int | None
    #: Why one of them waits or is dead; ``""``: not known.
    reason: str = ""
    #: How many times one of them was sent; ``None``: not known.
    attempts: int | None = None
    #: Seconds until one of them may be sent again; ``None``: not known.
    next_try: float | None = None

    @classmethod
    def of(cls, problem: TargetProblem) -> TargetSum:
        """What a process says of a target whose events are not confirmed."""
        return cls(
            Target(problem.exchange, problem.queue),
            problem.events,
            0,
            None,
            problem.reason,
            problem.attempts or None,
            problem.next_try,
        )

    @property
    def events(self) -> int:
        """How many there are."""
        return self.waiting + self.dead

    def explained_by(self, other: TargetSum) -> TargetSum:
        """The same events, with what is known of why those of *other* wait."""
        return self._replace(
            reason=other.reason, attempts=other.attempts, next_try=other.next_try
        )

    def plus(self, other: TargetSum) -> TargetSum:
        """The sum of what two stores hold for the same target."""
        both = (self, other)
        times = [one.oldest for one in both if one.oldest is not None]
        tries = [one.next_try for one in both if one.next_try is not None]
        return TargetSum(
            self.target,
            self.waiting + other.waiting,
            self.dead + other.dead,
            min(times, default=None),
            self.reason or other.reason,
            max(self.attempts or 0, other.attempts or 0) or None,
            min(tries, default=None),
        )


def summed(sums: Iterable[TargetSum]) -> list[TargetSum]:
    """One for each target, those with the most events first."""
    found: dict[Target, TargetSum] = {}
    for one in sums:
        known = found.get(one.target)
        found[one.target] = one if known is None else known.plus(one)
    return sorted(found.values(), key=lambda one: (-one.events, one.target))
