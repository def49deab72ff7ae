"""The rows of the outbox that this process holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...delivery.entries import Entry, Row, State
from ...delivery.ledger import Ledger
from ...events import Event


class HeldRows:
    """Their entries, by the rows' numbers, and the lease that all of them have.

    Only the store's thread uses it, except for :meth:`is_lapsed`.

    :param journal: the store, as the entries' rows name it.
    :param lease: seconds.
    """

    def __init__(self, ledger: Ledger, journal: object, lease: float) -> None:
        self._ledger = ledger
        self._journal = journal
        self._lease = lease
        self._entries: dict[int, Entry] = {}
        #: Those that :meth:`note_dead` was told of.
        self._dead: set[int] = set()
        #: How many others there are, and how many bytes their events have.
        self.count = self.size = 0
        #: When the first lease of a row ends.
        self._until = float("inf")
        #: When to renew the lease.
        self.renew_at = float("inf")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, seq: int) -> bool:
        return seq in self._entries

    def get(self, seq: int) -> Entry | None:
        """The entry of the row *seq*; ``None``: it is not held."""
        return self._entries.get(seq)

    def dead(self) -> dict[int, Entry]:
        """The entries that are dead. Nobody holds their rows, in fact."""
        return {n: e for n, e in self._entries.items() if e.state is State.DEAD}

    def sendable(self) -> dict[int, Entry]:
        """The other entries."""
        return {n: e for n, e in self._entries.items() if e.state is not State.DEAD}

    def hold(self, seq: int, event: Event, *, maybe_sent: bool = False) -> Entry:
        """A new entry for the row *seq*, to be adopted."""
        entry = self._entries[seq] = Entry(event)
        entry.row = Row(self._journal, seq, is_committed=True)
        entry.is_stored, entry.state = True, State.RETAINED
        entry.possible_duplicate = maybe_sent
        self.count += 1
        self.size += event.size
        return entry

    def note_dead(self, seqs: Iterable[int]) -> None:
        """These rows say by now that their events are dead."""
        for seq in (self._entries.keys() & seqs) - self._dead:
            self._dead.add(seq)
            self._discount(self._entries[seq])

    def leave(self, rows: Mapping[int, Entry]) -> list[int]:
        """Leave the events of *rows*, unless in flight; returns their numbers."""
        left = set(self._ledger.leave(rows.values()))
        seqs = [seq for seq, entry in rows.items() if entry in left]
        self.forget(seqs)
        return seqs

    def forget(self, seqs: Iterable[int]) -> None:
        """Hold these rows no more, if they are held: their events have ended."""
        for seq in self._entries.keys() & seqs:
            entry = self._entries.pop(seq)
            if seq in self._dead:
                self._dead.remove(seq)
            else:
                self._discount(entry)

    def _discount(self, entry: Entry) -> None:
        self.count -= 1
        self.size -= entry.event.size

    # The lease.

    def begin_lease(self, began: float) -> None:
        """Note when the lease of new rows has begun. The first to end counts."""
        if not self._entries:
            self._until = self.renew_at = float("inf")
        self._until = min(self._until, began + self._lease)
        self.renew_at = min(self.renew_at, began + self._lease / 3)

    def renewed(self, at: float) -> None:
        """Note that the lease of all rows has begun again."""
        self._until, self.renew_at = at + self._lease, at + self._lease / 3

    def is_lapsed(self, now: float) -> bool:
        """Whether another process may hold the rows; takes no lock."""
        return now >= self._until
