"""Checks the spool: its folder, its disk, and what is left in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..backlog.wording import age
from ..config.settings import choose_spool_dir
from ..config.spool_dir import check_spool_dir
from ..errors import ConfigurationError
from ..messages.wording import counted, waiting
from ..stores.spool.admin.reading import (
    Report,
    quarantined,
    report,
    reports,
    reports_of_apps,
    reports_of_others,
)
from ..stores.spool.folder import Folder
from ..stores.spool.refusals import KnownRefusals
from ..stores.spool.strays import destination_name, from_before, how_to_adopt
from .case import LONG, LOOK, Case
from .file_systems import (
    IN_MEMORY,
    OF_CONTAINER,
    OVER_NETWORK,
    existing,
    free_bytes,
    type_of,
)
from .findings import Finding, of_dead, ok, problem, split, warning
from .processes import is_stopped

_DIR = "EVENTCOLLECTOR_SPOOL_DIR"


def folder(case: Case) -> Iterator[Finding]:
    """Whether this user can keep events in the folder."""
    if case.config.backlog != "spool":
        return
    path = choose_spool_dir(case.config, case.app)
    try:
        check_spool_dir(path, _DIR)
    except ConfigurationError as error:
        yield problem(*split(str(error)))
        return
    yield ok(f"{path} can be written" if path.exists() else f"{path} can be created")


def disk(case: Case) -> Iterator[Finding]:
    """Whether the disk keeps events, and has room for them."""
    if case.config.backlog != "spool":
        return
    path = existing(choose_spool_dir(case.config, case.app))
    kind, free = type_of(path), free_bytes(path)
    yield from [*_kind(path, kind), *_room(case, path, free)] or [
        ok(f"{kind or 'unknown file system'}, {free >> 20} MiB free")
    ]


def _kind(path: Path, kind: str) -> Iterator[Finding]:
    if kind in IN_MEMORY:
        yield problem(
            f"{path} is in memory ({kind}), so events are lost when the machine"
            " restarts",
            f"set {_DIR} to a folder on a disk",
        )
    elif kind in OVER_NETWORK:
        yield problem(
            f"{path} is on a network file system ({kind}), where files may be damaged,"
            " and events sent twice",
            f"set {_DIR} to a folder on a local disk",
        )
    elif kind in OF_CONTAINER:
        yield warning(
            f"{path} is in a container's own layer ({kind}), which is removed with it",
            f"mount a volume, and set {_DIR} to a folder in it",
        )


def _room(case: Case, path: Path, free: int) -> Iterator[Finding]:
    needed = case.config.max_bytes
    if free < needed:
        yield problem(
            f"only {free >> 20} MiB are free at {path}, but one process may hold"
            f" {needed >> 20} MiB (EVENTCOLLECTOR_MAX_BYTES)",
            "free some space, or lower the limit",
        )


def left(case: Case) -> Iterator[Finding]:
    """What lies in the folder and is sent by nobody."""
    files = case.state.spool_folder()
    if files is None:
        if before := case.state.left_on_disk():
            yield problem(*split(from_before(before).text))
        return
    own = reports(files)
    found = [*_unsent(files), *_unread(files, own), *_without_process(case, own)]
    found += [*_late(case, own), *_dead(own)]
    yield from found or [ok("every file is read, and has a process that sends it")]


def _without_process(case: Case, own: Sequence[Report]) -> Iterator[Finding]:
    """What ended processes have left, if no other one is seen that would take it."""
    left = sum(file.waiting for file in own if not file.owner.alive)
    if left and not case.processes():
        wait = "waits" if left == 1 else "wait"
        yield warning(
            f"{counted(left, 'event')} of ended processes {wait}, and no process of"
            " this app is seen here that would send them",
            "start it, or run 'flask events flush'",
        )


def _late(case: Case, own: Sequence[Report]) -> Iterator[Finding]:
    """The files whose processes send nothing, and do not say why."""
    heard = {counts.pid for counts in case.running()}
    silent = (file for file in own if file.owner.process not in heard)
    before = [file for file in silent if _seems_late(file)]
    if not before or case.node is None:
        return
    time.sleep(LOOK)
    for file, now in ((file, report(file.path)) for file in before):
        if now is not None and _seems_late(now) and now.waiting >= file.waiting:
            yield problem(
                f"{now.owner} sends nothing of {file.path.name}:"
                f" {waiting(now.waiting, 'event')}, the oldest for"
                f" {age(now.oldest_age)}",
                "see its log: it may have old settings or credentials, or hang; set"
                " EVENTCOLLECTOR_HISTORY_DIR, and the doctor sees what it says",
            )


def _seems_late(file: Report) -> bool:
    """Whether its events should be sent, and were not refused."""
    # The age is the oldest event's, which may be dead or delayed as well.
    is_old = file.waiting and (file.oldest_age or 0.0) > LONG
    if not is_old or file.dead or file.delayed or not file.owner.alive:
        return False
    is_explained = is_stopped(file.owner.process) or KnownRefusals([file.path]).reasons
    return not is_explained


def _dead(own: Sequence[Report]) -> Iterator[Finding]:
    if count := sum(file.dead for file in own):
        yield of_dead(counted(count, "event"))


def _unsent(files: Folder) -> Iterator[Finding]:
    for broker, theirs in _by_broker(files).items():
        names = [file.path.name for file in theirs]
        where = names[0] if len(names) == 1 else f"{len(names)} files"
        cure = f"if the broker was moved, run {_adopting(files, names)}"
        yield from _readable(theirs, f"in {where} for {broker}", cure)
        yield from _left_unread(theirs, f"for {broker}", cure)
    for app, theirs in reports_of_apps(files).items():
        cure, whose = (
            f"if this app was renamed, run {how_to_adopt(app)}",
            f"app {app!r}",
        )
        yield from _readable(theirs, f"of {whose}, which has no process", cure)
        yield from _left_unread(theirs, f"of {whose}", cure)


def _by_broker(files: Folder) -> dict[str, list[Report]]:
    """The files of ended processes with events for other brokers."""
    found: dict[str, list[Report]] = {}
    for file in reports_of_others(files):
        if file.has_events and not file.owner.alive:
            found.setdefault(destination_name(file.path), []).append(file)
    return found


def _adopting(files: Folder, names: Sequence[str]) -> str:
    if len(names) > 1:
        return how_to_adopt(files.name)
    return f"'flask events adopt {names[0]}'"


def _readable(found: Sequence[Report], which: str, cure: str) -> Iterator[Finding]:
    if count := sum(file.waiting + file.dead for file in found):
        yield problem(f"nobody sends the {counted(count, 'event')} {which}", cure)


def _left_unread(found: Sequence[Report], which: str, cure: str) -> Iterator[Finding]:
    for name, reason, first in _unread_files(found):
        yield problem(
            f"nobody sends the events in {name} {which}, and it can't be read:"
            f" {reason}",
            f"{first}; then, {cure}",
        )


def _unread(files: Folder, own: Sequence[Report]) -> Iterator[Finding]:
    for unread in quarantined(files):
        yield problem(
            f"{Path(unread.path).name} is quarantined, so no process reads it",
            "see 'flask events quarantine list'",
        )
    for name, reason, cure in _unread_files(own):
        yield problem(f"{name} can't be read: {reason}", cure)


def _unread_files(found: Sequence[Report]) -> Iterator[tuple[str, str, str]]:
    """Those that can't be read: the name, the reason, and the cure."""
    for file in found:
        if file.problem is not None:
            yield file.path.name, *split(file.problem.reason, _OTHER_USER)


_OTHER_USER = "run this as the user that runs the app, or chown the file to that user"
