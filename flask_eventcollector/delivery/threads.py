"""The library's own threads, in which nobody may wait for the library."""

from __future__ import annotations

import threading

#: Their identifiers. Adding and removing is atomic.
_own: set[int] = set()


def note_own_thread() -> None:
    """The current thread is one of the library's."""
    _own.add(threading.get_ident())


def forget_own_thread() -> None:
    """It ends; its identifier may be given to another thread."""
    _own.discard(threading.get_ident())


def holds(lock: threading.RLock) -> bool:
    """Whether this thread is in the middle of what *lock* guards.

    Then a destructor or a signal handler has interrupted it, and must not go on as if
    nothing was half done.
    """
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


def is_own_thread() -> bool:
    """Whether a wait here would be a wait for oneself.

    A destructor that the garbage collector runs, or a receiver, may call the library in
    any thread.
    """
    return threading.get_ident() in _own
