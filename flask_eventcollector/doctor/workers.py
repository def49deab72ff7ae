"""Checks what the app's running processes know about themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from ..backlog.wording import age
from ..config.settings import PREFIX
from ..delivery.broker_status import describe
from ..events import BrokerState, Stats
from ..messages.wording import counted, waiting
from ..monitoring.health import health_of
from ..monitoring.history.records import Counts
from ..stores.spool.folder import holder_of
from ..stores.spool.strays import destination_name
from .case import LONG, LOOK, Case
from .findings import Finding, of_dead, ok, problem, split, warning
from .processes import environment, has_removed, is_stopped, named


def running(case: Case) -> Iterator[Finding]:
    """What keeps the running processes from sending. Takes some seconds if it must."""
    current = case.running()
    found = [finding for look in _LOOKS for finding in look(case, current)]
    yield from found or [ok(_known(case, current))]


def _known(case: Case, current: list[Counts]) -> str:
    """What can be seen of them at all."""
    if case.config.history_dir is None:
        return (
            "what they hold in memory, and whether they reach the broker, is not seen"
            " from here: EVENTCOLLECTOR_HISTORY_DIR is not set"
        )
    if not current:
        return "no process is seen that has had an event"
    return f"{_named(current)}: no trouble with the broker or the disk is reported"


# Those that do nothing.


def _stopped(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that a signal has stopped, and those that are silent."""
    silent = {counts.pid for counts in case.counts() if not counts.is_current}
    processes = case.processes() | silent
    stopped = {process for process in processes if is_stopped(process)}
    if stopped:
        yield problem(
            f"stopped by a signal or a debugger, so nothing is sent: {named(stopped)}",
            f"kill -CONT {' '.join(map(str, sorted(stopped)))}",
        )
    for process in sorted(silent - stopped):
        yield problem(
            f"process {process} is running, but says nothing any more: it hangs, or it"
            f" can't write to {case.config.history_dir}",
            f"see its log, and where it hangs ('py-spy dump --pid {process}'), then"
            " restart it",
        )


