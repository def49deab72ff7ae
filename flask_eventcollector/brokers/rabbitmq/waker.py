"""Wakes the I/O thread from any other, also from a destructor."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress


class Waker:
    """A pipe that lives as long as the broker, from one connection to the next.

    pika's own way takes a lock: a destructor that the garbage collector runs while its
    thread holds that would wait for ever.
    """

    def __init__(self) -> None:
        self._reader: int | None = None
        self._writer: int | None = None
        self._woken = False

    def open(self) -> int:
        """The end to listen to. :raises OSError: there are no descriptors left."""
        if self._reader is None:
            self._reader, self._writer = os.pipe()
            weakref.finalize(self, _close, self._reader, self._writer)
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
        return self._reader

    def wake(self) -> None:
        """There is something to do; never blocks."""
        if self._woken or self._writer is None:
            return
        self._woken = True
        try:
            # A full pipe wakes as well.
            with suppress(BlockingIOError):
                os.write(self._writer, b"\0")
        except BaseException:
            self._woken = False
            raise

    def clear(self) -> None:
        """Hear what comes from now on. The I/O thread calls this before it looks."""
        if self._reader is not None:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)
        # Afterwards: a wake-up in between would be read, and stay noted for ever.
        self._woken = False


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
