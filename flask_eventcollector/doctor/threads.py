"""Checks whether threads can work in the background."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

from ..delivery.threads import OwnThread, was_patched_late
from .case import Case
from .findings import Finding, ok, problem, warning

#: https://github.com/python/cpython/issues/113964
_NO_THREADS_AT_EXIT = ((3, 12, 0), (3, 12, 3))


def start(_: Case) -> Iterator[Finding]:
    """Whether a thread can be started."""
    thread = OwnThread(lambda: None, "eventcollector-doctor-probe")
    try:
        thread.start()
    except RuntimeError as error:
        yield problem(
            f"no thread can be started, so nothing is sent: {error}",
            "raise the limit of the user's processes (ulimit -u) or of the container's"
            " (pids); for uWSGI, add --enable-threads",
        )
        return
    thread.join(1.0)
    yield ok(f"can be started; {threading.active_count()} are running")


def patches(_: Case) -> Iterator[Finding]:
    """Whether gevent has patched the standard library before this one used it."""
    if was_patched_late():
        yield problem(
            "gevent has patched the standard library after Flask-EventCollector was"
            " imported, so waiting for confirms may block all greenlets",
            "call gevent.monkey.patch_all() before all other imports; for uWSGI, add"
            " --gevent-early-monkey-patch",
        )


def python(_: Case) -> Iterator[Finding]:
    """Whether this version of Python has a known fault with threads."""
    first, fixed = _NO_THREADS_AT_EXIT
    if first <= sys.version_info[:3] < fixed:
        yield warning(
            "Python 3.12.0 to 3.12.2 start no threads while a process ends, so the last"
            " events may be left",
            "upgrade Python to 3.12.3 or later",
        )
