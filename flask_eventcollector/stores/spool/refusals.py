"""Leaves the last refusals beside a spool file, where the command line finds them."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...delivery.ledger import Ledger
from ...delivery.refusals import Refusal
from ...events import Target
from .folder import NEW_REFUSALS, REFUSALS

#: Seconds between two writes.
INTERVAL = 1.0
#: The most characters of a reason that are kept.
_LONGEST = 500
#: The most bytes that are read of such a file.
_MOST_BYTES = 4 * 1024 * 1024


class RefusalsFile:
    """The refusals of the events in one spool file that this process has locked.

    They are information, not state: nothing waits for the disk, nothing is lost without
    them, and they are written only when they change, at most once a second.
    """

    def __init__(self, path: Path, journal: object) -> None:
        self._path = path
        self._journal = journal
        self._version = 0
        self._has_written = False
        self._next = float("-inf")

    def write(self, ledger: Ledger, *, at_last: bool = False) -> None:
        """Write the refusals if they have changed; never raises because of the disk."""
        now = time.monotonic()
        if now < self._next and not at_last:
            return
        version, refusals = ledger.refusals(self._journal, self._version)
        if version == self._version:
            return
        self._version, self._next = version, now + INTERVAL
        if refusals or self._has_written:
            # Until then, what an earlier owner of the file has left still holds.
            self._has_written = True
            with suppress(OSError):
                _write(self._path, refusals)


class KnownRefusals:
    """What the processes of some spool files have left about refusals."""

    def __init__(self, paths: Iterable[Path]) -> None:
        refusals = [refusal for path in paths for refusal in _read(path)]
        refusals.sort(key=lambda refusal: refusal.last_try)
        self._by_id = {refusal.id: refusal for refusal in refusals}
        self._by_target = {Target(r.exchange, r.queue): r for r in refusals}

    def of(self, id: str, target: Target) -> Refusal | None:
        """The last refusal of the event *id*, or else of another for its *target*."""
        return self._by_id.get(id) or self.last_for(target)

    def last_for(self, target: Target) -> Refusal | None:
        """The last refusal of an event for *target*."""
        return self._by_target.get(target)

    @property
    def reasons(self) -> dict[Target, str]:
        """The last reason for each target."""
        return {target: refusal.reason for target, refusal in self._by_target.items()}


def _write(path: Path, refusals: list[Refusal]) -> None:
    if not refusals:
        os.unlink(f"{path}{REFUSALS}")
        return
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW
    rows = [r._replace(reason=r.reason[:_LONGEST])._asdict() for r in refusals]
    descriptor = os.open(f"{path}{NEW_REFUSALS}", flags, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(rows, file)
    # A reader never sees a part of it.
    os.replace(f"{path}{NEW_REFUSALS}", f"{path}{REFUSALS}")


def _read(path: Path) -> list[Refusal]:
    name = f"{path}{REFUSALS}"
    with suppress(OSError), open(name, "rb", opener=_open_plainly) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return _parse(file.read(_MOST_BYTES))
    return []


def _open_plainly(path: str, flags: int) -> int:
    """Open what should be a regular file, without waiting for anything else."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _parse(text: bytes) -> list[Refusal]:
    """The refusals in a file, which anything may have damaged."""
    with suppress(ValueError, TypeError, KeyError):
        return [
            Refusal(
                id=str(row["id"]),
                exchange=str(row["exchange"]),
                queue=str(row["queue"]),
                reason=str(row["reason"]),
                attempts=int(row["attempts"]),
                last_try=float(row["last_try"]),
                next_try=None if row["next_try"] is None else float(row["next_try"]),
            )
            for row in json.loads(text)
        ]
    return []
