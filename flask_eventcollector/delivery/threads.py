"""Tracks the library's own threads, in which waiting for the library would deadlock."""

from __future__ import annotations

import threading

from .process import current_process


class _OwnThread(threading.local):
    """What each thread knows about itself."""

    #: The process whose library has started the thread; ``None``: it was not the
    #: library. The only thread of a forked child is a copy of the one that forked.
    process: tuple[int, int] | None = None


_thread = _OwnThread()


def note_own_thread() -> None:
    """Mark the current thread as one of the library's, until it ends."""
    _thread.process = current_process()


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
    return _thread.process is not None and _thread.process == current_process()
