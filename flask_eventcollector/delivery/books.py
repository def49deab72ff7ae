"""The accounting of every event that passes through this process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..events import Event, id_from_text
from .entries import Entry, State

#: How many events that may have been delayed are looked at for the oldest one.
_MOST_DELAYED = 100

_ALIVE = frozenset(state for state in State if state.alive)
_COUNTED = [state for state in State if state is not State.NEW]


class Books:
    """Every live entry, oldest first, with the counts that must balance.

    The entries' states are authoritative; the counts are derived. Not thread-safe:
    the ledger's lock guards it.
    """

    def __init__(self) -> None:
        #: By the raw ids of the events.
        self._live: dict[int | str, Entry] = {}
        #: Adopted from other processes: enqueued earlier than their position suggests.
        self._foreign: dict[int | str, Entry] = {}
        self._counts = [0] * len(State)
        self._enqueued = 0
        self._adopted = 0
        self._bytes = [0] * len(State)

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, event: Event) -> bool:
        """Whether an event with its id is held."""
        return event.raw_id in self._live

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._live.values()))

    def count(self, *states: State) -> int:
        """How many entries are in any of *states*."""
        return sum(self._counts[state] for state in states)

    def bytes(self, *states: State) -> int:
        """How many bytes the entries in any of *states* take."""
        return sum(self._bytes[state] for state in states)

    def held(self) -> tuple[int, int]:
        """How many entries are alive and not dead, and their bytes."""
        return sum(self._counts[: State.DEAD]), sum(self._bytes[: State.DEAD])

    def in_state(self, *states: State) -> list[Entry]:
        """The live entries in any of *states*, oldest first."""
        if not self.count(*states):
            return []
        return [entry for entry in self._live.values() if entry.state in states]

    def select(self, ids: Iterable[str] | None) -> list[Entry]:
        """The live entries with one of *ids*; ``None``: all."""
        if ids is None:
            return list(self)
        keys = dict.fromkeys(map(id_from_text, ids))
        return [self._live[key] for key in keys if key in self._live]

    def open(self, entries: Sequence[Entry]) -> None:
        """Count new entries as collected."""
        size = 0
        for entry in entries:
            event = entry.event
            self._live[event.raw_id] = entry
            entry.state = State.COLLECTED
            size += event.size
        self._counts[State.COLLECTED] += len(entries)
        self._enqueued += len(entries)
        self._bytes[State.COLLECTED] += size

    def replace(self, entry: Entry, event: Event) -> None:
        """Let a collected *entry* be *event*; count its former one as discarded."""
        former = entry.event
        self._live[event.raw_id] = entry
        entry.event = event
        del self._live[former.raw_id]
        self._enqueued += 1
        self._counts[State.DISCARDED] += 1
        self._bytes[State.COLLECTED] += event.size - former.size

    def adopt(self, entry: Entry) -> None:
        """Count an entry from another process, in its current state."""
        self._live[entry.event.raw_id] = self._foreign[entry.event.raw_id] = entry
        self._counts[entry.state] += 1
        self._adopted += 1
        self._bytes[entry.state] += entry.event.size

    def move(self, entry: Entry, state: State) -> None:
        """Change the entry's state. A final state removes it from the books."""
        before, entry.state = entry.state, state
        self._counts[before] -= 1
        self._counts[state] += 1
        self._bytes[before] -= entry.event.size
        if state.alive:
            self._bytes[state] += entry.event.size
        else:
            del self._live[entry.event.raw_id]
            self._foreign.pop(entry.event.raw_id, None)

    def moved(self, entries: Sequence[Entry], before: State, state: State) -> int:
        """Count that all *entries* have moved from one state to another, in bulk.

        Returns their bytes. The caller has changed their states.
        """
        size = sum([entry.event.size for entry in entries])
        self._counts[before] -= len(entries)
        self._counts[state] += len(entries)
        self._bytes[before] -= size
        if state in _ALIVE:
            self._bytes[state] += size
            return size
        for entry in entries:
            del self._live[entry.event.raw_id]
            if self._foreign:
                self._foreign.pop(entry.event.raw_id, None)
        return size

    def rebuild(self) -> None:
        """Recompute the counts after a step was interrupted."""
        self._live = {entry.event.raw_id: entry for entry in self}
        others = [entry for entry in self if not entry.state.alive]
        for entry in others:
            del self._live[entry.event.raw_id]
            self._foreign.pop(entry.event.raw_id, None)
        for state in State:
            if state.alive:
                sizes = [e.event.size for e in self if e.state is state]
                self._counts[state], self._bytes[state] = len(sizes), sum(sizes)
        self._balance([entry for entry in others if entry.state is not State.NEW])

    def _balance(self, ended: list[Entry]) -> None:
        missing = self._enqueued + self._adopted - sum(self._counts)
        for entry in ended[: max(missing, 0)]:
            # It reached its final state but was not counted there yet.
            self._counts[entry.state] += 1
            missing -= 1
        # The rest was added but not counted as enqueued yet.
        self._enqueued -= missing

    def as_dict(self) -> dict[str, Any]:
        """The fields of :class:`~flask_eventcollector.Stats` that are known here."""
        counts = {state.name.lower(): self._counts[state] for state in _COUNTED}
        return {
            "enqueued": self._enqueued,
            "adopted": self._adopted,
            "held_bytes": sum(self._bytes),
            "oldest_age": self._oldest_age(),
            **counts,
        }

    def _oldest_age(self) -> float | None:
        undelivered = (State.RETAINED, State.IN_FLIGHT)
        if not self.count(*undelivered):
            return None
        own = (e for e in self._live.values() if e.state in undelivered)
        foreign = [e for e in self._foreign.values() if e.state in undelivered]
        times = [e.event.due_at for e in [*_oldest(own), *foreign]]
        # A destructor may ask in the middle of a step, when states have changed and
        # counts have not.
        return max(0.0, time.time() - min(times)) if times else None


def _oldest(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The first of *entries*, and, behind those that may have been delayed, others."""
    for entry in itertools.islice(entries, _MOST_DELAYED):
        yield entry
        if entry.event.is_plain:
            return
