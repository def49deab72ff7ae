"""Brings back what dead processes have left in their files."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable

from ...delivery.entries import Entry
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, Rounds, take_all
from ...events import Target
from .circuit_breaker import Disk
from .control import Wish, fulfil, take_back, wish_for
from .folder import Claim, Folder, NotOurs
from .journal import NewerVersion, is_damage
from .orphan import Moved, Orphan, Wreck, open_sound
from .quarantine import Aside
from .updating import close, update

#: Seconds between two looks for the files of dead processes.
LOOK_EVERY = 10.0
#: Events, and bytes, of dead processes that are in memory at the same time, at most.
PAGE, PAGE_BYTES = 2_000, 8 * 1024 * 1024
#: Files of dead processes that are open at the same time, at most.
_MOST_FILES = 16


class Adopter:
    """The thread that uses the files of dead processes.

    It is another than the writer's, since a large file takes seconds to look through,
    and a damaged one longer: nobody who waits for the writer waits for that.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        aside: Aside,
        *,
        page: tuple[int, int],
        full_sync: bool,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._aside = aside
        #: Events and bytes that are in memory at the same time.
        self._page, self._page_bytes = page
        self._full_sync = full_sync
        self._rounds = Rounds(
            self._round, self._leave, f"eventcollector-adopter-{name}"
        )
        self._wake_others: Callable[[], object] = lambda: None
        self._searches: deque[threading.Event] = deque()
        self._orphans: list[Orphan] = []
        self._wrecks: list[Wreck] = []
        self._moved: list[Moved] = []
        #: What was moved into the own file.
        self._guests: set[Entry] = set()
        self._next_look = 0.0
        #: Whether dead processes have left more files than may be open.
        self._are_more = False
        self._erasing, self._reading = Disk(), Disk()

    # What others call, in any thread.

    def start(self, wake_others: Callable[[], object]) -> None:
        """Begin; calls *wake_others* when there are new events."""
        self._wake_others = wake_others
        self._rounds.start()

    def search(self, timeout: float) -> None:
        """Look now; waits *timeout* seconds at most."""
        if not self._rounds.is_running:
            return
        done = threading.Event()
        self._searches.append(done)
        self._rounds.wake()
        done.wait(timeout)

    def wake(self) -> None:
        """Look now whether there is something to erase, or room to read on."""
        self._rounds.wake()

    def stop_soon(self) -> None:
        """Adopt no more."""
        self._rounds.stop_soon()

    def stop(self, timeout: float) -> None:
        """Leave the files to the next process, within *timeout* seconds."""
        self._rounds.stop(timeout)

    @property
    def erase_at(self) -> int:
        """How many rows to erase are worth a round of their own."""
        # A file that has ended makes room for another one.
        return 1 if self._are_more else max(1, self._page // 2)

    @property
    def error(self) -> str:
        """Why a file could not be read, or a row not erased."""
        return self._erasing.error or self._reading.error

    # One round. Nothing below is called by another thread.

    def _round(self) -> float:
        searches = take_all(self._searches)
        try:
            self._follow()
            fulfilled = self._fulfil_wishes()
            self._finish_orphans()
            self._make_room()
            self._look(now=bool(searches))
            found = self._adopt()
        finally:
            for search in searches:
                search.set()
        if found or fulfilled:
            self._wake_others()
            return 0.0
        return TICK

    def _follow(self) -> None:
        """Let the rows follow their events."""
        if self._erasing.is_ill:
            return
        self._erasing.works()
        for orphan in list(self._orphans):
            try:
                for entry, state in update(self._ledger, orphan.journal):
                    orphan.follow(entry, state)
            except sqlite3.Error as error:
                self._erasing.fails(error)
                if is_damage(error):
                    self._wreck(orphan, str(error))

    # What the command line asks for.

    def _fulfil_wishes(self) -> bool:
        """Do what is asked; returns whether rows may have to follow."""
        fulfilled = False
        files: list[Orphan | Moved] = [*self._orphans, *self._moved]
        for file in files:
            wish = wish_for(file.claim.path)
            if wish is None:
                continue
            fulfil(wish, self._ledger)
            if isinstance(file, Orphan):
                self._fulfil_unread(wish, file)
            fulfilled |= take_back(file.claim.path, wish)
        return fulfilled

    def _fulfil_unread(self, wish: Wish, orphan: Orphan) -> None:
        """The same for events that are on disk only, of which the ledger can't know."""
        try:
            if wish.what == "retry":
                orphan.revive(wish.ids)
            elif wish.what == "purge":
                erased = orphan.erase(wish.ids)
                news = self._ledger.drop_unread(erased, "purged", self._count_unread())
                self._ledger.news.extend(news)
        except sqlite3.Error as error:
            self._erasing.fails(error)
            if is_damage(error):
                self._wreck(orphan, str(error))

    # Finding files.

    def _look(self, *, now: bool) -> None:
        clock = time.monotonic()
        now = now or clock >= self._next_look or (self._are_more and self._has_room())
        if not now:
            return
        self._next_look = clock + LOOK_EVERY
        self._reading.works()
        self._are_more = False
        for claim in self._folder.claim_orphans():
            if not self._has_room():
                claim.release()
                self._are_more = True
                return
            self._begin(claim)

    def _has_room(self) -> bool:
        """Whether another file may be opened."""
        return len(self._orphans) + len(self._wrecks) < _MOST_FILES

    # Making room, where a missing queue would keep the files open that wait for it.

    def _make_room(self) -> None:
        """Have what waits long, or is dead, written into the own file."""
        for moved in list(self._moved):
            if moved.is_finished:
                self._moved.remove(moved)
                moved.claim.remove()
        if not self._are_more or self._has_room():
            return
        before = time.monotonic() - LOOK_EVERY
        for orphan in list(self._orphans):
            # One that has damaged rows is to be set aside in the end.
            if orphan.opened_at <= before and not (orphan.unread or orphan.damaged):
                self._move(orphan)

    def _move(self, orphan: Orphan) -> None:
        guests = {e for e in self._guests | orphan.entries if e.state.alive}
        size = sum(entry.event.size for entry in guests)
        if len(guests) > self._page or size > self._page_bytes:
            # They stay in memory, which new events need, too.
            return
        self._guests = guests
        self._orphans.remove(orphan)
        self._moved.append(Moved(orphan))
        orphan.journal.close()
        # The writer writes them once more.
        self._ledger.lost(orphan.journal)

    def _begin(self, claim: Claim) -> None:
        if self._aside.is_left_alone(claim.path):
            claim.release()
            return
        try:
            self._open(claim)
        except (OSError, sqlite3.Error) as error:
            if is_damage(error):
                self._wrecks.append(Wreck(claim, str(error)))
                return
            # It may pass.
            self._reading.fails(error)
            claim.release()
        except NotOurs as error:
            self._aside.put(claim, str(error), 0)
        except NewerVersion as error:
            self._aside.leave_alone(claim, str(error))

    def _open(self, claim: Claim) -> None:
        journal = open_sound(claim.path, full_sync=self._full_sync)
        if journal is None:
            # Its process died before it had written anything.
            claim.remove()
            return
        try:
            self._orphans.append(Orphan(claim, journal))
        except BaseException:
            journal.close()
            raise

    # Reading files.

    def _adopt(self) -> bool:
        """Bring in a page of what waits on disk; returns whether anything came."""
        found = 0
        for orphan in list(self._orphans):
            found += self._read_orphan(orphan)
        for wreck in list(self._wrecks):
            found += self._read_wreck(wreck)
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
        entries: list[Entry] = []
        damage = None
        count, size = self._room()
        try:
            entries += orphan.read(self._share(), count, size)
        except sqlite3.Error as error:
            self._reading.fails(error)
            damage = error if is_damage(error) else None
        # What was read before an error is here all the same.
        self._ledger.adopt(entries, self._count_unread())
        if damage is not None:
            self._wreck(orphan, str(damage))
        return len(entries)

    def _read_wreck(self, wreck: Wreck) -> int:
        entries: list[Entry] = []
        count, size = self._room()
        try:
            entries += wreck.read(min(count, self._share() - wreck.here), size)
        except (OSError, sqlite3.Error) as error:
            self._reading.fails(error)
        wreck.forget(self._ledger.adopt(entries, self._count_unread()))
        if wreck.is_finished:
            self._wrecks.remove(wreck)
            self._aside.put(wreck.claim, wreck.reason, wreck.rescued)
        return len(entries)

    def _count_unread(self) -> dict[Target | None, int]:
        unread: dict[Target | None, int] = {}
        for orphan in self._orphans:
            for target, count in orphan.unread.items():
                unread[target] = unread.get(target, 0) + count
        if self._are_more or any(not wreck.is_read for wreck in self._wrecks):
            # Nobody knows how many.
            unread[None] = 1
        return unread

    # Letting files go.

    def _finish_orphans(self) -> None:
        for orphan in list(self._orphans):
            if not orphan.is_finished:
                continue
            try:
                self._finish(orphan, empty=orphan.journal.is_empty())
            except sqlite3.Error as error:
                self._reading.fails(error)
                if is_damage(error):
                    self._wreck(orphan, str(error))

    def _finish(self, orphan: Orphan, *, empty: bool) -> None:
        self._orphans.remove(orphan)
        orphan.journal.close()
        if empty:
            orphan.claim.remove()
        else:
            reason = f"{orphan.damaged} row(s) are not what was written"
            self._aside.put(orphan.claim, reason, orphan.rescued)

    def _wreck(self, orphan: Orphan, reason: str) -> None:
        """A file turns out to be damaged while it is being read."""
        self._orphans.remove(orphan)
        orphan.journal.close()
        self._ledger.lost(orphan.journal)
        self._wrecks.append(Wreck(orphan.claim, reason))

    def _leave(self) -> None:
        self._erasing.try_again()
        self._follow()
        for orphan in self._orphans:
            close(orphan.claim, orphan.journal)
        for wreck in self._wrecks:
            wreck.claim.release()
        for moved in self._moved:
            (moved.claim.remove if moved.is_finished else moved.claim.release)()
