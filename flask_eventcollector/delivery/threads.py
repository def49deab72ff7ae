"""Tracks the library's own threads, in which waiting for the library would deadlock."""

from __future__ import annotations

import threading

#: Their identifiers. Adding and removing is atomic.
_own: set[int] = set()


def note_own_thread() -> None:
    """Register the current thread as one of the library's."""
    _own.add(threading.get_ident())


def forget_own_thread() -> None:
    """Unregister the current thread, since its identifier may be reused."""
    _own.discard(threading.get_ident())


def holds(lock: threading.RLock) -> bool:
    """Whether this thread is inside the section that *lock* guards.

    If so, the caller is a destructor or a signal handler that interrupted the section,
    so the guarded state may be inconsistent.
    """
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


def is_own_thread() -> bool:
    """Whether the current thread would wait for itself.

    A destructor or a signal receiver may call the library in any thread.
    """
    return threading.get_ident() in _own
