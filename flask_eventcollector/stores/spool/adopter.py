"""Brings back what dead processes have left in their files."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable

from ...delivery.entries import Entry
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, PeriodicWorker, drain
from ...delivery.signal import Signal
from ...delivery.threads import is_own_thread
from ...events import Target
from ...messages.wording import counted
from .circuit_breaker import CircuitBreaker
from .control import ControlRequest, apply, pending_request, withdraw
from .files import close, write_rows
from .folder import Claim, Folder, ForeignFile
from .journal import NewerVersion, is_damage
from .orphan import CopiedFile, Orphan, open_sound
from .quarantine import Quarantine
from .writer import LONGEST_WAIT

#: Seconds between two looks for the files of dead processes.
SCAN_INTERVAL = 10.0
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
        quarantine: Quarantine,
        *,
        page: tuple[int, int],
        full_sync: bool,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._quarantine = quarantine
        #: Events and bytes that are in memory at the same time.
        self._page, self._page_bytes = page
        self._full_sync = full_sync
        self._worker = PeriodicWorker(
            self._run_once, self._on_stop, f"eventcollector-adopter-{name}"
        )
        self._wake_others: Callable[[], object] = lambda: None
        self._scans: deque[Signal] = deque()
        #: Files whose events are sent in place.
        self._orphans: list[Orphan] = []
        #: Files whose events are written into the own file.
        self._copied: list[CopiedFile] = []
        #: What was copied to make room.
        self._guests: set[Entry] = set()
        self._next_scan = 0.0
        self._started_at = 0.0
        self._has_scanned = False
        #: Whether dead processes have left more files than may be open.
        self._are_more = False
        self._erase_breaker, self._read_breaker = CircuitBreaker(), CircuitBreaker()

    # What others call, in any thread.

    def start(self, wake_others: Callable[[], object]) -> None:
        """Begin; calls *wake_others* when there are new events."""
        self._wake_others = wake_others
        self._started_at = time.monotonic()
        self._worker.start()

    def scan(self, timeout: float) -> bool:
        """Look now; waits *timeout* seconds at most.

        Returns whether it has looked, at least before, and could read all files.
        """
        if not self._worker.is_running:
            return True
        done = Signal()
        self._scans.append(done)
        self._worker.wake()
        if not is_own_thread():
            done.wait(timeout)
        return self._has_scanned and not self._read_breaker.error

    def wait_for_first_scan(self) -> None:
        """Wait until it has looked once, at most until a second after the start."""
        left = self._started_at + LONGEST_WAIT - time.monotonic()
        if not self._has_scanned and left > 0:
            self.scan(left)

    def wake(self) -> None:
        """Look now whether there is something to erase, or room to read on."""
        self._worker.wake()

    def request_stop(self) -> None:
        """Adopt no more."""
        self._worker.request_stop()

    def stop(self, timeout: float) -> None:
        """Leave the files to the next process, within *timeout* seconds."""
        self._worker.stop(timeout)

    @property
    def erase_at(self) -> int:
        """How many rows to erase are worth a round of their own."""
        # A file that has ended makes room for another one.
        return 1 if self._are_more else max(1, self._page // 2)

    @property
    def error(self) -> str:
        """Why a file could not be read, or a row not erased."""
        return self._erase_breaker.error or self._read_breaker.error

    # One round. Nothing below is called by another thread.

    def _run_once(self) -> float:
        scans = drain(self._scans)
        try:
            self._update_rows()
            applied = self._apply_requests()
            self._finish_orphans()
            self._make_room()
            self._find_files(now=bool(scans))
            found = self._adopt()
            self._has_scanned = True
        finally:
            for scan in scans:
                scan.set()
        if found or applied:
            self._wake_others()
            return 0.0
        return TICK

    def _update_rows(self) -> None:
        """Let the rows follow their events."""
        if self._erase_breaker.is_open:
            return
        self._erase_breaker.record_success()
        for orphan in list(self._orphans):
            try:
                with self._ledger.writing(orphan.journal) as write:
                    write_rows(orphan.journal, write)
                for entry, state in write.followed:
                    orphan.follow(entry, state)
            except sqlite3.Error as error:
                self._erase_breaker.record_failure(error)
                if is_damage(error):
                    self._copy(orphan, str(error))

    # What the command line asks for.

    def _apply_requests(self) -> bool:
        """Do what is asked; returns whether rows may have to follow."""
        applied = False
        files: list[Orphan | CopiedFile] = [*self._orphans, *self._copied]
        for file in files:
            request = pending_request(file.claim.path)
            if request is None:
                continue
            apply(request, self._ledger)
            if isinstance(file, Orphan):
                self._apply_to_unadopted(request, file)
            applied |= withdraw(file.claim.path, request)
        return applied

    def _apply_to_unadopted(self, request: ControlRequest, orphan: Orphan) -> None:
        """The same for events that are on disk only, of which the ledger can't know."""
        try:
            if request.action == "retry":
                orphan.revive(request.ids)
            elif request.action == "purge":
                erased = orphan.erase(request.ids)
                notices = self._ledger.drop_unadopted(
                    erased, "purged", self._count_unadopted()
                )
                self._ledger.defer(notices)
        except sqlite3.Error as error:
            self._erase_breaker.record_failure(error)
            if is_damage(error):
                self._copy(orphan, str(error))

    # Finding files.

    def _find_files(self, *, now: bool) -> None:
        clock = time.monotonic()
        now = now or clock >= self._next_scan or (self._are_more and self._has_room())
        if not now:
            return
        self._next_scan = clock + SCAN_INTERVAL
        self._read_breaker.record_success()
        self._are_more = False
        for claim in self._folder.claim_orphans():
            if not self._has_room():
                claim.release()
                self._are_more = True
                return
            self._claim_file(claim)

    def _has_room(self) -> bool:
        """Whether another file may be opened."""
        return len(self._orphans) + len(self._damaged) < _MOST_FILES

    @property
    def _damaged(self) -> list[CopiedFile]:
        return [copied for copied in self._copied if copied.damage]

    # Making room, where a missing queue would keep the files open that wait for it.

    def _make_room(self) -> None:
        """Have what waits long, or is dead, written into the own file."""
        if not self._are_more or self._has_room():
            return
        before = time.monotonic() - SCAN_INTERVAL
        for orphan in list(self._orphans):
            # One that has damaged rows is quarantined in the end.
            if orphan.opened_at <= before and not (orphan.unadopted or orphan.damaged):
                self._copy_if_small(orphan)

    def _copy_if_small(self, orphan: Orphan) -> None:
        guests = {e for e in self._guests | orphan.entries if e.state.alive}
        size = sum(entry.event.size for entry in guests)
        if len(guests) > self._page or size > self._page_bytes:
            # They stay in memory, which new events need, too.
            return
        self._guests = guests
        self._copy(orphan)

    def _copy(self, orphan: Orphan, damage: str = "") -> None:
        """Have what came from *orphan* written into the own file, and let it go."""
        self._orphans.remove(orphan)
        orphan.journal.close()
        self._ledger.lost(orphan.journal)
        self._copied.append(CopiedFile(orphan.claim, orphan.entries, damage))

    def _claim_file(self, claim: Claim) -> None:
        if self._quarantine.is_skipped(claim.path):
            claim.release()
            return
        try:
            self._open(claim)
        except (OSError, sqlite3.Error) as error:
            if is_damage(error):
                self._copied.append(CopiedFile(claim, (), str(error)))
                return
            # It may pass.
            self._read_breaker.record_failure(error)
            claim.release()
        except ForeignFile as error:
            self._quarantine.add(claim, str(error), 0)
        except NewerVersion as error:
            self._quarantine.skip(claim, str(error))

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
        for copied in list(self._copied):
            found += self._read_copied(copied)
        return bool(found)

    def _share(self) -> int:
        """How many events of one target may be in memory, or of one damaged file."""
        sharing = sum(orphan.targets for orphan in self._orphans) + len(self._damaged)
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
            self._read_breaker.record_failure(error)
            damage = error if is_damage(error) else None
        # What was read before an error is here all the same.
        self._ledger.adopt(entries, self._count_unadopted())
        if damage is not None:
            self._copy(orphan, str(damage))
        return len(entries)

    def _read_copied(self, copied: CopiedFile) -> int:
        entries: list[Entry] = []
        count, size = self._room()
        try:
            entries += copied.read(min(count, self._share() - copied.here), size)
        except (OSError, sqlite3.Error) as error:
            self._read_breaker.record_failure(error)
        self._ledger.adopt(entries, self._count_unadopted())
        if copied.is_finished:
            self._copied.remove(copied)
            self._let_go(copied, copied.damage)
        return len(entries)

    def _count_unadopted(self) -> dict[Target | None, int]:
        unadopted: dict[Target | None, int] = {}
        for orphan in self._orphans:
            for target, count in orphan.unadopted.items():
                unadopted[target] = unadopted.get(target, 0) + count
        if self._are_more or any(not copied.is_read for copied in self._copied):
            # Nobody knows how many.
            unadopted[None] = 1
        return unadopted

    # Letting files go.

    def _finish_orphans(self) -> None:
        for orphan in list(self._orphans):
            if not orphan.is_finished:
                continue
            try:
                self._finish(orphan, empty=orphan.journal.is_empty())
            except sqlite3.Error as error:
                self._read_breaker.record_failure(error)
                if is_damage(error):
                    self._copy(orphan, str(error))

    def _finish(self, orphan: Orphan, *, empty: bool) -> None:
        self._orphans.remove(orphan)
        orphan.journal.close()
        damage = f"checksum mismatch in {counted(orphan.damaged, 'row')}"
        self._let_go(orphan, "" if empty else damage)

    def _let_go(self, file: Orphan | CopiedFile, damage: str) -> None:
        if damage:
            self._quarantine.add(file.claim, damage, file.rescued)
        else:
            file.claim.remove()

    def _on_stop(self) -> None:
        self._erase_breaker.reset()
        self._update_rows()
        for orphan in self._orphans:
            close(orphan.claim, orphan.journal)
        for copied in self._copied:
            if copied.is_finished:
                self._let_go(copied, copied.damage)
            else:
                copied.claim.release()
