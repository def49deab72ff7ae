"""Delivers the events that dead processes have left in their files."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable

from ...delivery.entries import PURGED, Entry
from ...delivery.forks import no_fork
from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK, PeriodicWorker, drain
from ...delivery.signal import Signal
from ...delivery.store import StoreProblem
from ...delivery.threads import is_own_thread
from ...events import Target
from ...messages.wording import counted
from ..circuit_breaker import CircuitBreaker
from .control import ControlRequest, Expected, apply, pending_request, withdraw
from .files import close, write_rows
from .folder import Claim, Folder, ForeignFile
from .journal import NewerVersion, is_damage
from .orphan import CopiedFile, Orphan, Room, open_sound
from .quarantine import Quarantine
from .siblings import Siblings
from .strays import Strays
from .writer import LONGEST_WAIT

#: Seconds between two scans for files of dead processes.
SCAN_INTERVAL = 10.0
#: The most events and bytes of dead processes in memory at the same time, without what
#: is delayed.
PAGE, PAGE_BYTES = 2_000, 8 * 1024 * 1024
#: The most files of dead processes that are open at the same time.
_MOST_FILES = 16


class Adopter:
    """The thread that reads the files of dead processes.

    It is separate from the writer's, since checking a large file takes seconds, and a
    damaged one takes longer. Callers that wait for the writer must not wait for that.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Folder,
        quarantine: Quarantine,
        siblings: Siblings,
        *,
        page: tuple[int, int],
        full_sync: bool,
        name: str,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._quarantine = quarantine
        self._siblings = siblings
        #: The most events and bytes in memory at the same time.
        self._page, self._page_bytes = page
        self._full_sync = full_sync
        self._worker = PeriodicWorker(
            self._run_once, self._on_stop, f"eventcollector-adopter-{name}"
        )
        self._wake_others: Callable[[], object] = lambda: None
        self._scans: deque[Signal] = deque()
        #: Files whose events stay in them until they are delivered.
        self._orphans: list[Orphan] = []
        #: Files whose events are copied into this process's own file.
        self._copied: list[CopiedFile] = []
        #: Files that were copied to make room.
        self._guests: set[Entry] = set()
        self._next_scan = 0.0
        self._started_at = 0.0
        self._has_scanned = False
        #: Whether dead processes have left more files than can be open.
        self._are_more = False
        self._erase_breaker = CircuitBreaker("erasing")
        self._read_breaker = CircuitBreaker("reading")
        self._strays = Strays(folder)
        self._expected = Expected()

    # Called in any thread.

    def start(self, wake_others: Callable[[], object]) -> None:
        """Start; calls *wake_others* when there are new events."""
        self._wake_others = wake_others
        self._started_at = time.monotonic()
        self._worker.start()

    def scan(self, timeout: float) -> bool:
        """Scan now; waits at most *timeout* seconds.

        Returns whether a scan has completed, now or earlier, and all files could be
        read.
        """
        if not self._worker.is_running:
            return True
        done = Signal()
        self._scans.append(done)
        self._worker.wake()
        if not is_own_thread():
            done.wait(timeout)
        return self._has_scanned and self._read_breaker.problem is None

    def wait_for_first_scan(self) -> None:
        """Wait for the first scan, but at most until one second after the start."""
        left = self._started_at + LONGEST_WAIT - time.monotonic()
        if not self._has_scanned and left > 0:
            self.scan(left)

    def wake(self) -> None:
        """Check now for rows to erase, and for room to read more."""
        self._worker.wake()

    def request_stop(self) -> None:
        """Stop adopting."""
        self._worker.request_stop()

    def stop(self, timeout: float) -> None:
        """Leave the files to the next process; waits at most *timeout* seconds."""
        self._worker.stop(timeout)

    @property
    def erase_at(self) -> int:
        """How many rows to erase justify a run."""
        # A finished file makes room for another one.
        return 1 if self._are_more else max(1, self._page // 2)

    @property
    def problems(self) -> list[StoreProblem]:
        """Why files could not be read, or rows could not be erased."""
        problems = (self._erase_breaker.problem, self._read_breaker.problem)
        found = [problem for problem in problems if problem is not None]
        return found + self._strays.problems

    @property
    def strays(self) -> tuple[int, int]:
        """How many orphans are for another broker, or of an app without a process.

        The second figure is how many events they have, as far as they can be read.
        """
        return len(self._strays.files), self._strays.events

    # One run. Nothing below is called by other threads.

    @no_fork()
    def _run_once(self) -> float:
        scans = drain(self._scans)
        try:
            self._update_rows()
            for orphan in self._orphans:
                orphan.refusals.write(self._ledger)
            applied = self._apply_requests()
            self._finish_orphans()
            self._make_room()
            self._find_files(now=bool(scans))
            found = self._adopt()
            self._has_scanned = True
            pause = self._siblings.run(file.claim.path for file in self._files)
        finally:
            for scan in scans:
                scan.set()
        if found or applied:
            self._wake_others()
            return 0.0
        return min(pause, TICK, self._expected.pause)

    def _update_rows(self) -> None:
        """Update the rows whose events have changed."""
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

    # Requests from the command line.

    def _apply_requests(self) -> bool:
        """Apply requests; returns whether rows may have to be updated."""
        applied = False
        for file in self._files:
            request = pending_request(file.claim.path)
            if request is None:
                continue
            apply(request, self._ledger)
            self._expected.note()
            if isinstance(file, Orphan):
                self._apply_to_unadopted(request, file)
            applied |= withdraw(file.claim.path, request)
        return applied

    def _apply_to_unadopted(self, request: ControlRequest, orphan: Orphan) -> None:
        """Apply a request to events that are only on disk, unknown to the ledger."""
        try:
            if request.action == "retry":
                orphan.revive(request.ids)
            elif request.action == "purge":
                erased = orphan.erase(request.ids)
                self._ledger.drop_unadopted(erased, PURGED, self._count_unadopted())
            elif request.action == "redirect":
                orphan.redirect(request.ids, request.queue)
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
        try:
            self._claim_files()
            self._strays.scan()
        except OSError as error:
            self._read_breaker.record_failure(error)

    def _claim_files(self) -> None:
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
    def _files(self) -> list[Orphan | CopiedFile]:
        return [*self._orphans, *self._copied]

    @property
    def _damaged(self) -> list[CopiedFile]:
        return [copied for copied in self._copied if copied.damage]

    # Making room, since files would stay open while a queue is missing.

    def _make_room(self) -> None:
        """Copy events that wait long, or are dead, into this process's own file."""
        if not self._are_more or self._has_room():
            return
        before = time.monotonic() - SCAN_INTERVAL
        for orphan in list(self._orphans):
            # A file with damaged rows is quarantined when it is finished.
            if orphan.opened_at <= before and not (orphan.unadopted or orphan.damaged):
                self._copy_if_small(orphan)

    def _copy_if_small(self, orphan: Orphan) -> None:
        guests = {e for e in self._guests | orphan.entries if e.state.alive}
        size = sum(entry.event.size for entry in guests)
        if len(guests) > self._page or size > self._page_bytes:
            # Copied events stay in memory, which new events also need.
            return
        self._guests = guests
        self._copy(orphan)

    def _copy(self, orphan: Orphan, damage: str = "") -> None:
        """Copy what was read from *orphan* into the own file; close *orphan*."""
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
            # The error may be temporary.
            self._read_breaker.record_failure(error)
            claim.release()
        except ForeignFile as error:
            self._quarantine.add(claim, str(error), 0)
        except NewerVersion as error:
            self._quarantine.skip(claim, str(error))

    def _open(self, claim: Claim) -> None:
        journal = open_sound(claim.path, full_sync=self._full_sync)
        if journal is None:
            # Its process ended before it had written anything.
            claim.remove()
            return
        try:
            self._orphans.append(Orphan(claim, journal))
        except BaseException:
            journal.close()
            raise

    # Reading files.

    def _adopt(self) -> bool:
        """Read a page of the events on disk; returns whether there were any."""
        found = 0
        for orphan in list(self._orphans):
            found += self._read_orphan(orphan)
        for copied in list(self._copied):
            found += self._read_copied(copied)
        return bool(found)

    def _share(self) -> int:
        """How many events of one target, or of one damaged file, may be in memory."""
        sharing = sum(orphan.targets for orphan in self._orphans) + len(self._damaged)
        return max(1, self._page // max(1, sharing))

    def _room(self) -> tuple[int, int]:
        """How many events and bytes may be read into memory now."""
        events, size = self._ledger.free()
        return (events + 1) // 2, min(self._page_bytes, (size + 1) // 2)

    def _read_orphan(self, orphan: Orphan) -> int:
        entries: list[Entry] = []
        damage = None
        count, size = self._room()
        # They may wait for days, while there must be room for new events.
        for_delayed = Room(*self._ledger.free_for_rows())
        put_off = orphan.put_off
        try:
            entries += orphan.read(self._share(), count, size, for_delayed)
        except sqlite3.Error as error:
            self._read_breaker.record_failure(error)
            damage = error if is_damage(error) else None
        # What was read before the error is used.
        self._ledger.adopt(entries, self._count_unadopted())
        if damage is not None:
            self._copy(orphan, str(damage))
        # There may be more behind what was put off.
        return len(entries) + max(0, orphan.put_off - put_off)

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
            # Their number is unknown.
            unadopted[None] = 1
        return unadopted

    # Closing files.

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

    @no_fork()
    def _on_stop(self) -> None:
        self._erase_breaker.reset()
        self._update_rows()
        for orphan in self._orphans:
            close(orphan.claim, orphan.journal)
        for copied in self._copied:
            # The last run has closed those that are finished. What was not copied from
            # the others is still in them, for the next process.
            with self._ledger.writing(copied, copied.entries):
                copied.claim.release()
