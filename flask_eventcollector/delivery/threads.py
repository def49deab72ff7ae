"""The library's own threads, in which waiting for the library would deadlock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .instrumentation import suppress_instrumentation_in_this_thread
from .process import current_process

T = TypeVar("T")

#: As it was when this module was loaded.
_LOCAL = threading.local


class PerThread(Generic[T]):
    """A value for each thread; once gevent has patched Python, for each greenlet.

    A ``threading.local`` from before that belongs to the native thread, in which all
    greenlets run. gunicorn's gevent workers patch after ``--preload`` has loaded the
    app.

    :param make: makes the value of a thread, when it is first asked for.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._locals: dict[type, threading.local] = {}

    def get(self) -> T:
        """The value of the current thread."""
        kind = threading.local
        local = self._locals.get(kind) or self._locals.setdefault(kind, kind())
        try:
            value: T = local.value
        except AttributeError:
            value = local.value = self._make()
        return value


def was_patched_late() -> bool:
    """Whether gevent has replaced ``threading.local`` since this module was loaded."""
    return threading.local is not _LOCAL


class OwnThread:
    """A daemon thread that runs *target* once.

    :param calls_user_code: whether it calls functions of the application, whose
        instrumentation remains then.
    """

    def __init__(
        self,
        target: Callable[[], object],
        name: str,
        *,
        calls_user_code: bool = False,
    ) -> None:
        self._target = target
        self.name = name
        self._calls_user_code = calls_user_code
        self._thread = self._new()

    def _new(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Start it, unless it was started already.

        :raises RuntimeError: the machine has no more threads, or the interpreter is
            shutting down. A later call tries again.
        """
        if self.was_started:
            return
        try:
            self._thread.start()
        except RuntimeError:
            # Python 3.13 never starts this object again.
            self._thread = self._new()
            raise

    @property
    def was_started(self) -> bool:
        """Whether it has been started, even if it has ended."""
        return self._thread.ident is not None

    @property
    def is_alive(self) -> bool:
        """Whether it has been started, and has not ended."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> bool:
        """Wait for its end, at most *timeout* seconds; returns whether it has ended.

        It does not wait for itself.
        """
        if self.is_alive and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self.is_alive

    def _run(self) -> None:
        note_own_thread()
        if not self._calls_user_code:
            suppress_instrumentation_in_this_thread()
        self._target()


class _Own:
    """What each thread knows about itself."""

    #: The process whose library has started the thread; ``None``: it was not the
    #: library. The only thread of a forked child is a copy of the one that forked.
    process: tuple[int, int] | None = None
    #: While the thread holds this lock, it does a broker's work.
    turn: threading.RLock | None = None


_own = PerThread(_Own)


def note_own_thread() -> None:
    """Mark the current thread as one of the library's, until it ends."""
    _own.get().process = current_process()


def note_turn(lock: threading.RLock) -> None:
    """Note that the current thread does a broker's work while it holds *lock*."""
    _own.get().turn = lock


def holds(lock: threading.RLock) -> bool:
    """Whether this thread is inside the section that *lock* guards.

    If so, the caller is a destructor or a signal handler that interrupted the section,
    so the guarded state may be inconsistent.
    """
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


def call_holding(
    lock: threading.RLock, timeout: float, work: Callable[[], object]
) -> bool:
    """Call *work* while holding *lock*, if that is free within *timeout* seconds.

    Returns whether it was. A ``with`` block has no timeout; and an exception of a
    signal handler between ``acquire()`` and ``try`` would leave the lock locked.
    """
    if holds(lock):
        work()
        return True
    try:
        acquired = lock.acquire(timeout=timeout)
        if acquired:
            work()
            lock.release()
        return acquired
    except BaseException:
        if holds(lock):
            lock.release()
        raise


def is_own_thread() -> bool:
    """Whether the current thread would wait for itself.

    A destructor or a signal receiver may call the library in any thread.
    """
    own = _own.get()
    if own.turn is not None and holds(own.turn):
        return True
    return own.process is not None and own.process == current_process()
