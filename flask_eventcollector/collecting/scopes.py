"""Finds the current collector, which is that of the innermost scope."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from ..delivery.records import Kind, log_record
from ..delivery.threads import PerThread
from .collector import Collector, CollectorLike, discard


class Scope:
    """A unit of work. Its collector is created on first use."""

    #: Its name in the log.
    kind = "thread"

    def __init__(self, scopes: Scopes) -> None:
        self.scopes = scopes
        #: Whether it was entered before this process was forked. The parent ends it, so
        #: probably nothing ends it here.
        self.is_inherited = False
        self._collector: Collector | None = None

    @property
    def used(self) -> bool:
        """Whether its collector was ever used."""
        return self._collector is not None

    @property
    def collector(self) -> Collector:
        """The collector of this unit of work."""
        if self._collector is None:
            self._collector = self.scopes.new_collector()
        return self._collector


class _Background:
    """Enters a block for code that the library calls."""


class Block(Scope):
    """The scope of one run of a ``with`` block.

    It ends when its owner leaves it, or at the latest when its owner is deleted: a
    signal handler may raise at the beginning of an ``__exit__()``, which is then over.
    """

    kind = "block"

    def __init__(self, scopes: Scopes, owner: object, outer: Block | None) -> None:
        super().__init__(scopes)
        #: Who entered the block, and may therefore leave it.
        self._owner = weakref.ref(owner)
        self._left = False
        self._outer = outer
        #: The request in which the block was entered. A request that starts inside the
        #: block, for example by a test client, is a separate scope.
        self.request = scopes.current_request()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._left or self._owner() is None

    def belongs_to(self, owner: object) -> bool:
        """Whether *owner* entered it."""
        return self._owner() is owner

    def leave(self) -> None:
        """Note that its owner has left it."""
        self._left = True

    def forget_if_abandoned(self) -> None:
        """Let go of the collector if nobody is left who may end the block."""
        if self._owner() is None:
            self._collector = None

    @property
    def outer(self) -> Block | None:
        """The enclosing block. Blocks in generators may end in any order."""
        outer = self._outer
        while outer is not None and outer.ended:
            outer = outer._outer
        self._outer = outer
        return outer

    def end(self, error: BaseException | None) -> None:
        """Publish what was collected, or discard it because of *error*."""
        collector = self.scopes.collector(self)
        if error is None:
            collector.publish()
        else:
            discard(collector, f"{type(error).__name__} was raised")


#: The innermost block of any app.
_innermost: ContextVar[Block | None] = ContextVar("eventcollector_block", default=None)


class Scopes:
    """The scopes of one app.

    *current_request* returns the scope of the app's current request, if there is one.
    *note_use* is called with the thread's collector before an event is put into it.
    Both isolate this class from Flask's context objects.
    """

    def __init__(
        self,
        new_collector: Callable[[], Collector],
        current_request: Callable[[], Scope | None],
        note_use: Callable[[CollectorLike], None],
    ) -> None:
        self.new_collector = new_collector
        self.current_request = current_request
        self._note_use = note_use
        #: A test's own collector, which replaces all others.
        self.double: CollectorLike | None = None
        self._threads = PerThread(partial(Scope, self))

    def current(self) -> CollectorLike:
        """The innermost scope's collector; outside of scopes, the thread's."""
        return self.collector(self.innermost() or self.thread())

    def receiving(self) -> CollectorLike:
        """The current collector, which is about to receive an event."""
        scope = self.innermost()
        if scope is None:
            collector = self.collector(self.thread())
            self._note_use(collector)
            return collector
        if scope.is_inherited:
            scope.is_inherited = False
            log_record(Kind.ENQUEUED_INHERITED, scope=scope.kind)
        return self.collector(scope)

    def collector_if_used(self, scope: Scope) -> CollectorLike | None:
        """The collector of *scope*; ``None``: it was never used."""
        used = scope.used or self.double is not None
        return self.collector(scope) if used else None

    def collector(self, scope: Scope) -> CollectorLike:
        """The collector of *scope*, or the double that replaces it."""
        return scope.collector if self.double is None else self.double

    def innermost(self) -> Scope | None:
        """The innermost block or request."""
        block, request = self._block(), self.current_request()
        if block is not None and (request is None or block.request is request):
            return block
        return request

    def thread(self) -> Scope:
        """This thread's own scope, which lives until the thread ends."""
        return self._threads.get()

    def enter(self, owner: object) -> Block:
        """Enter a block."""
        block = Block(self, owner, next(_blocks(), None))
        _innermost.set(block)
        return block

    @contextmanager
    def background(self) -> Iterator[None]:
        """Hand over what the block enqueues, without waiting for confirms.

        For code that the library calls: signal receivers, and logging handlers in the
        flusher's thread.
        """
        owner = _Background()
        block = self.enter(owner)
        try:
            yield
        finally:
            leave(owner)
            if block.used:
                block.collector.hand_over()

    def _block(self) -> Block | None:
        if _innermost.get() is None:
            return None
        return next((b for b in _blocks() if b.scopes is self), None)


def leave(owner: object) -> Block:
    """Leave the innermost block that *owner* entered, of any app."""
    block = next((b for b in _blocks() if b.belongs_to(owner)), None)
    if block is None:
        raise RuntimeError("this block was exited but never entered")
    block.leave()
    _innermost.set(next(_blocks(), None))
    return block


def _blocks() -> Iterator[Block]:
    """The blocks that have not ended, innermost first."""
    block = _innermost.get()
    if block is not None and block.ended:
        # It stays the innermost: a destructor may come here in the middle of a set() of
        # any context variable, and CPython before 3.12 crashes if another is set then.
        block.forget_if_abandoned()
        block = block.outer
    while block is not None:
        yield block
        block = block.outer


def _note_fork() -> None:
    for block in _blocks():
        block.is_inherited = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