def _unread(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """The counts that can't be read."""
    history = case.history()
    if history is None:
        return
    with suppress(OSError):
        history.counts()
    for path, why in history.problems.items():
        reason, cure = split(why, "see its log")
        yield warning(f"{path.name} can't be read: {reason}", cure)


def _unheard(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those with a file in the spool that have not written any counts."""
    if case.config.history_dir is None or not _without_counts(case):
        return
    # A new one writes them within a second or so.
    time.sleep(LOOK)
    if unheard := _without_counts(case):
        yield warning(
            f"{case.config.history_dir} has nothing of {named(unheard)}, so what keeps"
            " it from sending is not seen",
            "see whether it can write there (its log says so), and restart it: it may"
            " have other settings, or the folder was removed",
        )


def _without_counts(case: Case) -> set[int]:
    return case.processes() - {counts.pid for counts in case.counts()}


def _bereft(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those whose files in the spool were removed while they use them."""
    files = case.state.spool_folder()
    processes = case.processes() if files else set[int]()
    bereft = {p for p in processes if files and has_removed(p, files.path)}
    if bereft:
        yield problem(
            f"somebody has removed spool files that {named(bereft)} still writes to, so"
            " what is in them is lost when it ends",
            "see by 'flask events top' that nothing waits there, then restart it",
        )


# Those that have other settings.


def _elsewhere(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that send to another broker than the one that is examined."""
    by_broker: dict[str, set[int]] = {}
    files = case.state.spool_folder()
    for path in files.other_files() if files else ():
        if process := holder_of(path):
            by_broker.setdefault(destination_name(path), set()).add(process)
    for broker, processes in by_broker.items():
        yield warning(
            f"{broker}, which is not the broker of these settings, gets the events of"
            f" {named(processes)}",
            "correct the settings here, or restart what has old ones; if it is another"
            " app, give each its own EVENTCOLLECTOR_SPOOL_NAME",
        )


def _otherwise(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that were started with another environment than this process."""
    by_names: dict[tuple[str, ...], set[int]] = {}
    for process in case.processes():
        if names := _differences(environment(process)):
            by_names.setdefault(names, set()).add(process)
    for names, processes in by_names.items():
        yield warning(
            f"{' and '.join(names)} is not the same here as in the environment of"
            f" {named(processes)}",
            "restart what has old settings, or correct them here and examine again",
        )


def _differences(theirs: dict[str, str]) -> tuple[str, ...]:
    """The settings that both environments have, with other values."""
    both = sorted(theirs.keys() & os.environ.keys())
    return tuple(
        name for name in both if PREFIX in name and theirs[name] != os.environ[name]
    )


# Those that can't do their work.


def _cut_off(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that can't use the broker."""
    if case.node is None:
        yield from _cut_off_as_well(current)
        return
    for error, theirs in _grouped(current, _broker_problem).items():
        yield problem(
            f"{_named(theirs)} can't use the broker, which lets this command in:"
            f" {error}",
            f"restart what has old settings or credentials{_unless_lost(theirs)};"
            " otherwise, it connects again by itself within"
            f" {age(case.config.retry_max_delay)}",
        )


def _cut_off_as_well(current: list[Counts]) -> Iterator[Finding]:
    """Those that can't use the broker either, and what waits there."""
    for error, theirs in _grouped(current, _broker_trouble).items():
        books = [counts.books for counts in theirs]
        held = sum(one.in_flight + one.retained for one in books)
        yield problem(
            f"{_named(theirs)} can't send, either: {error}; {waiting(held, 'event')}",
            "mend the broker first; they are sent by themselves then, or after a"
            f" restart if the settings were wrong{_unless_lost(theirs)}",
        )


def _broker_trouble(books: Stats) -> str:
    return describe(books.broker, books.broker_error) if books.broker.is_trouble else ""


def _broker_problem(books: Stats) -> str:
    is_cut_off = books.broker in (BrokerState.DOWN, BrokerState.STALLED)
    return (books.broker_error or "no response") if is_cut_off else ""


def _unless_lost(theirs: list[Counts]) -> str:
    """A warning of a restart that would lose events."""
    books = [counts.books for counts in theirs]
    held = sum(one.in_flight + one.retained + one.delayed for one in books)
    kept = sum(one.spooled + one.committed for one in books)
    lost = f" (the {counted(held - kept, 'event')} in memory would be lost)"
    return lost if held > kept else ""


def _broken(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that can't use their spool or their outbox."""
    for error, theirs in _grouped(current, _spool_problem).items():
        yield problem(f"{_named(theirs)}: the spool: {error}", _SEE.format("spool"))
    if case.state.has_outbox and not case.has_tables:
        # Another check has told that nobody can use it.
        return
    for error, theirs in _grouped(current, lambda books: books.outbox_error).items():
        yield problem(f"{_named(theirs)}: the outbox: {error}", _SEE.format("outbox"))


_SEE = "see what is said about the {} here, and the log of the process"


def _spool_problem(books: Stats) -> str:
    if books.unspooled:
        events = counted(books.unspooled, "event")
        return f"{books.spool_error} ({events} in memory only)"
    # Another check looks at the files themselves.
    return "" if books.strays or books.quarantined else books.spool_error


def _full(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that hold as much as they may."""
    limits = case.state.limits
    for what, theirs in _grouped(
        current, lambda books: health_of(books, limits, "").checks["backlog"].problem
    ).items():
        what, cure = split(what)
        yield problem(f"{_named(theirs)}: {what}", cure)


def _stuck(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Those that send nothing, though nothing is known that would keep them."""
    before = {c.pid: _ended(c.books) for c in current if _seems_stuck(c.books)}
    if not before or case.node is None:
        return
    time.sleep(LOOK)
    for counts in case.counts():
        books = counts.books
        if _seems_stuck(books) and before.get(counts.pid) == _ended(books):
            yield problem(
                f"process {counts.pid} sends nothing, and no reason is known:"
                f" {waiting(books.in_flight + books.retained, 'event')} there, the"
                f" oldest for {age(books.oldest_age)}",
                f"see its log, and what its threads do ('py-spy dump --pid"
                f" {counts.pid}'), then restart it",
            )


def _seems_stuck(books: Stats) -> bool:
    is_explained = books.broker.is_trouble or books.problem_targets
    return not is_explained and (books.oldest_age or 0.0) > LONG


def _ended(books: Stats) -> int:
    """How many events have reached a final state."""
    return books.confirmed + books.unrouted + books.dropped + books.dead


def _dead(case: Case, current: list[Counts]) -> Iterator[Finding]:
    """Dead events in memory; those elsewhere are counted where they are."""
    if case.config.backlog == "memory" and not case.state.has_outbox:
        for counts in current:
            if dead := counts.books.dead:
                yield of_dead(f"{counted(dead, 'event')} in process {counts.pid}")


_LOOKS: tuple[Callable[[Case, list[Counts]], Iterator[Finding]], ...] = (
    _stopped,
    _unread,
    _unheard,
    _bereft,
    _elsewhere,
    _otherwise,
    _cut_off,
    _broken,
    _full,
    _stuck,
    _dead,
)


def _grouped(
    found: Iterable[Counts], problem_of: Callable[[Stats], str]
) -> dict[str, list[Counts]]:
    """Those with a problem, by its text."""
    groups: dict[str, list[Counts]] = {}
    for counts in found:
        if what := problem_of(counts.books):
            groups.setdefault(what, []).append(counts)
    return groups


def _named(counts: Iterable[Counts]) -> str:
    return named(one.pid for one in counts)
