"""Keeps forks apart from what a child could not go on after.

A child inherits the locks that other threads hold at the fork, and nobody will release
them. If a thread writes to a stream just then, that is the lock of the stream's buffer,
and the child hangs at its own first write: Python mends the locks of `logging` in a
child, but not those of `io` (https://github.com/python/cpython/issues/50970). If a
thread is inside SQLite, those are SQLite's global mutexes, and the child hangs when it
opens a file (https://www.sqlite.org/howtocorrupt.html, section 2.6). The library's
threads do both at times that the application does not choose, so they must not do it
during its forks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: In seconds: how long a fork and what it must not interrupt wait for each other at
#: most. A handler or a disk that hangs must not hold up forks.
LIMIT = 1.0

_PAUSE = 0.001

# Plain dictionaries, since a lock might be held at the fork, or be met by a destructor
# that logs. Each side first says that it begins and then looks at the other.
#: The threads that must not be interrupted, by a key for each occasion.
_busy: dict[object, int] = {}
#: The threads that fork.
_forking: dict[int, None] = {}


@contextmanager
def no_fork() -> Iterator[None]:
    """Let no thread fork the process meanwhile. May block for :data:`LIMIT`."""
    key = object()
    try:
        _begin(key)
        yield
    finally:
        _busy.pop(key, None)


def _begin(key: object) -> None:
    me = threading.get_ident()
    deadline = time.monotonic() + LIMIT
    _busy[key] = me
    while any(thread != me for thread in list(_forking)):
        if time.monotonic() > deadline:
            return
        del _busy[key]
        time.sleep(_PAUSE)
        _busy[key] = me


def _before_fork() -> None:
    me = threading.get_ident()
    deadline = time.monotonic() + LIMIT
    _forking[me] = None
    while any(thread != me for thread in list(_busy.values())):
        if time.monotonic() > deadline:
            return
        time.sleep(_PAUSE)


def _after_fork() -> None:
    _forking.pop(threading.get_ident(), None)


def _in_child() -> None:
    # The other threads are gone.
    _forking.clear()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child
    )
