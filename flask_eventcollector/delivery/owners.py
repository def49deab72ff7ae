"""Who holds collected events, until it is deleted."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator

from .entries import Entry


class Watched(weakref.ref[object]):
    """An owner of entries, which may be deleted, with the list of its entries."""

    __slots__ = ("entries", "reason")

    entries: list[Entry]
    #: Why they are discarded then.
    reason: str


class Owners:
    """The collectors and the transactions of the application.

    One may be deleted at any moment, even while its thread holds the ledger's lock.
    What is called then is not Python code, in which an exception of a signal handler
    would be lost. :meth:`take_abandoned` finds it later.
    """

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        #: Those that are gone.
        self._abandoned: deque[Watched] = deque()

    def watch(self, owner: object, entries: list[Entry], reason: str) -> None:
        """Watch *owner*, which holds *entries*; takes no lock."""
        watched = Watched(owner, self._abandoned.append)
        watched.entries, watched.reason = entries, reason
        self._watched.add(watched)

    def take_abandoned(self) -> Iterator[Watched]:
        """Those that are gone. Each is forgotten after it was dealt with."""
        while self._abandoned:
            watched = self._abandoned[0]
            yield watched
            self._watched.discard(watched)
            self._abandoned.popleft()
