"""Checks the host: how the app's server is started, its limits, and its clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # pragma: no cover - Windows
    resource = None  # type: ignore[assignment]

from .case import Case
from .findings import Finding, ok, problem, warning
from .servers import Gunicorn, command_lines, gunicorn

#: The fewest file descriptors that a worker should have: for the broker, the database,
#: clients, and three for each spool file that it adopts.
_FEWEST_FILES = 256
#: Seconds of the beginning of 2025: no machine's clock is right before that.
_EARLIEST = 1_735_689_600
#: Seconds by which a file may be newer than now.
_FUTURE = 60.0


def server(case: Case) -> Iterator[Finding]:
    """Whether the server ends workers before the library is done."""
    # uWSGI without threads is no case here: init_app() refuses it.
    found = gunicorn(command_lines(iter(case.processes())))
    fits = f"gunicorn's settings fit ({found.source})" if found.source else _NONE
    yield from [*_gunicorn(case, found)] or [ok(fits)]


_NONE = "no traps are known; of gunicorn, nothing can be seen from here"


def _gunicorn(case: Case, found: Gunicorn) -> Iterator[Finding]:
    config = case.config
    wait = max(config.confirm_timeout, config.reconnect_timeout)
    if not found.source:
        return
    if found.worker_class == "sync" and 0 < found.timeout <= wait + 1:
        yield problem(
            f"gunicorn ends a worker after {found.timeout:g} s ({found.source}), but a"
            f" request may wait {wait:g} s for the broker",
            "raise --timeout, or lower EVENTCOLLECTOR_CONFIRM_TIMEOUT and"
            " EVENTCOLLECTOR_RECONNECT_TIMEOUT",
        )
    if found.graceful_timeout <= config.shutdown_timeout:
        yield warning(
            f"gunicorn kills a worker {found.graceful_timeout:g} s after it was told to"
            f" end ({found.source}), but the last flush may take"
            f" {config.shutdown_timeout:g} s",
            "raise --graceful-timeout, or lower EVENTCOLLECTOR_SHUTDOWN_TIMEOUT",
        )


def fork(case: Case) -> Iterator[Finding]:
    """Whether events are enqueued while the app is created, before workers fork."""
    if case.state.delivery_if_used() is not None:
        yield warning(
            "an event is enqueued while the app is created: with gunicorn --preload, or"
            " uWSGI without --lazy-apps, it belongs to the master process, which then"
            " has a connection of its own",
            "enqueue it in a request or a command",
        )


def files(case: Case) -> Iterator[Finding]:
    """Whether processes may open enough files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    full = [*_full(case.processes())]
    if 0 <= limit < _FEWEST_FILES:
        yield warning(
            f"a process may open {limit} files here, and each connection is one",
            f"raise the limit to {_FEWEST_FILES} at least (ulimit -n)",
        )
    yield from full
    if not (full or 0 <= limit < _FEWEST_FILES):
        yield ok(f"a process may open {limit} files")


def _full(processes: set[int]) -> Iterator[Finding]:
    for process in sorted(processes):
        with suppress(OSError, ValueError):
            count = len(os.listdir(f"/proc/{process}/fd"))
            limits = Path(f"/proc/{process}/limits").read_text()
            (line,) = (n for n in limits.splitlines() if n.startswith("Max open files"))
            most = int(line.split()[3])
            if count > 0.8 * most:
                yield problem(
                    f"process {process} has opened {count} of {most} files",
                    "find what it leaves open, or raise the limit (ulimit -n)",
                )


def clock(case: Case) -> Iterator[Finding]:
    """Whether the clock may be right: expiry and delays go by it."""
    now, newest = time.time(), max(_times(case), default=0.0)
    if now < _EARLIEST or newest > now + _FUTURE:
        why = f"a file was written {newest - now:.0f} s later than now"
        yield problem(
            f"this machine's clock is wrong: {why if newest > now else 'it is early'}",
            "synchronise it by NTP; events expire, and delayed ones are sent, by it",
        )
    else:
        yield ok("the clock may be right")


def _times(case: Case) -> Iterator[float]:
    """When files of the app were written."""
    spool = case.state.spool_folder()
    folders = [spool.path if spool else None, case.config.history_dir]
    for folder in filter(None, folders):
        with suppress(OSError):
            for entry in os.scandir(folder):
                with suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_mtime
