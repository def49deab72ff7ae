"""What a run has shown, in figures."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .load import Answer, p99
from .oracle import Copy, check
from .worker import process_of


@dataclass(frozen=True)
class Evidence:
    """All that is known at the end of a run."""

    answers: Sequence[Answer]
    #: The keys in the side files: attempted, and reported as published or dropped.
    attempted: Collection[str]
    confirmed: Collection[str]
    dropped: Collection[str]
    #: The keys on disk, in the spool.
    on_disk: Collection[str]
    arrived: Sequence[Copy]
    #: The processes that were killed.
    killed: Collection[int]
    #: How often each fault occurred.
    strokes: Mapping[str, int]
    #: Seconds from the end of the last fault and the load until all was delivered;
    #: ``None``: it was not.
    delivered_after: float | None
    #: Seconds of the load.
    lasted: float


@dataclass(frozen=True)
class Figures:
    """The counts of events and requests, in the terms of the fault tests."""

    attempts: int
    acknowledged: int
    #: Acknowledged, and neither arrived, nor on disk, nor reported as dropped, nor in
    #: the memory of a killed process.
    lost: int
    #: In the memory of a killed process, whose backlog was in memory.
    lost_with_process: int
    dropped: int
    on_disk: int
    duplicated: int
    #: Of these, events of which a further copy has no mark.
    unmarked: int
    recovered: int
    unexpected: int
    #: Requests without the response that was expected.
    failed: int
    requests: int
    #: In seconds.
    slowest: float
    median: float
    p99: float
    strokes: Mapping[str, int]
    delivered_after: float | None
    lasted: float

    @property
    def is_kept(self) -> bool:
        """Whether each promise was kept."""
        return not (self.lost or self.unmarked or self.unexpected)

    @property
    def is_left(self) -> bool:
        """Whether anything acknowledged was not delivered in time."""
        return bool(self.dropped or self.on_disk) or self.delivered_after is None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {"strokes": dict(self.strokes)}


def judge(evidence: Evidence, *, in_memory: bool) -> Figures:
    """Compare what was sent with what has arrived.

    :param in_memory: whether events waited in memory, which a kill erases.
    """
    answers = evidence.answers
    acknowledged = {key for a in answers if a.ok for key in a.keys}
    found = check(evidence.attempted, acknowledged, evidence.arrived)
    on_disk = found.lost & frozenset(evidence.on_disk)
    dropped = (found.lost - on_disk) & frozenset(evidence.dropped)
    missing = found.lost - on_disk - dropped
    with_process = _with_process(missing, evidence) if in_memory else frozenset()
    seconds = [a.seconds for a in answers] or [0.0]
    return Figures(
        attempts=len(found.attempted),
        acknowledged=len(found.acknowledged),
        lost=len(missing - with_process),
        lost_with_process=len(with_process),
        dropped=len(dropped),
        on_disk=len(on_disk),
        duplicated=len(found.duplicated),
        unmarked=len(found.unmarked),
        recovered=len(found.recovered),
        unexpected=len(found.unexpected),
        failed=sum(map(has_failed, answers)),
        requests=len(answers),
        slowest=max(seconds),
        median=statistics.median(seconds),
        p99=p99(answers) if len(answers) > 1 else max(seconds),
        strokes=evidence.strokes,
        delivered_after=evidence.delivered_after,
        lasted=evidence.lasted,
    )


def has_failed(answer: Answer) -> bool:
    """Whether a request was not answered as expected: the app refuses some of them."""
    return not (answer.ok or answer.status == 409)


def _with_process(missing: Iterable[str], evidence: Evidence) -> frozenset[str]:
    """Those that a killed process had in memory, and had not reported as published."""
    confirmed, killed = frozenset(evidence.confirmed), frozenset(evidence.killed)
    return frozenset(
        key for key in missing if key not in confirmed and process_of(key) in killed
    )


#: What the report shows: the name, the figure, and what it counts.
_ROWS: tuple[tuple[str, str], ...] = (
    ("attempts", "events that requests were about to enqueue"),
    ("acknowledged", "events of requests with a 2xx response"),
    ("lost", "acknowledged, but neither arrived nor on disk"),
    ("lost_with_process", "in the memory of a killed worker"),
    ("dropped", "acknowledged, then reported as dropped"),
    ("on_disk", "acknowledged, still in the spool at the end"),
    ("duplicated", "arrived more than once"),
    ("unmarked", "of these, a further copy has no mark"),
    ("recovered", "arrived although not acknowledged"),
    ("unexpected", "arrived although never to be sent"),
    ("failed", "requests without a response"),
)
#: Shown only if there are any.
_RARE = ("lost_with_process", "dropped", "on_disk")


def as_rows(figures: Figures) -> list[tuple[str, str, str]]:
    """The name, the figure and the meaning of each count, and of the times."""
    rows = [
        (name.replace("_", " "), str(getattr(figures, name)), about)
        for name, about in _ROWS
        if name not in _RARE or getattr(figures, name)
    ]
    rows.append(("strokes", str(sum(figures.strokes.values())), "faults"))
    rows += [(f"  {name}", str(n), "") for name, n in sorted(figures.strokes.items())]
    times = f"p99 {_ms(figures.p99)}, median {_ms(figures.median)}"
    rows.append(("slowest", _ms(figures.slowest), f"request; {times}"))
    return [*rows, ("delivered", *_delivered(figures))]


def _delivered(figures: Figures) -> tuple[str, str]:
    seconds = figures.delivered_after
    if seconds is None:
        return "no", "not everything, in time"
    return f"{seconds:.1f} s", "until all was delivered, after the last stroke"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def verdict(figures: Figures) -> str:
    """What it comes to, in a sentence."""
    broken = [
        f"{number} {words}"
        for number, words in (
            (figures.lost, "lost"),
            (figures.unmarked, "duplicated without a mark"),
            (figures.unexpected, "unexpected"),
        )
        if number
    ]
    if broken:
        return f"Broken: {', '.join(broken)}."
    if figures.is_left:
        return "Nothing is lost, but not everything was delivered in time."
    if figures.lost_with_process:
        count = figures.lost_with_process
        return (
            f"Kept, but {count} lost with a killed worker, whose backlog was in memory."
        )
    return (
        "Kept: each acknowledged event arrived, each further copy is marked, and"
        " nothing arrived that was not to be sent."
    )
