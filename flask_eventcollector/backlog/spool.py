"""The backlog on disk: what is not confirmed outlives the process."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..entries import Entry, State
from ..events import Target
from ..ledger import Ledger
from ..rounds import TICK, Rounds
from . import SetAside
from .folder import Claim, Folder, why_not_ours
from .journal import Journal, NewerVersion, is_damage, was_begun
from .orphan import Orphan, Wreck
from .remote import take_back, wish_for
from .rows import row_of

#: Seconds that a caller waits for the disk, at most.
LONGEST_WAIT = 1.0
#: Seconds for which a disk that has failed is left alone, and nobody waits for it.
PAUSE = 1.0
#: Seconds between two looks for the files of dead processes.
LOOK_EVERY = 10.0
#: Events, and bytes, of dead processes that are in memory at the same time, at most.
PAGE, PAGE_BYTES = 2_000, 8 * 1024 * 1024
#: Rows that are written in one transaction, at most, beside what callers wait for.
_MOST_ROWS = 5_000
#: Files of dead processes that are open at the same time, at most.
_MOST_ORPHANS = 16


class _Request:
    """A caller that waits until its events are on disk."""

    def __init__(self, entries: Sequence[Entry] | None) -> None:
        #: ``None``: all that was handed over.
        self.entries = entries
        self.done = threading.Event()


class Spool:
    """Writes what waits into a file of this process, and adopts those of dead ones.

    All files are used by one thread. So no caller hangs with a disk that hangs, and
    what several callers want to be written goes into one transaction. A row is a
    record, not an owner: the event itself is in the ledger, which says its state.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        *,
        patience: float,
        page: tuple[int, int],
        full_sync: bool = False,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._full_sync = full_sync
        #: Seconds after which an event is written although nobody asks for it.
        self._patience = patience
        #: Events and bytes of dead processes that are in memory at the same time.
        self._page, self._page_bytes = page
        self._worker = Rounds(self._round, self._leave, f"eventcollector-spool-{name}")
        self._wake_broker: Callable[[], object] = lambda: None
        self._requests: deque[_Request] = deque()
        self._searches: deque[threading.Event] = deque()
        self._own: tuple[Claim, Journal] | None = None
        self._orphans: list[Orphan] = []
        self._wrecks: list[Wreck] = []
        self._next_look = 0.0
        #: Files that are left alone: of a newer version, or impossible to rename.
        self._left_alone: dict[str, str] = {}
        self._set_aside: deque[SetAside] = deque()
        self._set_aside_count = 0
        self._write_error = ""
        self._read_error = ""
        self._well_again_at = 0.0
        self._unread: Mapping[Target | None, int] = {}
        self._closed = False

    # What delivery calls, in any thread.

    def start(self, wake: Callable[[], object]) -> None:
        self._wake_broker = wake
        self._worker.start()

    def keep(self, entries: Sequence[Entry]) -> None:
        unkept = [e for e in entries if e.state.alive and not e.is_stored]
        if unkept:
            self._ask(_Request(unkept))

    def keep_all(self) -> None:
        self._ask(_Request(None))

    def catch_up(self) -> None:
        if len(self._ledger.outdated) >= max(1, self._page // 2):
            self._worker.wake()

    def search(self, timeout: float) -> None:
        if self._closed or not self._worker.is_running:
            return
        done = threading.Event()
        self._searches.append(done)
        self._worker.wake()
        done.wait(timeout)

    def close(self, timeout: float) -> None:
        self._closed = True
        self._worker.stop(timeout)

    def take_set_aside(self) -> list[SetAside]:
        return [self._set_aside.popleft() for _ in range(len(self._set_aside))]

    def figures(self) -> Mapping[str, Any]:
        left_alone = "; ".join(self._left_alone.values())
        return {
            "spool_error": self._write_error or self._read_error or left_alone,
            "unspooled": self._ledger.unstored() if self._write_error else 0,
            "set_aside": self._set_aside_count,
        }

    def _ask(self, request: _Request) -> None:
        if self._closed or not self._worker.is_running or self._is_ill():
            # Nobody waits again and again for a disk that fails. When it is well, what
            # is not there is written without being asked for.
            return
        self._requests.append(request)
        self._worker.wake()
        if not request.done.wait(LONGEST_WAIT):
            self._suffer(TimeoutError("the disk does not answer"))

    def _is_ill(self) -> bool:
        return time.monotonic() < self._well_again_at

    def _suffer(self, error: Exception) -> None:
        self._write_error = str(error)
        self._well_again_at = time.monotonic() + PAUSE

    # One round of the spool's own thread. Nothing below is called by another.

    def _round(self) -> float:
        requests = [self._requests.popleft() for _ in range(len(self._requests))]
        searches = [self._searches.popleft() for _ in range(len(self._searches))]
        self._fulfil_wishes()
        try:
            wrote_all = self._write(requests)
        finally:
            for request in requests:
                request.done.set()
        try:
            self._look(now=bool(searches))
            found = self._adopt()
        finally:
            for search in searches:
                search.set()
        if found:
            self._wake_broker()
        if found or not wrote_all:
            return 0.0
        return self._patience if self._ledger.unstored() and self._patience else TICK

    def _write(self, requests: Iterable[_Request]) -> bool:
        """Write what has to be written, and erase; returns whether that was all."""
        if self._is_ill():
            return True
        wanted: list[Entry] = []
        patience = self._patience
        for request in requests:
            if request.entries is None:
                patience = -1.0
            else:
                wanted += request.entries
        overdue = self._ledger.overdue(patience, _MOST_ROWS)
        outdated = self._take_outdated()
        try:
            self._store(dict.fromkeys([*wanted, *overdue]), outdated)
            self._follow(outdated)
            self._write_error = ""
        except (OSError, sqlite3.Error) as error:
            self._suffer(error)
        finally:
            self._ledger.outdated.extendleft(reversed(outdated))
        return len(overdue) < _MOST_ROWS

    def _store(self, entries: Iterable[Entry], outdated: list[Entry]) -> None:
        """Write *entries* into the own file, and let its rows follow *outdated*."""
        own = self._own_journal() if entries or self._own else None
        if own is None:
            return
        chosen = self._ledger.to_store(entries, own)
        mine = _rows_in(own, outdated)
        try:
            _update(own, chosen, mine)
        except sqlite3.Error as error:
            if is_damage(error):
                self._give_up_own(error)
            raise
        self._ledger.stored(chosen)
        _remove(outdated, mine)

    def _follow(self, outdated: list[Entry]) -> None:
        """Let the rows of dead processes' files follow *outdated*."""
        for orphan in list(self._orphans):
            rows = _rows_in(orphan.journal, outdated)
            # One that ends during the write may keep its row, and comes again.
            states = [entry.state for entry in rows]
            try:
                _update(orphan.journal, (), rows)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._wreck(orphan, str(error))
            for entry, state in zip(rows, states, strict=True):
                orphan.follow(entry, state)
            _remove(outdated, rows)
        # What is left are rows of files that were given up: they have nobody to follow.
        outdated.clear()

    def _take_outdated(self) -> list[Entry]:
        outdated = self._ledger.outdated
        return [outdated.popleft() for _ in range(len(outdated))]

    def _fulfil_wishes(self) -> None:
        """Do what the command line asks for, before the rows are written."""
        claims = [orphan.claim for orphan in self._orphans]
        if self._own is not None:
            claims.append(self._own[0])
        for claim in claims:
            wish = wish_for(claim.path)
            if wish is None:
                continue
            if wish.what == "retry":
                self._ledger.retry(wish.ids)
                self._wake_broker()
            elif wish.what == "purge":
                # The flusher tells it.
                self._ledger.news.extend(self._ledger.purge(wish.ids))
            take_back(claim.path)

    # The own file.

    def _own_journal(self) -> Journal:
        if self._own is None:
            self._folder.make()
            claim = self._folder.claim_new()
            try:
                journal = Journal.create(claim.path, full_sync=self._full_sync)
            except BaseException:
                claim.remove()
                raise
            self._own = (claim, journal)
        return self._own[1]

    def _give_up_own(self, error: Exception) -> None:
        """The own file is damaged: what it held is in memory, and goes into another."""
        if self._own is None:
            return
        (claim, journal), self._own = self._own, None
        rescued = self._ledger.stats().spooled
        journal.close()
        self._ledger.lost(journal)
        self._put_aside(claim, str(error), rescued)

    # The files of dead processes.

    def _look(self, *, now: bool) -> None:
        clock = time.monotonic()
        if self._closed or (clock < self._next_look and not now):
            return
        self._next_look = clock + LOOK_EVERY
        self._read_error = ""
        for claim in self._folder.claim_orphans():
            if len(self._orphans) + len(self._wrecks) >= _MOST_ORPHANS:
                claim.release()
                return
            self._begin_to_adopt(claim)

    def _begin_to_adopt(self, claim: Claim) -> None:
        if str(claim.path) in self._left_alone:
            claim.release()
            return
        try:
            self._open(claim)
        except (OSError, sqlite3.Error) as error:
            if is_damage(error):
                self._wrecks.append(Wreck(claim, str(error)))
                return
            # It may pass.
            self._read_error = str(error)
            claim.release()
        except NewerVersion as error:
            self._leave_alone(claim, str(error))

    def _open(self, claim: Claim) -> None:
        reason = why_not_ours(claim.path)
        if reason:
            self._put_aside(claim, reason, 0)
            return
        if not was_begun(claim.path):
            # Its process died before it had written anything.
            claim.remove()
            return
        journal = Journal.open(claim.path, full_sync=self._full_sync)
        try:
            journal.check()
            self._orphans.append(Orphan(claim, journal))
        except BaseException:
            journal.close()
            raise

    def _adopt(self) -> bool:
        """Bring in a page of what waits on disk; returns whether anything came."""
        found = 0
        for orphan in list(self._orphans):
            found += self._read_orphan(orphan)
        for wreck in list(self._wrecks):
            found += self._read_wreck(wreck)
        unread = self._count_unread()
        if unread != self._unread:
            self._unread = unread
            self._ledger.note_unread(unread)
        return bool(found)

    def _share(self) -> int:
        """How many events of one target may be in memory, or of one damaged file."""
        sharing = sum(orphan.targets for orphan in self._orphans) + len(self._wrecks)
        return max(1, self._page // max(1, sharing))

    def _room(self) -> tuple[int, int]:
        """How many events and bytes may be brought into memory now."""
        events, size = self._ledger.free()
        return (events + 1) // 2, min(self._page_bytes, (size + 1) // 2)

    def _read_orphan(self, orphan: Orphan) -> int:
        count, size = self._room()
        try:
            entries = list(orphan.read(self._share(), count, size))
        except sqlite3.Error as error:
            self._read_error = str(error)
            if is_damage(error):
                self._wreck(orphan, str(error))
            return 0
        for double in self._ledger.adopt(entries):
            # It is here already, from another file: its row here is one too many.
            double.state = State.DISCARDED
            self._ledger.outdated.append(double)
        if orphan.is_finished:
            self._finish(orphan)
        return len(entries)

    def _read_wreck(self, wreck: Wreck) -> int:
        count, size = self._room()
        entries: list[Entry] = []
        if not wreck.is_read:
            try:
                count = min(count, self._share() - wreck.here)
                entries += wreck.read(count, size)
            except (OSError, sqlite3.Error) as error:
                self._read_error = str(error)
                return 0
        wreck.forget(self._ledger.adopt(entries))
        if wreck.is_finished:
            self._wrecks.remove(wreck)
            self._put_aside(wreck.claim, wreck.reason, wreck.rescued)
        return len(entries)

    def _finish(self, orphan: Orphan) -> None:
        self._orphans.remove(orphan)
        empty = orphan.journal.is_empty()
        orphan.journal.close()
        if empty:
            orphan.claim.remove()
        else:
            reason = f"{orphan.damaged} row(s) are not what was written"
            self._put_aside(orphan.claim, reason, orphan.rescued)

    def _wreck(self, orphan: Orphan, reason: str) -> None:
        """A file turns out to be damaged while it is being read."""
        self._orphans.remove(orphan)
        orphan.journal.close()
        self._ledger.lost(orphan.journal)
        self._wrecks.append(Wreck(orphan.claim, reason))

    def _count_unread(self) -> dict[Target | None, int]:
        unread: dict[Target | None, int] = {}
        for orphan in self._orphans:
            for target, count in orphan.unread.items():
                unread[target] = unread.get(target, 0) + count
        if any(not wreck.is_read for wreck in self._wrecks):
            # Nobody knows how many.
            unread[None] = 1
        return unread

    def _put_aside(self, claim: Claim, reason: str, rescued: int) -> None:
        try:
            path = claim.set_aside()
        except OSError as error:
            self._leave_alone(claim, f"{reason}, and can't be renamed ({error})")
            return
        self._set_aside_count += 1
        self._set_aside.append(SetAside(path, reason, rescued))

    def _leave_alone(self, claim: Claim, reason: str) -> None:
        self._left_alone[str(claim.path)] = f"{claim.path.name}: {reason}"
        claim.release()

    # The end.

    def _leave(self) -> None:
        self._well_again_at = 0.0
        while not self._write([_Request(None)]) and not self._is_ill():
            pass
        self._adopt_no_more()
        if self._own is not None:
            (claim, journal), self._own = self._own, None
            _close(claim, journal)

    def _adopt_no_more(self) -> None:
        for orphan in self._orphans:
            _close(orphan.claim, orphan.journal)
        for wreck in self._wrecks:
            wreck.claim.release()
        self._orphans, self._wrecks = [], []


def _close(claim: Claim, journal: Journal) -> None:
    """Leave a file to the next process, or remove it if it has nothing to deliver."""
    try:
        empty = journal.is_empty()
    except sqlite3.Error:
        empty = False
    journal.close()
    if empty:
        claim.remove()
    else:
        claim.release()


def _rows_in(journal: Journal, entries: Iterable[Entry]) -> list[Entry]:
    return [e for e in entries if e.row is not None and e.row.journal is journal]


def _update(journal: Journal, new: Sequence[Entry], outdated: Sequence[Entry]) -> None:
    """Write new rows, and those whose events are dead or alive again; erase others."""
    living = dict.fromkeys(e for e in (*new, *outdated) if e.state.alive)
    rows = [row_of(e, e.row.number) for e in living if e.row is not None]
    ended = [e.row.number for e in outdated if e.row and not e.state.alive]
    if rows or ended:
        journal.write(rows, ended)


def _remove(entries: list[Entry], done: Sequence[Entry]) -> None:
    gone = set(done)
    entries[:] = [entry for entry in entries if entry not in gone]
