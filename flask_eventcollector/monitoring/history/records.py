"""What a process writes down: lines about events, and its counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

from ...delivery.broker_status import describe
from ...events import BrokerState, Stats, TargetProblem
from ..declared import is_as_declared

T = TypeVar("T")

_FIELDS = frozenset(field.name for field in fields(Stats))

#: Seconds without new counts after which a process counts as silent.
SILENT_AFTER = 10.0


class Line(NamedTuple):
    """One thing that happened to events of one process."""

    #: Seconds since 1970.
    at: float
    pid: int
    what: str
    ids: list[str]
    queue: str
    exchange: str
    reason: str
    outcome: str
    attempt: int
    #: Seconds since the hand-over.
    elapsed: float
    #: Where the event was enqueued.
    where: str
    #: Since when it may be sent, in seconds since 1970; 0: it had no delay.
    due: float = 0.0
    #: The process, which no other one is called, as in the names of its files.
    process: str = ""

    def as_json(self) -> str:
        """The line as text, without what is empty."""
        return json.dumps({k: v for k, v in self._asdict().items() if v})

    @classmethod
    def from_json(cls, text: str, process: str = "") -> Line:
        """The line of *process* that *text* is.

        :raises ValueError: it is none.
        """
        texts = dict.fromkeys(["queue", "exchange", "reason", "outcome", "where"], "")
        numbers = {"pid": 0, "attempt": 0, "elapsed": 0.0, "due": 0.0}
        fields = {"ids": [], **texts, **numbers, **_object(text), "process": process}
        return _checked(cls._make(map(fields.get, cls._fields)))


class Counts(NamedTuple):
    """What one process has counted."""

    pid: int
    #: When, in seconds since 1970.
    at: float
    #: The fields of :class:`~flask_eventcollector.Stats`.
    stats: dict[str, Any]
    #: As in :class:`Line`.
    process: str = ""

    @classmethod
    def from_json(cls, text: str, process: str = "") -> Counts:
        """The counts of *process* that *text* is.

        :raises ValueError: it is none.
        """
        fields = _object(text) | {"process": process}
        counts = _checked(cls._make(map(fields.get, cls._fields)))
        try:
            _checked(counts.books)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return counts

    @property
    def books(self) -> Stats:
        """The same; a field that this version does not know is left out."""
        known = {name: v for name, v in self.stats.items() if name in _FIELDS}
        found = [TargetProblem(**problem) for problem in known.pop("problems", ())]
        broker = BrokerState(known.pop("broker", BrokerState.IDLE))
        return Stats(**known, broker=broker, problems=tuple(found))

    @property
    def is_current(self) -> bool:
        """Whether the process is still counting.

        If not, it is stopped, hangs, or can't write its counts.
        """
        # The clock may have been set back.
        return abs(time.time() - self.at) < SILENT_AFTER


def total(counts: Iterable[Counts], name: str) -> int:
    """The sum of the field *name* of :class:`~flask_eventcollector.Stats`."""
    return sum(int(one.stats.get(name, 0)) for one in counts)


def problems(counts: Iterable[Counts]) -> list[str]:
    """What keeps events from being confirmed, each once."""
    every = [*counts]
    books = [one.books for one in every]
    found = [silence for one in every if (silence := silence_of(one))]
    found += [error for one in books for error in _errors(one)]
    found += [str(target) for one in books for target in one.problems]
    return [problem for problem in dict.fromkeys(found) if problem]


def silence_of(counts: Counts) -> str:
    """That a running process counts no more; ``""``: it does."""
    if counts.is_current:
        return ""
    seconds = max(0.0, time.time() - counts.at)
    return (
        f"process {counts.pid} has said nothing for {seconds:.0f} s: it is stopped,"
        " hangs, or can't write its counts"
    )


def _errors(books: Stats) -> list[str]:
    broker = books.broker_error
    if books.broker.is_trouble:
        broker = describe(books.broker, broker)
    return [broker, *store_errors(books)]


def store_errors(books: Stats) -> list[str]:
    """Which stores can't be used, and why."""
    errors = {"spool": books.spool_error, "outbox": books.outbox_error}
    return [f"the {store}: {error}" for store, error in errors.items() if error]


def _object(text: str) -> dict[str, Any]:
    """The JSON object that *text* is.

    :raises ValueError: it is none.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _checked(found: T) -> T:
    """What was *found*.

    :raises ValueError: a field has not the type that is declared.
    """
    if not is_as_declared(found):
        raise ValueError("a field has another type")
    return found
