"""Writes down what happens to each event of this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...delivery.observations import Happened, Observation
from ...events import Stats, Target
from .records import Line
from .writer import HistoryWriter

#: What concerns events.
_ABOUT_EVENTS = frozenset(Happened) - {Happened.WAITED, Happened.CONNECTED}


class HistoryObserver:
    """Writes the life lines of events, and the counts, into this process's files.

    No more is written than what is true of all events of an observation, so a batch
    takes few lines.
    """

    wants = _ABOUT_EVENTS | {Happened.CONNECTED}
    needs_events = True

    def __init__(self, folder: Path, app: str) -> None:
        self._writer = HistoryWriter(folder, app)

    def observe(self, observations: Sequence[Observation], stats: Stats) -> None:
        """Write down what happened.

        :raises OSError: it can't be written.
        """
        self._writer.begin()
        lines = [line for one in observations for line in _lines(one, self._writer.pid)]
        self._writer.write(lines)
        self._writer.write_counts(stats.as_dict())

    def close(self) -> None:
        """Remove the counts; the lines stay."""
        self._writer.end()


def _lines(observation: Observation, pid: int) -> list[Line]:
    """One line for each target."""
    by_target: dict[Target | None, list[str]] = {}
    for event in observation.events:
        by_target.setdefault(event.target, []).append(event.id)
    if not by_target:
        by_target[None] = []
    return [
        Line(
            at=round(observation.at, 6),
            pid=pid,
            what=observation.what.value,
            ids=ids,
            queue="" if target is None else target.queue,
            exchange="" if target is None else target.exchange,
            reason=observation.reason,
            outcome="" if observation.outcome is None else observation.outcome.value,
            attempt=observation.attempt,
            elapsed=round(observation.elapsed, 6),
            where=observation.where,
            due=_due(observation, ids),
        )
        for target, ids in by_target.items()
    ]


def _due(observation: Observation, ids: list[str]) -> float:
    """Since when the event may be sent; 0: it has no delay, or others are with it."""
    if observation.what is not Happened.ENQUEUED or len(ids) != 1:
        return 0.0
    (event,) = observation.events
    return event.due_at if event.has_delay else 0.0
