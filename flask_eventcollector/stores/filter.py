"""Which events an operator means."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..events import Event, Target


def matches_name(name: str, pattern: str) -> bool:
    """Whether *pattern* is *name*, or a pattern of :func:`fnmatch.fnmatchcase` for it.

    That distinguishes upper and lower case, as AMQP does.
    """
    return name == pattern or fnmatchcase(name, pattern)


def matches_target(target: Target, pattern: str) -> bool:
    """Whether *pattern* means the queue of *target*, or *target* as text."""
    names = (target.queue, str(target))
    return any(matches_name(name, pattern) for name in names)


class Filter(NamedTuple):
    """Which events are meant; each condition that is set must hold."""

    #: A queue, a target as text, or a pattern for one of them.
    queue: str | None = None
    dead: bool = False
    #: A part of its last reason, or a pattern for all of it.
    reason: str | None = None
    #: Enqueued more than this many seconds ago.
    older_than: float | None = None
    #: Not dead.
    waiting: bool = False

    def selects_queue(self, target: Target) -> bool:
        """Whether an event for *target* is meant."""
        return self.queue is None or matches_target(target, self.queue)

    def selects_state(self, *, dead: bool) -> bool:
        """Whether an event that is *dead*, or is not, is meant."""
        return not (self.dead and not dead) and not (self.waiting and dead)

    @property
    def before(self) -> int | None:
        """When an event must have been enqueued at last, in microseconds since 1970."""
        if self.older_than is None:
            return None
        return round(max(0.0, time.time() - self.older_than) * 1e6)

    def selects_age(self, event: Event) -> bool:
        """Whether *event* is old enough."""
        before = self.before
        return before is None or event.microseconds < before

    def selects_reason(self, reason: str | None) -> bool:
        """Whether an event with this last *reason* is meant."""
        if self.reason is None:
            return True
        if not reason:
            return False
        return self.reason in reason or fnmatchcase(reason, self.reason)


#: Every event.
ALL = Filter()
