"""Wakes the I/O thread from any other thread, even from a destructor."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress


class Waker:
    """A pipe that is shared by a broker's successive connections.

    pika's own mechanism takes a lock. A destructor that the garbage collector runs in
    the thread that holds the lock would deadlock.
    """

    def __init__(self) -> None:
        self._reader: int | None = None
        self._writer: int | None = None
        #: Counts the calls of :meth:`clear`. A byte was sent in the round *woken in*.
        self._round = 0
        self._woken_in = -1

    def open(self) -> int:
        """The descriptor to listen to.

        :raises OSError: no file descriptors are left.
        """
        if self._reader is None:
            self._reader, self._writer = os.pipe()
            # The end of the process closes it; until then, it may be called.
            weakref.finalize(self, _close, self._reader, self._writer).atexit = False
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
        return self._reader

    def wake(self) -> None:
        """Wake the I/O thread; never blocks."""
        now = self._round
        if self._woken_in == now or self._writer is None:
            return
        # A full pipe wakes as well.
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")
        # Noted afterwards: a signal handler may have raised before.
        self._woken_in = now

    def clear(self) -> None:
        """Reset it. The I/O thread calls this before it looks for work."""
        if self._reader is not None:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)
        # Counted last: otherwise this would consume a byte that was sent for the next
        # round, in which no other would follow.
        self._round += 1


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
